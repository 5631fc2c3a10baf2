//! Files prepared ahead: spares for the writer, a reserve for a full disk.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};

use parking_lot::{Condvar, Mutex};

use crate::disk::{Disk, File, Mode};
use crate::error::{DiskError, Doing as _};
use crate::layout::{FREE, hex16};
use crate::segment::Segment;
use crate::stats::Counters;

/// Segments that are there even when the disk is full, so that a full broker can drain.
pub(crate) const RESERVE_SEGMENTS: usize = 2;
/// Dropped segments are kept as spares up to this number: their blocks need no filling, and a queue
/// that fills and drains again and again goes on in the memory that the system has them in.
const RECYCLED_SEGMENTS: usize = 4;
/// And up to this one while the log goes on.
const RECYCLED_SEGMENTS_BUSY: usize = 16;
/// When no segment was begun for this long, it does not.
const BUSY_MS: u64 = 15_000;
/// Zeros are written in pieces of this size, each synced: a writer's sync never waits for more.
const ZERO_BYTES: usize = 1 << 20;

/// Whether publishes should be taken.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Space {
    /// There is room.
    Ample,
    /// There is little: only what drains the log should be appended.
    Low {
        /// Bytes free on the disk when last looked.
        free: u64,
        /// Bytes that should be.
        reserve: u64,
    },
}

/// A prepared file in `free/`.
#[derive(Clone, Debug)]
pub(crate) struct Spare {
    pub(crate) path: String,
    /// Its blocks have been written before, so that a sync need not touch metadata.
    pub(crate) filled: bool,
}

/// The files in `free/`.
#[derive(Debug)]
pub(crate) struct Pool {
    disk: Arc<dyn Disk>,
    segment_bytes: u32,
    filled_target: usize,
    disk_reserve_bytes: u64,
    files: Mutex<Files>,
    wake: Condvar,
    /// The last look at the disk found too little, or a file could not be made.
    low: AtomicBool,
    free_bytes: AtomicU64,
}

/// When files were taken and how long filling one takes, to see whether writing outruns it.
#[derive(Copy, Clone, Debug, Default)]
struct Pace {
    taken_ms: u64,
    interval_ms: Option<u64>,
    fill_ms: u64,
}

/// Filling is worth it while a segment lasts this many times as long as filling one takes:
/// below, the zeros take more of the disk and of the processors from the frames than they give back.
const FILL_WORTH: u64 = 3;

impl Pace {
    fn taken(&mut self, now_ms: u64) {
        let first = self.taken_ms == 0;
        self.interval_ms = (!first).then(|| now_ms.saturating_sub(self.taken_ms));
        self.taken_ms = now_ms;
    }

    /// A burst counts until as much time has passed as would have ended it.
    fn is_outrun(&self, now_ms: u64) -> bool {
        let worth = FILL_WORTH * self.fill_ms;
        let since = now_ms.saturating_sub(self.taken_ms);
        self.interval_ms.is_some_and(|interval| interval < worth && since < worth)
    }
}

#[derive(Debug, Default)]
struct Files {
    filled: Vec<String>,
    plain: Vec<String>,
    next_number: u64,
    /// Dropped segments whose readers, if any, have not finished.
    retired: Vec<Arc<Segment>>,
    pace: Pace,
    stopping: bool,
}

