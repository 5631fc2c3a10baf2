//! What is lost of a log costs nobody more than what was lost: pages are made anew of the rest, and
//! what is behind a gap is applied.

use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

use qbroker_storage::{Body, Lsn, Retention};

use super::check::check_invariants;
use super::operations::look;
use super::stage::{STEPS_MAX, Stage, StageIndex};
use crate::queue::filter::Filter;
use crate::queue::index::paged::PagedIndex;
use crate::queue::index::{Index, Message, Missing, State, StateSet};
use crate::queue::record::Record;
use crate::queue::time::{Due, Now};
use crate::queue::{
    Core, Gaps, Limits, NewMessage, Output, Publish, StartOperation, Stop, Work, page_messages,
};

/// Every record there was, with its body.
pub(super) type Log = BTreeMap<Lsn, (Record, Body)>;

/// Whether a record is lost in this run of losses: one of `of`.
fn is_lost(lsn: Lsn, run: u64, of: u64) -> bool {
    // splitmix64 (Steele and others, 2014)
    let mut mixed = lsn.0.wrapping_add(run.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ (mixed >> 31)).is_multiple_of(of)
}

/// Makes every page anew, of all that was logged and of parts of it.
pub(super) fn check_pages<I: StageIndex>(stage: &Stage<I>) {
    for page in stage.core.index.frozen().pages() {
        let mut expected = page_messages(&stage.log[&Lsn(page.lsn)].1).unwrap();
        for (_, message) in &mut expected {
            page.update(message);
            if let State::Scheduled(due) = message.state {
                message.state = State::Scheduled(Due::at(due.wall_ms));
            }
            message.ttl_end = message.ttl_end.map(|end| Due::at(end.wall_ms));
        }
        expected.sort_unstable_by_key(|(birth, _)| *birth);
        // When each came into its queue is told too late, so that none is told too early.
        let newest_ms = expected.iter().map(|(_, message)| message.since_ms).max().unwrap();
        expected.iter_mut().for_each(|(_, message)| message.since_ms = newest_ms);
        let first_ttl_end = expected.iter().filter_map(|(_, message)| message.ttl_end).min();
        let whole = rebuilt(stage, Missing(Lsn(page.lsn)), |_| true);
        assert_eq!(whole, expected, "all of it is in the log");
        let orders = expected.iter().map(|(_, message)| order(message, message));
        let (first, last) = (orders.clone().min().unwrap(), orders.max().unwrap());
        for run in 0..4 {
            let some = rebuilt(stage, Missing(Lsn(page.lsn)), |lsn| !is_lost(lsn, run, 1 + run));
            assert_eq!(some.len(), expected.len());
            for ((birth, some), (of, whole)) in some.iter().zip(&expected) {
                assert_eq!((birth, some.queue), (of, whole.queue));
                // Whose line is not known waits for nobody.
                let passes = whole.state == State::Behind && some.keys.ordering == 0;
                let state = if passes { State::Ready } else { whole.state };
                assert_eq!(StateSet::from(some.state), StateSet::from(state));
                assert!((first..=last).contains(&order(some, whole)), "{some:?} for {whole:?}");
                assert!(whole.since_ms <= some.since_ms, "{birth} would expire too soon");
                // One that it had before may be believed where another of the page has such a one.
                let is_possible = |end| match whole.ttl_end {
                    Some(it) => end == it,
                    None => first_ttl_end.is_some_and(|first| first <= end),
                };
                assert!(some.ttl_end.is_none_or(is_possible), "{some:?} for {whole:?}");
                let attempts = (some.failures, some.crashes);
                assert!(some.failures <= whole.failures, "{birth}: {attempts:?}");
                assert!(some.crashes <= whole.crashes, "{birth}: {attempts:?}");
                let named = [some.last_failure, some.dead_letter, some.patched];
                assert!(named.iter().all(|lsn| *lsn == Lsn(0) || stage.is_kept(*lsn)));
            }
        }
    }
}

/// The order of a message among those that do what `other` does.
fn order(message: &Message, other: &Message) -> u64 {
    match (message.state, other.state) {
        (State::Scheduled(due), _) => due.wall_ms,
        (State::Ready, State::Ready) => {
            u64::from(u8::MAX - message.priority) << 56 | message.place.0
        }
        _ => message.place.0,
    }
}

fn rebuilt<I: StageIndex>(
    stage: &Stage<I>,
    page: Missing,
    is_there: impl Fn(Lsn) -> bool,
) -> Vec<(Lsn, Message)> {
    let mut rebuild = stage.core.rebuild(page).expect("it is not in memory");
    let lsns = rebuild.lsns();
    for (lsn, (record, _)) in stage.log.range(lsns.first..=lsns.last).rev() {
        if is_there(*lsn) {
            let mut head = Vec::new();
            record.encode_head(&mut head);
            rebuild.take_in(*lsn, &head);
        }
    }
    rebuild.finish(|lsn| stage.is_kept(lsn), stage.now.wall_ms)
}

