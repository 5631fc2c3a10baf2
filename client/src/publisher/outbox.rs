//! What a publisher has to send and what it waits for: the producer's side of the protocol.
//!
//! Knows no connection: requests are taken from it, answers are put into it.

use std::collections::VecDeque;
use std::sync::Arc;

use qbroker_proto::v1::publish_stream_response::Kind as Response;
use qbroker_proto::v1::{self, publish_stream_request::Kind};
use tokio::sync::Semaphore;
use tracing::warn;

use super::batch::{Batch, Numbered};
use super::receipt::Stored;
use crate::connection::random_id;
use crate::driver::{Machine, News, Next};
use crate::error::{Error, Reason};
use crate::group::Group;
use crate::message::OutgoingMessage;

type Request = v1::PublishStreamRequest;

/// Everything a publisher holds, in the order it goes out.
#[derive(Debug)]
pub(super) struct Outbox {
    queue: String,
    producer: Producer,
    /// Sent or about to be, by number, ascending; the first one is the oldest unanswered.
    unconfirmed: VecDeque<Numbered>,
    /// How many of `unconfirmed` went out on the present stream. Invariant: the first ones.
    sent: usize,
    /// What they cost, no less than their encoded bytes.
    sent_bytes: usize,
    /// Complete batches without a number.
    ready: VecDeque<Batch>,
    /// What single messages are gathered into.
    open: Option<Batch>,
    stream: Stream,
    /// Nothing more is accepted; once all is answered the stream is half-closed.
    closing: bool,
    /// Nobody waits for anything any more: the first broken stream is the end.
    abandoned: bool,
    failed: Option<Error>,
    /// Bytes that may still be offered; given back as batches are answered.
    budget: Arc<Semaphore>,
}

#[derive(Debug)]
struct Producer {
    id: String,
    /// 0 until the broker gave one.
    epoch: i64,
    next_batch_id: i64,
    /// Every batch up to this one is answered.
    confirmed_through: i64,
}

impl Producer {
    fn fresh() -> Self {
        Self { id: random_id(), epoch: 0, next_batch_id: 1, confirmed_through: 0 }
    }
}

/// How far the present stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stream {
    /// There is none.
    Down,
    /// `PublishOpen` has to be sent.
    Opening,
    /// `PublishOpened` has to come; no batch goes out before.
    AwaitingOpened,
    /// Batches go out within these bounds.
    Open { bytes_max: usize, batches_max: usize },
}

/// While this many batches are unanswered, single messages gather until they are worth a batch: few
/// large batches cost less than many small ones, and the next answer, which is at most one sync
/// away, sends what there is.
const BATCHES_BUSY: usize = 4;

/// What is around the messages of a batch on the wire: its number, its queue, lengths.
const FRAME_BYTES: usize = 256;

impl Outbox {
    pub(super) fn new(queue: String, budget: Arc<Semaphore>) -> Self {
        Self {
            queue,
            producer: Producer::fresh(),
            unconfirmed: VecDeque::new(),
            sent: 0,
            sent_bytes: 0,
            ready: VecDeque::new(),
            open: None,
            stream: Stream::Down,
            closing: false,
            abandoned: false,
            failed: None,
            budget,
        }
    }

    /// Takes one message in; its group and which member of it the message is.
    ///
    /// # Errors
    ///
    /// The publisher is closed or has failed.
    pub(super) fn offer(
        &mut self,
        message: OutgoingMessage,
        cost: usize,
    ) -> Result<(Arc<Group<Stored>>, usize), Error> {
        self.accepts()?;
        if !self.open.as_ref().is_none_or(|open| open.has_room_for(&message, cost)) {
            self.ready.extend(self.open.take());
        }
        let open = self.open.get_or_insert_with(Batch::gathered);
        let member = open.push(message, cost);
        Ok((Arc::clone(&open.group), member))
    }

    /// Takes a batch in, behind what was offered before.
    ///
    /// # Errors
    ///
    /// The publisher is closed or has failed.
    pub(super) fn offer_batch(
        &mut self,
        messages: Vec<OutgoingMessage>,
        cost: usize,
    ) -> Result<Arc<Group<Stored>>, Error> {
        self.accepts()?;
        self.ready.extend(self.open.take());
        let batch = Batch::whole(messages, cost);
        let group = Arc::clone(&batch.group);
        self.ready.push_back(batch);
        Ok(group)
    }

