//! One history: its steps, one after the other, and what came of them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use qbroker::engine;
use qbroker::queue::ids::LeaseToken;
use qbroker::queue::state::PermitId;
use qbroker_storage::{Lsn, WriteError};

use super::audit;
use super::clients::{Call, Pending};
use super::digest::Digest;
use super::found::Found;
use super::holding::InLine;
use super::keeping::Finishing;
use super::model::{Model, Sequence, Token};
use super::plan::{End, LETTERS, PRODUCERS, Step, WORKERS};
use super::producers::Producer;
use super::pulls::Waiting;
use super::streams::Worker;
use super::timeline::Timeline;
use super::world::{Injected, Nature, World};

/// Why a step was not finished.
#[derive(Debug)]
pub(super) enum Stopped {
    /// The log stopped: the power went, or the disk failed.
    Log,
    /// Something is not as promised.
    Wrong(String),
}

impl From<engine::Stopped> for Stopped {
    fn from(_: engine::Stopped) -> Self {
        Self::Log
    }
}

impl From<WriteError> for Stopped {
    fn from(_: WriteError) -> Self {
        Self::Log
    }
}

/// What came of a history that kept every promise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Of everything that was said, and of the disk's bytes at every crash and at the end.
    pub digest: u64,
}

pub(super) struct Run {
    pub(super) world: World,
    pub(super) timeline: Timeline,
    pub(super) pending: VecDeque<Pending>,
    /// Leases that clients were told of and have not settled.
    pub(super) held: Vec<LeaseToken>,
    /// Leases that they have settled, lately.
    pub(super) settled: Vec<LeaseToken>,
    pub(super) last_call: Option<Call>,
    pub(super) last_finish: Option<Finishing>,
    pub(super) workers: [Worker; WORKERS.len()],
    /// Pulls that wait.
    pub(super) waiting: Vec<Waiting>,
    /// Who stands in lines for permits.
    pub(super) standing: Vec<InLine>,
    /// Permits that clients were told of, lately.
    pub(super) permits: Vec<PermitId>,
    /// What streams were given and not told, with failures, crashes and the limit of failures.
    pub(super) granted: BTreeMap<Token, (u32, u32, Option<u32>)>,
    pub(super) producers: [Producer; PRODUCERS.len()],
    /// Names payloads and failures.
    pub(super) last_number: u64,
    /// The largest sequence that anybody was told of.
    pub(super) last_told: Sequence,
    lines: Vec<String>,
    digest: Digest,
    pub(super) seed: u64,
    verbose: bool,
}

impl Run {
    pub(super) fn new(seed: u64, verbose: bool, nature: Nature) -> Result<Self, String> {
        let world = World::new(seed, nature)?;
        let mut timeline = Timeline::new();
        // Of the first start nothing is on disk yet.
        timeline.mark(Found { last: Lsn(0), state: None });
        timeline.mark(world.found());
        Ok(Self {
            world,
            timeline,
            pending: VecDeque::new(),
            held: Vec::new(),
            settled: Vec::new(),
            last_call: None,
            last_finish: None,
            workers: Default::default(),
            waiting: Vec::new(),
            standing: Vec::new(),
            permits: Vec::new(),
            granted: BTreeMap::new(),
            producers: Default::default(),
            last_number: 0,
            last_told: 0,
            lines: Vec::new(),
            digest: Digest::default(),
            seed,
            verbose,
        })
    }

    /// The last lines of the history.
    pub(super) fn lines(&self) -> &[String] {
        &self.lines
    }

    pub(super) fn injected(&self) -> Injected {
        self.world.injected
    }

    pub(super) fn wrong(&self, what: String) -> Stopped {
        Stopped::Wrong(what)
    }

    /// Something is wrong that was decided on what is on disk. Without power that could not be read, and
    /// nobody is told; what is left is judged after the start.
    pub(super) fn unreadable(&self, what: String) -> Stopped {
        match self.world.is_powered() {
            true => Stopped::Wrong(what),
            false => Stopped::Log,
        }
    }

    pub(super) fn note(&mut self, line: String) {
        self.digest.add(line.as_bytes());
        if self.verbose {
            eprintln!("{line}");
        }
        self.lines.push(line);
    }

