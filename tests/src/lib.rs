//! The harness: real server processes, clients that keep account of what they were told, and the
//! ways in which both may be hurt.
//!
//! The modules stand in the order in which a test uses them. Nothing here waits for time: every
//! wait is for an event, a line of a log or an answer, and [`PATIENCE`] only ends a test that hangs.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

pub mod program;
pub mod folder;
pub mod changes;
pub mod mount;
pub mod server;
pub mod strace;
pub mod shell;
pub mod embedded;
pub mod network;
pub mod front;
pub mod wire;

pub mod load;
pub mod ledger;
pub mod seed;
pub mod simulate;
pub mod mutations;
pub mod fuzz;

use std::time::Duration;

/// How long anything may take before a test gives up. Far beyond what a loaded machine needs.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Waits for something that must happen.
///
/// # Panics
/// When it does not within [`PATIENCE`].
pub async fn patiently<T>(what: &str, future: impl Future<Output = T>) -> T {
    let waited = tokio::time::timeout(PATIENCE, future).await;
    waited.unwrap_or_else(|_| panic!("{what} did not happen within {PATIENCE:?}"))
}
