//! Chooses the steps of a history from its seed, before it begins.

use qbroker_storage::disk::sim::Rng;

use super::plan::{
    Attach, BARRIERS, Change, Delay, End, INTERVALS_MS, Job, KEYS, MEMBERS, Offer, PRODUCERS,
    QUEUES, SCHEDULES, Step, Term, Verdict, WORKERS,
};

/// One history of so many is long. The others are the same but for their length: a short one costs a
/// quarter, so that many more tempers and beginnings are seen in the same time, and a long one comes to
/// what takes long to get to.
const LONG_ONE_OF: usize = 8;

/// The steps of a seed's history.
pub(super) fn steps(seed: u64) -> Vec<Step> {
    let mut rng = Rng::new(seed);
    let count = match rng.below(LONG_ONE_OF) {
        0 => 100 + rng.below(300),
        _ => 20 + rng.below(80),
    };
    let mut steps: Vec<_> = (0..=QUEUES.len()).map(Step::Create).collect();
    // Every history has its own temper: some publish much, some crash at every turn.
    let temper = Temper {
        crashes: rng.below(6),
        faults: rng.below(6),
        writes: 4 + rng.below(30),
        full: rng.below(4).saturating_sub(2),
        streams: 4 * rng.below(3),
        changes: 4 * rng.below(4),
    };
    steps.extend((0..count).map(|_| step(&mut rng, &temper)));
    steps
}

struct Temper {
    crashes: usize,
    faults: usize,
    writes: usize,
    full: usize,
    streams: usize,
    changes: usize,
}

fn step(rng: &mut Rng, temper: &Temper) -> Step {
    let weights = [
        (22, publish as fn(&mut Rng) -> Step),
        (5, |rng| Step::PublishEach(offers(rng))),
        (8, |rng| Step::PublishNumbered(producer(rng), offers(rng))),
        (2, |rng| Step::Open(producer(rng))),
        (temper.streams, connect),
        (temper.streams / 3, |rng| Step::Disconnect(rng.below(WORKERS.len()))),
        (temper.streams / 4, |rng| Step::Close(rng.below(WORKERS.len()))),
        (temper.streams / 3, |_| Step::Begin(1)),
        (1, |rng| Step::RepeatBatch(producer(rng))),
        (18, pull),
        (4, wait),
        (6, pull_of),
        (1, |rng| Step::GiveUp(rng.next_u64())),
        (20, settle),
        (temper.writes, |_| Step::Write),
        (9, pass),
        (3, |rng| Step::Extend(rng.next_u64(), 1_000 + below(rng, 20_000))),
        (3, |_| Step::Repeat),
        (5, finish),
        (1, |_| Step::RepeatFinish),
        (3, |rng| Step::Patch(rng.next_u64(), rng.below(1_000))),
        (3, acquire),
        (2, |rng| Step::GiveBack(rng.next_u64())),
        (2, |rng| Step::StandFor(below(rng, KEYS))),
        (3, |rng| Step::Next { pick: rng.next_u64(), ttl_ms: 1_000 + below(rng, 60_000) }),
        (1, |rng| Step::LeaveLine(rng.next_u64())),
        (3, gather),
        (2, put_schedule),
        (1, |rng| Step::PauseSchedule(below(rng, SCHEDULES), rng.below(3) == 0)),
        (1, drop_schedule),
        (5, |rng| Step::Arrive(below(rng, BARRIERS), below(rng, MEMBERS))),
        (2, |rng| Step::Store(below(rng, KEYS), below(rng, 2) * below(rng, 60_000))),
        (2, |rng| Step::Add(below(rng, KEYS), 1)),
        (1, |rng| Step::Forget(below(rng, KEYS))),
        (2, |rng| Step::Delete(rng.next_u64())),
        (3, update),
        (2, purge),
        (3, operate),
        (6, |_| Step::Work),
        (1, |rng| Step::Pause(queue(rng), rng.below(2) == 0)),
        (2, |rng| Step::Resume(queue(rng))),
        (1, |rng| Step::Create(rng.below(QUEUES.len() + 1))),
        (temper.changes, change),
        (1, drop_queue),
        (1, jump),
        (3, |_| Step::Idle),
        (3, |_| Step::Checkpoint),
        (2, |_| Step::Compact),
        (3, |_| Step::Audit),
        (4 * temper.full, fill),
        (temper.full, |rng| Step::Drain(50 + below(rng, 250))),
        (temper.crashes, |rng| Step::PowerFails(below(rng, 40))),
        (temper.crashes, down),
        (temper.faults.saturating_sub(2), |rng| Step::WriteFails(below(rng, 10))),
        (temper.faults.saturating_sub(2), |rng| Step::SyncFails(below(rng, 10))),
    ];
    let sum = weights.iter().map(|(weight, _)| weight).sum();
    let mut at = rng.below(sum);
    for (weight, make) in weights {
        match at.checked_sub(weight) {
            Some(rest) => at = rest,
            None => return make(rng),
        }
    }
    unreachable!("the sum of the weights is above every number below it")
}

