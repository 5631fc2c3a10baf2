//! What a start would find on a disk, before it adds anything: where the log ends, and the state that
//! its replay gives.

use qbroker::clock::Clock;
use qbroker::engine::{self, Core};
use qbroker_storage::disk::sim::SimDisk;
use qbroker_storage::{Log, Lsn};

use super::digest::Digest;
use super::world::{World, options};

/// The state after the last record of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) last: Lsn,
    /// Of all that lasts, down to the last byte of a checkpoint. What is in pages and what is in memory
    /// is not the same after a start, so there is none where messages go out of memory.
    pub(super) state: Option<u64>,
}

impl World {
    /// The state as it is now.
    pub(super) fn found(&self) -> Found {
        self.engine.look(|core| self.found_in(core)).1
    }

    /// The state that a start from this disk begins with.
    pub(super) fn found_on(&self, disk: &SimDisk) -> Result<Found, String> {
        let log = options(&self.clock, &self.limits).log;
        let refused = |why: String| format!("the start is refused: {why}");
        let mut recovery =
            Log::recover(disk.killed().shared(), log).map_err(|why| refused(why.to_string()))?;
        let clock = Clock::Manual(self.clock.clone());
        let recovered = engine::recover(&mut recovery, self.limits.clone(), &clock);
        let (core, _) = recovered.map_err(|why| refused(why.to_string()))?;
        Ok(self.found_in(&core))
    }

    fn found_in(&self, core: &Core) -> Found {
        let pages = self.limits.messages_in_memory < (1 << 16);
        let digest = || {
            let mut digest = Digest::default();
            let pieces = core.snapshot().encode(std::iter::empty());
            pieces.iter().for_each(|piece| digest.add(piece));
            digest.value()
        };
        Found { last: core.last_lsn(), state: (!pages).then(digest) }
    }
}
