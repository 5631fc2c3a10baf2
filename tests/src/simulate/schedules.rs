//! Schedules: messages that the broker publishes by itself, each tick once.

use bytes::BytesMut;
use qbroker::queue::body::StoredMessage;
use qbroker::queue::record::Record;
use qbroker::queue::state::record::Change;
use qbroker::queue::state::{CatchUp, PutSchedule};
use qbroker_storage::{Lsn, StoredRecord};

use super::audit;
use super::clients::Told;
use super::model::{Missed, Sequence, Ticked};
use super::plan::Offer;
use super::run::{Run, Stopped};

/// The headers that a tick's message has beside its own.
pub(super) const HEADERS: [&str; 2] = ["schedule", "schedule-tick-ms"];

pub(super) fn name(schedule: u64) -> String {
    format!("s-{schedule}")
}

impl Run {
    pub(super) fn put_schedule(
        &mut self,
        schedule: u64,
        every_s: u64,
        catch_up: usize,
        offer: &Offer,
    ) -> Result<(), Stopped> {
        let (message, mut new) = self.offered(offer);
        let mut with_headers = audit::content(new.number, offer.bytes, None);
        let tick_ms = self.world.time().wall_ms.to_string();
        let headers = HEADERS.map(str::to_owned).into_iter().zip([name(schedule), tick_ms]);
        with_headers.headers.extend(headers);
        new.bytes = with_headers.into_body(&mut BytesMut::new()).len() as u64;
        let (catch_up, missed) = [
            (CatchUp::Last, Missed::Last),
            (CatchUp::Skip, Missed::None),
            (CatchUp::All, Missed::Each),
        ][catch_up];
        let put = PutSchedule {
            name: name(schedule).as_str().into(),
            cron: format!("@every {every_s}s"),
            time_zone: String::new(),
            message,
            catch_up,
            jitter_ms: 0,
            skip_if_unfinished: false,
            paused: None,
        };
        let turn = self.world.engine.turn(|core, now, out| core.put_schedule(&put, now, out));
        let (lsn, answer) = turn?;
        let refused = answer.as_ref().err().map(|refused| refused.reason());
        self.note(format!(
            "schedule {schedule} every {every_s} s, {missed:?}, {new:?}: {refused:?}"
        ));
        let now = self.world.time();
        self.done(|model| {
            model.put_schedule(schedule, (every_s * 1_000, missed, new), refused, now)
        })?;
        self.later(lsn, Told::Answer)
    }

    pub(super) fn pause_schedule(&mut self, schedule: u64, paused: bool) -> Result<(), Stopped> {
        let name = name(schedule);
        let turn =
            self.world.engine.turn(|core, now, out| core.pause_schedule(&name, paused, now, out));
        let (lsn, answer) = turn?;
        let refused = answer.as_ref().err().map(|refused| refused.reason());
        self.note(format!("schedule {schedule} paused {paused}: {refused:?}"));
        let now = self.world.time();
        self.done(|model| model.pause_schedule(schedule, paused, refused, now))?;
        self.later(lsn, Told::Answer)
    }

    pub(super) fn drop_schedule(&mut self, schedule: u64) -> Result<(), Stopped> {
        let name = name(schedule);
        let turn = self.world.engine.turn(|core, _, out| core.delete_schedule(&name, out));
        let (lsn, answer) = turn?;
        let refused = answer.as_ref().err().map(|refused| refused.reason());
        self.note(format!("schedule {schedule} dropped: {refused:?}"));
        self.done(|model| model.drop_schedule(schedule, refused))?;
        self.later(lsn, Told::Answer)
    }

    /// What schedules did after this record and not after that one, by the records that say so.
    pub(super) fn ticked_between(&self, after: Lsn, through: Lsn) -> Result<Vec<Ticked>, Stopped> {
        let (mut all, mut last) = (Vec::new(), None::<(Lsn, StoredRecord)>);
        for lsn in after.0 + 1..=through.0 {
            let stored = self.record(Lsn(lsn))?;
            match Record::decode_head(&stored.head) {
                Ok(Record::Published(_)) => last = Some((Lsn(lsn), stored)),
                Ok(Record::StateChanged(changed)) => {
                    let Some(Change::ScheduleTicked(ticked)) = changed.change else { continue };
                    let schedule = ticked.name.strip_prefix("s-").and_then(|it| it.parse().ok());
                    let schedule =
                        schedule.ok_or_else(|| self.wrong(format!("{} ticks", ticked.name)))?;
                    let is_published = !ticked.missed && ticked.skipped.is_empty();
                    let published = match last.take().filter(|_| is_published) {
                        Some(of) => Some(self.published_by(&ticked.name, ticked.tick_ms, &of)?),
                        None => None,
                    };
                    all.push(Ticked {
                        schedule,
                        tick_ms: ticked.tick_ms,
                        next_ms: ticked.next_ms,
                        missed: ticked.missed,
                        published,
                    });
                }
                _ => {}
            }
        }
        Ok(all)
    }

    /// The message that a tick published, with its size.
    fn published_by(
        &self,
        name: &str,
        tick_ms: u64,
        (lsn, stored): &(Lsn, StoredRecord),
    ) -> Result<(Sequence, u64), Stopped> {
        let content = audit::body::<StoredMessage>(stored).map_err(|it| self.wrong(it))?;
        let headers = HEADERS.map(|it| content.headers.get(it).map_or("", String::as_str));
        if headers != [name, &tick_ms.to_string()] {
            return Err(self.wrong(format!("{name} has published {content:?} for {tick_ms}")));
        }
        Ok((lsn.0, stored.body.len() as u64))
    }
}
