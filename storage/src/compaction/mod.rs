//! Compaction: what lives in sparse segments is copied together, so that they can go.
//!
//! One pass chooses segments, copies their live records into a cold segment beside the log, and
//! has one `Adopt` frame put it in their place. A crash leaves the old ones or the new one.

pub(crate) mod adopt;
mod copy;
mod measure;
mod pace;
mod policy;
mod scrub;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::background::give_way;
use crate::cold::ColdSegment;
use crate::compaction::measure::Measured;
use crate::error::{Damage, WriteError};
use crate::log::Shared;
use crate::lsn::Lsn;
use crate::reader::{self, Answer};
use crate::retention;
use crate::segment::Segment;
use crate::writer::Unwinding;

/// How often it is looked for something to do.
const LOOK: Duration = Duration::from_secs(1);

/// What compaction knows from one pass to the next.
#[derive(Debug, Default)]
pub(crate) struct Compaction {
    /// One pass at a time.
    work: Mutex<Work>,
    signal: Mutex<Signal>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Work {
    measured: BTreeMap<u64, Measured>,
    /// How many records lived in a segment at the last look.
    looked: BTreeMap<u64, u64>,
    /// Segments that must stay as they are: damaged, or with something that a repair gave up.
    left_alone: BTreeSet<u64>,
    /// Cold segments begun by this start.
    begun: u64,
    scrubbed: scrub::Position,
}

#[derive(Debug, Default)]
struct Signal {
    stopping: bool,
    woken: bool,
    /// Time that was worked and not waited yet.
    owed: Duration,
    /// Bytes appended to the log when last waited.
    appended_bytes: u64,
}

impl Compaction {
    /// A checkpoint may have made something possible.
    pub(crate) fn wake(&self) {
        self.signal.lock().woken = true;
        self.changed.notify_all();
    }

    pub(crate) fn stop(&self) {
        self.signal.lock().stopping = true;
        self.changed.notify_all();
    }

    /// Waits until there may be something to do; false when told to stop.
    fn wait(&self) -> bool {
        let mut signal = self.signal.lock();
        if !signal.stopping && !signal.woken {
            self.changed.wait_for(&mut signal, LOOK);
        }
        signal.woken = false;
        !signal.stopping
    }
}

/// A segment whose records may be copied out.
#[derive(Clone, Debug)]
enum Source {
    Hot(Arc<Segment>),
    Cold(Arc<ColdSegment>),
}

impl Source {
    fn segment(&self) -> &Arc<Segment> {
        match self {
            Self::Hot(segment) => segment,
            Self::Cold(cold) => &cold.segment,
        }
    }

    fn seq(&self) -> u64 {
        self.segment().seq()
    }

