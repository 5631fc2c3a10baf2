//! Messages come in: numbered batches on a stream, confirmed a group commit at a time.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use futures_util::stream;
use qbroker_proto::v1::{
    PublishBatch, PublishOpen, PublishOpened, PublishStreamRequest, PublishStreamResponse,
    publish_stream_request, publish_stream_response,
};
use tokio_stream::Stream;
use tonic::{Status, Streaming};

use super::Context;
use super::convert::{bounds, incoming, outgoing};
use super::fault::Fault;
use crate::engine::{Outbox, PublishEvent};
use crate::queue::record::BatchRefused;
use crate::queue::{BatchOutcome, OnStream, OpenProducer, Publish, StreamId};

/// Serves one stream: a task takes batches, the returned stream tells what became of them.
pub(super) fn serve(
    context: Context,
    inbound: Streaming<PublishStreamRequest>,
) -> impl Stream<Item = Result<PublishStreamResponse, Status>> + Send {
    let (id, outbox) = context.engine.open_publisher();
    let end = Arc::new(OnceLock::new());
    let reader = Reader { context, id, outbox: outbox.clone(), producer: None, last_batch: 0 };
    tokio::spawn(reader.run(inbound, end.clone()));
    let writer = Writer { outbox, end, waiting: VecDeque::new(), ended: false };
    stream::unfold(writer, |mut writer| async {
        let response = writer.next().await?;
        Some((response, writer))
    })
}

/// Takes a stream's requests, in order.
struct Reader {
    context: Context,
    id: StreamId,
    outbox: Arc<Outbox<PublishEvent>>,
    /// The producer's epoch, where the stream has one.
    producer: Option<u64>,
    /// Last batch of a stream without a producer, which nobody remembers.
    last_batch: u64,
}

/// How a stream ended, where it did not end well.
type End = Arc<OnceLock<Fault>>;

impl Reader {
    async fn run(mut self, mut inbound: Streaming<PublishStreamRequest>, end: End) {
        let fault = self.read(&mut inbound).await.err();
        self.context.engine.close_publisher(self.id, self.producer);
        if let Some(fault) = fault {
            end.set(fault).expect("the reader alone ends the stream, once");
        }
        // Everything taken before is told first.
        let (lsn, ()) = self.context.engine.look(|_| ());
        self.outbox.push(lsn, PublishEvent::End);
    }

    async fn read(&mut self, inbound: &mut Streaming<PublishStreamRequest>) -> Result<(), Fault> {
        let out_of_turn = |why| Fault::invalid("kind", why);
        self.context.check_running()?;
        // A connection that breaks has nobody to be told why.
        let Ok(Some(first)) = inbound.message().await else { return Ok(()) };
        match first.kind {
            Some(publish_stream_request::Kind::Open(open)) => self.open(open)?,
            _ => return Err(out_of_turn("the first message of the stream must be open")),
        }
        loop {
            let request = tokio::select! {
                request = inbound.message() => request,
                _ = self.context.stopping() => return Err(Fault::ShuttingDown),
            };
            let Ok(Some(request)) = request else { return Ok(()) };
            match request.kind {
                Some(publish_stream_request::Kind::Batch(batch)) => self.publish(batch).await?,
                Some(publish_stream_request::Kind::Open(_)) => {
                    return Err(out_of_turn("the stream is open already"));
                }
                None => return Err(out_of_turn("a batch is needed")),
            }
        }
    }

    fn open(&mut self, open: PublishOpen) -> Result<(), Fault> {
        bounds::id("producer_id", &open.producer_id)?;
        let number = |field, number: i64| {
            u64::try_from(number).map_err(|_| Fault::invalid(field, "it must not be negative"))
        };
        let confirmed_through =
            number("confirmed_through_batch_id", open.confirmed_through_batch_id)?;
        let open = OpenProducer {
            epoch: number("epoch", open.epoch)?,
            name: open.producer_id,
            confirmed_through,
            stream: self.id,
        };
        if open.name.is_empty() {
            let (lsn, ()) = self.context.engine.look(|_| ());
            let opened = crate::queue::ProducerOpened { epoch: 0, through: 0, missed: Vec::new() };
            self.outbox.push(lsn, PublishEvent::Opened(opened));
            return Ok(());
        }
        let engine = &self.context.engine;
        let (lsn, opened) = engine.turn(|core, now, out| core.open_producer(&open, now, out))?;
        let opened = opened?;
        self.producer = Some(opened.epoch);
        self.outbox.push(lsn, PublishEvent::Opened(opened));
        Ok(())
    }

    async fn publish(&mut self, batch: PublishBatch) -> Result<(), Fault> {
        let number = u64::try_from(batch.batch_id)
            .ok()
            .filter(|number| *number != 0)
            .ok_or_else(|| Fault::invalid("batch_id", "it begins at 1"))?;
        let confirmed_through = u64::try_from(batch.confirmed_through_batch_id).unwrap_or_default();
        let request = batch.request.unwrap_or_default();
        if request.allow_partial {
            return Err(Fault::invalid("allow_partial", "a batch of a stream is all or nothing"));
        }
        let Context { engine, limits, hasher, .. } = &self.context;
        let messages = incoming::messages(request, *limits, *hasher);
        let size = messages.iter().flatten().map(|message| message.body.len()).sum();
        let permit = engine.reserve(size).await;
        let (lsn, outcome) = match messages {
            // What is malformed uses its number up like any other refusal.
            Err((index, fault)) => self.refuse(number, confirmed_through, index, &fault)?,
            Ok(messages) => self.store(number, confirmed_through, Publish { messages })?,
        };
        self.outbox.push(lsn, PublishEvent::Outcome(outcome, permit));
        Ok(())
    }