impl Pool {
    /// The pool of a data folder, with the usable files an earlier run left in it.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        segment_bytes: u32,
        filled_target: usize,
        disk_reserve_bytes: u64,
    ) -> Result<Self, DiskError> {
        let mut files = Files::default();
        for name in disk.list(FREE).doing("list", FREE)? {
            let path = format!("{FREE}/{name}");
            let number = name.rsplit_once('-').and_then(|(_, digits)| hex16(digits));
            files.next_number = files.next_number.max(number.unwrap_or(0) + 1);
            let kept =
                if name.starts_with("filled-") { &mut files.filled } else { &mut files.plain };
            let file = disk.open(&path, Mode::Read).doing("open", &path)?;
            if file.size().doing("look at", &path)? == u64::from(segment_bytes) && number.is_some()
            {
                kept.push(path);
            } else {
                disk.remove(&path).doing("remove", &path)?;
            }
        }
        Ok(Self {
            disk,
            segment_bytes,
            filled_target,
            disk_reserve_bytes,
            files: Mutex::new(files),
            wake: Condvar::new(),
            low: AtomicBool::new(false),
            free_bytes: AtomicU64::new(u64::MAX),
        })
    }

    /// A file for the next segment: a filled one, else one of the reserve.
    pub(crate) fn take(&self) -> Option<Spare> {
        let now_ms = self.disk.now_ms();
        let mut files = self.files.lock();
        files.pace.taken(now_ms);
        let spare = match files.filled.pop() {
            Some(path) => Some(Spare { path, filled: true }),
            None => files.plain.pop().map(|path| Spare { path, filled: false }),
        };
        self.wake.notify_all();
        spare
    }

    /// A file of the reserve, for a cold segment that finds the disk full: it gives back more room
    /// than it takes. One file stays for the writer.
    pub(crate) fn take_reserved(&self) -> Option<String> {
        let mut files = self.files.lock();
        if files.plain.len() < RESERVE_SEGMENTS { None } else { files.plain.pop() }
    }

    /// How many files are ready.
    pub(crate) fn ready(&self) -> usize {
        let files = self.files.lock();
        files.filled.len() + files.plain.len() + files.retired.len()
    }

    /// Takes dropped segments, to be used again once nobody reads them.
    pub(crate) fn recycle(&self, segments: Vec<Arc<Segment>>) {
        self.files.lock().retired.extend(segments);
        self.wake.notify_all();
    }

    pub(crate) fn space(&self) -> Space {
        if self.low.load(Relaxed) {
            Space::Low { free: self.free_bytes.load(Relaxed), reserve: self.disk_reserve_bytes }
        } else {
            Space::Ample
        }
    }

    /// Notes that a file could not be made for want of room.
    pub(crate) fn note_full(&self) {
        self.low.store(true, Relaxed);
    }

    /// Brings the pool to its size and looks at the space; what cannot be made is tried again at
    /// the next call.
    ///
    /// # Errors
    /// When the disk fails in a way that is not want of room.
    pub(crate) fn maintain(&self, counters: &Counters) -> Result<(), DiskError> {
        self.recycle_unread()?;
        self.let_go()?;
        let made = self.fill_up(counters);
        self.look_at_space(&made)?;
        match made {
            Err(error) if !error.is_full() => Err(error),
            // Told by `space`, and tried again at the next call.
            Err(_) | Ok(()) => Ok(()),
        }
    }

    fn look_at_space(&self, made: &Result<(), DiskError>) -> Result<(), DiskError> {
        let free = self.disk.free_bytes().doing("look at the free space of", "the data folder")?;
        self.free_bytes.store(free, Relaxed);
        self.low.store(free < self.disk_reserve_bytes || made.is_err(), Relaxed);
        Ok(())
    }

    /// Dropped segments become spares while the pool lacks some, and are removed otherwise.
    fn recycle_unread(&self) -> Result<(), DiskError> {
        let unread: Vec<_> = {
            let mut files = self.files.lock();
            // The segment table has let go of them, so nobody new can get hold of one.
            files.retired.extract_if(.., |segment| Arc::strong_count(segment) == 1).collect()
        };
        if unread.is_empty() {
            return Ok(());
        }
        for segment in unread {
            let whole = segment.file.size().doing("look at", &segment.path)?
                == u64::from(self.segment_bytes);
            let mut files = self.files.lock();
            if whole && files.filled.len() < RECYCLED_SEGMENTS_BUSY {
                let path = files.name("filled");
                self.disk.rename(&segment.path, &path).doing("rename", &segment.path)?;
                files.filled.push(path);
            } else {
                drop(files);
                self.disk.remove(&segment.path).doing("remove", &segment.path)?;
            }
        }
        // Not synced: a name that comes back after a crash is of a segment the log has dropped.
        Ok(())
    }

    /// Spares beyond what a quiet log may need are removed.
    fn let_go(&self) -> Result<(), DiskError> {
        let now_ms = self.disk.now_ms();
        let mut files = self.files.lock();
        if now_ms.saturating_sub(files.pace.taken_ms) < BUSY_MS {
            return Ok(());
        }
        let kept = self.filled_target.max(RECYCLED_SEGMENTS).min(files.filled.len());
        let excess = files.filled.split_off(kept);
        drop(files);
        // Not synced: a spare that comes back after a crash is one.
        excess.into_iter().try_for_each(|path| self.disk.remove(&path).doing("remove", &path))
    }

    fn fill_up(&self, counters: &Counters) -> Result<(), DiskError> {
        while let Some(zeroed) = self.wanted() {
            let began_ms = self.disk.now_ms();
            let spare = self.make(zeroed, counters)?;
            let Some(path) = spare else { return Ok(()) };
            let took_ms = self.disk.now_ms().saturating_sub(began_ms);
            let mut files = self.files.lock();
            if zeroed {
                files.pace.fill_ms = took_ms;
                files.filled.push(path);
            } else {
                files.plain.push(path);
            }
        }
        Ok(())
    }

    /// What to make next: the reserve first, since it is quick, then filled ones.
    fn wanted(&self) -> Option<bool> {
        let now_ms = self.disk.now_ms();
        let files = self.files.lock();
        if files.stopping {
            None
        } else if files.plain.len() < RESERVE_SEGMENTS {
            Some(false)
        } else if files.filled.len() < self.filled_target && !files.pace.is_outrun(now_ms) {
            Some(true)
        } else {
            None
        }
    }

    /// Makes a file; `None` when told to stop on the way.
    fn make(&self, zeroed: bool, counters: &Counters) -> Result<Option<String>, DiskError> {
        let path = self.files.lock().name(if zeroed { "filled" } else { "plain" });
        let tmp = format!("{path}.tmp");
        let file = self.disk.open(&tmp, Mode::Replace).doing("create", &tmp)?;
        let made = self.write(&*file, &tmp, zeroed, counters);
        if !matches!(made, Ok(true)) {
            drop(file);
            self.disk.remove(&tmp).doing("remove", &tmp)?;
            return made.map(|_| None);
        }
        self.disk.rename(&tmp, &path).doing("rename", &tmp)?;
        self.disk.sync_dir(FREE).doing("sync the folder", FREE)?;
        Ok(Some(path))
    }

    /// Whether the file was finished.
    fn write(
        &self,
        file: &dyn File,
        path: &str,
        zeroed: bool,
        counters: &Counters,
    ) -> Result<bool, DiskError> {
        file.allocate(u64::from(self.segment_bytes)).doing("reserve room for", path)?;
        if zeroed {
            let zeros = vec![0; ZERO_BYTES.min(self.segment_bytes as usize)];
            let mut offset = 0;
            while offset < self.segment_bytes as usize {
                if self.files.lock().stopping {
                    return Ok(false);
                }
                let piece = zeros.len().min(self.segment_bytes as usize - offset);
                file.write_all_at(&zeros[..piece], offset as u64).doing("fill", path)?;
                file.sync_data().doing("sync", path)?;
                Counters::add(&counters.bytes_zeroed, piece);
                offset += piece;
            }
        }
        file.sync_data().doing("sync", path)?;
        Ok(true)
    }

    /// Waits until there may be something to do; false when told to stop.
    pub(crate) fn wait(&self, at_most: std::time::Duration) -> bool {
        let mut files = self.files.lock();
        if !files.stopping {
            self.wake.wait_for(&mut files, at_most);
        }
        !files.stopping
    }

    pub(crate) fn stop(&self) {
        self.files.lock().stopping = true;
        self.wake.notify_all();
    }
}

