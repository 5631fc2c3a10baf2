//! What happens by itself: leases and delays end, the broker starts again.

use std::collections::BTreeSet;

use super::{Message, Model, Sequence, State, Ticked, Time, Token, Why, Wrong};

impl Model {
    /// Everything that is due by now; `each` is told after each part that a crash may leave alone. What
    /// `is_there` afterwards is asked where that is not said, and as what a message was `born` that is
    /// published by itself; what schedules have `ticked` is judged.
    pub(crate) fn tick(
        &mut self,
        now: Time,
        (is_there, born): (impl Fn(Sequence) -> bool, impl Fn(u64) -> Option<Sequence>),
        mut ticked: &[Ticked],
        mut each: impl FnMut(&Self),
    ) -> Result<(), Wrong> {
        self.begin_ticks();
        let asked = (
            is_there,
            |_: &Self| true,
            |model: &Self| model.queues.keys().copied().collect(),
            born,
        );
        loop {
            let mut goes_on = self.tick_once(now, &asked, &mut each);
            // In one step each schedule has one tick.
            let mut seen = BTreeSet::new();
            while let Some((first, rest)) = ticked.split_first()
                && seen.insert(first.schedule)
            {
                self.tick_schedule(first, now)?;
                each(self);
                (goes_on, ticked) = (true, rest);
            }
            self.end_waits(now, &mut each);
            if !goes_on {
                break;
            }
        }
        self.end_ticks();
        Ok(())
    }

    /// What is given up from here on is given up in one moment: a step that meets a page which is not in
    /// memory begins anew, so in which order is not said.
    pub(crate) fn begin_ticks(&mut self) {
        let place = self.next_place();
        self.ticking.get_or_insert(place);
    }

    pub(crate) fn end_ticks(&mut self) {
        self.ticking = None;
    }

    /// The place of what is given up now.
    pub(super) fn place_of_letters(&mut self) -> u64 {
        let place = self.next_place();
        self.ticking.unwrap_or(place)
    }

    /// A step of [`Self::tick`]: of sessions and streams that are over, one, or so many that the broker
    /// `has_all` leases and sessions that are left; of queues that hold too much, one that the broker has
    /// `trimmed`.
    /// Whether there may be more. Lines go on after it, and after what schedules did in it:
    /// [`Self::end_waits`].
    pub(crate) fn tick_once(
        &mut self,
        now: Time,
        (is_there, has_all, trimmed, born): &(
            impl Fn(Sequence) -> bool,
            impl Fn(&Self) -> bool,
            impl Fn(&Self) -> BTreeSet<&'static str>,
            impl Fn(u64) -> Option<Sequence>,
        ),
        mut each: impl FnMut(&Self),
    ) -> bool {
        // Of the step before.
        self.advance();
        let place = self.place_of_letters();
        for sequence in self.leases_over(now) {
            self.crash(sequence, place);
            each(self);
        }
        let mut lost = self.lose_one(now);
        while lost && !has_all(self) {
            each(self);
            lost = self.lose_one(now);
        }
        each(self);
        self.end_ttls(now, &mut each);
        for moment in self.due(now) {
            let place = self.next_place();
            for sequence in moment {
                self.make_ready(sequence, place);
            }
            each(self);
        }
        self.end_retentions(now);
        let trimmed = self.trim_one(&trimmed(self), is_there);
        self.kept.end(now);
        self.end_permits(now);
        let published = self.end_barriers(now, born, &mut each);
        each(self);
        lost || trimmed || published
    }

    /// What is done before anything is delivered: what is too old goes, and lines go on.
    pub(crate) fn end_waits(&mut self, now: Time, mut each: impl FnMut(&Self)) {
        self.end_retentions(now);
        self.end_ttls(now, &mut each);
        self.advance();
        each(self);
    }

    /// What waits and whose time to live is over is given up.
    fn end_ttls(&mut self, now: Time, mut each: impl FnMut(&Self)) {
        let place = self.place_of_letters();
        for sequence in self.ttls_over(now) {
            self.give_up(sequence, Why::Expired, place);
            each(self);
        }
    }

