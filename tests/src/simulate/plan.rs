//! What a simulated history may do.
//!
//! A step says nothing about what will be there when its turn comes: what it needs of that it takes
//! by a number, from whatever there is. So any steps can be left out and the others still mean
//! something, which is what shrinking a failing history needs.

/// Queues that clients use; each has another policy.
pub const QUEUES: [&str; 7] = ["plain", "strict", "brief", "few", "narrow", "shared", "slow"];

/// Clients that number their batches.
pub const PRODUCERS: [&str; 2] = ["p-0", "p-1"];

/// Workers, by the names of their sessions: the second reports what it begins, the third extends its
/// leases.
pub const WORKERS: [&str; 3] = ["w-0", "w-1", "w-2"];

/// A dead-letter queue that is made with a policy of its own, as one more than [`QUEUES`].
pub const LETTERS: &str = "few.dead";

/// A dead-letter queue that is one only since policies name it.
pub const GRAVES: &str = "graves";

/// Keys of values, counters and permits.
pub const KEYS: u64 = 5;

/// Schedules.
pub const SCHEDULES: u64 = 3;

/// Keys of barriers, and those who may arrive at one.
pub const BARRIERS: u64 = 3;
pub const MEMBERS: u64 = 4;

/// How a worker opens a stream.
#[derive(Clone, Copy, Debug)]
pub struct Attach {
    /// A bit for each queue.
    pub queues: usize,
    /// A bit for each queue that is of a worse rank; none: they share alike.
    pub worse: usize,
    pub window: u32,
    pub grace_ms: u64,
    /// Its process was started anew.
    pub reset: bool,
    /// It does not name one of the leases that it holds.
    pub forgets: bool,
}

/// Which messages an operation means.
#[derive(Clone, Copy, Debug)]
pub enum Term {
    /// By the number of the payload: of this type, with this header, of this correlation, ending so.
    Type(u64),
    Header(u64),
    Correlation(u64),
    Digit(u64),
    /// Published in the last so many milliseconds, or before.
    Younger(u64),
    Older(u64),
    /// The last failure is of this type.
    Failure(u64),
    /// Dead for this reason, or of this queue.
    Reason(usize),
    Source(usize),
    /// Of those that are there, from this one on every so many.
    Named(usize, usize),
    Id(u64),
}

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Job {
    Delete,
    /// To another queue.
    Move(usize),
    /// Dead letters, to where they came from, with all their attempts.
    Redrive,
}

/// Milliseconds between two deliveries that a rate may say.
pub const INTERVALS_MS: [u64; 5] = [100, 200, 500, 1_000, 2_000];

/// What an operator changes of a queue's policy; nothing named: without such a limit.
#[derive(Clone, Copy, Debug)]
pub enum Change {
    Attempts(Option<u32>),
    Crashes(Option<u32>),
    Backoff(u64),
    Ttl(Option<u64>),
    /// The dead-letter queue: that of its own name, [`LETTERS`] or [`GRAVES`].
    Letters(usize),
    Discards(bool),
    /// Messages at most, and what becomes of others.
    Messages(Option<usize>, usize),
    /// Bytes at most, likewise.
    Bytes(Option<u64>, usize),
    Retention(Option<u64>),
    Leased(Option<usize>),
    LeasedOfKey(Option<usize>),
    /// Shares of the fairness keys 1 to 4.
    Weights([u32; 4]),
    /// Between two deliveries.
    Interval(Option<u64>),
    DedupWindow(u64),
    RetentionBytes(Option<u64>),
    /// It is again as it was made.
    Back,
}

/// What a client makes of a lease.
#[derive(Clone, Copy, Debug)]
pub enum Verdict {
    Ack,
    /// Failed; with the delay that the policy says, or this one, and by the limit of failures that the
    /// queue has, or this one.
    Nack(Option<u64>, Option<i32>),
    Release(u64),
    DeadLetter,
}

/// When a message is to be delivered.
#[derive(Clone, Copy, Debug)]
pub enum Delay {
    None,
    /// Relative.
    For(u64),
    /// Absolute, so much later than the wall clock shows.
    Until(u64),
}

/// A message to be published.
#[derive(Clone, Copy, Debug)]
pub struct Offer {
    pub queue: usize,
    pub bytes: usize,
    pub delay: Delay,
    pub priority: u8,
    /// 0: as the queue says.
    pub ttl_ms: u64,
    /// 0: none.
    pub id: u64,
    /// 0: none.
    pub unique: u64,
    /// 0: none.
    pub ordering: u64,
    /// 0: none.
    pub fairness: u64,
    /// Failures until it is given up, -1: never; 0: as the queue says.
    pub attempts: i32,
}

