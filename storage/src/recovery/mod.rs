//! Opening: deciding what of a log stands, before anything listens.

pub(crate) mod cold;
pub(crate) mod files;
mod replay;
pub(crate) mod report;
pub(crate) mod tail;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use crate::checkpoint::{self, Checkpoints, Loaded, OPEN_END};
use crate::disk::Disk;
use crate::error::{Damage, DiskError, Doing as _, OpenError, WriteError};
use crate::layout::{self, CKPT, FORMAT, Floor, Folder, LOG};
use crate::liveness::Liveness;
use crate::log::{Found, Log, Observer, Options, Shared};
use crate::lsn::Lsn;
use crate::pool::Pool;
use crate::reader::Reader;
use crate::recovery::cold::ColdFiles;
use crate::recovery::files::SegmentFile;
pub use crate::recovery::report::{Cut, RecoveryReport};
use crate::recovery::tail::Tail;
use crate::segment::{SEGMENT_REPAIRED, Segment, SegmentState};
use crate::writer::{Before, Core, Writer};

/// A log that was found and judged: to be replayed, then started.
#[derive(Debug)]
pub struct Recovery {
    disk: Arc<dyn Disk>,
    options: Options,
    folder: Folder,
    /// Those that stand, by sequence number.
    segments: Vec<FoundSegment>,
    cold: ColdFiles,
    /// Files to remove at the start: never finished, never begun, or dropped before the checkpoint.
    leftovers: Vec<String>,
    /// The end of the newest segment.
    tail: Option<Tail>,
    checkpoint: Option<Loaded>,
    /// Usable checkpoints and their sizes, newest first.
    usable: Vec<(Lsn, u64)>,
    liveness: Liveness,
    next_lsn: Lsn,
    epoch: u64,
    before: Before,
    /// Sequence numbers that `Drop` and `Adopt` frames of the replay let go.
    dropped: BTreeSet<u64>,
    replayed: bool,
    /// A repair accepted that there is no checkpoint where one is needed.
    redelivery_accepted: bool,
    report: RecoveryReport,
    began: Instant,
}

/// A segment that stands, and where its LSNs end.
#[derive(Debug)]
struct FoundSegment {
    file: SegmentFile,
    end_lsn: Lsn,
    segment: Arc<Segment>,
}

impl Recovery {
    pub(crate) fn open(disk: Arc<dyn Disk>, options: Options) -> Result<Self, OpenError> {
        let began = Instant::now();
        let folder = layout::open_folder(&disk)?;
        let log_id = folder.log_id;
        let floor = Floor::read(&*disk, &log_id)?;
        let mut files = files::list(&*disk, &log_id, floor)?;
        let mut report = RecoveryReport::default();
        let (loaded, bad) = load_checkpoints(&*disk, &log_id)?;

        // The end of the log is judged before anything is believed, and cut only once nothing can be
        // refused any more.
        let tail = match files.begun.last() {
            Some(newest) => Some(tail::judge(newest, floor)?),
            None => None,
        };
        let next_lsn = tail.as_ref().map_or(Lsn(1), |tail| tail.next_lsn);
        check_witnesses(&files.begun, next_lsn, floor, &loaded)?;
        let (usable, unusable) = split_usable(&files.begun, loaded);
        report.warnings = warnings(bad.into_iter().chain(unusable));
        let accepted = usable.is_empty() && crate::repair::redelivery_accepted(&*disk, &log_id);
        check_checkpoints(&files.begun, &usable, &report.warnings, accepted)?;
        if let (Some(tail), Some(newest)) = (&tail, files.begun.last_mut()) {
            report.rewritten_bytes = tail.rewrite(newest)?;
            report.cut = tail.cut(newest);
            report.closed = tail.closed;
            newest.len = tail.sealed_end();
        }

        let kept = usable.iter().map(|loaded| (loaded.meta.lsn, loaded.bytes)).collect();
        let checkpoint = usable.into_iter().next();
        let epoch = files.begun.last().map_or(0, |newest| newest.header.epoch) + 1;
        let mut leftovers = folder.unfinished.clone();
        leftovers.extend(files.unbegun);
        let begun = remove_dropped(files.begun, checkpoint.as_ref(), &mut leftovers);
        let segments = found_segments(begun, checkpoint.as_ref(), next_lsn)?;
        report.segments = segments.len();
        report.first_lsn = segments.first().map_or(Lsn(1), |first| first.file.header.first_lsn);
        report.last_lsn = Lsn(next_lsn.0 - 1);
        report.epoch = epoch;
        report.checkpoint = checkpoint.as_ref().map(|loaded| loaded.meta.lsn);
        report.checkpoint_bytes = checkpoint.as_ref().map_or(0, |loaded| loaded.bytes);
        let spans = segments
            .iter()
            .map(|found| (found.file.header.seq, found.file.header.first_lsn, found.end_lsn));
        let liveness = Liveness::recovering(spans);
        let mut cold = ColdFiles::list(&*disk, &log_id)?;
        match &checkpoint {
            Some(loaded) => cold.take_listed(&loaded.meta.cold, loaded.meta.lsn, &liveness),
            None if accepted => cold.take_all(&liveness),
            None => {}
        }
        Ok(Self {
            disk,
            options,
            folder,
            segments,
            cold,
            leftovers,
            tail,
            checkpoint,
            usable: kept,
            liveness,
            next_lsn,
            epoch,
            before: Before::default(),
            dropped: BTreeSet::new(),
            replayed: false,
            redelivery_accepted: accepted,
            report,
            began,
        })
    }

