//! What goes wrong inside the database stays there.
//!
//! It meets many an unexpected thing with a panic. Elsewhere a panic is a bug and ends the process;
//! here it is a reason to begin the index anew.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicU64, Ordering};

/// How the database's own threads are called.
const FOREIGN_THREADS: [&str; 2] = ["sled-io-", "log flusher"];

/// Panics of those threads, of which nobody else hears.
static FOREIGN_PANICS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// Why the index cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("{0}")]
    Database(#[from] sled::Error),
    #[error("{0}")]
    Folder(#[from] std::io::Error),
    #[error("the database panicked: {0}")]
    Panic(String),
    #[error("{0}")]
    Unfit(&'static str),
}

/// How many threads of the database have panicked.
pub(super) fn foreign_panics() -> u64 {
    FOREIGN_PANICS.load(Ordering::Relaxed)
}

/// Does something with the database, whatever that does. Nothing else may happen in `act`: what panics
/// there does not end the process.
pub(super) fn contained<T>(act: impl FnOnce() -> Result<T, Broken>) -> Result<T, Broken> {
    let before = CONTAINED.replace(true);
    let outcome = panic::catch_unwind(AssertUnwindSafe(act));
    CONTAINED.set(before);
    outcome.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(Broken::Panic(text.unwrap_or_default()))
    })
}

/// Makes every panic but those in the database end the process at once, as a bug must: from here on,
/// for the whole process.
pub fn end_on_panic() {
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or_default();
        let is_foreign = FOREIGN_THREADS.iter().any(|foreign| name.starts_with(foreign));
        if is_foreign {
            FOREIGN_PANICS.fetch_add(1, Ordering::Relaxed);
        }
        if CONTAINED.get() || is_foreign {
            tracing::warn!(%panic, "the search index's database panicked");
            return;
        }
        report(panic);
        std::process::abort();
    }));
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::Command;

    use super::*;

    /// Set for the process that is to end.
    const ENDS: &str = "QBROKER_TEST_PANIC";

    #[test]
    fn a_panic_is_an_answer() {
        let panics = || -> Result<(), Broken> { panic!("it is {}", "so") };
        assert_eq!(contained(panics).unwrap_err().to_string(), "the database panicked: it is so");
        assert_eq!(contained(|| Ok(7)).unwrap(), 7);
    }
    #[test]
    fn a_panic_elsewhere_ends_the_process_at_once() {
        if std::env::var_os(ENDS).is_some() {
            end_on_panic();
            assert!(contained(|| -> Result<(), Broken> { panic!("inside") }).is_err());
            let bug = std::thread::spawn(|| panic!("a bug"));
            drop(bug.join());
            // It has come too far.
            return;
        }
        let this = "search::guard::tests::a_panic_elsewhere_ends_the_process_at_once";
        let mut process = Command::new(std::env::current_exe().unwrap());
        let ended = process.args(["--exact", this]).env(ENDS, "1").output().unwrap();
        assert_eq!(ended.status.signal(), Some(6), "{ended:?}");
    }
}
