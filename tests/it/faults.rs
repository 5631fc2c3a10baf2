//! System calls of the real broker that fail: it confirms nothing more, ends, and the next start has
//! everything that was confirmed. Where there is no strace, that is left to the simulated disk.

use std::collections::BTreeSet;
use std::time::Duration;

use qbroker_client::{Client, MessageQuery, Outcome, OutgoingMessage};
use qbroker_tests::folder::Folder;
use qbroker_tests::patiently;
use qbroker_tests::seed::{self, Rng};
use qbroker_tests::server::Server;
use qbroker_tests::strace::Strace;

/// Published before anything fails.
const BEFORE: u64 = 20;
/// Published after that, at most.
const MORE: u64 = 400;

/// A client that gives up soon once nobody answers.
async fn connect(server: &Server) -> Client {
    let options = Client::builder(server.url()).request_timeout(Duration::from_secs(2));
    options.connect().await.unwrap()
}

/// What clients were told.
#[derive(Default)]
struct Told {
    stored: BTreeSet<u64>,
    acked: BTreeSet<u64>,
}

impl Told {
    /// Publishes, and acks every third message, until the broker gives up or there is enough.
    /// Whether everything was answered.
    async fn work(&mut self, client: &Client, numbers: std::ops::Range<u64>) -> bool {
        for number in numbers {
            let message = OutgoingMessage::new(number.to_string());
            if client.publish("work", vec![message]).await.is_err() {
                return false;
            }
            self.stored.insert(number);
            if number % 3 == 0 && !self.take_one(client).await {
                return false;
            }
        }
        true
    }

    async fn take_one(&mut self, client: &Client) -> bool {
        let hour = Some(Duration::from_secs(3_600));
        let Ok(mut pulled) = client.pull(["work"], 1, Duration::ZERO, hour).await else {
            return false;
        };
        let leased = pulled.pop().expect("more is published than taken");
        let settled = client.settle(vec![(leased.lease_token.clone(), Outcome::Ack)]).await;
        match settled {
            Ok(answers) => {
                assert_eq!(answers, [Ok(())]);
                self.acked.insert(number_of(&leased.message.payload));
                true
            }
            Err(_) => false,
        }
    }

    /// Everything confirmed is there, nothing acked is, and of the rest at most one was on its way.
    async fn check(&self, client: &Client) {
        let (mut there, mut page_token) = (BTreeSet::new(), String::new());
        loop {
            let query = MessageQuery { page_size: 500, page_token, ..MessageQuery::default() };
            let page = client.list_messages("work", query).await.unwrap();
            for listed in page.items {
                let number = number_of(&listed.message.payload);
                assert!(there.insert(number), "{number} is there twice");
            }
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        let lost: Vec<_> = self.stored.difference(&there).collect();
        let unexplained = lost.iter().filter(|number| !self.acked.contains(number)).count();
        assert!(unexplained <= 1, "confirmed and gone: {lost:?}, acked {:?}", self.acked);
        assert!(there.is_disjoint(&self.acked), "came again after its ack");
        assert!(there.difference(&self.stored).count() <= 1, "never published, or not by anybody");
    }
}

fn number_of(payload: &[u8]) -> u64 {
    std::str::from_utf8(payload).unwrap().parse().unwrap()
}

/// Lets calls fail in a broker at work. Whether it ended, where strace can be used.
async fn fail(inject: &str) -> Option<bool> {
    let folder = Folder::new();
    let server = Server::start(&folder, &[]).await;
    let client = connect(&server).await;
    let mut told = Told::default();
    assert!(told.work(&client, 0..BEFORE).await);
    let strace = Strace::attach(&server, inject)?;
    let answered = patiently(inject, told.work(&client, BEFORE..MORE)).await;
    let ended = match answered {
        true => server.stop().await,
        false => server.end().await,
    };
    drop(strace);
    if !answered {
        assert_eq!(ended.code, Some(69), "{inject}:\n{}", ended.log);
        let errors = ended.errors();
        let says = "the log cannot be written";
        assert!(errors.contains(says) && errors.contains("the process ends"), "{errors}");
    }
    let server = Server::start(&folder, &[]).await;
    let client = connect(&server).await;
    told.check(&client).await;
    // It is as good as new.
    assert!(told.work(&client, MORE..MORE + BEFORE).await);
    let stopped = server.stop().await;
    assert_eq!(stopped.errors(), "", "{inject}");
    let (stored, acked) = (told.stored.len(), told.acked.len());
    eprintln!("faults: {inject}: ended {}, {stored} stored, {acked} acked", !answered);
    Some(!answered)
}

/// A moment within the work.
fn when(rng: &mut Rng) -> usize {
    1 + rng.below(100)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_that_fails_ends_the_broker_and_nothing_confirmed_is_lost() {
    let mut rng = seed::rng("faults sync");
    for _ in 0..seed::rounds(2, 20) {
        for error in ["EIO", "ENOSPC"] {
            let when = when(&mut rng);
            let Some(ended) = fail(&format!("fdatasync:error={error}:when={when}")).await else {
                return;
            };
            assert!(ended, "it went on after a failed sync");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_fails_ends_the_broker_and_nothing_confirmed_is_lost() {
    let mut rng = seed::rng("faults write");
    for _ in 0..seed::rounds(2, 20) {
        for error in ["EIO", "ENOSPC"] {
            let when = when(&mut rng);
            let Some(ended) = fail(&format!("pwrite64:error={error}:when={when}")).await else {
                return;
            };
            assert!(ended, "it went on after a failed write");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_are_interrupted_are_made_again() {
    for inject in ["pwrite64:error=EINTR:when=1+2", "pread64:error=EINTR:when=1+2"] {
        let Some(ended) = fail(inject).await else { return };
        assert!(!ended, "{inject}");
    }
}