    /// Accepts nothing more.
    pub(super) fn close(&mut self) {
        self.closing = true;
    }

    /// The broker took the producer in and told what became of the unanswered batches.
    ///
    /// # Errors
    ///
    /// The answer does not fit what was sent.
    fn resume(&mut self, opened: v1::PublishOpened) -> Result<(), Error> {
        if self.producer.epoch != 0 && self.producer.epoch != opened.epoch {
            return Err(Error::Protocol(format!(
                "the producer was opened with epoch {} and answered with {}",
                self.producer.epoch, opened.epoch
            )));
        }
        self.producer.epoch = opened.epoch;
        self.answered(opened.missed.unwrap_or_default())?;
        self.stream = Stream::Open {
            bytes_max: opened.max_unconfirmed_bytes.try_into().unwrap_or(0),
            batches_max: opened.max_unconfirmed_batches.try_into().unwrap_or(0).max(1),
        };
        Ok(())
    }

    /// The broker answered every batch up to `through_batch_id`.
    ///
    /// # Errors
    ///
    /// The answer does not fit what was sent.
    fn answered(&mut self, answers: v1::BatchesConfirmed) -> Result<(), Error> {
        let count = self.count_answered(&answers)?;
        let mut refused = answers.refused.into_iter().peekable();
        let mut duplicates = answers.duplicates.into_iter().peekable();
        let mut again = Vec::new();
        for first_sequence in answers.first_sequences.into_iter().take(count) {
            let batch = self.take_first_unconfirmed();
            let mut freed = batch.cost;
            if let Some(refused) = refused.next_if(|refused| refused.batch_id == batch.id) {
                let rest = batch.refused(refused);
                freed -= rest.as_ref().map_or(0, |rest| rest.cost);
                again.extend(rest);
            } else {
                let found = duplicates.next_if(|duplicates| duplicates.batch_id == batch.id);
                batch.stored(first_sequence, found);
            }
            self.budget.add_permits(freed);
        }
        for batch in again.into_iter().rev() {
            self.ready.push_front(batch);
        }
        Ok(())
    }

    /// The broker does not know the producer any more: what is unanswered may or may not be stored,
    /// what was not sent goes on with a fresh producer.
    fn producer_forgotten(&mut self, error: &Error) {
        warn!(%error, batches = self.unconfirmed.len(), "unanswered batches may or may not be stored");
        for batch in std::mem::take(&mut self.unconfirmed) {
            self.budget.add_permits(batch.cost);
            batch.group.finish(Err(Error::OutcomeUnknown(error.to_string())));
        }
        self.producer = Producer::fresh();
    }

    fn accepts(&self) -> Result<(), Error> {
        match &self.failed {
            Some(error) => Err(error.closed()),
            None if self.closing => Err(Error::Closed("the publisher was closed".to_owned())),
            None => Ok(()),
        }
    }

    fn open_request(&self) -> Arc<Request> {
        let open = v1::PublishOpen {
            producer_id: self.producer.id.clone(),
            epoch: self.producer.epoch,
            confirmed_through_batch_id: self.producer.confirmed_through,
        };
        Arc::new(Request { kind: Some(Kind::Open(open)) })
    }

    /// The next batch of an open stream, which there is room for.
    fn next_batch(&mut self) -> Next<Request> {
        if self.sent == self.unconfirmed.len() {
            let batch = self.ready.pop_front().or_else(|| self.open.take());
            let Some(batch) = batch else { return Next::End };
            let numbered = self.number(batch);
            self.unconfirmed.push_back(numbered);
        }
        let next = &self.unconfirmed[self.sent];
        self.sent += 1;
        self.sent_bytes += next.cost + FRAME_BYTES;
        Next::Send(Arc::clone(&next.request))
    }

    /// Whether an open stream should send something now, within its bounds, or end.
    fn has_next(&self, bytes_max: usize, batches_max: usize) -> bool {
        if batches_max <= self.sent {
            return false;
        }
        let (next, urgent) = if let Some(unsent) = self.unconfirmed.get(self.sent) {
            (unsent.cost, true)
        } else if let Some(ready) = self.ready.front() {
            (ready.cost, true)
        } else if let Some(open) = &self.open {
            let urgent = self.closing || self.sent < BATCHES_BUSY || open.is_worth_sending();
            (open.cost, urgent)
        } else {
            return self.is_done();
        };
        // One batch may go out however large it is.
        urgent && (self.sent == 0 || self.sent_bytes + next + FRAME_BYTES <= bytes_max)
    }

