//! Sessions: worker processes, which hold leases over broken connections and restarts.

use std::collections::{BTreeMap, BTreeSet};

use qbroker_storage::Lsn;

use super::ids::{ConsumerId, SessionId};
use super::record::{Resumed, SessionChanged, SessionOpened};

/// Streams of a session that replaced another one, each remembered until the next reconnect; the
/// oldest are forgotten beyond.
const KNOWN_AS_MAX: usize = 256;

/// A worker process.
#[derive(Clone, Debug)]
pub(super) struct Session {
    /// Empty: its process was started anew, and what it holds is being ended.
    pub(super) name: String,
    /// How long it keeps its leases without a connection.
    pub(super) grace_ms: u64,
    /// Messages it holds.
    pub(super) leases: BTreeSet<Lsn>,
    /// Streams that replaced another one, with the name by which the client may still call them:
    /// it might never have learned of the new one.
    pub(super) known_as: BTreeMap<ConsumerId, ConsumerId>,
    /// Streams that broke and left leases behind, with the end of their grace. Of this start.
    broken: BTreeMap<ConsumerId, u64>,
    /// Streams and waiting pulls, of this start.
    connections: u32,
    /// When the grace is over, on the boot clock; only without a connection, of this start.
    deadline: Option<u64>,
}

impl Session {
    /// The stream that a client means by a name it knows.
    pub(super) fn stream_known_as(&self, name: ConsumerId) -> ConsumerId {
        let known = self.known_as.iter().find(|(_, known)| **known == name);
        known.map_or(name, |(&stream, _)| stream)
    }
}

/// Invariant: one entry of `names` per session with a name; one of `deadlines` per session that has
/// a deadline; one of `broken` per entry of a session's `broken`.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    sessions: BTreeMap<SessionId, Session>,
    names: BTreeMap<String, SessionId>,
    deadlines: BTreeSet<(u64, SessionId)>,
    broken: BTreeSet<(u64, SessionId, ConsumerId)>,
}

impl Sessions {
    pub(super) fn open(&mut self, id: SessionId, opened: &SessionOpened) {
        let session = Session {
            name: opened.name.clone(),
            grace_ms: opened.grace_ms,
            leases: BTreeSet::new(),
            known_as: BTreeMap::new(),
            broken: BTreeMap::new(),
            connections: 0,
            deadline: None,
        };
        if !opened.name.is_empty() {
            self.names.insert(opened.name.clone(), id);
        }
        self.sessions.insert(id, session);
    }

    pub(super) fn end(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.remove(&id) {
            if self.names.get(&session.name) == Some(&id) {
                self.names.remove(&session.name);
            }
            for (stream, deadline) in session.broken {
                self.broken.remove(&(deadline, id, stream));
            }
            if let Some(deadline) = session.deadline {
                self.deadlines.remove(&(deadline, id));
            }
        }
    }

    pub(super) fn change(&mut self, changed: &SessionChanged) {
        let Some(session) = self.sessions.get_mut(&SessionId(changed.session)) else { return };
        session.grace_ms = changed.grace_ms;
        if changed.disowned {
            self.names.remove(&std::mem::take(&mut session.name));
            session.connections = 0;
        }
    }

    pub(super) fn resumed(&mut self, resumed: &Resumed) {
        let Some(session) = self.sessions.get_mut(&SessionId(resumed.session)) else { return };
        session.known_as.remove(&ConsumerId(resumed.previous));
        session.known_as.insert(ConsumerId(resumed.consumer), ConsumerId(resumed.known_as));
        if KNOWN_AS_MAX < session.known_as.len() {
            session.known_as.pop_first();
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

    /// [`Self::touch`], also for the streams that have not come back.
    pub(super) fn keep(&mut self, id: SessionId, boot_ms: u64) {
        self.touch(id, boot_ms);
        let broken = self.sessions.get(&id).map(|session| session.broken.keys().copied().collect());
        let broken: Vec<_> = broken.unwrap_or_default();
        for stream in broken {
            self.stream_broke(id, stream, boot_ms);
        }
    }

    /// A stream broke, and leaves leases behind: it has the session's grace to be replaced, also
    /// where other streams keep the session.
    pub(super) fn stream_broke(&mut self, id: SessionId, stream: ConsumerId, boot_ms: u64) {
        self.forget_broken(id, stream);
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let deadline = boot_ms.saturating_add(session.grace_ms);
        session.broken.insert(stream, deadline);
        self.broken.insert((deadline, id, stream));
    }

    /// A stream that broke was replaced, or left nothing behind.
    pub(super) fn forget_broken(&mut self, id: SessionId, stream: ConsumerId) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        if let Some(deadline) = session.broken.remove(&stream) {
            self.broken.remove(&(deadline, id, stream));
        }
    }

    /// A stream that was not replaced within the grace.
    pub(super) fn lost_stream(&self, boot_ms: u64) -> Option<(SessionId, ConsumerId)> {
        let first = self.broken.first().filter(|&&(deadline, _, _)| deadline <= boot_ms);
        first.map(|&(_, id, stream)| (id, stream))
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
        let session = self.deadlines.first().map(|&(deadline, _)| deadline);
        let stream = self.broken.first().map(|&(deadline, _, _)| deadline);
        session.into_iter().chain(stream).min()
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
