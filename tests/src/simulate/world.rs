//! The machine: a simulated disk, a clock that stands still by itself, and the broker's own core,
//! engine, storage and recovery on them, in one thread.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::FutureExt as _;
use qbroker::clock::{Clock, ManualClock};
use qbroker::engine::{self, Core, Engine};
use qbroker::queue::Limits;
use qbroker::queue::ids::LeaseToken;
use qbroker::queue::index::Index as _;
use qbroker::queue::time::Now;
use qbroker_storage::disk::Disk as _;
use qbroker_storage::disk::sim::{Faults, Rng, SimDisk};
use qbroker_storage::{Lsn, OpenError, Space, WriteError, Writer};

use super::found::Found;
use super::model::{Model, Time};
use super::plan::End;

/// What was made to go wrong.
#[derive(Clone, Copy, Debug, Default)]
pub struct Injected {
    pub power_losses: u64,
    pub kills: u64,
    pub stops: u64,
    pub interrupted_starts: u64,
    pub write_errors: u64,
    pub sync_errors: u64,
    pub full_disks: u64,
    /// Starts that a full disk refused.
    pub full_starts: u64,
    /// Logs that stopped since starts on a full disk had used up the room that is kept.
    pub full_stops: u64,
    pub clock_jumps: u64,
    pub flipped_bits: u64,
    pub refused_starts: u64,
}

impl Injected {
    pub fn add(&mut self, other: &Self) {
        self.power_losses += other.power_losses;
        self.kills += other.kills;
        self.stops += other.stops;
        self.interrupted_starts += other.interrupted_starts;
        self.write_errors += other.write_errors;
        self.sync_errors += other.sync_errors;
        self.full_disks += other.full_disks;
        self.full_starts += other.full_starts;
        self.full_stops += other.full_stops;
        self.clock_jumps += other.clock_jumps;
        self.flipped_bits += other.flipped_bits;
        self.refused_starts += other.refused_starts;
    }
}

/// What the disk is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nature {
    /// What was synced is there after a loss of power.
    Honest,
    /// What was synced last is not: no broker keeps its promises on it, and the model must notice.
    Lying,
}

pub(super) struct World {
    pub(super) disk: SimDisk,
    pub(super) engine: Arc<Engine>,
    pub(super) writer: Writer,
    pub(super) injected: Injected,
    pub(super) clock: ManualClock,
    now: Now,
    boots: u64,
    pub(super) limits: Limits,
    faults: Faults,
    nature: Nature,
    /// No start has used any of the room that is kept for a full disk.
    is_room_kept: bool,
    /// The disk as it was before the last commit, where it lies.
    before: Option<SimDisk>,
}

/// A year is far from zero, so that the wall clock can be set back.
const BEGIN_MS: u64 = 1_700_000_000_000;
const UPTIME_MS: u64 = 1_000;
/// While there is little room a checkpoint is written after so much log: two of them let segments go.
const LOG_BYTES_LOW: u64 = 32 << 10;

pub(super) fn options(clock: &ManualClock, limits: &Limits) -> engine::Options {
    engine::Options {
        log: qbroker_storage::Options {
            segment_bytes: 64 << 10,
            spare_segments: 1,
            tail_cache_bytes: 1 << 10,
            frame_bytes_target: 4 << 10,
            disk_reserve_bytes: 256 << 10,
            ..qbroker_storage::Options::default()
        },
        limits: limits.clone(),
        pending_bytes_max: 1 << 20,
        clock: Clock::Manual(clock.clone()),
    }
}

impl World {
    /// An empty machine.
    pub(super) fn new(seed: u64, nature: Nature) -> Result<Self, String> {
        let disk = SimDisk::new(seed);
        let clock = ManualClock::default();
        let now = Now { wall_ms: BEGIN_MS, boot_ms: UPTIME_MS, begun: false };
        clock.reboot("boot-0", now);
        // Most of what waits is in pages, or some, or nothing.
        let messages_in_memory = [4, 16, 1 << 18][Rng::new(seed).below(3)];
        let limits = Limits { messages_in_memory, ..Limits::default() };
        let opened = Engine::open_stepped(disk.shared(), options(&clock, &limits));
        let (engine, writer) = opened.map_err(|error| format!("the first start: {error}"))?;
        let injected = Injected::default();
        let faults = Faults {
            short_reads: seed.is_multiple_of(4),
            short_writes: true,
            garbles: seed.is_multiple_of(2),
            ..Faults::default()
        };
        disk.set_faults(faults.clone());
        let (boots, is_room_kept, before) = (0, true, None);
        Ok(Self {
            disk,
            engine,
            writer,
            injected,
            clock,
            now,
            boots,
            limits,
            faults,
            nature,
            is_room_kept,
            before,
        })
    }

