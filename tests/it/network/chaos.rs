//! All of it at once: connections that are slow, cut, reset and swallowed at random bytes, and a
//! broker that stops and is killed behind them.

use std::sync::Arc;
use std::time::Duration;

use qbroker_tests::folder::Folder;
use qbroker_tests::front::Front;
use qbroker_tests::ledger::Ledger;
use qbroker_tests::load::{self, Load};
use qbroker_tests::network::{Pace, Strike, Toward, Trouble, Way};
use qbroker_tests::seed::{self, Rng};
use qbroker_tests::server::Server;

use crate::kill::{check_figures, judge};

const FLAGS: [&str; 2] = ["--shutdown-grace", "100ms"];

/// What becomes of the next connection. Most are hurt in the end; some are slow until then.
fn way(rng: &mut Rng) -> Way {
    let toward = if rng.below(2) == 0 { Toward::Broker } else { Toward::Client };
    // Small ones are within the opening, large ones in the midst of the work.
    let within = if rng.below(4) == 0 { 600 } else { 200_000 };
    let after = rng.below(within) as u64;
    let trouble = match rng.below(10) {
        0..4 => Trouble::Reset,
        4..8 => Trouble::Close,
        8 => Trouble::Silence,
        _ => Trouble::HalfOpen,
    };
    let strike = (rng.below(5) != 0).then_some(Strike { toward, after, trouble });
    let pause = Duration::from_micros(rng.below(2_000) as u64);
    let pace = (rng.below(3) == 0).then_some(Pace { bytes: 100 + rng.below(3_000), pause });
    Way { strike, pace }
}

/// What happens to the broker after a while, or to the network alone.
async fn disturb(server: Server, folder: &Folder, front: &Front, rng: &mut Rng) -> Server {
    match rng.below(6) {
        // Streams are told that the broker goes away, over connections that may be dead.
        0 => drop(server.stop().await),
        1 => server.kill().await,
        // Nobody who fell silent is ever told, unless it is here.
        _ => {
            front.cut();
            return server;
        }
    }
    front.cut();
    let server = Server::start(folder, &FLAGS).await;
    front.lead_to(server.grpc());
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn no_network_and_no_restart_loses_doubles_or_hangs_anything() {
    let mut rng = seed::rng("network chaos");
    let folder = Folder::new();
    let mut server = Server::start(&folder, &FLAGS).await;
    let front = Front::before(server.grpc()).await;
    let client = load::client(&server.url()).await;
    load::create_queue(&client).await;
    drop(client);
    let ledger = Arc::new(Ledger::default());
    let mut load = Load::new(&front.url(), ledger.clone());
    load.add_everybody(&mut rng, judge).await;
    // From here on: everybody is connected, and knows how to come back.
    let mut ways = Rng::new(rng.next_u64());
    front.choose_ways(move || way(&mut ways));
    front.cut();
    for _ in 0..seed::rounds(20, 400) {
        let more = rng.below(400) as u64;
        // Where all connections have fallen silent nothing goes on, until they are cut.
        tokio::select! {
            () = ledger.wait_for(more) => {}
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
        server = disturb(server, &folder, &front, &mut rng).await;
        ledger.check();
    }
    front.choose_ways(Way::default);
    front.cut();
    load.finish().await;
    let totals = ledger.totals();
    let (stored, connections) = (totals.stored, front.connections());
    eprintln!("network chaos: {stored} stored over {connections} connections");
    check_figures(&load::client(&server.url()).await, &totals).await;
    assert_eq!(server.stop().await.errors(), "");
}
