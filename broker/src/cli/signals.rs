//! SIGINT and SIGTERM: the first asks to finish, the second to stop at once. The end of the terminal is as
//! SIGTERM to whatever is not a server.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use qbroker::exit::Exit;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// What the process was asked from outside.
#[derive(Clone, Debug, Default)]
pub(super) struct Stops {
    /// Take nothing new, finish what runs.
    pub(super) finish: CancellationToken,
    /// Stop at once.
    pub(super) now: CancellationToken,
    /// The latest signal was SIGINT.
    interrupted: Arc<AtomicBool>,
}

impl Stops {
    /// Listens from here on; the process no longer ends by these signals themselves.
    ///
    /// # Errors
    /// Where the system does not let it listen.
    pub(super) fn listen() -> io::Result<Self> {
        Self::listen_with(Some(signal(SignalKind::hangup())?))
    }

    /// [`Self::listen`] for a server, which SIGHUP tells to read its files again. One that comes before it
    /// serves does not end it either.
    ///
    /// # Errors
    /// Where the system does not let it listen.
    pub(super) fn listen_as_server() -> io::Result<Self> {
        drop(signal(SignalKind::hangup())?);
        Self::listen_with(None)
    }

    fn listen_with(hangups: Option<Signal>) -> io::Result<Self> {
        let stops = Self::default();
        let interrupts = signal(SignalKind::interrupt())?;
        let terminations = signal(SignalKind::terminate())?;
        tokio::spawn(stops.clone().pass_on(interrupts, terminations, hangups));
        Ok(stops)
    }

    async fn pass_on(
        self,
        mut interrupts: Signal,
        mut terminations: Signal,
        mut hangups: Option<Signal>,
    ) {
        loop {
            let hung_up = async {
                match &mut hangups {
                    Some(hangups) => hangups.recv().await,
                    None => std::future::pending().await,
                }
            };
            let interrupted = tokio::select! {
                _ = interrupts.recv() => true,
                _ = terminations.recv() => false,
                _ = hung_up => false,
            };
            self.interrupted.store(interrupted, Ordering::Relaxed);
            if self.finish.is_cancelled() {
                self.now.cancel();
            }
            self.finish.cancel();
        }
    }

    /// How a process ends that runs until it is stopped: well, unless it was stopped at once.
    pub(super) fn exit(&self) -> Exit {
        if self.now.is_cancelled() { self.cut_short() } else { Exit::Ok }
    }

    /// How a process ends that a signal kept from doing all it was to do.
    pub(super) fn cut_short(&self) -> Exit {
        if self.interrupted.load(Ordering::Relaxed) { Exit::Interrupted } else { Exit::Terminated }
    }
}
