//! Confirms that come one for each message and in the order of the messages.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::system::Fallible;

/// Confirms that are waited for, oldest first.
#[derive(Debug)]
pub(super) struct Confirms<F>(VecDeque<F>);

impl<F: Future + Unpin> Confirms<F> {
    pub(super) fn new() -> Self {
        Self(VecDeque::new())
    }

    pub(super) fn add(&mut self, confirm: F) {
        self.0.push_back(confirm);
    }

    /// Waits for the oldest and takes all that have come; how many. Canceling it loses nothing.
    pub(super) async fn next(&mut self, check: fn(F::Output) -> Fallible<()>) -> Fallible<u64> {
        std::future::poll_fn(|cx| self.poll(cx, check)).await
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        check: fn(F::Output) -> Fallible<()>,
    ) -> Poll<Fallible<u64>> {
        let mut messages = 0;
        while let Some(oldest) = self.0.front_mut() {
            match Pin::new(oldest).poll(cx) {
                Poll::Ready(confirm) => {
                    self.0.pop_front();
                    if let Err(error) = check(confirm) {
                        return Poll::Ready(Err(error));
                    }
                    messages += 1;
                }
                Poll::Pending if messages == 0 => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        Poll::Ready(Ok(messages))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn what_has_come_is_taken_together_and_in_order() {
        let mut confirms = Confirms::new();
        let mut senders = Vec::new();
        for _ in 0..3 {
            let (sender, confirm) = oneshot::channel::<bool>();
            senders.push(sender);
            confirms.add(confirm);
        }
        let good = |confirm: Result<bool, _>| {
            anyhow::ensure!(confirm?, "refused");
            Ok(())
        };
        let third = senders.pop().unwrap();
        senders.into_iter().for_each(|sender| sender.send(true).unwrap());
        assert_eq!(confirms.next(good).await.unwrap(), 2);
        third.send(false).unwrap();
        assert_eq!(confirms.next(good).await.unwrap_err().to_string(), "refused");
    }
}
