//! Looking through a queue for what a filter means: a step under the lock, then the records that it
//! takes to decide, read without it.

use std::sync::Arc;

use qbroker_storage::{Lsn, StoredRecord};

use super::{Core, Engine, Stopped};
use crate::queue::filter::{Filter, Needs, Told};
use crate::queue::ids::QueueId;
use crate::queue::index::{Cursor, Message};
use crate::queue::record::Record;
use crate::queue::{Candidate, StepBounds};

/// Messages that a step looks at which reads nothing: as many as any other step.
const LOOKED_AT: usize = 1_000;
/// Messages whose records a step reads.
const READ: usize = 256;
/// Bytes that a step reads, about.
const READ_BYTES: u64 = 8 << 20;

/// A message that is meant.
#[derive(Clone, Debug)]
pub struct Match {
    pub candidate: Candidate,
    /// What its records tell; `None` where one of them cannot be read.
    pub told: Option<Told>,
}

/// What a step has found.
#[derive(Clone, Debug, Default)]
pub struct Scanned {
    pub found: Vec<Match>,
    /// Where the next step goes on.
    pub after: Option<Cursor>,
    pub is_end: bool,
    /// Messages that were looked at.
    pub examined: u64,
    /// Stored bytes of those whose records were read.
    pub bytes: u64,
    /// What was found may be told once the log is durable up to here.
    pub lsn: Lsn,
}

/// What to look for, and from where on.
#[derive(Clone, Copy, Debug)]
pub struct Scan<'a> {
    pub queue: QueueId,
    pub filter: &'a Filter,
    pub after: Option<Cursor>,
    /// Records to be read of what is meant, beside those that the filter needs.
    pub needs: Needs,
    /// So many are enough: it goes on behind the last of them.
    pub wanted: usize,
}

impl Engine {
    /// Does one step of a look through a queue.
    pub async fn scan(self: &Arc<Self>, scan: Scan<'_>) -> Result<Scanned, Stopped> {
        let needs = scan.filter.needs().with(scan.needs);
        let (most, bytes) = if needs.any() { (READ, READ_BYTES) } else { (LOOKED_AT, u64::MAX) };
        // Who wants few of many does not have them all read again and again.
        let bounds = StepBounds { messages: scan.wanted.saturating_mul(4).clamp(16, most), bytes };
        let Scan { queue, filter, after, wanted, .. } = scan;
        let step = |core: &Core| core.candidates(queue, filter, after, bounds);
        let (lsn, step) = self.look_up(step)?;
        // A record that is not durable yet is not read.
        self.durable(lsn).await?;
        let told = self.tell(&step.found, needs).await?;
        let sizes = step.found.iter().map(|candidate| u64::from(candidate.message.size));
        let bytes = if needs.message { sizes.sum() } else { 0 };
        let mut scanned = Scanned {
            after: step.after,
            is_end: step.is_end,
            examined: step.examined,
            bytes,
            lsn,
            ..Scanned::default()
        };
        let last = step.found.last().map(|candidate| candidate.birth);
        for (candidate, told) in step.found.into_iter().zip(told) {
            let unread = Told::default();
            if !filter.holds(candidate.birth, told.as_ref().unwrap_or(&unread)) {
                continue;
            }
            scanned.found.push(Match { candidate, told });
            if scanned.found.len() == wanted && Some(candidate.birth) != last {
                scanned.after = Some(candidate.cursor);
                scanned.examined = candidate.nth;
                scanned.is_end = false;
                break;
            }
        }
        Ok(scanned)
    }

    /// What the records of messages tell, for each; `None` where one cannot be read.
    async fn tell(
        self: &Arc<Self>,
        found: &[Candidate],
        needs: Needs,
    ) -> Result<Vec<Option<Told>>, Stopped> {
        if !needs.any() {
            return Ok(vec![Some(Told::default()); found.len()]);
        }
        let lsns = found.iter().flat_map(|candidate| parts(candidate, needs));
        let lsns: Vec<Lsn> = lsns.filter(|lsn| *lsn != Lsn(0)).collect();
        let mut records = self.read(lsns).await?.into_iter();
        let told = found.iter().map(|candidate| {
            let read = parts(candidate, needs)
                .map(|lsn| (lsn != Lsn(0)).then(|| decoded(records.next()?.ok()?)));
            read_all(read)
        });
        Ok(told.collect())
    }

    /// Counts what a filter means; how many, and whether these are all: it gives up after so many
    /// messages that it looked at.
    pub async fn count(
        self: &Arc<Self>,
        queue: QueueId,
        filter: &Filter,
        examined_max: u64,
    ) -> Result<(u64, bool), Stopped> {
        let (mut after, mut counted, mut examined) = (None, 0, 0);
        while examined < examined_max {
            let needs = Needs::default();
            let scan = Scan { queue, filter, after, needs, wanted: usize::MAX };
            let scanned = self.scan(scan).await?;
            counted += scanned.found.len() as u64;
            examined += scanned.examined;
            after = scanned.after;
            if scanned.is_end {
                return Ok((counted, true));
            }
        }
        Ok((counted, false))
    }
}

/// The records of a message that are needed: its content's, its last failure's, its letter's; zero:
/// none.
fn parts(candidate: &Candidate, needs: Needs) -> [Lsn; 3] {
    let Message { last_failure, dead_letter, .. } = candidate.message;
    let needed = |is_needed: bool, lsn: Lsn| if is_needed { lsn } else { Lsn(0) };
    [
        needed(needs.message, candidate.message.content(candidate.birth)),
        needed(needs.failure, last_failure),
        needed(needs.letter, dead_letter),
    ]
}

type Decoded = (Record, StoredRecord);

fn decoded(record: StoredRecord) -> Option<Decoded> {
    Some((Record::decode_head(&record.head).ok()?, record))
}

/// `None` where one that is needed cannot be read.
fn read_all([message, failure, letter]: [Option<Option<Decoded>>; 3]) -> Option<Told> {
    let whole = [message, failure, letter].map(|read| match read {
        None => Some(None),
        Some(read) => read.map(Some),
    });
    let [Some(message), Some(failure), Some(letter)] = whole else { return None };
    fn part(read: &Option<Decoded>) -> Option<(&Record, &qbroker_storage::Body)> {
        read.as_ref().map(|(record, stored)| (record, &stored.body))
    }
    Some(Told::read(part(&message), part(&failure), part(&letter)))
}
