//! A small owner of a log: keeps some records, retires them, takes checkpoints, and knows what
//! must be there after a crash.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use qbroker_storage::disk::sim::SimDisk;
use qbroker_storage::{
    Batch, Body, Damage, Log, Lsn, LsnRange, Observer, OpenError, Options, Recovery, Retention,
    WriteError, Writer,
};

/// Options with segments of 16 KiB, so that a small history rotates.
pub(crate) fn tiny() -> Options {
    Options {
        segment_bytes: 16 << 10,
        spare_segments: 1,
        tail_cache_bytes: 1 << 10,
        frame_bytes_target: 4 << 10,
        disk_reserve_bytes: 0,
        ..Options::default()
    }
}

/// What the log told.
#[derive(Default)]
pub(crate) struct Told {
    pub(crate) durable: Mutex<Lsn>,
    pub(crate) failed: Mutex<Option<WriteError>>,
    pub(crate) damages: Mutex<Vec<Damage>>,
}

impl Observer for Told {
    fn durable(&self, lsn: Lsn) {
        let mut durable = self.durable.lock();
        assert!(*durable < lsn, "the durable LSN grows: {lsn} after {}", *durable);
        *durable = lsn;
    }

    fn failed(&self, error: &WriteError) {
        assert!(self.failed.lock().replace(error.clone()).is_none(), "told of a failure once");
    }

    fn damaged(&self, damage: &Damage) {
        self.damages.lock().push(damage.clone());
    }
}

/// A log over a simulated disk, and what its owner knows.
pub(crate) struct Owner {
    pub(crate) log: Log,
    pub(crate) writer: Writer,
    pub(crate) told: Arc<Told>,
    /// Messages that live: LSN of the record that is their body, and what the body says.
    pub(crate) live: BTreeMap<Lsn, Vec<u8>>,
    /// What lived after each batch, by the batch's last LSN.
    pub(crate) states: BTreeMap<Lsn, BTreeMap<Lsn, Vec<u8>>>,
}

/// What a message's body says: recognisable, and of a length that varies.
pub(crate) fn body_of(number: u64, bytes: usize) -> Vec<u8> {
    let seed = number.to_le_bytes();
    (0..bytes).map(|at| seed[at % 8].wrapping_add(at.to_le_bytes()[0])).collect()
}

/// A head: 1 = a message with this number and length, 2 = the message at this LSN is done.
fn head(kind: u8, value: u64, bytes: u64) -> Vec<u8> {
    [&[kind][..], &value.to_le_bytes(), &bytes.to_le_bytes()].concat()
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().unwrap())
}

/// What a recovery finds, and what lives in it.
pub(crate) type Recovered = Result<(Recovery, BTreeMap<Lsn, Vec<u8>>), OpenError>;

/// Recovers a log and replays it into what lives.
pub(crate) fn recover(disk: &SimDisk, options: &Options) -> Recovered {
    recover_where(disk, options, |last, lsn| lsn == last.next())
}

/// Recovers a log that a repair may have left with gaps.
pub(crate) fn recover_repaired(disk: &SimDisk, options: &Options) -> Recovered {
    recover_where(disk, options, |last, lsn| last <= lsn)
}

fn recover_where(disk: &SimDisk, options: &Options, dense: impl Fn(Lsn, Lsn) -> bool) -> Recovered {
    let mut recovery = Log::recover(disk.shared(), options.clone())?;
    let mut live = BTreeMap::new();
    if let Some((_, state)) = recovery.take_checkpoint() {
        for entry in state.concat().chunks_exact(24) {
            let lsn = Lsn(number(&entry[..8]));
            let length = usize::try_from(number(&entry[16..])).unwrap();
            live.insert(lsn, body_of(number(&entry[8..16]), length));
        }
        let kept: Vec<Lsn> = live.keys().copied().collect();
        recovery.liveness().keep(&kept);
    }
    let liveness = recovery.liveness().clone();
    let mut last = recovery.checkpoint().unwrap_or(Lsn::NONE);
    recovery.replay(&mut |lsn, head| {
        assert!(dense(last, lsn), "records come densely and in order: {lsn} after {last}");
        last = lsn;
        let value = number(&head[1..9]);
        if head[0] == 1 {
            let length = usize::try_from(number(&head[9..17])).unwrap();
            live.insert(lsn, body_of(value, length));
        } else {
            if live.remove(&Lsn(value)).is_none() {
                // Only a repair may have given it up.
                assert!(dense(last, last), "LSN {value} is done but had not lived");
                return;
            }
            liveness.retire(&[Lsn(value)]);
        }
    })?;
    Ok((recovery, live))
}