    fn number(&mut self, batch: Batch) -> Numbered {
        let id = self.producer.next_batch_id;
        self.producer.next_batch_id += 1;
        batch.number(id, &self.queue, self.producer.confirmed_through)
    }

    /// How many batches `answers` answers, once it is known to fit.
    fn count_answered(&self, answers: &v1::BatchesConfirmed) -> Result<usize, Error> {
        let through = answers.through_batch_id;
        let count = usize::try_from(through - self.producer.confirmed_through).ok();
        match count {
            Some(count)
                if count <= self.unconfirmed.len() && answers.first_sequences.len() == count =>
            {
                Ok(count)
            }
            _ => Err(Error::Protocol(format!(
                "batches through {through} were answered with {} sequences while {} are unanswered \
                 after {}",
                answers.first_sequences.len(),
                self.unconfirmed.len(),
                self.producer.confirmed_through
            ))),
        }
    }

    fn take_first_unconfirmed(&mut self) -> Numbered {
        let batch = self.unconfirmed.pop_front().expect("as many as were counted");
        if self.sent != 0 {
            self.sent -= 1;
            self.sent_bytes -= batch.cost + FRAME_BYTES;
        }
        self.producer.confirmed_through = batch.id;
        batch
    }
}

impl Machine for Outbox {
    const PATH: &'static str = "/qbroker.v1.PublisherService/PublishStream";
    type Request = Request;
    type Response = v1::PublishStreamResponse;

    fn begin_stream(&mut self) {
        self.stream = Stream::Opening;
        self.sent = 0;
        self.sent_bytes = 0;
    }

    fn next(&mut self) -> Next<Request> {
        match self.stream {
            Stream::Down => Next::End,
            Stream::Opening => {
                self.stream = Stream::AwaitingOpened;
                Next::Send(self.open_request())
            }
            Stream::AwaitingOpened => Next::Wait,
            Stream::Open { .. } if self.is_ready() => self.next_batch(),
            Stream::Open { .. } => Next::Wait,
        }
    }

    fn is_ready(&self) -> bool {
        match self.stream {
            Stream::Down | Stream::Opening => true,
            Stream::AwaitingOpened => false,
            Stream::Open { bytes_max, batches_max } => self.has_next(bytes_max, batches_max),
        }
    }

    fn opened(&mut self, response: v1::PublishStreamResponse) -> Result<(), Error> {
        match response.kind {
            Some(Response::Opened(opened)) => self.resume(opened),
            Some(Response::Confirmed(_)) | None => {
                Err(Error::Protocol("something else came before PublishOpened".to_owned()))
            }
        }
    }

    fn take(&mut self, response: v1::PublishStreamResponse) -> Result<News, Error> {
        match response.kind {
            Some(Response::Confirmed(answers)) => self.answered(answers)?,
            Some(Response::Opened(_)) => {
                return Err(Error::Protocol("PublishOpened came a second time".to_owned()));
            }
            // Something of a newer broker.
            None => {}
        }
        Ok(News::Answers)
    }

    fn end_stream(&mut self) {
        self.stream = Stream::Down;
    }

    fn is_done(&self) -> bool {
        self.closing && self.unconfirmed.is_empty() && self.ready.is_empty() && self.open.is_none()
    }

    fn recover(&mut self, error: &Error) -> bool {
        let is_forgotten = error.reason() == Some(&Reason::ProducerUnknown);
        if is_forgotten {
            self.producer_forgotten(error);
        }
        (is_forgotten || error.is_retryable()) && !self.abandoned
    }

    fn abandon(&mut self) {
        self.abandoned = true;
        self.close();
    }

    fn fail(&mut self, error: &Error) {
        self.failed.get_or_insert_with(|| error.clone());
        self.end_stream();
        for batch in std::mem::take(&mut self.unconfirmed) {
            self.budget.add_permits(batch.cost);
            batch.group.finish(Err(error.unanswered()));
        }
        for batch in std::mem::take(&mut self.ready).into_iter().chain(self.open.take()) {
            self.budget.add_permits(batch.cost);
            batch.group.finish(Err(error.clone()));
        }
    }

    fn failure(&self) -> Option<&Error> {
        self.failed.as_ref()
    }
}
