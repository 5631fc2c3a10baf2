//! Looking at a whole data folder, damaged or not, without changing anything.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use crate::checkpoint::{self, Loaded, SegmentEntry};
use crate::compaction::adopt::Adopted;
use crate::disk::{Disk, File, Mode, ReadAt, read_up_to};
use crate::error::{Damage, Doing as _, OpenError};
use crate::frame::{self, HEADER_LEN, Header, Kind};
use crate::layout::{self, CKPT, Floor, LOG, cold_seq, segment_path, segment_seq};
use crate::lsn::{Lsn, LsnRange};
use crate::recovery::files::{self, SegmentFile};
use crate::recovery::tail;
use crate::retention::dropped;
use crate::scan::{Depth, Problem, Walk, next_frame};
use crate::segment::{HeaderFound, SEGMENT_HEADER_LEN, SegmentHeader};

/// Something wrong in a segment, and what a repair needs to know to step around it.
#[derive(Debug)]
pub(crate) enum Fault {
    /// A frame whose records are known, but not the bodies of these.
    Bodies { offset: u64, header: Header, records: Vec<(usize, Lsn)> },
    /// Bytes that no frame can be made of, and the good frame after them, if there is one.
    Gap { from: u64, prev_crc: u32, first_lsn: Lsn, next: Option<(u64, Lsn)>, problem: String },
}

/// A segment with a good header, read from end to end.
#[derive(Debug)]
pub(crate) struct Surveyed {
    pub(crate) file: SegmentFile,
    pub(crate) faults: Vec<Fault>,
    pub(crate) next_lsn: Lsn,
    pub(crate) frames: u64,
    pub(crate) records: u64,
    dropped: Vec<u64>,
    pub(crate) adopted: Vec<Adopted>,
}

impl Surveyed {
    /// Whether its last frame is there and ends it.
    pub(crate) fn is_sealed(&self) -> bool {
        !matches!(self.faults.last(), Some(Fault::Gap { next: None, .. }))
    }
}

/// A data folder as it is.
#[derive(Debug)]
pub(crate) struct Survey {
    pub(crate) floor: Option<Floor>,
    pub(crate) segments: BTreeMap<u64, Surveyed>,
    /// Cold segments with a good header, in use or not.
    pub(crate) cold: BTreeMap<u64, Surveyed>,
    /// Files in the place of cold segments, and what is wrong with their headers.
    pub(crate) headless_cold: BTreeMap<u64, Box<Damage>>,
    /// Files in the place of a segment, with no usable header.
    pub(crate) headless: BTreeMap<u64, String>,
    /// Newest first.
    pub(crate) checkpoints: Vec<Loaded>,
    pub(crate) bad_checkpoints: Vec<(String, String)>,
    /// The newest segment's end is damaged, not torn.
    pub(crate) tail_damage: Option<Damage>,
    /// The newest segment's end, where it is good: the LSN after it, and whether it is torn.
    pub(crate) tail: Option<(Lsn, bool)>,
    /// Every segment that was named as dropped.
    pub(crate) dropped: BTreeSet<u64>,
    /// Folders that are missing as a whole.
    pub(crate) missing: Vec<&'static str>,
}

/// Reads everything there is.
pub(crate) fn survey(disk: &dyn Disk, log_id: &[u8; 16]) -> Result<Survey, OpenError> {
    let floor = Floor::read(disk, log_id)?;
    let mut survey = Survey {
        floor,
        segments: BTreeMap::new(),
        cold: BTreeMap::new(),
        headless_cold: BTreeMap::new(),
        headless: BTreeMap::new(),
        checkpoints: Vec::new(),
        bad_checkpoints: Vec::new(),
        tail_damage: None,
        tail: None,
        dropped: BTreeSet::new(),
        missing: Vec::new(),
    };
    for dir in [LOG, CKPT] {
        if !layout::is_there(disk, dir)? {
            survey.missing.push(dir);
        }
    }
    let names = layout::names_in(disk, LOG)?;
    for seq in names.iter().filter_map(|name| segment_seq(name)) {
        let path = segment_path(seq);
        let file = disk.open(&path, Mode::Read).doing("open", &path)?;
        match header_of(&file).doing("read", &path)? {
            HeaderFound::Valid(header) if header.seq == seq && header.log_id == *log_id => {
                let len = file.size().doing("look at", &path)?.min(u64::from(header.size));
                let file = SegmentFile { header, path: path.clone(), file, len };
                let surveyed = survey_segment(file).doing("read", &path)?;
                survey.dropped.extend(&surveyed.dropped);
                survey.segments.insert(seq, surveyed);
            }
            HeaderFound::Valid(_) | HeaderFound::Blank | HeaderFound::Bad => {
                survey.headless.insert(seq, path);
            }
        }
    }
    for seq in names.iter().filter_map(|name| cold_seq(name)) {
        match files::open_cold(disk, seq, log_id)? {
            Ok(file) => {
                let path = file.path.clone();
                survey.cold.insert(seq, survey_segment(file).doing("read", &path)?);
            }
            Err(damage) => drop(survey.headless_cold.insert(seq, damage)),
        }
    }
    if let Some(newest) = survey.segments.values().next_back() {
        match tail::judge(&newest.file, floor) {
            Ok(tail) => survey.tail = Some((tail.next_lsn, tail.is_torn())),
            Err(OpenError::Damaged(damage)) => survey.tail_damage = Some(*damage),
            Err(other) => return Err(other),
        }
    }
    for (lsn, path) in checkpoint::list(disk)? {
        match checkpoint::load(disk, &path, log_id)? {
            Ok(loaded) if loaded.meta.lsn == lsn => survey.checkpoints.push(loaded),
            Ok(_) => survey.bad_checkpoints.push((path, "its name is another LSN".to_owned())),
            Err(problem) => survey.bad_checkpoints.push((path, problem)),
        }
    }
    Ok(survey)
}