fn below(rng: &mut Rng, bound: u64) -> u64 {
    rng.next_u64() % bound
}

fn queue(rng: &mut Rng) -> usize {
    rng.below(QUEUES.len())
}

/// A queue is dropped now and then only: it takes much with it.
fn drop_queue(rng: &mut Rng) -> Step {
    if rng.below(4) == 0 { Step::Drop(queue(rng)) } else { Step::Audit }
}

fn delay(rng: &mut Rng) -> Delay {
    match rng.below(8) {
        0 => Delay::For(1 + below(rng, 20_000)),
        1 => Delay::Until(below(rng, 20_000)),
        _ => Delay::None,
    }
}

fn connect(rng: &mut Rng) -> Step {
    let attach = Attach {
        queues: 1 + rng.below((1 << QUEUES.len()) - 1),
        worse: rng.below(2) * rng.below(1 << QUEUES.len()),
        window: 1 + u32::try_from(rng.below(5)).expect("small"),
        grace_ms: 1_000 + below(rng, 20_000),
        reset: rng.below(10) == 0,
        forgets: rng.below(6) == 0,
    };
    Step::Connect(rng.below(WORKERS.len()), attach)
}

fn producer(rng: &mut Rng) -> usize {
    rng.below(PRODUCERS.len())
}

fn publish(rng: &mut Rng) -> Step {
    Step::Publish(offers(rng))
}

fn offers(rng: &mut Rng) -> Vec<Offer> {
    let count = 1 + rng.below(4);
    let first = queue(rng);
    let offer = |rng: &mut Rng| Offer {
        // Most batches go to one queue.
        queue: if rng.below(4) == 0 { queue(rng) } else { first },
        bytes: rng.below(1_000),
        delay: delay(rng),
        priority: if rng.below(3) == 0 { u8::try_from(rng.below(10)).expect("small") } else { 0 },
        ttl_ms: if rng.below(8) == 0 { 1 + below(rng, 30_000) } else { 0 },
        id: if rng.below(6) == 0 { 1 + below(rng, 12) } else { 0 },
        unique: if rng.below(10) == 0 { 1 + below(rng, 6) } else { 0 },
        ordering: if rng.below(4) == 0 { 1 + below(rng, 4) } else { 0 },
        fairness: 0,
        attempts: if rng.below(6) == 0 { limit(rng) } else { 0 },
    };
    let mut offers: Vec<_> = (0..count).map(|_| offer(rng)).collect();
    for offer in &mut offers {
        // Of many dead letters of one moment, none is said to be the first.
        let ages = 0 < offer.ttl_ms && QUEUES[offer.queue] != "brief";
        offer.ordering = if ages { 0 } else { offer.ordering };
        if QUEUES[offer.queue] == "shared" {
            // Tenants take turns among messages that are equally urgent.
            (offer.priority, offer.fairness) = (0, below(rng, 5));
        }
    }
    offers
}

fn pull(rng: &mut Rng) -> Step {
    let max = 1 + u32::try_from(rng.below(5)).expect("small");
    let queue = rng.below(2 * QUEUES.len() + 1);
    Step::Pull { queue, max, lease_ms: 1_000 + below(rng, 15_000) }
}

