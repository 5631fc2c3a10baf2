//! Works on the operations there are: a step of each in turn, with everybody else's turns between.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use qbroker_storage::Lsn;
use tracing::info;

use super::{Engine, Scan, Stopped};
use crate::queue::filter::Needs;
use crate::queue::record::OperationKind;
use crate::queue::refused::Refused;
use crate::queue::{Candidate, Operation, OperationStep, Pace, StartOperation};

/// Messages that one step does at most: as many as any other step.
const STEP_MESSAGES: u64 = 1_000;
/// An operation with a rate does what it may in this time at once.
const STEP_MS: u64 = 200;
/// How long an operation that cannot go on is left alone.
const WAIT_MS: u64 = 1_000;
/// Nobody sleeps longer than this: the clock may be moved by hand.
const LOOK_MS: u64 = 200;

impl Engine {
    /// Begins an operation; its id, once it is on disk.
    pub async fn start_operation(
        &self,
        start: &StartOperation,
    ) -> Result<Result<Lsn, Refused>, Stopped> {
        let started = self.call(|core, now, out| core.start_operation(start, now, out)).await?;
        self.operations.notify_one();
        Ok(started)
    }

    /// Works on operations until the log stops; whoever runs it ends it when the broker closes.
    pub async fn run_operations(self: Arc<Self>) {
        let mut next = BTreeMap::new();
        while let Ok(sleep) = self.work_once(&mut next).await {
            let woken = self.operations.notified();
            match sleep {
                None => woken.await,
                Some(sleep) => drop(tokio::time::timeout(sleep, woken).await),
            }
        }
    }

    /// Does a step of each operation whose time has come; how long there is nothing to do then.
    async fn work_once(
        self: &Arc<Self>,
        next: &mut BTreeMap<Lsn, u64>,
    ) -> Result<Option<Duration>, Stopped> {
        let running: Vec<Lsn> = self.look(|core| core.running_operations().collect()).1;
        next.retain(|id, _| running.contains(id));
        for id in running {
            let now_ms = self.clock().now().boot_ms;
            if next.get(&id).is_none_or(|next_ms| *next_ms <= now_ms) {
                let wait_ms = self.work_on(id).await?;
                next.insert(id, now_ms + wait_ms);
            }
        }
        let now_ms = self.clock().now().boot_ms;
        let wait_ms = next.values().min().map(|next_ms| next_ms.saturating_sub(now_ms));
        Ok(wait_ms.map(|wait_ms| Duration::from_millis(wait_ms.min(LOOK_MS))))
    }

    /// Does a step of an operation; how long it rests then.
    async fn work_on(self: &Arc<Self>, id: Lsn) -> Result<u64, Stopped> {
        let (_, operation) = self.look(|core| core.operation(id).cloned());
        let Some(operation) = operation.filter(Operation::is_running) else { return Ok(0) };
        let Operation { started, .. } = &operation;
        let wanted = at_once(started.rate).min(operation.left());
        let is_move = started.kind() == OperationKind::Move;
        let scan = Scan {
            queue: operation.queue(),
            filter: &started.filter,
            after: operation.after(),
            // Where it may go depends on them.
            needs: Needs { message: is_move, failure: false, letter: is_move },
            wanted: usize::try_from(wanted).unwrap_or(usize::MAX),
        };
        let mut scanned = self.scan(scan).await?;
        let in_doubt = |it: &Candidate| operation.needs_record(it.birth, &it.message);
        if !is_move && scanned.found.iter().any(|it| in_doubt(&it.candidate)) {
            let needs = Needs { message: true, ..scan.needs };
            scanned = self.scan(Scan { needs, ..scan }).await?;
        }
        let step = OperationStep {
            operation: id,
            found: scanned.found.into_iter().map(|it| (it.candidate, it.told)).collect(),
            after: scanned.after,
            is_end: scanned.is_end,
            examined: scanned.examined,
        };
        let (lsn, pace) = self.turn(|core, now, out| core.step_operation(&step, now, out))?;
        self.durable(lsn).await?;
        Ok(match pace.expect("a step is not refused") {
            Pace::Goes { done } => (done * 1_000_000).checked_div(started.rate).unwrap_or(0),
            Pace::Waits => WAIT_MS,
            Pace::Ended => {
                self.tell_ended(id);
                0
            }
        })
    }

    fn tell_ended(&self, id: Lsn) {
        let ended = self.look(|core| core.operation(id).cloned()).1;
        if let Some(operation) = ended {
            let (done, failed) = (operation.progress.done, operation.failed());
            let queue = &operation.started.queue_name;
            info!(operation = %format_args!("o.{id}"), queue, done, failed, "an operation has ended");
        }
    }
}

/// Messages of one step of an operation with this rate, in thousandths a second.
fn at_once(rate: u64) -> u64 {
    match rate {
        0 => STEP_MESSAGES,
        rate => (rate.saturating_mul(STEP_MS) / 1_000_000).clamp(1, STEP_MESSAGES),
    }
}
