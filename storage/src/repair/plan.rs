//! What a repair will do, worked out before anything is touched.

use std::collections::BTreeMap;

use crate::checkpoint::{OPEN_END, SegmentEntry};
use crate::disk::read_up_to;
use crate::error::Lost;
use crate::frame::{self, FLAG_REPAIRED, FRAME_BYTES_MAX, Kind, Place, put};
use crate::layout::{CKPT, LOG, segment_path};
use crate::lsn::{Lsn, LsnRange};
use crate::repair::adopt::Readopted;
use crate::repair::cold;
use crate::segment::{SEGMENT_HEADER_LEN, SEGMENT_REPAIRED, SegmentHeader};
use crate::survey::{Fault, Patient, Survey, Surveyed};
use crate::writer::{Before, SEAL_RECOVERED, open_payload, seal_payload};

/// One change of a repair.
#[derive(Debug)]
pub(crate) enum Step {
    /// A segment gets these bytes; `keep`: there is an original to copy aside.
    Replace { path: String, bytes: Vec<u8>, keep: bool, why: String },
    /// A file is copied aside and removed.
    SetAside { path: String, dir: &'static str, why: String },
    /// A folder that is missing is made.
    MakeFolder { dir: &'static str },
    /// FORMAT is written again.
    RestoreFormat { why: String },
    /// The marker that lets a start do without a checkpoint.
    AcceptRedelivery,
}

impl Step {
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Replace { path, why, .. } => format!("rewrite {path}: {why}"),
            Self::SetAside { path, why, .. } => format!("set {path} aside: {why}"),
            Self::MakeFolder { dir } => format!("make {dir}/: the folder is missing"),
            Self::RestoreFormat { why } => {
                format!("write FORMAT as all segments and checkpoints say: {why}")
            }
            Self::AcceptRedelivery => {
                "accept that messages settled in segments that are gone come again".to_owned()
            }
        }
    }
}

/// All changes, and what they give up.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) steps: Vec<Step>,
    pub(crate) lost: Vec<Lost>,
}

/// Bytes of a file that stands for a segment that is lost: header and three small frames.
const STUB_BYTES: usize = 2 * SEGMENT_HEADER_LEN as usize;

/// One of the segments that must be there: where its LSNs begin and end.
#[derive(Copy, Clone, Debug)]
struct Extent {
    first: Lsn,
    end: Lsn,
    epoch: u64,
}

impl Plan {
    /// What would make the folder acceptable; `None` when redelivery has to be accepted first.
    pub(crate) fn of(
        survey: &Survey,
        readopted: Option<&Readopted>,
        log_id: &[u8; 16],
        accept: bool,
    ) -> Option<Self> {
        let mut plan = Self::default();
        plan.steps.extend(survey.missing.iter().map(|&dir| Step::MakeFolder { dir }));
        for (path, problem) in &survey.bad_checkpoints {
            let why = problem.clone();
            plan.steps.push(Step::SetAside { path: path.clone(), dir: CKPT, why });
        }
        let gone = survey.expected().iter().any(|seq| !survey.segments.contains_key(seq));
        let without_history = survey.listed().is_none() && gone;
        if without_history && !accept {
            return None;
        }
        for (seq, path) in &survey.headless {
            // Beyond everything known it was never begun: a start removes it by itself.
            if *seq <= survey.newest_seq() {
                let why = "its header is damaged".to_owned();
                plan.steps.push(Step::SetAside { path: path.clone(), dir: LOG, why });
            }
        }
        let may_be_dropped = survey.segments.values().any(|surveyed| !surveyed.faults.is_empty());
        for (seq, extent) in extents(survey, without_history) {
            match survey.segments.get(&seq) {
                Some(surveyed) => plan.mend(survey, surveyed, readopted, extent),
                None => plan.stand_in(seq, extent, log_id, may_be_dropped),
            }
        }
        let expected = survey.expected_cold();
        for (&seq, &lsns) in &expected {
            cold::mend(&mut plan, survey, seq, lsns, log_id);
        }
        let named = |seq: &u64| expected.contains_key(seq) || survey.dropped.contains(seq);
        for (_, surveyed) in survey.cold.iter().filter(|(seq, _)| !named(seq)) {
            // A start would remove it; the frame that put it in use may be among what is lost.
            if may_be_dropped {
                let why = "the log does not name it (the frame doing so may be lost)".to_owned();
                let path = surveyed.file.path.clone();
                plan.steps.push(Step::SetAside { path, dir: LOG, why });
            }
        }
        if without_history {
            plan.steps.push(Step::AcceptRedelivery);
        }
        Some(plan)
    }

