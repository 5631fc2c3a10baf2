//! Values, counters, permits and barriers, in the plainest words.

use std::collections::{BTreeMap, BTreeSet};

use qbroker_storage::Lsn;

use super::{Asked, Model};
use crate::queue::state::record::{Change, Removed, StateChanged, Template};
use crate::queue::state::{BarrierState, BarrierView};
use crate::queue::time::{Due, Now};

/// What is under each key, and until when.
#[derive(Debug, Default)]
pub(in crate::queue::tests) struct StateModel {
    pub(in crate::queue::tests) values: BTreeMap<String, (u64, Option<Due>)>,
    pub(in crate::queue::tests) counters: BTreeMap<String, (i64, Option<Due>)>,
    pub(in crate::queue::tests) permits: BTreeMap<u64, Permit>,
    pub(in crate::queue::tests) barriers: BTreeMap<String, Barrier>,
    /// What time has published in this step, of which no barrier has told yet.
    pub(in crate::queue::tests) published: Vec<String>,
}

#[derive(Clone, Debug)]
pub(in crate::queue::tests) struct Permit {
    pub(in crate::queue::tests) key: String,
    end: Due,
    /// As message and grant.
    lease: (u64, u64),
    session: u64,
    pub(in crate::queue::tests) epoch: u32,
}

#[derive(Clone, Debug)]
pub(in crate::queue::tests) struct Barrier {
    parties: u32,
    pub(in crate::queue::tests) end: Due,
    pub(in crate::queue::tests) members: BTreeSet<u128>,
    state: BarrierState,
    /// The queues that its messages go to.
    pub(in crate::queue::tests) on_complete: Vec<String>,
    on_expire: Vec<String>,
}

impl Barrier {
    pub(in crate::queue::tests) fn view(&self, now: Now) -> BarrierView {
        let is_late = self.state == BarrierState::Open && self.end.is_over(now);
        let state = if is_late { BarrierState::Expired } else { self.state };
        let arrived = u32::try_from(self.members.len()).expect("a few");
        BarrierView { parties: self.parties, arrived, failed: 0, state }
    }
}

impl StateModel {
    pub(super) fn check(&mut self, lsn: Lsn, changed: &StateChanged, asked: &Asked, now: Now) {
        assert!(asked.state || asked.tick, "nobody asked for {changed:?}");
        match changed.change.as_ref().unwrap() {
            Change::ValueStored(it) => {
                self.values.insert(it.key.clone(), (lsn.0, it.end.map(Into::into)));
            }
            Change::CounterSet(it) => {
                self.counters.insert(it.key.clone(), (it.value, it.end.map(Into::into)));
            }
            Change::PermitTaken(it) => {
                let (key, end, session) = (it.key.clone(), it.end.into(), it.session);
                let (lease, epoch) = ((it.birth, it.grant), it.epoch);
                let permit = Permit { key, end, lease, session, epoch };
                self.permits.insert(lsn.0, permit);
            }
            Change::Removed(it) => self.check_removed(it, asked, now),
            Change::BarrierCreated(it) => {
                let queues = |of: &[Template]| of.iter().map(|it| it.queue.clone()).collect();
                let barrier = Barrier {
                    parties: it.parties,
                    end: it.end.into(),
                    members: BTreeSet::new(),
                    state: BarrierState::Open,
                    on_complete: queues(&it.on_complete),
                    on_expire: queues(&it.on_expire),
                };
                assert!(self.barriers.insert(it.key.clone(), barrier).is_none(), "it was there");
            }
            Change::Arrived(it) => {
                let barrier = self.barriers.get_mut(&it.key).expect("it is there");
                assert_eq!(barrier.view(now).state, BarrierState::Open);
                let hash = u128::from(it.hash_high) << 64 | u128::from(it.hash_low);
                assert!(barrier.members.insert(hash), "it counts once");
                let is_last = barrier.members.len() == barrier.parties as usize;
                assert_eq!(it.completes, is_last);
                barrier.state = if is_last { BarrierState::Complete } else { BarrierState::Open };
            }
            // Random lives of schedules are in `schedules`.
            Change::ScheduleStored(_) | Change::ScheduleTicked(_) => {
                panic!("nobody asked for {changed:?}")
            }
            Change::BarrierExpired(it) => {
                let barrier = self.barriers.get_mut(&it.key).expect("it is there");
                assert!(asked.tick && barrier.view(now).state == BarrierState::Expired);
                assert_eq!(std::mem::take(&mut self.published), barrier.on_expire);
                (barrier.state, barrier.end) = (BarrierState::Expired, it.end.into());
            }
        }
    }

    fn check_removed(&mut self, it: &Removed, asked: &Asked, now: Now) {
        let is_over = |end: Option<Due>| end.is_some_and(|end| end.is_over(now));
        for key in &it.values {
            let (_, end) = self.values.remove(key).expect("it is there");
            assert!(asked.state || is_over(end), "{key} has time");
        }
        for key in &it.counters {
            let (_, end) = self.counters.remove(key).expect("it is there");
            assert!(asked.state || is_over(end), "{key} has time");
        }
        for id in &it.permits {
            let permit = self.permits.remove(id).expect("it is there");
            assert!(asked.state || permit.end.is_over(now), "{id} has time");
        }
        for key in &it.barriers {
            let barrier = self.barriers.remove(key).expect("it is there");
            assert!(barrier.state != BarrierState::Open && barrier.end.is_over(now), "{key}");
        }
    }

    pub(super) fn forget_boot_clock(&mut self) {
        let values = self.values.values_mut().filter_map(|(_, end)| end.as_mut());
        let counters = self.counters.values_mut().filter_map(|(_, end)| end.as_mut());
        let permits = self.permits.values_mut().map(|permit| &mut permit.end);
        let barriers = self.barriers.values_mut().map(|barrier| &mut barrier.end);
        let all = values.chain(counters).chain(permits).chain(barriers);
        all.for_each(|end| end.boot_ms = None);
    }
}

impl Model {
    /// Permits whose holder is gone have ended with it.
    pub(in crate::queue::tests) fn end_permits(&mut self) {
        let leases: Vec<_> =
            self.leases().map(|(birth, lease)| (birth, lease.token.grant.0)).collect();
        let sessions = &self.sessions;
        self.state.permits.retain(|_, permit| {
            let held = permit.lease == (0, 0) || leases.contains(&permit.lease);
            held && (permit.session == 0 || sessions.contains_key(&permit.session))
        });
    }

    /// Nothing is left of what was over by now.
    pub(super) fn check_state_is_not_overdue(&mut self, now: Now) {
        self.end_permits();
        let values = self.state.values.values().filter_map(|(_, end)| *end);
        let counters = self.state.counters.values().filter_map(|(_, end)| *end);
        let permits = self.state.permits.values().map(|permit| permit.end);
        assert!(!values.chain(counters).chain(permits).any(|end| end.is_over(now)), "overdue");
    }
}
