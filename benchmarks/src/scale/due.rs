//! Messages whose time comes while somebody waits for them: how late each is handed out.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, ensure};
use hdrhistogram::Histogram;
use qbroker_client::{Delivery, OutgoingMessage};
use tokio::task::JoinSet;
use tokio::time::sleep_until;

use super::delayed::QUEUE;
use super::figure::{Figure, Unit};
use super::numbered::{self, Seen};
use super::percentiles;
use super::progress::Progress;
use super::traffic::{BATCH, bounded, in_flight};
use crate::qbroker::{Consumer, Publisher, Qbroker};
use crate::samples::histogram;
use crate::system::{Consumer as _, Fallible, Publisher as _, System as _};

/// Messages of which one after the other is due, at a steady rate. Every second one has a time, the
/// others have a delay that ends at theirs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DueStream {
    rate: u32,
    messages: u64,
}

/// How long before its time a message is published.
const LEAD: Duration = Duration::from_secs(2);

/// Milliseconds that one in a hundred may be late.
const LATE_MS_MAX: f64 = 20.0;

/// What was seen.
#[derive(Debug)]
pub(crate) struct Lateness {
    /// Nanoseconds from a message's time to its delivery, of those with a time.
    late: Histogram<u64>,
    /// The least in nanoseconds, of those with a time and of those with a delay: below zero is early.
    least: [i64; 2],
    /// Messages that were not confirmed before their time: their lateness is the publisher's.
    published_late: u64,
    rate: f64,
}

impl DueStream {
    pub(crate) fn new(rate: u32, seconds: u32) -> Self {
        let messages = u64::from(rate) * u64::from(seconds);
        Self { rate, messages: messages.next_multiple_of(BATCH) }
    }

    pub(crate) fn messages(self) -> u64 {
        self.messages
    }

    /// Publishes, waits, takes.
    ///
    /// # Errors
    ///
    /// A message does not come, or comes twice.
    pub(crate) async fn run(
        self,
        broker: &Qbroker,
        payload_bytes: u32,
        progress: Arc<Progress>,
    ) -> Fallible<Lateness> {
        let publisher = broker.publisher(QUEUE).await?;
        let consumer = broker.consumer(QUEUE, in_flight()).await?;
        let times = Times::from_now(self.rate);
        let mut tasks = JoinSet::new();
        tasks.spawn(take(consumer, self.messages, progress));
        let batches = self.publish(publisher, times, payload_bytes).await?;
        let taken = tasks.join_next().await.expect("one task")??;
        lateness(&times, &batches, &taken)
    }

    /// Each batch when the first of it is due in [`LEAD`]; when each was offered and confirmed.
    async fn publish(
        self,
        mut publisher: Publisher,
        times: Times,
        payload_bytes: u32,
    ) -> Fallible<Vec<Published>> {
        let mut batches: Vec<Published> = Vec::new();
        let (mut confirmed, all) = (0, usize::try_from(self.messages / BATCH)?);
        while confirmed < all {
            let next = batches.len();
            let first = next as u64 * BATCH;
            tokio::select! {
                () = sleep_until((times.due(first) - LEAD).into()), if next < all => {
                    let offered = Instant::now();
                    let make = |number| times.message(number, offered, payload_bytes);
                    publisher.offer_messages((first..first + BATCH).map(make).collect()).await?;
                    batches.push(Published { offered, confirmed: None });
                }
                messages = bounded(publisher.confirmed()), if confirmed < next => {
                    let now = Some(Instant::now());
                    for _ in 0..messages? / BATCH {
                        batches[confirmed].confirmed = now;
                        confirmed += 1;
                    }
                }
            }
        }
        Ok(batches)
    }
}

/// A batch on its way.
#[derive(Debug, Clone, Copy)]
struct Published {
    offered: Instant,
    confirmed: Option<Instant>,
}

/// A delivery, by the clock that waits and by the one on the wall.
#[derive(Debug, Clone, Copy)]
struct Taken {
    number: u64,
    at: Instant,
    on_the_wall: SystemTime,
}

/// When which message is due.
#[derive(Debug, Clone, Copy)]
struct Times {
    rate: u32,
    first: Instant,
    first_on_the_wall: SystemTime,
}

impl Times {
    /// The first in twice the lead, so that nothing is late from the begin.
    fn from_now(rate: u32) -> Self {
        let first = Instant::now() + 2 * LEAD;
        Self { rate, first, first_on_the_wall: SystemTime::now() + 2 * LEAD }
    }

    fn after_first(&self, number: u64) -> Duration {
        Duration::from_nanos(number * 1_000_000_000 / u64::from(self.rate))
    }

    fn due(&self, number: u64) -> Instant {
        self.first + self.after_first(number)
    }

    fn message(&self, number: u64, now: Instant, payload_bytes: u32) -> OutgoingMessage {
        let message = OutgoingMessage::new(numbered::payload(number, payload_bytes));
        if has_time(number) {
            message.deliver_time(self.first_on_the_wall + self.after_first(number))
        } else {
            message.delay(self.delay(number, now))
        }
    }

    /// What is left of the wait of a message that is offered at `offered`.
    fn delay(&self, number: u64, offered: Instant) -> Duration {
        self.due(number).saturating_duration_since(offered)
    }
}

