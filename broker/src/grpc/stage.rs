//! A stage for tests of one call: services over a simulated disk that is written by hand.

use axum::body::Body;
use bytes::{BufMut as _, Bytes, BytesMut};
use prost::Message;
use qbroker_storage::Writer;
use qbroker_storage::disk::sim::SimDisk;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::codec::{DecodeBuf, Decoder, Streaming};

use super::{Context, Stopping};
use crate::clock::{Clock, ManualClock};
use crate::config::Settings;
use crate::engine::{self, Engine, PullAnswer};
use crate::queue::body::StoredMessage;
use crate::queue::ids::LeaseToken;
use crate::queue::{Limits, NewMessage, Outcome, Publish, Pull, Selector, Settle, Settlement};

/// What a service needs, and the log's writer: nothing is durable before it steps.
pub(super) struct Stage {
    pub(super) context: Context,
    pub(super) writer: Writer,
    _disk: SimDisk,
    _stopping: watch::Sender<Option<Stopping>>,
}

impl Stage {
    pub(super) fn set() -> Self {
        let disk = SimDisk::new(1);
        let options = engine::Options {
            log: qbroker_storage::Options {
                segment_bytes: 1 << 20,
                spare_segments: 1,
                tail_cache_bytes: 64 << 10,
                disk_reserve_bytes: 0,
                ..qbroker_storage::Options::default()
            },
            limits: Limits::default(),
            pending_bytes_max: 1 << 20,
            clock: Clock::Manual(ManualClock::default()),
        };
        let (engine, writer) = Engine::open_stepped(disk.shared(), options).expect("it is empty");
        let (stopping, stopping_seen) = watch::channel(None);
        let closing = CancellationToken::new();
        let context = Context::new(engine, &Settings::default(), stopping_seen, closing);
        let mut stage = Self { context, writer, _disk: disk, _stopping: stopping };
        stage.write();
        stage
    }

    /// Writes all that was appended.
    pub(super) fn write(&mut self) {
        while self.writer.step().expect("the disk has no faults") {}
    }
}

/// What goes on in the engine beside the call.
impl Stage {
    pub(super) fn publish(&self, queue: &str) {
        self.publish_bytes(queue, 0);
    }

    pub(super) fn publish_bytes(&self, queue: &str, payload_bytes: usize) {
        let payload = Bytes::from(vec![0; payload_bytes]);
        let stored = StoredMessage { payload, ..StoredMessage::default() };
        let message = NewMessage {
            queue: queue.into(),
            body: stored.into_body(&mut BytesMut::new()),
            ..NewMessage::default()
        };
        let publish = Publish { messages: vec![message] };
        let (_, stored) = self
            .context
            .engine
            .turn(|core, now, out| core.publish(&publish, now, out))
            .expect("the log runs");
        stored.expect("it is taken");
    }

    pub(super) fn lease(&self, queue: &str) -> LeaseToken {
        let pull = Pull {
            queues: vec![Selector::plain(queue)],
            messages_max: 1,
            lease_duration_ms: None,
            session: String::new(),
            request_id: String::new(),
        };
        match self.context.engine.pull(&pull) {
            Ok((_, Ok(PullAnswer::Now(deliveries)))) => deliveries[0].token,
            other => panic!("there is a message: {other:?}"),
        }
    }

    pub(super) fn settle(&self, token: LeaseToken, outcome: Outcome) {
        let settlements = vec![Settlement::plain(token, outcome)];
        let settle = Settle { settlements, ..Settle::default() };
        let (_, failures) = self
            .context
            .engine
            .turn(|core, now, out| core.settle(&settle, now, out))
            .expect("the log runs");
        assert_eq!(failures.expect("it is taken"), []);
    }
}

/// Requests as a call's stream gives them.
pub(super) fn streaming<T: Message + Default + 'static>(requests: Vec<T>) -> Streaming<T> {
    let mut body = BytesMut::new();
    for request in requests {
        // Not compressed, and so long.
        body.put_u8(0);
        body.put_u32(u32::try_from(request.encoded_len()).expect("a test's request is small"));
        request.encode(&mut body).expect("a BytesMut grows");
    }
    let body: Bytes = body.freeze();
    Streaming::new_request(Decode(std::marker::PhantomData), Body::from(body), None, None)
}

struct Decode<T>(std::marker::PhantomData<T>);

impl<T: Message + Default + 'static> Decoder for Decode<T> {
    type Item = T;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<T>, Status> {
        T::decode(bytes).map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}
