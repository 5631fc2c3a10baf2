//! Connections by the thousands, and ones that say nothing.

use std::net::SocketAddr;
use std::time::Duration;

use qbroker_client::Client;
use qbroker_tests::seed;
use qbroker_tests::{PATIENCE, patiently};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::Stage;

const CONNECTIONS: usize = 10_000;
/// Open at a time: within what a process may have where nobody has raised its limit.
const AT_ONCE: usize = 200;
/// What they may make the broker hold for good.
const MEMORY: u64 = 64 << 20;

/// Connects, says some of what a client says first, and is gone.
async fn come_and_go(broker: SocketAddr, number: usize) {
    const FIRST: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";
    let mut socket = TcpStream::connect(broker).await.unwrap();
    // It may be turned away by then.
    drop(socket.write_all(&FIRST[..number % (FIRST.len() + 1)]).await);
    match number % 3 {
        0 => {}
        1 => socket.set_zero_linger().unwrap(),
        // Half-closed, and listened to until the broker has had enough.
        _ => {
            drop(socket.shutdown().await);
            drop(socket.read_to_end(&mut Vec::new()).await);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_connections_come_and_go_and_leave_nothing_behind() {
    let stage = Stage::new(&[]).await;
    stage.work_beside(20).await;
    let (grpc, before) = (stage.server.grpc(), stage.memory_peak());
    let flood = async {
        let mut open = tokio::task::JoinSet::new();
        for number in 0..CONNECTIONS {
            if AT_ONCE <= open.len() {
                open.join_next().await.unwrap().unwrap();
            }
            open.spawn(come_and_go(grpc, number));
        }
        open.join_all().await;
    };
    tokio::join!(patiently("their coming and going", flood), stage.work_beside(50));
    // The one that works beside them stays.
    let gone = async {
        while 1 < stage.server.figure("qbroker_grpc_connections") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    patiently("their end", gone).await;
    // Those that were listened to until their end have certainly been there; of the others, some may
    // have been gone before the broker came to them.
    let accepted = stage.server.figure("qbroker_grpc_connections_accepted_total");
    assert!(CONNECTIONS as u64 / 3 <= accepted, "{accepted} accepted");
    let cost = stage.memory_peak().saturating_sub(before);
    eprintln!("hostile: {CONNECTIONS} connections, {accepted} accepted: {} KiB", cost >> 10);
    assert!(cost < MEMORY, "{cost} bytes of memory for {before} before");
    stage.work_beside(20).await;
    assert_eq!(stage.server.stop().await.errors(), "");
}

/// Waits for as long as the broker does, 10 s: under `QBROKER_SLOW=1`.
#[tokio::test(flavor = "multi_thread")]
async fn connections_that_say_nothing_lose_their_places() {
    if !seed::rounds(false, true) {
        return;
    }
    let stage = Stage::new(&["--max-connections", "8"]).await;
    let used = usize::try_from(stage.server.figure("qbroker_grpc_connections")).unwrap();
    let mut silent = Vec::new();
    for _ in used..8 {
        silent.push(TcpStream::connect(stage.server.grpc()).await.unwrap());
    }
    let mut beyond = TcpStream::connect(stage.server.grpc()).await.unwrap();
    let told = patiently("its end", beyond.read(&mut [0; 1])).await;
    assert!(matches!(told, Ok(0) | Err(_)), "there was a ninth place");
    stage.work_beside(20).await;
    for socket in &mut silent {
        drop(patiently("its end", socket.read_to_end(&mut Vec::new())).await);
    }
    let options = Client::builder(stage.server.url()).connections(1).connect_timeout(PATIENCE);
    patiently("a place", options.connect()).await.unwrap();
}