    /// The LSN of the newest usable checkpoint.
    #[must_use]
    pub fn checkpoint(&self) -> Option<Lsn> {
        self.checkpoint.as_ref().map(|loaded| loaded.meta.lsn)
    }

    /// The newest usable checkpoint: its LSN and the owner's state, in pieces. The state is given once,
    /// so that it takes no memory any more when it has been read.
    pub fn take_checkpoint(&mut self) -> Option<(Lsn, Vec<Bytes>)> {
        let loaded = self.checkpoint.as_mut()?;
        Some((loaded.meta.lsn, std::mem::take(&mut loaded.state)))
    }

    /// Which kept records are still needed: the owner says so for what its checkpoint holds,
    /// before the replay.
    #[must_use]
    pub fn liveness(&self) -> &Liveness {
        &self.liveness
    }

    /// Whether a record that the checkpoint keeps has gone since with its segment; to be asked after
    /// the replay.
    #[must_use]
    pub fn is_gone(&self, lsn: Lsn) -> bool {
        self.liveness.holder(lsn).is_none_or(|seq| self.dropped.contains(&seq))
    }

    /// Reads records while the log is being replayed.
    #[must_use]
    pub fn reader(&self) -> Reader {
        let segments = self.segments.iter();
        let segments = segments.map(|found| (Arc::clone(&found.segment), found.end_lsn));
        Reader::new(segments.collect(), self.cold.files())
    }

    /// The LSN the next record gets.
    #[must_use]
    pub fn next_lsn(&self) -> Lsn {
        self.next_lsn
    }

    /// The number of this start.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// What tells this log from every other.
    #[must_use]
    pub fn log_id(&self) -> [u8; 16] {
        self.folder.log_id
    }

    /// What was found and done so far.
    #[must_use]
    pub fn report(&self) -> &RecoveryReport {
        &self.report
    }

    /// Starts the log: with a fresh segment that carries the new epoch, synced, and threads that
    /// write and prepare. Replays first if nobody has.
    ///
    /// # Errors
    /// When the owner's account of what lives does not fit the log, or the disk fails.
    pub fn start(mut self, observer: Arc<dyn Observer>) -> Result<Log, OpenError> {
        let shared = self.begin(observer, true)?;
        let log = Log::new(shared);
        log.start_threads().doing("start the threads of", LOG)?;
        Ok(log)
    }

    /// Starts the log without threads: [`Writer::step`] does what the writer's thread would.
    ///
    /// # Errors
    /// As [`Recovery::start`].
    pub fn start_stepped(
        mut self,
        observer: Arc<dyn Observer>,
    ) -> Result<(Log, Writer), OpenError> {
        let shared = self.begin(observer, false)?;
        shared.maintain();
        let writer = Writer { shared: Arc::clone(&shared) };
        Ok((Log::new(shared), writer))
    }

