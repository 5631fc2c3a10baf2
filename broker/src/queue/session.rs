//! Sessions: worker processes, which hold leases over broken connections and restarts.

use std::collections::{BTreeMap, BTreeSet};

use qbroker_storage::Lsn;

use super::ids::SessionId;
use super::record::SessionOpened;

/// A worker process.
#[derive(Clone, Debug)]
pub(super) struct Session {
    pub(super) name: String,
    /// How long it keeps its leases without a connection.
    pub(super) grace_ms: u64,
    /// Messages it holds.
    pub(super) leases: BTreeSet<Lsn>,
    /// Streams and waiting pulls, of this start.
    connections: u32,
    /// When the grace is over, on the boot clock; only without a connection, of this start.
    deadline: Option<u64>,
}

/// Invariant: one entry of `names` per session; one of `deadlines` per session that has a deadline.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    sessions: BTreeMap<SessionId, Session>,
    names: BTreeMap<String, SessionId>,
    deadlines: BTreeSet<(u64, SessionId)>,
}

impl Sessions {
    pub(super) fn open(&mut self, id: SessionId, opened: &SessionOpened) {
        let session = Session {
            name: opened.name.clone(),
            grace_ms: opened.grace_ms,
            leases: BTreeSet::new(),
            connections: 0,
            deadline: None,
        };
        self.names.insert(opened.name.clone(), id);
        self.sessions.insert(id, session);
    }

    pub(super) fn end(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.remove(&id) {
            self.names.remove(&session.name);
            if let Some(deadline) = session.deadline {
                self.deadlines.remove(&(deadline, id));
            }
        }
    }

    pub(super) fn named(&self, name: &str) -> Option<SessionId> {
        self.names.get(name).copied()
    }

    pub(super) fn get(&self, id: SessionId) -> Option<&Session> {
        self.sessions.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: SessionId) -> Option<&mut Session> {
        self.sessions.get_mut(&id)
    }

    pub(super) fn len(&self) -> usize {
        self.sessions.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (SessionId, &Session)> {
        self.sessions.iter().map(|(&id, session)| (id, session))
    }

    /// A stream or a waiting pull came: the grace need not run.
    pub(super) fn connect(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.connections += 1;
        }
        self.set_deadline(id, None);
    }

    /// A stream or a waiting pull went; with the last one the grace begins.
    pub(super) fn disconnect(&mut self, id: SessionId, boot_ms: u64) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.connections = session.connections.saturating_sub(1);
        }
        self.touch(id, boot_ms);
    }

    /// The process lives: without a connection, its grace begins anew.
    pub(super) fn touch(&mut self, id: SessionId, boot_ms: u64) {
        let Some(session) = self.sessions.get(&id) else { return };
        if session.connections == 0 {
            self.set_deadline(id, Some(boot_ms.saturating_add(session.grace_ms)));
        }
    }

    /// Gives every session its whole grace from now on.
    pub(super) fn restart(&mut self, boot_ms: u64) {
        let ids: Vec<_> = self.sessions.keys().copied().collect();
        for id in ids {
            self.touch(id, boot_ms);
        }
    }

    /// A session whose grace is over.
    pub(super) fn lost(&self, boot_ms: u64) -> Option<SessionId> {
        self.deadlines.first().filter(|&&(deadline, _)| deadline <= boot_ms).map(|&(_, id)| id)
    }

    pub(super) fn next_deadline(&self) -> Option<u64> {
        self.deadlines.first().map(|&(deadline, _)| deadline)
    }

    fn set_deadline(&mut self, id: SessionId, deadline: Option<u64>) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        if let Some(before) = session.deadline.take() {
            self.deadlines.remove(&(before, id));
        }
        session.deadline = deadline;
        if let Some(deadline) = deadline {
            self.deadlines.insert((deadline, id));
        }
    }
}
