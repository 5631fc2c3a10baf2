//! The replay: every record after the checkpoint, in order, everything checked on the way.

use std::collections::BTreeMap;

use crate::compaction::adopt::Adopted;
use crate::error::{Damage, Lost, OpenError};
use crate::frame::{self, Entry, Kind, u32_at, u64_at};
use crate::layout::segment_path;
use crate::lsn::{Lsn, LsnRange};
use crate::record::Retention;
use crate::recovery::Recovery;
use crate::recovery::tail::Tail;
use crate::retention::dropped;
use crate::scan::{Bad, Depth, Seen, Walk};
use crate::segment::{FrameIndex, SEGMENT_REPAIRED};
use crate::writer::Before;

/// What the owner does with a record: its LSN and head.
type Apply<'a> = dyn FnMut(Lsn, &[u8]) + 'a;

impl Recovery {
    /// Gives `apply` every record after the checkpoint, in order: its LSN and its head.
    ///
    /// LSNs that a repair gave up are passed over; [`Recovery::report`] names them afterwards.
    ///
    /// # Errors
    /// [`OpenError::Damaged`] at the first thing that is not as it was written.
    ///
    /// # Panics
    /// When called twice.
    pub fn replay(&mut self, apply: &mut dyn FnMut(Lsn, &[u8])) -> Result<(), OpenError> {
        assert!(!self.replayed, "the log was replayed before");
        self.replayed = true;
        let checkpoint_lsn = self.report.checkpoint.unwrap_or(Lsn::NONE);
        let holding = self
            .segments
            .partition_point(|found| found.file.header.first_lsn <= checkpoint_lsn)
            .saturating_sub(1);
        let mut before: Option<Before> = None;
        let mut copied = BTreeMap::new();
        if self.redelivery_accepted {
            copied = self.cold.records()?;
        }
        for at in holding..self.segments.len() {
            self.replay_copied(at, &mut copied, apply);
            self.check_follows(at, before)?;
            before = Some(self.replay_segment(at, checkpoint_lsn, apply)?);
        }
        self.before = before.unwrap_or_default();
        self.check_table()?;
        self.cold.check(&self.dropped)?;
        self.report.cold_segments = self.cold.count(&self.dropped);
        self.report.took = self.began.elapsed();
        Ok(())
    }

    /// What was copied out of segments between this one and the one before, where no checkpoint
    /// knows of it.
    fn replay_copied(
        &mut self,
        at: usize,
        copied: &mut BTreeMap<Lsn, Vec<u8>>,
        apply: &mut Apply<'_>,
    ) {
        let found = &self.segments[at];
        let later = copied.split_off(&found.file.header.first_lsn);
        let gone = std::mem::replace(copied, later);
        for (lsn, head) in gone {
            self.liveness.keep(&[lsn]);
            // Where a repair gave up the body and the head, nobody can be told of it.
            if !head.is_empty() {
                apply(lsn, &head);
                self.report.replayed_records += 1;
            }
        }
        // The segment that is there tells of its records itself.
        *copied = copied.split_off(&self.segments[at].end_lsn);
    }

    /// A segment follows the one replayed before it: in number, LSN and epoch.
    fn check_follows(&self, at: usize, before: Option<Before>) -> Result<(), Box<Damage>> {
        let Some(before) = before else { return Ok(()) };
        let (last, this) = (&self.segments[at - 1], &self.segments[at]);
        let header = this.file.header;
        let damage = |problem: &str| Damage::of(&*this.file.path, problem);
        if header.seq != before.seq + 1 {
            if self.redelivery_accepted {
                return Ok(());
            }
            let missing = segment_path(before.seq + 1);
            let evidence = format!("{} follows it", this.file.path);
            return Err(Damage::of(missing, "the segment is missing")
                .with_lsns(last.end_lsn, None)
                .known_by(evidence));
        }
        let epoch = last.file.header.epoch;
        // Which epoch a lost segment was of, a repair can only guess.
        let repaired = (header.flags | last.file.header.flags) & SEGMENT_REPAIRED != 0;
        if repaired {
            // Its LSNs are checked below all the same.
        } else if header.epoch < epoch || epoch + 1 < header.epoch {
            return Err(damage("its epoch does not follow the segment's before it"));
        }
        if header.first_lsn != last.end_lsn {
            return Err(damage("its first LSN does not follow the segment's before it"));
        }
        Ok(())
    }

