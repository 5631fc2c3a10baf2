//! How leases end without a settlement, in the plainest words.

use super::{Asked, Model, What};
use crate::queue::ids::LeaseToken;
use crate::queue::record::{Begun, LeasesEnded};
use crate::queue::time::Now;

impl Model {
    /// The lease is told of once more: its time begins anew.
    pub(in crate::queue::tests) fn let_go(&mut self, token: LeaseToken, boot_ms: u64) {
        let What::Leased(lease) = &mut self.message(token.birth.0).what else { panic!() };
        lease.run(boot_ms);
    }

    pub(super) fn check_begun(&mut self, it: &Begun, asked: &mut Asked) {
        for birth in &it.births {
            assert!(asked.begun.remove(birth), "nobody has begun {birth}");
            let What::Leased(lease) = &mut self.message(*birth).what else { panic!() };
            assert!(std::mem::take(&mut lease.unstarted), "{birth} was begun before");
        }
    }

    pub(super) fn check_ended(&mut self, it: &LeasesEnded, asked: &Asked, now: Now) {
        for &birth in &it.births {
            if it.crashed {
                self.check_crash(birth, asked, now, false);
            } else if !asked.returns.contains(&birth) {
                let lease = self.message(birth).lease().expect("only a lease ends");
                assert!(lease.unstarted, "nobody returned {birth}");
                self.check_over(birth, asked, now);
            } else {
                assert!(self.message(birth).lease().is_some());
            }
            self.message(birth).what = What::Ready;
        }
    }

    /// A lease ends as a crash only where work on it had begun.
    pub(super) fn check_crash(&mut self, birth: u64, asked: &Asked, now: Now, was_last: bool) {
        self.check_over(birth, asked, now);
        let message = self.message(birth);
        assert!(!message.lease().expect("only a lease ends").unstarted, "{birth} was not begun");
        message.crashes += 1;
        let (queue, crashes) = (message.queue, message.crashes);
        let max = self.queues[&queue].policy.crashes_max();
        assert_eq!(max.is_some_and(|max| max <= crashes), was_last, "{birth} crashed {crashes}x");
    }

    /// A lease ends by itself only when its time, its session or its stream is over.
    fn check_over(&mut self, birth: u64, asked: &Asked, now: Now) {
        let lease = self.message(birth).lease().expect("only a lease ends").clone();
        let session = self.sessions.get(&lease.session);
        let stream = session.and_then(|session| session.broken.get(&lease.consumer));
        let is_over = |deadline: Option<&u64>| deadline.is_some_and(|ms| *ms <= now.boot_ms);
        let by_time = asked.tick && (is_over(lease.deadline.as_ref()) || is_over(stream));
        assert!(by_time || self.is_session_over(lease.session, asked, now), "{birth} has time");
    }

    pub(super) fn is_session_over(&self, session: u64, asked: &Asked, now: Now) -> bool {
        let deadline = self.sessions.get(&session).and_then(|session| session.deadline);
        let by_time = asked.tick && deadline.is_some_and(|deadline| deadline <= now.boot_ms);
        by_time || (session != 0 && asked.reset == Some(session))
    }
}
