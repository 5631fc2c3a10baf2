//! Walking the frames of a segment from its first on, checking everything on the way.

use std::fmt;
use std::io;

use crate::disk::{ReadAt, read_up_to};
use crate::frame::{
    self, ALIGN, ALIGN_LEN, FLAG_REPAIRED, HEADER_LEN, Header, Kind, MAGIC, u64_at,
};
use crate::lsn::Lsn;
use crate::segment::{SEGMENT_HEADER_LEN, SegmentHeader};

/// How much of each frame is read and checked.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Depth {
    /// Headers: where frames are.
    Headers,
    /// Tables too: which records there are, and how long.
    Tables,
    /// Bodies too: everything there is.
    Bodies,
}

/// What is wrong with a frame.
#[derive(Debug)]
pub(crate) enum Problem {
    NoFrame,
    Misplaced { says: u32 },
    WrongEpoch { epoch: u64, expected: u64 },
    LsnGap { lsn: Lsn, expected: Lsn },
    BrokenChain,
    CutOff,
    Table,
    Lengths,
    Body { lsn: Lsn },
    Read(io::Error),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoFrame => write!(f, "no frame begins here"),
            Self::Misplaced { says } => write!(f, "the frame here says that it is at {says}"),
            Self::WrongEpoch { epoch, expected } => {
                write!(f, "the frame is of epoch {epoch}, its segment of {expected}")
            }
            Self::LsnGap { lsn, expected } => {
                write!(f, "the frame begins with LSN {lsn} where {expected} was expected")
            }
            Self::BrokenChain => write!(f, "the frame does not follow the one before it"),
            Self::CutOff => write!(f, "the frame reaches past the end of the file"),
            Self::Table => write!(f, "the table of the frame has a wrong checksum"),
            Self::Lengths => write!(f, "the lengths in the frame's table do not add up"),
            Self::Body { lsn } => write!(f, "the body of LSN {lsn} has a wrong checksum"),
            Self::Read(error) => write!(f, "the disk cannot read it: {error}"),
        }
    }
}

/// A frame that cannot be believed, and what is known of it.
#[derive(Debug)]
pub(crate) struct Bad {
    pub(crate) offset: u64,
    /// Its header, where that much of it is whole.
    pub(crate) header: Option<Header>,
    pub(crate) problem: Problem,
}

/// A frame that passed every check.
#[derive(Debug)]
pub(crate) struct Seen<'a> {
    pub(crate) offset: u64,
    pub(crate) header: Header,
    /// Table and heads; the payload of a frame without records. Empty at `Depth::Headers`,
    /// but for `Lost` frames.
    pub(crate) table: &'a [u8],
    /// The LSN that the next record has.
    pub(crate) next_lsn: Lsn,
}

/// A walk over one segment's frames.
pub(crate) struct Walk<'a> {
    window: Window<'a>,
    header: SegmentHeader,
    seed: u32,
    len: u64,
    /// Where the next frame must begin.
    pub(crate) offset: u64,
    /// The LSN it must have.
    pub(crate) next_lsn: Lsn,
    /// The checksum it must name; `None` where a repair broke the chain.
    prev_crc: Option<u32>,
    /// The next frame is the first to be looked at, so it says itself which LSN is due.
    in_the_middle: bool,
    /// The largest `durable_off` any frame has told.
    pub(crate) durable_off: u64,
    pub(crate) last_time_ms: Option<u64>,
    pub(crate) sealed: bool,
}

impl<'a> Walk<'a> {
    /// A walk over the segment in `file`, `len` bytes long, whose header has been read.
    pub(crate) fn new(file: &'a dyn ReadAt, header: SegmentHeader, len: u64) -> Self {
        Self {
            window: Window::new(file, READ_AHEAD_MAX),
            seed: header.seed(),
            len,
            offset: u64::from(SEGMENT_HEADER_LEN),
            next_lsn: header.first_lsn,
            prev_crc: Some(0),
            in_the_middle: false,
            header,
            durable_off: 0,
            last_time_ms: None,
            sealed: false,
        }
    }

    /// Starts the walk at a frame in the middle, which must hold or precede `lsn`.
    pub(crate) fn starting_at(mut self, offset: u64, read_ahead: usize) -> Self {
        self.offset = offset;
        self.prev_crc = None;
        self.in_the_middle = true;
        self.window = Window::new(self.window.file, read_ahead);
        self
    }

    /// Goes on at a frame further on, whatever is before it; for surveying damage.
    pub(crate) fn resume(&mut self, offset: u64, next_lsn: Lsn) {
        self.offset = offset;
        self.next_lsn = next_lsn;
        self.prev_crc = None;
    }

