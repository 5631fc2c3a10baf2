//! Every call of the protocol on a fresh broker: the real services, the real core and log, on a
//! simulated disk, in one thread.

use std::task::Poll;

use axum::Router;
use axum::body::{Body, HttpBody as _};
use http::{HeaderMap, Request};
use qbroker::auth::Access;
use qbroker::clock::{Clock, ManualClock};
use qbroker::config::Settings;
use qbroker::engine::{self, Engine};
use qbroker::grpc::{self, Context, Stopping};
use qbroker::queue::Limits;
use qbroker::queue::time::Now;
use qbroker_storage::Writer;
use qbroker_storage::disk::sim::SimDisk;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tower::Service as _;

use super::shapes::protocol;
use crate::seed::Rng;

/// Calls of one input, at most.
const CALLS_MAX: usize = 16;
/// How often a call that waits is asked again before it is given up: some wait for ever.
const TURNS: usize = 40;
/// Statuses that say that the broker has a bug: UNKNOWN, INTERNAL, DATA_LOSS.
const BUGS: [&str; 3] = ["2", "13", "15"];

/// A broker without a network, threads or time.
pub(super) struct Broker {
    routes: Router,
    writer: Writer,
    pub(super) engine: std::sync::Arc<Engine>,
    clock: ManualClock,
    _stopping: watch::Sender<Option<Stopping>>,
    // After what runs in it.
    runtime: Runtime,
}

impl Broker {
    pub(super) fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("there is room for one");
        let inside = runtime.enter();
        let clock = ManualClock::default();
        clock.set(Now { wall_ms: 1_700_000_000_000, boot_ms: 1_000_000, begun: false });
        let options = engine::Options {
            log: qbroker_storage::Options {
                segment_bytes: 256 << 10,
                spare_segments: 0,
                tail_cache_bytes: 1 << 20,
                disk_reserve_bytes: 0,
                ..qbroker_storage::Options::default()
            },
            limits: Limits { messages_in_memory: 1_000, ..Limits::default() },
            pending_bytes_max: 1 << 20,
            clock: Clock::Manual(clock.clone()),
        };
        let opened = Engine::open_stepped(SimDisk::new(1).shared(), options);
        let (engine, writer) = opened.expect("the disk is empty");
        let settings = Settings::default();
        let access = Access::open(&settings).expect("loopback is open");
        let (stopping, seen) = watch::channel(None);
        let context = Context::new(engine.clone(), &settings, seen, CancellationToken::new());
        let (_, health) = tonic_health::server::health_reporter();
        let routes = grpc::routes(&context, &access.authenticator(settings.grpc_listen), health);
        let routes = routes.expect("the descriptors are right").into_axum_router();
        drop(inside);
        Self { routes, writer, engine, clock, _stopping: stopping, runtime }
    }

    /// Makes a call with these bytes as its messages; its status, where it ended.
    fn call(&mut self, path: &str, body: Vec<u8>) -> Option<String> {
        self.clock.advance(10);
        self.engine.tick().expect("the log runs");
        let request = Request::post(format!("http://broker{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Body::from(body))
            .expect("it is a request");
        let call = self.routes.call(request);
        let ended = async {
            let answer = call.await.expect("routes do not fail");
            let (parts, mut body) = answer.into_parts();
            let mut told = parts.headers;
            let mut body = std::pin::Pin::new(&mut body);
            while let Some(frame) = std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
                let frame = frame.expect("the answer is whole");
                told.extend(frame.into_trailers().unwrap_or_default());
            }
            told
        };
        let writer = &mut self.writer;
        let told: Option<HeaderMap> = self.runtime.block_on(async {
            tokio::pin!(ended);
            for _ in 0..TURNS {
                let polled = std::future::poll_fn(|cx| Poll::Ready(ended.as_mut().poll(cx))).await;
                if let Poll::Ready(told) = polled {
                    return Some(told);
                }
                while writer.step().expect("the disk has no faults") {}
                tokio::task::yield_now().await;
            }
            None
        });
        let status = told?.get("grpc-status")?.to_str().ok()?.to_owned();
        Some(status)
    }

    /// Makes the calls of an input.
    ///
    /// # Panics
    /// When one is answered with a status that says that the broker has a bug.
    pub(super) fn run(&mut self, input: &[u8]) {
        for call in calls(input) {
            let method = &protocol().methods[call.method];
            // It waits for a blocking thread, which nothing here waits for.
            if method.path.ends_with("ServerReflectionInfo") {
                continue;
            }
            let status = self.call(&method.path, call.body);
            let status = status.unwrap_or_default();
            assert!(!BUGS.contains(&status.as_str()), "{} is answered {status}", method.path);
        }
        while self.writer.step().expect("the disk has no faults") {}
    }
}