    pub(super) fn time(&self) -> Time {
        Time { wall_ms: self.now.wall_ms, boot_ms: self.now.boot_ms }
    }

    pub(super) fn pass(&mut self, ms: u64) {
        self.now.wall_ms += ms;
        self.now.boot_ms += ms;
        self.clock.set(self.now);
    }

    pub(super) fn jump(&mut self, ms: i64) {
        self.injected.clock_jumps += 1;
        self.now.wall_ms = self.now.wall_ms.saturating_add_signed(ms);
        self.clock.set(self.now);
    }

    /// Whether anything happens by itself now.
    pub(super) fn is_anything_due(&self) -> bool {
        self.engine.look(|core| core.deadlines().is_over(self.now)).1
    }

    /// Whether the broker knows all leases of the model, and all sessions.
    pub(super) fn holds_all(&self, model: &Model) -> bool {
        let tokens: Vec<_> = model.tokens().filter_map(|it| LeaseToken::from_bytes(&it)).collect();
        let holds_all = |core: &Core| {
            tokens.iter().all(|token| core.is_held(*token))
                && model.session_names().all(|name| core.has_session(name))
        };
        self.engine.look(holds_all).1
    }

    /// Of which queues, that should have so many messages, the broker has let go of something.
    pub(super) fn trimmed(&self, counts: &BTreeMap<&'static str, u64>) -> BTreeSet<&'static str> {
        let has_fewer = |(name, count): &(&&str, &u64)| {
            let counts = |core: &Core| Some(core.index().counts(core.queue(name).ok()?.id()));
            self.engine.look(counts).1.is_none_or(|counts| counts.messages() < **count)
        };
        counts.iter().filter(has_fewer).map(|(name, _)| *name).collect()
    }

    /// Whether anybody may be told of what was decided up to there; an error where nobody will be.
    pub(super) fn is_durable(&self, lsn: Lsn) -> Option<bool> {
        self.engine.durable(lsn).now_or_never().map(|told| told.is_ok())
    }

    pub(super) fn is_powered(&self) -> bool {
        self.disk.free_bytes().is_ok()
    }

    /// Something goes wrong later.
    pub(super) fn inject(&mut self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.faults);
        self.disk.set_faults(self.faults.clone());
    }

    /// Others take all of the disk but for so many bytes, or give it back.
    pub(super) fn fill(&mut self, spare: Option<u64>) {
        self.injected.full_disks += u64::from(spare.is_some());
        self.is_room_kept |= !self.is_full();
        let used = self.disk.used_bytes();
        self.inject(|faults| faults.capacity = spare.map(|spare| used + spare));
        self.writer.prepare();
    }

    /// Whether others have taken the disk.
    pub(super) fn is_full(&self) -> bool {
        self.faults.capacity.is_some()
    }

    /// The log found no room for what drains it, and may: starts on the full disk have used up what is
    /// kept for that. Somebody frees some space.
    pub(super) fn may_stop(&mut self) -> bool {
        let may = self.is_full() && !self.is_room_kept;
        if may {
            self.injected.full_stops += 1;
            self.inject(|faults| faults.capacity = None);
        }
        may
    }

    /// Whether the broker knows that there is little room.
    pub(super) fn is_low(&self) -> bool {
        self.engine.log().space() != Space::Ample
    }

    /// The log's writer does a group commit, and the threads beside it what they would.
    pub(super) fn write(&mut self) -> Result<bool, WriteError> {
        let wrote = self.writer.step()?;
        self.writer.prepare();
        if self.is_low() && LOG_BYTES_LOW <= self.engine.log().bytes_since_checkpoint() {
            self.checkpoint()?;
        }
        Ok(wrote)
    }

    /// Writes a checkpoint, where there is room for it.
    pub(super) fn checkpoint(&self) -> Result<(), WriteError> {
        match self.engine.checkpoint() {
            Err(WriteError::Disk(error)) if error.is_full() && self.is_full() => Ok(()),
            other => other,
        }
    }

