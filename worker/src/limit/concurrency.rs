//! How many jobs do something at the same time.

use std::borrow::Cow;
use std::time::Duration;

use qbroker_client::{Error, Holder};

use super::LimitError;
use crate::broker::Broker;
use crate::context::Context;
use crate::failure::Release;

/// At most so many jobs, over all workers, between [`ConcurrencyLimit::acquire`] and their end.
///
/// ```
/// use qbroker_worker::{BoxError, Context, actor};
/// use qbroker_worker::limit::ConcurrencyLimit;
///
/// #[actor]
/// async fn render(ctx: Context, tenant: String, page: u64) -> Result<(), BoxError> {
///     ConcurrencyLimit::new(format!("render/{tenant}"), 2).acquire(&ctx).await?;
///     # drop(page);
///     Ok(())
/// }
/// ```
///
/// The permit ends with the job's lease, in the same record: done, failed, handed back, or its worker
/// killed, it is free again.
#[derive(Debug, Clone)]
pub struct ConcurrencyLimit {
    key: Cow<'static, str>,
    limit: u32,
    wait: Duration,
    again: Duration,
    ttl: Duration,
}

impl ConcurrencyLimit {
    /// At most `limit` under this key of 1 to 250 bytes. Whoever uses the key should say the same
    /// limit.
    pub fn new(key: impl Into<Cow<'static, str>>, limit: u32) -> Self {
        let (wait, again) = (Duration::ZERO, Duration::from_secs(5));
        Self { key: key.into(), limit, wait, again, ttl: Duration::from_hours(30 * 24) }
    }

    /// How long to wait for a permit, in the job's slot; at most 60 s. Default: not at all.
    #[must_use]
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    /// When a job that got none comes again. Default: in 5 s.
    #[must_use]
    pub fn again_after(mut self, delay: Duration) -> Self {
        self.again = delay;
        self
    }

    /// How long a permit lasts at most, 1 s to 30 days. Default: 30 days; it ends with its job.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Takes a permit for this job.
    ///
    /// # Errors
    ///
    /// None is free, or the broker could not be asked; see [`LimitError`].
    ///
    /// # Panics
    ///
    /// In a [`detached`](Context::detached) context without a broker.
    pub async fn acquire(&self, context: &Context) -> Result<Permit, LimitError> {
        let holder = Holder::Lease(context.leased().lease_token.clone());
        let key = format!("limit/{}", self.key);
        let state = context.broker().client().state();
        match state.acquire(&key, self.limit, holder, self.ttl, self.wait).await? {
            Some(id) => Ok(Permit { id, broker: context.broker().clone() }),
            None => Err(LimitError::Reached {
                key: self.key.clone().into_owned(),
                release: Release::after(self.again),
            }),
        }
    }
}

/// A permit. Dropping it does nothing: it ends with its job.
#[derive(Debug)]
pub struct Permit {
    id: String,
    broker: Broker,
}

impl Permit {
    /// Gives it back before the job ends; whether it had not ended before.
    ///
    /// # Errors
    ///
    /// What kept the broker from hearing of it.
    pub async fn release(self) -> Result<bool, Error> {
        self.broker.client().state().release(&self.id).await
    }
}
