//! Streams as operators see them: listed, and ended.

use super::consumer::Consumer;
use super::ids::{ConsumerId, SessionId};
use super::index::Index;
use super::refused::Refused;
use super::time::Now;
use super::{Core, Effect, Lost, Output, Turn};

impl<I: Index> Core<I> {
    /// The connected streams after this one, the oldest first.
    pub fn consumers_after(
        &self,
        after: ConsumerId,
    ) -> impl Iterator<Item = (ConsumerId, &Consumer)> {
        self.consumers.after(after)
    }

    /// What the client calls a session; empty where it is being ended.
    pub fn session_name(&self, session: SessionId) -> &str {
        self.sessions.get(session).map_or("", |session| &session.name)
    }

    /// Whether somebody of this name is connected, or holds messages and may come back.
    pub fn has_session(&self, name: &str) -> bool {
        self.sessions.named(name).is_some()
    }

    /// Ends a stream because an operator says so; its leases wait for the session's grace, or are lost
    /// with the session, at once.
    pub fn disconnect_consumer(
        &mut self,
        id: ConsumerId,
        end_session: bool,
        now: Now,
        out: &mut Output,
    ) -> Turn<()> {
        let Some(session) = self.consumers.get(id).map(|consumer| consumer.session) else {
            return Err(Refused::ConsumerNotFound(id).into());
        };
        if !end_session {
            self.disconnect(id, now);
            out.effects.push(Effect::Disconnected { consumer: id });
            return Ok(());
        }
        let mut draft = self.draft();
        self.draft_abandoned(&mut draft, session, now)?;
        // Also those that later steps end: their streams are told nothing more.
        let held = self.sessions.get(session).into_iter().flat_map(|session| &session.leases);
        out.effects.extend(self.lost_leases(held.copied(), Lost::Disconnected));
        self.commit_settlements(draft, out);
        self.leave_session(session, |consumer| Effect::Disconnected { consumer }, now, out);
        Ok(())
    }
}
