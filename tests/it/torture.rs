//! SIGKILL where it hurts most, again and again: in the first moments of a start, in a checkpoint,
//! where segments come and go, in a stop. Clients that know every confirm judge what is left.

use std::collections::BTreeMap;
use std::sync::Arc;

use qbroker_tests::changes::Changes;
use qbroker_tests::folder::Folder;
use qbroker_tests::front::Front;
use qbroker_tests::ledger::{End, Ledger, Verdict};
use qbroker_tests::load::{self, Load};
use qbroker_tests::patiently;
use qbroker_tests::seed::{self, Rng};
use qbroker_tests::server::Server;
use rustix::process::Signal;

use crate::kill::{check_empty, check_figures};

const FLAGS: [&str; 2] = ["--shutdown-grace", "0s"];
/// Large enough that a segment is full after some 1,200 messages.
const PAYLOAD_BYTES: usize = 6_000;

/// A broker that is ended in every way, under clients at work.
struct Torture {
    folder: Folder,
    front: Front,
    ledger: Arc<Ledger>,
    rng: Rng,
    /// How often each thing was done.
    done: BTreeMap<&'static str, u64>,
}

impl Torture {
    fn count(&mut self, what: &'static str) {
        *self.done.entry(what).or_default() += 1;
    }

    /// Lets the clients work until a moment that chance chooses.
    async fn work(&mut self) {
        let more = self.rng.below(1_500) as u64;
        let (folder, what) = match self.rng.below(16) {
            0..7 => ("log", "at a change of segments"),
            7 => ("ckpt", "in a checkpoint"),
            _ => {
                self.ledger.wait_for(more).await;
                return self.count("at any moment");
            }
        };
        let mut changes = Changes::of(&self.folder);
        // A segment is full after so much; a checkpoint comes after 10 s of work, if there is time.
        let patient = folder == "ckpt" && seed::rounds(false, true);
        let enough = async {
            match patient {
                true => std::future::pending().await,
                false => self.ledger.wait_for(4_000).await,
            }
        };
        let changed = async {
            for _ in 0..=more % 3 {
                changes.next_in(folder).await;
            }
        };
        let changed = tokio::select! {
            () = patiently("a change of files", changed) => true,
            () = enough => false,
        };
        self.count(if changed { what } else { "at any moment" });
    }

    /// Ends a broker that serves.
    async fn end(&mut self, server: Server) {
        match self.rng.below(8) {
            // Leaves a checkpoint, so that later starts are from one and segments go.
            0 | 1 => {
                assert_eq!(server.stop().await.errors(), "");
                self.count("stopped in order");
            }
            2 | 3 => self.kill_while_it_stops(server).await,
            // The network first: the broker has time to notice that its clients are gone.
            4 => {
                self.front.lead_nowhere();
                self.front.cut();
                server.kill().await;
            }
            _ => server.kill().await,
        }
    }

    async fn kill_while_it_stops(&mut self, server: Server) {
        let mut changes = Changes::of(&self.folder);
        let server = server.signal(Signal::TERM);
        match self.rng.below(4) {
            0 => {}
            1 => drop(server.wait_for("stopping").await),
            // The checkpoint's file comes, takes its name, and an older one goes.
            _ => {
                for _ in 0..=self.rng.below(3) {
                    let ended = server.wait_for("stopped");
                    tokio::select! {
                        () = changes.next_in("ckpt") => {}
                        _ = ended => break,
                    }
                }
            }
        }
        let ended = server.signal(Signal::KILL).end().await;
        assert_eq!(ended.errors(), "");
        self.count(if ended.signal == Some(9) { "in a stop" } else { "stopped in order" });
    }

    /// Starts a broker, which may be killed some times before it serves.
    async fn start(&mut self) -> Server {
        let kills = [0, 0, 0, 1, 1, 2, 3, 5][self.rng.below(8)];
        for _ in 0..kills {
            let mut changes = Changes::of(&self.folder);
            let starting = Server::spawn(&self.folder, &FLAGS);
            match self.rng.below(5) {
                0 => {}
                1 => starting.wait_for_life().await,
                // What recovery changes: the tail cut, a new segment, an epoch.
                moment => {
                    let folder = if moment == 2 { "" } else { "log" };
                    for _ in 0..=self.rng.below(2) {
                        let serving = starting.wait_for("serving");
                        tokio::select! {
                            () = changes.next_in(folder) => {}
                            _ = serving => break,
                        }
                    }
                }
            }
            starting.kill().await;
            self.count("in a start");
        }
        let server = Server::start(&self.folder, &FLAGS).await;
        self.front.lead_to(server.grpc());
        server
    }
}

/// Mostly acks, some of everything else, and a few jobs so long that they keep their segments from
/// going: those are what compaction copies.
fn judge(mut rng: Rng) -> impl FnMut() -> Option<Verdict> {
    move || match rng.below(40) {
        0 => None,
        1..4 => Some(Verdict::Nack),
        4 | 5 => Some(Verdict::Release),
        6 => Some(Verdict::End(End::DeadLettered)),
        _ => Some(Verdict::End(End::Acked)),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_moment_it_is_killed_in_nothing_confirmed_is_lost_and_nothing_comes_twice() {
    let mut rng = seed::rng("torture");
    let folder = Folder::new();
    let mut server = Server::start(&folder, &FLAGS).await;
    let front = Front::before(server.grpc()).await;
    let client = load::client(&front.url()).await;
    load::create_queue(&client).await;
    let ledger = Arc::new(Ledger::default());
    let mut load = Load::new(&front.url(), ledger.clone()).with_payloads(PAYLOAD_BYTES);
    load.add_everybody(&mut rng, judge).await;
    let mut torture = Torture { folder, front, ledger, rng, done: BTreeMap::new() };

    for round in 0..seed::rounds(10, 300) {
        torture.work().await;
        torture.end(server).await;
        server = torture.start().await;
        torture.ledger.check();
        if round % 4 == 0 {
            load.end_long_jobs();
        }
    }
    torture.ledger.wait_for(500).await;
    load.finish().await;

    let totals = torture.ledger.totals();
    let (stored, acked, dead) = (totals.stored, totals.acked, totals.dead.len());
    eprintln!("torture: {stored} stored, {acked} acked, {dead} dead; {:?}", torture.done);
    check_figures(&client, &totals).await;
    server.kill().await;
    let server = torture.start().await;
    check_figures(&client, &totals).await;
    check_empty(&client).await;
    assert_eq!(server.stop().await.errors(), "");
}
