//! SIGTERM and start: no running job repeats, nothing is counted, leases go on, and whoever still
//! works settles afterwards.

use std::sync::Arc;
use std::time::Duration;

use qbroker_client::{Client, Error, Outcome, OutgoingMessage, Reason};
use qbroker_tests::embedded::{self, Embedded};
use qbroker_tests::folder::Folder;
use qbroker_tests::front::Front;
use qbroker_tests::ledger::{End, Ledger, Verdict};
use qbroker_tests::load::{self, Load};
use qbroker_tests::patiently;
use qbroker_tests::seed::{self, Rng};
use qbroker_tests::server::Server;
use rustix::process::Signal;

use crate::kill::check_figures;

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_broker_gives_its_port_and_its_folder_back() {
    let (folder, clock) = (Folder::new(), embedded::clock());
    let broker = Embedded::start(&folder, &clock).await;
    let client = broker.client().await;
    client.publish("q", vec![OutgoingMessage::new("kept")]).await.unwrap();
    let address = broker.grpc();
    drop(broker);
    let closed = async {
        while tokio::net::TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    patiently("its port closes", closed).await;
    // Waits for the folder's lock.
    let broker = Embedded::start(&folder, &clock).await;
    let stats = broker.client().await.get_queue("q").await.unwrap().stats;
    assert_eq!(stats.ready, 1);
    broker.stop().await;
}

/// Acks, but every eighth job is a long one.
fn judge(mut rng: Rng) -> impl FnMut() -> Option<Verdict> {
    move || (rng.below(8) != 0).then_some(Verdict::End(End::Acked))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_under_load_repeats_no_running_job_and_counts_no_attempt() {
    const FLAGS: [&str; 2] = ["--shutdown-grace", "100ms"];
    let mut rng = seed::rng("stop");
    let folder = Folder::new();
    let mut server = Server::start(&folder, &FLAGS).await;
    let front = Front::before(server.grpc()).await;
    let client = load::client(&front.url()).await;
    load::create_queue(&client).await;

    let ledger = Arc::new(Ledger::default());
    let mut load = Load::new(&front.url(), ledger.clone());
    let mut chance = || Rng::new(rng.next_u64());
    load.add_stream_publisher("s", chance()).await;
    load.add_unary_publisher("u", chance()).await;
    for _ in 0..3 {
        load.add_consumer(judge(chance())).await;
    }
    for _ in 0..seed::rounds(6, 60) {
        ledger.wait_for(rng.below(1_000) as u64).await;
        load.wait_for_long_jobs(10).await;
        let stopped = server.stop().await;
        assert!(10 <= stopped.leases_kept(), "leases were given up:\n{}", stopped.log);
        assert_eq!(stopped.errors(), "");
        server = Server::start(&folder, &FLAGS).await;
        front.lead_to(server.grpc());
        // What ran over the restart settles after it, while new work comes.
        load.end_long_jobs();
        ledger.wait_for(200).await;
        ledger.check();
    }
    load.finish().await;
    let totals = ledger.totals();
    eprintln!("stop: {} stored, {} acked", totals.stored, totals.acked);
    assert_eq!(totals.acked, totals.stored);
    check_figures(&client, &totals).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_broker_takes_settlements_and_nothing_new_and_ends_with_the_last_job() {
    let folder = Folder::new();
    // It must not end by its grace: that would be the patience of the test.
    let server = Server::start(&folder, &["--shutdown-grace", "1h"]).await;
    let client = Client::builder(server.url())
        .request_timeout(Duration::from_millis(500))
        .connect()
        .await
        .unwrap();
    // Two, of which the second one must not begin when the first one is done.
    let jobs = vec![OutgoingMessage::new("job"), OutgoingMessage::new("next")];
    client.publish("work", jobs).await.unwrap();
    let consumer = client.consumer(["work"]).window(1).open().await.unwrap();
    let job = patiently("the job", consumer.next()).await.unwrap().unwrap();

    let server = server.signal(Signal::TERM);
    assert!(server.wait_for("stopping").await.is_some());
    let refused = client.publish("work", vec![OutgoingMessage::new("late")]).await.unwrap_err();
    assert_eq!(refused.reason(), Some(&Reason::ShuttingDown), "{refused}");
    patiently("the answer to the ack", job.ack()).await.unwrap();
    let ended = server.end().await;
    assert_eq!((ended.code, ended.leases_kept()), (Some(0), 0), "{}", ended.log);

    let server = Server::start(&folder, &[]).await;
    let client = Client::connect(server.url()).await.unwrap();
    let stats = client.get_queue("work").await.unwrap().stats;
    assert_eq!((stats.ready, stats.leased, stats.acked_total), (1, 0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_stops_at_once_and_loses_nothing() {
    let folder = Folder::new();
    let server = Server::start(&folder, &["--shutdown-grace", "1h"]).await;
    let client = Client::connect(server.url()).await.unwrap();
    client.publish("work", vec![OutgoingMessage::new("job")]).await.unwrap();
    let consumer = client.consumer(["work"]).open().await.unwrap();
    let job = patiently("the job", consumer.next()).await.unwrap().unwrap();
    let server = server.signal(Signal::TERM);
    assert!(server.wait_for("stopping").await.is_some());
    let ended = server.signal(Signal::TERM).end().await;
    assert_eq!(ended.code, Some(143), "{}", ended.log);

    let server = Server::start(&folder, &[]).await;
    let client = Client::connect(server.url()).await.unwrap();
    let stats = client.get_queue("work").await.unwrap().stats;
    assert_eq!((stats.ready, stats.leased, stats.expired_leases_total), (0, 1, 0));
    drop(job);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pulled_lease_outlives_stop_and_kill_and_settles_afterwards() {
    let folder = Folder::new();
    let server = Server::start(&folder, &["--shutdown-grace", "0s"]).await;
    let client = Client::connect(server.url()).await.unwrap();
    let jobs = ["first", "second"].map(OutgoingMessage::new);
    client.publish("work", jobs.to_vec()).await.unwrap();
    let hour = Some(Duration::from_secs(3600));
    let pulled = client.pull(["work"], 2, Duration::ZERO, hour).await.unwrap();
    let tokens: Vec<_> = pulled.iter().map(|leased| leased.lease_token.clone()).collect();
    assert_eq!(tokens.len(), 2);

    assert_eq!(server.stop().await.leases_kept(), 2);
    let server = Server::start(&folder, &[]).await;
    let client = Client::connect(server.url()).await.unwrap();
    let settled = client.settle(vec![(tokens[0].clone(), Outcome::Ack)]).await.unwrap();
    assert_eq!(settled, [Ok(())]);

    server.kill().await;
    let server = Server::start(&folder, &[]).await;
    let client = Client::connect(server.url()).await.unwrap();
    let again = (tokens[0].clone(), Outcome::Ack);
    let otherwise = (tokens[0].clone(), Outcome::Release { delay: None });
    let second = (tokens[1].clone(), Outcome::Ack);
    let settled = client.settle(vec![again, second]).await.unwrap();
    assert_eq!(settled, [Ok(()), Ok(())], "a repeated ack succeeds over a restart");
    let settled = client.settle(vec![otherwise]).await.unwrap();
    assert!(
        matches!(&settled[0], Err(Error::Refused(refusal)) if refusal.reason == Reason::AlreadySettled),
        "{settled:?}"
    );
    let stats = client.get_queue("work").await.unwrap().stats;
    assert_eq!((stats.acked_total, stats.leased, stats.expired_leases_total), (2, 0, 0));
}
