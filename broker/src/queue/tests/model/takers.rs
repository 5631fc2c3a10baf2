//! Who takes messages, in the model: streams and sessions.

use super::Model;
use crate::queue::time::Now;

impl Model {
    pub(in crate::queue::tests) fn connect_session(&mut self, session: u64) {
        if let Some(session) = self.sessions.get_mut(&session) {
            session.connections += 1;
            session.deadline = None;
        }
    }

    pub(in crate::queue::tests) fn disconnect_session(&mut self, session: u64, now: Now) {
        if let Some(session) = self.sessions.get_mut(&session) {
            session.connections -= 1;
            session.touch(now.boot_ms);
        }
    }

    /// A stream is gone; what it leaves behind waits for the grace.
    pub(in crate::queue::tests) fn disconnect(&mut self, consumer: u64, now: Now) {
        let Some(gone) = self.consumers.remove(&consumer) else { return };
        self.disconnect_session(gone.session, now);
        let holds = self.leases().any(|(_, lease)| lease.consumer == consumer);
        if let Some(session) = self.sessions.get_mut(&gone.session).filter(|_| holds) {
            session.broken.insert(consumer, now.boot_ms + session.grace_ms);
        }
    }

    pub(in crate::queue::tests) fn keep(&mut self, session: u64, now: Now) {
        if let Some(session) = self.sessions.get_mut(&session) {
            session.touch(now.boot_ms);
            for deadline in session.broken.values_mut() {
                *deadline = now.boot_ms + session.grace_ms;
            }
        }
    }

    pub(in crate::queue::tests) fn forget_broken(&mut self, session: u64, consumer: u64) {
        if let Some(session) = self.sessions.get_mut(&session) {
            session.broken.remove(&consumer);
        }
    }
}