/// A call of an input.
struct Call {
    method: usize,
    /// Its messages as gRPC frames them.
    body: Vec<u8>,
}

/// An input is calls, each a method's number, a length in two bytes and so many bytes. Those are one
/// message, or, of a stream, messages with a length each of the same kind before them.
fn calls(mut input: &[u8]) -> Vec<Call> {
    let mut calls = Vec::new();
    while let Some((&method, rest)) = input.split_first()
        && calls.len() < CALLS_MAX
    {
        input = rest;
        let bytes = take(&mut input);
        let method = usize::from(method) % protocol().methods.len();
        let mut body = Vec::new();
        match protocol().methods[method].streams {
            false => push_message(&mut body, bytes),
            true => {
                let mut messages = bytes;
                while !messages.is_empty() {
                    push_message(&mut body, take(&mut messages));
                }
            }
        }
        calls.push(Call { method, body });
    }
    calls
}

/// A length and so many bytes, or as many as there are.
fn take<'a>(input: &mut &'a [u8]) -> &'a [u8] {
    let (length, rest) = input.split_at(input.len().min(2));
    let length = length.iter().rfold(0, |length, &byte| length << 8 | usize::from(byte));
    let (taken, rest) = rest.split_at(length.min(rest.len()));
    *input = rest;
    taken
}

fn push_message(body: &mut Vec<u8>, message: &[u8]) {
    body.push(0);
    body.extend(u32::try_from(message.len()).expect("it is short").to_be_bytes());
    body.extend_from_slice(message);
}

fn push_length(input: &mut Vec<u8>, bytes: &[u8]) {
    let bytes = &bytes[..bytes.len().min(usize::from(u16::MAX))];
    input.extend(u16::try_from(bytes.len()).expect("it was cut").to_le_bytes());
    input.extend_from_slice(bytes);
}

/// A few calls of any kind, right in form.
///
/// # Panics
/// When the protocol's description is broken.
pub fn plausible(rng: &mut Rng) -> Vec<u8> {
    let protocol = protocol();
    let mut input = Vec::new();
    for _ in 0..1 + rng.below(8) {
        let number = rng.below(protocol.methods.len());
        let method = &protocol.methods[number];
        input.push(u8::try_from(number).expect("there are fewer methods than that"));
        let mut bytes = Vec::new();
        if method.streams {
            for _ in 0..1 + rng.below(4) {
                push_length(&mut bytes, &protocol.message(&method.request, rng));
            }
        } else {
            bytes = protocol.message(&method.request, rng);
        }
        push_length(&mut input, &bytes);
    }
    input
}

/// Inputs that are right in form, the same each time.
///
/// # Panics
/// When the protocol's description is broken.
pub fn some() -> Vec<Vec<u8>> {
    let mut rng = Rng::new(1);
    (0..64).map(|_| plausible(&mut rng)).collect()
}

/// Makes the calls of an input on a fresh broker.
///
/// # Panics
/// When the broker has a bug.
pub fn run(input: &[u8]) {
    Broker::new().run(input);
}
