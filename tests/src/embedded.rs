//! A broker inside the test, whose clock the test moves.

use std::time::Duration;

use qbroker::clock::{Clock, ManualClock};
use qbroker::config::{DiskReserve, Settings};
use qbroker::engine::StartError;
use qbroker::queue::time::Now;
use qbroker::server::{Running, ServeError};
use qbroker_client::Client;
use qbroker_storage::OpenError;

use crate::folder::Folder;
use crate::patiently;

/// A broker over real files and real sockets, in a time of its own.
#[derive(Debug)]
pub struct Embedded {
    running: Running,
    clock: ManualClock,
}

/// A clock that stands still, at some time of 2023.
pub fn clock() -> ManualClock {
    let clock = ManualClock::default();
    clock.set(Now { wall_ms: 1_700_000_000_000, boot_ms: 1_000_000, begun: false });
    clock
}

impl Embedded {
    /// Starts a broker on `folder`, on free ports of loopback.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start(folder: &Folder, clock: &ManualClock) -> Self {
        let any_port = "127.0.0.1:0".parse().expect("it is an address");
        let settings = Settings {
            data_dir: folder.data().to_owned(),
            disk_reserve: DiskReserve::Bytes(4 << 20),
            segment_bytes: 4 << 20,
            messages_in_memory: 1_000,
            batch_bytes_max: 1 << 20,
            payload_bytes_max: 512 << 10,
            grpc_listen: any_port,
            http_listen: None,
            shutdown_grace: Duration::ZERO,
            ..Settings::default()
        };
        let running = patiently("the start", Self::run(&settings, clock)).await;
        Self { running, clock: clock.clone() }
    }

    /// Starts it, again and again while the folder's lock is not free: a program that another test
    /// starts at this moment has, from its fork to its exec, the open files of this process, that of
    /// a broker stopped just now included.
    async fn run(settings: &Settings, clock: &ManualClock) -> Running {
        loop {
            let stopped = |error: &_| panic!("the log stopped: {error}");
            let clock = Clock::Manual(clock.clone());
            match Running::start(settings.clone(), clock, stopped).await {
                Ok(running) => return running,
                Err(ServeError::Start(StartError::Log(OpenError::Locked { .. }))) => {}
                Err(error) => panic!("it does not start: {error}"),
            }
        }
    }

    /// The URL for clients.
    pub fn url(&self) -> String {
        format!("http://{}", self.running.grpc_addr())
    }

    /// Where gRPC listens.
    pub fn grpc(&self) -> std::net::SocketAddr {
        self.running.grpc_addr()
    }

    /// A client of it.
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn client(&self) -> Client {
        Client::connect(self.url()).await.expect("it answers")
    }

    /// Lets so much time pass, and everything happen that is due then.
    ///
    /// # Panics
    /// When the log has stopped.
    pub fn pass(&self, time: Duration) {
        self.clock.advance(u64::try_from(time.as_millis()).expect("it is short"));
        self.running.tick().expect("the log goes on");
    }

    /// Stops it in order.
    ///
    /// # Panics
    /// When that fails.
    pub async fn stop(self) {
        self.running.stop().await.expect("it stops");
    }
}