/// How the machine goes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The power goes; the number chooses what was written.
    Power(u64),
    /// The process is killed.
    Kill,
    /// The broker is asked to stop.
    Stop,
}

/// One thing that happens.
#[derive(Clone, Debug)]
pub enum Step {
    Publish(Vec<Offer>),
    /// A batch in part: each message stands alone.
    PublishEach(Vec<Offer>),
    Connect(usize, Attach),
    Disconnect(usize),
    Close(usize),
    /// A worker begins to work on what it holds.
    Begin(usize),
    /// A producer opens a stream; what was not answered on another one is sent again.
    Open(usize),
    PublishNumbered(usize, Vec<Offer>),
    /// The last batch without an answer again, on the same stream.
    RepeatBatch(usize),
    Pull {
        queue: usize,
        max: u32,
        lease_ms: u64,
    },
    /// A pull that waits, where there is nothing yet.
    Wait {
        queue: usize,
        max: u32,
        lease_ms: u64,
    },
    /// A pull of several queues, by their bits, some of a worse rank.
    PullOf {
        queues: usize,
        worse: usize,
        max: u32,
        lease_ms: u64,
        waits: bool,
    },
    /// Somebody who waits goes.
    GiveUp(u64),
    /// Settles leases that a client was given, those that have ended included.
    Settle(Vec<(u64, Verdict)>),
    /// Acks, and with it publishes, stores under a key and counts there.
    Finish {
        pick: u64,
        offer: Offer,
        key: u64,
    },
    RepeatFinish,
    /// Fails, and gives the message another payload of so many bytes.
    Patch(u64, usize),
    /// Takes one of a key's permits: for a time, and with whom the number says.
    Acquire {
        key: u64,
        ttl_ms: u64,
        holder: u64,
    },
    /// Gives a permit back.
    GiveBack(u64),
    /// Makes a schedule that publishes every so many seconds, or changes it; the number says what becomes
    /// of ticks that were missed: the last one is published, none, or each.
    PutSchedule {
        schedule: u64,
        every_s: u64,
        catch_up: usize,
        offer: Offer,
    },
    PauseSchedule(u64, bool),
    DropSchedule(u64),
    /// Stands in the line for a key's permits.
    StandFor(u64),
    /// One who stands in such a line takes a permit, for a time, or goes.
    Next {
        pick: u64,
        ttl_ms: u64,
    },
    LeaveLine(u64),
    /// Makes a barrier, which publishes when it is complete, or another message when it is late.
    Gather {
        key: u64,
        ttl_ms: u64,
        offer: Offer,
        late: Offer,
    },
    /// Arrives at a barrier.
    Arrive(u64, u64),
    /// Stores a value, for so long or, 0, until it is deleted.
    Store(u64, u64),
    Add(u64, i64),
    /// Deletes what is under a key.
    Forget(u64),
    /// The last call of settlements again, as if its answer had been lost.
    Repeat,
    Extend(u64, u64),
    Delete(u64),
    Update {
        pick: u64,
        priority: Option<u8>,
        delay: Delay,
    },
    /// Deletes what is in some states, by their bits, and then, perhaps, such dead letters of the queue.
    Purge(usize, u32, bool),
    /// An operation is begun on the messages of which all terms hold.
    Operate(usize, Job, Vec<Term>),
    /// A step of each operation.
    Work,
    Pause(usize, bool),
    Resume(usize),
    Create(usize),
    Change(usize, Change),
    Drop(usize),
    /// Time passes.
    Pass(u64),
    /// Somebody sets the wall clock.
    Jump(i64),
    /// The log's writer does a group commit.
    Write,
    /// The log's writer has had nothing to do for a while.
    Idle,
    Checkpoint,
    Compact,
    /// Everything is looked at.
    Audit,
    /// Others take the disk but for so many bytes, or give it back.
    Fill(Option<u64>),
    /// While the disk is full, a client takes messages and returns them, so many times.
    Drain(u64),
    /// The power goes when the disk has done so many further operations.
    PowerFails(u64),
    /// That write, counted from here, fails.
    WriteFails(u64),
    /// That sync, counted from here, fails.
    SyncFails(u64),
    /// The machine goes down and comes up again; in each of the starts before the last one the power
    /// goes after so many operations.
    Down(End, Vec<u64>),
}
