//! Messages go out: one consumer's stream, its window, its settlements.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use futures_util::stream;
use qbroker_proto::v1::{
    ConsumeOpened, ConsumeRequest, ConsumeResponse, Drained, ExtendLeasesRequest,
    ExtendLeasesResponse, GoingAway, LeaseLostReason, LeasesLost, SettleRequest, SettleResponse,
    consume_request, consume_response,
};
use tokio_stream::Stream;
use tonic::{Status, Streaming};

use super::Context;
use super::convert::incoming;
use super::convert::time::to_duration;
use super::convert::token::Seal;
use super::fault::Fault;
use super::leases::{to_batch, to_failures};
use crate::engine::{ConsumerEvent, Engine, Outbox};
use crate::queue::ids::{ConsumerId, LeaseToken};
use crate::queue::{Delivery, Lost, OpenConsumer, Opened};

/// Messages in one response, at most.
const BATCH_MESSAGES: usize = 256;
/// Bytes after which a response takes no further message.
const BATCH_BYTES: u64 = 256 << 10;

/// Opens a consumer and serves its stream: a task takes requests, the returned stream answers.
pub(super) async fn serve(
    context: Context,
    mut inbound: Streaming<ConsumeRequest>,
) -> Result<impl Stream<Item = Result<ConsumeResponse, Status>> + Send, Fault> {
    context.check_running()?;
    let out_of_turn = || Fault::invalid("kind", "the first message of the stream must be open");
    let first = inbound.message().await.map_err(|status| Fault::unreadable(&status))?;
    let first = first.and_then(|request| request.kind);
    let Some(consume_request::Kind::Open(open)) = first else { return Err(out_of_turn()) };
    let open = incoming::open_consumer(open, context.seal, fresh_session)?;
    let (lsn, opened) = context.engine.open_consumer(&open)?;
    let (opened, outbox) = opened?;
    let id = opened.consumer;
    // Before anything is waited for: a call that is canceled here leaves no consumer behind.
    let connection = Arc::new(Connection { engine: context.engine.clone(), id });
    context.engine.durable(lsn).await?;
    let end = Arc::new(OnceLock::new());
    let reader =
        Reader { context: context.clone(), connection: connection.clone(), outbox: outbox.clone() };
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
    format!("s.{:032x}", rand::random::<u128>())
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
                    self.take(request)?;
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

    fn take(&self, request: ConsumeRequest) -> Result<(), Fault> {
        let (engine, id) = (&self.context.engine, self.connection.id);
        match request.kind {
            Some(consume_request::Kind::Settle(settle)) => self.settle(settle),
            Some(consume_request::Kind::Extend(extend)) => self.extend(extend),
            Some(consume_request::Kind::Flow(flow)) => {
                let window = incoming::window(flow)?;
                engine.command(|core| core.set_window(id, window))?;
                Ok(())
            }
            Some(consume_request::Kind::Drain(_)) => {
                let lsn = engine.command(|core| core.drain(id))?;
                self.outbox.push(lsn, ConsumerEvent::Drained);
                Ok(())
            }
            Some(consume_request::Kind::Started(_)) => {
                Err(Fault::Unsupported { field: "started", feature: "reports_started" })
            }
            Some(consume_request::Kind::Subscribe(_)) => {
                Err(Fault::Unsupported { field: "subscribe", feature: "subscribe" })
            }
            Some(consume_request::Kind::Open(_)) => {
                Err(Fault::invalid("kind", "the stream is open already"))
            }
            None => Err(Fault::invalid("kind", "the request holds nothing that this server knows")),
        }
    }

    fn settle(&self, request: SettleRequest) -> Result<(), Fault> {
        let call = request.call_id;
        if call <= 0 {
            return Err(Fault::invalid("call_id", "on a stream it begins at 1"));
        }
        let understood = incoming::settle(request, self.connection.id, self.context.seal)?;
        let settle = understood.command;
        let engine = &self.context.engine;
        let (lsn, failures) = engine.turn(|core, now, out| core.settle(&settle, now, out))?;
        let (failures, invalid) = (failures?, understood.invalid);
        self.outbox.push(lsn, ConsumerEvent::Settled { call, failures, invalid });
        Ok(())
    }

    fn extend(&self, request: ExtendLeasesRequest) -> Result<(), Fault> {
        let call = request.call_id;
        let understood = incoming::extend(request, self.context.seal)?;
        let extend = understood.command;
        let engine = &self.context.engine;
        let (lsn, failures) = engine.turn(|core, now, out| core.extend(&extend, now, out))?;
        let (failures, invalid) = (failures?, understood.invalid);
        let duration_ms = extend.duration_ms;
        let event = ConsumerEvent::Extended { call, duration_ms, failures, invalid };
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
                match self.deliver() {
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
                Ok(events) => self.sort(events),
                Err(stopped) => self.end_with(Some(stopped.into())),
            }
        }
    }

    /// Lines up what came: settlements in one answer, deliveries for reading.
    fn sort(&mut self, events: VecDeque<ConsumerEvent>) {
        let mut settled: Option<SettleResponse> = None;
        for event in events {
            match event {
                ConsumerEvent::Deliver(deliveries) => self.deliveries.extend(deliveries),
                ConsumerEvent::Settled { call, failures, invalid } => {
                    let settled = settled.get_or_insert_default();
                    settled.call_id = call;
                    settled.failures.extend(to_failures(failures, invalid, self.context.seal));
                }
                ConsumerEvent::Extended { call, duration_ms, failures, invalid } => {
                    let extended = ExtendLeasesResponse {
                        call_id: call,
                        lease_duration: duration_ms.map(to_duration),
                        failures: to_failures(failures, invalid, self.context.seal),
                    };
                    self.responses.push_back(response(consume_response::Kind::Extended(extended)));
                }
                ConsumerEvent::LeasesLost(leases, why) => {
                    self.deliveries.retain(|delivery| !leases.contains(&delivery.token));
                    self.responses.push_back(leases_lost(&leases, why, self.context.seal));
                }
                ConsumerEvent::Drained => {
                    // What was granted before stands before it.
                    while !self.deliveries.is_empty() {
                        match self.deliver() {
                            Ok(response) => self.responses.extend(response),
                            Err(fault) => self.end_with(Some(fault)),
                        }
                    }
                    self.responses.push_back(response(consume_response::Kind::Drained(Drained {})));
                }
                ConsumerEvent::Replaced => self.end_with(Some(Fault::ConsumerReplaced)),
                ConsumerEvent::End => self.end_with(self.end.get().cloned()),
            }
            if self.ended {
                break;
            }
        }
        if let Some(settled) = settled {
            self.responses.push_front(response(consume_response::Kind::Settled(settled)));
        }
    }

    /// Reads the next messages and lets them go; `None` where none of them is left to be sent.
    fn deliver(&mut self) -> Result<Option<ConsumeResponse>, Fault> {
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
        let batch = to_batch(&self.context, &deliveries)?;
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
        Lost::SessionReset => LeaseLostReason::SessionReset,
    };
    let lease_tokens = tokens(leases, seal);
    response(consume_response::Kind::LeasesLost(LeasesLost { lease_tokens, reason: reason.into() }))
}

fn tokens(tokens: &[LeaseToken], seal: Seal) -> Vec<bytes::Bytes> {
    tokens.iter().map(|token| seal.close(*token)).collect()
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use qbroker_proto::v1::{ConsumeOpen, QueueSelector};

    use super::*;
    use crate::grpc::stage::{Stage, streaming};

    fn open() -> ConsumeRequest {
        let queues = vec![QueueSelector { queue: "q".to_owned(), ..QueueSelector::default() }];
        let open = ConsumeOpen { queues, ..ConsumeOpen::default() };
        ConsumeRequest { kind: Some(consume_request::Kind::Open(open)) }
    }

    #[tokio::test]
    async fn a_call_canceled_before_its_consumer_is_durable_leaves_none_behind() {
        let stage = Stage::set();
        let consumers = || stage.context.engine.look(|core| core.consumers_of("q")).1;
        let mut serving = Box::pin(serve(stage.context.clone(), streaming(vec![open()])));
        assert!((&mut serving).now_or_never().is_none(), "nothing is durable yet");
        assert_eq!(consumers(), 1);
        drop(serving);
        assert_eq!(consumers(), 0);
    }
}