    fn begin(
        &mut self,
        observer: Arc<dyn Observer>,
        threaded: bool,
    ) -> Result<Arc<Shared>, OpenError> {
        if !self.replayed {
            self.replay(&mut |_, _| ())?;
        }
        self.check_liveness()?;
        let (cold, unused) = self.cold.settle(&self.dropped);
        self.leftovers.extend(unused);
        self.check_dropped()?;
        self.settle_tail()?;
        self.remove_leftovers()?;
        let options = self.options.clone();
        let disk = Arc::clone(&self.disk);
        let pool = Pool::open(
            Arc::clone(&disk),
            options.segment_bytes,
            options.spare_segments,
            options.disk_reserve_bytes,
        )?;
        let mut checkpoints = Checkpoints::found(&*disk, std::mem::take(&mut self.usable));
        if !checkpoints.hold_ballast(&*disk, options.checkpoint_growth_bytes())? {
            pool.note_full();
        }
        disk.sync_dir(CKPT).doing("sync the folder", CKPT)?;
        let gone = std::mem::take(&mut self.dropped);
        let found = Found {
            disk: Arc::clone(&disk),
            options,
            log_id: self.folder.log_id,
            epoch: self.epoch,
            next_lsn: self.next_lsn,
            segments: self
                .segments
                .drain(..)
                .map(|found| found.segment)
                .filter(|segment| !gone.contains(&segment.seq()))
                .collect(),
            cold,
            liveness: self.liveness.clone(),
            pool,
            checkpoints,
            replayed_bytes: self.report.replayed_bytes,
            held: std::mem::replace(&mut self.folder.lock, Box::new(NotHeld)),
        };
        let shared = Arc::new(Shared::new(found, observer, threaded));
        let core = Core::begin(Arc::clone(&shared), self.before, self.next_lsn)?;
        shared.put_core(core);
        Ok(shared)
    }

    /// What the owner kept and retired must fit what is in the log.
    fn check_liveness(&self) -> Result<(), OpenError> {
        self.cold.give_up_lost(&self.liveness);
        if self.redelivery_accepted || !self.report.lost.is_empty() {
            self.liveness.tolerate();
        }
        let (orphan, unkept) = self.liveness.recovered();
        if let Some(lsn) = orphan {
            let damage = Damage::of(LOG, format!("the segment holding LSN {lsn} is missing"));
            return Err(damage
                .with_lsns(lsn, Some(lsn))
                .known_by("the checkpoint needs the record, and nothing retired it since")
                .into());
        }
        if let Some(lsn) = unkept {
            let problem = format!("LSN {lsn} is retired in the log, but nothing had kept it");
            return Err(Damage::of(LOG, problem).with_lsns(lsn, Some(lsn)).into());
        }
        Ok(())
    }

    /// Nothing that was dropped is needed.
    fn check_dropped(&self) -> Result<(), Box<Damage>> {
        let needed = self.dropped.iter().find(|seq| self.liveness.live(**seq) != 0);
        let Some(&seq) = needed else { return Ok(()) };
        let problem = "the segment was dropped, but records in it are needed";
        Err(Damage::of(layout::segment_path(seq), problem))
    }

    /// Cuts and seals the newest segment: from here on the folder is changed.
    fn settle_tail(&mut self) -> Result<(), DiskError> {
        let (Some(tail), Some(newest)) = (&self.tail, self.segments.last()) else { return Ok(()) };
        if let Some(seal_crc) = tail.settle(&*self.disk, &newest.file)? {
            self.before.seal_crc = seal_crc;
        }
        let size = newest.file.file.size().doing("look at", &newest.file.path)?;
        newest.segment.state.lock().end =
            u32::try_from(size).expect("segments are smaller than 4 GiB");
        Ok(())
    }

