//! Reading records: from the tail cache, else from a segment, checked.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use bytes::{Bytes, BytesMut};

use crate::cold::ColdSegment;
use crate::disk::{File, ReadAt, read_up_to};
use crate::error::{Damage, DiskError, ReadError};
use crate::frame::{HEADER_LEN, Header, Kind};
use crate::heads;
use crate::log::Shared;
use crate::lsn::{Lsn, LsnRange};
use crate::record::{Body, StoredRecord};
use crate::recovery::cold::open_unnamed;
use crate::recovery::files::SegmentFile;
use crate::scan::{Bad, Depth, Problem, Walk, next_frame};
use crate::segment::{FrameIndex, Segment};
use crate::stats::Counters;
use crate::tables::{Found, Table, Tables};
use crate::tail::Appended;

pub(crate) type Answer = Result<StoredRecord, ReadError>;

/// Bodies whose gap is smaller than this are read together, the gap with them.
const GAP_BYTES: u32 = 64 << 10;
/// Headers are looked for with reads of this size.
const HOP_BYTES: usize = 16 << 10;

/// The records with these LSNs, in the order of `lsns`.
pub(crate) fn read(shared: &Shared, lsns: &[Lsn]) -> Vec<Answer> {
    let (answers, cached) = read_by(shared, lsns, &|file, buffer, at| file.read_at(buffer, at));
    count(shared, answers.len(), cached);
    answers
}

/// As [`read`]; `None` where that would have to wait for the disk.
pub(crate) fn read_now(shared: &Shared, lsns: &[Lsn]) -> Option<Vec<Answer>> {
    let would_block = AtomicBool::new(false);
    let (answers, cached) = read_by(shared, lsns, &|file, buffer, at| {
        let read = file.read_now_at(buffer, at);
        if read.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
            would_block.store(true, Relaxed);
        }
        read
    });
    if would_block.into_inner() {
        // Whatever came of it.
        return None;
    }
    count(shared, answers.len(), cached);
    Some(answers)
}

fn count(shared: &Shared, read: usize, cached: usize) {
    Counters::add(&shared.counters.reads_cached, cached);
    Counters::add(&shared.counters.reads_disk, read - cached);
}

/// How a file is read.
type ReadBy<'a> = &'a (dyn Fn(&dyn File, &mut [u8], u64) -> io::Result<usize> + Sync);

/// A file that is read in a certain way.
struct By<'a> {
    file: &'a dyn File,
    read: ReadBy<'a>,
}

impl ReadAt for By<'_> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        (self.read)(self.file, buffer, offset)
    }
}

impl fmt::Debug for By<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.file.fmt(f)
    }
}

/// Reads records; how many of them were cached.
fn read_by(shared: &Shared, lsns: &[Lsn], by: ReadBy<'_>) -> (Vec<Answer>, usize) {
    let mut answers: Vec<Option<Answer>> = cached(shared, lsns);
    let mut missing: Vec<usize> = (0..lsns.len()).filter(|&at| answers[at].is_none()).collect();
    let cached = lsns.len() - missing.len();
    missing.sort_unstable_by_key(|&at| lsns[at]);
    let mut rest = missing.as_slice();
    while let Some(&first) = rest.first() {
        let segment = segment_of(shared, lsns[first]);
        let wanted_of = |count| rest[..count].iter().map(|&at| lsns[at]).collect::<Vec<Lsn>>();
        // A segment leaves its table only after its copy is in the other one.
        let (count, found) = match segment {
            Some((segment, end)) => {
                let count = rest.partition_point(|&at| lsns[at] < end);
                let file = By { file: &*segment.file, read: by };
                (
                    count,
                    read_all(&wanted_of(count), |rest| {
                        read_some(&segment, &file, Some(&shared.tables), rest)
                    }),
                )
            }
            None => match cold_of(shared, lsns[first]) {
                Some(cold) => {
                    let here = |at: &&usize| cold.column.find(lsns[**at]).is_some();
                    let count = rest.iter().take_while(here).count();
                    let file = By { file: &*cold.segment.file, read: by };
                    (count, read_all(&wanted_of(count), |rest| read_some_cold(&cold, &file, rest)))
                }
                None => (1, vec![Err(not_found(shared, lsns[first]))]),
            },
        };
        for (&at, answer) in rest[..count].iter().zip(found) {
            answers[at] = Some(answer);
        }
        rest = &rest[count..];
    }
    let answers = answers.into_iter().map(|answer| answer.expect("each was looked up"));
    (answers.collect(), cached)
}

