//! Messages go out: one consumer's stream, its window, its settlements.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use futures_util::stream;
use prost::Message as _;
use qbroker_proto::raw::{
    ConsumeRequest, ConsumeResponse, SettleRequest, consume_request, consume_response,
};
use qbroker_proto::v1::{
    ConsumeOpened, Drained, ExtendLeasesRequest, ExtendLeasesResponse, GoingAway, LeaseLostReason,
    LeasesLost, SettleFailure, SettleResponse, Subscribed,
};
use tokio::sync::OwnedSemaphorePermit;
use tokio_stream::Stream;
use tonic::{Status, Streaming};

use super::Context;
use super::convert::time::to_duration;
use super::convert::token::Seal;
use super::convert::{bounds, client, incoming, selector};
use super::fault::Fault;
use super::leases::{to_batch, to_failures};
use super::settle;
use super::unanswered::{Answering, Unanswered};
use crate::engine::{About, ConsumerEvent, Core, Engine, Outbox};
use crate::queue::ids::{ConsumerId, LeaseToken};
use crate::queue::{Delivery, Lost, OpenConsumer, Opened};

/// Messages in one response, at most.
const BATCH_MESSAGES: usize = 256;
/// Bytes after which a response takes no further message.
const BATCH_BYTES: u64 = 256 << 10;
/// Bytes of requests that stand for one unit of what is unanswered; a small one takes one.
const UNANSWERED_UNIT: usize = 1 << 10;
/// What a stream may have unanswered: one request of the largest size.
const UNANSWERED_UNITS: usize = bounds::REQUEST_BYTES_MAX / UNANSWERED_UNIT;

/// Opens a consumer and serves its stream: a task takes requests, the returned stream answers.
pub(super) async fn serve(
    context: Context,
    caller: About,
    mut inbound: Streaming<ConsumeRequest>,
) -> Result<impl Stream<Item = Result<ConsumeResponse, Status>> + Send, Fault> {
    context.check_running()?;
    let out_of_turn = || Fault::invalid("kind", "the first message of the stream must be open");
    let first = inbound.message().await.map_err(|status| Fault::unreadable(&status))?;
    let first = first.and_then(|request| request.kind);
    let Some(consume_request::Kind::Open(mut open)) = first else { return Err(out_of_turn()) };
    let about = client::about(open.client.take(), caller, context.engine.clock().now().wall_ms)?;
    let open = incoming::open_consumer(open, context.seal, fresh_session)?;
    let (lsn, opened) = context.engine.open_consumer(&open, about)?;
    let (opened, outbox) = opened?;
    let id = opened.consumer;
    // Before anything is waited for: a call that is canceled here leaves no consumer behind.
    let connection = Arc::new(Connection { engine: context.engine.clone(), id });
    context.engine.durable(lsn).await?;
    let end = Arc::new(OnceLock::new());
    let (unanswered, answering) = Unanswered::new(UNANSWERED_UNITS);
    let reader = Reader {
        context: context.clone(),
        connection: connection.clone(),
        outbox: outbox.clone(),
        unanswered,
        reports_started: open.reports_started,
    };
    tokio::spawn(reader.run(inbound, end.clone()));
    let mut responses = VecDeque::new();
    responses.push_back(consume_opened(&open, opened, context.seal));
    let writer = Writer {
        context,
        outbox,
        end,
        responses,
        deliveries: VecDeque::new(),
        _connection: connection,
        _answering: answering,
        told_stopping: false,
        ended: false,
        fault: None,
    };
    Ok(stream::unfold(writer, |mut writer| async {
        let response = writer.next().await?;
        Some((response, writer))
    }))
}

/// A name for a session whose client chose none.
fn fresh_session() -> String {
    format!("s-{:032x}", rand::random::<u128>())
}

/// The consumer while either half of its stream lives; with both gone, it is disconnected.
#[derive(Debug)]
struct Connection {
    engine: Arc<Engine>,
    id: ConsumerId,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.engine.disconnect(self.id);
    }
}

