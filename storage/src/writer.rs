//! The writer: takes what has piled up, writes one frame, syncs once, raises the durable LSN.

use std::sync::Arc;
use std::time::Instant;

use crate::disk::{File, Mode};
use crate::error::{DiskError, Doing as _, WriteError};
use crate::frame::{self, ALIGN, HEADER_LEN, Header, Kind, Place};
use crate::layout::{FLOOR, FLOOR_LEN, Floor, LOG, segment_path};
use crate::log::Shared;
use crate::lsn::Lsn;
use crate::segment::{
    FrameIndex, SEAL_RESERVE, SEGMENT_HEADER_LEN, Segment, SegmentHeader, SegmentState,
};
use crate::stats::Counters;
use crate::tail::Appended;

/// A `Seal` frame's flag: the log was closed in order.
pub(crate) const SEAL_CLOSED: u64 = 1;
/// A `Seal` frame's flag: a start sealed what a stop had left open.
pub(crate) const SEAL_RECOVERED: u64 = 2;

/// The segment being written, and how far.
#[derive(Debug)]
struct Active {
    segment: Arc<Segment>,
    /// Where the next frame goes.
    end: u32,
    /// Everything before this offset is durable.
    durable: u32,
    prev_crc: u32,
    frames: u64,
}

/// Writes frames. There is one, in the writer's thread or in the hands of a test.
#[derive(Debug)]
pub(crate) struct Core {
    shared: Arc<Shared>,
    active: Active,
    /// The first LSN that is not in a frame yet.
    next_lsn: Lsn,
    buffer: Vec<u8>,
    floor: Arc<dyn File>,
    /// The last frame has no witness yet: nothing behind it says that it was durable.
    unwitnessed: bool,
}

/// What the segment before ended with.
#[derive(Copy, Clone, Debug, Default)]
pub(crate) struct Before {
    pub(crate) seq: u64,
    pub(crate) seal_crc: u32,
}

impl Core {
    /// Begins a fresh segment for this start and makes it, and with it the new epoch, durable.
    pub(crate) fn begin(
        shared: Arc<Shared>,
        before: Before,
        next_lsn: Lsn,
    ) -> Result<Self, DiskError> {
        let floor = shared.disk.open(FLOOR, Mode::Replace).doing("open", FLOOR)?;
        // Kept until the first sync: emptying it only forgets a hint that recovery has used.
        let mut buffer = Vec::new();
        let active = open_segment(&shared, before, next_lsn, &mut buffer)?;
        let mut core = Self { shared, active, next_lsn, buffer, floor, unwitnessed: false };
        core.sync()?;
        Ok(core)
    }

    /// One group commit: all frames asked for without records, and one frame of batches.
    /// Whether there was anything to do.
    pub(crate) fn step(&mut self) -> Result<bool, DiskError> {
        let options = &self.shared.options;
        let (target, most) = (options.frame_bytes_target, self.shared.batch_bytes_max);
        let work = self.shared.tail.lock().take(target, most);
        if work.controls.is_empty() && work.batches.is_empty() {
            return Ok(false);
        }
        for control in &work.controls {
            self.write_control(control.kind, &control.payload)?;
        }
        if !work.batches.is_empty() {
            self.write_batches(&work.batches)?;
        }
        self.sync()?;
        self.unwitnessed = true;
        self.publish(work.controls.len(), &work.batches);
        Ok(true)
    }

    /// Testifies to the last frame, when nothing else has come to do it.
    pub(crate) fn commit_idle(&mut self) -> Result<(), DiskError> {
        if self.unwitnessed {
            let durable = self.next_lsn.0 - 1;
            self.write_control(Kind::Commit, &durable.to_le_bytes())?;
            self.sync()?;
            self.unwitnessed = false;
        }
        Ok(())
    }

    /// Whether [`Core::commit_idle`] has something to testify to.
    pub(crate) fn is_unwitnessed(&self) -> bool {
        self.unwitnessed
    }

    /// Writes what is pending, then the seal that says the log was closed in order.
    pub(crate) fn finish(&mut self) -> Result<(), DiskError> {
        while self.step()? {}
        self.seal(SEAL_CLOSED)
    }

    fn write_control(&mut self, kind: Kind, payload: &[u8]) -> Result<(), DiskError> {
        self.make_room(frame::frame_len(payload.len() as u64, 0))?;
        let place = self.place();
        self.buffer.clear();
        let header = frame::encode_control(&mut self.buffer, &place, kind, payload);
        self.write(&header)
    }

    fn write_batches(&mut self, batches: &[Appended]) -> Result<(), DiskError> {
        let bytes: usize = batches.iter().map(|appended| appended.batch.bytes).sum();
        self.make_room((HEADER_LEN + bytes) as u64 + ALIGN)?;
        let place = self.place();
        self.buffer.clear();
        let frozen = batches.iter().map(|appended| &*appended.batch);
        let header = frame::encode_data(&mut self.buffer, &place, frozen);
        // Before the write: nothing may look at a segment's liveness and miss what goes into it.
        self.shared
            .liveness
            .place(batches.iter().map(|appended| (appended.first, &*appended.batch)));
        self.write(&header)?;
        self.next_lsn = header.next_lsn();
        let counters = &self.shared.counters;
        Counters::add(&counters.records, header.count as usize);
        Counters::add(&counters.payload_bytes, batches.iter().map(|a| a.batch.body_bytes).sum());
        Ok(())
    }

