//! A core on a stage: every command is played as the engine would, and recovery after each.
//!
//! After every command, a second core that only applied the decoded records has the same snapshot;
//! so has one that was restored from an earlier snapshot and applied what came since; what the
//! snapshot says the log must keep is what was logged to be kept and not retired since; and the
//! invariants of [`super::check`] hold.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use qbroker_storage::{Batch, Body, Lsn, Retention};

use super::check::check_invariants;
use super::mend::{Log, check_pages};
use super::schedules::CALENDAR;
use crate::queue::ids::LeaseToken;
use crate::queue::index::memory::MemoryIndex;
use crate::queue::index::missing::MissingIndex;
use crate::queue::index::paged::PagedIndex;
use crate::queue::index::{Index, Message, Missing};
use crate::queue::record::Record;
use crate::queue::refused::Refused;
use crate::queue::time::Now;
use crate::queue::{Core, Delivery, Effect, Limits, Output, Stop, Turn, page_messages};

/// The wall clock when a stage is set.
pub(super) const WALL_MS: u64 = 1_000_000_000_000;
/// Uptime of the machine by then.
pub(super) const BOOT_MS: u64 = 5_000_000;
/// More steps than any test needs until nothing is due.
pub(super) const STEPS_MAX: u32 = 1_000;
/// A core is restored from a snapshot so often.
const COMMANDS_PER_SNAPSHOT: u64 = 5;

/// An index that can be made anew, and forget.
pub(super) trait StageIndex: Index + std::fmt::Debug {
    fn fresh() -> Self;
    /// Drops from memory what need not be there between two commands.
    fn evict(&mut self);
}

impl StageIndex for MemoryIndex {
    fn fresh() -> Self {
        Self::default()
    }

    fn evict(&mut self) {}
}

impl StageIndex for MissingIndex {
    fn fresh() -> Self {
        Self::new(42)
    }

    fn evict(&mut self) {
        Self::evict(self);
    }
}

/// Everything but a handful of messages is in pages of three.
impl StageIndex for PagedIndex {
    fn fresh() -> Self {
        Self::with_pages(4, 3, 1)
    }

    fn evict(&mut self) {}
}

/// What came out of a command.
#[derive(Debug)]
pub(super) struct Outcome<T> {
    pub(super) answer: Result<T, Refused>,
    pub(super) effects: Vec<Effect>,
    pub(super) logged: Vec<(Lsn, Record, Body)>,
    pub(super) retired: Vec<Lsn>,
}

#[derive(Debug)]
pub(super) struct Stage<I> {
    pub(super) core: Core<I>,
    pub(super) now: Now,
    pub(super) boot: u32,
    /// The leases of each message, in order.
    pub(super) tokens: BTreeMap<Lsn, Vec<LeaseToken>>,
    /// Deliveries are not let go by themselves.
    pub(super) hold: bool,
    epoch: u32,
    limits: Limits,
    follower: Core<MemoryIndex>,
    restored: Core<I>,
    /// Records that the log keeps.
    kept: BTreeSet<Lsn>,
    /// Bodies of the pages that went out.
    pages: Pages,
    /// Everything that was logged.
    pub(super) log: Log,
    /// LSN of the snapshot that was taken last as a checkpoint.
    checkpoint: Lsn,
    commands: u64,
}

type Pages = BTreeMap<Lsn, Body>;

fn load<I: Index>(core: &mut Core<I>, page: Missing, pages: &Pages) {
    let messages = pages.get(&page.0).map(|body| page_messages(body).expect("a page can be read"));
    core.load(page, messages.unwrap_or_default());
}

impl<I: StageIndex> Stage<I> {
    /// A new broker that has started.
    pub(super) fn new(limits: Limits) -> (Self, Outcome<()>) {
        let core = |limits: &Limits| Core::new(MemoryIndex::default(), limits.clone());
        let mut stage = Self {
            core: Core::new(I::fresh(), limits.clone()),
            now: Now { wall_ms: WALL_MS, boot_ms: BOOT_MS, begun: false },
            boot: 1,
            tokens: BTreeMap::new(),
            hold: false,
            epoch: 0,
            follower: core(&limits),
            restored: Core::new(I::fresh(), limits.clone()),
            limits,
            kept: BTreeSet::new(),
            pages: Pages::new(),
            log: Log::new(),
            checkpoint: Lsn(0),
            commands: 0,
        };
        stage.core.set_calendar(CALENDAR);
        let started = stage.start();
        (stage, started)
    }