    /// A segment that is there: steps around its faults.
    fn mend(
        &mut self,
        survey: &Survey,
        surveyed: &Surveyed,
        readopted: Option<&Readopted>,
        extent: Extent,
    ) {
        let newest = survey.newest_seq() == surveyed.file.header.seq;
        // A start settles a sound end by itself, if it reaches as far as was confirmed.
        let end_is_sound = survey.tail.is_some() && survey.confirmed() < survey.end();
        if surveyed.faults.is_empty() || (newest && end_is_sound) {
            return;
        }
        let readopted = readopted.filter(|it| it.seq == surveyed.file.header.seq);
        let mut lost = Vec::new();
        let bytes = mended(surveyed, readopted, extent.end, &mut lost);
        let why = match lost.as_slice() {
            [] if readopted.is_some() => {
                "the frame that puts a cold segment in the place of others \
                                          is written again; no record is lost"
                    .to_owned()
            }
            [] => "frames without records were damaged; no record is lost".to_owned(),
            lost => lost.iter().map(describe).collect::<Vec<_>>().join(", "),
        };
        self.lost.extend(lost);
        let path = surveyed.file.path.clone();
        self.steps.push(Step::Replace { path, bytes, keep: true, why });
    }

    /// A segment that is gone: a small file in its place that gives its LSNs up.
    fn stand_in(&mut self, seq: u64, extent: Extent, log_id: &[u8; 16], may_be_dropped: bool) {
        let path = segment_path(seq);
        let mut why = "the segment is gone".to_owned();
        if may_be_dropped {
            why.push_str(" (it may have been dropped in order: the frame saying so may be lost)");
        }
        if extent.first < extent.end {
            let lsns = LsnRange { first: extent.first, last: Lsn(extent.end.0 - 1) };
            let lost = Lost { lsns, heads: true };
            why = format!("{why}, {}", describe(&lost));
            self.lost.push(lost);
        }
        let bytes = stub(seq, extent, log_id);
        self.steps.push(Step::Replace { path, bytes, keep: false, why });
    }
}

pub(super) fn describe(lost: &Lost) -> String {
    let what = if lost.heads { "lost" } else { "kept without their bodies" };
    format!("LSN {} {what}", lost.lsns)
}

/// Where the LSNs of each segment that must be there begin and end.
fn extents(survey: &Survey, without_history: bool) -> BTreeMap<u64, Extent> {
    let listed: BTreeMap<u64, &SegmentEntry> =
        survey.listed().unwrap_or_default().iter().map(|entry| (entry.seq, entry)).collect();
    let mut seqs: Vec<u64> = survey.expected().into_iter().collect();
    if without_history {
        // Which of the others were dropped, nothing tells; the newest was not, and what was
        // confirmed ends with it.
        let newest = survey.newest_seq();
        seqs.retain(|seq| survey.segments.contains_key(seq) || *seq == newest);
    }
    let known_first = |seq: u64| {
        let header = survey.segments.get(&seq).map(|surveyed| surveyed.file.header.first_lsn);
        header.or_else(|| listed.get(&seq).map(|entry| entry.first_lsn))
    };
    let mut extents = BTreeMap::new();
    let (mut due, mut epoch) = (Lsn(1), 1);
    for (at, &seq) in seqs.iter().enumerate() {
        let first = known_first(seq).unwrap_or(due);
        let next = seqs[at + 1..].iter().find_map(|&later| known_first(later));
        let adjacent = seqs.get(at + 1) == Some(&(seq + 1));
        let entry_end = listed.get(&seq).map(|entry| entry.last_lsn).filter(|&l| l != OPEN_END);
        let surveyed = survey.segments.get(&seq);
        let own_end = surveyed.map_or(first, |surveyed| surveyed.next_lsn);
        let end = match (next, entry_end) {
            _ if surveyed.is_some_and(Surveyed::is_sealed) => own_end,
            (Some(next), _) if adjacent => next,
            (_, Some(last)) => last.next(),
            // Nothing tells where it ended: with what was confirmed, or with what is there.
            (None, None) => own_end.max(survey.confirmed().next()),
            (Some(_), None) => own_end,
        };
        let end = end.max(first);
        let header_epoch = surveyed.map(|surveyed| surveyed.file.header.epoch);
        epoch = header_epoch.or_else(|| listed.get(&seq).map(|e| e.epoch)).unwrap_or(epoch);
        extents.insert(seq, Extent { first, end, epoch });
        due = end;
    }
    extents
}

