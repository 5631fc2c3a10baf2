//! A whole broker inside the process, for tests: temporary folder, free ports, a clock of your own.
//!
//! ```no_run
//! # async fn example() -> Result<(), qbroker::server::ServeError> {
//! let broker = qbroker::embedded::Broker::start().await?;
//! println!("publish to {}", broker.url());
//! broker.stop().await?;
//! # Ok(()) }
//! ```

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tempfile::TempDir;

use crate::clock::Clock;
use crate::config::{DiskReserve, Settings};
use crate::server::{Running, ServeError};

/// The size that production has, so that the same batches fit.
const SEGMENT_BYTES: u32 = 64 << 20;

/// A broker that serves until it is stopped or dropped; its folder goes with it. Its port is free
/// soon after.
#[derive(Debug)]
pub struct Broker {
    running: Running,
    folder: TempDir,
}

impl Broker {
    /// Starts a broker on free loopback ports, by the machine's clock.
    ///
    /// # Errors
    /// As [`Running::start`].
    pub async fn start() -> Result<Self, ServeError> {
        Self::start_with(Clock::System).await
    }

    /// Starts a broker whose time is told by `clock`.
    ///
    /// # Errors
    /// As [`Running::start`].
    pub async fn start_with(clock: Clock) -> Result<Self, ServeError> {
        let folder = TempDir::new()
            .map_err(|source| ServeError::DataDir { path: std::env::temp_dir(), source })?;
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let settings = Settings {
            data_dir: folder.path().to_owned(),
            grpc_listen: loopback,
            http_listen: Some(loopback),
            disk_reserve: DiskReserve::Bytes(0),
            segment_bytes: SEGMENT_BYTES,
            shutdown_grace: Duration::ZERO,
            ..Settings::default()
        };
        let failed = |failure: &crate::engine::Failure| panic!("the broker failed: {failure}");
        let running = Running::start(settings, clock, failed).await?;
        Ok(Self { running, folder })
    }

    /// Where a client connects.
    pub fn url(&self) -> String {
        format!("http://{}", self.running.grpc_addr())
    }

    /// Where `/metrics` and the probes are.
    pub fn http_url(&self) -> String {
        let address = self.running.http_addr().expect("it listens");
        format!("http://{address}")
    }

    /// Its data folder.
    pub fn data_dir(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// Stops it in order and deletes its folder.
    ///
    /// # Errors
    /// As [`Running::stop`].
    pub async fn stop(self) -> Result<(), ServeError> {
        self.running.stop().await
    }
}