    /// Removes files of segments that were dropped, or never begun.
    fn remove_leftovers(&mut self) -> Result<(), DiskError> {
        let dropped = self.segments.iter().filter(|f| self.dropped.contains(&f.file.header.seq));
        let mut paths = std::mem::take(&mut self.leftovers);
        paths.extend(dropped.map(|found| found.file.path.clone()));
        self.dropped.iter().for_each(|&seq| self.liveness.forget(seq));
        for path in &paths {
            self.disk.remove(path).doing("remove", path)?;
        }
        let dirs: BTreeSet<&str> =
            paths.iter().map(|path| path.split_once('/').map_or("", |(dir, _)| dir)).collect();
        for dir in dirs {
            self.disk.sync_dir(dir).doing("sync the folder", dir)?;
        }
        Ok(())
    }
}

/// Stands where the lock was once the log has it.
#[derive(Debug)]
struct NotHeld;

impl crate::disk::Held for NotHeld {}

type BadCheckpoint = (String, String);

/// The checkpoints that read well, newest first, and those that do not.
fn load_checkpoints(
    disk: &dyn Disk,
    log_id: &[u8; 16],
) -> Result<(Vec<Loaded>, Vec<BadCheckpoint>), DiskError> {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for (lsn, path) in checkpoint::list(disk)? {
        match checkpoint::load(disk, &path, log_id)? {
            Ok(loaded) if loaded.meta.lsn == lsn => good.push(loaded),
            Ok(_) => bad.push((path, "it is of another LSN than its name".to_owned())),
            Err(problem) => bad.push((path, problem)),
        }
    }
    Ok((good, bad))
}

/// What else knows how far the log reached: it may not end before.
fn check_witnesses(
    begun: &[SegmentFile],
    next_lsn: Lsn,
    floor: Option<Floor>,
    checkpoints: &[Loaded],
) -> Result<(), Box<Damage>> {
    let newest = begun.last().map_or(0, |file| file.header.seq);
    let ends_early = |lsn: u64, seq: u64, evidence: String| {
        if next_lsn.0 <= lsn {
            let problem = "the log ends before what was confirmed";
            let (first, last) = (next_lsn, Some(Lsn(lsn)));
            return Err(Damage::of(LOG, problem).with_lsns(first, last).known_by(evidence));
        }
        if newest < seq {
            let path = layout::segment_path(seq);
            return Err(Damage::of(path, "the segment is missing").known_by(evidence));
        }
        Ok(())
    };
    if let Some(floor) = floor {
        ends_early(floor.lsn, floor.seq, format!("FLOOR names LSN {} as durable", floor.lsn))?;
    }
    for loaded in checkpoints {
        let meta = &loaded.meta;
        let path = checkpoint::path(meta.lsn);
        let seq = meta.segments.last().map_or(0, |segment| segment.seq);
        ends_early(meta.lsn.0, seq, format!("{path} was finished after it"))?;
    }
    Ok(())
}

/// A checkpoint is usable if the log's record at its LSN has its epoch.
fn split_usable(begun: &[SegmentFile], loaded: Vec<Loaded>) -> (Vec<Loaded>, Vec<BadCheckpoint>) {
    let epoch_of = |lsn: Lsn| {
        let at = begun.partition_point(|file| file.header.first_lsn <= lsn);
        at.checked_sub(1).map(|at| begun[at].header.epoch)
    };
    let (good, bad): (Vec<_>, Vec<_>) = loaded.into_iter().partition(|loaded| {
        let meta = &loaded.meta;
        meta.lsn == Lsn::NONE || epoch_of(meta.lsn) == Some(meta.epoch)
    });
    let problem = |loaded: Loaded| {
        let lsn = loaded.meta.lsn;
        (checkpoint::path(lsn), format!("the log's record {lsn} is not of its epoch"))
    };
    (good, bad.into_iter().map(problem).collect())
}

fn warnings(bad: impl Iterator<Item = BadCheckpoint>) -> Vec<String> {
    bad.map(|(path, problem)| format!("{path} is damaged and not used: {problem}")).collect()
}

