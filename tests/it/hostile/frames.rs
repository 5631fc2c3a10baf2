//! Floods of the smallest frames that HTTP/2 knows, from clients that read no answer.

use std::io::Write as _;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use super::Stage;

pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

/// What a flood may make the broker hold.
const MEMORY: u64 = 96 << 20;

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("it is small").to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// `POST path` of gRPC, each field literal and not remembered (RFC 7541, 6.2.2).
pub(super) fn headers(path: &str) -> Vec<u8> {
    // `:method: POST` and `:scheme: http` are in HPACK's static table.
    let mut block = vec![0x83, 0x86];
    let fields = [
        (":path", path),
        (":authority", "broker"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).expect("it is short"));
            block.extend(text.as_bytes());
        }
    }
    block
}

/// Numbers of a client's streams.
pub(super) fn stream(number: u32) -> u32 {
    2 * number + 1
}

/// One way to flood: what is sent first, and what is sent again and again.
struct Flood {
    name: &'static str,
    first: Vec<u8>,
    again: fn(u32) -> Vec<u8>,
}

fn floods() -> Vec<Flood> {
    const CONSUME: &str = "/qbroker.v1.ConsumerService/Consume";
    const PUBLISH: &str = "/qbroker.v1.PublisherService/PublishStream";
    let flood = |name, first, again| Flood { name, first, again };
    vec![
        flood("pings", Vec::new(), |_| frame(PING, 0, 0, &[7; 8])),
        flood("settings", Vec::new(), |_| frame(SETTINGS, 0, 0, &[])),
        flood("large settings", Vec::new(), |_| {
            frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 9].repeat(90))
        }),
        flood("priorities", Vec::new(), |n| {
            frame(PRIORITY, 0, stream(n % 1_000), &[0, 0, 0, 0, 9])
        }),
        flood("window updates", Vec::new(), |_| frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
        flood("empty data", frame(HEADERS, END_HEADERS, 1, &headers(CONSUME)), |_| {
            frame(DATA, 0, 1, &[])
        }),
        // A message of a million bytes that comes byte by byte.
        flood(
            "tiny data",
            [
                frame(HEADERS, END_HEADERS, 1, &headers(PUBLISH)),
                frame(DATA, 0, 1, &[0, 0, 0x0f, 0x42, 0x40]),
            ]
            .concat(),
            |_| frame(DATA, 0, 1, b"x"),
        ),
        // Messages of no bytes: requests that ask nothing.
        flood("empty messages", frame(HEADERS, END_HEADERS, 1, &headers(CONSUME)), |_| {
            frame(DATA, 0, 1, &[0; 5])
        }),
        flood("headers without end", frame(HEADERS, 0, 1, &headers(CONSUME)), |_| {
            frame(CONTINUATION, 0, 1, &[0, 1, b'x', 1, b'y'])
        }),
        flood("calls given up at once", Vec::new(), |n| {
            let call = frame(HEADERS, END_HEADERS, stream(n), &headers(CONSUME));
            [call, frame(RST_STREAM, 0, stream(n), &[0, 0, 0, 8])].concat()
        }),
        flood("calls without a body", Vec::new(), |n| {
            let flags = END_HEADERS | END_STREAM;
            frame(HEADERS, flags, stream(n), &headers("/qbroker.v1.PublisherService/Publish"))
        }),
    ]
}

/// A flood that goes on, over one connection after the other where the broker closes them, until it
/// is stopped.
struct Flooding {
    sent: Arc<AtomicU64>,
    /// The connection of the moment; `None` once there is to be no other.
    socket: Arc<parking_lot::Mutex<Option<TcpStream>>>,
    thread: JoinHandle<u64>,
}

impl Flooding {
    fn start(flood: Flood, broker: SocketAddr) -> Self {
        let sent = Arc::new(AtomicU64::new(0));
        let first = TcpStream::connect(broker).unwrap();
        let socket = Arc::new(parking_lot::Mutex::new(Some(first)));
        let (counter, held) = (sent.clone(), socket.clone());
        let thread = std::thread::spawn(move || {
            let mut connections = 1;
            loop {
                let open = held.lock().as_ref().map(|socket| socket.try_clone().unwrap());
                let Some(open) = open else { return connections };
                run(&flood, open, &counter);
                let Ok(next) = TcpStream::connect(broker) else { return connections };
                let mut held = held.lock();
                if held.is_some() {
                    *held = Some(next);
                    connections += 1;
                }
            }
        });
        Self { sent, socket, thread }
    }

    fn stop(self) -> (u64, u64) {
        if let Some(socket) = self.socket.lock().take() {
            // It may be closed by now.
            drop(socket.shutdown(Shutdown::Both));
        }
        let connections = self.thread.join().unwrap();
        (self.sent.load(Ordering::SeqCst), connections)
    }
}

/// Sends until the connection is closed, here or there.
fn run(flood: &Flood, mut socket: TcpStream, sent: &AtomicU64) {
    let first = [PREFACE, &frame(SETTINGS, 0, 0, &[]), &flood.first].concat();
    let mut number = 0;
    let mut sending = socket.write_all(&first);
    while sending.is_ok() {
        // Some at once: what is to be busy is the broker.
        let frames: Vec<u8> = (number..number + 100).flat_map(flood.again).collect();
        sending = socket.write_all(&frames);
        number += 100;
        sent.fetch_add(100, Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_of_tiny_frames_hold_up_nobody_and_cost_a_bounded_memory() {
    let stage = Stage::new(&[]).await;
    stage.work_beside(50).await;
    let mut peak = stage.memory_peak();
    for flood in floods() {
        let name = flood.name;
        let flooding = Flooding::start(flood, stage.server.grpc());
        stage.work_beside(30).await;
        let stopped = tokio::task::spawn_blocking(|| flooding.stop()).await.unwrap();
        let (sent, connections) = stopped;
        let cost = stage.memory_peak().saturating_sub(peak);
        peak += cost;
        eprintln!("hostile: {sent} {name}, {connections} connections: {} KiB more", cost >> 10);
        assert!(0 < sent, "{name}: nothing was sent");
        assert!(cost < MEMORY, "{name}: {cost} bytes of memory more than {peak}");
    }
    assert_eq!(stage.server.stop().await.errors(), "");
}