    /// The next frame; `None` after the seal.
    ///
    /// After an error the walk stands where it was: everything before it is good.
    pub(crate) fn next(&mut self, depth: Depth) -> Option<Result<Seen<'_>, Bad>> {
        if self.sealed {
            return None;
        }
        Some(self.step(depth))
    }

    fn step(&mut self, depth: Depth) -> Result<Seen<'_>, Bad> {
        let offset = self.offset;
        let header = self.header_at(offset)?;
        let bad = |problem| Bad { offset, header: Some(header), problem };
        self.check_place(&header).map_err(bad)?;
        let whole = depth == Depth::Bodies || header.kind == Kind::Lost;
        let tabled = whole || depth == Depth::Tables;
        if whole {
            self.check_content(&header).map_err(bad)?;
        }
        let next_lsn = match tabled {
            true => self.check_table(&header, whole).map_err(bad)?,
            false => header.next_lsn(),
        };
        self.offset += header.frame_len();
        self.next_lsn = next_lsn;
        self.in_the_middle = false;
        self.prev_crc = (header.flags & FLAG_REPAIRED == 0).then_some(header.crc);
        self.durable_off = self.durable_off.max(u64::from(header.durable_off));
        self.last_time_ms = Some(header.time_ms);
        self.sealed = header.kind == Kind::Seal;
        let table_len = if tabled { header.table_len as usize } else { 0 };
        let table = self
            .window
            .get(offset + HEADER_LEN as u64, table_len)
            .map_err(|error| bad(Problem::Read(error)))?;
        Ok(Seen { offset, header, table, next_lsn })
    }

    fn header_at(&mut self, offset: u64) -> Result<Header, Bad> {
        let bad = |problem| Bad { offset, header: None, problem };
        if self.len < offset + HEADER_LEN as u64 {
            return Err(bad(Problem::NoFrame));
        }
        let bytes =
            self.window.get(offset, HEADER_LEN).map_err(|error| bad(Problem::Read(error)))?;
        Header::decode(bytes, self.seed).ok_or_else(|| bad(Problem::NoFrame))
    }

    fn check_place(&self, header: &Header) -> Result<(), Problem> {
        if u64::from(header.self_off) != self.offset {
            return Err(Problem::Misplaced { says: header.self_off });
        }
        if header.epoch != self.header.epoch {
            let expected = self.header.epoch;
            return Err(Problem::WrongEpoch { epoch: header.epoch, expected });
        }
        // What is copied into a cold segment ascends, with gaps.
        let due = self.header.is_cold() && self.next_lsn <= header.first_lsn;
        if !self.in_the_middle && header.first_lsn != self.next_lsn && !due {
            return Err(Problem::LsnGap { lsn: header.first_lsn, expected: self.next_lsn });
        }
        if self.prev_crc.is_some_and(|crc| crc != header.prev_crc) {
            return Err(Problem::BrokenChain);
        }
        if self.len < self.offset + header.frame_len() {
            return Err(Problem::CutOff);
        }
        Ok(())
    }

    fn check_content(&mut self, header: &Header) -> Result<(), Problem> {
        let len = usize::try_from(header.frame_len()).expect("at most FRAME_BYTES_MAX");
        let bytes = self.window.get(self.offset, len).map_err(Problem::Read)?;
        if bytes.len() < len {
            return Err(Problem::CutOff);
        }
        let (table, bodies) = bytes[HEADER_LEN..].split_at(header.table_len as usize);
        if !header.table_matches(table, self.seed) {
            return Err(Problem::Table);
        }
        if !matches!(header.kind, Kind::Data | Kind::Copied) {
            return Ok(());
        }
        for entry in frame::entries(header, table).ok_or(Problem::Lengths)? {
            let body = &bodies[entry.body_start as usize..][..entry.body_len as usize];
            if !entry.lost && crc32fast::hash(body) != entry.body_crc {
                return Err(Problem::Body { lsn: entry.lsn });
            }
        }
        Ok(())
    }

    /// The LSN after the frame's last. The table is checked unless it was with the bodies.
    fn check_table(&mut self, header: &Header, checked: bool) -> Result<Lsn, Problem> {
        let at = self.offset + HEADER_LEN as u64;
        let table = self.window.get(at, header.table_len as usize).map_err(Problem::Read)?;
        if !checked && !header.table_matches(table, self.seed) {
            return Err(Problem::Table);
        }
        match header.kind {
            // Its payload is the last LSN that was given up.
            Kind::Lost if table.len() < 8 => Err(Problem::Lengths),
            Kind::Lost => u64_at(table, 0).checked_add(1).map(Lsn).ok_or(Problem::Lengths),
            Kind::Copied => {
                let entries = frame::entries(header, table).ok_or(Problem::Lengths)?;
                Ok(entries.last().map_or(header.first_lsn, |last| last.lsn.next()))
            }
            _ => Ok(header.next_lsn()),
        }
    }
}