    fn read_some(&self, wanted: &[Lsn]) -> Vec<Answer> {
        match self {
            Self::Hot(segment) => reader::read_some(segment, &*segment.file, None, wanted),
            Self::Cold(cold) => reader::read_some_cold(cold, &*cold.segment.file, wanted),
        }
    }
}

/// Why a pass ends without a cold segment.
#[derive(Debug)]
enum Abandoned {
    /// The log is being closed.
    Stopping,
    /// All of it was settled meanwhile.
    NothingLives,
    /// A segment cannot be read as it was written.
    Damaged(u64, Box<Damage>),
    /// A segment holds something that a repair gave up, which only it can say.
    GivenUp(u64),
    Failed(WriteError),
}

impl<E: Into<WriteError>> From<E> for Abandoned {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// The compacting thread.
pub(crate) fn run(shared: &Arc<Shared>) {
    let guard = Unwinding { shared };
    give_way();
    let mut appended = shared.appended_bytes();
    while shared.compaction.wait() {
        loop {
            match pass(shared) {
                Ok(true) => {}
                Ok(false) => break,
                // Reported where it happened; there is nothing left to compact for.
                Err(_) => return,
            }
        }
        // Only while nobody writes.
        let before = std::mem::replace(&mut appended, shared.appended_bytes());
        if before == appended {
            scrub(shared, shared.options.scrub_bytes_per_second);
        }
    }
    drop(guard);
}

/// Drops what is dead and makes one cold segment, if that is worth it; whether it was.
pub(crate) fn pass(shared: &Shared) -> Result<bool, WriteError> {
    let mut work = shared.compaction.work.lock();
    let outcome = work.pass(shared);
    drop(work);
    match outcome {
        Ok(done) => Ok(done),
        Err(Abandoned::Stopping | Abandoned::NothingLives) => Ok(false),
        Err(Abandoned::Damaged(seq, damage)) => {
            shared.compaction.work.lock().tell(shared, seq, &damage);
            // The others need not wait for this one.
            Ok(true)
        }
        Err(Abandoned::GivenUp(seq)) => {
            shared.compaction.work.lock().left_alone.insert(seq);
            Ok(true)
        }
        // Told by `space`, and tried again at the next look.
        Err(Abandoned::Failed(WriteError::Disk(error))) if error.is_full() => {
            shared.pool.note_full();
            Ok(false)
        }
        Err(Abandoned::Failed(WriteError::Stopped)) => Err(WriteError::Stopped),
        Err(Abandoned::Failed(error)) => {
            shared.stop(&error);
            Err(error)
        }
    }
}

/// Reads about so many bytes of sealed segments and tells of damage.
pub(crate) fn scrub(shared: &Shared, bytes: u64) {
    shared.compaction.work.lock().scrub(shared, bytes);
}

impl Work {
    fn pass(&mut self, shared: &Shared) -> Result<bool, Abandoned> {
        let older = {
            let checkpoints = shared.checkpoints.lock();
            let Some(older) = checkpoints.older() else { return Ok(false) };
            retention::drop_segments(shared, older)?;
            older
        };
        let sources = self.sources(shared, older);
        let files = self.measure(shared, &sources)?;
        let room = copy::room(&shared.options);
        let chosen = policy::choose(&files, room);
        if chosen.is_empty() {
            return Ok(false);
        }
        let victims: Vec<Source> =
            sources.into_iter().filter(|source| chosen.contains(&source.seq())).collect();
        let bytes = files.iter().filter(|f| chosen.contains(&f.seq)).map(|f| f.live_bytes).sum();
        let cold = copy::copy(shared, &victims, self.next_seq(shared), bytes)?;
        adopt::install(shared, cold, &victims)?;
        Ok(true)
    }

    /// Whatever can be copied out: sealed, absorbed by both checkpoints, oldest first.
    fn sources(&self, shared: &Shared, older: Lsn) -> Vec<Source> {
        let absorbed =
            |segment: &&Arc<Segment>| segment.sealed_last().is_some_and(|last| last < older);
        let hot =
            shared.segments.read().iter().filter(absorbed).cloned().map(Source::Hot).collect();
        let cold = shared.cold.read().iter().cloned().map(Source::Cold).collect();
        let mut sources: Vec<Source> = [hot, cold].into_iter().flat_map(Vec::into_iter).collect();
        sources.retain(|source| !self.left_alone.contains(&source.seq()));
        // A repaired one also stands for records that are nowhere.
        sources.retain(|source| match source {
            Source::Hot(_) => true,
            Source::Cold(cold) => !cold.segment.header.is_repaired(),
        });
        sources.sort_by_key(|source| source.segment().header.first_lsn);
        sources
    }

    /// How much lives in each, read from their tables where it is not known yet.
    fn measure(
        &mut self,
        shared: &Shared,
        sources: &[Source],
    ) -> Result<Vec<policy::File>, Abandoned> {
        let live = shared.liveness.live_counts();
        let mut files = Vec::with_capacity(sources.len());
        for source in sources {
            let seq = source.seq();
            let live = live.get(&seq).copied().unwrap_or(0);
            let settled = !shared.threaded || self.looked.insert(seq, live) == Some(live);
            let known = self.measured.get(&seq).filter(|known| known.still_holds(live, settled));
            let measured = match known {
                Some(&known) => known,
                None => measure::measure(shared, source, live)?,
            };
            self.measured.insert(seq, measured);
            let (size, live_bytes) = (measured.size, measured.live_bytes);
            files.push(policy::File { seq, size, live_bytes });
        }
        self.measured.retain(|seq, _| files.iter().any(|file| file.seq == *seq));
        self.looked.retain(|seq, _| files.iter().any(|file| file.seq == *seq));
        Ok(files)
    }

    /// A number that no cold segment ever had: of this start, and counted in it.
    fn next_seq(&mut self, shared: &Shared) -> u64 {
        self.begun += 1;
        crate::layout::COLD_BIT | (shared.epoch << 32) | self.begun
    }
}
