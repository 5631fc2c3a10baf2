//! Messages come in: single calls.

use std::pin::Pin;

use qbroker_proto::raw::publisher_service_server::PublisherService;
use qbroker_proto::raw::{PublishRequest, PublishStreamRequest};
use qbroker_proto::v1::{PublishResponse, PublishResult, PublishStreamResponse, publish_result};
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

use super::convert::batch::{self, Intake, Malformed};
use super::convert::outgoing;
use super::fault::{Fault, flat};
use super::{Context, publish_stream};
use crate::queue::{MESSAGE_OVERHEAD_BYTES, NewMessage, Publish, Receipt, RefusedAt, Stop};

/// `PublisherService`.
#[derive(Clone, Debug)]
pub(super) struct Publisher {
    context: Context,
}

#[tonic::async_trait]
impl PublisherService for Publisher {
    type PublishStreamStream =
        Pin<Box<dyn Stream<Item = Result<PublishStreamResponse, Status>> + Send>>;

    async fn publish(
        &self,
        request: Request<PublishRequest>,
    ) -> Result<Response<PublishResponse>, Status> {
        let request = request.into_inner();
        self.context.check_running().map_err(|fault| fault.to_status())?;
        let results =
            if request.allow_partial { self.each(request).await } else { self.all(request).await };
        Ok(Response::new(PublishResponse { results: results? }))
    }

    async fn publish_stream(
        &self,
        request: Request<Streaming<PublishStreamRequest>>,
    ) -> Result<Response<Self::PublishStreamStream>, Status> {
        let responses = publish_stream::serve(self.context.clone(), request.into_inner());
        Ok(Response::new(Box::pin(responses)))
    }
}

impl Publisher {
    pub(super) fn new(context: Context) -> Self {
        Self { context }
    }

    /// All or nothing.
    async fn all(&self, request: PublishRequest) -> Result<Vec<PublishResult>, Status> {
        let Context { engine, limits, hasher, .. } = &self.context;
        let messages = Intake::new(*limits, *hasher)
            .take(request)
            .map_err(|Malformed { index, fault, .. }| fault.to_status_at(index))?;
        let permit = engine.reserve(bytes(&messages)).await;
        let publish = Publish { messages };
        let receipts =
            engine.call_with(permit, |core, now, out| core.publish_whole(&publish, now, out));
        let receipts =
            flat(receipts.await).map_err(|fault| fault.to_status())?.map_err(to_status)?;
        let results = publish.messages.iter().zip(receipts);
        Ok(results.map(|(message, receipt)| stored(message, receipt)).collect())
    }

    /// Each message by itself.
    async fn each(&self, request: PublishRequest) -> Result<Vec<PublishResult>, Status> {
        let Context { engine, limits, hasher, .. } = &self.context;
        let queue = request.queue.clone();
        let one = |message| PublishRequest {
            queue: queue.clone(),
            messages: vec![message],
            allow_partial: true,
        };
        batch::check_batch(&request, *limits).map_err(|fault| fault.to_status())?;
        let mut intake = Intake::new(*limits, *hasher);
        let publishes: Vec<Result<Publish, Fault>> = request
            .messages
            .into_iter()
            .map(|message| intake.take(one(message)))
            .map(|messages| {
                messages.map(|messages| Publish { messages }).map_err(|malformed| malformed.fault)
            })
            .collect();
        let size = publishes.iter().flatten().map(|publish| bytes(&publish.messages)).sum();
        let permit = engine.reserve(size).await;
        // Outside of the command: it is given again where a page is missing, and goes on from there.
        let mut results: Vec<Result<Receipt, Fault>> = Vec::with_capacity(publishes.len());
        let told = engine.call_with(permit, |core, now, out| {
            while let Some(publish) = publishes.get(results.len()) {
                results.push(match publish {
                    Err(fault) => Err(fault.clone()),
                    Ok(publish) => match core.publish(publish, now, out) {
                        Ok(receipts) => Ok(receipts[0]),
                        Err(Stop::Refused(refused)) => Err(Fault::Refused(refused)),
                        Err(missing @ Stop::Missing(_)) => return Err(missing),
                    },
                });
            }
            Ok(())
        });
        flat(told.await).map_err(|fault| fault.to_status())?;
        Ok(publishes.into_iter().zip(results).map(outcome).collect())
    }
}

/// Names the message that caused a refusal, where one did.
fn to_status(RefusedAt { index, refused }: RefusedAt) -> Status {
    let fault = Fault::from(refused);
    index.map_or_else(|| fault.to_status(), |index| fault.to_status_at(index))
}

/// What the log gets of these messages.
pub(super) fn bytes(messages: &[NewMessage]) -> usize {
    messages.iter().map(|message| message.body.len() + MESSAGE_OVERHEAD_BYTES).sum()
}

fn stored(message: &NewMessage, receipt: Receipt) -> PublishResult {
    let receipt = outgoing::receipt(&message.message_id, receipt);
    PublishResult { outcome: Some(publish_result::Outcome::Receipt(receipt)) }
}

fn outcome((publish, result): (Result<Publish, Fault>, Result<Receipt, Fault>)) -> PublishResult {
    match (publish, result) {
        (Ok(publish), Ok(receipt)) => stored(&publish.messages[0], receipt),
        (Err(fault), _) | (_, Err(fault)) => {
            PublishResult { outcome: Some(publish_result::Outcome::Error(fault.to_item())) }
        }
    }
}

#[cfg(test)]
mod tests;