fn wait(rng: &mut Rng) -> Step {
    let max = 1 + u32::try_from(rng.below(3)).expect("small");
    Step::Wait { queue: rng.below(2 * QUEUES.len()), max, lease_ms: 1_000 + below(rng, 15_000) }
}

fn pull_of(rng: &mut Rng) -> Step {
    let all = 1 << QUEUES.len();
    Step::PullOf {
        queues: 1 + rng.below(all - 1),
        worse: rng.below(2) * rng.below(all),
        max: 1 + small(rng, 6),
        lease_ms: 1_000 + below(rng, 15_000),
        waits: rng.below(2) == 0,
    }
}

fn acquire(rng: &mut Rng) -> Step {
    let (key, ttl_ms) = (below(rng, KEYS), 1_000 + below(rng, 60_000));
    Step::Acquire { key, ttl_ms, holder: rng.next_u64() }
}

fn gather(rng: &mut Rng) -> Step {
    let [offer, late] = [offers(rng)[0], offers(rng)[0]].map(|offer| {
        // It is published when the last one has come, or too late; what that stores is not told.
        Offer { delay: Delay::None, id: 0, unique: 0, ..offer }
    });
    Step::Gather { key: below(rng, BARRIERS), ttl_ms: 1_000 + below(rng, 60_000), offer, late }
}

/// A limit of failures: mostly few, or none.
fn limit(rng: &mut Rng) -> i32 {
    [-1, 1, 2, 3][rng.below(4)]
}

fn put_schedule(rng: &mut Rng) -> Step {
    let offer = Offer { delay: Delay::None, id: 0, ..offers(rng)[0] };
    let every_s = [60, 90, 300][rng.below(3)];
    Step::PutSchedule { schedule: below(rng, SCHEDULES), every_s, catch_up: rng.below(3), offer }
}

/// What ticks is stopped now and then only.
fn drop_schedule(rng: &mut Rng) -> Step {
    if rng.below(3) == 0 { Step::DropSchedule(below(rng, SCHEDULES)) } else { Step::Idle }
}

fn settle(rng: &mut Rng) -> Step {
    let named = |rng: &mut Rng| (rng.below(3) == 0).then(|| limit(rng));
    let verdict = |rng: &mut Rng| match rng.below(10) {
        0..5 => Verdict::Ack,
        5 => Verdict::Nack(None, named(rng)),
        6 => Verdict::Nack(Some(below(rng, 3) * below(rng, 4_000)), named(rng)),
        7 | 8 => Verdict::Release(below(rng, 2) * below(rng, 4_000)),
        _ => Verdict::DeadLetter,
    };
    let count = 1 + rng.below(4);
    Step::Settle((0..count).map(|_| (rng.next_u64(), verdict(rng))).collect())
}

fn update(rng: &mut Rng) -> Step {
    let priority = (rng.below(2) == 0).then(|| u8::try_from(rng.below(10)).expect("small"));
    let delay = match rng.below(3) {
        0 => Delay::None,
        1 => Delay::For(below(rng, 5_000)),
        _ => Delay::Until(below(rng, 5_000)),
    };
    Step::Update { pick: rng.next_u64(), priority, delay }
}

fn pass(rng: &mut Rng) -> Step {
    let longest = [10, 1_000, 5_000, 30_000, 400_000][rng.below(5)];
    Step::Pass(1 + below(rng, longest))
}

fn jump(rng: &mut Rng) -> Step {
    let by = i64::try_from(below(rng, 600_000)).expect("small");
    Step::Jump(if rng.below(2) == 0 { by } else { -by })
}

fn finish(rng: &mut Rng) -> Step {
    let mut offer = offers(rng)[0];
    // What an effect stores is not told, so it is no duplicate.
    (offer.id, offer.unique) = (0, 0);
    Step::Finish { pick: rng.next_u64(), offer, key: below(rng, KEYS) }
}