    /// A lease ended, by its time or with its session.
    pub(super) fn crash(&mut self, sequence: Sequence, place: u64) {
        if matches!(self.messages[&sequence].state, State::Leased(lease) if lease.unstarted) {
            return self.make_ready(sequence, place);
        }
        let policy = self.policy(self.messages[&sequence].queue);
        let message = self.message(sequence);
        if policy.max_crashes.is_some_and(|max| max <= message.crashes + 1) {
            self.give_up(sequence, Why::MaxCrashes, place);
        } else {
            message.crashes += 1;
            self.make_ready(sequence, place);
        }
    }

    fn leases_over(&self, now: Time) -> Vec<Sequence> {
        let deadline = |state: &State| match state {
            State::Leased(lease) => lease.deadline.filter(|deadline| *deadline <= now.boot_ms),
            State::Ready | State::Scheduled(_) | State::Parked | State::Behind => None,
        };
        let over = self.messages.iter();
        let mut over: Vec<_> =
            over.filter_map(|(&it, message)| Some((deadline(&message.state)?, it))).collect();
        over.sort_unstable();
        over.into_iter().map(|(_, sequence)| sequence).collect()
    }

    /// What nobody holds and whose time to live is over.
    fn ttls_over(&self, now: Time) -> Vec<Sequence> {
        let waits = self.messages.iter();
        let waits = waits.filter(|(_, it)| !matches!(it.state, State::Leased(_)));
        let over = waits.filter(|(_, it)| it.ttl_end.is_some_and(|end| end.is_over(now)));
        over.map(|(&sequence, _)| sequence).collect()
    }

    /// What becomes ready, moment by moment, in the order in which it would have: those that time is
    /// told for by the clock that nobody sets first.
    fn due(&self, now: Time) -> Vec<Vec<Sequence>> {
        let due = |(&sequence, message): (&Sequence, &Message)| match message.state {
            State::Scheduled(due) if due.is_over(now) => {
                Some((due.boot_ms.is_none(), due.boot_ms.unwrap_or(due.wall_ms), sequence))
            }
            _ => None,
        };
        let mut due: Vec<_> = self.messages.iter().filter_map(due).collect();
        due.sort_unstable();
        let moments = due.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1));
        moments.map(|moment| moment.iter().map(|(.., sequence)| *sequence).collect()).collect()
    }

    /// The broker may as well be as `other`, which looks the same: what is remembered in one of them
    /// alone is in doubt.
    pub(crate) fn doubt(&mut self, other: &Self) {
        let tokens: BTreeSet<Token> =
            self.settled.keys().chain(other.settled.keys()).copied().collect();
        let differs = |it: &Token| other.settled.get(it) != self.settled.get(it);
        self.doubted.extend(tokens.into_iter().filter(differs));
        self.doubted.extend(&other.doubted);
        for (token, settled) in &other.settled {
            self.settled.entry(*token).or_insert(*settled);
        }
        for (name, queue) in &mut self.queues {
            let Some(other) = other.queues.get(name) else { continue };
            let ids: BTreeSet<u64> = queue.ids.keys().chain(other.ids.keys()).copied().collect();
            let differs = |id: &u64| other.ids.get(id) != queue.ids.get(id);
            queue.doubted.extend(ids.into_iter().filter(differs));
            queue.doubted.extend(&other.doubted);
            for (id, first) in &other.ids {
                queue.ids.entry(*id).or_insert(*first);
            }
        }
    }

    /// The broker starts: leases have their whole time from here on. After a reboot the wall clock is
    /// believed.
    pub(crate) fn start(&mut self, now: Time, rebooted: bool) {
        self.forget_refusals();
        self.end_ticks();
        if rebooted {
            self.kept.forget_boot_clock();
            self.reboot_permits();
            self.reboot_barriers();
        }
        // Of one start alone.
        self.waits.clear();
        self.standing.clear();
        self.delivered.clear();
        self.turns.clear();
        self.lose_streams(now);
        self.advance();
        for message in self.messages.values_mut() {
            if let State::Leased(lease) = &mut message.state {
                lease.run(now);
            }
            if !rebooted {
                continue;
            }
            if let State::Scheduled(due) = &mut message.state {
                due.boot_ms = None;
            }
            if let Some(end) = &mut message.ttl_end {
                end.boot_ms = None;
            }
        }
    }
}