impl Owner {
    pub(crate) fn open(disk: &SimDisk, options: &Options) -> Result<Self, OpenError> {
        let (recovery, live) = recover(disk, options)?;
        let told = Arc::new(Told::default());
        let observer: Arc<Told> = Arc::clone(&told);
        let (log, writer) = recovery.start_stepped(observer)?;
        let states = BTreeMap::from([(Lsn(log.next_lsn().0 - 1), live.clone())]);
        Ok(Self { log, writer, told, live, states })
    }

    /// Appends one batch: messages with these (number, length), and the end of these messages.
    pub(crate) fn append(&mut self, messages: &[(u64, usize)], done: &[Lsn]) -> Option<LsnRange> {
        let mut batch = Batch::default();
        for &(number, bytes) in messages {
            let bytes_of = body_of(number, bytes);
            let (prefix, payload) = bytes_of.split_at(bytes.min(3));
            let body = Body::new(Bytes::copy_from_slice(prefix), Bytes::copy_from_slice(payload));
            batch.push(Retention::Keep, body, |buffer| {
                buffer.extend_from_slice(&head(1, number, bytes as u64));
            });
        }
        for lsn in done {
            batch.push(Retention::Passing, Body::default(), |buffer| {
                buffer.extend_from_slice(&head(2, lsn.0, 0));
            });
        }
        let lsns = self.log.append(batch).ok()?;
        for (lsn, &(number, bytes)) in lsns.iter().zip(messages) {
            self.live.insert(lsn, body_of(number, bytes));
        }
        for lsn in done {
            self.live.remove(lsn).expect("what is done had lived");
        }
        self.log.liveness().retire(done);
        self.states.insert(lsns.last, self.live.clone());
        Some(lsns)
    }

    /// Takes a checkpoint of everything appended so far.
    pub(crate) fn checkpoint(&self) -> Result<(), WriteError> {
        let lsn = Lsn(self.log.next_lsn().0 - 1);
        self.log.write_checkpoint(lsn, self.checkpoint_state())
    }

    /// What a checkpoint of everything appended so far holds.
    pub(crate) fn checkpoint_state(&self) -> Vec<Bytes> {
        let state = self.live.iter().map(|(lsn, body)| {
            // The first byte of a body is the low byte of its number; numbers stay below 256.
            let number = u64::from(body.first().copied().unwrap_or(0));
            let entry =
                [lsn.0.to_le_bytes(), number.to_le_bytes(), (body.len() as u64).to_le_bytes()];
            Bytes::from(entry.concat())
        });
        state.collect()
    }

    /// Reads everything that lives and compares it.
    pub(crate) fn check_bodies(&self) {
        check_bodies(&self.log, &self.live);
    }
}

/// Reads everything that lives and compares it.
pub(crate) fn check_bodies(log: &Log, live: &BTreeMap<Lsn, Vec<u8>>) {
    let lsns: Vec<Lsn> = live.keys().copied().collect();
    for (lsn, answer) in lsns.iter().zip(log.read(&lsns)) {
        let record = answer.unwrap_or_else(|error| panic!("LSN {lsn}: {error}"));
        assert_eq!(record.body.parts().concat(), live[lsn], "the body of LSN {lsn}");
        assert_eq!(record.head[0], 1, "the head of LSN {lsn}");
    }
}
