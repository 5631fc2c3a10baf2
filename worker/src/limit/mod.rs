//! Limits over all workers: how many jobs do something at a time, or in a time.
//!
//! They are kept in the broker, so they hold for every worker there is. A job that meets one is handed
//! back for a while, uncounted: that is not its failure, and uses up none of its retries.

mod bucket;
mod concurrency;
mod window;

use qbroker_client::Error;

use crate::failure::Release;

pub use bucket::BucketLimit;
pub use concurrency::{ConcurrencyLimit, Permit};
pub use window::WindowLimit;

/// Why a limit did not let a job through.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LimitError {
    /// It is reached. A job that returns this, or has it as a source, is handed back for as long as the
    /// limit says.
    #[error("the limit {key:?} is reached")]
    Reached {
        /// The limit's key.
        key: String,
        /// When it makes sense to try again.
        #[source]
        release: Release,
    },
    /// The broker could not be asked; a job that returns this has failed.
    #[error(transparent)]
    Broker(#[from] Error),
}
