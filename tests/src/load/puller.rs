//! Somebody who takes messages with one call and settles them with another.

use std::sync::Arc;
use std::time::Duration;

use qbroker_client::{Client, Failure, Leased, Outcome};
use tokio::sync::{Semaphore, watch};

use super::{Phase, QUEUE};
use crate::ledger::{End, Ledger, Verdict};

/// Far longer than any test: no lease of it may end by itself.
const LEASE: Duration = Duration::from_secs(3_600);
const WAIT: Duration = Duration::from_secs(1);

pub(super) struct Puller {
    pub(super) ledger: Arc<Ledger>,
    pub(super) unfinished: Arc<Semaphore>,
    pub(super) client: Client,
}

impl Puller {
    pub(super) async fn work(
        self,
        mut judge: impl FnMut() -> Option<Verdict> + Send,
        mut phase: watch::Receiver<Phase>,
    ) {
        loop {
            let pulled = tokio::select! {
                pulled = self.client.pull([QUEUE], 16, WAIT, Some(LEASE)) => pulled,
                // Everything is settled by then, so no answer is lost with the call.
                _ = phase.wait_for(|phase| *phase == Phase::Done) => return,
            };
            match pulled {
                Err(error) => return self.ledger.broken(format!("a pull failed: {error}")),
                Ok(pulled) => self.settle(pulled, &mut judge).await,
            }
        }
    }

    async fn settle(&self, pulled: Vec<Leased>, judge: &mut impl FnMut() -> Option<Verdict>) {
        let (mut verdicts, mut settlements) = (Vec::new(), Vec::new());
        for leased in pulled {
            let Some(name) = self.ledger.delivered(&leased) else { continue };
            let verdict = judge().unwrap_or(Verdict::End(End::Acked));
            self.ledger.settling(&name, verdict);
            settlements.push((leased.lease_token, outcome(verdict, &name)));
            verdicts.push((name, verdict));
        }
        if verdicts.is_empty() {
            return;
        }
        match self.client.settle(settlements).await {
            Err(error) => self.ledger.broken(format!("a call to settle failed: {error}")),
            Ok(answers) => {
                for ((name, verdict), answer) in verdicts.into_iter().zip(answers) {
                    self.ledger.settled(&name, verdict, answer);
                    if matches!(verdict, Verdict::End(_)) {
                        self.unfinished.add_permits(1);
                    }
                }
            }
        }
    }
}

fn outcome(verdict: Verdict, name: &str) -> Outcome {
    let failure = Some(Failure::new("Judged", name));
    match verdict {
        Verdict::End(End::Acked) => Outcome::Ack,
        Verdict::End(End::DeadLettered) => Outcome::DeadLetter { failure },
        Verdict::Nack => Outcome::Nack { delay: None, failure },
        Verdict::Release => Outcome::Release { delay: None },
    }
}
