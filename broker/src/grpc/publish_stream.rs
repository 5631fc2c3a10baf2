//! Messages come in: numbered batches on a stream, confirmed a group commit at a time.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use futures_util::{FutureExt as _, stream};
use qbroker_proto::raw::{PublishStreamRequest, publish_stream_request};
use qbroker_proto::v1::{
    PublishOpen, PublishOpened, PublishStreamResponse, publish_stream_response,
};
use tokio_stream::Stream;
use tonic::{Status, Streaming};

use super::Context;
use super::convert::batch::{Intake, Malformed};
use super::convert::{bounds, outgoing};
use super::fault::Fault;
use super::publish::bytes;
use super::unanswered::{Answering, Unanswered};
use crate::engine::{Core, Outbox, PublishEvent};
use crate::queue::record::BatchRefused;
use crate::queue::refused::Refused;
use crate::queue::time::Now;
use crate::queue::{
    self, BatchOutcome, OnStream, OpenProducer, Output, Publish, RefusedAt, StreamId,
};

/// Batches that share a turn at most, so that nobody else waits long for the lock.
const GROUP_BATCHES: usize = 128;
/// Bytes after which a turn takes no further batch.
const GROUP_BYTES: usize = 1 << 20;

/// Serves one stream: a task takes batches, the returned stream tells what became of them.
pub(super) fn serve(
    context: Context,
    inbound: Streaming<PublishStreamRequest>,
) -> impl Stream<Item = Result<PublishStreamResponse, Status>> + Send {
    let (id, outbox) = context.engine.open_publisher();
    let end = Arc::new(OnceLock::new());
    let (unanswered, answering) =
        Unanswered::new(bounds::UNCONFIRMED_BATCHES_MAX.cast_unsigned() as usize);
    let intake = Intake::of_stream(context.limits, context.hasher);
    let reader = Reader {
        context,
        intake,
        id,
        outbox: outbox.clone(),
        unanswered,
        producer: None,
        producer_name: String::new(),
        last_batch: 0,
    };
    tokio::spawn(reader.run(inbound, end.clone()));
    let waiting = VecDeque::new();
    let writer = Writer { outbox, end, waiting, _answering: answering, ended: false };
    stream::unfold(writer, |mut writer| async {
        let response = writer.next().await?;
        Some((response, writer))
    })
}

