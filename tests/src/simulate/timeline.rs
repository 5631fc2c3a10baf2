//! Which moments a crash may take the broker back to: the latest that anybody was told of, and
//! every one after it.

use std::collections::{BTreeMap, VecDeque};

use qbroker_storage::Lsn;

use super::audit::{self, Seen};
use super::found::Found;
use super::model::{Model, Sequence, Ticked, Time, Wrong};

/// Moments are numbered; the last one is now.
pub(super) struct Timeline {
    moments: VecDeque<(u64, Model)>,
    /// Where the log was, by its last record.
    marks: BTreeMap<Lsn, Mark>,
}

/// What the broker was when its log had just that record.
#[derive(Clone, Copy)]
struct Mark {
    /// It was at one of these moments: they look the same.
    first: u64,
    last: u64,
    state: Option<u64>,
}

impl Timeline {
    pub(super) fn new() -> Self {
        Self { moments: VecDeque::from([(0, Model::default())]), marks: BTreeMap::new() }
    }

    pub(super) fn now(&self) -> &Model {
        &self.moments.back().expect("there is always one").1
    }

    /// The present, for what no crash can take back because it is of this start alone.
    pub(super) fn now_mut(&mut self) -> &mut Model {
        &mut self.moments.back_mut().expect("there is always one").1
    }

    /// The number of the present.
    pub(super) fn moment(&self) -> u64 {
        self.moments.back().expect("there is always one").0
    }

    /// Something has happened as a whole or not at all.
    pub(super) fn push(&mut self, model: Model) {
        self.moments.push_back((self.moment() + 1, model));
    }

    /// The log is this long now.
    pub(super) fn mark(&mut self, found: Found) {
        let (first, last) = (self.moment(), self.moment());
        self.marks.insert(found.last, Mark { first, last, state: found.state });
    }

    /// The log is as long as it was before, where it has a mark: then it is so now, too.
    pub(super) fn mark_again(&mut self, last: Lsn) -> bool {
        let moment = self.moment();
        let mark = self.marks.get_mut(&last);
        mark.map(|mark| mark.last = moment).is_some()
    }

    /// Somebody was told of what was decided at a moment: it can never be taken back.
    pub(super) fn told(&mut self, moment: u64) {
        while self.moments.get(1).is_some_and(|(second, _)| *second <= moment) {
            self.moments.pop_front();
        }
        let first = self.moments.front().map_or(0, |(first, _)| *first);
        let mut marks = self.marks.values();
        // The first one that is left is the last before that moment, or of it.
        while let (Some(mark), Some(second)) = (marks.next(), self.marks.values().nth(1))
            && mark.last < first
            && second.first <= first
        {
            self.marks.pop_first();
            marks = self.marks.values();
        }
    }

    /// The moments between which a log ends, both included, and the state there, where it is known.
    fn moments_at(&self, last: Lsn) -> Result<(u64, u64, Option<u64>), Wrong> {
        let before = self.marks.range(..=last).next_back();
        let Some((at, before)) = before else {
            let first = self.marks.first_key_value().map(|(at, _)| *at);
            return Err(format!("the log ends at {last}, and somebody was told of {first:?}"));
        };
        if *at == last {
            return Ok((before.first, before.last, before.state));
        }
        let after = self.marks.range(last..).next();
        Ok((before.first, after.map_or(u64::MAX, |(_, after)| after.last), None))
    }

    /// After a crash that left the log as it was `found`: which moments the broker may be at, and how
    /// many later ones were lost.
    ///
    /// It has done what was due since, so it may have been at several: each of them may still be what
    /// is on disk.
    pub(super) fn crashed(
        &mut self,
        log: Found,
        (seen, born, ticked): (&Seen, &BTreeMap<u64, Sequence>, &[Ticked]),
        (now, rebooted): (Time, bool),
        has_room: bool,
    ) -> Result<usize, Wrong> {
        let (first, last, state) = self.moments_at(log.last)?;
        if let (Some(was), Some(is)) = (state, log.state)
            && was != is
        {
            return Err(format!("the log up to {} gives another state than there was", log.last));
        }
        let (mut found, mut ticks, mut wrongs) = (VecDeque::new(), Vec::new(), Vec::new());
        let possible = self.moments.iter().filter(|(it, _)| (first..=last).contains(it));
        for (moment, model) in possible {
            let mut model = model.clone();
            model.start(now, rebooted);
            let started = (*moment, model.clone());
            let mut then = Vec::new();
            model.notice(now);
            model.has_room = has_room;
            model.end_waits(now, |model| then.push(model.clone()));
            let born = |number| born.get(&number).copied();
            let asked = (|it| seen.has(it), born);
            let judged = model.tick(now, asked, ticked, |model| then.push(model.clone()));
            match judged.and_then(|()| audit::compare(seen, &model)) {
                Ok(()) => {
                    found.push_back(started);
                    ticks = then;
                }
                Err(wrong) => wrongs.push((moment, wrong)),
            }
        }
        let Some((at, _)) = found.back() else {
            return Err(format!(
                "the log ends at {}, and the broker is at none of the moments there, {first} to \
                 {last}, of those since the last that anybody was told of, {} to {}: {:?}; {:?}",
                log.last,
                self.moments[0].0,
                self.moment(),
                wrongs.first(),
                wrongs.last()
            ));
        };
        let lost = self.moments.iter().filter(|(moment, _)| at < moment).count();
        let mark = Mark { first: found[0].0, last: *at, state: log.state };
        let others: Vec<_> = found.iter().map(|(_, model)| model.clone()).collect();
        let doubt = |model: &mut Model| others.iter().for_each(|other| model.doubt(other));
        found.iter_mut().for_each(|(_, model)| doubt(model));
        ticks.iter_mut().for_each(doubt);
        self.moments = found;
        self.marks = BTreeMap::from([(log.last, mark)]);
        ticks.into_iter().for_each(|model| self.push(model));
        self.now_mut().end_ticks();
        Ok(lost)
    }
}

impl Default for Timeline {
    fn default() -> Self {
        Self::new()
    }
}