fn operate(rng: &mut Rng) -> Step {
    let job = match rng.below(5) {
        0 => Job::Delete,
        1 | 2 => Job::Move(queue(rng)),
        _ => Job::Redrive,
    };
    let terms = rng.below(4).saturating_sub(1);
    Step::Operate(queue(rng), job, (0..terms).map(|_| term(rng)).collect())
}

fn term(rng: &mut Rng) -> Term {
    match rng.below(11) {
        0 => Term::Type(below(rng, 3)),
        1 => Term::Header(below(rng, 2)),
        2 => Term::Correlation(below(rng, 4)),
        3 => Term::Digit(below(rng, 10)),
        4 => Term::Younger(below(rng, 60_000)),
        5 => Term::Older(below(rng, 60_000)),
        6 => Term::Failure(below(rng, 2)),
        7 => Term::Reason(rng.below(5)),
        8 => Term::Source(queue(rng)),
        9 => Term::Named(rng.below(7), 1 + rng.below(5)),
        _ => Term::Id(1 + below(rng, 12)),
    }
}

/// Everything goes, or what is in some states.
fn purge(rng: &mut Rng) -> Step {
    let states = if rng.below(3) == 0 { 31 } else { 1 + small(rng, 31) };
    Step::Purge(queue(rng), states, rng.below(2) == 0)
}

/// Another policy of a queue, or of the dead-letter queue that has one.
fn change(rng: &mut Rng) -> Step {
    let of = rng.below(QUEUES.len() + 1);
    if of == QUEUES.len() {
        let change = match rng.below(3) {
            0 => Change::RetentionBytes(maybe(rng, |rng| 1_000 + below(rng, 6_000))),
            1 => Change::Attempts(maybe(rng, |rng| 1 + small(rng, 4))),
            _ => Change::Back,
        };
        return Step::Change(of, change);
    }
    let change = match rng.below(18) {
        0 => Change::Attempts(maybe(rng, |rng| 1 + small(rng, 4))),
        1 => Change::Crashes(maybe(rng, |rng| 1 + small(rng, 3))),
        2 => Change::Backoff(below(rng, 3) * below(rng, 4_000)),
        3 => Change::Ttl(maybe(rng, |rng| 1 + below(rng, 30_000))),
        4 | 5 => Change::Letters(rng.below(3)),
        6 => Change::Discards(rng.below(2) == 0),
        7 | 8 => Change::Messages(maybe(rng, |rng| 2 + rng.below(8)), rng.below(3)),
        9 => Change::Bytes(maybe(rng, |rng| 1_500 + below(rng, 6_000)), rng.below(3)),
        10 => Change::Retention(maybe(rng, |rng| 1_000 + below(rng, 120_000))),
        11 => Change::Leased(maybe(rng, |rng| 1 + rng.below(5))),
        12 => Change::LeasedOfKey(maybe(rng, |rng| 1 + rng.below(3))),
        13 => Change::Interval(maybe(rng, |rng| INTERVALS_MS[rng.below(INTERVALS_MS.len())])),
        14 | 15 => Change::Weights(std::array::from_fn(|_| [1, 1, 2, 3, 5][rng.below(5)])),
        16 => Change::DedupWindow(rng.next_u64() % 3 * below(rng, 400_000)),
        _ => Change::Back,
    };
    Step::Change(of, change)
}

fn maybe<T>(rng: &mut Rng, some: impl FnOnce(&mut Rng) -> T) -> Option<T> {
    (rng.below(3) != 0).then(|| some(rng))
}

fn small(rng: &mut Rng, bound: usize) -> u32 {
    u32::try_from(rng.below(bound)).expect("small")
}

fn fill(rng: &mut Rng) -> Step {
    Step::Fill((0 < rng.below(3)).then(|| below(rng, 2) * below(rng, 400_000)))
}

fn down(rng: &mut Rng) -> Step {
    let end = match rng.below(6) {
        0 => Step::Down(End::Stop, Vec::new()),
        1 => Step::Down(End::Kill, Vec::new()),
        _ => Step::Down(End::Power(rng.next_u64()), Vec::new()),
    };
    let Step::Down(end, _) = end else { return end };
    let again = rng.below(4);
    Step::Down(end, (1..again).map(|_| below(rng, 40)).collect())
}
