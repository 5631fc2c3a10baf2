//! Requests of no form at all, down to bytes on the socket: each gets an answer or a closed
//! connection, and nobody else notices.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use bytes::{BufMut as _, Bytes, BytesMut};
use h2::client::SendRequest;
use http::{HeaderMap, Method, Request};
use qbroker_tests::{PATIENCE, patiently};

use super::Broker;

/// One HTTP/2 connection without any gRPC library.
pub(super) struct Raw {
    sender: SendRequest<Bytes>,
}

/// What came back, wherever it stood.
#[derive(Debug)]
pub(super) struct Told {
    http: u16,
    headers: HeaderMap,
}

impl Told {
    pub(super) fn text(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

impl Raw {
    pub(super) async fn connect(address: SocketAddr) -> Self {
        let socket = tokio::net::TcpStream::connect(address).await.unwrap();
        let (sender, connection) = h2::client::handshake(socket).await.unwrap();
        tokio::spawn(async move { drop(connection.await) });
        Self { sender }
    }

    /// Sends a request with this body and returns everything that is told of its outcome.
    async fn call(&self, method: Method, path: &str, kind: &str, body: Bytes) -> Told {
        let mut sender = self.sender.clone().ready().await.unwrap();
        let request = Request::builder()
            .method(method)
            .uri(format!("http://broker{path}"))
            .header("content-type", kind)
            .header("te", "trailers")
            .body(())
            .unwrap();
        let (response, mut stream) = sender.send_request(request, false).unwrap();
        // A call that is turned away may be answered before its body is there.
        drop(stream.send_data(body, true));
        let response = patiently("an answer", response).await.unwrap();
        let http = response.status().as_u16();
        let mut headers = response.headers().clone();
        let mut body = response.into_body();
        while let Some(data) = body.data().await {
            body.flow_control().release_capacity(data.unwrap().len()).unwrap();
        }
        if let Some(trailers) = body.trailers().await.unwrap() {
            headers.extend(trailers);
        }
        Told { http, headers }
    }

    pub(super) async fn grpc(&self, path: &str, body: Bytes) -> Told {
        self.call(Method::POST, path, "application/grpc", body).await
    }
}

/// A message as gRPC frames it, of any flag and any claimed length.
pub(super) fn frame(flag: u8, length: usize, message: &[u8]) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(flag);
    frame.put_u32(u32::try_from(length).unwrap());
    frame.put_slice(message);
    frame.freeze()
}

const UNARY: [&str; 6] = [
    "/qbroker.v1.PublisherService/Publish",
    "/qbroker.v1.ConsumerService/Pull",
    "/qbroker.v1.ConsumerService/Settle",
    "/qbroker.v1.ConsumerService/ExtendLeases",
    "/qbroker.v1.AdminService/CreateQueue",
    "/qbroker.v1.AdminService/ListMessages",
];

const STREAMS: [&str; 2] =
    ["/qbroker.v1.PublisherService/PublishStream", "/qbroker.v1.ConsumerService/Consume"];

const INVALID_ARGUMENT: &str = "3";

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_message_are_an_invalid_argument() {
    let broker = Broker::start(&[]).await;
    let raw = Raw::connect(broker.server.grpc()).await;
    let garbage = [0xff; 40];
    // Field 1 as a length beyond the end, and as a number where a text belongs.
    let bodies = [
        ("garbage", frame(0, garbage.len(), &garbage)),
        ("a cut field", frame(0, 3, &[0x0a, 0x7f, b'x'])),
        ("a wrong wire type", frame(0, 2, &[0x0d, 0x01])),
        ("compressed, unannounced", frame(1, 2, &[0x0a, 0x00])),
        ("an unknown flag", frame(7, 2, &[0x0a, 0x00])),
        ("17 MiB claimed", frame(0, 17 << 20, &[])),
        ("4 GiB claimed", frame(0, u32::MAX as usize, &[])),
        ("cut short", frame(0, 100, &[0; 10])),
    ];
    for path in UNARY.iter().chain(&STREAMS) {
        for (what, body) in &bodies {
            let told = raw.grpc(path, body.clone()).await;
            let status = told.text("grpc-status");
            assert_eq!(status, INVALID_ARGUMENT, "{what} to {path}: {told:?}");
            assert_eq!(
                told.text("qbroker-reason"),
                "INVALID_ARGUMENT",
                "{what} to {path}: {told:?}"
            );
        }
    }
    for path in UNARY {
        let told = raw.grpc(path, Bytes::new()).await;
        assert_eq!(told.text("grpc-status"), INVALID_ARGUMENT, "nothing to {path}: {told:?}");
    }
    broker.check_alive().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_are_no_calls_of_the_protocol_are_turned_away() {
    let broker = Broker::start(&[]).await;
    let raw = Raw::connect(broker.server.grpc()).await;
    let empty = || frame(0, 0, &[]);
    for path in ["/qbroker.v1.PublisherService/Nonsense", "/other.Service/Call", "/", "/x"] {
        let told = raw.grpc(path, empty()).await;
        assert_eq!(told.text("grpc-status"), "12", "{path}: {told:?}");
    }
    let told = raw.call(Method::GET, UNARY[0], "application/grpc", empty()).await;
    assert_ne!((told.http, told.text("grpc-status")), (200, "0"), "{told:?}");
    // A header of 1 MiB is above what one connection may hold; the connection may go with it.
    let mut sender = raw.sender.clone().ready().await.unwrap();
    let request = Request::post("http://broker/").header("x", "y".repeat(1 << 20)).body(());
    if let Ok((response, _)) = sender.send_request(request.unwrap(), true) {
        let answer = patiently("an answer", response).await;
        assert!(answer.is_err() || answer.unwrap().status() == 431);
    }
    broker.check_alive().await;
}

/// What the broker says to these bytes until it closes the connection, which it must.
fn talk(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    // It may be closed before everything is written.
    drop(socket.write_all(bytes));
    drop(socket.shutdown(std::net::Shutdown::Write));
    let mut told = Vec::new();
    match socket.read_to_end(&mut told) {
        Ok(_) => told,
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => told,
        Err(error) => panic!("the connection is not closed: {error}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_http_close_their_connection_and_no_other() {
    let broker = Broker::start(&[]).await;
    let (grpc, http) = (broker.server.grpc(), broker.server.http());
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let talks: Vec<Vec<u8>> = vec![
        Vec::new(),
        vec![0; 100_000],
        vec![0xff; 100_000],
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        preface.to_vec(),
        [&preface[..], &[0xff; 5_000]].concat(),
        // A frame of 16 MiB, a window update of 0, headers on stream 0.
        [&preface[..], b"\xff\xff\xff\x00\x00\x00\x00\x00\x01"].concat(),
        [&preface[..], b"\x00\x00\x04\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00"].concat(),
        [&preface[..], b"\x00\x00\x01\x01\x05\x00\x00\x00\x00\x82"].concat(),
    ];
    let talking = tokio::task::spawn_blocking(move || {
        for bytes in &talks {
            talk(grpc, bytes);
            talk(http, bytes);
        }
    });
    patiently("closed connections", talking).await.unwrap();
    // The connection that was there before still works, and new ones do.
    broker.check_alive().await;
    Raw::connect(grpc).await;
}
