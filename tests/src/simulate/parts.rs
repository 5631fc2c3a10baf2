//! Batches in part: of each message it is told whether it was stored.

use qbroker::queue::{Publish, Stop};

use super::clients::Told;
use super::plan::Offer;
use super::run::{Run, Stopped};

impl Run {
    /// Publishes messages together, each as a batch of its own.
    pub(super) fn publish_each(&mut self, offers: &[Offer]) -> Result<(), Stopped> {
        if self.has_enough() {
            return Ok(());
        }
        let (messages, news): (Vec<_>, Vec<_>) = offers.iter().map(|it| self.offered(it)).unzip();
        let publishes: Vec<_> =
            messages.into_iter().map(|message| Publish { messages: vec![message] }).collect();
        // Outside of the command: it is given again where a page is missing, and goes on from there.
        let mut answers = Vec::new();
        let turn = self.world.engine.turn(|core, now, out| {
            while let Some(publish) = publishes.get(answers.len()) {
                answers.push(match core.publish(publish, now, out) {
                    Ok(receipts) => Ok((receipts[0].birth.0, receipts[0].duplicate)),
                    Err(Stop::Refused(refused)) => Err(refused.reason()),
                    Err(missing @ Stop::Missing(_)) => return Err(missing),
                });
            }
            Ok(())
        });
        let (lsn, done) = turn?;
        done.map_err(|refused| self.wrong(format!("a batch in part is refused: {refused}")))?;
        self.note(format!("publish each of {news:?}: {answers:?}"));
        let stored = answers.iter().flatten().filter(|(_, duplicate)| !duplicate);
        let stored: Vec<_> = stored.map(|(sequence, _)| *sequence).collect();
        if !stored.is_sorted() || stored.first().is_some_and(|first| *first <= self.last_told) {
            return Err(self.wrong(format!("{stored:?} after {}, which was told", self.last_told)));
        }
        let now = self.world.time();
        for (new, answer) in news.iter().zip(&answers) {
            let receipt = answer.map(|receipt| [receipt]);
            let answer = receipt.as_ref().map(|it| &it[..]).map_err(|reason| *reason);
            self.done(|model| model.publish(std::slice::from_ref(new), answer, now))?;
        }
        self.later(lsn, Told::Stored { last: stored.last().copied().unwrap_or_default() })
    }
}
