//! How much comes back into memory for a step of time.

use std::collections::BTreeMap;

use qbroker_storage::Lsn;

use super::PagedIndex;
use crate::queue::ids::QueueId;
use crate::queue::index::{Index, Lookup, Message, State};
use crate::queue::time::{Due, Now};

const NOW: Now = Now { wall_ms: 1_000, boot_ms: 1_000, begun: false };
const QUEUE: QueueId = QueueId(1);

fn message(state: State) -> Message {
    Message { state, size: 10, ..Message::unknown(QUEUE, 0) }
}

/// An index of pages of four, and what its log holds.
struct Stage {
    index: PagedIndex,
    log: BTreeMap<Lsn, Vec<(Lsn, Message)>>,
    loaded: usize,
}

impl Stage {
    fn new(messages: impl Iterator<Item = Message>) -> Self {
        let mut index = PagedIndex::with_pages(8, 4, 1);
        for (birth, message) in (1..).zip(messages) {
            index.insert(Lsn(birth), message);
        }
        let mut stage = Self { index, log: BTreeMap::new(), loaded: 0 };
        stage.page_out();
        stage
    }

    fn page_out(&mut self) {
        while let Some(births) = self.index.surplus() {
            let page = Lsn(1_000_000 + self.log.len() as u64);
            let births: Vec<u64> = births.iter().map(|birth| birth.0).collect();
            let message = |birth: &u64| (Lsn(*birth), *self.index.hot.present(Lsn(*birth)));
            self.log.insert(page, births.iter().map(message).collect());
            self.index.page_out(page, &births);
        }
    }

    /// Asks until no page is missing, as the engine does.
    fn ask(&mut self, ask: impl Fn(&PagedIndex, &mut Vec<Lsn>) -> Lookup<()>) -> Vec<Lsn> {
        let mut births = Vec::new();
        while let Err(page) = ask(&self.index, &mut births) {
            assert_eq!(births, [], "what is asked again begins anew");
            assert!(self.index.load(page, self.log[&page.0].clone()));
            self.loaded += 1;
        }
        births
    }

    /// Does what `step` finds, `max` at a time, until it finds nothing; returns that in its order,
    /// and the most pages that one step brought in.
    fn drain(
        &mut self,
        max: usize,
        step: impl Fn(&PagedIndex, usize, &mut Vec<Lsn>) -> Lookup<()>,
    ) -> (Vec<u64>, usize) {
        let (mut all, mut most) = (Vec::new(), 0);
        loop {
            let before = self.loaded;
            let births = self.ask(|index, births| step(index, max, births));
            most = most.max(self.loaded - before);
            if births.is_empty() {
                return (all, most);
            }
            for birth in births {
                self.index.remove(birth);
                all.push(birth.0);
            }
            self.page_out();
        }
    }
}

/// Ten million messages of one moment, or of the night that a broker was down, came into memory all at
/// once, though a step does a thousand of them.
#[test]
fn what_is_overdue_comes_into_memory_a_step_at_a_time() {
    type Of = fn(u64) -> Due;
    let boot = |time: u64| Due { wall_ms: time, boot_ms: Some(time) };
    let dues: [(&str, Of); 4] = [
        ("one moment of the wall clock", |_| Due::at(700)),
        ("one after the other", |n| Due::at(100 + n)),
        ("the last one first", |n| Due::at(900 - n)),
        ("both clocks", |n| match n % 2 {
            0 => Due { wall_ms: 500, boot_ms: Some(100 + n) },
            _ => Due::at(500),
        }),
    ];
    for (what, due) in dues {
        let mut stage = Stage::new((1..=400).map(|n| message(State::Scheduled(due(n)))));
        let mut wanted: Vec<(bool, u64, u64)> = (1..=400)
            .map(|n| (n, due(n)))
            .map(|(n, due)| (due.boot_ms.is_none(), due.boot_ms.unwrap_or(due.wall_ms), n))
            .collect();
        wanted.sort_unstable();
        let (order, most) = stage.drain(6, |index, max, births| index.due(NOW, max, births));
        assert_eq!(order, wanted.iter().map(|&(.., n)| n).collect::<Vec<_>>(), "{what}");
        assert!(most <= 4, "{what}: {most} pages for a step of six messages");
    }
    // What is not over stays where it is.
    let mut stage = Stage::new((0..400).map(|n| message(State::Scheduled(boot(1_001 + n)))));
    assert_eq!(stage.drain(6, |index, max, births| index.due(NOW, max, births)), (vec![], 0));
}

#[test]
fn what_is_older_than_a_retention_comes_into_memory_a_step_at_a_time() {
    let mut stage = Stage::new((0..400).map(|_| message(State::Parked)));
    stage.index.set_retention(QUEUE, Some(1_000));
    let (mut gone, most) =
        stage.drain(6, |index, max, births| index.expired(NOW.wall_ms, max, births));
    gone.sort_unstable();
    assert_eq!(gone, (1..=400).collect::<Vec<_>>());
    assert!(most <= 2, "{most} pages for a step of six messages");
}
