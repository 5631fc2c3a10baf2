//! Large requests of which the end does not come.

use std::future::poll_fn;

use bytes::Bytes;
use h2::SendStream;
use h2::client::SendRequest;
use http::{Request, Version};
use qbroker_client::OutgoingMessage;
use qbroker_tests::patiently;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::Stage;

const REQUESTS: usize = 64;
const PUBLISH: &str = "PublisherService/Publish";
/// What each says that it is, and what comes of it: a part, or all but its end.
const BYTES: u32 = 8 << 20;
const PART: usize = 7 << 20;
const WHOLE: usize = BYTES as usize;
/// What all of them may make the broker hold: four times what `max-pending-bytes` says, what a
/// connection has in its window, and what buffers grow by.
const MEMORY: u64 = (64 + 16 + 32) << 20;

async fn connect(url: &str) -> SendRequest<Bytes> {
    let address = url.strip_prefix("http://").expect("it is plain");
    let socket = TcpStream::connect(address).await.unwrap();
    let (sender, connection) = h2::client::handshake(socket).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// Begins a call, and says how much comes.
async fn begin(sender: &SendRequest<Bytes>, url: &str, call: &str) -> SendStream<Bytes> {
    let request = Request::post(format!("{url}/qbroker.v1.{call}"))
        .version(Version::HTTP_2)
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    let mut sender = sender.clone().ready().await.unwrap();
    let (_answer, mut body) = sender.send_request(request.body(()).unwrap(), false).unwrap();
    let mut prefix = vec![0];
    prefix.extend(BYTES.to_be_bytes());
    body.send_data(prefix.into(), false).unwrap();
    body
}

/// Sends so much of a message, as the broker takes it; `None` where it is refused.
async fn send(mut body: SendStream<Bytes>, mut left: usize) -> Option<SendStream<Bytes>> {
    while 0 < left {
        body.reserve_capacity(left.min(64 << 10));
        let size = poll_fn(|cx| body.poll_capacity(cx)).await?.ok()?.min(left);
        body.send_data(Bytes::from(vec![0; size]), false).ok()?;
        left -= size;
    }
    Some(body)
}

async fn check_what_unfinished_requests_cost(bytes: usize) {
    let stage = Stage::new(&["--max-pending-bytes", "16MiB"]).await;
    stage.work_beside(10).await;
    let before = stage.memory_peak();
    let url = stage.server.url();
    let sender = connect(&url).await;
    let mut sending = JoinSet::new();
    for _ in 0..REQUESTS {
        sending.spawn(send(begin(&sender, &url, PUBLISH).await, bytes));
    }
    let sent = patiently("each is taken or refused", sending.join_all()).await;
    let admitted = sent.iter().flatten().count();
    assert!((1..REQUESTS / 2).contains(&admitted), "{admitted}");
    stage.work_beside(100).await;
    let cost = stage.memory_peak().saturating_sub(before);
    eprintln!("hostile: {REQUESTS} unfinished requests cost {} KiB", cost >> 10);
    assert!(cost < MEMORY, "{cost} bytes of memory for {before} before");
    // Who gives up gives room back.
    drop(sent);
    let begun = async { while send(begin(&sender, &url, PUBLISH).await, bytes).await.is_none() {} };
    patiently("there is room again", begun).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_of_requests_cost_a_bounded_memory_and_hold_up_no_small_ones() {
    check_what_unfinished_requests_cost(PART).await;
}

/// A message that is there waits for the end of its request.
#[tokio::test(flavor = "multi_thread")]
async fn whole_requests_without_an_end_cost_a_bounded_memory_and_hold_up_no_small_ones() {
    check_what_unfinished_requests_cost(WHOLE).await;
}

/// What they say that comes is much, and they send nothing of it.
#[tokio::test(flavor = "multi_thread")]
async fn consumers_that_are_about_to_send_much_keep_nobody_from_publishing_it() {
    let sizes = ["--max-batch-bytes", "8MiB", "--max-payload", "4MiB", "--segment-bytes", "32MiB"];
    let stage = Stage::new(&[&["--max-pending-bytes", "16MiB"][..], &sizes].concat()).await;
    let url = stage.server.url();
    let sender = connect(&url).await;
    let mut begun = Vec::new();
    for _ in 0..REQUESTS {
        begun.push(begin(&sender, &url, "ConsumerService/Consume").await);
    }
    let large = vec![OutgoingMessage::new(vec![7; 3 << 20]); 2];
    stage.client.publish("large", large).await.unwrap();
    stage.work_beside(10).await;
    drop(begun);
}

/// Far more of large messages at once than there is room for: they wait for each other in their clients.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_refused_for_the_room_that_others_have_comes_again() {
    let sizes = ["--max-batch-bytes", "8MiB", "--max-payload", "4MiB", "--segment-bytes", "32MiB"];
    let flags = [&["--max-pending-bytes", "16MiB"][..], &sizes].concat();
    let stage = Stage::new(&flags).await;
    let large = || OutgoingMessage::new(vec![7; 3 << 20]);
    // Room is left for three of them.
    let url = stage.server.url();
    let sender = connect(&url).await;
    let mut held = Vec::new();
    for _ in 0..6 {
        held.push(send(begin(&sender, &url, PUBLISH).await, PART).await.expect("there is room"));
    }
    let mut publishing = JoinSet::new();
    for number in 0..20 {
        let client = stage.client.clone();
        publishing.spawn(async move {
            if number % 2 == 0 {
                return client.publish("large", vec![large(), large()]).await.map(drop);
            }
            let publisher = client.publisher("large").open().await?;
            for _ in 0..2 {
                publisher.publish(large()).await?;
            }
            publisher.close().await
        });
    }
    for done in patiently("all are stored", publishing.join_all()).await {
        done.unwrap();
    }
    assert_eq!(stage.client.get_queue("large").await.unwrap().stats.ready, 40);
    drop(held);
}