impl Survey {
    /// The segment table of the newest checkpoint.
    pub(crate) fn listed(&self) -> Option<&[SegmentEntry]> {
        self.checkpoints.first().map(|loaded| loaded.meta.segments.as_slice())
    }

    /// The newest segment that is, or must have been, there.
    pub(crate) fn newest_seq(&self) -> u64 {
        let listed = self.listed().and_then(<[_]>::last).map_or(0, |entry| entry.seq);
        let floor = self.floor.map_or(0, |floor| floor.seq);
        let there = self.segments.keys().next_back().copied().unwrap_or(0);
        listed.max(floor).max(there)
    }

    /// The LSN after the last of the newest segment.
    pub(crate) fn end(&self) -> Lsn {
        let newest = self.segments.values().next_back();
        let walked = newest.map_or(Lsn(1), |newest| newest.next_lsn);
        self.tail.map_or(walked, |(next_lsn, _)| next_lsn)
    }

    /// The last LSN that something says was confirmed.
    pub(crate) fn confirmed(&self) -> Lsn {
        let floor = self.floor.map_or(0, |floor| floor.lsn);
        let checkpoints = self.checkpoints.iter().map(|loaded| loaded.meta.lsn.0);
        Lsn(checkpoints.chain([floor]).max().unwrap_or(0))
    }

    /// The segments that must be there: what the newest checkpoint lists and what came after,
    /// less what was dropped since. Without a checkpoint, all there ever were.
    pub(crate) fn expected(&self) -> BTreeSet<u64> {
        let (mut expected, after): (BTreeSet<u64>, u64) = match self.listed() {
            Some(listed) => (
                listed.iter().map(|entry| entry.seq).collect(),
                listed.last().map_or(0, |entry| entry.seq),
            ),
            None => (BTreeSet::new(), 0),
        };
        expected.extend(after + 1..=self.newest_seq());
        if self.listed().is_some() {
            expected.retain(|seq| !self.dropped.contains(seq));
        }
        expected
    }

    /// The first segment that a start reads: the one that holds the newest checkpoint's record.
    pub(crate) fn replayed_from(&self) -> u64 {
        let newest = self.checkpoints.first().map_or(Lsn::NONE, |loaded| loaded.meta.lsn);
        let mut before = self.segments.values().filter(|s| s.file.header.first_lsn <= newest);
        before.next_back().map_or(0, |surveyed| surveyed.file.header.seq)
    }

    /// The cold segments that must be there, and between which LSNs their records are: what the
    /// newest checkpoint lists and what was adopted since, less what was dropped.
    pub(crate) fn expected_cold(&self) -> BTreeMap<u64, LsnRange> {
        let newest = self.checkpoints.first().map(|loaded| &loaded.meta);
        let listed = newest.map_or(&[][..], |meta| &meta.cold);
        let listed =
            listed.iter().map(|e| (e.seq, LsnRange { first: e.first_lsn, last: e.last_lsn }));
        // Frames before the checkpoint's record tell of what its table knows better.
        let from = newest.map_or(Lsn::NONE, |meta| meta.lsn);
        let holding = self.segments.values().filter(|s| s.file.header.first_lsn <= from).count();
        let since = self.segments.values().skip(holding.saturating_sub(1));
        let adopted = since.flat_map(|surveyed| &surveyed.adopted);
        let range = |a: &Adopted| LsnRange { first: a.first_lsn, last: a.last_lsn };
        let mut expected: BTreeMap<u64, LsnRange> =
            listed.chain(adopted.map(|adopted| (adopted.seq, range(adopted)))).collect();
        expected.retain(|seq, _| !self.dropped.contains(seq));
        expected
    }
}

