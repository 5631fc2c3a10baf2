//! The part of the history in which a schedule ticks: a tick and its message are there, or neither is.

use qbroker::queue::record::Record;
use qbroker::queue::state::record::Change;
use qbroker::queue::state::{CatchUp, PutSchedule};
use qbroker_storage::Lsn;

use super::story::{Off, Story, message};

impl Story {
    /// Makes a schedule, and lets it tick some times.
    pub(super) fn tick_schedule(&mut self, queue: &str) -> Result<(), Off> {
        let put = PutSchedule {
            name: "s".into(),
            cron: "@every 10s".to_owned(),
            time_zone: String::new(),
            message: message(queue, "tick", None),
            catch_up: CatchUp::All,
            jitter_ms: 0,
            skip_if_unfinished: false,
            paused: None,
        };
        let (_, made) = self.engine.turn(|core, now, out| core.put_schedule(&put, now, out))?;
        made.expect("it can be made");
        self.note_state();
        for _ in 0..3 {
            let before = self.engine.look(|core| core.last_lsn()).1;
            self.clock.advance(10_000);
            self.engine.tick()?;
            self.note_state();
            self.step()?;
            self.note_ticks(before);
        }
        Ok(())
    }

    /// Each tick since then is one commit with the message before it.
    fn note_ticks(&mut self, before: Lsn) {
        let last = self.engine.look(|core| core.last_lsn()).1;
        let mut ticks = 0;
        for lsn in (before.0 + 1..=last.0).map(Lsn) {
            let record = self.engine.log().read(&[lsn]).remove(0).expect("it was just written");
            let record = Record::decode_head(&record.head).expect("it was written here");
            if let Record::StateChanged(it) = record
                && matches!(it.change, Some(Change::ScheduleTicked(_)))
            {
                self.commits.push((Lsn(lsn.0 - 1), lsn));
                ticks += 1;
            }
        }
        assert_eq!(ticks, 1);
    }
}