/// How a stream ended, where it did not end well.
type End = Arc<OnceLock<Fault>>;

/// Takes a stream's requests, in order.
struct Reader {
    context: Context,
    connection: Arc<Connection>,
    outbox: Arc<Outbox<ConsumerEvent>>,
    unanswered: Unanswered,
    reports_started: bool,
}

impl Reader {
    async fn run(self, mut inbound: Streaming<ConsumeRequest>, end: End) {
        let fault = self.read(&mut inbound).await.err();
        if let Some(fault) = fault {
            end.set(fault).expect("the reader alone ends the stream, once");
        }
        // Everything taken before is told first.
        let (lsn, ()) = self.context.engine.look(|_| ());
        self.outbox.push(lsn, ConsumerEvent::End);
    }

    async fn read(&self, inbound: &mut Streaming<ConsumeRequest>) -> Result<(), Fault> {
        let mut drained = false;
        loop {
            let request = tokio::select! {
                request = inbound.message() => request,
                () = self.context.closing.cancelled() => return Err(Fault::ShuttingDown),
            };
            match request {
                Ok(Some(request)) => {
                    drained |= matches!(request.kind, Some(consume_request::Kind::Drain(_)));
                    let units = request.encoded_len().div_ceil(UNANSWERED_UNIT).max(1);
                    let unanswered = tokio::select! {
                        unanswered = self.unanswered.admit(units) => unanswered?,
                        () = self.context.closing.cancelled() => return Err(Fault::ShuttingDown),
                    };
                    self.take(request, unanswered).await?;
                }
                // The client is done: what it holds goes back.
                Ok(None) if drained => {
                    self.context.engine.close_consumer(self.connection.id)?;
                    return Ok(());
                }
                // The connection broke, or the call was canceled, which looks like an end that was
                // meant: what it holds waits for the session's grace.
                Ok(None) => {
                    self.context.engine.disconnect(self.connection.id);
                    return Ok(());
                }
                // Or something arrived that is no request.
                Err(status) => {
                    self.context.engine.disconnect(self.connection.id);
                    return Err(Fault::unreadable(&status));
                }
            }
        }
    }

    /// Does what a request asks for; it counts as unanswered until its answer is taken.
    async fn take(
        &self,
        request: ConsumeRequest,
        unanswered: OwnedSemaphorePermit,
    ) -> Result<(), Fault> {
        let (engine, id) = (&self.context.engine, self.connection.id);
        match request.kind {
            Some(consume_request::Kind::Settle(settle)) => self.settle(settle, unanswered).await,
            Some(consume_request::Kind::Extend(extend)) => self.extend(extend, unanswered),
            Some(consume_request::Kind::Flow(flow)) => {
                let window = incoming::window(flow)?;
                engine.command(|core| core.set_window(id, window))?;
                Ok(())
            }
            Some(consume_request::Kind::Drain(_)) => {
                let lsn = engine.command(|core| core.drain(id))?;
                self.outbox.push(lsn, ConsumerEvent::Drained(unanswered));
                Ok(())
            }
            Some(consume_request::Kind::Started(started)) => {
                if !self.reports_started {
                    let why = "the stream was not opened with reports_started";
                    return Err(Fault::invalid("started", why));
                }
                let tokens = incoming::started(started, self.context.seal)?;
                let (_, begun) =
                    engine.turn(|core, _, out| core.report_started(id, &tokens, out))?;
                Ok(begun?)
            }
            Some(consume_request::Kind::Subscribe(subscribe)) => {
                let queues = selector::selectors(subscribe.queues)?;
                let subscribe =
                    |core: &mut Core, now, out: &mut _| core.subscribe(id, &queues, now, out);
                let (lsn, subscribed) = engine.turn(subscribe)?;
                self.outbox.push(lsn, ConsumerEvent::Subscribed(unanswered, subscribed.err()));
                Ok(())
            }
            Some(consume_request::Kind::Open(_)) => {
                Err(Fault::invalid("kind", "the stream is open already"))
            }
            None => Err(Fault::invalid("kind", "the request holds nothing that this server knows")),
        }
    }