/// A prepared file of at least so many bytes, where there is one: whoever finds the disk full before a
/// pool is open may take it.
pub(crate) fn spare_of(disk: &dyn Disk, bytes: u64) -> Result<Option<String>, DiskError> {
    let mut names = disk.list(FREE).doing("list", FREE)?;
    // One that is not filled is worth less.
    names.sort_unstable_by(|a, b| b.cmp(a));
    for name in names.into_iter().filter(|name| !name.ends_with(".tmp")) {
        let path = format!("{FREE}/{name}");
        let file = disk.open(&path, Mode::Read).doing("open", &path)?;
        if bytes <= file.size().doing("look at", &path)? {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

impl Files {
    fn name(&mut self, kind: &str) -> String {
        let number = self.next_number;
        self.next_number += 1;
        format!("{FREE}/{kind}-{number:016x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::sim::SimDisk;
    use crate::layout::{LOG, segment_path};
    use crate::lsn::Lsn;
    use crate::segment::{SegmentHeader, SegmentState};

    #[test]
    fn a_dropped_segment_is_used_again_once_nobody_reads_it() {
        let disk = SimDisk::new(1);
        for dir in [FREE, LOG] {
            disk.create_dir(dir).unwrap();
        }
        let path = segment_path(7);
        let file = disk.open(&path, Mode::CreateNew).unwrap();
        file.allocate(8192).unwrap();
        let header = SegmentHeader {
            flags: 0,
            size: 8192,
            seq: 7,
            nonce: [0; 16],
            log_id: [0; 16],
            created_ms: 0,
            epoch: 1,
            first_lsn: Lsn(1),
        };
        let state = SegmentState { sealed_last: None, end: 0, index: None };
        let segment = Arc::new(Segment::new(header, file, state));
        let pool = Pool::open(disk.shared(), 8192, 1, 0).unwrap();
        let reader = Arc::clone(&segment);
        pool.recycle(vec![segment]);
        pool.maintain(&Counters::default()).unwrap();
        assert!(disk.paths().contains(&path), "somebody reads it");
        drop(reader);
        pool.maintain(&Counters::default()).unwrap();
        assert!(!disk.paths().contains(&path));
        assert_eq!(pool.ready(), 1 + 1 + RESERVE_SEGMENTS, "one filled before, one recycled");
    }

    #[test]
    fn spares_that_a_quiet_log_does_not_need_are_let_go() {
        let disk = SimDisk::new(1);
        disk.create_dir(FREE).unwrap();
        let pool = Pool::open(disk.shared(), 8192, 1, 0).unwrap();
        let spares = |count| {
            let mut files = pool.files.lock();
            for _ in 0..count {
                let path = files.name("filled");
                disk.open(&path, Mode::CreateNew).unwrap();
                files.filled.push(path);
            }
        };
        spares(10);
        pool.files.lock().pace.taken(disk.now_ms());
        pool.let_go().unwrap();
        assert_eq!(pool.ready(), 10, "the log goes on");
        pool.files.lock().pace.taken_ms -= BUSY_MS;
        pool.let_go().unwrap();
        assert_eq!(pool.ready(), RECYCLED_SEGMENTS);
        assert_eq!(disk.paths().len(), RECYCLED_SEGMENTS);
    }

    #[test]
    fn filling_stops_in_a_burst_and_goes_on_after_it() {
        let mut pace = Pace { fill_ms: 100, ..Pace::default() };
        pace.taken(1000);
        assert!(!pace.is_outrun(1000), "the first says nothing of a pace");
        pace.taken(1299);
        assert!(pace.is_outrun(1299));
        assert!(pace.is_outrun(1598));
        assert!(!pace.is_outrun(1599), "the burst is over");
        pace.taken(1599);
        assert!(!pace.is_outrun(1599), "a segment lasts three times as long as filling one");
    }
}