/// Whether a message has a time on the wall, or a delay.
fn has_time(number: u64) -> bool {
    number.is_multiple_of(2)
}

/// Takes so many messages; which came when.
async fn take(
    mut consumer: Consumer,
    messages: u64,
    progress: Arc<Progress>,
) -> Fallible<Vec<Taken>> {
    let seen = Seen::below(messages)?;
    let mut taken = Vec::new();
    while (taken.len() as u64) < messages {
        let batch: Vec<Delivery> =
            bounded(consumer.receive()).await.context("a message does not fall due")?;
        let (at, on_the_wall) = (Instant::now(), SystemTime::now());
        seen.mark(&batch)?;
        for delivery in &batch {
            taken.push(Taken { number: numbered::number(delivery)?, at, on_the_wall });
        }
        progress.add(batch.len() as u64);
        consumer.ack(batch).await?;
    }
    bounded(consumer.acked()).await?;
    Ok(taken)
}

fn lateness(times: &Times, batches: &[Published], taken: &[Taken]) -> Fallible<Lateness> {
    let mut lateness =
        Lateness { late: histogram(), least: [i64::MAX; 2], published_late: 0, rate: 0.0 };
    for message in taken {
        let batch = batches[usize::try_from(message.number / BATCH)?];
        let late = if has_time(message.number) {
            let due = times.first_on_the_wall + times.after_first(message.number);
            let late =
                nanoseconds(message.on_the_wall.duration_since(due).map_err(|e| e.duration()))?;
            let confirmed = batch.confirmed.context("a batch is not confirmed")?;
            if times.due(message.number) < confirmed {
                lateness.published_late += 1;
            } else {
                lateness.late.record(late.max(0).unsigned_abs())?;
            }
            late
        } else {
            // When it was accepted nobody knows, but not before it was offered.
            let waited = message.at.duration_since(batch.offered);
            let delay = times.delay(message.number, batch.offered);
            nanoseconds(waited.checked_sub(delay).ok_or_else(|| delay - waited))?
        };
        let least = &mut lateness.least[usize::from(!has_time(message.number))];
        *least = late.min(*least);
    }
    let last = taken.iter().map(|message| message.at).max().context("nothing was due")?;
    lateness.rate = taken.len() as f64 / last.duration_since(times.first).as_secs_f64();
    Ok(lateness)
}

/// How late it was, or, below zero, how early.
fn nanoseconds(late: Result<Duration, Duration>) -> Fallible<i64> {
    Ok(match late {
        Ok(late) => i64::try_from(late.as_nanos())?,
        Err(early) => -i64::try_from(early.as_nanos())?,
    })
}

impl Lateness {
    pub(crate) fn figures(&self) -> Fallible<Vec<Figure>> {
        ensure!(!self.late.is_empty(), "every message was published too late");
        let [p50, p99, p999, most] = percentiles::figures("late", &self.late, in_flight());
        let least = |of: &str, least: i64| {
            Figure::new(format!("late, least of {of}"), least as f64 / 1e6, Unit::Milliseconds)
                .in_flight(in_flight())
                .at_least(0.0)
        };
        let published_late =
            Figure::new("published after their time", self.published_late as f64, Unit::Count);
        Ok(vec![
            Figure::new("messages handed out when due", self.rate, Unit::MessagesPerSecond)
                .in_flight(in_flight()),
            least("those with a time", self.least[0]),
            least("those with a delay", self.least[1]),
            p50,
            p99.at_most(LATE_MS_MAX),
            p999,
            most,
            published_late,
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_early_is_seen_by_either_clock() {
        let times = Times::from_now(1_000);
        let offered = times.first - LEAD;
        let batches = [Published { offered, confirmed: Some(offered) }];
        let second = Duration::from_secs(1);
        // Both clocks read the same: the message's time, a second more, and what is left of it.
        let taken = |number, after: Duration| Taken {
            number,
            at: times.due(number) - second + after,
            on_the_wall: times.first_on_the_wall + times.after_first(number) - second + after,
        };
        let late = |us| second + Duration::from_micros(us);
        let early = |us| second - Duration::from_micros(us);
        let of = |taken: &[Taken]| lateness(&times, &batches, taken).unwrap();
        let on_time = of(&[taken(2, late(3_000)), taken(3, late(500))]);
        assert_eq!(on_time.least, [3_000_000, 500_000]);
        assert!(on_time.figures().unwrap().iter().all(|figure| figure.reached != Some(false)));
        for (place, number) in [2, 3].into_iter().enumerate() {
            let early = of(&[taken(number, early(700)), taken(4, late(100)), taken(5, late(9))]);
            assert_eq!(early.least[place], -700_000);
            let figures = early.figures().unwrap();
            assert!(figures.iter().any(|figure| figure.reached == Some(false)), "{figures:?}");
        }
    }

    #[test]
    fn a_message_that_was_not_there_in_time_is_the_publishers() {
        let times = Times::from_now(1_000);
        let late = times.first + Duration::from_secs(1);
        let batches = [Published { offered: late, confirmed: Some(late) }];
        let taken = Taken { number: 0, at: late, on_the_wall: SystemTime::now() + 3 * LEAD };
        let lateness = lateness(&times, &batches, &[taken]).unwrap();
        assert_eq!((lateness.published_late, lateness.late.len()), (1, 0));
        lateness.figures().unwrap_err();
    }
}
