//! The protocol's services over the engine: form is checked here, everything else is decided below.

mod admin;
mod attempts;
mod auth;
mod browse;
mod consume;
mod consumers;
mod convert;
mod events;
mod explain;
mod fault;
mod features;
mod find;
mod leases;
mod listing;
mod messages;
mod operations;
mod publish;
mod publish_stream;
mod queue_list;
mod reading;
mod records;
mod schedules;
mod settle;
#[cfg(test)]
mod stage;
mod stats;
mod state;
mod trace;
mod unanswered;

use std::sync::Arc;
use std::time::{Duration, Instant};

use qbroker_proto::raw::consumer_service_server::ConsumerServiceServer;
use qbroker_proto::raw::publisher_service_server::PublisherServiceServer;
use qbroker_proto::v1::admin_service_server::AdminServiceServer;
use qbroker_proto::v1::schedule_service_server::ScheduleServiceServer;
use qbroker_proto::v1::state_service_server::StateServiceServer;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::service::interceptor::InterceptedService;
use tonic_health::pb::health_server::{Health, HealthServer};

pub(crate) use admin::figures;

use crate::auth::Authenticator;
use crate::config::Settings;
use crate::engine::Engine;
use crate::search::Search;
use convert::batch::{BatchLimits, IdHasher};
use convert::bounds::REQUEST_BYTES_MAX;
use convert::token::Seal;
use fault::Fault;
use queue_list::Lists;
use reading::Rooms;

/// What every service needs.
#[derive(Clone, Debug)]
pub struct Context {
    engine: Arc<Engine>,
    limits: BatchLimits,
    /// For large requests.
    rooms: Rooms,
    streams_max: u32,
    hasher: IdHasher,
    seal: Seal,
    stopping: watch::Receiver<Option<Stopping>>,
    closing: CancellationToken,
    /// Who watches what happens.
    watchers: Arc<Semaphore>,
    /// Lists of queues that somebody is paging through.
    lists: Arc<Lists>,
    search: Option<Search>,
}

/// The broker stops: streams are told, and nothing new is taken.
#[derive(Clone, Copy, Debug)]
pub struct Stopping {
    /// When streams are closed.
    pub deadline: Instant,
}

impl Context {
    /// `stopping` is set once the broker stops; at `closing` streams are ended.
    pub fn new(
        engine: Arc<Engine>,
        settings: &Settings,
        stopping: watch::Receiver<Option<Stopping>>,
        closing: CancellationToken,
    ) -> Self {
        let limits = BatchLimits {
            messages_max: settings.batch_messages_max as usize,
            bytes_max: settings.batch_bytes_max,
        };
        let log_id = engine.log().log_id();
        let (hasher, seal) = (IdHasher { key: log_id }, Seal::new(log_id));
        let streams_max = settings.streams_max;
        let watchers = Arc::new(Semaphore::new(events::WATCHERS_MAX));
        Self {
            engine,
            limits,
            rooms: Rooms::new(settings.pending_bytes_max),
            streams_max,
            hasher,
            seal,
            stopping,
            closing,
            watchers,
            lists: Arc::default(),
            search: None,
        }
    }

    /// With a search index, if the broker keeps one.
    #[must_use]
    pub fn with_search(self, search: Option<Search>) -> Self {
        Self { search, ..self }
    }

    /// Refuses new work while the broker stops.
    fn check_running(&self) -> Result<(), Fault> {
        if self.stopping.borrow().is_some() { Err(Fault::ShuttingDown) } else { Ok(()) }
    }

    /// Resolves once the broker stops, with what is left until streams are closed.
    async fn stopping(&self) -> Duration {
        let mut stopping = self.stopping.clone();
        let stopping = stopping.wait_for(Option::is_some).await.map(|stopping| *stopping);
        match stopping {
            Ok(Some(stopping)) => stopping.deadline.saturating_duration_since(Instant::now()),
            _ => Duration::ZERO,
        }
    }
}

/// All services behind one check of who is calling; health stays open for probes.
pub fn routes(
    context: &Context,
    authenticator: &Authenticator,
    health: HealthServer<impl Health>,
) -> Result<Routes, tonic_reflection::server::Error> {
    let auth = auth::Interceptor::new(authenticator.clone());
    let publisher = PublisherServiceServer::new(publish::Publisher::new(context.clone()))
        .max_decoding_message_size(REQUEST_BYTES_MAX);
    let consumer = ConsumerServiceServer::new(leases::Consumer::new(context.clone()))
        .max_decoding_message_size(REQUEST_BYTES_MAX);
    let admin = AdminServiceServer::new(admin::Admin::new(context.clone()));
    let state = StateServiceServer::new(state::StateCalls::new(context.clone()))
        .max_decoding_message_size(REQUEST_BYTES_MAX);
    let schedules = ScheduleServiceServer::new(schedules::Schedules::new(context.clone()))
        .max_decoding_message_size(REQUEST_BYTES_MAX);
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(qbroker_proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?
        .max_decoding_message_size(reading::LARGE);
    let services = Routes::new(InterceptedService::new(publisher, auth.clone()))
        .add_service(InterceptedService::new(consumer, auth.clone()))
        .add_service(InterceptedService::new(admin, auth.clone()))
        .add_service(InterceptedService::new(state, auth.clone()))
        .add_service(InterceptedService::new(schedules, auth.clone()))
        .add_service(InterceptedService::new(reflection, auth))
        .add_service(health.max_decoding_message_size(reading::LARGE));
    let explain = axum::middleware::from_fn(explain::explain);
    let read = axum::middleware::from_fn_with_state(context.rooms.clone(), reading::read);
    Ok(services.into_axum_router().layer(read).layer(explain).into())
}
