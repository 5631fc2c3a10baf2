//! Who takes messages, and how much, in the model: windows, pulls, sessions.

use qbroker_storage::Lsn;

use super::{Asked, Model};
use crate::queue::record::Granted;
use crate::queue::time::Now;

impl Model {
    pub(super) fn check_window(&self, it: &Granted, queue: &str, sizes: &[u64]) {
        let consumer = &self.consumers[&it.consumer];
        assert_eq!(consumer.session, it.session);
        assert!(consumer.queues.contains(queue), "{} does not take {queue}", it.consumer);
        assert!(!consumer.draining, "{} drains", it.consumer);
        let of_it = self
            .messages
            .values()
            .filter(|message| message.lease().is_some_and(|lease| lease.consumer == it.consumer));
        let before: Vec<u64> = of_it.map(|message| message.size).collect();
        let messages = before.len() + sizes.len();
        assert!(messages <= consumer.window.messages as usize, "window of {}", it.consumer);
        let bytes: u64 = before.iter().chain(sizes).sum();
        assert!(bytes <= consumer.window.bytes || messages == 1, "bytes of {}", it.consumer);
    }

    pub(super) fn check_pull(
        &mut self,
        lsn: Lsn,
        it: &Granted,
        queue: &str,
        asked: &mut Asked,
        now: Now,
    ) {
        let pulling = match asked.answered.get(&lsn.0) {
            Some(pull) => {
                let pulling = self.pulls.remove(pull).expect("only a waiting pull is answered");
                self.disconnect_session(pulling.session, now);
                pulling
            }
            None => {
                let pulling = asked.pull.as_mut().expect("somebody pulls");
                let granted = u32::try_from(it.births.len()).unwrap();
                let before = pulling.clone();
                pulling.messages_max -= granted;
                before
            }
        };
        assert!(it.births.len() <= pulling.messages_max as usize, "more than was asked for");
        assert!(pulling.queues.contains(queue));
    }

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
