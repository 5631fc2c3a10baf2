//! Naming a cold segment again where the one frame that did so is damaged.

use crate::checkpoint::SegmentEntry;
use crate::cold::file::read_column;
use crate::compaction::adopt::Adopted;
use crate::frame::{self, FLAG_REPAIRED, Kind, Place, put};
use crate::lsn::Lsn;
use crate::segment::SegmentHeader;
use crate::survey::{Fault, Survey};
use crate::verify::cold_damages;

/// An `Adopt` frame to be written again.
#[derive(Debug)]
pub(super) struct Readopted {
    /// The segment, and where in it the frame was.
    pub(super) seq: u64,
    pub(super) from: u64,
    first_lsn: Lsn,
    payload: Vec<u8>,
}

impl Readopted {
    /// Finds the frame, where there is no doubt: one sound cold segment that nobody names, segments
    /// that are missing, and one gap in the log that cost no record and is as long as the frame
    /// must have been. The survey then knows what the frame said.
    pub(super) fn find(survey: &mut Survey) -> Option<Self> {
        let listed = survey.listed()?.to_vec();
        let named = survey.expected_cold();
        let nobody_names = |seq: &u64| !named.contains_key(seq) && !survey.dropped.contains(seq);
        let mut unnamed = survey.cold.iter().filter(|(seq, _)| nobody_names(seq));
        let (&cold, surveyed) = unnamed.next().filter(|_| unnamed.next().is_none())?;
        if !cold_damages(surveyed).is_empty() {
            return None;
        }
        let (header, last) = (surveyed.file.header, read_column(&surveyed.file).ok()?.last()?);
        let hot = survey.expected().into_iter().filter(|seq| !survey.segments.contains_key(seq));
        let cold_ones = named.into_keys().filter(|seq| !survey.cold.contains_key(seq));
        let victims: Vec<u64> = hot.chain(cold_ones).collect();
        let mut payload = entry(cold, header.nonce);
        payload.extend_from_slice(&header.first_lsn.0.to_le_bytes());
        payload.extend_from_slice(&last.0.to_le_bytes());
        for &victim in &victims {
            payload.extend(entry(victim, nonce_of(&listed, victim)));
        }
        let (seq, from, first_lsn) = only_gap(survey, frame::frame_len(payload.len() as u64, 0))?;
        survey.dropped.extend(victims);
        let of_frame = survey.segments.get_mut(&seq).expect("the gap is in it");
        of_frame.adopted.push(Adopted::decode(&payload).expect("it is as it was encoded"));
        Some(Self { seq, from, first_lsn, payload })
    }

    /// Writes the frame into the bytes of its segment.
    pub(super) fn write(&self, bytes: &mut [u8], header: &SegmentHeader, prev_crc: u32) {
        let from = u32::try_from(self.from).expect("segments are smaller than 4 GiB");
        let place = Place {
            flags: FLAG_REPAIRED,
            seed: header.seed(),
            self_off: from,
            durable_off: from,
            prev_crc,
            epoch: header.epoch,
            time_ms: header.created_ms,
            first_lsn: self.first_lsn,
        };
        let mut frame = Vec::new();
        frame::encode_control(&mut frame, &place, Kind::Adopt, &self.payload);
        put(bytes, from as usize, &frame);
    }
}

/// A segment as the frame names it.
fn entry(seq: u64, nonce: [u8; 16]) -> Vec<u8> {
    [&seq.to_le_bytes()[..], &nonce].concat()
}

/// What the checkpoint knows of a segment that is gone; nobody reads it of one that it does not know.
fn nonce_of(listed: &[SegmentEntry], seq: u64) -> [u8; 16] {
    listed.iter().find(|entry| entry.seq == seq).map_or([0; 16], |entry| entry.nonce)
}

/// The one gap that is so long and cost no record: its segment, its place, and the LSN that is due.
fn only_gap(survey: &Survey, len: u64) -> Option<(u64, u64, Lsn)> {
    let mut gaps = survey.segments.iter().flat_map(|(&seq, surveyed)| {
        surveyed.faults.iter().filter_map(move |fault| match fault {
            Fault::Gap { from, first_lsn, next: Some((to, next_lsn)), .. } => {
                let fits = first_lsn == next_lsn && to - from == len;
                fits.then_some((seq, *from, *first_lsn))
            }
            _ => None,
        })
    });
    gaps.next().filter(|_| gaps.next().is_none())
}