/// Of the leaders' records nothing is left but their pages.
#[test]
fn a_line_whose_leader_is_not_known_any_more_goes_on() {
    const LINES: u32 = 8;
    let (mut stage, _) = Stage::<PagedIndex>::new(Limits::default());
    let message = |number: u32| NewMessage {
        queue: "q".into(),
        ordering_hash: Some(1 + u64::from(number % LINES)),
        payload_bytes: 1,
        body: Body::new(Bytes::from_static(b"x"), Bytes::new()),
        ..NewMessage::default()
    };
    let publish = Publish { messages: (0..2 * LINES).map(message).collect() };
    stage.turn(|core, now, out| core.publish(&publish, now, out)).answer.unwrap();
    let queue = stage.core.queue("q").unwrap().id();
    let counts = |core: &Core<PagedIndex>| {
        let counts = core.index.counts(queue);
        (counts.ready, counts.behind)
    };
    assert_eq!(counts(&stage.core), (8, 8));
    let frozen = stage.core.index.frozen();
    let leads = frozen.pages().iter().find(|page| 0 < page.led_lines().count());
    let leads = leads.expect("some are paged out");
    let page = Missing(Lsn(leads.lsn));
    let lines = leads.led_lines().count() as u64;
    let anew = rebuilt(&stage, page, |_| false);
    assert!(!stage.core.deadlines().is_over(stage.now));
    assert!(stage.core.load_anew(page, anew));
    assert!(stage.core.deadlines().is_over(stage.now), "nobody else may come");
    while let Err(page) = stage.core.dispatch(stage.now, &mut Output::default()) {
        stage.core.load(page, page_messages(&stage.log[&page.0].1).unwrap());
    }
    assert_eq!(counts(&stage.core), (8 + lines, 8 - lines));
    assert!(!stage.core.deadlines().is_over(stage.now));
}

/// Of how it went to the dead letters and came back nothing is left: its publish alone.
#[test]
fn a_message_whose_moves_are_lost_is_not_older_than_it_was() {
    let (mut stage, _) = Stage::<PagedIndex>::new(Limits::default());
    let message = NewMessage {
        queue: "q".into(),
        ttl_ms: Some(1_000),
        payload_bytes: 1,
        body: Body::new(Bytes::from_static(b"x"), Bytes::new()),
        ..NewMessage::default()
    };
    let publish = Publish { messages: vec![message; 8] };
    stage.turn(|core, now, out| core.publish(&publish, now, out)).answer.unwrap();
    stage.now.wall_ms += 60_000;
    stage.now.boot_ms += 60_000;
    stage.turn(|core, now, out| core.tick(now, out)).answer.unwrap();
    let work = Work::Move { destination: String::new(), reset_attempts: true };
    let filter = Filter::default();
    let start = StartOperation { queue: "q.dead".into(), filter, work, rate: 0, limit: 0 };
    let begun = stage.turn(|core, now, out| core.start_operation(&start, now, out)).answer.unwrap();
    let step = look(&mut stage, begun, 100);
    stage.turn(|core, now, out| core.step_operation(&step, now, out)).answer.unwrap();
    let queue = stage.core.queue("q").unwrap().id();
    let pages: Vec<_> = stage.core.index.frozen().pages().to_vec();
    let mut back = pages.iter().filter(|page| page.queue() == queue).peekable();
    assert!(back.peek().is_some(), "some are paged out");
    let is_publish = |lsn: Lsn| matches!(stage.log[&lsn].0, Record::Published(_));
    for page in back {
        for (birth, message) in rebuilt(&stage, Missing(Lsn(page.lsn)), is_publish) {
            assert_eq!(message.since_ms, stage.now.wall_ms, "{birth} would expire too soon");
            assert_eq!(message.ttl_end, None, "{birth} has none since it came back");
        }
    }
}

/// A log of which records are lost.
struct Torn<'a> {
    log: &'a Log,
    run: u64,
    of: u64,
}

impl<'a> Torn<'a> {
    fn records(&self) -> impl Iterator<Item = (Lsn, &'a Record)> {
        let there = self.log.iter().filter(|(lsn, _)| !is_lost(**lsn, self.run, self.of));
        there.map(|(lsn, (record, _))| (*lsn, record))
    }

    fn load<I: Index>(&self, core: &mut Core<I>, page: Missing) {
        // The index of the tests that misses at random has pages that are no records.
        let messages = match self.log.get(&page.0) {
            Some((Record::PagedOut(_), body)) => page_messages(body).unwrap(),
            _ => Vec::new(),
        };
        core.load(page, messages);
    }

