//! The end of the log: torn, and then cut, or damaged, and then refused.

use crate::disk::{Disk, File, Mode, read_up_to};
use crate::error::{Damage, DiskError, Doing as _, OpenError};
use crate::frame::{self, Kind, Place, u64_at};
use crate::layout::{Floor, QUARANTINE, segment_name};
use crate::lsn::Lsn;
use crate::pool;
use crate::recovery::files::SegmentFile;
use crate::recovery::report::Cut;
use crate::scan::{Bad, Depth, Problem, Walk, next_header};
use crate::writer::{SEAL_CLOSED, SEAL_RECOVERED, seal_payload};

/// The newest segment, read to its end and judged; nothing has been changed yet.
#[derive(Debug)]
pub(crate) struct Tail {
    /// Everything before this offset is good.
    end: u64,
    /// The LSN after the last good record.
    pub(crate) next_lsn: Lsn,
    /// Everything before this offset is known to have been durable.
    proven: u64,
    frames: u64,
    prev_crc: u32,
    sealed: bool,
    pub(crate) closed: bool,
    /// How far frames of a torn write reach.
    torn_to: u64,
}

/// Reads the newest segment. A bad frame is a torn one unless somebody testifies that it had
/// been durable: a later frame, or FLOOR.
pub(crate) fn judge(segment: &SegmentFile, floor: Option<Floor>) -> Result<Tail, OpenError> {
    let mut walk = Walk::new(&*segment.file, segment.header, segment.len);
    let (mut frames, mut prev_crc, mut closed) = (0, 0, false);
    let bad = loop {
        match walk.next(Depth::Bodies) {
            None => break None,
            Some(Err(bad)) => break Some(bad),
            Some(Ok(seen)) => {
                frames += 1;
                prev_crc = seen.header.crc;
                closed = seen.header.kind == Kind::Seal && u64_at(seen.table, 16) == SEAL_CLOSED;
            }
        }
    };
    let floor_off = floor.filter(|floor| floor.seq == segment.header.seq).map_or(0, |f| f.offset);
    let mut tail = Tail {
        end: walk.offset,
        next_lsn: walk.next_lsn,
        proven: walk.durable_off.max(u64::from(floor_off)).min(walk.offset),
        frames,
        prev_crc,
        sealed: walk.sealed,
        closed,
        torn_to: walk.offset,
    };
    if let Some(bad) = bad {
        let last_good_ms = walk.last_time_ms;
        judge_bad(segment, &mut tail, &bad, u64::from(floor_off)).map_err(|mut damage| {
            damage.last_good_ms = last_good_ms;
            damage
        })?;
    }
    Ok(tail)
}

fn judge_bad(
    segment: &SegmentFile,
    tail: &mut Tail,
    bad: &Bad,
    floor_off: u64,
) -> Result<(), Box<Damage>> {
    let damage = |problem: &Problem| {
        let last = bad.header.map(|header| Lsn(header.next_lsn().0.saturating_sub(1)));
        let last = last.filter(|&last| tail.next_lsn <= last);
        Damage::of(&*segment.path, problem.to_string())
            .at(bad.offset)
            .with_lsns(tail.next_lsn, last)
    };
    if let Problem::Read(_) = bad.problem {
        return Err(damage(&bad.problem).known_by("a torn write can be read, so this is none"));
    }
    if bad.offset < floor_off {
        let evidence = format!("FLOOR says that the segment was durable up to {floor_off}");
        return Err(damage(&bad.problem).known_by(evidence));
    }
    if let Some(header) = bad.header {
        tail.torn_to = (bad.offset + header.frame_len()).min(segment.len);
    }
    let mut at = bad.offset;
    loop {
        let seed = segment.header.seed();
        let next = next_header(&*segment.file, seed, at, segment.len)
            .map_err(|error| damage(&Problem::Read(error)).known_by("looking for later frames"))?;
        let Some((offset, header)) = next else { return Ok(()) };
        if bad.offset < u64::from(header.durable_off) {
            let evidence = format!(
                "the frame at {offset} says that the segment was durable up to {}",
                header.durable_off
            );
            return Err(damage(&bad.problem).known_by(evidence));
        }
        tail.torn_to = tail.torn_to.max((offset + header.frame_len()).min(segment.len));
        at = offset + 1;
    }
}

/// Bytes of a file move through memory in pieces of this size.
const PIECE_BYTES: usize = 1 << 20;

impl Tail {
    /// Whether there are frames of a write that was not finished.
    pub(crate) fn is_torn(&self) -> bool {
        self.end < self.torn_to
    }

    /// What is to be cut off: frames of a write that was not finished.
    pub(crate) fn cut(&self, segment: &SegmentFile) -> Option<Cut> {
        let torn = !self.sealed && self.is_torn();
        torn.then(|| Cut {
            file: segment.path.clone(),
            offset: self.end,
            bytes: self.torn_to - self.end,
            kept_in: self.kept_in(segment),
        })
    }

    /// Where the frames of the segment end, unless a seal ends them.
    pub(crate) fn open_end(&self) -> Option<u64> {
        (!self.sealed).then_some(self.end)
    }

