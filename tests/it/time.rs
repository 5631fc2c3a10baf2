//! What time does to messages and leases: delays, backoffs, leases that end, sessions that are lost.
//! The clock is the test's, but for the last test, which shows on a real one that nothing is early.

use std::process::Command;
use std::time::{Duration, Instant, UNIX_EPOCH};

use qbroker::queue::time::Now;
use qbroker_client::{
    Client, DeadLetterReason, Error, Failure, Leased, Limit, MessageQuery, Outcome,
    OutgoingMessage, QueuePolicy, QueueSpec, Reason,
};
use qbroker_proto::v1::{PullRequest, QueueSelector};
use qbroker_tests::embedded::{Embedded, clock};
use qbroker_tests::folder::Folder;
use qbroker_tests::front::Front;
use qbroker_tests::server::Server;
use qbroker_tests::wire::Wire;
use qbroker_tests::{load, patiently, seed};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

async fn publish(client: &Client, message: OutgoingMessage) {
    client.publish("q", vec![message]).await.unwrap();
}

/// What there is now, leased for this long by nobody's session.
async fn pull(broker: &Embedded, lease: Duration) -> Vec<Leased> {
    let selector = QueueSelector { queue: "q".to_owned(), ..QueueSelector::default() };
    let request = PullRequest {
        queues: vec![selector],
        max_messages: 10,
        wait_timeout: Some(prost_types::Duration::default()),
        lease_duration: Some(lease.try_into().unwrap()),
        ..PullRequest::default()
    };
    let wire = Wire::connect(&broker.url()).await;
    let answer = wire.consumer().pull(request).await.unwrap().into_inner();
    answer.batch.unwrap().deliveries.into_iter().map(Leased::from).collect()
}

async fn payloads(broker: &Embedded) -> Vec<String> {
    let text = |leased: Leased| String::from_utf8(leased.message.payload.to_vec()).unwrap();
    pull(broker, HOUR).await.into_iter().map(text).collect()
}

async fn settle(client: &Client, leased: &Leased, outcome: Outcome) -> Result<(), Error> {
    client.settle(vec![(leased.lease_token.clone(), outcome)]).await.unwrap().remove(0)
}

