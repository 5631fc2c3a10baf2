//! Work that has begun: consumers that report it have only that counted as crashes.

use qbroker_storage::Lsn;

use super::ids::{ConsumerId, LeaseToken};
use super::index::Index;
use super::record::{BIRTHS_MAX, Begun, Record};
use super::{Core, Draft, Output, Turn};

impl<I: Index> Core<I> {
    /// A stream's client has begun to work on these leases of its session. Those that have ended, and
    /// those of others, mean nothing.
    pub fn report_started(
        &mut self,
        id: ConsumerId,
        tokens: &[LeaseToken],
        out: &mut Output,
    ) -> Turn<()> {
        let Some(session) = self.consumers.get(id).map(|consumer| consumer.session) else {
            return Ok(());
        };
        let is_own =
            |token: &&LeaseToken| self.held(**token).is_ok_and(|lease| lease.session == session);
        let births: Vec<u64> = tokens.iter().filter(is_own).map(|token| token.birth.0).collect();
        let mut draft = self.draft();
        self.draft_begun(&mut draft, births);
        self.commit_each(draft, out);
        Ok(())
    }

    /// Drafts that somebody works on leases, where that was not known.
    pub(super) fn draft_begun(&self, draft: &mut Draft, births: impl IntoIterator<Item = u64>) {
        let is_news = |birth: &u64| self.leases.get(Lsn(*birth)).is_some_and(|it| it.unstarted);
        let mut births: Vec<u64> = births.into_iter().filter(is_news).collect();
        births.sort_unstable();
        births.dedup();
        for births in births.chunks(BIRTHS_MAX).map(<[u64]>::to_vec) {
            draft.fact(Record::Begun(Begun { births }));
        }
    }
}