/// Without a checkpoint, only a log from which nothing was ever dropped can be replayed.
fn check_checkpoints(
    begun: &[SegmentFile],
    usable: &[Loaded],
    warnings: &[String],
    redelivery_accepted: bool,
) -> Result<(), Box<Damage>> {
    if !usable.is_empty() || redelivery_accepted {
        return Ok(());
    }
    let whole = begun.iter().zip(1..).all(|(file, seq)| file.header.seq == seq);
    if whole {
        return Ok(());
    }
    let problem = match warnings {
        [] => "there is no checkpoint, and segments are missing".to_owned(),
        warnings => format!("no checkpoint is usable: {}", warnings.join("; ")),
    };
    let evidence = "segments were dropped, so what they settled is known to checkpoints only";
    Err(Damage::of(CKPT, problem).known_by(evidence))
}

/// Takes out segments that were dropped before the checkpoint: it lists all there were.
fn remove_dropped(
    begun: Vec<SegmentFile>,
    checkpoint: Option<&Loaded>,
    leftovers: &mut Vec<String>,
) -> Vec<SegmentFile> {
    let Some(loaded) = checkpoint else { return begun };
    let listed = &loaded.meta.segments;
    let newest = listed.last().map_or(0, |segment| segment.seq);
    let (stay, go): (Vec<_>, Vec<_>) = begun.into_iter().partition(|file| {
        newest < file.header.seq || listed.iter().any(|entry| entry.seq == file.header.seq)
    });
    leftovers.extend(go.into_iter().map(|file| file.path));
    stay
}

/// Where each segment's LSNs end: at the next one's first, or where the checkpoint says.
fn found_segments(
    files: Vec<SegmentFile>,
    checkpoint: Option<&Loaded>,
    next_lsn: Lsn,
) -> Result<Vec<FoundSegment>, Box<Damage>> {
    let follows: Vec<Option<(u64, Lsn)>> = files
        .iter()
        .skip(1)
        .map(|next| Some((next.header.seq, next.header.first_lsn)))
        .chain([None])
        .collect();
    let mut found = Vec::with_capacity(files.len());
    for (file, follow) in files.into_iter().zip(follows) {
        let entry = checkpoint
            .and_then(|loaded| loaded.meta.segments.iter().find(|e| e.seq == file.header.seq));
        check_entry(&file, entry)?;
        let end_lsn = match (follow, entry) {
            (None, _) => next_lsn,
            (Some((seq, first)), _) if seq == file.header.seq + 1 => first,
            (_, Some(entry)) if entry.last_lsn != OPEN_END => entry.last_lsn.next(),
            // A gap that a repair has accepted: where exactly it begins, the replay finds out.
            (Some((_, first)), _) => first,
        };
        if end_lsn < file.header.first_lsn {
            let problem = "the segment begins after the one that follows it";
            return Err(Damage::of(&*file.path, problem));
        }
        let state = SegmentState {
            sealed_last: Some(Lsn(end_lsn.0 - 1)),
            end: u32::try_from(file.len).expect("segments are smaller than 4 GiB"),
            index: None,
        };
        let segment = Arc::new(Segment::new(file.header, Arc::clone(&file.file), state));
        found.push(FoundSegment { file, end_lsn, segment });
    }
    Ok(found)
}

/// A segment must be the very one that the checkpoint knew.
fn check_entry(
    file: &SegmentFile,
    entry: Option<&checkpoint::SegmentEntry>,
) -> Result<(), Box<Damage>> {
    let repaired = file.header.flags & SEGMENT_REPAIRED != 0;
    match entry {
        Some(entry) if !repaired && entry.nonce != file.header.nonce => {
            Err(Damage::of(&*file.path, "it is not the segment that the checkpoint knows"))
        }
        Some(entry) if entry.first_lsn != file.header.first_lsn => {
            Err(Damage::of(&*file.path, "its first LSN is not the one that the checkpoint knows"))
        }
        Some(_) | None => Ok(()),
    }
}

impl From<WriteError> for OpenError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Disk(error) => error.into(),
            other => Self::Disk(DiskError {
                doing: "start",
                path: FORMAT.to_owned(),
                source: Arc::new(std::io::Error::other(other)),
            }),
        }
    }
}
