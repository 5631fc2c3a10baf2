//! Permits and barriers: what workers share beside their messages.

use bytes::Bytes;
use qbroker::engine::Watching;
use qbroker::queue::state::{
    AcquirePermit, Arrive, Arrived, BarrierState, BarrierView, CreateBarrier, Holder as Of, Key,
    PermitId, Waiter,
};

use super::clients::Told;
use super::keeping;
use super::model::{Arrival, Gathered, Gathering, Holder, PermitName};
use super::plan::{Offer, WORKERS};
use super::run::{Run, Stopped};

/// Permits of a key, and who must come before a barrier is complete.
const LIMIT: u32 = 2;
const PARTIES: u32 = 3;
/// As many as stand in lines at once.
const STANDING_MAX: usize = 8;
/// Permits that clients remember.
const REMEMBERED: usize = 20;

pub(super) fn barrier(key: u64) -> Key {
    format!("b-{key}").into()
}

fn name(permit: PermitId) -> PermitName {
    (permit.lsn.0, permit.epoch)
}

pub(super) fn gathered(view: BarrierView) -> Gathered {
    let gathering = match view.state {
        BarrierState::Open => Gathering::Open,
        BarrierState::Complete => Gathering::Complete,
        BarrierState::Expired => Gathering::Expired,
    };
    (view.arrived as usize, gathering)
}

/// Somebody who stands in the line for a key's permits.
pub(super) struct InLine {
    /// Our name for him.
    name: u64,
    key: u64,
    watching: Watching,
}

impl Run {
    /// Takes a place in the line for a key's permits.
    pub(super) fn stand_for(&mut self, key: u64) -> Result<(), Stopped> {
        if STANDING_MAX <= self.standing.len() {
            return Ok(());
        }
        self.last_number += 1;
        let name = self.last_number;
        let watching = self.world.engine.watch_permits(&keeping::key(key), LIMIT);
        self.note(format!("{name} stands in the line for permits {key}"));
        self.standing.push(InLine { name, key, watching });
        self.done(|model| {
            model.stand_for(key, name);
            Ok(())
        })
    }

    fn pick_standing(&self, pick: u64) -> Option<usize> {
        usize::try_from(pick >> 8).unwrap_or(usize::MAX).checked_rem(self.standing.len())
    }

    /// One who stands in a line asks for a permit, whether it is his turn or not.
    pub(super) fn take_next(&mut self, pick: u64, ttl_ms: u64) -> Result<(), Stopped> {
        let Some(at) = self.pick_standing(pick) else { return Ok(()) };
        let InLine { name, key, watching } = &self.standing[at];
        let (name, key, waiter) = (*name, *key, watching.waiter());
        let with = (Of::Nobody, Holder::Nobody);
        if self.take_permit((key, ttl_ms), with, Some((name, waiter)))? {
            self.standing.remove(at);
        }
        Ok(())
    }

    /// One who stands in a line goes.
    pub(super) fn leave_line(&mut self, pick: u64) -> Result<(), Stopped> {
        let Some(at) = self.pick_standing(pick) else { return Ok(()) };
        let InLine { name, key, .. } = self.standing.remove(at);
        self.note(format!("{name} stands in the line for permits {key} no more"));
        self.done(|model| {
            model.leave_line(key, name);
            Ok(())
        })
    }

    /// Takes a permit that ends with its time, with a lease or with a session.
    pub(super) fn acquire(&mut self, key: u64, ttl_ms: u64, holder: u64) -> Result<(), Stopped> {
        let session = WORKERS[usize::try_from(holder >> 8).unwrap_or(0) % WORKERS.len()];
        let (of, holder) = match (holder % 3, self.pick(holder >> 2)) {
            (0, _) | (1, None) => (Of::Nobody, Holder::Nobody),
            (1, Some(token)) => (Of::Lease(token), Holder::Lease(token.to_bytes())),
            _ => (Of::Session(session.to_owned()), Holder::Session(session)),
        };
        self.take_permit((key, ttl_ms), (of, holder), None).map(drop)
    }

