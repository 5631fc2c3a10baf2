//! Messages whose records cannot be read: taken out of delivery, so that the others go on.

use std::collections::BTreeSet;

use super::ids::LeaseToken;
use super::index::Index;
use super::record::{BIRTHS_MAX, Parked, Record};
use super::{Core, Output, Turn};

impl<I: Index> Core<I> {
    /// Parks messages that could not be read for their delivery; returns those of these leases that
    /// still held. Nobody got them, so nothing is counted. They stay where they are, for somebody to
    /// look at: given back, they would come to the next consumer, for ever.
    pub fn park_unreadable(
        &mut self,
        tokens: impl IntoIterator<Item = LeaseToken>,
        out: &mut Output,
    ) -> Turn<Vec<LeaseToken>> {
        let held = tokens.into_iter().filter(|token| self.held(*token).is_ok());
        let held: BTreeSet<LeaseToken> = held.collect();
        for token in &held {
            self.index.message(token.birth)?;
        }
        let births: Vec<u64> = held.iter().map(|token| token.birth.0).collect();
        let mut draft = self.draft();
        for births in births.chunks(BIRTHS_MAX).map(<[u64]>::to_vec) {
            draft.fact(Record::Parked(Parked { births, unreadable: true }));
        }
        self.commit(draft, out);
        Ok(held.into_iter().collect())
    }
}