    async fn settle(
        &self,
        request: SettleRequest,
        unanswered: OwnedSemaphorePermit,
    ) -> Result<(), Fault> {
        let call = request.call_id;
        if call <= 0 {
            return Err(Fault::invalid("call_id", "on a stream it begins at 1"));
        }
        let settled = settle::settle(&self.context, request, self.connection.id).await?;
        let settle::Settled { lsn, failures, invalid } = settled;
        let event = ConsumerEvent::Settled { call, unanswered, failures, invalid };
        self.outbox.push(lsn, event);
        Ok(())
    }

    fn extend(
        &self,
        request: ExtendLeasesRequest,
        unanswered: OwnedSemaphorePermit,
    ) -> Result<(), Fault> {
        let call = request.call_id;
        let understood = incoming::extend(request, self.context.seal)?;
        let extend = understood.command;
        let engine = &self.context.engine;
        let (lsn, failures) = engine.turn(|core, now, out| core.extend(&extend, now, out))?;
        let (failures, invalid) = (failures?, understood.invalid);
        let duration_ms = extend.duration_ms;
        let event = ConsumerEvent::Extended { call, unanswered, duration_ms, failures, invalid };
        self.outbox.push(lsn, event);
        Ok(())
    }
}

/// Answers a stream: what the engine lets go, in its order, messages read as they are sent.
struct Writer {
    context: Context,
    outbox: Arc<Outbox<ConsumerEvent>>,
    end: End,
    responses: VecDeque<ConsumeResponse>,
    /// Granted and not yet sent; sent before anything that came after it.
    deliveries: VecDeque<Delivery>,
    _connection: Arc<Connection>,
    _answering: Answering,
    told_stopping: bool,
    /// Nothing comes in any more; what is lined up is still told.
    ended: bool,
    /// How the stream then ends, where it does not end well.
    fault: Option<Fault>,
}

impl Writer {
    /// The next response; `None` ends the stream.
    async fn next(&mut self) -> Option<Result<ConsumeResponse, Status>> {
        loop {
            if let Some(response) = self.responses.pop_front() {
                return Some(Ok(response));
            }
            if !self.deliveries.is_empty() {
                match self.deliver().await {
                    Ok(Some(response)) => return Some(Ok(response)),
                    Ok(None) => continue,
                    Err(fault) => self.end_with(Some(fault)),
                }
            }
            if self.ended {
                return self.fault.take().map(|fault| Err(fault.to_status()));
            }
            let events = tokio::select! {
                events = self.outbox.next() => events,
                left = self.context.stopping(), if !self.told_stopping => {
                    self.told_stopping = true;
                    let left_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
                    let going = GoingAway { remaining: Some(to_duration(left_ms)) };
                    return Some(Ok(response(consume_response::Kind::GoingAway(going))));
                }
            };
            match events {
                Ok(events) => self.sort(events).await,
                Err(stopped) => self.end_with(Some(stopped.into())),
            }
        }
    }