fn header_of(file: &Arc<dyn File>) -> io::Result<HeaderFound> {
    let mut bytes = vec![0; SEGMENT_HEADER_LEN as usize];
    let read = read_up_to(&Patient(Arc::clone(file)), &mut bytes, 0)?;
    Ok(SegmentHeader::decode(&bytes[..read]))
}

/// Walks a segment, and goes on behind whatever is damaged.
fn survey_segment(segment: SegmentFile) -> io::Result<Surveyed> {
    let patient = Patient(Arc::clone(&segment.file));
    let mut walk = Walk::new(&patient, segment.header, segment.len);
    let mut faults = Vec::new();
    let (mut frames, mut records, mut prev_crc) = (0, 0, 0);
    let (mut gone, mut adopted) = (Vec::new(), Vec::new());
    loop {
        let bad = match walk.next(Depth::Bodies) {
            None => break,
            Some(Ok(seen)) => {
                frames += 1;
                records += u64::from(seen.header.count);
                prev_crc = seen.header.crc;
                if seen.header.kind == Kind::Drop {
                    gone.extend(dropped(seen.table).map(|(seq, _)| seq));
                }
                if seen.header.kind == Kind::Adopt
                    && let Some(adopt) = Adopted::decode(seen.table)
                {
                    gone.extend(&adopt.victims);
                    adopted.push(adopt);
                }
                continue;
            }
            Some(Err(bad)) => bad,
        };
        if let (Problem::Body { .. }, Some(header)) = (&bad.problem, bad.header) {
            let damaged = bad_bodies(&patient, &header, bad.offset)?;
            frames += 1;
            records += u64::from(header.count);
            prev_crc = header.crc;
            let next_lsn = damaged.last().map_or(Lsn::NONE, |(_, lsn)| lsn.next());
            walk.resume(bad.offset + header.frame_len(), next_lsn.max(header.next_lsn()));
            faults.push(Fault::Bodies { offset: bad.offset, header, records: damaged });
            continue;
        }
        let next = next_frame(&patient, &segment.header, segment.len, bad.offset, walk.next_lsn)?;
        faults.push(Fault::Gap {
            from: bad.offset,
            prev_crc,
            first_lsn: walk.next_lsn,
            next,
            problem: bad.problem.to_string(),
        });
        match next {
            Some((offset, lsn)) => walk.resume(offset, lsn),
            None => break,
        }
    }
    let next_lsn = walk.next_lsn;
    Ok(Surveyed { file: segment, faults, next_lsn, frames, records, dropped: gone, adopted })
}

/// The records of a frame whose bodies do not have their checksums.
fn bad_bodies(file: &dyn ReadAt, header: &Header, offset: u64) -> io::Result<Vec<(usize, Lsn)>> {
    let mut bytes = vec![0; usize::try_from(header.frame_len()).unwrap_or(usize::MAX)];
    read_up_to(file, &mut bytes, offset)?;
    let (table, bodies) = bytes[HEADER_LEN..].split_at(header.table_len as usize);
    let entries = frame::entries(header, table).unwrap_or_default();
    let damaged = |entry: &frame::Entry<'_>| {
        let body = &bodies[entry.body_start as usize..][..entry.body_len as usize];
        !entry.lost && crc32fast::hash(body) != entry.body_crc
    };
    let all = entries.iter().enumerate();
    Ok(all.filter(|(_, entry)| damaged(entry)).map(|(at, entry)| (at, entry.lsn)).collect())
}

/// A file whose unreadable sectors read as zeros, so that what is around them can be looked at.
#[derive(Debug)]
pub(crate) struct Patient(pub(crate) Arc<dyn File>);

const SECTOR: u64 = 512;

impl ReadAt for Patient {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if let Ok(read) = self.0.read_at(buffer, offset) {
            return Ok(read);
        }
        // One sector at a time, so that only what cannot be read is missing.
        let to_boundary = usize::try_from(SECTOR - offset % SECTOR).unwrap_or(usize::MAX);
        let rest = usize::try_from(self.0.size()?.saturating_sub(offset)).unwrap_or(usize::MAX);
        let piece = buffer.len().min(to_boundary).min(rest);
        let buffer = &mut buffer[..piece];
        Ok(self.0.read_at(buffer, offset).unwrap_or_else(|_| {
            buffer.fill(0);
            piece
        }))
    }
}