    /// The core as a start would have it, and the records that the log would keep.
    fn replay<I: StageIndex>(&self) -> (Core<I>, BTreeSet<Lsn>) {
        let mut core = Core::new(I::fresh(), Limits::default());
        let (mut gaps, mut kept) = (Gaps::default(), BTreeSet::new());
        for (lsn, record) in self.records() {
            while let Err(page) = core.look_up(record) {
                self.load(&mut core, page);
            }
            let body = &self.log[&lsn].1;
            if record.retention(!body.is_empty()) == Retention::Keep {
                kept.insert(lsn);
            }
            core.pass_over(lsn);
            let page = matches!(record, Record::PagedOut(_)).then(|| page_messages(body).unwrap());
            core.apply_behind_gap(lsn, record.clone(), page.as_deref(), &mut gaps);
            for retired in core.take_retired() {
                assert!(kept.remove(&retired), "{retired} is retired, and was not kept");
            }
        }
        (core, kept)
    }

    /// Messages that are stored, and that nothing ended that is there.
    fn waiting(&self) -> BTreeSet<Lsn> {
        let mut waiting = BTreeMap::new();
        for (lsn, record) in self.records() {
            match record {
                Record::Published(published) => drop(waiting.insert(lsn, published.queue)),
                Record::Acked(acked) => acked.births.iter().for_each(|birth| {
                    waiting.remove(&Lsn(*birth));
                }),
                Record::Deleted(deleted) => deleted.births.iter().for_each(|birth| {
                    waiting.remove(&Lsn(*birth));
                }),
                Record::Dropped(dropped) => dropped.births.iter().for_each(|birth| {
                    waiting.remove(&Lsn(*birth));
                }),
                Record::Expired(expired) => expired.births.iter().for_each(|birth| {
                    waiting.remove(&Lsn(*birth));
                }),
                Record::DeadLettered(letter) if letter.to_queue == 0 => {
                    waiting.remove(&Lsn(letter.birth));
                }
                Record::DeadLettered(letter) => {
                    let queue = waiting.get_mut(&Lsn(letter.birth));
                    queue.into_iter().for_each(|queue| *queue = letter.to_queue);
                }
                Record::Moved(moved) => moved.births.iter().for_each(|birth| {
                    let queue = waiting.get_mut(&Lsn(*birth));
                    queue.into_iter().for_each(|queue| *queue = moved.to_queue);
                }),
                Record::QueueDeleted(gone) => waiting.retain(|_, queue| *queue != gone.queue),
                _ => {}
            }
        }
        waiting.into_keys().collect()
    }
}

/// Applies the log with holes in it, goes on, and comes back from what was kept of it.
pub(super) fn check_gaps<I: StageIndex>(stage: &Stage<I>) {
    for (run, of) in (0..6).zip([1_000_000, 2, 3, 5, 9, 20]) {
        let torn = Torn { log: &stage.log, run, of };
        let (mut core, kept) = torn.replay::<I>();
        check_invariants(&core, stage.now);
        let mut needed = BTreeSet::new();
        let snapshot: Bytes = core.snapshot().encode(std::iter::empty()).concat().into();
        Core::restore(I::fresh(), Limits::default(), snapshot, |lsn| _ = needed.insert(lsn))
            .unwrap();
        let mut there = BTreeSet::new();
        core.index.frozen().for_each(&mut |birth, _| _ = there.insert(birth));
        for page in core.index.frozen().pages() {
            there.extend(page.births());
            let messages = page_messages(&torn.log[&Lsn(page.lsn)].1).unwrap();
            needed.extend(messages.iter().map(|(birth, message)| message.content(*birth)));
        }
        let waiting = torn.waiting();
        assert!(waiting.is_subset(&there), "{waiting:?} wait, {there:?} are there");
        let not_kept = needed.iter().filter(|lsn| !kept.contains(*lsn));
        assert_eq!(not_kept.count(), 0, "{needed:?} are needed, kept are {kept:?}");
        go_on(&torn, &mut core, stage.now);
    }
}

/// What time does, a year later: sessions and leases end, delays are over.
fn go_on<I: StageIndex>(torn: &Torn<'_>, core: &mut Core<I>, now: Now) {
    core.pass_over(Lsn(torn.log.last_key_value().map_or(1, |(lsn, _)| lsn.0 + 1)));
    let mut out = Output::default();
    core.start(99, "another boot".to_owned(), now, &mut out);
    let year_ms = 365 * 24 * 60 * 60 * 1_000;
    let boot_ms = now.boot_ms + year_ms;
    let now = Now { wall_ms: now.wall_ms + year_ms, boot_ms, ..now };
    for _ in 0..STEPS_MAX {
        loop {
            match core.tick(now, &mut out) {
                Ok(_) => break,
                Err(Stop::Missing(page)) => torn.load(core, page),
                Err(Stop::Refused(refused)) => panic!("time is not refused: {refused}"),
            }
        }
        check_invariants(core, now);
        if core.deadlines().boot_ms.is_none_or(|deadline| now.boot_ms < deadline) {
            break;
        }
    }
    assert_eq!(core.lease_count(), 0, "every lease ends");
}
