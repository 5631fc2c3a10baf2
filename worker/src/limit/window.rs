//! How many jobs do something in any stretch of time.

use std::borrow::Cow;
use std::time::Duration;

use qbroker_client::Holder;

use super::LimitError;
use crate::context::Context;
use crate::failure::Release;

/// At most so many jobs, over all workers, in any window of this length, wherever it begins.
///
/// Exact, and by the broker's clock alone: each job takes a permit that ends when the window is over.
/// The broker keeps some 500 bytes for each until then; where that is too much,
/// [`BucketLimit`](super::BucketLimit) needs one counter.
///
/// ```
/// use std::time::Duration;
/// use qbroker_worker::{BoxError, Context, actor};
/// use qbroker_worker::limit::WindowLimit;
///
/// #[actor]
/// async fn call_bank(ctx: Context, order: u64) -> Result<(), BoxError> {
///     WindowLimit::new("bank", 10, Duration::from_secs(1)).acquire(&ctx).await?;
///     # drop(order);
///     Ok(())
/// }
/// ```
#[derive(Debug, Clone)]
pub struct WindowLimit {
    key: Cow<'static, str>,
    limit: u32,
    window: Duration,
    wait: Duration,
    again: Option<Duration>,
}

impl WindowLimit {
    /// At most `limit` in each `window`, 1 s to 30 days, under this key of 1 to 250 bytes.
    pub fn new(key: impl Into<Cow<'static, str>>, limit: u32, window: Duration) -> Self {
        Self { key: key.into(), limit, window, wait: Duration::ZERO, again: None }
    }

    /// How long to wait for room, in the job's slot; at most 60 s. Default: not at all.
    #[must_use]
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    /// When a job that found no room comes again. Default: after the window.
    #[must_use]
    pub fn again_after(mut self, delay: Duration) -> Self {
        self.again = Some(delay);
        self
    }

    /// Counts this job.
    ///
    /// # Errors
    ///
    /// There is no room, or the broker could not be asked; see [`LimitError`].
    ///
    /// # Panics
    ///
    /// In a [`detached`](Context::detached) context without a broker.
    pub async fn acquire(&self, context: &Context) -> Result<(), LimitError> {
        let key = format!("limit/{}", self.key);
        let state = context.broker().client().state();
        let permit =
            state.acquire(&key, self.limit, Holder::Nobody, self.window, self.wait).await?;
        match permit {
            Some(_) => Ok(()),
            None => Err(LimitError::Reached {
                key: self.key.clone().into_owned(),
                release: Release::after(self.again.unwrap_or(self.window)),
            }),
        }
    }
}