/// Takes a stream's requests, in order.
struct Reader {
    context: Context,
    intake: Intake,
    id: StreamId,
    outbox: Arc<Outbox<PublishEvent>>,
    unanswered: Unanswered,
    /// The producer's epoch, where the stream has one.
    producer: Option<u64>,
    producer_name: String,
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
        let Some(first) = read(inbound.message().await)? else { return Ok(()) };
        match first.kind {
            Some(publish_stream_request::Kind::Open(open)) => self.open(open)?,
            _ => return Err(out_of_turn("the first message of the stream must be open")),
        }
        loop {
            let request = tokio::select! {
                request = inbound.message() => request,
                _ = self.context.stopping() => return Err(Fault::ShuttingDown),
            };
            let Some(request) = read(request)? else { return Ok(()) };
            let (group, last) = self.gather(request, inbound);
            self.publish(&group).await?;
            if let Some(last) = last {
                return last;
            }
        }
    }

    /// A request and those that have arrived behind it: they share a turn and its cost. Where the
    /// stream ends with them, says how.
    fn gather(
        &mut self,
        first: PublishStreamRequest,
        inbound: &mut Streaming<PublishStreamRequest>,
    ) -> (Vec<Taken>, Option<Result<(), Fault>>) {
        let mut group = Vec::new();
        let mut bytes = 0;
        let mut next = Ok(Some(first));
        loop {
            match next.and_then(|next| next.map(|request| self.take(request)).transpose()) {
                Ok(None) => return (group, Some(Ok(()))),
                Err(fault) => return (group, Some(Err(fault))),
                Ok(Some(taken)) => {
                    bytes += taken.bytes;
                    group.push(taken);
                }
            }
            if GROUP_BYTES <= bytes || GROUP_BATCHES <= group.len() {
                return (group, None);
            }
            match inbound.message().now_or_never() {
                None => return (group, None),
                Some(arrived) => next = read(arrived),
            }
        }
    }

    /// Checks the form of a batch. Where only its messages are malformed, it is taken all the same:
    /// it uses its number up like any other refusal.
    fn take(&mut self, request: PublishStreamRequest) -> Result<Taken, Fault> {
        let out_of_turn = |why| Fault::invalid("kind", why);
        let batch = match request.kind {
            Some(publish_stream_request::Kind::Batch(batch)) => batch,
            Some(publish_stream_request::Kind::Open(_)) => {
                return Err(out_of_turn("the stream is open already"));
            }
            None => return Err(out_of_turn("a batch is needed")),
        };
        let number = u64::try_from(batch.batch_id)
            .ok()
            .filter(|number| *number != 0)
            .ok_or_else(|| Fault::invalid("batch_id", "it begins at 1"))?;
        // Nobody knows the outcome of a batch that is only on its way.
        let confirmed_through = u64::try_from(batch.confirmed_through_batch_id)
            .ok()
            .filter(|confirmed_through| *confirmed_through < number)
            .ok_or_else(|| {
                let problem = format!("it is not within 0 to {}", number - 1);
                Fault::invalid("confirmed_through_batch_id", problem)
            })?;
        let request = batch.request.unwrap_or_default();
        if request.allow_partial {
            return Err(Fault::invalid("allow_partial", "a batch of a stream is all or nothing"));
        }
        if self.producer.is_none() {
            self.follow(number)?;
        }
        let producer = self.producer.unwrap_or_default();
        let (content, bytes) = match self.intake.take(request) {
            Ok(messages) => {
                let bytes = bytes(&messages);
                (Ok(Publish { messages }), bytes)
            }
            // What is refused was read all the same.
            Err(Malformed { index, fault, bytes }) => {
                let refused = fault.into_refused();
                (Err(BatchRefused::new(producer, number, index, &refused)), bytes)
            }
        };
        let on = OnStream { producer, stream: self.id, batch: number, confirmed_through };
        Ok(Taken { on, content, bytes })
    }

    fn open(&mut self, open: PublishOpen) -> Result<(), Fault> {
        bounds::id("producer_id", &open.producer_id)?;
        let number = |field, number: i64| {
            u64::try_from(number).map_err(|_| Fault::invalid(field, "it must not be negative"))
        };
        let confirmed_through =
            number("confirmed_through_batch_id", open.confirmed_through_batch_id)?;
        let epoch = number("epoch", open.epoch)?;
        if epoch == 0 && confirmed_through != 0 {
            let why = "a new producer has no outcomes; epoch is needed";
            return Err(Fault::invalid("confirmed_through_batch_id", why));
        }
        if epoch != 0 && open.producer_id.is_empty() {
            return Err(Fault::invalid("epoch", "nothing is remembered without producer_id"));
        }
        let open =
            OpenProducer { epoch, name: open.producer_id, confirmed_through, stream: self.id };
        if open.name.is_empty() {
            let (lsn, ()) = self.context.engine.look(|_| ());
            let opened = queue::ProducerOpened { epoch: 0, through: 0, missed: Vec::new() };
            self.outbox.push(lsn, PublishEvent::Opened(opened));
            return Ok(());
        }
        let engine = &self.context.engine;
        let (lsn, opened) = engine.turn(|core, now, out| core.open_producer(&open, now, out))?;
        let opened = opened?;
        (self.producer, self.producer_name) = (Some(opened.epoch), open.name);
        self.outbox.push(lsn, PublishEvent::Opened(opened));
        Ok(())
    }

    /// Stores batches, in order, in one turn. A refusal here ends the stream.
    async fn publish(&self, group: &[Taken]) -> Result<(), Fault> {
        if group.is_empty() {
            return Ok(());
        }
        let engine = &self.context.engine;
        let unanswered = tokio::select! {
            unanswered = self.unanswered.admit(group.len()) => unanswered?,
            // Whoever does not read his answers must not keep the broker from stopping.
            () = self.context.closing.cancelled() => return Err(Fault::ShuttingDown),
        };
        let permit = engine.reserve(group.iter().map(|taken| taken.bytes).sum()).await;
        let has_producer = self.producer.is_some();
        // Outside of the command: it is given again where a page is missing, and goes on from there.
        let mut outcomes = Vec::with_capacity(group.len());
        let (lsn, done) = engine.turn(|core, now, out| {
            while let Some(taken) = group.get(outcomes.len()) {
                outcomes.push(taken.store(has_producer, core, now, out)?);
            }
            Ok(())
        })?;
        engine.release_when_durable(lsn, permit);
        if !outcomes.is_empty() {
            self.outbox.push(lsn, PublishEvent::Outcomes(outcomes, unanswered));
        }
        done.map_err(|refused| match refused {
            // The core has forgotten the name with it.
            Refused::ProducerUnknown(_) => Refused::ProducerUnknown(self.producer_name.clone()),
            refused => refused,
        })?;
        Ok(())
    }

    /// Counts the batches of a stream without a producer.
    fn follow(&mut self, batch: u64) -> Result<(), Fault> {
        let expected = self.last_batch + 1;
        if batch != expected {
            let refused = Refused::BatchOutOfOrder { expected, got: batch };
            return Err(refused.into());
        }
        self.last_batch = batch;
        Ok(())
    }
}

