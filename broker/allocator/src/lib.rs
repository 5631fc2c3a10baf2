//! The allocator of the broker, and of what it is measured beside.
//!
//! Payloads come and go by the mebibyte. The system's allocator gives each such buffer back to the
//! kernel and takes the page faults again. mimalloc keeps it for a second; but a broker that is
//! served unevenly needs it again after some more, and on a virtual machine whose free memory is
//! the host's, each page that is taken anew costs some 10 us: a burst of a few MiB, in pages that
//! nobody has touched, holds up everything for tens of milliseconds.

use libmimalloc_sys::{mi_option_set_default, mi_option_t};

/// Declare it with `#[global_allocator]`.
pub use mimalloc::MiMalloc as Allocator;

/// `mi_option_purge_delay` of mimalloc 3 (`mi_option_t` in `mimalloc.h`), which the bindings do not
/// name.
const PURGE_DELAY: mi_option_t = 15;

/// Milliseconds that memory is kept which nobody uses.
const KEPT_MS: std::ffi::c_long = 3_000;

/// Keeps memory that nobody uses for three seconds instead of one, unless the environment's
/// `MIMALLOC_PURGE_DELAY` (milliseconds) says otherwise. What a thread does first in `main`: before
/// there are others.
#[expect(unsafe_code, reason = "the allocator's options have no other interface")]
pub fn keep_memory() {
    // SAFETY: it writes one word of a table of the allocator's, behind a check of the index. That is
    // no atomic write, so nobody may read it at the same time: allocations of this thread only do.
    unsafe { mi_option_set_default(PURGE_DELAY, KEPT_MS) }
}

#[cfg(test)]
mod tests {
    use libmimalloc_sys::mi_option_get;

    use super::*;

    /// Another version of the allocator may give the option another number.
    #[test]
    #[expect(unsafe_code, reason = "as above")]
    fn the_option_is_the_one_that_is_meant() {
        if std::env::var_os("MIMALLOC_PURGE_DELAY").is_some() {
            return;
        }
        // SAFETY: nothing allocates with it here, and this is the only test.
        let delay = || unsafe { mi_option_get(PURGE_DELAY) };
        assert_eq!(delay(), 1_000, "the version's default");
        keep_memory();
        assert_eq!(delay(), KEPT_MS);
    }
}