    /// Every file, name and bytes.
    fn digest_disk(&mut self) {
        for path in self.world.disk.paths() {
            let bytes = self.world.disk.bytes(&path);
            self.digest.add(path.as_bytes());
            self.digest.add(&bytes);
        }
    }

    /// Does the steps, comes up once more, and looks at everything; then at copies with rot in them.
    pub(super) fn play(&mut self, steps: &[(usize, Step)]) -> Result<Outcome, String> {
        for (at, step) in steps {
            self.note(format!("-- {at}: {step:?}"));
            self.recovered(at, |run| run.step(step))?;
            self.recovered(at, Self::tell)?;
        }
        let at = &usize::MAX;
        self.recovered(at, |run| run.step(&Step::Fill(None)))?;
        self.recovered(at, |run| run.step(&Step::Down(End::Power(7), Vec::new())))?;
        self.recovered(at, |run| run.step(&Step::Checkpoint))?;
        // The start is a record, so the next checkpoint is another one.
        self.recovered(at, |run| run.step(&Step::Down(End::Kill, Vec::new())))?;
        self.recovered(at, |run| run.step(&Step::Checkpoint))?;
        self.recovered(at, |run| run.step(&Step::Idle))?;
        self.recovered(at, |run| run.step(&Step::Audit))?;
        self.digest_disk();
        self.rot()?;
        Ok(Outcome { digest: self.digest.value() })
    }

    /// Where the log stops in a step, the machine goes down and comes up.
    fn recovered(
        &mut self,
        at: &usize,
        step: impl FnOnce(&mut Self) -> Result<(), Stopped>,
    ) -> Result<(), String> {
        let stopped = match step(self) {
            Ok(()) => {
                self.mark();
                return Ok(());
            }
            Err(stopped) => stopped,
        };
        match stopped {
            Stopped::Wrong(what) => Err(what),
            Stopped::Log => {
                if !self.world.is_faulty() && !self.world.may_stop() {
                    return Err("the log has stopped, and nothing was wrong".to_owned());
                }
                if self.world.is_powered() && self.world.writer.step().is_ok() {
                    return Err("the log goes on after the disk has failed".to_owned());
                }
                let end = match self.world.is_powered() {
                    true => End::Kill,
                    false => End::Power(self.seed ^ *at as u64),
                };
                self.note(format!("the log has stopped; {end:?}"));
                self.down(end, &[]).map_err(|stopped| format!("{stopped:?}"))?;
                self.mark();
                Ok(())
            }
        }
    }

