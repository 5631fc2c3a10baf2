//! The part of the history that is told when a message is done: written once, and never lost.

use prost::Message as _;
use qbroker::engine::{Engine, Traces};
use qbroker::queue::CreateQueue;
use qbroker::queue::event::EventKind;
use qbroker::queue::ids::LeaseToken;
use qbroker::queue::outcomes::StoredOutcome;
use qbroker::queue::policy::Policy;
use qbroker_storage::Lsn;

use super::story::{Fact, Off, Story};

impl Story {
    /// Makes a queue that keeps outcomes.
    pub(super) fn keep_outcomes(&mut self, queue: &str) -> Result<(), Off> {
        let policy = Policy { outcome_retention_ms: Some(3_600_000), ..Policy::default() };
        let create = CreateQueue { name: queue.to_owned(), policy, ..CreateQueue::default() };
        let (_, made) = self.engine.turn(|core, now, out| core.create_queue(&create, now, out))?;
        made.expect("there is none of that name");
        self.note_state();
        Ok(())
    }

    /// Notes that the messages of these leases were just acked.
    pub(super) fn done(&mut self, tokens: &[LeaseToken]) {
        let lsn = self.engine.look(|core| core.last_lsn()).1;
        self.facts.extend(tokens.iter().map(|token| (lsn, Fact::Done(token.birth))));
    }

    /// Writes the outcomes of what is done.
    pub(super) fn write_outcomes(&mut self) -> Result<(), Off> {
        while self.engine.write_outcomes()? {}
        self.note_state();
        Ok(())
    }
}

/// What became of a message that was acked is told, whether its outcome is written or not.
pub(super) fn check_done(engine: &Engine, birth: Lsn, at: &str) {
    let unwritten = engine.look(|core| core.unwritten_outcome(birth)).1;
    let told = match unwritten {
        Some(finished) => engine.history(Traces::from(finished)),
        None => {
            let record = engine.outcome_record(birth);
            let record = record.unwrap_or_else(|| panic!("{at}: what became of {birth} is lost"));
            let record = engine.log().read(&[record]).remove(0);
            let record = record.unwrap_or_else(|error| panic!("{at}: {birth}: {error}"));
            StoredOutcome::decode(&*record.body.parts().concat()).unwrap()
        }
    };
    let kinds: Vec<u32> = told.events.iter().map(|event| event.kind).collect();
    let [first, .., last] = kinds[..] else { panic!("{at}: {birth}: {told:?}") };
    let ends = [EventKind::Published { size: 0 }.number(), EventKind::Acked.number()];
    assert_eq!([first, last], ends, "{at}: {birth}: {told:?}");
}