    fn place(&self) -> Place {
        Place {
            flags: 0,
            seed: self.active.segment.seed,
            self_off: self.active.end,
            durable_off: self.active.durable,
            prev_crc: self.active.prev_crc,
            epoch: self.shared.epoch,
            time_ms: self.shared.disk.now_ms(),
            first_lsn: self.next_lsn,
        }
    }

    /// Writes the frame in the buffer, whose header is `header`, at the end.
    fn write(&mut self, header: &Header) -> Result<(), DiskError> {
        let active = &mut self.active;
        let segment = &active.segment;
        segment
            .file
            .write_all_at(&self.buffer, u64::from(active.end))
            .doing("write", &segment.path)?;
        if let Some(index) = &mut segment.state.lock().index {
            index.note(header.first_lsn, active.end);
        }
        active.end += u32::try_from(self.buffer.len()).expect("a frame is smaller than a segment");
        active.prev_crc = header.crc;
        active.frames += 1;
        let counters = &self.shared.counters;
        Counters::add(&counters.frames, 1);
        Counters::add(&counters.bytes_written, self.buffer.len());
        Ok(())
    }

    /// Makes everything written durable, and says so in the FLOOR file.
    fn sync(&mut self) -> Result<(), DiskError> {
        let active = &mut self.active;
        let began = Instant::now();
        active.segment.file.sync_data().doing("sync", &active.segment.path)?;
        self.shared.counters.synced(began.elapsed());
        active.durable = active.end;
        active.segment.state.lock().end = active.end;
        let floor = Floor {
            seq: active.segment.seq(),
            offset: active.end,
            lsn: self.next_lsn.0 - 1,
            epoch: self.shared.epoch,
        };
        let bytes: [u8; FLOOR_LEN] = floor.encode(&self.shared.log_id);
        self.floor.write_all_at(&bytes, 0).doing("write", FLOOR)?;
        Ok(())
    }

    /// Tells everybody what is durable now.
    fn publish(&self, controls: usize, batches: &[Appended]) {
        let durable = Lsn(self.next_lsn.0 - 1);
        let evicted = {
            let mut tail = self.shared.tail.lock();
            tail.controls_done += controls as u64;
            self.shared.set_durable(durable);
            tail.evict()
        };
        drop(evicted);
        self.shared.progress.notify_all();
        if !batches.is_empty() {
            self.shared.observer.durable(durable);
        }
    }

    /// Goes on in the next segment unless `bytes` and a seal fit into this one.
    fn make_room(&mut self, bytes: u64) -> Result<(), DiskError> {
        let needed = u64::from(self.active.end) + bytes + u64::from(SEAL_RESERVE);
        if needed <= u64::from(self.active.segment.header.size) {
            return Ok(());
        }
        self.seal(0)?;
        let before = Before { seq: self.active.segment.seq(), seal_crc: self.active.prev_crc };
        self.active = open_segment(&self.shared, before, self.next_lsn, &mut self.buffer)?;
        Ok(())
    }

    /// Ends the segment. Durable before anything in the next one can be confirmed.
    fn seal(&mut self, flags: u64) -> Result<(), DiskError> {
        let place = self.place();
        self.buffer.clear();
        let payload = seal_payload(Lsn(self.next_lsn.0 - 1), self.active.frames, flags);
        let header = frame::encode_control(&mut self.buffer, &place, Kind::Seal, &payload);
        self.write(&header)?;
        self.sync()?;
        self.active.segment.state.lock().sealed_last = Some(Lsn(self.next_lsn.0 - 1));
        Ok(())
    }
}

/// What a `Seal` frame says: the last LSN, how many frames came before it, why it was written.
pub(crate) fn seal_payload(last: Lsn, frames: u64, flags: u64) -> [u8; 24] {
    let mut payload = [0; 24];
    frame::put(&mut payload, 0, &last.0.to_le_bytes());
    frame::put(&mut payload, 8, &frames.to_le_bytes());
    frame::put(&mut payload, 16, &flags.to_le_bytes());
    payload
}

/// What an `Open` frame says: the segment before, and the checksum of its seal.
pub(crate) fn open_payload(before: Before) -> [u8; 16] {
    let mut payload = [0; 16];
    frame::put(&mut payload, 0, &before.seq.to_le_bytes());
    frame::put(&mut payload, 8, &before.seal_crc.to_le_bytes());
    payload
}