    fn step(&mut self, step: &Step) -> Result<(), Stopped> {
        match step {
            Step::Publish(offers) => self.publish(offers),
            Step::PublishEach(offers) => self.publish_each(offers),
            Step::Connect(worker, attach) => self.connect(*worker, attach),
            Step::Disconnect(worker) => self.disconnect(*worker),
            Step::Close(worker) => self.close(*worker),
            Step::Begin(worker) => self.begin(*worker),
            Step::Operate(queue, job, terms) => self.operate(*queue, *job, terms),
            Step::Work => self.work(),
            Step::Finish { pick, offer, key } => self.finish(*pick, offer, *key),
            Step::RepeatFinish => self.repeat_finish(),
            Step::Patch(pick, bytes) => self.patch(*pick, *bytes),
            Step::Acquire { key, ttl_ms, holder } => self.acquire(*key, *ttl_ms, *holder),
            Step::GiveBack(pick) => self.give_back(*pick),
            Step::PutSchedule { schedule, every_s, catch_up, offer } => {
                self.put_schedule(*schedule, *every_s, *catch_up, offer)
            }
            Step::PauseSchedule(schedule, paused) => self.pause_schedule(*schedule, *paused),
            Step::DropSchedule(schedule) => self.drop_schedule(*schedule),
            Step::StandFor(key) => self.stand_for(*key),
            Step::Next { pick, ttl_ms } => self.take_next(*pick, *ttl_ms),
            Step::LeaveLine(pick) => self.leave_line(*pick),
            Step::Gather { key, ttl_ms, offer, late } => self.gather(*key, *ttl_ms, (offer, late)),
            Step::Arrive(key, member) => self.arrive(*key, *member),
            Step::Store(key, ttl_ms) => self.store(*key, *ttl_ms),
            Step::Add(key, amount) => self.add(*key, *amount),
            Step::Forget(key) => self.forget(*key),
            Step::Open(producer) => self.open_producer(*producer),
            Step::PublishNumbered(producer, offers) => self.publish_numbered(*producer, offers),
            Step::RepeatBatch(producer) => self.repeat_batch(*producer),
            Step::Pull { queue, max, lease_ms } => self.pull(*queue, *max, *lease_ms),
            Step::Wait { queue, max, lease_ms } => self.wait(*queue, *max, *lease_ms),
            Step::PullOf { queues, worse, max, lease_ms, waits } => {
                self.pull_of_several((*queues, *worse), *max, *lease_ms, *waits)
            }
            Step::GiveUp(pick) => self.give_up(*pick),
            Step::Settle(picks) => self.settle(picks),
            Step::Repeat => self.repeat(),
            Step::Extend(pick, duration_ms) => self.extend(*pick, *duration_ms),
            Step::Delete(pick) => self.delete(*pick),
            Step::Update { pick, priority, delay } => self.update(*pick, *priority, *delay),
            Step::Purge(queue, states, letters) => self.purge(*queue, *states, *letters),
            Step::Pause(queue, publishing) => self.pause(*queue, (true, *publishing)),
            Step::Resume(queue) => self.pause(*queue, (false, false)),
            Step::Create(queue) => self.create(*queue),
            Step::Change(queue, change) => {
                self.change(*queue, *change)?;
                // What is too old or too much by the new policy goes at once.
                self.tick()
            }
            Step::Drop(queue) => self.drop_queue(*queue),
            Step::Pass(ms) => {
                self.world.pass(*ms);
                self.tick()
            }
            Step::Jump(ms) => {
                self.world.jump(*ms);
                self.tick()
            }
            Step::Write => {
                self.world.remember();
                self.world.write()?;
                Ok(())
            }
            Step::Idle => {
                while self.world.write()? {}
                Ok(self.world.writer.idle()?)
            }
            Step::Checkpoint => Ok(self.world.checkpoint()?),
            Step::Compact => {
                while self.world.engine.log().compact()? {}
                Ok(())
            }
            Step::Fill(spare) => {
                self.world.fill(*spare);
                self.check_room()
            }
            Step::Drain(rounds) => self.drain(*rounds),
            Step::Audit => self.audit(),
            Step::PowerFails(operations) => {
                self.world.inject(|faults| faults.power_off_after = Some(*operations));
                Ok(())
            }
            Step::WriteFails(number) => {
                self.world.injected.write_errors += 1;
                self.world.inject(|faults| faults.fail_write = Some(*number));
                Ok(())
            }
            Step::SyncFails(number) => {
                self.world.injected.sync_errors += 1;
                self.world.inject(|faults| faults.fail_sync = Some(*number));
                Ok(())
            }
            Step::Down(end, again) => self.down(*end, again),
        }
    }

    /// Where there is room again, the broker takes publishes without a restart.
    fn check_room(&self) -> Result<(), Stopped> {
        let is_well = self.world.is_powered() && !self.world.is_faulty();
        match is_well && self.world.is_low() && !self.world.is_full() {
            true => Err(self.wrong("there is room, and the broker does not see it".to_owned())),
            false => Ok(()),
        }
    }

    /// Notes that the log need not be longer than this for this moment. What else there is says where
    /// messages are, and changes nothing.
    pub(super) fn mark_at(&mut self, lsn: Lsn) {
        let last = self.world.engine.look(|_| ()).0;
        if lsn < last && !self.timeline.mark_again(lsn) {
            self.timeline.mark(Found { last: lsn, state: None });
        }
        self.mark();
    }

    /// Notes how long the log is at this moment.
    pub(super) fn mark(&mut self) {
        let last = self.world.engine.look(|_| ()).0;
        if !self.timeline.mark_again(last) {
            self.timeline.mark(self.world.found());
        }
    }

