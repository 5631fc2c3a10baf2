//! The inbox at work on a stream: what goes out next, and what becomes of what comes in.

use std::sync::Arc;

use qbroker_proto::raw::{self, consume_request::Kind, consume_response::Kind as Response};
use qbroker_proto::v1;
use tracing::{info, warn};

use super::{Closing, Draining, Inbox, Request, Stream, Subscription, request};
use crate::driver::{Machine, News, Next};
use crate::error::{Error, Reason};

/// Leases that one report of beginnings names; the broker takes no more.
const STARTED_MAX: usize = 10_000;

impl Inbox {
    fn open_request(&self) -> Arc<Request> {
        let mut open = self.open.clone();
        // Before it knows its name, nothing may come: were the answer lost, it could not say what it does
        // not have.
        if self.is_draining() || self.consumer_id.is_empty() {
            open.flow = Some(v1::FlowUpdate::default());
        }
        if !self.consumer_id.is_empty() {
            open.previous_consumer_id.clone_from(&self.consumer_id);
            open.held_lease_tokens = self.leases.held_tokens();
        }
        request(Kind::Open(open))
    }

    fn next_of_open(&mut self) -> Next<Request> {
        if let Some(control) = self.controls.pop_front() {
            return Next::Send(control);
        }
        if !self.started.is_empty() {
            let rest = self.started.split_off(self.started.len().min(STARTED_MAX));
            let lease_tokens = std::mem::replace(&mut self.started, rest);
            return Next::Send(request(Kind::Started(v1::Started { lease_tokens })));
        }
        match self.settlements.next() {
            Some(request) => Next::Send(request),
            None if self.is_done() => Next::End,
            None => {
                self.reports.line_up();
                Next::Wait
            }
        }
    }
}

impl Machine for Inbox {
    const PATH: &'static str = "/qbroker.v1.ConsumerService/Consume";
    type Request = Request;
    type Response = raw::ConsumeResponse;

    fn begin_stream(&mut self) {
        self.stream = Stream::Opening;
        self.settlements.restart();
        self.controls.clear();
        self.started = self.leases.started_tokens();
        self.controls.extend(self.extensions.values().map(|e| Arc::clone(&e.request)));
        self.controls.extend(self.subscriptions.iter().map(Subscription::request));
        // Each stream is drained anew: of one that is not, its end looks like a crash to the broker.
        if self.is_draining() {
            self.controls.push_back(request(Kind::Drain(v1::Drain {})));
        }
    }

    fn next(&mut self) -> Next<Request> {
        match self.stream {
            Stream::Down => Next::End,
            Stream::Opening => {
                self.stream = Stream::AwaitingOpened;
                Next::Send(self.open_request())
            }
            Stream::AwaitingOpened => Next::Wait,
            Stream::Open => self.next_of_open(),
        }
    }

    fn handed_on(&mut self) -> bool {
        self.reports.asked_again()
    }

    fn wants_asking(&self) -> bool {
        self.reports.are_lined_up()
    }

    fn is_ready(&self) -> bool {
        match self.stream {
            Stream::Down | Stream::Opening => true,
            Stream::AwaitingOpened => false,
            Stream::Open => {
                let is_waiting = !self.controls.is_empty() || !self.started.is_empty();
                is_waiting || self.settlements.is_ready() || self.is_done()
            }
        }
    }

    fn opened(&mut self, response: raw::ConsumeResponse) -> Result<(), Error> {
        match response.kind {
            Some(Response::Opened(opened)) => {
                self.resume(opened);
                Ok(())
            }
            _ => Err(Error::Protocol("something else came before ConsumeOpened".to_owned())),
        }
    }

    fn take(&mut self, response: raw::ConsumeResponse) -> Result<News, Error> {
        match response.kind {
            Some(Response::Deliveries(batch)) => {
                self.delivered(batch)?;
                return Ok(News::Arrivals);
            }
            Some(Response::Settled(answer)) => self.settled(answer)?,
            Some(Response::Extended(answer)) => self.extended(answer),
            Some(Response::Subscribed(answer)) => self.subscribed(answer)?,
            Some(Response::LeasesLost(lost)) => {
                self.leases.lose(&lost.lease_tokens, lost.reason());
                return Ok(News::State);
            }
            Some(Response::Drained(_)) => {
                self.drained();
                return Ok(News::State);
            }
            Some(Response::GoingAway(_)) => {
                info!("the broker is stopping; leases are kept until it is back");
            }
            Some(Response::Opened(_)) => {
                return Err(Error::Protocol("ConsumeOpened came a second time".to_owned()));
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
        let answered = self.settlements.is_empty();
        match self.closing {
            Closing::No => false,
            Closing::WhenSettled => answered && self.leases.is_empty(),
            // Without a stream nothing arrives any more: what never did is released by the broker.
            Closing::Now if self.stream == Stream::Down && self.leases.is_empty() => answered,
            Closing::Now => answered && self.draining == Draining::Done,
        }
    }

    fn recover(&mut self, error: &Error) -> bool {
        let is_another_log =
            error.reason() == Some(&Reason::TokenInvalid) && !self.consumer_id.is_empty();
        if is_another_log {
            warn!(%error, "the broker has another data folder: the leases are lost");
            self.leases.forget_log();
            self.consumer_id.clear();
        }
        (is_another_log || error.is_retryable()) && !(self.abandoned && self.leases.is_empty())
    }

    fn abandon(&mut self) {
        self.abandoned = true;
        self.close_when_settled();
    }

    fn fail(&mut self, error: &Error) {
        self.failed.get_or_insert_with(|| error.clone());
        self.end_stream();
        for buffered in self.leases.take(usize::MAX) {
            self.leases.forget(buffered.key);
        }
        self.trials.end_all(&error.unanswered());
        for call in self.settlements.take_all() {
            call.keys.iter().for_each(|key| self.leases.forget(*key));
            call.fail(&error.unanswered());
        }
        for (_, extension) in std::mem::take(&mut self.extensions) {
            extension.answer.send(Err(error.unanswered())).ok();
        }
        for subscription in std::mem::take(&mut self.subscriptions) {
            subscription.answer.send(Err(error.clone())).ok();
        }
    }

    fn failure(&self) -> Option<&Error> {
        self.failed.as_ref()
    }
}