    /// Lines up what came: settlements in one answer, deliveries for reading.
    async fn sort(&mut self, events: VecDeque<ConsumerEvent>) {
        let mut settled = Settled::default();
        for event in events {
            match event {
                ConsumerEvent::Deliver(deliveries) => self.deliveries.extend(deliveries),
                ConsumerEvent::Settled { call, failures, invalid, .. } => {
                    settled.add(call, to_failures(failures, invalid, self.context.seal));
                }
                ConsumerEvent::Extended { call, duration_ms, failures, invalid, .. } => {
                    let extended = ExtendLeasesResponse {
                        call_id: call,
                        lease_duration: duration_ms.map(to_duration),
                        failures: to_failures(failures, invalid, self.context.seal),
                    };
                    self.responses.push_back(response(consume_response::Kind::Extended(extended)));
                }
                ConsumerEvent::LeasesLost(leases, why) => {
                    let lost: HashSet<_> = leases.iter().collect();
                    self.deliveries.retain(|delivery| !lost.contains(&delivery.token));
                    self.responses.push_back(leases_lost(&leases, why, self.context.seal));
                }
                ConsumerEvent::Subscribed(_, refused) => {
                    self.line_up_deliveries().await;
                    let error = refused.map(|refused| Fault::from(refused).to_item());
                    let subscribed = consume_response::Kind::Subscribed(Subscribed { error });
                    self.responses.push_back(response(subscribed));
                }
                ConsumerEvent::Drained(_) => {
                    self.line_up_deliveries().await;
                    self.responses.push_back(response(consume_response::Kind::Drained(Drained {})));
                }
                ConsumerEvent::Replaced => self.end_with(Some(Fault::ConsumerReplaced)),
                ConsumerEvent::Disconnected => self.end_with(Some(Fault::ConsumerDisconnected)),
                ConsumerEvent::End => self.end_with(self.end.get().cloned()),
            }
            if self.ended {
                break;
            }
        }
        for settled in settled.responses.into_iter().rev() {
            self.responses.push_front(response(consume_response::Kind::Settled(settled)));
        }
    }

    /// What was granted before stands before the answer that comes next.
    async fn line_up_deliveries(&mut self) {
        while !self.deliveries.is_empty() {
            match self.deliver().await {
                Ok(response) => self.responses.extend(response),
                Err(fault) => self.end_with(Some(fault)),
            }
        }
    }

    /// Reads the next messages and lets them go; `None` where none of them is left to be sent.
    async fn deliver(&mut self) -> Result<Option<ConsumeResponse>, Fault> {
        let duration_ms = self.deliveries.front().map(|delivery| delivery.duration_ms);
        let mut bytes = 0;
        let mut fits = |delivery: &Delivery| {
            let fits = bytes < BATCH_BYTES && Some(delivery.duration_ms) == duration_ms;
            bytes += u64::from(delivery.size);
            fits
        };
        let room = self.deliveries.iter().take(BATCH_MESSAGES);
        let count = room.take_while(|delivery| fits(delivery)).count();
        let deliveries: Vec<Delivery> = self.deliveries.drain(..count).collect();
        let batch = to_batch(&self.context, &deliveries).await?;
        self.context.engine.let_go(&deliveries);
        let is_left = !batch.deliveries.is_empty();
        Ok(is_left.then(|| response(consume_response::Kind::Deliveries(batch))))
    }

    /// Nothing more is delivered; the answers that stand before the end are told all the same.
    fn end_with(&mut self, fault: Option<Fault>) {
        self.ended = true;
        self.fault = fault;
        self.deliveries.clear();
    }
}

/// Answers to settlements: one for as many calls as their failures allow.
#[derive(Default)]
struct Settled {
    responses: Vec<SettleResponse>,
    /// Of the last one's failures.
    bytes: u64,
}

impl Settled {
    fn add(&mut self, call: i64, failures: Vec<SettleFailure>) {
        let bytes = failures.iter().map(|failure| failure.encoded_len() as u64).sum::<u64>();
        let is_full = 0 < bytes && 0 < self.bytes && BATCH_BYTES < self.bytes + bytes;
        if self.responses.is_empty() || is_full {
            self.responses.push(SettleResponse::default());
            self.bytes = 0;
        }
        let last = self.responses.last_mut().expect("there is one by now");
        last.call_id = call;
        last.failures.extend(failures);
        self.bytes += bytes;
    }
}

fn response(kind: consume_response::Kind) -> ConsumeResponse {
    ConsumeResponse { kind: Some(kind) }
}