/// What the tail cache has. The lock is held for the look-up, not for making the answers.
fn cached(shared: &Shared, lsns: &[Lsn]) -> Vec<Option<Answer>> {
    let entries: Vec<Option<Appended>> = {
        let tail = shared.tail.lock();
        lsns.iter().map(|&lsn| tail.find(lsn).cloned()).collect()
    };
    let answer = |(entry, &lsn): (Option<Appended>, &Lsn)| entry.map(|entry| Ok(entry.stored(lsn)));
    entries.into_iter().zip(lsns).map(answer).collect()
}

/// The segment an LSN is in, and the LSN after the segment's last (for the newest, the end of all).
pub(crate) fn segment_of(shared: &Shared, lsn: Lsn) -> Option<(Arc<Segment>, Lsn)> {
    let segments = shared.segments.read();
    let after = segments.partition_point(|segment| segment.header.first_lsn <= lsn);
    let segment = segments.get(after.checked_sub(1)?)?;
    let end = match segment.sealed_last() {
        Some(last) => last.next(),
        // A record that is not durable is in the tail cache, or nowhere.
        None => shared.durable().next(),
    };
    (lsn < end).then(|| (Arc::clone(segment), end))
}

/// Reads records of a log that is being recovered: those before what is replayed just then.
#[derive(Debug)]
pub struct Reader {
    /// Each with the LSN after its last.
    segments: Vec<(Arc<Segment>, Lsn)>,
    /// The log may name one only after a record that needs what is in it.
    cold_files: Vec<SegmentFile>,
    /// Those that are sound, opened when somebody needs them.
    cold: OnceLock<Vec<ColdSegment>>,
}

impl Reader {
    pub(crate) fn new(segments: Vec<(Arc<Segment>, Lsn)>, cold_files: Vec<SegmentFile>) -> Self {
        Self { segments, cold_files, cold: OnceLock::new() }
    }

    /// The record with this LSN.
    ///
    /// # Errors
    /// When it is not in the log, or damaged.
    pub fn read(&self, lsn: Lsn) -> Result<StoredRecord, ReadError> {
        let after = self.segments.partition_point(|(segment, _)| segment.header.first_lsn <= lsn);
        let found = after.checked_sub(1).map(|at| &self.segments[at]);
        let hot = found.filter(|(_, end)| lsn < *end);
        let hot = hot
            .into_iter()
            .flat_map(|(segment, _)| read_some(segment, &*segment.file, None, &[lsn]));
        // The same record may stand in several: a copy is as good as what it was copied from.
        let copies = std::iter::once_with(|| self.cold()).flatten();
        let copies = copies.filter(|cold| cold.column.find(lsn).is_some());
        let mut failed = None;
        for answer in
            hot.chain(copies.flat_map(|cold| read_some_cold(cold, &*cold.segment.file, &[lsn])))
        {
            match answer {
                Ok(record) => return Ok(record),
                Err(error) => failed = Some(error),
            }
        }
        Err(failed.unwrap_or(ReadError::NotFound(lsn)))
    }

    /// As [`Log::heads`](crate::Log::heads).
    pub fn heads(&self, lsns: LsnRange, visit: &mut dyn FnMut(Lsn, &[u8])) {
        let cold = self.cold().iter().map(|cold| &cold.segment);
        for segment in self.segments.iter().map(|(segment, _)| segment).chain(cold) {
            heads::visit_segment(segment, lsns, visit);
        }
    }

