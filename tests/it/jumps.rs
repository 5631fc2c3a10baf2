//! A wall clock that jumps, over restarts too: leases, operations and schedules. Delays and times to live
//! are in `time.rs`.

use std::time::Duration;

use qbroker::queue::time::Now;
use qbroker_client::{
    Client, Leased, MessageFilter, MessageQuery, OperationOptions, OperationState, OutgoingMessage,
    ScheduleSpec,
};
use qbroker_proto::v1::{PullRequest, QueueSelector};
use qbroker_tests::embedded::{Embedded, clock};
use qbroker_tests::folder::Folder;
use qbroker_tests::wire::Wire;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
/// The clocks as they are at first.
const WALL_MS: u64 = 1_700_000_000_000;
const BOOT_MS: u64 = 1_000_000;
const HOUR_MS: u64 = 3_600_000;

fn now(wall_ms: u64, boot_ms: u64) -> Now {
    Now { wall_ms, boot_ms, begun: false }
}

async fn pull(broker: &Embedded) -> Vec<Leased> {
    let request = PullRequest {
        queues: vec![QueueSelector { queue: "q".to_owned(), ..QueueSelector::default() }],
        max_messages: 10,
        wait_timeout: Some(prost_types::Duration::default()),
        lease_duration: Some(prost_types::Duration { seconds: 30, nanos: 0 }),
        ..PullRequest::default()
    };
    let wire = Wire::connect(&broker.url()).await;
    let answer = wire.consumer().pull(request).await.unwrap().into_inner();
    answer.batch.unwrap().deliveries.into_iter().map(Leased::from).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_lasts_as_long_as_it_lasts_wherever_the_wall_clock_jumps() {
    let (folder, clock) = (Folder::new(), clock());
    let mut broker = Embedded::start(&folder, &clock).await;
    broker.client().await.publish("q", vec![OutgoingMessage::new("job")]).await.unwrap();
    let mut boot_ms = BOOT_MS;
    for (crashes, jump_ms) in (0_u32..).zip([WALL_MS + HOUR_MS, WALL_MS - HOUR_MS, WALL_MS]) {
        let held = pull(&broker).await;
        assert_eq!((held.len(), held[0].crashes), (1, crashes));
        clock.set(now(jump_ms, boot_ms + 1));
        boot_ms += 1;
        broker.pass(29 * SECOND);
        assert!(pull(&broker).await.is_empty(), "the jump to {jump_ms} ends no lease");
        boot_ms += 30_000;
        broker.pass(SECOND);
    }
    // Over a restart it has its whole time again, from the start on.
    assert_eq!(pull(&broker).await.len(), 1);
    broker.stop().await;
    clock.set(now(WALL_MS - 24 * HOUR_MS, boot_ms + 29_999));
    broker = Embedded::start(&folder, &clock).await;
    broker.pass(30 * SECOND - MS);
    assert!(pull(&broker).await.is_empty(), "the lease runs anew from the start on");
    broker.pass(MS);
    assert_eq!(pull(&broker).await.len(), 1);
    broker.stop().await;
}

/// A bug: by the clock they seemed to have come since the operation was begun, and it left them alone.
#[tokio::test(flavor = "multi_thread")]
async fn an_operation_meets_what_was_delayed_before_the_wall_clock_was_set_back() {
    let (folder, clock) = (Folder::new(), clock());
    let broker = Embedded::start(&folder, &clock).await;
    let client = broker.client().await;
    let delayed = OutgoingMessage::new("later").delay(Duration::from_hours(10));
    client.publish("q", vec![delayed; 3]).await.unwrap();
    clock.set(now(WALL_MS - HOUR_MS, BOOT_MS + 1));
    let begun = client.delete_matching("q", MessageFilter::all(), OperationOptions::default());
    let mut operation = begun.await.unwrap();
    while operation.state == OperationState::Running {
        broker.pass(SECOND);
        operation = client.get_operation(&operation.operation_id).await.unwrap();
    }
    assert_eq!((operation.state, operation.done), (OperationState::Succeeded, 3));
    assert_eq!(client.get_queue("q").await.unwrap().stats.scheduled, 0);
    broker.stop().await;
}

/// When its messages were to be published, in seconds after the beginning.
async fn ticks(client: &Client) -> Vec<u64> {
    let page = client.list_messages("q", MessageQuery::default()).await;
    // Before the first tick there is no queue.
    let messages = page.map(|page| page.items).unwrap_or_default();
    let tick = |ms: &String| (ms.parse::<u64>().unwrap() - WALL_MS) / 1_000;
    messages.iter().map(|it| tick(&it.message.headers["schedule-tick-ms"])).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_tick_comes_twice_or_early_wherever_the_wall_clock_jumps() {
    let (folder, clock) = (Folder::new(), clock());
    let broker = Embedded::start(&folder, &clock).await;
    let client = broker.client().await;
    let spec = ScheduleSpec::new("s", "*/10 * * * * *", OutgoingMessage::new("x").queue("q"));
    client.put_schedule(spec).await.unwrap();
    broker.pass(20 * SECOND);
    assert_eq!(ticks(&client).await, [20], "of those that were missed the last one");
    // Set back, the schedule waits until the clock is where it was.
    clock.set(now(WALL_MS - HOUR_MS, BOOT_MS + 20_001));
    broker.pass(60 * SECOND);
    assert_eq!(ticks(&client).await, [20]);
    broker.stop().await;

    clock.set(now(WALL_MS + 15_000, BOOT_MS + 90_000));
    let broker = Embedded::start(&folder, &clock).await;
    let client = broker.client().await;
    broker.pass(15 * SECOND - MS);
    assert_eq!(ticks(&client).await, [20], "a millisecond early");
    broker.pass(MS);
    assert_eq!(ticks(&client).await, [20, 30]);
    // Set ahead, the last tick is caught up, once, and the next ones follow.
    clock.set(now(WALL_MS + HOUR_MS + 5_000, BOOT_MS + 110_000));
    broker.pass(Duration::ZERO);
    assert_eq!(ticks(&client).await, [20, 30, 3_600]);
    broker.stop().await;
    let broker = Embedded::start(&folder, &clock).await;
    let client = broker.client().await;
    broker.pass(5 * SECOND);
    assert_eq!(ticks(&client).await, [20, 30, 3_600, 3_610]);
    broker.stop().await;
}