/// Begins the segment after `before`: a file in place under its name, header and first frame
/// written. The caller's next sync makes them durable, together with what it adds.
fn open_segment(
    shared: &Arc<Shared>,
    before: Before,
    next_lsn: Lsn,
    buffer: &mut Vec<u8>,
) -> Result<Active, DiskError> {
    let disk = &*shared.disk;
    let seq = before.seq + 1;
    let path = segment_path(seq);
    let file = place_file(shared, &path)?;
    let mut nonce = [0; 16];
    disk.random(&mut nonce).doing("draw randomness for", &path)?;
    let header = SegmentHeader {
        flags: 0,
        size: shared.options.segment_bytes,
        seq,
        nonce,
        log_id: shared.log_id,
        created_ms: disk.now_ms(),
        epoch: shared.epoch,
        first_lsn: next_lsn,
    };
    buffer.clear();
    header.encode(buffer);
    let place = Place {
        flags: 0,
        seed: header.seed(),
        self_off: SEGMENT_HEADER_LEN,
        durable_off: 0,
        prev_crc: 0,
        epoch: shared.epoch,
        time_ms: header.created_ms,
        first_lsn: next_lsn,
    };
    let open = frame::encode_control(buffer, &place, Kind::Open, &open_payload(before));
    file.write_all_at(buffer, 0).doing("write", &path)?;
    Counters::add(&shared.counters.frames, 1);
    Counters::add(&shared.counters.bytes_written, buffer.len());
    Counters::add(&shared.counters.rotations, 1);
    let end = u32::try_from(buffer.len()).expect("a header and a small frame");
    let state = SegmentState { sealed_last: None, end: 0, index: Some(FrameIndex::new(next_lsn)) };
    let segment = Arc::new(Segment::new(header, file, state));
    shared.liveness.begin(seq, next_lsn);
    shared.segments.write().push(Arc::clone(&segment));
    Ok(Active { segment, end, durable: 0, prev_crc: open.crc, frames: 1 })
}

/// Puts a file for a segment in its place: a prepared one, or, when writing has outrun the pool,
/// one made on the spot whose room is reserved but not filled.
fn place_file(shared: &Shared, path: &str) -> Result<Arc<dyn File>, DiskError> {
    let disk = &*shared.disk;
    let file = match shared.pool.take() {
        Some(spare) => {
            if !spare.filled {
                Counters::add(&shared.counters.rotations_unfilled, 1);
            }
            disk.rename(&spare.path, path).doing("rename", &spare.path)?;
            disk.open(path, Mode::Write).doing("open", path)?
        }
        None => {
            Counters::add(&shared.counters.rotations_unfilled, 1);
            let file = disk.open(path, Mode::CreateNew).doing("create", path)?;
            let room = u64::from(shared.options.segment_bytes);
            file.allocate(room).doing("reserve room for", path)?;
            file
        }
    };
    disk.sync_dir(LOG).doing("sync the folder", LOG)?;
    Ok(file)
}

/// The writer in the hands of its caller, for deterministic simulation and crash-point tests.
#[derive(Debug)]
pub struct Writer {
    pub(crate) shared: Arc<Shared>,
}

impl Writer {
    /// Does one group commit; whether there was anything to write.
    ///
    /// # Errors
    /// When the disk fails; the log is stopped then, and the observer has been told.
    pub fn step(&mut self) -> Result<bool, WriteError> {
        self.shared.run_core(Core::step)
    }

    /// Does what the writer does when nothing has come for a while: testifies to the last frame.
    ///
    /// # Errors
    /// As [`Writer::step`].
    pub fn idle(&mut self) -> Result<(), WriteError> {
        self.shared.run_core(Core::commit_idle)
    }

    /// Does what the preparing thread does: files for the segments that come, and a look at how much
    /// room there is. A disk that fails in it stops the log.
    pub fn prepare(&mut self) {
        self.shared.maintain();
    }
}

/// The writer's thread: works while there is work, testifies when there is none, and ends with
/// the log.
pub(crate) fn run(shared: &Arc<Shared>) {
    let guard = Unwinding { shared };
    // A failure has been noted and reported by `run_core`; the thread has nothing left to do.
    while let Ok(true) = turn(shared) {}
    drop(guard);
}

/// Whether to go on.
fn turn(shared: &Arc<Shared>) -> Result<bool, WriteError> {
    if shared.run_core(Core::step)? {
        return Ok(true);
    }
    let unwitnessed = shared.is_unwitnessed();
    let mut tail = shared.tail.lock();
    if tail.stopped.is_some() {
        return Ok(false);
    }
    if tail.has_work() {
        return Ok(true);
    }
    if tail.closing {
        drop(tail);
        shared.run_core(Core::finish)?;
        return Ok(false);
    }
    if !unwitnessed {
        shared.wake.wait(&mut tail);
        return Ok(true);
    }
    let idle = shared.wake.wait_for(&mut tail, shared.options.idle_commit).timed_out();
    drop(tail);
    if idle {
        shared.run_core(Core::commit_idle)?;
    }
    Ok(true)
}

/// Stops the log when the writer's thread panics: nobody may wait for a writer that is gone.
pub(crate) struct Unwinding<'a> {
    pub(crate) shared: &'a Arc<Shared>,
}

impl Drop for Unwinding<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.shared.stop(&WriteError::Panicked);
        }
    }
}