/// Looks for frames after a bad one: from `offset`, the next place where a header of this segment
/// stands whole and in its place.
///
/// # Errors
/// When the disk cannot be read there.
pub(crate) fn next_header(
    file: &dyn ReadAt,
    seed: u32,
    offset: u64,
    len: u64,
) -> io::Result<Option<(u64, Header)>> {
    let mut window = Window::new(file, READ_AHEAD_MAX);
    let mut at = offset.next_multiple_of(ALIGN);
    while at + HEADER_LEN as u64 <= len {
        // Most of it is zeros or somebody's bodies: looked through as fast as memory allows.
        let rest = usize::try_from(len - at).unwrap_or(usize::MAX);
        let bytes = window.get(at, rest.min(READ_AHEAD_MAX))?;
        let places = bytes.as_chunks::<ALIGN_LEN>().0;
        let Some(found) = places.iter().position(|place| place.starts_with(&MAGIC)) else {
            at += (places.len() as u64 * ALIGN).max(ALIGN);
            continue;
        };
        at += found as u64 * ALIGN;
        if let Some(header) = Header::decode(window.get(at, HEADER_LEN)?, seed)
            && u64::from(header.self_off) == at
        {
            return Ok(Some((at, header)));
        }
        at += ALIGN;
    }
    Ok(None)
}

/// The next frame behind a bad one at `offset` that can follow it, `due` being the LSN that the bad
/// one should have begun with: its place and first LSN.
///
/// # Errors
/// When the disk cannot be read there.
pub(crate) fn next_frame(
    file: &dyn ReadAt,
    segment: &SegmentHeader,
    len: u64,
    offset: u64,
    due: Lsn,
) -> io::Result<Option<(u64, Lsn)>> {
    let mut at = offset + 1;
    while let Some((offset, header)) = next_header(file, segment.seed(), at, len)? {
        if header.epoch == segment.epoch && due <= header.first_lsn {
            return Ok(Some((offset, header.first_lsn)));
        }
        at = offset + 1;
    }
    Ok(None)
}

/// Bytes read at once by who reads everything.
const READ_AHEAD_MAX: usize = 1 << 20;
/// And by who reads headers alone, which lie far from each other; a page of the system's cache.
const READ_AHEAD_MIN: usize = 4 << 10;

/// A part of a file in memory, moved along by the one who reads it. It grows while all of it is used,
/// and shrinks while little is.
struct Window<'a> {
    file: &'a dyn ReadAt,
    bytes: Vec<u8>,
    start: u64,
    /// How much of it was asked for, from its start on.
    used: usize,
    read_ahead: usize,
    read_ahead_max: usize,
}

impl<'a> Window<'a> {
    fn new(file: &'a dyn ReadAt, read_ahead_max: usize) -> Self {
        let read_ahead = read_ahead_max.min(16 * READ_AHEAD_MIN);
        Self { file, bytes: Vec::new(), start: 0, used: 0, read_ahead, read_ahead_max }
    }

    /// `len` bytes at `offset`, fewer where the file ends.
    fn get(&mut self, offset: u64, len: usize) -> io::Result<&[u8]> {
        let inside =
            self.start <= offset && offset + len as u64 <= self.start + self.bytes.len() as u64;
        if !inside {
            self.move_to(offset, len)?;
        }
        let from = usize::try_from(offset - self.start).expect("inside the window");
        let to = (from + len).min(self.bytes.len());
        self.used = self.used.max(to);
        Ok(&self.bytes[from..to])
    }

    fn move_to(&mut self, offset: u64, len: usize) -> io::Result<()> {
        if self.used < self.bytes.len() / 4 {
            self.read_ahead = (self.read_ahead / 4).max(READ_AHEAD_MIN.min(self.read_ahead_max));
        } else if self.bytes.len() / 4 * 3 < self.used {
            self.read_ahead = (self.read_ahead * 4).min(self.read_ahead_max);
        }
        self.bytes.resize(len.max(self.read_ahead), 0);
        (self.start, self.used) = (offset, 0);
        let read = match read_up_to(self.file, &mut self.bytes, offset) {
            Ok(read) => read,
            // What follows the bytes asked for may be unreadable; that is not our affair yet.
            Err(_) => read_up_to(self.file, &mut self.bytes[..len], offset)
                .inspect_err(|_| self.start = u64::MAX)?,
        };
        self.bytes.truncate(read);
        Ok(())
    }
}
