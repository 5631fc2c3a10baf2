//! What goes wrong inside the database stays there.
//!
//! It meets many an unexpected thing with a panic. Elsewhere a panic is a bug and ends the process;
//! here it is a reason to begin the index anew.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};

/// How the database's own threads are called.
const FOREIGN_THREADS: [&str; 2] = ["sled-io-", "log flusher"];

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

/// Does something with the database, whatever that does.
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
pub fn contain_panics() {
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or_default();
        let is_foreign = FOREIGN_THREADS.iter().any(|foreign| name.starts_with(foreign));
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
    use super::*;

    #[test]
    fn a_panic_is_an_answer() {
        let panics = || -> Result<(), Broken> { panic!("it is {}", "so") };
        assert_eq!(contained(panics).unwrap_err().to_string(), "the database panicked: it is so");
        assert_eq!(contained(|| Ok(7)).unwrap(), 7);
    }
}
