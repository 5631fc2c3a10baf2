//! A disk that is full or cannot be written: publishes are refused, everything that drains goes on,
//! and nothing confirmed is lost.

use std::sync::Arc;
use std::time::Duration;

use qbroker::clock::{Clock, ManualClock};
use qbroker::engine::{self, Engine, PullAnswer};
use qbroker::queue::body::StoredMessage;
use qbroker::queue::ids::ConsumerId;
use qbroker::queue::index::Index as _;
use qbroker::queue::refused::Refused;
use qbroker::queue::state::{CatchUp, PutSchedule};
use qbroker::queue::{
    Limits, NewMessage, Outcome as Verdict, Publish, Pull, Selector, Settle, Settlement,
};
use qbroker_client::{Client, Error, Outcome, OutgoingMessage, Reason, Receipt};
use qbroker_storage::disk::sim::{Faults, SimDisk};
use qbroker_tests::folder::Folder;
use qbroker_tests::mount::Mount;
use qbroker_tests::patiently;
use qbroker_tests::server::{Ended, Server};

/// A client that gives up at once where it is told to come back later.
async fn client(server: &Server) -> Client {
    let builder = Client::builder(server.url()).request_timeout(Duration::from_millis(500));
    builder.connect().await.unwrap()
}

async fn publish(client: &Client, payload: Vec<u8>) -> Result<Vec<Receipt>, Error> {
    client.publish("work", vec![OutgoingMessage::new(payload)]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_publishes_and_drains_and_takes_them_again() {
    const DISK: u64 = 64 << 20;
    let folder = Folder::new();
    let Some(_mount) = Mount::memory(folder.data(), DISK) else { return };
    let server = Server::start(&folder, &[]).await;
    let client = client(&server).await;
    let mut stored = 0;
    let refused = loop {
        match publish(&client, vec![7; 256 << 10]).await {
            Ok(_) => stored += 1,
            Err(refused) => break refused,
        }
        assert!(stored < DISK / (256 << 10), "more is stored than there is room for");
    };
    assert_eq!(refused.reason(), Some(&Reason::DiskFull), "{refused}");
    assert!(refused.is_retryable());
    assert_eq!(refused.retry_delay(), Some(Duration::from_secs(5)));
    assert!(0 < stored);
    let told = "the disk is at its reserve: publishes are refused, settling goes on";
    assert!(server.wait_for(told).await.is_some());

    // Settling goes on, and deleting; a whole queue can be worked off.
    let mut acked = 0;
    while acked + 4 < stored {
        let pulled = client.pull(["work"], 4, Duration::ZERO, None).await.unwrap();
        let acks = pulled.iter().map(|leased| (leased.lease_token.clone(), Outcome::Ack));
        let settled = client.settle(acks.collect()).await.unwrap();
        assert!(settled.iter().all(Result::is_ok), "{settled:?}");
        acked += pulled.len() as u64;
    }
    // Killed and started on the full disk, everything confirmed is there.
    server.kill().await;
    let server = Server::start(&folder, &[]).await;
    let client = self::client(&server).await;
    let stats = client.get_queue("work").await.unwrap().stats;
    assert_eq!((stats.ready, stats.acked_total), (stored - acked, acked));
    // In order it leaves a checkpoint, and what is done goes: there is room again.
    server.stop().await;
    Server::start(&folder, &[]).await.stop().await;
    let server = Server::start(&folder, &[]).await;
    let client = self::client(&server).await;
    let publishing = async {
        while let Err(error) = publish(&client, vec![8; 1_000]).await {
            assert_eq!(error.reason(), Some(&Reason::DiskFull), "{error}");
        }
    };
    patiently("room on the disk", publishing).await;
    let stats = client.get_queue("work").await.unwrap().stats;
    assert_eq!(stats.ready, stored - acked + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_on_a_disk_without_room_is_refused_and_works_once_there_is_some() {
    let folder = Folder::new();
    let Some(_mount) = Mount::memory(folder.data(), 16 << 20) else { return };
    let ballast = folder.data().join("lost+found");
    std::fs::write(&ballast, vec![1; 17 << 20]).unwrap_err();
    let ended = refused(&folder).await;
    assert_eq!(ended.code, Some(69), "{}", ended.log);
    let errors = ended.errors();
    assert!(errors.contains("the disk is full") && errors.contains("free some space"), "{errors}");
    std::fs::remove_file(ballast).unwrap();
    Server::start(&folder, &[]).await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_cannot_be_written_is_refused_and_left_as_it_is() {
    let folder = Folder::new();
    let Some(mount) = Mount::memory(folder.data(), 32 << 20) else { return };
    let server = Server::start(&folder, &[]).await;
    publish(&client(&server).await, b"one".to_vec()).await.unwrap();
    server.kill().await;
    mount.set_read_only(true);
    let ended = refused(&folder).await;
    assert_eq!(ended.code, Some(69), "{}", ended.log);
    let errors = ended.errors();
    assert!(errors.contains("cannot be written") && errors.contains("its mount"), "{errors}");
    mount.set_read_only(false);
    let server = Server::start(&folder, &[]).await;
    assert_eq!(client(&server).await.get_queue("work").await.unwrap().stats.ready, 1);
}

async fn refused(folder: &Folder) -> Ended {
    match Server::try_start(folder, &[]).await {
        Ok(server) => panic!("it serves:\n{}", server.log()),
        Err(ended) => ended,
    }
}

/// A broker on a simulated disk of bounded size: it shows the same where mounting is not allowed.
struct Simulated {
    engine: Arc<Engine>,
}

fn options() -> engine::Options {
    engine::Options {
        log: qbroker_storage::Options {
            segment_bytes: 16 << 10,
            spare_segments: 1,
            // Enough that no burst uses it up before the space is looked at again.
            disk_reserve_bytes: 512 << 10,
            ..qbroker_storage::Options::default()
        },
        limits: Limits::default(),
        pending_bytes_max: 1 << 20,
        clock: Clock::Manual(ManualClock::default()),
    }
}

impl Simulated {
    fn open(disk: &SimDisk) -> Self {
        let stopped = |error: &_| panic!("the log stopped: {error}");
        let (engine, _) = Engine::open(disk.shared(), options(), stopped).unwrap();
        Self { engine }
    }

    async fn publish(&self) -> Result<(), Refused> {
        let stored = StoredMessage { payload: vec![7; 900].into(), ..StoredMessage::default() };
        let message = NewMessage {
            queue: "work".into(),
            payload_bytes: 900,
            body: stored.into_body(&mut bytes::BytesMut::new()),
            ..NewMessage::default()
        };
        let publish = Publish { messages: vec![message] };
        let published = self.engine.call(|core, now, out| core.publish(&publish, now, out));
        published.await.expect("the log goes on").map(drop)
    }

    /// Takes one message and acks it; whether there was one.
    async fn work(&self) -> bool {
        let (queues, session) = (vec![Selector::plain("work")], String::new());
        let pull = Pull {
            queues,
            messages_max: 1,
            lease_duration_ms: None,
            session,
            request_id: String::new(),
        };
        let (_, answer) = self.engine.pull(&pull).unwrap();
        let deliveries = match answer.unwrap() {
            PullAnswer::Now(deliveries) => deliveries,
            PullAnswer::Waiting(pull, answer) => {
                self.engine.cancel_pull(pull, answer);
                return false;
            }
        };
        let settlements = vec![Settlement::plain(deliveries[0].token, Verdict::Ack)];
        let (consumer, number, answered_through) = (ConsumerId::NONE, 0, 0);
        let settle = Settle { consumer, number, answered_through, settlements };
        let settled = self.engine.call(|core, now, out| core.settle(&settle, now, out));
        assert_eq!(settled.await.expect("the log goes on").unwrap(), []);
        true
    }

    fn ready(&self) -> u64 {
        self.waiting("work")
    }

    fn waiting(&self, queue: &str) -> u64 {
        let ready = |core: &engine::Core| {
            core.queue(queue).map_or(0, |queue| core.index().counts(queue.id()).ready)
        };
        self.engine.look(ready).1
    }
}

/// A stop wrote its own beside the thread's, and whoever came second with the older one panicked.
#[tokio::test(flavor = "multi_thread")]
async fn checkpoints_that_are_written_at_once_come_one_after_the_other() {
    let disk = SimDisk::new(5);
    let broker = Simulated::open(&disk);
    let writers: Vec<_> = (0..4)
        .map(|_| {
            let engine = broker.engine.clone();
            tokio::task::spawn_blocking(move || {
                for _ in 0..50 {
                    engine.checkpoint().unwrap();
                }
            })
        })
        .collect();
    for _ in 0..200 {
        broker.publish().await.unwrap();
    }
    for writer in writers {
        writer.await.unwrap();
    }
    broker.engine.close().unwrap();
}

/// Nobody else takes a turn here: without a look of its own the broker never learned of the room.
#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_that_waits_for_room_goes_on_when_there_is_some() {
    let disk = SimDisk::new(4);
    disk.set_faults(Faults { capacity: Some(2 << 20), ..Faults::default() });
    let broker = Simulated::open(&disk);
    let body = StoredMessage::default().into_body(&mut bytes::BytesMut::new());
    let put = PutSchedule {
        name: "nightly".into(),
        cron: "@every 10s".to_owned(),
        time_zone: String::new(),
        message: NewMessage { queue: "ticks".into(), body, ..NewMessage::default() },
        catch_up: CatchUp::All,
        jitter_ms: 0,
        skip_if_unfinished: false,
        paused: None,
    };
    let made = broker.engine.call(|core, now, out| core.put_schedule(&put, now, out)).await;
    made.expect("the log goes on").expect("it can be made");
    while broker.publish().await.is_ok() {}
    let timer = tokio::spawn(broker.engine.clone().run_timer());
    let Clock::Manual(clock) = broker.engine.clock() else { unreachable!("it is moved by hand") };
    clock.advance(10_000);
    // What is worked off would give room as well, with turns of its own.
    disk.set_faults(Faults::default());
    let ticked = async {
        while broker.waiting("ticks") == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    patiently("the tick", ticked).await;
    timer.abort();
    broker.engine.close().unwrap();
}

#[tokio::test]
async fn a_full_simulated_disk_drains_to_the_last_message_and_fills_again() {
    let mut disk = SimDisk::new(3);
    let small = Faults { capacity: Some(2 << 20), ..Faults::default() };
    disk.set_faults(small.clone());
    let mut broker = Simulated::open(&disk);
    for round in 0..3 {
        let mut stored = broker.ready();
        let refused = loop {
            match broker.publish().await {
                Ok(()) => stored += 1,
                Err(refused) => break refused,
            }
        };
        assert_eq!(refused, Refused::DiskFull);
        assert!(200 < stored, "round {round}: there was room for {stored} only");
        // Also over a kill, with the disk as full as it is.
        let killed = disk.killed();
        broker.engine.close().unwrap();
        disk = killed;
        disk.set_faults(small.clone());
        broker = Simulated::open(&disk);
        assert_eq!(broker.ready(), stored);
        for left in (0..stored).rev() {
            assert!(broker.work().await, "round {round}: stuck with {left} messages left");
            // As its own thread would after so much log; what was worked off leaves with that.
            if left % 32 == 0 {
                broker.engine.checkpoint().unwrap();
            }
        }
        assert!(!broker.work().await);
    }
    broker.engine.close().unwrap();
}