    fn cold(&self) -> &[ColdSegment] {
        let open = |file| open_unnamed(file).ok();
        self.cold.get_or_init(|| self.cold_files.iter().filter_map(open).collect())
    }
}

/// The cold segment an LSN is in.
fn cold_of(shared: &Shared, lsn: Lsn) -> Option<Arc<ColdSegment>> {
    let cold = shared.cold.read();
    cold.iter().find(|cold| cold.column.find(lsn).is_some()).cloned()
}

fn not_found(shared: &Shared, lsn: Lsn) -> ReadError {
    if shared.liveness.is_given_up(lsn) { ReadError::Lost(lsn) } else { ReadError::NotFound(lsn) }
}

/// All of `wanted`, in ascending order, by reads that each give some.
fn read_all(wanted: &[Lsn], read_some: impl Fn(&[Lsn]) -> Vec<Answer>) -> Vec<Answer> {
    let mut answers = Vec::with_capacity(wanted.len());
    while answers.len() < wanted.len() {
        answers.extend(read_some(&wanted[answers.len()..]));
    }
    answers
}

/// The first of `wanted`, in ascending order, and those that share its frame. All are in the
/// segment. Tables are looked for in `tables`, and kept there.
pub(crate) fn read_some(
    segment: &Segment,
    file: &dyn ReadAt,
    tables: Option<&Tables>,
    wanted: &[Lsn],
) -> Vec<Answer> {
    let of_frame =
        |header: &Header| &wanted[..wanted.partition_point(|&lsn| lsn < header.next_lsn())];
    if let Some(table) = tables.and_then(|tables| tables.of(segment, wanted[0])) {
        return read_records(segment, file, &table, of_frame(&table.header));
    }
    let found = build_index(segment, file).and_then(|()| frame_of(segment, file, wanted[0]));
    match found {
        Err(bad) => vec![Err(read_error(segment, wanted[0], &bad))],
        Ok(FrameOf::Lost { .. }) => vec![Err(ReadError::Lost(wanted[0]))],
        Ok(FrameOf::At(place)) => {
            read_frame(segment, file, &place, of_frame(&place.header), |table| {
                if let Some(tables) = tables {
                    tables.keep(Arc::new(table));
                }
            })
        }
    }
}

/// Records of one frame, all of `wanted`; its table goes to `keep` afterwards.
fn read_frame(
    segment: &Segment,
    file: &dyn ReadAt,
    place: &FramePlace,
    wanted: &[Lsn],
    keep: impl FnOnce(Table),
) -> Vec<Answer> {
    match read_table(segment, file, place) {
        Ok(table) => {
            let answers = read_records(segment, file, &table, wanted);
            keep(table);
            answers
        }
        Err(error) => wanted.iter().map(|&lsn| Err(error.of(lsn))).collect(),
    }
}

/// As [`read_some`], from a cold segment.
pub(crate) fn read_some_cold(cold: &ColdSegment, file: &dyn ReadAt, wanted: &[Lsn]) -> Vec<Answer> {
    let offset_of = |lsn: &Lsn| cold.column.find(*lsn).map(|(_, offset)| offset);
    let Some(offset) = offset_of(&wanted[0]) else {
        return vec![Err(ReadError::NotFound(wanted[0]))];
    };
    let segment = &*cold.segment;
    let count = wanted.partition_point(|lsn| offset_of(lsn).is_some_and(|at| at <= offset));
    let end = u64::from(segment.header.size);
    let mut walk = Walk::new(file, segment.header, end).starting_at(u64::from(offset), HEADER_LEN);
    match walk.next(Depth::Headers) {
        Some(Ok(seen)) if seen.header.kind == Kind::Copied => {
            let place = FramePlace { offset: seen.offset, header: seen.header };
            read_frame(segment, file, &place, &wanted[..count], drop)
        }
        Some(Err(bad)) => vec![Err(read_error(segment, wanted[0], &bad))],
        _ => {
            let bad = Bad { offset: offset.into(), header: None, problem: Problem::NoFrame };
            vec![Err(read_error(segment, wanted[0], &bad))]
        }
    }
}

