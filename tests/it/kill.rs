//! SIGKILL at any moment under load: what was confirmed is there, what was acked stays gone, and
//! nothing is stored, delivered or counted twice.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use qbroker_client::{Client, MessageQuery};
use qbroker_tests::folder::Folder;
use qbroker_tests::front::Front;
use qbroker_tests::ledger::{End, Ledger, Totals, Verdict};
use qbroker_tests::load::{self, DEAD, Load, QUEUE};
use qbroker_tests::patiently;
use qbroker_tests::seed::{self, Rng};
use qbroker_tests::server::Server;

/// Mostly acks; some of everything else.
pub(crate) fn judge(mut rng: Rng) -> impl FnMut() -> Option<Verdict> {
    move || match rng.below(20) {
        0 | 1 => Some(Verdict::Nack),
        2 => Some(Verdict::Release),
        3 => Some(Verdict::End(End::DeadLettered)),
        _ => Some(Verdict::End(End::Acked)),
    }
}

/// Ends the broker in one of the ways a machine knows, and starts it again.
async fn end_and_start(server: Server, folder: &Folder, front: &Front, rng: &mut Rng) -> Server {
    match rng.below(6) {
        // In order: leaves a checkpoint, so that later starts are from one.
        0 => {
            server.stop().await;
        }
        // Again while it recovers.
        1 => {
            server.kill().await;
            let starting = Server::spawn(folder, &FLAGS);
            starting.wait_for_life().await;
            starting.kill().await;
        }
        // The network first: the broker has time to notice that its clients are gone.
        2 => {
            front.lead_nowhere();
            front.cut();
            server.kill().await;
        }
        _ => server.kill().await,
    }
    let server = Server::start(folder, &FLAGS).await;
    front.lead_to(server.grpc());
    server
}

const FLAGS: [&str; 2] = ["--shutdown-grace", "0s"];

#[tokio::test(flavor = "multi_thread")]
async fn nothing_confirmed_is_lost_and_no_ack_comes_undone_by_sigkill_under_load() {
    let mut rng = seed::rng("kill");
    let folder = Folder::new();
    let mut server = Server::start(&folder, &FLAGS).await;
    let front = Front::before(server.grpc()).await;
    let client = load::client(&front.url()).await;
    load::create_queue(&client).await;

    let ledger = Arc::new(Ledger::default());
    let mut load = Load::new(&front.url(), ledger.clone());
    let mut chance = || Rng::new(rng.next_u64());
    load.add_stream_publisher("s", chance()).await;
    load.add_stream_publisher("t", chance()).await;
    load.add_unary_publisher("u", chance()).await;
    for _ in 0..3 {
        load.add_consumer(judge(chance())).await;
    }
    for _ in 0..seed::rounds(20, 200) {
        let moment = rng.below(3_000) as u64;
        ledger.wait_for(moment).await;
        server = end_and_start(server, &folder, &front, &mut rng).await;
        ledger.check();
    }
    ledger.wait_for(1_000).await;
    load.finish().await;

    let totals = ledger.totals();
    eprintln!("kill: {} stored, {} acked, {} dead", totals.stored, totals.acked, totals.dead.len());
    check_figures(&client, &totals).await;
    // Everything stands on disk, not in the process that counted it.
    server.kill().await;
    let server = Server::start(&folder, &FLAGS).await;
    front.lead_to(server.grpc());
    check_figures(&client, &totals).await;
    check_empty(&client).await;
    let stopped = server.stop().await;
    assert_eq!(stopped.errors(), "");
}

/// Nothing is delivered any more.
pub(crate) async fn check_empty(client: &Client) {
    let pull = client.pull([QUEUE], 1_000, Duration::ZERO, None);
    let again = patiently("an answer", pull).await.expect("the broker answers");
    assert!(again.is_empty(), "came again after everything was settled: {again:?}");
}

/// The broker's own figures are those of its clients, to the message.
pub(crate) async fn check_figures(client: &Client, totals: &Totals) {
    let stats = client.get_queue(QUEUE).await.unwrap().stats;
    assert_eq!((stats.ready, stats.scheduled, stats.leased, stats.parked), (0, 0, 0, 0));
    assert_eq!(stats.published_total, totals.stored);
    assert_eq!(stats.acked_total, totals.acked);
    assert_eq!(stats.retried_total, totals.nacked);
    assert_eq!(stats.dead_lettered_total, totals.dead.len() as u64);
    assert_eq!(stats.dead, totals.dead.len() as u64);
    assert_eq!(stats.expired_leases_total, 0);
    if !totals.dead.is_empty() {
        assert_eq!(dead_letters(client).await, totals.dead);
    }
}

/// The names of all dead letters, each once, each with what its consumer said.
async fn dead_letters(client: &Client) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut query = MessageQuery { page_size: 500, ..MessageQuery::default() };
    loop {
        let page = client.list_messages(DEAD, query.clone()).await.unwrap();
        for listed in page.items {
            let letter = listed.message.dead_letter.clone().expect("it is a dead letter");
            let name = letter.failure.expect("its consumer said why").message;
            assert_eq!(letter.source_queue, QUEUE);
            assert!(names.insert(name), "a dead letter is there twice: {:?}", listed.message);
        }
        if page.next_page_token.is_empty() {
            return names;
        }
        query.page_token = page.next_page_token;
    }
}