    fn replay_segment(
        &mut self,
        at: usize,
        checkpoint_lsn: Lsn,
        apply: &mut Apply<'_>,
    ) -> Result<Before, OpenError> {
        let file = self.segments[at].file.clone();
        let expected_end = self.segments[at].end_lsn;
        let before = self.segments.get(at.wrapping_sub(1)).map(|found| found.file.header);
        let known = before.filter(|before| before.seq + 1 == file.header.seq);
        let mut index = FrameIndex::new(file.header.first_lsn);
        let mut walk = Walk::new(&*file.file, file.header, file.len);
        let is_newest = at + 1 == self.segments.len();
        let open_end = self.tail.as_ref().filter(|_| is_newest).and_then(Tail::open_end);
        let mut seal_crc = 0;
        while open_end != Some(walk.offset) {
            let (next_lsn, last_good_ms) = (walk.next_lsn, walk.last_time_ms);
            let seen = match walk.next(Depth::Bodies) {
                None => break,
                Some(Ok(seen)) => seen,
                Some(Err(bad)) => {
                    return Err(damage(&file.path, &bad, next_lsn, last_good_ms).into());
                }
            };
            seal_crc = seen.header.crc;
            let offset = u32::try_from(seen.offset).expect("segments are smaller than 4 GiB");
            index.note(seen.header.first_lsn, offset);
            if seen.header.kind == Kind::Open && known.is_some() {
                let flags = known.map_or(0, |header| header.flags) | file.header.flags;
                self.check_open(&file.path, &seen, flags)?;
            }
            self.take_in(&seen, checkpoint_lsn, apply);
        }
        let gap_follows = self.redelivery_accepted
            && self
                .segments
                .get(at + 1)
                .is_some_and(|next| next.file.header.seq != file.header.seq + 1);
        if walk.next_lsn != expected_end && !gap_follows {
            let problem = format!("it ends with LSN {} before {expected_end}", walk.next_lsn);
            return Err(Damage::of(file.path, problem).with_lsns(walk.next_lsn, None).into());
        }
        self.report.replayed_bytes += walk.offset;
        let found = &self.segments[at];
        let mut state = found.segment.state.lock();
        state.index = Some(index);
        drop(state);
        self.before = Before { seq: file.header.seq, seal_crc };
        Ok(self.before)
    }

    /// The first frame names the seal of the segment before.
    fn check_open(&self, path: &str, seen: &Seen<'_>, flags: u8) -> Result<(), Box<Damage>> {
        let replayed_before = self.before.seq != 0 && u64_at(seen.table, 0) == self.before.seq;
        let other = u32_at(seen.table, 8) != self.before.seal_crc;
        if replayed_before && other && flags & SEGMENT_REPAIRED == 0 {
            let problem = "it follows another segment than the one that is there";
            return Err(Damage::of(path, problem).at(seen.offset));
        }
        Ok(())
    }

    fn take_in(&mut self, seen: &Seen<'_>, checkpoint_lsn: Lsn, apply: &mut Apply<'_>) {
        match seen.header.kind {
            Kind::Data => {
                let entries = frame::entries(&seen.header, seen.table)
                    .expect("the walk has checked the lengths");
                self.apply_records(&entries, checkpoint_lsn, apply);
            }
            Kind::Drop => self.dropped.extend(dropped(seen.table).map(|(seq, _)| seq)),
            Kind::Lost => {
                let last = Lsn(seen.next_lsn.0 - 1);
                if checkpoint_lsn < last && seen.header.first_lsn <= last {
                    let first = seen.header.first_lsn.max(checkpoint_lsn.next());
                    let lsns = LsnRange { first, last };
                    self.report.lost.push(Lost { lsns, heads: true });
                }
            }
            Kind::Adopt => {
                if let Some(adopted) = Adopted::decode(seen.table) {
                    self.cold.adopt(&adopted, &self.liveness);
                    self.dropped.extend(adopted.victims);
                }
            }
            Kind::Open
            | Kind::Seal
            | Kind::Commit
            | Kind::Checkpoint
            | Kind::Copied
            | Kind::Directory => {}
        }
    }

    fn apply_records(&mut self, entries: &[Entry<'_>], checkpoint_lsn: Lsn, apply: &mut Apply<'_>) {
        let after = entries.iter().filter(|entry| checkpoint_lsn < entry.lsn);
        let kept: Vec<Lsn> = after
            .clone()
            .filter(|entry| entry.retention == Retention::Keep)
            .map(|entry| entry.lsn)
            .collect();
        self.liveness.keep(&kept);
        for entry in after {
            if entry.lost {
                let lsns = LsnRange { first: entry.lsn, last: entry.lsn };
                self.report.lost.push(Lost { lsns, heads: false });
            }
            apply(entry.lsn, entry.head);
            self.report.replayed_records += 1;
        }
    }

    /// Every segment the checkpoint knew is there, or was dropped since.
    fn check_table(&self) -> Result<(), Box<Damage>> {
        let Some(loaded) = &self.checkpoint else { return Ok(()) };
        for entry in &loaded.meta.segments {
            let there = self.segments.iter().any(|found| found.file.header.seq == entry.seq);
            if !there && !self.dropped.contains(&entry.seq) {
                let evidence = format!(
                    "the checkpoint at LSN {} knows it, and nothing dropped it since",
                    loaded.meta.lsn
                );
                return Err(Damage::of(segment_path(entry.seq), "the segment is missing")
                    .with_lsns(entry.first_lsn, Some(entry.last_lsn))
                    .known_by(evidence));
            }
        }
        Ok(())
    }
}

/// A bad frame where everything had been sealed, or is being replayed.
fn damage(path: &str, bad: &Bad, next_lsn: Lsn, last_good_ms: Option<u64>) -> Box<Damage> {
    let last = bad.header.map(|header| Lsn(header.next_lsn().0.saturating_sub(1)));
    let mut damage = Damage::of(path, bad.problem.to_string())
        .at(bad.offset)
        .with_lsns(next_lsn, last.filter(|&last| next_lsn <= last))
        .known_by("the segment was sealed, so all of it had been confirmed");
    damage.last_good_ms = last_good_ms;
    damage
}
