//! How many bytes live in a segment: read from its tables, since memory holds one bit a record.

use crate::cold::file::record_bytes;
use crate::compaction::{Abandoned, Source, pace};
use crate::error::{Damage, Doing as _};
use crate::frame::{self, Kind};
use crate::log::Shared;
use crate::lsn::Lsn;
use crate::reader;
use crate::scan::{Depth, Walk};
use crate::segment::SEGMENT_HEADER_LEN;

/// Bodies between tables are hopped over, where they are longer than a read.
const HOP_BYTES: usize = 16 << 10;

/// What was found in a segment.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Measured {
    /// Records that lived in it then.
    live: u64,
    /// Bytes they take in a cold segment.
    pub(crate) live_bytes: u64,
    /// Bytes the file takes.
    pub(crate) size: u64,
}

impl Measured {
    /// Whether there is no need to look again: what is known is an upper bound, and a bound that
    /// is far off is made good once it is, or once the segment is `settled`, as it was a while ago.
    pub(crate) fn still_holds(&self, live: u64, settled: bool) -> bool {
        let fallen = live < self.live - self.live / 8;
        live == self.live || !(settled || fallen)
    }
}

/// Reads every table of a segment and adds up the records that live.
pub(crate) fn measure(shared: &Shared, source: &Source, live: u64) -> Result<Measured, Abandoned> {
    let segment = source.segment();
    if let Source::Hot(segment) = source {
        // So that nobody who reads from it has to. What is wrong with it, the walk below finds too.
        _ = reader::build_index(segment, &*segment.file);
    }
    let seq = segment.seq();
    let size = segment.file.size().doing("look at", &segment.path)?;
    let lsns = shared.liveness.live_lsns(seq);
    let mut rest = lsns.as_slice();
    let mut live_bytes = 0;
    let end = u64::from(segment.state.lock().end);
    let from = u64::from(SEGMENT_HEADER_LEN);
    let mut walk = Walk::new(&*segment.file, segment.header, end).starting_at(from, HOP_BYTES);
    while let Some(&first) = rest.first() {
        let seen = match walk.next(Depth::Tables) {
            Some(Ok(seen)) => seen,
            Some(Err(bad)) => {
                let damage = Damage::of(&*segment.path, bad.problem.to_string());
                return Err(Abandoned::Damaged(seq, damage.at(bad.offset).with_lsns(first, None)));
            }
            None => return Err(Abandoned::GivenUp(seq)),
        };
        if matches!(seen.header.kind, Kind::Data | Kind::Copied) {
            let entries = frame::entries(&seen.header, seen.table).unwrap_or_default();
            for entry in entries.iter().filter(|entry| !entry.lost) {
                if rest.first() == Some(&entry.lsn) {
                    rest = &rest[1..];
                    live_bytes += record_bytes(entry.head.len(), u64::from(entry.body_len));
                }
            }
        }
        // What has been passed without being found was given up by a repair.
        if rest.first().is_some_and(|&lsn: &Lsn| lsn < seen.next_lsn) {
            return Err(Abandoned::GivenUp(seq));
        }
        let table_len = u64::from(seen.header.table_len);
        let read = seen.header.frame_len().min(table_len + HOP_BYTES as u64);
        pace::pace(shared, read)?;
    }
    Ok(Measured { live, live_bytes, size })
}
