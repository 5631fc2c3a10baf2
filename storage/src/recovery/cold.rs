//! The cold segments of a start: which the log names, and which a crash left unused.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::checkpoint::SegmentEntry;
use crate::cold::ColdSegment;
use crate::cold::column::Column;
use crate::cold::file::read_column;
use crate::compaction::adopt::Adopted;
use crate::disk::Disk;
use crate::error::{Damage, Doing as _, OpenError};
use crate::frame::{self, Kind};
use crate::layout::{LOG, cold_seq, segment_path};
use crate::liveness::Liveness;
use crate::lsn::Lsn;
use crate::recovery::files::{self, SegmentFile};
use crate::scan::{Depth, Walk};
use crate::segment::{Segment, SegmentState};

/// What a log says of a cold segment.
#[derive(Clone, Debug)]
struct Named {
    nonce: [u8; 16],
    first_lsn: Lsn,
    last_lsn: Lsn,
    evidence: String,
}

/// The cold segments that are there, and those that must be.
#[derive(Debug, Default)]
pub(crate) struct ColdFiles {
    there: BTreeMap<u64, SegmentFile>,
    /// Those whose header cannot be read, and why.
    headless: BTreeMap<u64, Box<Damage>>,
    named: BTreeMap<u64, Named>,
    /// Named ones that could not be opened, and why.
    bad: BTreeMap<u64, Box<Damage>>,
    open: Vec<ColdSegment>,
}

impl ColdFiles {
    /// Lists the files and reads their headers.
    pub(crate) fn list(disk: &dyn Disk, log_id: &[u8; 16]) -> Result<Self, OpenError> {
        let mut found = Self::default();
        for name in disk.list(LOG).doing("list", LOG)? {
            let Some(seq) = cold_seq(&name) else { continue };
            match files::open_cold(disk, seq, log_id)? {
                Ok(file) => drop(found.there.insert(seq, file)),
                Err(damage) => drop(found.headless.insert(seq, damage)),
            }
        }
        Ok(found)
    }

    /// Takes what a checkpoint lists.
    pub(crate) fn take_listed(&mut self, listed: &[SegmentEntry], by: Lsn, liveness: &Liveness) {
        for entry in listed {
            let named = Named {
                nonce: entry.nonce,
                first_lsn: entry.first_lsn,
                last_lsn: entry.last_lsn,
                evidence: format!("the checkpoint at LSN {by} knows it"),
            };
            if let Some(column) = self.take(entry.seq, named) {
                liveness.add_cold(entry.seq, column);
            }
        }
    }

    /// Takes every file there is: nothing tells any more which are in use.
    pub(crate) fn take_all(&mut self, liveness: &Liveness) {
        for seq in self.there.keys().copied().collect::<Vec<_>>() {
            let header = self.there[&seq].header;
            let named = Named {
                nonce: header.nonce,
                first_lsn: header.first_lsn,
                last_lsn: header.first_lsn,
                evidence: "without a checkpoint, every file counts".to_owned(),
            };
            if let Some(column) = self.take(seq, named) {
                liveness.add_cold(seq, column);
            }
        }
    }

    /// An `Adopt` frame of the replay.
    pub(crate) fn adopt(&mut self, adopted: &Adopted, liveness: &Liveness) {
        let seq = adopted.seq;
        let open = self.open.iter().find(|cold| cold.seq() == seq);
        if let Some(cold) = open {
            return liveness.adopt(seq, &cold.column, &adopted.victims);
        }
        let named = Named {
            nonce: adopted.nonce,
            first_lsn: adopted.first_lsn,
            last_lsn: adopted.last_lsn,
            evidence: "the log put it in the place of others".to_owned(),
        };
        match self.take(seq, named) {
            Some(column) => liveness.adopt(seq, &column, &adopted.victims),
            // It may have been replaced in its turn: what lived waits for the next one.
            None => liveness.release(&adopted.victims),
        }
    }

