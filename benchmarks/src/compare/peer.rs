//! A broker that takes part: what it must offer, and what is told of it.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;

use super::backlog::{self, Backlog};
use super::turn::{self, Turn};
use crate::row::Row;
use crate::system::{Fallible, System};
use crate::workload::{Load, Run};

/// A broker that this program starts, stops, and starts again.
pub(crate) trait Peer: System + Sized {
    /// Its programs and settings.
    type Setup: Send + Sync + 'static;

    /// How old a queue must be to come back after a crash, whatever was confirmed. A backlog that
    /// stands is the subject.
    const SETTLES_WITHIN: Duration = Duration::ZERO;

    /// Starts the server on `folder`, or again on what it left there, and connects.
    fn start(setup: &Self::Setup, folder: &Path) -> impl Future<Output = Fallible<Self>> + Send;
}

/// Who takes part, in the order of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Name {
    /// What the machine does without a broker
    Floor,
    Qbroker,
    /// RabbitMQ, quorum queue
    RabbitmqQuorum,
    /// RabbitMQ, classic durable queue
    RabbitmqClassic,
    /// Redis Streams, appendfsync always
    RedisAlways,
    /// Redis Streams, appendfsync everysec
    RedisEverysec,
    /// NATS JetStream with its defaults
    NatsDefault,
    /// NATS JetStream, sync_interval always
    NatsAlways,
    /// beanstalkd -f 0
    Beanstalkd,
    /// PostgreSQL, a table read with SKIP LOCKED
    Postgresql,
}

/// What is told of a participant.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct About {
    pub(crate) name: Name,
    pub(crate) title: &'static str,
    /// What the program says of itself.
    pub(crate) version: String,
    pub(crate) confirm: Confirm,
    /// How it is run, where that is not its default, and how its client is used.
    pub(crate) settings: String,
}

/// What has happened when a publish is confirmed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Confirm {
    /// Whether every confirmed message is on disk: after a power cut it is still there.
    pub(crate) synced: bool,
    pub(crate) means: &'static str,
}

/// Takes part if it can.
pub(crate) enum Found {
    Ready(Box<dyn Contender>),
    Missing(Missing),
}

/// Does not take part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Missing {
    pub(crate) name: Name,
    pub(crate) reason: String,
    /// The system's package that would change that.
    pub(crate) package: Option<&'static str>,
}

/// What a row gave, and with how much in flight.
pub(crate) type RowRuns = Vec<(Row, Run)>;

type Boxed<'a, T> = std::pin::Pin<Box<dyn Future<Output = Fallible<T>> + Send + 'a>>;

/// A participant of whichever type.
pub(crate) trait Contender: Send {
    fn about(&self) -> &About;

    /// Messages in flight in `row`, once that is known.
    fn in_flight(&self, row: Row) -> u32;

    /// Starts it on an empty folder, runs every row once and ends it.
    fn turn<'a>(
        &'a mut self,
        rows: &'a [Row],
        load: &'a Load,
        folder: &'a Path,
    ) -> Boxed<'a, RowRuns>;

    /// Fills a queue, kills the server and starts it again. `None` of who keeps no messages.
    fn backlog<'a>(
        &'a self,
        messages: u64,
        load: &'a Load,
        folder: &'a Path,
    ) -> Boxed<'a, Option<Backlog>>;
}

/// A participant and how it is run.
pub(crate) struct Entry<P: Peer> {
    pub(crate) about: About,
    pub(crate) setup: P::Setup,
    turn: Turn,
}

impl<P: Peer> Entry<P> {
    /// A broker whose best window is found first.
    pub(crate) fn ready(about: About, setup: P::Setup) -> Found {
        Found::Ready(Box::new(Self { about, setup, turn: Turn::to_be_fitted() }))
    }

    /// One that runs with the windows of the rows.
    pub(crate) fn as_the_rows_say(about: About, setup: P::Setup) -> Found {
        Found::Ready(Box::new(Self { about, setup, turn: Turn::as_the_rows_say() }))
    }

    async fn start(&self, folder: &Path) -> Fallible<Arc<P>> {
        let peer = P::start(&self.setup, folder).await;
        Ok(Arc::new(peer.with_context(|| format!("{} does not start", self.about.title))?))
    }
}

impl<P: Peer> Contender for Entry<P> {
    fn about(&self) -> &About {
        &self.about
    }

    fn in_flight(&self, row: Row) -> u32 {
        self.turn.in_flight(row)
    }

    fn turn<'a>(
        &'a mut self,
        rows: &'a [Row],
        load: &'a Load,
        folder: &'a Path,
    ) -> Boxed<'a, RowRuns> {
        Box::pin(async move {
            let peer = self.start(folder).await?;
            let _end = peer.server().end_on_drop();
            turn::run(&mut self.turn, &peer, rows, load).await
        })
    }

    fn backlog<'a>(
        &'a self,
        messages: u64,
        load: &'a Load,
        folder: &'a Path,
    ) -> Boxed<'a, Option<Backlog>> {
        Box::pin(async move {
            if self.about.name == Name::Floor {
                return Ok(None);
            }
            let in_flight = Some(self.in_flight(Row::PublishBatches));
            let load = Load { in_flight, ..load.clone() };
            let start = || self.start(folder);
            let backlog = backlog::measure(start, messages, load).await;
            Ok(Some(backlog.with_context(|| format!("{}: backlog", self.about.title))?))
        })
    }
}