    /// Asks for a permit, with the name and the place of one who stands in its line; whether there was one.
    fn take_permit(
        &mut self,
        (key, ttl_ms): (u64, u64),
        (of, holder): (Of, Holder),
        standing: Option<(u64, Waiter)>,
    ) -> Result<bool, Stopped> {
        let acquire = AcquirePermit {
            key: keeping::key(key),
            limit: LIMIT,
            ttl_ms,
            holder: of,
            request_id: String::new(),
        };
        let (who, waiter) = standing.unzip();
        let turn = self
            .world
            .engine
            .turn(|core, now, out| core.acquire_permit(&acquire, waiter, now, out));
        let (lsn, answer) = turn?;
        self.note(format!("{who:?} acquires {key} for {ttl_ms} ms with {holder:?}: {answer:?}"));
        let told = *answer.as_ref().unwrap_or(&None);
        let answer = answer.map(|permit| permit.map(name)).map_err(|refused| refused.reason());
        let (now, of) = (self.world.time(), (key, LIMIT as usize, ttl_ms));
        self.done(|model| model.acquire(of, (holder, who), answer, now))?;
        self.later(lsn, Told::Permit(told))?;
        Ok(told.is_some())
    }

    pub(super) fn hear_permit(&mut self, permit: Option<PermitId>) {
        self.permits.extend(permit);
        let spare = self.permits.len().saturating_sub(REMEMBERED);
        self.permits.drain(..spare);
    }

    /// Gives a permit back, which may have ended.
    pub(super) fn give_back(&mut self, pick: u64) -> Result<(), Stopped> {
        let at = usize::try_from(pick >> 8).unwrap_or(usize::MAX);
        let Some(at) = at.checked_rem(self.permits.len()) else { return Ok(()) };
        let permit = self.permits[at];
        let turn = self.world.engine.turn(|core, _, out| core.release_permit(permit, out));
        let (lsn, answer) = turn?;
        self.note(format!("give {permit} back: {answer:?}"));
        let was_taken = answer.map_err(|refused| self.wrong(format!("{permit}: {refused}")))?;
        self.done(|model| model.give_back(name(permit), was_taken))?;
        self.later(lsn, Told::Answer)
    }

    /// Makes a barrier, whose last member publishes, or its end.
    pub(super) fn gather(
        &mut self,
        key: u64,
        ttl_ms: u64,
        (offer, late): (&Offer, &Offer),
    ) -> Result<(), Stopped> {
        if self.has_enough() {
            return Ok(());
        }
        let (message, publish) = self.offered(offer);
        let (late, publish_late) = self.offered(late);
        let create = CreateBarrier {
            key: barrier(key),
            parties: PARTIES,
            ttl_ms,
            on_complete: vec![message],
            on_expire: vec![late],
            collect: false,
        };
        let turn = self.world.engine.turn(|core, now, out| core.create_barrier(&create, now, out));
        let (lsn, answer) = turn?;
        self.note(format!(
            "gather {key} for {ttl_ms} ms, {publish:?}, {publish_late:?}: {answer:?}"
        ));
        let answer = answer.map_err(|refused| refused.reason());
        let (now, of) = (self.world.time(), (key, PARTIES as usize, ttl_ms));
        self.done(|model| model.gather(of, (publish, publish_late), answer, now))?;
        self.later(lsn, Told::Answer)
    }

    pub(super) fn arrive(&mut self, key: u64, member: u64) -> Result<(), Stopped> {
        let arrive = Arrive {
            key: barrier(key),
            member_id: format!("m-{member}"),
            member_hash: u128::from(member) << 64 | 5,
            value: Bytes::new(),
            failed: false,
        };
        let before = self.world.engine.look(|_| ()).0;
        let turn = self.world.engine.turn(|core, now, out| core.arrive(&arrive, now, out));
        let (lsn, answer) = turn?;
        let published = match &answer {
            Ok(arrived) if arrived.last => self.born_between(before, lsn)?,
            _ => None,
        };
        self.note(format!("{member} arrives at {key}: {answer:?}, {published:?}"));
        let arrival = |arrived: Arrived| Arrival {
            barrier: arrived.barrier.map(gathered),
            last: arrived.last,
        };
        let answer = answer.map(arrival).map_err(|refused| refused.reason());
        let now = self.world.time();
        self.done(|model| model.arrive((key, member), answer, published, now))?;
        self.later(lsn, Told::Answer)
    }
}