/// A batch whose form is known.
struct Taken {
    on: OnStream,
    content: Result<Publish, BatchRefused>,
    /// What it counts for while it is on its way.
    bytes: usize,
}

impl Taken {
    fn store(
        &self,
        has_producer: bool,
        core: &mut Core,
        now: Now,
        out: &mut Output,
    ) -> queue::Turn<BatchOutcome> {
        match &self.content {
            Err(refused) if has_producer => core.refuse_batch(self.on, refused.clone()),
            Err(refused) => Ok(BatchOutcome::refused(refused.clone())),
            Ok(publish) if has_producer => core.publish_batch(publish, self.on, now, out),
            Ok(publish) => Ok(match core.publish_whole(publish, now, out)? {
                Ok(receipts) => BatchOutcome::stored(self.on.batch, &receipts),
                Err(RefusedAt { index, refused }) => {
                    let index = index.unwrap_or_default();
                    BatchOutcome::refused(BatchRefused::new(0, self.on.batch, index, &refused))
                }
            }),
        }
    }
}

/// Tells a stream what became of its batches.
struct Writer {
    outbox: Arc<Outbox<PublishEvent>>,
    end: End,
    waiting: VecDeque<PublishEvent>,
    _answering: Answering,
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
            Some(PublishEvent::Outcomes(..)) => unreachable!("outcomes were confirmed just now"),
        }
    }

    /// One answer for all outcomes that are there.
    fn confirm(&mut self) -> Option<qbroker_proto::v1::BatchesConfirmed> {
        let is_outcome = |event: &PublishEvent| matches!(event, PublishEvent::Outcomes(..));
        let count = self.waiting.iter().position(|event| !is_outcome(event));
        let events = self.waiting.drain(..count.unwrap_or(self.waiting.len()));
        let outcomes: Vec<_> = events
            .flat_map(|event| match event {
                PublishEvent::Outcomes(outcomes, _) => outcomes,
                _ => Vec::new(),
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

/// A request, or the end of the stream. Where the connection broke, nobody is there to read why.
fn read(
    arrived: Result<Option<PublishStreamRequest>, Status>,
) -> Result<Option<PublishStreamRequest>, Fault> {
    arrived.map_err(|status| Fault::unreadable(&status))
}

fn response(kind: publish_stream_response::Kind) -> PublishStreamResponse {
    PublishStreamResponse { kind: Some(kind) }
}

fn publish_opened(opened: queue::ProducerOpened) -> PublishOpened {
    PublishOpened {
        epoch: i64::try_from(opened.epoch).unwrap_or(i64::MAX),
        missed: Some(outgoing::confirmed(opened.through, opened.missed)),
        max_unconfirmed_bytes: bounds::UNCONFIRMED_BYTES_MAX,
        max_unconfirmed_batches: bounds::UNCONFIRMED_BATCHES_MAX,
    }
}
