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

use crate::clock::{Clock, ManualClock};
use crate::config::{DiskReserve, Settings};
use crate::engine::Stopped;
use crate::queue::time::Now;
use crate::server::{Running, ServeError};

/// The size that production has, so that the same batches fit.
const SEGMENT_BYTES: u32 = 64 << 20;

/// A broker that serves until it is stopped or dropped; its folder goes with it. Its port is free
/// soon after.
#[derive(Debug)]
pub struct Broker {
    running: Running,
    folder: TempDir,
    clock: Clock,
}

impl Broker {
    /// Starts a broker on free loopback ports, by the machine's clock.
    ///
    /// # Errors
    /// As [`Running::start`].
    pub async fn start() -> Result<Self, ServeError> {
        Self::start_with(Clock::System).await
    }

    /// Starts a broker whose time stands still, at the present, until [`Broker::pass`] lets it go.
    ///
    /// # Errors
    /// As [`Running::start`].
    pub async fn start_still() -> Result<Self, ServeError> {
        let clock = ManualClock::default();
        clock.set(Now { begun: false, ..Clock::System.now() });
        Self::start_with(Clock::Manual(clock)).await
    }

    /// Starts a broker whose time is told by `clock`. One that is moved by hand is best moved by
    /// [`Broker::pass`]: the broker does not see it move by itself.
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
        let running = Running::start(settings, clock.clone(), failed).await?;
        Ok(Self { running, folder, clock })
    }

    /// Lets so much time pass at once, and everything happen that is due by then: delays and backoffs
    /// are over, schedules tick, messages and what is kept beside them expire. So a test of a job that
    /// is tried again in a week takes no week:
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    ///
    /// let broker = qbroker::embedded::Broker::start_still().await?;
    /// broker.pass(Duration::from_hours(7 * 24))?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// Where the log has stopped.
    ///
    /// # Panics
    /// Where the broker goes by the machine's clock, which nobody moves.
    pub fn pass(&self, time: Duration) -> Result<(), Stopped> {
        let Clock::Manual(clock) = &self.clock else {
            panic!("time passes by itself here: start the broker with start_still");
        };
        let millis = u64::try_from(time.as_millis());
        clock.advance(millis.expect("no test lives for so long"));
        self.running.tick()
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