    /// Which records the file holds, if it is there and sound.
    fn take(&mut self, seq: u64, named: Named) -> Option<Arc<Column>> {
        let opened = self.there.get(&seq).map(|file| open(file, &named));
        self.named.insert(seq, named);
        match opened? {
            Ok(cold) => {
                let column = Arc::clone(&cold.column);
                self.open.push(cold);
                Some(column)
            }
            Err(damage) => {
                self.bad.insert(seq, damage);
                None
            }
        }
    }

    /// Every cold segment that the log names is there, or went since.
    pub(crate) fn check(&self, dropped: &BTreeSet<u64>) -> Result<(), Box<Damage>> {
        for (&seq, named) in self.named.iter().filter(|(seq, _)| !dropped.contains(seq)) {
            if self.open.iter().any(|cold| cold.seq() == seq) {
                continue;
            }
            let damage = self.bad.get(&seq).or_else(|| self.headless.get(&seq)).cloned();
            let missing = || Damage::of(segment_path(seq), "the cold segment is missing");
            return Err(damage
                .unwrap_or_else(missing)
                .with_lsns(named.first_lsn, Some(named.last_lsn))
                .known_by(format!("{}, and nothing dropped it since", named.evidence)));
        }
        Ok(())
    }

    /// A repair may have had to give up even which records were in it.
    pub(crate) fn give_up_lost(&self, liveness: &Liveness) {
        for cold in self.open.iter().filter(|cold| cold.segment.header.is_repaired()) {
            let named = &self.named[&cold.seq()];
            liveness.give_up_in(cold.seq(), named.first_lsn, named.last_lsn);
        }
    }

    /// How many are in use.
    pub(crate) fn count(&self, dropped: &BTreeSet<u64>) -> usize {
        self.open.iter().filter(|cold| !dropped.contains(&cold.seq())).count()
    }

    /// Every file whose header reads well, whether the log names it or not.
    pub(crate) fn files(&self) -> Vec<SegmentFile> {
        self.there.values().cloned().collect()
    }

    /// The segments in use, and the paths of the files that are not.
    pub(crate) fn settle(
        &mut self,
        dropped: &BTreeSet<u64>,
    ) -> (Vec<Arc<ColdSegment>>, Vec<String>) {
        let used: Vec<_> = std::mem::take(&mut self.open)
            .into_iter()
            .filter(|cold| !dropped.contains(&cold.seq()))
            .map(Arc::new)
            .collect();
        let unused = self.there.keys().chain(self.headless.keys());
        let unused = unused.filter(|seq| !used.iter().any(|cold| cold.seq() == **seq));
        let paths = unused.map(|&seq| segment_path(seq)).collect();
        (used, paths)
    }

    /// Every record in them, by LSN: its head. For a replay without a checkpoint.
    pub(crate) fn records(&self) -> Result<BTreeMap<Lsn, Vec<u8>>, Box<Damage>> {
        let mut records = BTreeMap::new();
        for cold in &self.open {
            let segment = &cold.segment;
            let mut walk =
                Walk::new(&*segment.file, segment.header, u64::from(segment.header.size));
            while let Some(seen) = walk.next(Depth::Tables) {
                let seen = seen.map_err(|bad| {
                    Damage::of(&*segment.path, bad.problem.to_string()).at(bad.offset)
                })?;
                if seen.header.kind == Kind::Copied {
                    let entries = frame::entries(&seen.header, seen.table).unwrap_or_default();
                    records.extend(entries.iter().map(|entry| (entry.lsn, entry.head.to_vec())));
                }
            }
        }
        Ok(records)
    }
}

fn open(file: &SegmentFile, named: &Named) -> Result<ColdSegment, Box<Damage>> {
    let header = file.header;
    if !header.is_repaired() && header.nonce != named.nonce {
        return Err(Damage::of(&*file.path, "it is not the cold segment that the log names"));
    }
    open_unnamed(file)
}

/// Opens a cold segment, whatever the log says of it.
pub(crate) fn open_unnamed(file: &SegmentFile) -> Result<ColdSegment, Box<Damage>> {
    let header = file.header;
    let column = read_column(file)?;
    let state = SegmentState { sealed_last: column.last(), end: header.size, index: None };
    let segment = Arc::new(Segment::new(header, Arc::clone(&file.file), state));
    Ok(ColdSegment { segment, column: Arc::new(column) })
}