/// What there is of an LSN and of those around it.
pub(crate) enum Placed {
    /// The table of its frame.
    In(Arc<Table>),
    /// A repair gave it up, and what is before `next`.
    Lost { next: Lsn },
}

/// Where an LSN is that is in the segment.
pub(crate) fn place(
    segment: &Segment,
    file: &dyn ReadAt,
    tables: &Tables,
    lsn: Lsn,
) -> Result<Placed, ReadError> {
    if let Some(table) = tables.of(segment, lsn) {
        return Ok(Placed::In(table));
    }
    let found = build_index(segment, file).and_then(|()| frame_of(segment, file, lsn));
    match found.map_err(|bad| read_error(segment, lsn, &bad))? {
        FrameOf::Lost { next } => Ok(Placed::Lost { next }),
        FrameOf::At(place) => {
            let table = read_table(segment, file, &place).map_err(|error| error.of(lsn))?;
            let table = Arc::new(table);
            tables.keep(Arc::clone(&table));
            Ok(Placed::In(table))
        }
    }
}

/// A segment of an earlier start is indexed when it is first read, or measured.
pub(crate) fn build_index(segment: &Segment, file: &dyn ReadAt) -> Result<(), Bad> {
    let end = {
        let state = segment.state.lock();
        if state.index.is_some() {
            return Ok(());
        }
        u64::from(state.end)
    };
    let mut index = FrameIndex::new(segment.header.first_lsn);
    let mut walk = Walk::new(file, segment.header, end);
    loop {
        let bad = match walk.next(Depth::Headers) {
            None => break,
            Some(Ok(seen)) => {
                index.note(seen.header.first_lsn, narrow(seen.offset));
                continue;
            }
            Some(Err(bad)) => bad,
        };
        // What stands in it is told to whoever reads that; what stands behind it can be read.
        let Ok(next) = next_frame(file, &segment.header, end, bad.offset, walk.next_lsn) else {
            return Err(bad);
        };
        let Some((offset, first_lsn)) = next else { break };
        index.note_behind_a_gap(first_lsn, narrow(offset));
        walk.resume(offset, first_lsn);
    }
    segment.state.lock().index.get_or_insert(index);
    Ok(())
}

struct FramePlace {
    offset: u64,
    header: Header,
}

/// Where an LSN is.
enum FrameOf {
    At(FramePlace),
    /// A repair gave it up, and what is before `next`.
    Lost {
        next: Lsn,
    },
}

/// The frame an LSN is in.
fn frame_of(segment: &Segment, file: &dyn ReadAt, lsn: Lsn) -> Result<FrameOf, Bad> {
    let (start, end) = {
        let state = segment.state.lock();
        let index = state.index.as_ref().expect("built before");
        (u64::from(index.before(lsn)), u64::from(state.end))
    };
    let mut walk = Walk::new(file, segment.header, end).starting_at(start, HOP_BYTES);
    while let Some(seen) = walk.next(Depth::Headers) {
        let seen = seen?;
        if lsn < seen.next_lsn {
            let place = FramePlace { offset: seen.offset, header: seen.header };
            return Ok(match seen.header.kind {
                Kind::Lost => FrameOf::Lost { next: seen.next_lsn },
                _ => FrameOf::At(place),
            });
        }
    }
    Err(Bad { offset: end, header: None, problem: Problem::NoFrame })
}

/// Why a table cannot be had, for any record of its frame.
enum TableError<'a> {
    Disk(DiskError),
    Bad(&'a Segment, Bad),
}

impl TableError<'_> {
    fn of(&self, lsn: Lsn) -> ReadError {
        match self {
            Self::Disk(error) => ReadError::Disk(error.clone()),
            Self::Bad(segment, bad) => read_error(segment, lsn, bad),
        }
    }
}

