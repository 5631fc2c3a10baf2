//! Messages go out: single calls to pull, settle and extend.

use std::pin::Pin;

use bytes::{Bytes, BytesMut};
use qbroker_proto::raw::consumer_service_server::ConsumerService;
use qbroker_proto::raw::{
    ConsumeRequest, ConsumeResponse, DeliveryBatch, PullResponse, SettleRequest,
};
use qbroker_proto::v1::{
    ExtendLeasesRequest, ExtendLeasesResponse, PullRequest, SettleFailure, SettleResponse,
};
use tokio::sync::oneshot;
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};
use tracing::error;

use super::convert::time::{to_duration, to_timestamp};
use super::convert::token::Seal;
use super::convert::{client, delivery, incoming};
use super::fault::{Fault, flat, settle_failure};
use super::records::{self, Parts};
use super::{Context, consume, settle};
use crate::engine::{Engine, PullAnswer};
use crate::queue::ids::{ConsumerId, LeaseToken};
use crate::queue::refused::Refused;
use crate::queue::{Delivery, Pull, PullId};

/// `ConsumerService`.
#[derive(Clone, Debug)]
pub(super) struct Consumer {
    context: Context,
}

#[tonic::async_trait]
impl ConsumerService for Consumer {
    type ConsumeStream = Pin<Box<dyn Stream<Item = Result<ConsumeResponse, Status>> + Send>>;

    async fn consume(
        &self,
        request: Request<Streaming<ConsumeRequest>>,
    ) -> Result<Response<Self::ConsumeStream>, Status> {
        let caller = client::caller(&request);
        let responses = consume::serve(self.context.clone(), caller, request.into_inner()).await;
        let responses = responses.map_err(|fault| fault.to_status())?;
        Ok(Response::new(Box::pin(responses)))
    }

    async fn pull(&self, request: Request<PullRequest>) -> Result<Response<PullResponse>, Status> {
        let batch = self.pull_batch(request.into_inner()).await;
        let batch = batch.map_err(|fault| fault.to_status())?;
        Ok(Response::new(PullResponse { batch: Some(batch) }))
    }

    async fn settle(
        &self,
        request: Request<SettleRequest>,
    ) -> Result<Response<SettleResponse>, Status> {
        let request = request.into_inner();
        let call_id = request.call_id;
        let failures = self.settle_all(request).await.map_err(|fault| fault.to_status())?;
        Ok(Response::new(SettleResponse { call_id, failures }))
    }

    async fn extend_leases(
        &self,
        request: Request<ExtendLeasesRequest>,
    ) -> Result<Response<ExtendLeasesResponse>, Status> {
        let request = request.into_inner();
        let call_id = request.call_id;
        let understood =
            incoming::extend(request, self.context.seal).map_err(|fault| fault.to_status())?;
        let extend = understood.command;
        let failures =
            self.context.engine.call(|core, now, out| core.extend(&extend, now, out)).await;
        let failures = flat(failures).map_err(|fault| fault.to_status())?;
        let failures = to_failures(failures, understood.invalid, self.context.seal);
        let lease_duration = extend.duration_ms.map(to_duration);
        Ok(Response::new(ExtendLeasesResponse { call_id, lease_duration, failures }))
    }
}

/// Everything of a call that failed.
pub(super) fn to_failures(
    refused: Vec<(LeaseToken, Refused)>,
    invalid: Vec<Bytes>,
    seal: Seal,
) -> Vec<SettleFailure> {
    let refused = refused.into_iter().map(|(token, refused)| {
        settle_failure(Bytes::copy_from_slice(&seal.close(token)), &refused.into())
    });
    let invalid =
        invalid.into_iter().map(|token| settle_failure(token.clone(), &Fault::TokenInvalid(token)));
    refused.chain(invalid).collect()
}

impl Consumer {
    pub(super) fn new(context: Context) -> Self {
        Self { context }
    }

    async fn settle_all(&self, request: SettleRequest) -> Result<Vec<SettleFailure>, Fault> {
        let request = SettleRequest { answered_through_call_id: 0, ..request };
        let settled = settle::settle(&self.context, request, ConsumerId::NONE).await?;
        self.context.engine.durable(settled.lsn).await?;
        Ok(to_failures(settled.failures, settled.invalid, self.context.seal))
    }

    async fn pull_batch(&self, request: PullRequest) -> Result<DeliveryBatch, Fault> {
        self.context.check_running()?;
        let (pull, wait) = incoming::pull(request)?;
        let until = tokio::time::Instant::now() + wait;
        loop {
            let granted = self.take(&pull, until).await?;
            let batch = to_batch(&self.context, &granted.deliveries).await?;
            self.context.engine.let_go(&granted.deliveries);
            let nothing_is_left = batch.deliveries.is_empty() && !granted.deliveries.is_empty();
            granted.hand_over();
            // What could not be read must not look like the queue's end.
            if !nothing_is_left {
                return Ok(batch);
            }
        }
    }