/// A backup counts on from where the original did: what the original has granted since is nothing to it.
#[tokio::test(flavor = "multi_thread")]
async fn a_restored_copy_knows_no_lease_that_was_granted_since_it_was_made() {
    let (folder, copy, clock) = (Folder::new(), Folder::new(), clock());
    let broker = Embedded::start(&folder, &clock).await;
    publish(&broker.client().await, OutgoingMessage::new("job")).await;
    broker.stop().await;
    let copied = Command::new("cp").arg("-a").args([folder.data(), copy.data()]).status();
    assert!(copied.expect("cp runs").success());

    clock.advance(1_000);
    let broker = Embedded::start(&folder, &clock).await;
    let granted = pull(&broker, HOUR).await.remove(0);
    broker.stop().await;

    clock.advance(1_000);
    let broker = Embedded::start(&copy, &clock).await;
    let again = pull(&broker, HOUR).await.remove(0);
    assert_ne!(granted.lease_token, again.lease_token);
    let client = broker.client().await;
    let refused = settle(&client, &granted, Outcome::Ack).await.unwrap_err();
    assert_eq!(refused.reason(), Some(&Reason::LeaseLost));
    settle(&client, &again, Outcome::Ack).await.unwrap();
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delay_is_over_to_the_millisecond_also_across_restarts_and_jumps_of_the_wall_clock() {
    let (folder, clock) = (Folder::new(), clock());
    let broker = Embedded::start(&folder, &clock).await;
    let client = broker.client().await;
    publish(&client, OutgoingMessage::new("relative").delay(10 * SECOND)).await;
    let at = UNIX_EPOCH + Duration::from_millis(1_700_000_000_000) + 20 * SECOND;
    publish(&client, OutgoingMessage::new("absolute").deliver_time(at)).await;
    broker.pass(4 * SECOND);
    assert_eq!(payloads(&broker).await, [] as [&str; 0]);
    broker.stop().await;

    // Time goes on while nobody serves.
    clock.advance(5_000);
    let broker = Embedded::start(&folder, &clock).await;
    let client = broker.client().await;
    broker.pass(SECOND - MS);
    assert_eq!(payloads(&broker).await, [] as [&str; 0], "a millisecond early");
    broker.pass(MS);
    assert_eq!(payloads(&broker).await, ["relative"]);

    // The wall clock is set back an hour: elapsed time is elapsed, an absolute time is not there.
    publish(&client, OutgoingMessage::new("relative").delay(30 * SECOND)).await;
    let boot_ms = 1_000_000 + 10_000;
    clock.set(Now { wall_ms: 1_700_000_010_000 - 3_600_000, boot_ms, begun: false });
    broker.pass(30 * SECOND);
    assert_eq!(payloads(&broker).await, ["relative"]);
    let boot_ms = boot_ms + 30_000;
    clock.set(Now { wall_ms: 1_700_000_020_000 - 1, boot_ms, begun: false });
    broker.pass(Duration::ZERO);
    assert_eq!(payloads(&broker).await, [] as [&str; 0], "a millisecond early");
    broker.pass(MS);
    assert_eq!(payloads(&broker).await, ["absolute"]);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_to_live_ends_to_the_millisecond_also_across_restarts_and_jumps_of_the_wall_clock() {
    let (folder, clock) = (Folder::new(), clock());
    let broker = Embedded::start(&folder, &clock).await;
    let client = broker.client().await;
    let policy = QueuePolicy { message_ttl: Some(20 * SECOND), ..QueuePolicy::default() };
    client.create_queue(QueueSpec::new("q").policy(policy)).await.unwrap();
    publish(&client, OutgoingMessage::new("own").ttl(10 * SECOND).priority(1)).await;
    publish(&client, OutgoingMessage::new("queue's")).await;
    publish(&client, OutgoingMessage::new("for ever").ttl(Duration::ZERO)).await;
    publish(&client, OutgoingMessage::new("never ready").ttl(15 * SECOND).delay(HOUR)).await;
    let listed = client.list_messages("q", MessageQuery::default()).await.unwrap().items;
    let expire_times: Vec<_> = listed.iter().map(|it| it.message.expire_time).collect();
    let at = |seconds: u32| Some(UNIX_EPOCH + (1_700_000_000 + seconds) * SECOND);
    assert_eq!(expire_times, [at(10), at(20), None, at(15)]);
    broker.stop().await;

    // Nobody serves, and the wall clock jumps ahead, then back behind the beginning.
    let boot_ms = 1_000_000;
    clock.set(Now {
        wall_ms: 1_700_000_000_000 + 3_600_000,
        boot_ms: boot_ms + 9_000,
        begun: false,
    });
    let broker = Embedded::start(&folder, &clock).await;
    let client = broker.client().await;
    broker.pass(SECOND - MS);
    let held = pull(&broker, 6 * SECOND).await;
    assert_eq!(held.len(), 3, "a millisecond early");
    clock.set(Now { wall_ms: 1_600_000_000_000, boot_ms: boot_ms + 10_000, begun: false });
    broker.pass(Duration::ZERO);
    let dead = async || {
        let letters = client.list_messages("q.dead", MessageQuery::default()).await;
        let letters = letters.map(|page| page.items).unwrap_or_default();
        let told = letters.into_iter().map(|it| {
            let info = it.message.dead_letter.expect("it is a dead letter");
            assert_eq!(
                (info.reason, info.source_queue),
                (DeadLetterReason::Expired, "q".to_owned())
            );
            assert_eq!(it.message.expire_time, None);
            (String::from_utf8(it.message.payload.to_vec()).unwrap(), info.attempts)
        });
        told.collect::<Vec<_>>()
    };
    assert_eq!(dead().await, [], "somebody holds it");
    let release = Outcome::Release { delay: None };
    settle(&client, &held[0], release).await.unwrap();
    assert_eq!(payloads(&broker).await, [] as [&str; 0], "it comes back too late");
    assert_eq!(dead().await, [("own".to_owned(), 0)]);
    broker.pass(5 * SECOND - MS);
    assert_eq!(dead().await.len(), 1, "a millisecond early");
    broker.pass(MS);
    assert_eq!(dead().await.last(), Some(&("never ready".to_owned(), 0)));
    // The leases end by themselves, which counts; by then one of both is not wanted any more.
    broker.pass(5 * SECOND - MS);
    assert_eq!(dead().await.len(), 2, "back in time");
    broker.pass(MS);
    assert_eq!(payloads(&broker).await, ["for ever"]);
    assert_eq!(dead().await.last(), Some(&("queue's".to_owned(), 1)));
    let stats = client.get_queue("q").await.unwrap().stats;
    assert_eq!((stats.expired_total, stats.dead_lettered_total), (3, 3));
    assert_eq!((stats.expired_leases_total, stats.leased), (2, 1));
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_message_waits_for_its_backoff_and_keeps_its_place() {
    let (folder, clock) = (Folder::new(), clock());
    let broker = Embedded::start(&folder, &clock).await;
    let client = broker.client().await;
    for name in ["first", "second"] {
        publish(&client, OutgoingMessage::new(name)).await;
    }
    let leased = pull(&broker, HOUR).await;
    let nack = Outcome::Nack { delay: Some(7 * SECOND), failure: Some(Failure::new("E", "no")) };
    settle(&client, &leased[0], nack).await.unwrap();
    settle(&client, &leased[1], Outcome::Release { delay: Some(7 * SECOND) }).await.unwrap();
    publish(&client, OutgoingMessage::new("third").delay(7 * SECOND)).await;
    broker.pass(7 * SECOND - MS);
    assert_eq!(payloads(&broker).await, [] as [&str; 0]);
    broker.pass(MS);
    let again = pull(&broker, HOUR).await;
    let seen: Vec<_> =
        again.iter().map(|l| (&l.message.payload[..], l.attempt, l.failures)).collect();
    assert_eq!(seen, [(&b"first"[..], 2, 1), (b"second", 1, 0), (b"third", 1, 0)]);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pulled_lease_ends_by_its_time_and_counts_a_crash_until_there_were_too_many() {
    let (folder, clock) = (Folder::new(), clock());
    let broker = Embedded::start(&folder, &clock).await;
    let client = broker.client().await;
    let policy = QueuePolicy { max_crashes: Some(Limit::AtMost(2)), ..QueuePolicy::default() };
    client.create_queue(QueueSpec::new("q").policy(policy)).await.unwrap();
    publish(&client, OutgoingMessage::new("poison")).await;
    let first = pull(&broker, 30 * SECOND).await.remove(0);
    // Extended in time it lasts as long again, from then on.
    broker.pass(29 * SECOND);
    let extended = client.extend_leases(vec![first.lease_token.clone()], None).await.unwrap();
    assert_eq!(extended, [Ok(())]);
    broker.pass(30 * SECOND - MS);
    assert!(pull(&broker, HOUR).await.is_empty(), "ended a millisecond early");
    broker.pass(MS);
    let second = pull(&broker, 30 * SECOND).await.remove(0);
    assert_eq!((second.attempt, second.failures, second.crashes), (2, 0, 1));
    assert_ne!(second.lease_token, first.lease_token);
    let late = settle(&client, &first, Outcome::Ack).await.unwrap_err();
    assert_eq!(late.reason(), Some(&Reason::LeaseLost));
    broker.pass(30 * SECOND);
    assert!(pull(&broker, HOUR).await.is_empty());
    let letters = client.list_messages("q.dead", MessageQuery::default()).await.unwrap().items;
    let letter = letters[0].message.dead_letter.as_ref().unwrap();
    assert_eq!(letter.reason, DeadLetterReason::MaxCrashes);
    assert_eq!((letter.attempts, &*letter.source_queue), (2, "q"));
    assert_eq!(client.get_queue("q").await.unwrap().stats.expired_leases_total, 2);
    // Seven days later nobody wants to know.
    broker.pass(7 * 24 * HOUR);
    assert_eq!(client.get_queue("q.dead").await.unwrap().stats.ready, 0);
    broker.stop().await;
}

/// Waits until the broker has seen the last stream go.
async fn no_consumer(client: &Client) {
    let gone = async {
        while client.get_queue("q").await.unwrap().stats.consumers != 0 {
            tokio::task::yield_now().await;
        }
    };
    patiently("the end of the stream", gone).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_comes_back_in_its_grace_goes_on_and_one_that_does_not_has_crashed() {
    let (folder, clock) = (Folder::new(), clock());
    let broker = Embedded::start(&folder, &clock).await;
    let client = broker.client().await;
    let front = Front::open().await;
    front.lead_to(broker.grpc());
    let worker = load::client(&front.url()).await;
    let consumer = worker.consumer(["q"]).open().await.unwrap();
    publish(&client, OutgoingMessage::new("job")).await;
    let job = patiently("the job", consumer.next()).await.unwrap().unwrap();
    // However long it takes: its session lives.
    broker.pass(24 * HOUR);
    assert!(!job.is_lost());

    front.lead_nowhere();
    front.cut();
    no_consumer(&client).await;
    broker.pass(15 * SECOND - MS);
    assert!(pull(&broker, HOUR).await.is_empty(), "its grace is not over");
    front.lead_to(broker.grpc());
    patiently("the ack", job.ack()).await.unwrap();
    let stats = client.get_queue("q").await.unwrap().stats;
    assert_eq!((stats.acked_total, stats.expired_leases_total), (1, 0));

    publish(&client, OutgoingMessage::new("lost")).await;
    let job = patiently("the job", consumer.next()).await.unwrap().unwrap();
    front.lead_nowhere();
    front.cut();
    no_consumer(&client).await;
    broker.pass(15 * SECOND);
    let taken = pull(&broker, HOUR).await.remove(0);
    assert_eq!((taken.attempt, taken.failures, taken.crashes), (2, 0, 1));
    front.lead_to(broker.grpc());
    patiently("the loss", job.lost()).await;
    let late = patiently("the answer", job.ack()).await.unwrap_err();
    assert!(matches!(late, Error::LeaseLost(_)), "{late}");
    settle(&client, &taken, Outcome::Ack).await.unwrap();
    drop(consumer);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn graces_and_leases_stand_still_while_nobody_serves() {
    let (folder, clock) = (Folder::new(), clock());
    let broker = Embedded::start(&folder, &clock).await;
    let front = Front::open().await;
    front.lead_to(broker.grpc());
    let worker = load::client(&front.url()).await;
    // Room for the first message, so that the second is for the pull.
    let consumer = worker.consumer(["q"]).window(1).open().await.unwrap();
    let client = broker.client().await;
    for name in ["streamed", "pulled"] {
        publish(&client, OutgoingMessage::new(name)).await;
        if name == "streamed" {
            let job = patiently("the job", consumer.next()).await.unwrap().unwrap();
            // Held by a worker that will be gone.
            std::mem::forget(job);
        }
    }
    let pulled = pull(&broker, 30 * SECOND).await;
    assert_eq!(&pulled[0].message.payload[..], b"pulled");
    front.lead_nowhere();
    broker.stop().await;

    clock.advance(3_600_000);
    let broker = Embedded::start(&folder, &clock).await;
    broker.pass(15 * SECOND - MS);
    assert!(pull(&broker, HOUR).await.is_empty(), "the grace runs anew from the start on");
    broker.pass(MS);
    let again = pull(&broker, HOUR).await;
    assert_eq!(&again[0].message.payload[..], b"streamed");
    assert_eq!(again[0].crashes, 1);
    broker.pass(15 * SECOND - MS);
    assert!(pull(&broker, HOUR).await.is_empty(), "the lease runs anew from the start on");
    broker.pass(MS);
    assert_eq!(payloads(&broker).await, ["pulled"]);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_id_is_remembered_for_its_window_also_over_a_restart() {
    let (folder, clock) = (Folder::new(), clock());
    let publish = async |client: &Client| {
        let message = OutgoingMessage::new("m").message_id("id");
        client.publish("q", vec![message]).await.unwrap()[0].duplicate
    };
    let broker = Embedded::start(&folder, &clock).await;
    assert!(!publish(&broker.client().await).await);
    broker.pass(150 * SECOND);
    broker.stop().await;
    let broker = Embedded::start(&folder, &clock).await;
    let client = broker.client().await;
    broker.pass(150 * SECOND - MS);
    assert!(publish(&client).await, "it is remembered for five minutes");
    broker.pass(MS);
    assert!(!publish(&client).await, "and no longer");
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_delay_ends_early_though_the_broker_is_killed_meanwhile() {
    let mut rng = seed::rng("delays");
    let folder = Folder::new();
    let server = Server::start(&folder, &[]).await;
    let client = Client::connect(server.url()).await.unwrap();
    let mut due = Vec::new();
    for number in 0..100 {
        let delay = MS * u32::try_from(rng.below(1_500)).unwrap();
        // Accepted later than this, so due later than this and the delay.
        due.push(Instant::now() + delay);
        publish(&client, OutgoingMessage::new(number.to_string()).delay(delay)).await;
    }
    server.kill().await;
    let server = Server::start(&folder, &[]).await;
    let client = Client::connect(server.url()).await.unwrap();
    let mut left = due.len();
    while 0 < left {
        let pulled = client.pull(["q"], 100, 20 * SECOND, Some(HOUR)).await.unwrap();
        let now = Instant::now();
        for leased in &pulled {
            let number: usize =
                std::str::from_utf8(&leased.message.payload).unwrap().parse().unwrap();
            assert!(due[number] <= now, "{number} is {:?} early", due[number] - now);
            assert_eq!(leased.attempt, 1);
        }
        assert!(!pulled.is_empty(), "{left} messages are lost");
        left -= pulled.len();
    }
}
