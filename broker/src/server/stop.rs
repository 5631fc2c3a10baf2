//! Stopping: nothing is lost, repeated or counted by it.

use std::time::{Duration, Instant};

use tonic_health::ServingStatus;
use tracing::{info, warn};

use super::{Running, ServeError};
use crate::grpc::Stopping;
use crate::web::Phase;

/// How often it is asked whether the workers are done.
const LOOK: Duration = Duration::from_millis(20);
/// What answers on their way may take once everything is decided.
const FLUSH: Duration = Duration::from_secs(2);

impl Running {
    /// Tells everybody, takes settlements until the running work is done or the grace is over,
    /// keeps what is still leased, and closes the log.
    ///
    /// # Errors
    /// Where the log cannot be closed. What was confirmed is on disk all the same.
    pub async fn stop(self) -> Result<(), ServeError> {
        let grace = self.settings.shutdown_grace;
        // No lease ends and no session is lost from here on: the next start gives them their time.
        self.engine.freeze();
        self.health.enter(Phase::Stopping);
        for service in ["", "ready"] {
            self.reporter.set_service_status(service, ServingStatus::NotServing).await;
        }
        let deadline = Instant::now() + grace;
        self.stopping.send_replace(Some(Stopping { deadline }));
        // Said once it is so: whoever reads it can count on it.
        info!(?grace, "stopping");
        while 0 < self.engine.held_by_streams() && Instant::now() < deadline {
            tokio::time::sleep(LOOK).await;
        }
        let kept = self.engine.look(|core| core.lease_count()).1;
        drop(self.closing);
        // Streams that stay open would hold the server for ever (hyper#4170).
        let mut grpc = self.grpc;
        if tokio::time::timeout(FLUSH, &mut grpc).await.is_err() {
            grpc.abort();
            warn!("some connections did not end; they are closed");
        }
        let (engine, search) = (self.engine, self.search);
        let closed = tokio::task::spawn_blocking(move || {
            if let Some(search) = search {
                search.close();
            }
            engine.close()
        });
        let closed = closed.await;
        closed.map_err(ServeError::Recovery)?.map_err(ServeError::Close)?;
        info!(leases_kept = kept, "stopped");
        Ok(())
    }
}
