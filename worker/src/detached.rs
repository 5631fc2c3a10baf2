//! The context of a job that no worker runs: for calling an actor in a test.

use std::sync::Arc;

use qbroker_client::Leased;

use crate::broker::Broker;
use crate::context::{CancelReason, Context, States};
use crate::trace::TraceContext;

/// What a job is to know about itself, from [`Context::detached`].
#[derive(Debug, Default)]
#[must_use = "it is a context only when it is built"]
pub struct DetachedContext {
    leased: Leased,
    broker: Option<Broker>,
    states: States,
    canceled: Option<CancelReason>,
}

impl Context {
    /// A context for calling an actor in a test, with no worker around it: the first attempt of an
    /// empty message.
    ///
    /// ```
    /// use qbroker_worker::{BoxError, Context, actor};
    ///
    /// struct Greeting(&'static str);
    ///
    /// #[actor]
    /// async fn greet(ctx: Context, name: String) -> Result<(), BoxError> {
    ///     if ctx.attempt() < 2 {
    ///         return Err(format!("{} {name}? Not at once", ctx.state::<Greeting>().0).into());
    ///     }
    ///     Ok(())
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let context = Context::detached().state(Greeting("Hi")).build();
    /// let failed = greet::call(context, "Ann".to_owned()).await;
    /// assert_eq!(failed.unwrap_err().to_string(), "Hi Ann? Not at once");
    ///
    /// let context = Context::detached().attempt(2).build();
    /// assert!(greet::call(context, "Ann".to_owned()).await.is_ok());
    /// # }
    /// ```
    pub fn detached() -> DetachedContext {
        DetachedContext::default().attempt(1)
    }
}

impl DetachedContext {
    /// What the job finds by [`Context::state`].
    pub fn state<T: Send + Sync + 'static>(mut self, state: T) -> Self {
        self.states.insert(state);
        self
    }

    /// Which attempt it is, from 1; those before have failed.
    pub fn attempt(mut self, attempt: u32) -> Self {
        self.leased.attempt = attempt;
        self.leased.failures = attempt.saturating_sub(1);
        self
    }

    /// A header of its message.
    pub fn header(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.leased.message.headers.insert(key.into(), value.into());
        self
    }

    /// The broker that it may send jobs to.
    pub fn broker(mut self, broker: Broker) -> Self {
        self.broker = Some(broker);
        self
    }

    /// It should stop, for this reason.
    pub fn canceled(mut self, reason: CancelReason) -> Self {
        self.canceled = Some(reason);
        self
    }

    /// The context.
    #[must_use]
    pub fn build(self) -> Context {
        let Self { leased, broker, states, canceled } = self;
        let context =
            Context::new("", Arc::new(leased), broker, Arc::new(states), TraceContext::root());
        if let Some(reason) = canceled {
            context.cancel(reason);
        }
        context
    }
}