    /// Plays a command, grants what became possible, and proves recovery.
    pub(super) fn turn<T>(
        &mut self,
        mut command: impl FnMut(&mut Core<I>, Now, &mut Output) -> Turn<T>,
    ) -> Outcome<T> {
        let now = self.now;
        let mut out = Output::default();
        self.core.index.evict();
        let answer = loop {
            match command(&mut self.core, now, &mut out) {
                Ok(answer) => break Ok(answer),
                Err(Stop::Missing(page)) => load(&mut self.core, page, &self.pages),
                Err(Stop::Refused(refused)) => {
                    assert!(out.logged.is_empty(), "{refused} was logged: {out:?}");
                    assert!(out.effects.is_empty(), "{refused} had effects: {out:?}");
                    break Err(refused);
                }
            }
        };
        self.core.index.evict();
        while let Err(page) = self.core.dispatch(now, &mut out) {
            load(&mut self.core, page, &self.pages);
        }
        while self.core.page_out(&mut out) {}
        let outcome = self.heard(answer, out);
        check_invariants(&self.core, now);
        if self.commands.is_multiple_of(COMMANDS_PER_SNAPSHOT) {
            check_pages(self);
        }
        outcome
    }

    /// Every message, in memory and in pages.
    pub(super) fn messages(&self) -> BTreeMap<Lsn, Message> {
        let mut messages = BTreeMap::new();
        let frozen = self.core.index.frozen();
        frozen.for_each(&mut |birth, message| _ = messages.insert(birth, *message));
        for page in frozen.pages() {
            let body = &self.pages[&Lsn(page.lsn)];
            for (birth, mut message) in page_messages(body).expect("a page can be read") {
                page.update(&mut message);
                assert!(messages.insert(birth, message).is_none(), "{birth} is there twice");
            }
        }
        messages
    }

    /// Brings a page into memory, as the engine does between two attempts of a command.
    pub(super) fn load(&mut self, page: Missing) {
        load(&mut self.core, page, &self.pages);
    }

    /// Ends this start and begins another one, from what the log and a snapshot say.
    pub(super) fn restart(&mut self) -> Outcome<()> {
        let snapshot = joined(&self.core, &self.kept);
        self.core = Core::restore(I::fresh(), self.limits.clone(), snapshot, |_| ())
            .expect("a snapshot can be read");
        self.core.set_calendar(CALENDAR);
        self.start()
    }

    /// Whether the log keeps a record.
    pub(super) fn is_kept(&self, lsn: Lsn) -> bool {
        self.kept.contains(&lsn)
    }

    /// Deliveries are on their way to the client.
    pub(super) fn let_go(&mut self, tokens: impl IntoIterator<Item = LeaseToken>) {
        self.core.let_go(tokens, self.now);
    }

    fn start(&mut self) -> Outcome<()> {
        self.epoch += 1;
        let (epoch, boot_id) = (self.epoch, format!("boot-{}", self.boot));
        self.turn(|core, now, out| {
            core.start(epoch, boot_id.clone(), now, out);
            Ok(())
        })
    }

    fn heard<T>(&mut self, answer: Result<T, Refused>, out: Output) -> Outcome<T> {
        let logged = self.prove_recovery(&out);
        for delivery in out.effects.iter().flat_map(deliveries_of) {
            self.note(delivery);
        }
        Outcome { answer, effects: out.effects, logged, retired: out.retired }
    }

    /// Remembers the token of a delivery, and lets it go.
    pub(super) fn note(&mut self, delivery: &Delivery) {
        self.tokens.entry(delivery.token.birth).or_default().push(delivery.token);
        if !self.hold {
            self.let_go([delivery.token]);
        }
    }

