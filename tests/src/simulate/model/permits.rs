//! Permits: so many of a key, each until it is given back, its time is over or its holder is gone.

use super::{Due, Model, Refusal, Time, Token, Wrong};

/// The number of its record, and of the start that gave it.
pub(crate) type PermitName = (u64, u32);

/// Whom a permit ends with.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Holder {
    Nobody,
    Lease(Token),
    Session(&'static str),
}

#[derive(Clone, Debug)]
pub(super) struct Permit {
    key: u64,
    end: Due,
    holder: Holder,
    /// The session's number: one that comes later under the same name is another one.
    session: Option<u64>,
}

impl Model {
    /// Somebody stands in the line for a key's permits from now on.
    pub(crate) fn stand_for(&mut self, key: u64, name: u64) {
        self.standing.entry(key).or_default().push(name);
    }

    /// And does no more.
    pub(crate) fn leave_line(&mut self, key: u64, name: u64) {
        self.standing.entry(key).or_default().retain(|other| *other != name);
    }

    /// Somebody takes a permit, of so many, for a time, with his name where he stands in the line; what was
    /// given, or why none was.
    pub(crate) fn acquire(
        &mut self,
        (key, limit, ttl_ms): (u64, usize, u64),
        (holder, waiter): (Holder, Option<u64>),
        answer: Result<Option<PermitName>, Refusal>,
        now: Time,
    ) -> Result<(), Wrong> {
        let session = match holder {
            Holder::Session(name) => self.session_number(name),
            Holder::Nobody | Holder::Lease(_) => None,
        };
        let expected = match holder {
            Holder::Lease(token) if !self.is_held(&token) => Some("LEASE_LOST"),
            Holder::Session(_) if session.is_none() => Some("SESSION_LOST"),
            _ => (!self.has_room).then_some("DISK_FULL"),
        };
        let line = self.standing.get(&key).map_or(&[][..], |line| line);
        let ahead = line.iter().take_while(|other| Some(**other) != waiter).count();
        // Those that came before are kept theirs.
        let taken = self.permits_taken().filter(|it| it.key == key).count() + ahead;
        match (answer, expected) {
            (Err(why), Some(expected)) if why == expected => Ok(()),
            (Ok(Some(name)), None) if taken < limit => {
                let permit = Permit { key, end: now.after(ttl_ms), holder, session };
                self.permits.insert(name, permit);
                waiter.into_iter().for_each(|waiter| self.leave_line(key, waiter));
                Ok(())
            }
            (Ok(None), None) if limit <= taken => Ok(()),
            _ => Err(format!("permit {key}, {taken} taken: {answer:?}, expected {expected:?}")),
        }
    }

    /// A permit is given back; whether it had not ended before.
    pub(crate) fn give_back(&mut self, name: PermitName, was_taken: bool) -> Result<(), Wrong> {
        let permit = self.permits.remove(&name);
        match permit.is_some_and(|permit| self.lasts(&permit)) == was_taken {
            true => Ok(()),
            false => Err(format!("permit {name:?} given back: {was_taken}")),
        }
    }

    pub(super) fn permits_taken(&self) -> impl Iterator<Item = &Permit> {
        self.permits.values().filter(|permit| self.lasts(permit))
    }

    fn lasts(&self, permit: &Permit) -> bool {
        match permit.holder {
            Holder::Nobody => true,
            Holder::Lease(token) => self.is_held(&token),
            Holder::Session(name) => self.session_number(name) == permit.session,
        }
    }

    /// What is over is gone.
    pub(super) fn end_permits(&mut self, now: Time) {
        self.permits.retain(|_, permit| !permit.end.is_over(now));
    }

    /// After a reboot the wall clock is believed.
    pub(super) fn reboot_permits(&mut self) {
        self.permits.values_mut().for_each(|permit| permit.end.boot_ms = None);
    }
}