    pub(super) fn tick(&mut self) -> Result<(), Stopped> {
        let now = self.world.time();
        loop {
            let before = self.world.engine.look(|_| ()).0;
            let (lsn, ticked) = self.world.engine.turn(|core, now, out| core.tick(now, out))?;
            ticked.map_err(|refused| self.wrong(format!("time is refused: {refused}")))?;
            let is_over = !self.world.is_anything_due();
            let born = self.published_between(before, lsn)?;
            self.tick_model(is_over, &born)?;
            for ticked in self.ticked_between(before, lsn)? {
                self.note(format!("{ticked:?}"));
                self.done(|model| model.tick_schedule(&ticked, now))?;
            }
            self.follow();
            let (there, born_of) = (self.letters()?, |number| born.get(&number).copied());
            let counts = self.timeline.now().counts(now, born_of, (LETTERS, &there));
            if !self.world.trimmed(&counts).is_empty() {
                self.tick_model(is_over, &born)?;
            }
            self.note_grants()?;
            self.mark_at(lsn);
            if is_over {
                let due = self.timeline.now().check_schedules(now);
                due.map_err(|wrong| self.wrong(wrong))?;
                self.timeline.now_mut().end_ticks();
                return Ok(());
            }
        }
    }

    /// What the broker did in one step by itself: all that is due, where it `is_over`. A step that meets a
    /// page which is not in memory begins anew, and may do more than one.
    fn tick_model(&mut self, is_over: bool, born: &BTreeMap<u64, Sequence>) -> Result<(), Stopped> {
        let now = self.world.time();
        let mut model = self.timeline.now().clone();
        model.begin_ticks();
        model.notice(now);
        model.has_room = !self.world.is_low();
        let there = self.letters()?;
        let (world, timeline) = (&self.world, &mut self.timeline);
        let is_there = |sequence| there.contains(&sequence);
        let has_all = |model: &Model| world.holds_all(model);
        let born_of = |number| born.get(&number).copied();
        let letters = (LETTERS, &there);
        let trimmed = |model: &Model| world.trimmed(&model.counts(now, born_of, letters));
        let asked = (is_there, has_all, trimmed, born_of);
        while model.tick_once(now, &asked, |model| timeline.push(model.clone()))
            && (is_over || !has_all(&model) || !trimmed(&model).is_empty())
        {}
        Ok(())
    }

    /// The dead letters of which only so many bytes are kept.
    fn letters(&self) -> Result<BTreeSet<Sequence>, Stopped> {
        audit::births(&self.world.engine, LETTERS).map_err(|wrong| self.unreadable(wrong))
    }

    /// What there is now is exactly what the model says.
    fn audit(&self) -> Result<(), Stopped> {
        let seen = audit::observe(&self.world.engine).map_err(|wrong| self.unreadable(wrong))?;
        audit::compare(&seen, self.timeline.now()).map_err(Stopped::Wrong)
    }

    fn down(&mut self, end: End, again: &[u64]) -> Result<(), Stopped> {
        self.note(format!("down: {end:?}, {again:?}"));
        if end == End::Stop {
            while self.world.write()? {}
            self.tell()?;
        }
        self.tell_last();
        let (log, rebooted) = match self.world.down(end, again) {
            Ok(down) => down,
            // It was to stop, and the disk failed meanwhile.
            Err(_) if end == End::Stop && self.world.is_faulty() => return Err(Stopped::Log),
            Err(wrong) => return Err(Stopped::Wrong(wrong)),
        };
        self.digest_disk();
        self.pending.clear();
        self.lose_producers();
        self.lose_workers();
        let before = self.world.engine.look(|_| ()).0;
        self.world.engine.tick()?;
        let after = self.world.engine.look(|_| ()).0;
        let born = self.published_between(before, after)?;
        let ticked = self.ticked_between(before, after)?;
        let seen = audit::observe(&self.world.engine).map_err(Stopped::Wrong)?;
        let now = self.world.time();
        let has_room = !self.world.is_low();
        let seen = (&seen, &born, &ticked[..]);
        let crashed = self.timeline.crashed(log, seen, (now, rebooted), has_room);
        let lost = crashed.map_err(Stopped::Wrong)?;
        self.note(format!("up again; {lost} moments that nobody was told of are lost"));
        Ok(())
    }
}