    /// Leases what there is, or what comes until then; empty where nothing came.
    async fn take(&self, pull: &Pull, until: tokio::time::Instant) -> Result<Granted<'_>, Fault> {
        let engine = &*self.context.engine;
        let (lsn, answer) = engine.pull(pull)?;
        let (lsn, deliveries) = match answer? {
            PullAnswer::Now(deliveries) => (lsn, Granted::new(engine, deliveries)),
            PullAnswer::Waiting(id, answer) => {
                let mut waiting = Waiting { engine, id, answer: Some(answer) };
                let answer = waiting.answer.as_mut().expect("it waits");
                let answer = tokio::select! {
                    answer = tokio::time::timeout_at(until, answer) => answer,
                    _ = self.context.stopping() => return Err(Fault::ShuttingDown),
                };
                match answer {
                    Ok(Ok((lsn, deliveries))) => {
                        waiting.answer = None;
                        (lsn, Granted::new(engine, deliveries))
                    }
                    // The time is over, or the log has stopped.
                    _ => (lsn, Granted::new(engine, Vec::new())),
                }
            }
        };
        engine.durable(lsn).await?;
        Ok(deliveries)
    }
}

/// A pull that waits. Dropped with its call, whatever came for it is released.
struct Waiting<'a> {
    engine: &'a Engine,
    id: PullId,
    answer: Option<oneshot::Receiver<(qbroker_storage::Lsn, Vec<Delivery>)>>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(answer) = self.answer.take() {
            self.engine.cancel_pull(self.id, answer);
        }
    }
}

/// Deliveries on their way to a caller. Dropped before they were handed over, they are released.
struct Granted<'a> {
    engine: &'a Engine,
    deliveries: Vec<Delivery>,
}

impl<'a> Granted<'a> {
    fn new(engine: &'a Engine, deliveries: Vec<Delivery>) -> Self {
        Self { engine, deliveries }
    }

    fn hand_over(mut self) {
        self.deliveries.clear();
    }
}

impl Drop for Granted<'_> {
    fn drop(&mut self) {
        if !self.deliveries.is_empty() {
            self.engine.undeliver(&self.deliveries);
        }
    }
}

/// Deliveries with their messages. A message that was deleted meanwhile is left out: its lease has
/// ended too. One that cannot be read is parked, and told in the log, so that it is in nobody's way.
pub(super) async fn to_batch(
    context: &Context,
    deliveries: &[Delivery],
) -> Result<DeliveryBatch, Fault> {
    let engine = &context.engine;
    let parts: Vec<Parts> = deliveries
        .iter()
        .map(|delivery| Parts {
            birth: delivery.token.birth,
            content: delivery.content,
            last_failure: delivery.last_failure,
            dead_letter: delivery.dead_letter,
        })
        .collect();
    let lease_duration = deliveries.first().map(|delivery| to_duration(delivery.duration_ms));
    let time = Some(to_timestamp(engine.clock().now().wall_ms));
    let deliveries_read = Vec::with_capacity(parts.len());
    let mut batch = DeliveryBatch { deliveries: deliveries_read, lease_duration, time };
    let size = |delivery: &Delivery| delivery.size as usize + delivery::OVERHEAD_BYTES;
    let mut room = BytesMut::with_capacity(deliveries.iter().map(size).sum());
    let mut unreadable = Vec::new();
    for (delivery, stored) in deliveries.iter().zip(records::read(engine, &parts).await?) {
        let encoded = stored
            .and_then(|stored| delivery::delivery(delivery, &stored, context.seal, &mut room));
        match encoded {
            Ok(encoded) => batch.deliveries.push(encoded),
            Err(fault) => unreadable.push((delivery, fault)),
        }
    }
    if !unreadable.is_empty() {
        park(engine, &unreadable)?;
    }
    Ok(batch)
}

/// Takes what cannot be read out of delivery, where its lease still holds.
fn park(engine: &Engine, unreadable: &[(&Delivery, Fault)]) -> Result<(), Fault> {
    let tokens = || unreadable.iter().map(|(delivery, _)| delivery.token);
    let (_, parked) = engine.turn(|core, _, out| core.park_unreadable(tokens(), out))?;
    let parked = parked?;
    for (delivery, fault) in unreadable {
        let LeaseToken { birth: lsn, .. } = delivery.token;
        if parked.contains(&delivery.token) {
            let queue = &*delivery.queue;
            error!(queue, %lsn, problem = %fault, "a message is not delivered: it is parked");
        }
    }
    Ok(())
}
