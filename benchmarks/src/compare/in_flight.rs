//! Requests that are on their way, each in a task of its own, so that none waits to be looked at.

use anyhow::Context as _;
use tokio::task::JoinSet;

use crate::system::Fallible;

/// Requests, and how many messages they are about.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    requests: JoinSet<Fallible<u64>>,
}

impl InFlight {
    /// Sends a request; its answer says how many messages it was about.
    pub(super) fn add(&mut self, request: impl Future<Output = Fallible<u64>> + Send + 'static) {
        self.requests.spawn(request);
    }

    /// Waits for an answer and takes all that are there. Canceling it loses nothing.
    pub(super) async fn answered(&mut self) -> Fallible<u64> {
        let first = self.requests.join_next().await.context("no request is on its way")?;
        Ok(first?? + self.already_answered()?)
    }

    /// Takes the answers that are there.
    pub(super) fn already_answered(&mut self) -> Fallible<u64> {
        let mut messages = 0;
        while let Some(answer) = self.requests.try_join_next() {
            messages += answer??;
        }
        Ok(messages)
    }

    /// Waits for all answers.
    pub(super) async fn all_answered(&mut self) -> Fallible<u64> {
        let mut messages = 0;
        while let Some(answer) = self.requests.join_next().await {
            messages += answer??;
        }
        Ok(messages)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn answers_are_counted_and_a_failure_is_told() {
        let mut in_flight = InFlight::default();
        in_flight.answered().await.unwrap_err();
        in_flight.add(async { Ok(2) });
        in_flight.add(async { Ok(3) });
        let mut messages = 0;
        while messages < 5 {
            messages += in_flight.answered().await.unwrap();
        }
        assert_eq!((messages, in_flight.already_answered().unwrap()), (5, 0));
        in_flight.add(async { anyhow::bail!("refused") });
        assert_eq!(in_flight.all_answered().await.unwrap_err().to_string(), "refused");
        assert_eq!(in_flight.all_answered().await.unwrap(), 0);
    }
}
