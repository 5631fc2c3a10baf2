//! The network between a real broker and the real client: whatever it does, and at whichever byte,
//! nothing is stored twice, nothing confirmed is lost, nothing settled comes again, nobody hangs.

mod calls;
mod chaos;
mod consume;
mod publish;
mod silence;

use std::ops::Range;
use std::time::Duration;

use qbroker_client::{Client, ClientBuilder, Leased};
use qbroker_tests::folder::Folder;
use qbroker_tests::front::Front;
use qbroker_tests::network::{Strike, Toward, Trouble};
use qbroker_tests::seed::{self, Rng};
use qbroker_tests::server::Server;
use qbroker_tests::{PATIENCE, patiently};

/// Far longer than any test: no lease ends by itself.
const HOUR: Duration = Duration::from_secs(3_600);

/// A broker, a way to it that is hurt, and one that is not.
struct Stage {
    front: Front,
    direct: Client,
    server: Server,
    _folder: Folder,
}

impl Stage {
    async fn new() -> Self {
        let folder = Folder::new();
        let server = Server::start(&folder, &[]).await;
        let front = Front::before(server.grpc()).await;
        let direct = Client::connect(server.url()).await.unwrap();
        Self { front, direct, server, _folder: folder }
    }

    /// A client behind the front, over however many connections that takes.
    async fn client(&self) -> Client {
        connect(options(&self.front)).await
    }

    /// What there is to be taken from a queue, in its order.
    async fn pull(&self, queue: &str) -> Vec<Leased> {
        let pull = self.direct.pull([queue], 1_000, Duration::ZERO, Some(HOUR));
        patiently("an answer", pull).await.unwrap()
    }

    /// Bytes that pass in both directions while `work` is done over an unhurt connection.
    async fn bytes_of(&self, work: impl Future<Output = ()>) -> [u64; 2] {
        let passed = || [Toward::Broker, Toward::Client].map(|toward| self.front.passed(toward));
        let before = passed();
        patiently("the work", work).await;
        let after = passed();
        [after[0] - before[0], after[1] - before[1]]
    }
}

fn options(front: &Front) -> ClientBuilder {
    let backoff = (Duration::from_millis(1), Duration::from_millis(20));
    let options = Client::builder(front.url()).request_timeout(PATIENCE);
    options.backoff(backoff.0, backoff.1).connections(1)
}

async fn connect(options: ClientBuilder) -> Client {
    let connecting = async {
        loop {
            // Its very first connection may be the one that is cut.
            if let Ok(client) = options.clone().connect().await {
                return client;
            }
        }
    };
    patiently("a connection", connecting).await
}

/// Trouble at every byte of a conversation under `QBROKER_SLOW=1`, else at so many that chance
/// chooses; in both directions.
fn strikes(bytes: [u64; 2], usual: u64, rng: &mut Rng) -> Vec<Strike> {
    let mut strikes = Vec::new();
    for (toward, bytes) in [(Toward::Broker, bytes[0]), (Toward::Client, bytes[1])] {
        let all: Range<u64> = 0..bytes;
        let every = seed::rounds(bytes.div_ceil(usual).max(1), 1);
        for from in all.step_by(usize::try_from(every).expect("it is small")) {
            let after = from + rng.below(usize::try_from(every).expect("it is small")) as u64;
            let trouble = if rng.below(2) == 0 { Trouble::Reset } else { Trouble::Close };
            strikes.push(Strike { toward, after, trouble });
        }
    }
    strikes
}
