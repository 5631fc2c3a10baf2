//! Bringing the core to where the log ends, whatever a repair or damage has left of it.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};
use qbroker_storage::{Liveness, Lsn, Reader, Recovery};
use tracing::{info, warn};

use super::paging::{PageError, tell_rebuilt};
use super::{Core, StartError};
use crate::clock::Clock;
use crate::queue::index::Missing;
use crate::queue::index::paged::PagedIndex;
use crate::queue::record::Record;
use crate::queue::{Gaps, Limits, page_messages};

/// LSNs that are kept with one call.
const KEPT_AT_ONCE: usize = 1 << 16;

/// Brings the core to where the log ends: the queues as they were, before anything is added to
/// them. Says how many pages of the index had to be made anew.
pub fn recover(
    recovery: &mut Recovery,
    limits: Limits,
    clock: &Clock,
) -> Result<(Core, u64), StartError> {
    let core = restore(recovery, limits)?;
    let (reader, liveness) = (recovery.reader(), recovery.liveness().clone());
    let mut replay = Replay { core, reader, liveness, clock, gaps: None, rebuilt: 0 };
    let mut failed = None;
    recovery.replay(&mut |lsn, head| {
        if failed.is_none() {
            failed = replay.record(lsn, head).err();
        }
    })?;
    if let Some(failed) = failed {
        return Err(failed);
    }
    let Replay { mut core, gaps, rebuilt, .. } = replay;
    let gone = core.forget_gone_pages(|page| recovery.is_gone(page));
    recovery.liveness().retire(&gone);
    // What was given up may be the log's end.
    core.pass_over(recovery.next_lsn());
    if let Some(Gaps { queues, passed_over }) = gaps {
        warn!(
            passed_over,
            ?queues,
            "records that a repair gave up are missing: what the log tells of messages that it does \
             not know is passed over, and queues whose making is lost have these names"
        );
    }
    Ok((core, rebuilt))
}

/// The core as the checkpoint says.
fn restore(recovery: &mut Recovery, limits: Limits) -> Result<Core, StartError> {
    let index = PagedIndex::new(limits.messages_in_memory);
    let Some((lsn, state)) = recovery.take_checkpoint() else {
        return Ok(Core::new(index, limits));
    };
    let liveness = recovery.liveness();
    let (mut kept, mut records) = (Vec::with_capacity(KEPT_AT_ONCE), 0);
    let core = Core::restore(index, limits, Chain::from(state), |lsn| {
        kept.push(lsn);
        records += 1;
        if kept.len() == KEPT_AT_ONCE {
            liveness.keep(&kept);
            kept.clear();
        }
    })?;
    liveness.keep(&kept);
    info!(%lsn, records, "checkpoint read");
    Ok(core)
}

/// The pieces of a state one behind the other. What is read of them is copied, so that no name and no
/// page keeps all of it in memory.
struct Chain {
    rest: VecDeque<Bytes>,
    remaining: usize,
}

impl From<Vec<Bytes>> for Chain {
    fn from(pieces: Vec<Bytes>) -> Self {
        let remaining = pieces.iter().map(Bytes::len).sum();
        let rest = pieces.into_iter().filter(|piece| !piece.is_empty()).collect();
        Self { rest, remaining }
    }
}

impl Buf for Chain {
    fn remaining(&self) -> usize {
        self.remaining
    }

    fn chunk(&self) -> &[u8] {
        self.rest.front().map_or(&[], |piece| piece)
    }

    fn advance(&mut self, mut bytes: usize) {
        self.remaining = self.remaining.checked_sub(bytes).expect("as many as remain");
        while let Some(piece) = self.rest.front_mut() {
            if bytes < piece.len() {
                return piece.advance(bytes);
            }
            bytes -= piece.len();
            self.rest.pop_front();
        }
    }
}

/// A replay under way.
struct Replay<'a> {
    core: Core,
    reader: Reader,
    liveness: Liveness,
    clock: &'a Clock,
    /// What is behind a record that is missing, if one is.
    gaps: Option<Gaps>,
    /// Pages that were made anew.
    rebuilt: u64,
}

impl Replay<'_> {
    /// Applies one record of the log, with the pages that its messages are in.
    fn record(&mut self, lsn: Lsn, head: &[u8]) -> Result<(), StartError> {
        let record =
            Record::decode_head(head).map_err(|source| StartError::Record { lsn, source })?;
        while let Err(page) = self.core.look_up(&record) {
            self.load(page)?;
        }
        if self.core.next_lsn() < lsn {
            self.gaps.get_or_insert_default();
            self.core.pass_over(lsn);
        }
        match &mut self.gaps {
            None => self.core.apply(lsn, &record),
            Some(gaps) => {
                let is_page = matches!(record, Record::PagedOut(_));
                let page = is_page.then(|| self.reader.read(lsn).ok()).flatten();
                let page = page.and_then(|record| page_messages(&record.body).ok());
                self.core.apply_behind_gap(lsn, record, page.as_deref(), gaps);
            }
        }
        self.liveness.retire(&self.core.take_retired());
        Ok(())
    }

    fn load(&mut self, page: Missing) -> Result<(), StartError> {
        let error = match PageError::check(page, self.reader.read(page.0)) {
            Ok(messages) => {
                self.core.load(page, messages);
                return Ok(());
            }
            Err(error @ PageError::Unreadable(..)) => error,
            Err(error @ PageError::Malformed(..)) => return Err(error.into()),
        };
        let mut rebuild = self.core.rebuild(page).expect("it is missing");
        self.reader.heads(rebuild.lsns(), &mut |lsn, head| rebuild.take_in(lsn, head));
        // What was retired since the checkpoint may have told more than there is now.
        self.liveness.tolerate();
        let queue = rebuild.queue();
        let wall_ms = self.clock.now().wall_ms;
        let messages = rebuild.finish(|lsn| self.liveness.is_kept(lsn), wall_ms);
        tell_rebuilt(&self.core, page, queue, messages.len(), &error);
        self.core.load_anew(page, messages);
        self.rebuilt += 1;
        Ok(())
    }
}
