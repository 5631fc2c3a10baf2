//! More calls at once on one connection than the broker takes.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use super::Stage;
use super::frames::{END_HEADERS, HEADERS, PREFACE, RST_STREAM, SETTINGS, frame, headers, stream};

/// The setting that says how many streams there may be (RFC 9113, 6.5.2).
const MAX_CONCURRENT_STREAMS: u16 = 3;
/// Why a stream is refused that is one too many (RFC 9113, 7).
const REFUSED_STREAM: u32 = 7;

/// Kind, flags, stream and payload of the next frame.
fn read(socket: &mut TcpStream) -> (u8, u8, u32, Vec<u8>) {
    let mut head = [0; 9];
    socket.read_exact(&mut head).expect("the broker says something");
    let [a, b, c, kind, flags, stream @ ..] = head;
    let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
    socket.read_exact(&mut payload).expect("the frame comes whole");
    (kind, flags, u32::from_be_bytes(stream), payload)
}

/// How many streams the broker says that there may be.
fn streams_max(settings: &[u8]) -> Option<u32> {
    let (settings, _) = settings.as_chunks::<6>();
    let wanted = |it: &&[u8; 6]| u16::from_be_bytes([it[0], it[1]]) == MAX_CONCURRENT_STREAMS;
    settings.iter().find(wanted).map(|it| u32::from_be_bytes([it[2], it[3], it[4], it[5]]))
}

/// Begins so many calls that wait; how many the broker says that there may be, and which stream is
/// ended first, and why.
fn begin_calls(broker: SocketAddr, count: u32) -> (Option<u32>, u32, u32) {
    let mut socket = TcpStream::connect(broker).unwrap();
    socket.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).unwrap();
    let told = loop {
        if let (SETTINGS, 0, _, settings) = read(&mut socket) {
            break streams_max(&settings);
        }
    };
    // An acknowledgement, and calls whose first message never comes.
    socket.write_all(&frame(SETTINGS, 1, 0, &[])).unwrap();
    let path = "/qbroker.v1.ConsumerService/Consume";
    let call = |number| frame(HEADERS, END_HEADERS, stream(number), &headers(path));
    socket.write_all(&(0..count).flat_map(call).collect::<Vec<u8>>()).unwrap();
    loop {
        if let (RST_STREAM, _, stream, why) = read(&mut socket) {
            return (told, stream, u32::from_be_bytes(why.try_into().expect("four bytes")));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_has_as_many_calls_at_once_as_it_may_and_not_one_more() {
    let stage = Stage::new(&["--max-streams", "2"]).await;
    let broker = stage.server.grpc();
    let begun = tokio::task::spawn_blocking(move || begin_calls(broker, 3)).await.unwrap();
    assert_eq!(begun, (Some(2), stream(2), REFUSED_STREAM), "the third one is refused, alone");
    stage.work_beside(1).await;
}