    fn on_stream(&self, epoch: u64, batch: u64, confirmed_through: u64) -> OnStream {
        OnStream { producer: epoch, stream: self.id, batch, confirmed_through }
    }

    fn store(
        &mut self,
        batch: u64,
        confirmed_through: u64,
        publish: Publish,
    ) -> Result<(qbroker_storage::Lsn, BatchOutcome), Fault> {
        let engine = self.context.engine.clone();
        let Some(epoch) = self.producer else {
            self.follow(batch)?;
            let (lsn, receipts) = engine.turn(|core, now, out| core.publish(&publish, now, out))?;
            let outcome = match receipts {
                Ok(receipts) => BatchOutcome::stored(batch, &receipts),
                Err(refused) => BatchOutcome::refused(refusal(0, batch, 0, &refused.into())),
            };
            return Ok((lsn, outcome));
        };
        let on = self.on_stream(epoch, batch, confirmed_through);
        let (lsn, outcome) =
            engine.turn(|core, now, out| core.publish_batch(&publish, on, now, out))?;
        Ok((lsn, outcome?))
    }

    fn refuse(
        &mut self,
        batch: u64,
        confirmed_through: u64,
        index: usize,
        fault: &Fault,
    ) -> Result<(qbroker_storage::Lsn, BatchOutcome), Fault> {
        let refused = refusal(self.producer.unwrap_or_default(), batch, index, fault);
        let engine = self.context.engine.clone();
        let Some(epoch) = self.producer else {
            self.follow(batch)?;
            return Ok((engine.look(|_| ()).0, BatchOutcome::refused(refused)));
        };
        let on = self.on_stream(epoch, batch, confirmed_through);
        let (lsn, outcome) = engine.turn(|core, _, _| core.refuse_batch(on, refused.clone()))?;
        Ok((lsn, outcome?))
    }

    /// Counts the batches of a stream without a producer.
    fn follow(&mut self, batch: u64) -> Result<(), Fault> {
        let expected = self.last_batch + 1;
        if batch != expected {
            let refused = crate::queue::refused::Refused::BatchOutOfOrder { expected, got: batch };
            return Err(refused.into());
        }
        self.last_batch = batch;
        Ok(())
    }
}

fn refusal(producer: u64, batch: u64, index: usize, fault: &Fault) -> BatchRefused {
    let item = fault.to_item();
    BatchRefused {
        producer,
        batch,
        index: u32::try_from(index).unwrap_or(u32::MAX),
        reason: item.reason,
        message: item.message,
    }
}

/// Tells a stream what became of its batches.
struct Writer {
    outbox: Arc<Outbox<PublishEvent>>,
    end: End,
    waiting: VecDeque<PublishEvent>,
    ended: bool,
}

impl Writer {
    /// The next response; `None` ends the stream.
    async fn next(&mut self) -> Option<Result<PublishStreamResponse, Status>> {
        if self.ended {
            return None;
        }
        if self.waiting.is_empty() {
            match self.outbox.next().await {
                Ok(events) => self.waiting = events,
                Err(stopped) => return self.finish(Some(stopped.into())),
            }
        }
        let confirmed = self.confirm();
        if let Some(confirmed) = confirmed {
            return Some(Ok(response(publish_stream_response::Kind::Confirmed(confirmed))));
        }
        match self.waiting.pop_front() {
            Some(PublishEvent::Opened(opened)) => {
                let opened = publish_opened(opened);
                Some(Ok(response(publish_stream_response::Kind::Opened(opened))))
            }
            Some(PublishEvent::Refused(refused)) => self.finish(Some(refused.into())),
            Some(PublishEvent::End) | None => {
                let fault = self.end.get().cloned();
                self.finish(fault)
            }
            Some(PublishEvent::Outcome(..)) => unreachable!("outcomes were confirmed just now"),
        }
    }

    /// One answer for all outcomes that are there.
    fn confirm(&mut self) -> Option<qbroker_proto::v1::BatchesConfirmed> {
        let is_outcome = |event: &PublishEvent| matches!(event, PublishEvent::Outcome(..));
        let count = self.waiting.iter().position(|event| !is_outcome(event));
        let events = self.waiting.drain(..count.unwrap_or(self.waiting.len()));
        let outcomes: Vec<_> = events
            .filter_map(|event| match event {
                PublishEvent::Outcome(outcome, _) => Some(outcome),
                _ => None,
            })
            .collect();
        let through = outcomes.last()?.batch;
        Some(outgoing::confirmed(through, outcomes))
    }

    fn finish(&mut self, fault: Option<Fault>) -> Option<Result<PublishStreamResponse, Status>> {
        self.ended = true;
        fault.map(|fault| Err(fault.to_status()))
    }
}

fn response(kind: publish_stream_response::Kind) -> PublishStreamResponse {
    PublishStreamResponse { kind: Some(kind) }
}

fn publish_opened(opened: crate::queue::ProducerOpened) -> PublishOpened {
    PublishOpened {
        epoch: i64::try_from(opened.epoch).unwrap_or(i64::MAX),
        missed: Some(outgoing::confirmed(opened.through, opened.missed)),
        max_unconfirmed_bytes: bounds::UNCONFIRMED_BYTES_MAX,
        max_unconfirmed_batches: bounds::UNCONFIRMED_BATCHES_MAX,
    }
}