/// The bytes of a segment with its faults stepped around.
fn mended(
    surveyed: &Surveyed,
    readopted: Option<&Readopted>,
    end_lsn: Lsn,
    lost: &mut Vec<Lost>,
) -> Vec<u8> {
    let file = &surveyed.file;
    let seed = file.header.seed();
    let mut bytes = vec![0; file.header.size as usize];
    // Unreadable sectors come as zeros; the survey has found what they belong to.
    let read = read_up_to(&Patient(file.file.clone()), &mut bytes, 0);
    debug_assert!(read.is_ok(), "the survey has read the same bytes");
    let header = SegmentHeader { flags: file.header.flags | SEGMENT_REPAIRED, ..file.header };
    let mut front = Vec::new();
    header.encode(&mut front);
    put(&mut bytes, 0, &front);
    for fault in &surveyed.faults {
        match fault {
            Fault::Bodies { offset, header, records } => {
                let from = usize::try_from(*offset).expect("within the segment");
                let places: Vec<usize> = records.iter().map(|&(at, _)| at).collect();
                frame::give_up_bodies(&mut bytes[from..], header, seed, &places);
                lost.extend(records.iter().map(|&(_, lsn)| Lost {
                    lsns: LsnRange { first: lsn, last: lsn },
                    heads: false,
                }));
            }
            Fault::Gap { from, prev_crc, .. } if readopted.is_some_and(|it| it.from == *from) => {
                let readopted = readopted.expect("it is there");
                readopted.write(&mut bytes, &header, *prev_crc);
            }
            Fault::Gap { from, prev_crc, first_lsn, next, .. } => {
                let (to, next_lsn) = next.unwrap_or((u64::MAX, end_lsn.max(*first_lsn)));
                if *first_lsn < next_lsn {
                    let lsns = LsnRange { first: *first_lsn, last: Lsn(next_lsn.0 - 1) };
                    lost.push(Lost { lsns, heads: true });
                }
                let gap = Gap { from: *from, to, first: *first_lsn, next: next_lsn };
                fill_gap(&mut bytes, &header, *prev_crc, gap, surveyed.frames);
            }
        }
    }
    bytes
}

/// Bytes to be covered by frames that give LSNs up; `to` is `u64::MAX` where the segment is to
/// end with them.
#[derive(Copy, Clone)]
struct Gap {
    from: u64,
    to: u64,
    first: Lsn,
    next: Lsn,
}

fn fill_gap(bytes: &mut [u8], header: &SegmentHeader, prev_crc: u32, gap: Gap, frames: u64) {
    let mut place = Place {
        flags: FLAG_REPAIRED,
        seed: header.seed(),
        self_off: narrow(gap.from),
        durable_off: narrow(gap.from),
        prev_crc,
        epoch: header.epoch,
        time_ms: header.created_ms,
        first_lsn: gap.first,
    };
    let mut frames_of_gap = Vec::new();
    let last = Lsn(gap.next.0 - 1);
    let ends = gap.to == u64::MAX;
    let to = if ends { gap.from + lost_frame_len() } else { gap.to };
    if !ends || gap.first < gap.next {
        let mut from = gap.from;
        while from < to {
            // Never leaves a rest that is too short for a frame.
            let most = FRAME_BYTES_MAX / 2;
            let len = if to - from <= FRAME_BYTES_MAX { to - from } else { most };
            place.self_off = narrow(from);
            frame::encode_lost(&mut frames_of_gap, &place, last, len);
            place.first_lsn = gap.next;
            from += len;
        }
    }
    if ends {
        let at = gap.from + frames_of_gap.len() as u64;
        place.self_off = narrow(at);
        place.durable_off = narrow(at);
        place.first_lsn = gap.next;
        let payload = seal_payload(last, frames, SEAL_RECOVERED);
        // The frame before is marked, so which checksum this names does not matter.
        frame::encode_control(&mut frames_of_gap, &place, Kind::Seal, &payload);
    }
    let from = usize::try_from(gap.from).expect("within the segment");
    put(bytes, from, &frames_of_gap);
    if ends {
        bytes[from + frames_of_gap.len()..].fill(0);
    }
}

/// The shortest frame that gives LSNs up.
fn lost_frame_len() -> u64 {
    frame::frame_len(8, 0)
}

/// A file that stands for a segment that is lost.
fn stub(seq: u64, extent: Extent, log_id: &[u8; 16]) -> Vec<u8> {
    let mut nonce = *log_id;
    put(&mut nonce, 0, &seq.to_le_bytes());
    let header = SegmentHeader {
        flags: SEGMENT_REPAIRED,
        size: narrow(STUB_BYTES as u64),
        seq,
        nonce,
        log_id: *log_id,
        created_ms: 0,
        epoch: extent.epoch,
        first_lsn: extent.first,
    };
    let mut bytes = Vec::new();
    header.encode(&mut bytes);
    let place = Place {
        flags: FLAG_REPAIRED,
        seed: header.seed(),
        self_off: SEGMENT_HEADER_LEN,
        durable_off: 0,
        prev_crc: 0,
        epoch: extent.epoch,
        time_ms: 0,
        first_lsn: extent.first,
    };
    let before = Before { seq: seq - 1, seal_crc: 0 };
    frame::encode_control(&mut bytes, &place, Kind::Open, &open_payload(before));
    let from = bytes.len() as u64;
    bytes.resize(STUB_BYTES, 0);
    let gap = Gap { from, to: u64::MAX, first: extent.first, next: extent.end };
    fill_gap(&mut bytes, &header, 0, gap, 1);
    bytes
}

fn narrow(offset: u64) -> u32 {
    u32::try_from(offset).expect("segments are smaller than 4 GiB")
}