    fn prove_recovery(&mut self, out: &Output) -> Vec<(Lsn, Record, Body)> {
        let batches = out.full.iter().chain([&out.batch]);
        assert_eq!(batches.map(Batch::len).sum::<usize>(), out.logged.len());
        let mut logged = Vec::new();
        for (head, body) in &out.logged {
            let lsn = self.follower.next_lsn();
            let record = Record::decode_head(head).expect("a record can be read");
            if record.retention(!body.is_empty()) == Retention::Keep {
                self.kept.insert(lsn);
            }
            if let Record::PagedOut(_) = &record {
                self.pages.insert(lsn, body.clone());
            }
            self.follower.apply(lsn, &record);
            while let Err(page) = self.restored.look_up(&record) {
                load(&mut self.restored, page, &self.pages);
            }
            self.restored.apply(lsn, &record);
            self.log.insert(lsn, (record.clone(), body.clone()));
            logged.push((lsn, record, body.clone()));
        }
        let retired = sorted(&out.retired);
        assert_eq!(retired, sorted(&self.follower.take_retired()), "replay retires the same");
        assert_eq!(retired, sorted(&self.restored.take_retired()), "so it does from a snapshot");
        for lsn in retired {
            assert!(self.kept.remove(&lsn), "{lsn} was retired, and was not kept");
        }
        self.compare_snapshots();
        logged
    }

    fn compare_snapshots(&mut self) {
        let snapshot = joined(&self.core, &self.kept);
        let whole = self.whole(&self.core);
        let followed = joined(&self.follower, &BTreeSet::new());
        assert_eq!(whole, followed, "replay gives the same state");
        assert_eq!(
            whole,
            self.whole(&self.restored),
            "a snapshot and the rest give the same state"
        );
        self.commands += 1;
        let mut keep = BTreeSet::new();
        let restored = Core::restore(I::fresh(), self.limits.clone(), snapshot.clone(), |lsn| {
            keep.insert(lsn);
        })
        .expect("a snapshot can be read");
        assert_eq!(snapshot, joined(&restored, &self.kept), "a snapshot is read as it was written");
        assert_eq!(keep, self.kept, "the log keeps what messages need, and nothing else");
        self.check_kept();
        if self.commands.is_multiple_of(COMMANDS_PER_SNAPSHOT) {
            self.restored = restored;
            self.finish_checkpoint();
        }
    }

    /// The log keeps what messages and pages need, and nothing else.
    fn check_kept(&self) {
        let mut needed = BTreeSet::new();
        let mut need = |lsn| assert!(needed.insert(lsn), "{lsn} is needed twice");
        let snapshots = [joined(&self.core, &BTreeSet::new()), self.whole(&self.core)];
        let pages = Core::restore(I::fresh(), self.limits.clone(), snapshots[0].clone(), |lsn| {
            if self.pages.contains_key(&lsn) {
                need(lsn);
            }
        });
        pages.expect("a snapshot can be read");
        let messages =
            Core::restore(MemoryIndex::default(), self.limits.clone(), snapshots[1].clone(), need);
        messages.expect("a snapshot can be read");
        assert_eq!(needed, self.kept);
    }

    /// A snapshot is in place as a checkpoint.
    fn finish_checkpoint(&mut self) {
        let lsn = self.core.last_lsn();
        let previous = std::mem::replace(&mut self.checkpoint, lsn);
        for page in self.core.forget_pages_back(previous) {
            assert!(self.kept.remove(&page), "{page} is let go twice");
            assert!(self.pages.remove(&page).is_some(), "{page} is a page");
        }
    }

    /// The state of a core with every page in memory.
    fn whole(&self, core: &Core<I>) -> Bytes {
        let snapshot = joined(core, &BTreeSet::new());
        let mut whole = Core::restore(I::fresh(), self.limits.clone(), snapshot, |_| ())
            .expect("a snapshot can be read");
        for page in whole.index.frozen().pages() {
            load(&mut whole, Missing(Lsn(page.lsn)), &self.pages);
        }
        whole.forget_pages_back(Lsn(u64::MAX));
        joined(&whole, &BTreeSet::new())
    }
}

/// What an effect hands out.
pub(super) fn deliveries_of(effect: &Effect) -> &[Delivery] {
    match effect {
        Effect::Deliver { deliveries, .. } | Effect::AnswerPull { deliveries, .. } => deliveries,
        Effect::LeasesLost { .. }
        | Effect::Replaced { .. }
        | Effect::Disconnected { .. }
        | Effect::Fenced { .. }
        | Effect::StateChanged { .. }
        | Effect::DeadLetters { .. } => &[],
    }
}

fn joined<I: Index>(core: &Core<I>, kept: &BTreeSet<Lsn>) -> Bytes {
    core.snapshot().encode(kept.iter().map(|&lsn| (lsn, vec![1]))).concat().into()
}

fn sorted(lsns: &[Lsn]) -> Vec<Lsn> {
    let mut lsns = lsns.to_vec();
    lsns.sort_unstable();
    lsns
}
