//! Values, counters and permits, in the plainest words.

use std::collections::BTreeMap;

use qbroker_storage::Lsn;

use super::{Asked, Model};
use crate::queue::state::record::{Change, StateChanged};
use crate::queue::time::{Due, Now};

/// What is under each key, and until when.
#[derive(Debug, Default)]
pub(in crate::queue::tests) struct StateModel {
    pub(in crate::queue::tests) values: BTreeMap<String, (u64, Option<Due>)>,
    pub(in crate::queue::tests) counters: BTreeMap<String, (i64, Option<Due>)>,
    pub(in crate::queue::tests) permits: BTreeMap<u64, Permit>,
}

#[derive(Clone, Debug)]
pub(in crate::queue::tests) struct Permit {
    pub(in crate::queue::tests) key: String,
    end: Due,
    /// As message and grant.
    lease: (u64, u64),
    session: u64,
}

impl StateModel {
    pub(super) fn check(&mut self, lsn: Lsn, changed: &StateChanged, asked: &Asked, now: Now) {
        assert!(asked.state || asked.tick, "nobody asked for {changed:?}");
        let is_over = |end: Option<Due>| end.is_some_and(|end| end.is_over(now));
        match changed.change.as_ref().unwrap() {
            Change::ValueStored(it) => {
                self.values.insert(it.key.clone(), (lsn.0, it.end.map(Into::into)));
            }
            Change::CounterSet(it) => {
                self.counters.insert(it.key.clone(), (it.value, it.end.map(Into::into)));
            }
            Change::PermitTaken(it) => {
                let (key, end, session) = (it.key.clone(), it.end.into(), it.session);
                let permit = Permit { key, end, lease: (it.birth, it.grant), session };
                self.permits.insert(lsn.0, permit);
            }
            Change::Removed(it) => {
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
            }
            other => panic!("nobody asked for {other:?}"),
        }
    }

    pub(super) fn forget_boot_clock(&mut self) {
        let values = self.values.values_mut().filter_map(|(_, end)| end.as_mut());
        let counters = self.counters.values_mut().filter_map(|(_, end)| end.as_mut());
        let permits = self.permits.values_mut().map(|permit| &mut permit.end);
        values.chain(counters).chain(permits).for_each(|end| end.boot_ms = None);
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