    /// A commit is about to be written.
    pub(super) fn remember(&mut self) {
        if self.nature == Nature::Lying {
            self.before = Some(self.disk.killed());
        }
    }

    /// Whether anything was made to go wrong since the last start.
    pub(super) fn is_faulty(&self) -> bool {
        let Faults { power_off_after, fail_write, fail_sync, .. } = &self.faults;
        power_off_after.or(*fail_write).or(*fail_sync).is_some()
    }

    /// The machine goes down and comes up; what it left of the log, and whether it was rebooted. The
    /// disk is changed by what is lost in starts that did not end, too.
    pub(super) fn down(&mut self, end: End, again: &[u64]) -> Result<(Found, bool), String> {
        let disk = match end {
            End::Power(seed) => {
                self.injected.power_losses += 1;
                self.before.take().unwrap_or_else(|| self.disk.clone()).power_loss(seed)
            }
            End::Kill => {
                self.injected.kills += 1;
                self.disk.killed()
            }
            End::Stop => {
                self.injected.stops += 1;
                self.engine.freeze();
                self.engine.close().map_err(|error| format!("stopping: {error}"))?;
                self.disk.killed()
            }
        };
        self.is_room_kept &= !self.is_full();
        let log = self.found_on(&disk)?;
        let capacity = self.faults.capacity.map(|capacity| capacity.max(disk.used_bytes()));
        let (power_off_after, fail_write, fail_sync) = (None, None, None);
        self.faults =
            Faults { capacity, power_off_after, fail_write, fail_sync, ..self.faults.clone() };
        self.before = None;
        let mut rebooted = matches!(end, End::Power(_));
        self.come_up(disk, rebooted);
        for &operations in again {
            let disk = self.start_and_lose_power(operations)?;
            self.come_up(disk, true);
            rebooted = true;
        }
        let opened = self.open();
        let opened = match opened {
            // It says so; somebody frees some space.
            Err(engine::StartError::Log(OpenError::Full(_))) if self.is_full() => {
                self.injected.full_starts += 1;
                self.inject(|faults| faults.capacity = None);
                self.open()
            }
            other => other,
        };
        let opened = opened.map_err(|error| format!("the start is refused: {error}"))?;
        (self.engine, self.writer) = opened;
        Ok((log, rebooted))
    }

    fn come_up(&mut self, disk: SimDisk, rebooted: bool) {
        disk.set_faults(self.faults.clone());
        self.disk = disk;
        self.now.wall_ms += 5_000;
        if !rebooted {
            self.now.boot_ms += 5_000;
            self.clock.set(self.now);
            return;
        }
        self.boots += 1;
        self.now.boot_ms = UPTIME_MS;
        self.clock.reboot(&format!("boot-{}", self.boots), self.now);
    }

    fn open(&self) -> Result<(Arc<Engine>, Writer), engine::StartError> {
        Engine::open_stepped(self.disk.shared(), options(&self.clock, &self.limits))
    }

    /// A start in which the power goes; the disk afterwards.
    fn start_and_lose_power(&mut self, operations: u64) -> Result<SimDisk, String> {
        self.injected.interrupted_starts += 1;
        let faults = Faults { power_off_after: Some(operations), ..self.faults.clone() };
        self.disk.set_faults(faults);
        let opened = self.open();
        match &opened {
            Err(engine::StartError::Log(OpenError::Full(_))) if self.is_full() => {}
            Err(error) if self.is_powered() => {
                return Err(format!("the start is refused, and the power was on: {error}"));
            }
            Ok(_) | Err(_) => {}
        }
        Ok(self.disk.power_loss(operations))
    }

    /// Another machine with this disk, as it is now, but for one bit.
    pub(super) fn with_rot(&mut self, path: &str, at: usize, bit: u8) -> Result<Rotten, String> {
        self.injected.flipped_bits += 1;
        let disk = self.disk.killed();
        disk.tamper(path, |bytes| bytes[at] ^= 1 << bit);
        match Engine::open_stepped(disk.shared(), options(&self.clock, &self.limits)) {
            Ok((engine, writer)) => Ok(Rotten::Started(engine, writer)),
            Err(error) => {
                self.injected.refused_starts += 1;
                Ok(Rotten::Refused(error.to_string()))
            }
        }
    }
}

/// What becomes of a folder with a flipped bit.
pub(super) enum Rotten {
    Refused(String),
    Started(Arc<Engine>, Writer),
}