    /// Makes the segment one that ends: a torn frame is copied aside and cut, a seal ends it. Only
    /// once nothing is refused any more. Returns the seal's checksum, where it was not there.
    ///
    /// Each step leaves, if a crash ends it, what [`judge`] finds again the same way.
    pub(crate) fn settle(
        &self,
        disk: &dyn Disk,
        segment: &SegmentFile,
    ) -> Result<Option<u32>, DiskError> {
        let mut seal_crc = None;
        if !self.sealed {
            if self.is_torn() {
                self.copy_aside(disk, segment)?;
            }
            seal_crc = Some(self.seal(segment)?);
        }
        // The rest of it will never be used. It may be shorter than that: a crash can take back
        // the room that was reserved for it.
        let end = self.sealed_end().next_multiple_of(4096);
        if end < segment.file.size().doing("look at", &segment.path)? {
            segment.file.set_size(end).doing("cut", &segment.path)?;
        }
        Ok(seal_crc)
    }

    fn kept_in(&self, segment: &SegmentFile) -> String {
        let name = segment_name(segment.header.seq);
        format!("{QUARANTINE}/torn-{name}-{}", self.end)
    }

    /// Bytes up to and with the seal.
    pub(crate) fn sealed_end(&self) -> u64 {
        if self.sealed {
            self.end
        } else {
            self.end + frame::frame_len(seal_payload(Lsn(0), 0, 0).len() as u64, 0)
        }
    }

    /// Writes again what nothing proves to be on disk, before any of it is believed: after a failed
    /// sync the page cache shows bytes that the disk may not have. It changes no byte.
    pub(crate) fn rewrite(&self, segment: &SegmentFile) -> Result<u64, DiskError> {
        if self.proven == self.end {
            return Ok(0);
        }
        let mut buffer = vec![0; PIECE_BYTES];
        let mut offset = self.proven;
        while offset < self.end {
            let piece = usize::try_from(self.end - offset).unwrap_or(usize::MAX).min(PIECE_BYTES);
            let bytes = &mut buffer[..piece];
            read_up_to(&*segment.file, bytes, offset).doing("read", &segment.path)?;
            segment.file.write_all_at(bytes, offset).doing("write", &segment.path)?;
            offset += piece as u64;
        }
        // Before the seal, which claims that all this is durable.
        segment.file.sync_data().doing("sync", &segment.path)?;
        Ok(self.end - self.proven)
    }

    /// On a full disk a file that was prepared for a segment gives its room.
    fn copy_aside(&self, disk: &dyn Disk, segment: &SegmentFile) -> Result<(), DiskError> {
        let kept_in = self.kept_in(segment);
        let copied = disk
            .open(&kept_in, Mode::Replace)
            .doing("create", &kept_in)
            .and_then(|copy| self.copy_to(&*copy, &kept_in, segment));
        match copied {
            Err(error) if error.is_full() => {
                let spare = pool::spare_of(disk, self.torn_to - self.end)?.ok_or(error)?;
                disk.rename(&spare, &kept_in).doing("rename", &spare)?;
                let copy = disk.open(&kept_in, Mode::Write).doing("open", &kept_in)?;
                self.copy_to(&*copy, &kept_in, segment)?;
            }
            other => other?,
        }
        disk.sync_dir(QUARANTINE).doing("sync the folder", QUARANTINE)
    }

    fn copy_to(
        &self,
        copy: &dyn File,
        kept_in: &str,
        segment: &SegmentFile,
    ) -> Result<(), DiskError> {
        let mut buffer = vec![0; PIECE_BYTES];
        let mut offset = self.end;
        while offset < self.torn_to {
            let rest = usize::try_from(self.torn_to - offset).unwrap_or(usize::MAX);
            let bytes = &mut buffer[..rest.min(PIECE_BYTES)];
            let read = read_up_to(&*segment.file, bytes, offset).doing("read", &segment.path)?;
            if read == 0 {
                break;
            }
            copy.write_all_at(&bytes[..read], offset - self.end).doing("write", kept_in)?;
            offset += read as u64;
        }
        copy.set_size(offset - self.end).doing("cut", kept_in)?;
        copy.sync_data().doing("sync", kept_in)
    }

    /// Zeros over what was torn, and the seal before them, in one write.
    fn seal(&self, segment: &SegmentFile) -> Result<u32, DiskError> {
        let narrow = |n: u64| u32::try_from(n).expect("segments are smaller than 4 GiB");
        let place = Place {
            flags: 0,
            seed: segment.header.seed(),
            self_off: narrow(self.end),
            durable_off: narrow(self.end),
            prev_crc: self.prev_crc,
            epoch: segment.header.epoch,
            time_ms: segment.header.created_ms,
            first_lsn: self.next_lsn,
        };
        let mut bytes = Vec::new();
        let payload = seal_payload(Lsn(self.next_lsn.0 - 1), self.frames, SEAL_RECOVERED);
        let seal = frame::encode_control(&mut bytes, &place, Kind::Seal, &payload);
        let torn = usize::try_from(self.torn_to - self.end).expect("within a segment");
        bytes.resize(bytes.len().max(torn), 0);
        segment.file.write_all_at(&bytes, self.end).doing("seal", &segment.path)?;
        segment.file.sync_data().doing("sync", &segment.path)?;
        Ok(seal.crc)
    }
}
