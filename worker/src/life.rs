//! How far a worker is in its life, for those that wait for its end.

use tokio::sync::watch;

/// Where a worker is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    /// It takes messages.
    Running,
    /// It takes no more, and lets its jobs finish.
    Stopping,
    /// Jobs that still run are ended.
    GivingUp,
}

/// A worker's life: it only goes forward.
#[derive(Debug)]
pub(crate) struct Life(watch::Sender<Phase>);

impl Default for Life {
    fn default() -> Self {
        Self(watch::Sender::new(Phase::Running))
    }
}

impl Life {
    pub(crate) fn stop(&self) {
        self.advance(Phase::Stopping);
    }

    pub(crate) fn give_up(&self) {
        self.advance(Phase::GivingUp);
    }

    /// Waits until no more messages are taken.
    pub(crate) async fn stopping(&self) {
        self.reached(Phase::Stopping).await;
    }

    /// Waits until jobs that still run are to be ended.
    pub(crate) async fn giving_up(&self) {
        self.reached(Phase::GivingUp).await;
    }

    fn advance(&self, to: Phase) {
        self.0.send_if_modified(|phase| {
            let further = *phase < to;
            *phase = to.max(*phase);
            further
        });
    }

    async fn reached(&self, phase: Phase) {
        let mut phases = self.0.subscribe();
        let reached = phases.wait_for(|now| phase <= *now).await;
        drop(reached.expect("the sender is in this life, which is borrowed"));
    }
}