fn consume_opened(open: &OpenConsumer, opened: Opened, seal: Seal) -> ConsumeResponse {
    response(consume_response::Kind::Opened(ConsumeOpened {
        consumer_id: opened.consumer.to_string(),
        session_id: open.session.clone(),
        lease_duration: open.lease_duration_ms.map(to_duration),
        resumed: opened.resumed,
        lost_lease_tokens: tokens(&opened.lost, seal),
    }))
}

fn leases_lost(leases: &[LeaseToken], why: Lost, seal: Seal) -> ConsumeResponse {
    let reason = match why {
        Lost::Expired => LeaseLostReason::Expired,
        Lost::Purged => LeaseLostReason::QueuePurged,
        Lost::Deleted => LeaseLostReason::QueueDeleted,
        Lost::MessageDeleted => LeaseLostReason::MessageDeleted,
        Lost::SessionReset => LeaseLostReason::SessionReset,
        Lost::Disconnected => LeaseLostReason::DisconnectedByAdmin,
    };
    let lease_tokens = tokens(leases, seal);
    response(consume_response::Kind::LeasesLost(LeasesLost { lease_tokens, reason: reason.into() }))
}

fn tokens(tokens: &[LeaseToken], seal: Seal) -> Vec<Bytes> {
    tokens.iter().map(|token| Bytes::copy_from_slice(&seal.close(*token))).collect()
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use qbroker_proto::v1::{ConsumeOpen, QueueSelector};

    use super::*;
    use crate::grpc::stage::{Stage, streaming};
    use crate::queue::index::StateSet;

    fn open() -> ConsumeRequest {
        let queues = vec![QueueSelector { queue: "q".to_owned(), ..QueueSelector::default() }];
        let open = ConsumeOpen { queues, ..ConsumeOpen::default() };
        ConsumeRequest { kind: Some(consume_request::Kind::Open(open)) }
    }

    #[tokio::test]
    async fn a_call_canceled_before_its_consumer_is_durable_leaves_none_behind() {
        let stage = Stage::set();
        let consumers = || stage.context.engine.look(|core| core.consumers_of("q")).1;
        let mut serving =
            Box::pin(serve(stage.context.clone(), About::default(), streaming(vec![open()])));
        assert!((&mut serving).now_or_never().is_none(), "nothing is durable yet");
        assert_eq!(consumers(), 1);
        drop(serving);
        assert_eq!(consumers(), 0);
    }

    /// A purge that takes leased messages, as somebody's who reads nothing.
    fn purge(stage: &Stage) {
        let engine = &stage.context.engine;
        let begin = |core: &Core| core.begin_purge("q", StateSet::LEASED, Lost::Purged);
        let mut purge = engine.look(begin).1.unwrap();
        let (_, step) = engine.turn(|core, _, out| core.purge(&mut purge, out)).unwrap();
        assert_eq!(step.unwrap().deleted, 1);
    }

    #[tokio::test]
    async fn what_is_lost_before_it_was_told_is_not_told() {
        let mut stage = Stage::set();
        let Some(consume_request::Kind::Open(open)) = open().kind else { unreachable!() };
        let open = incoming::open_consumer(open, stage.context.seal, fresh_session).unwrap();
        let (_, opened) = stage.context.engine.open_consumer(&open, About::default()).unwrap();
        let (_, outbox) = opened.unwrap();
        for _ in 0..3 {
            stage.publish("q");
            purge(&stage);
        }
        stage.publish("q");
        stage.write();
        let mut told = outbox.next().await.unwrap();
        let Some(ConsumerEvent::Deliver(deliveries)) = told.pop_front() else { panic!("{told:?}") };
        assert_eq!((deliveries.len(), told.len()), (1, 0), "{told:?}");
        purge(&stage);
        stage.write();
        let mut told = outbox.next().await.unwrap();
        let Some(ConsumerEvent::LeasesLost(lost, _)) = told.pop_front() else { panic!("{told:?}") };
        assert_eq!(lost, [deliveries[0].token]);
    }
}