/// The table of a frame, read and checked.
fn read_table<'a>(
    segment: &'a Segment,
    file: &dyn ReadAt,
    place: &FramePlace,
) -> Result<Table, TableError<'a>> {
    let FramePlace { offset, header } = *place;
    let bad = |problem| TableError::Bad(segment, Bad { offset, header: Some(header), problem });
    let table_at = offset + HEADER_LEN as u64;
    let bytes = read_bytes(segment, file, table_at, header.table_len).map_err(TableError::Disk)?;
    if !header.table_matches(&bytes, segment.seed) {
        return Err(bad(Problem::Table));
    }
    Table::new(segment.header.nonce, offset, header, bytes).ok_or_else(|| bad(Problem::Lengths))
}

/// Records of one frame: their bodies with as few reads as make sense.
fn read_records(
    segment: &Segment,
    file: &dyn ReadAt,
    table: &Table,
    wanted: &[Lsn],
) -> Vec<Answer> {
    let Some(mut found) = table.find_all(wanted) else {
        let (offset, header) = (table.offset, Some(table.header));
        let bad = Bad { offset, header, problem: Problem::Lengths };
        return wanted.iter().map(|&lsn| Err(read_error(segment, lsn, &bad))).collect();
    };
    let mut answers = Vec::with_capacity(found.len());
    for run in found.chunk_by_mut(|a, b| b.body_start <= a.body_start + a.body_len + GAP_BYTES) {
        read_run(segment, file, table, run, &mut answers);
    }
    answers
}

/// Records whose bodies are near each other: one read for all.
fn read_run(
    segment: &Segment,
    file: &dyn ReadAt,
    table: &Table,
    run: &mut [Found],
    answers: &mut Vec<Answer>,
) {
    let bodies_at = table.offset + HEADER_LEN as u64 + u64::from(table.header.table_len);
    let start = run[0].body_start;
    let last = &run[run.len() - 1];
    let len = last.body_start + last.body_len - start;
    let bytes = match read_bytes(segment, file, bodies_at + u64::from(start), len) {
        Ok(bytes) => bytes,
        Err(error) => {
            return answers.extend(run.iter().map(|_| Err(ReadError::Disk(error.clone()))));
        }
    };
    for entry in run {
        let from = (entry.body_start - start) as usize;
        let body =
            bytes.get(from..from + entry.body_len as usize).map(|body| bytes.slice_ref(body));
        let body = body.and_then(|body| Body::checked(body, entry.body_crc));
        let head = std::mem::take(&mut entry.head);
        answers.push(match body {
            _ if entry.lost => Err(ReadError::Lost(entry.lsn)),
            Some(body) => Ok(StoredRecord { head, body }),
            None => {
                let offset = bodies_at + u64::from(entry.body_start);
                let problem = Problem::Body { lsn: entry.lsn };
                let bad = Bad { offset, header: None, problem };
                Err(read_error(segment, entry.lsn, &bad))
            }
        });
    }
}

fn read_bytes(
    segment: &Segment,
    file: &dyn ReadAt,
    offset: u64,
    len: u32,
) -> Result<Bytes, DiskError> {
    let mut bytes = BytesMut::zeroed(len as usize);
    let read = read_up_to(file, &mut bytes, offset).map_err(|source| DiskError {
        doing: "read",
        path: segment.path.clone(),
        source: Arc::new(source),
    })?;
    // What the file does not have fails its checksum like any other wrong byte.
    bytes.truncate(read);
    Ok(bytes.freeze())
}

fn read_error(segment: &Segment, lsn: Lsn, bad: &Bad) -> ReadError {
    let damage = Damage::of(&*segment.path, bad.problem.to_string())
        .at(bad.offset)
        .with_lsns(lsn, Some(lsn));
    ReadError::Damaged(damage)
}

fn narrow(offset: u64) -> u32 {
    u32::try_from(offset).expect("segments are smaller than 4 GiB")
}
