//! Messages at a steady rate, whether or not the broker keeps up: a message that could not be sent
//! in time has waited since it should have been.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use qbroker_client::{Consumer, OutgoingMessage, SettlingAll};
use tokio::task::JoinSet;
use tokio::time::sleep_until;

use super::minutes::Minutes;
use super::numbered;
use super::progress::Progress;
use super::traffic::{bounded, in_flight};
use crate::qbroker::{Publisher, Qbroker};
use crate::system::{Fallible, Publisher as _, System as _};

/// Messages that are meant to be sent one after the other, all the same time apart.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OpenLoop {
    /// Nanoseconds from one to the next.
    apart: u64,
    messages: u64,
}

const QUEUE: &str = "load";

/// The messages of a tick are meant to be sent together, at its end.
const TICK_NANOS: u64 = 1_000_000;

/// The broker takes no larger batch.
const BATCH_MAX: u64 = 1_000;

/// From here on it is remembered when nothing was confirmed, to be compared with the disk.
const GAP: Duration = Duration::from_millis(10);

/// What was seen; times in nanoseconds, from when a message was meant to be sent.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) confirm: Minutes,
    pub(crate) deliver: Minutes,
    /// From the ack to its answer.
    pub(crate) ack: Minutes,
    /// The longest in which nothing was confirmed.
    pub(crate) gap_max: u64,
    pub(crate) gaps: Vec<Gap>,
    /// The most that was published and not confirmed.
    pub(crate) in_flight_max: u32,
}

/// Nothing was confirmed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gap {
    pub(crate) begin: Instant,
    pub(crate) end: Instant,
}

impl OpenLoop {
    /// So many messages a second for so long.
    pub(crate) fn new(rate: f64, length: Duration) -> Fallible<Self> {
        ensure!(rate.is_finite() && 1.0 <= rate, "{rate} messages a second are no load");
        let apart = u64::try_from(Duration::from_secs_f64(1.0 / rate).as_nanos())?.max(1);
        Ok(Self { apart, messages: u64::try_from(length.as_nanos())?.div_ceil(apart) })
    }

    pub(crate) fn messages(self) -> u64 {
        self.messages
    }

    /// Publishes and consumes.
    ///
    /// # Errors
    ///
    /// A message is refused, does not come, or comes twice.
    pub(crate) async fn run(
        self,
        broker: &Qbroker,
        payload_bytes: u32,
        progress: Arc<Progress>,
    ) -> Fallible<Seen> {
        let publisher = broker.publisher(QUEUE).await?;
        let consumer = broker.client().consumer([QUEUE]).window(in_flight()).open().await?;
        let start = Instant::now();
        let mut tasks = JoinSet::new();
        tasks.spawn(self.take(consumer, start, progress));
        let published = self.publish(publisher, start, payload_bytes).await?;
        let (deliver, ack) = tasks.join_next().await.expect("one task")??;
        Ok(Seen { deliver, ack, ..published })
    }

    /// When the message of this number is meant to be sent.
    fn meant(self, start: Instant, number: u64) -> Instant {
        start + self.since(number)
    }

    /// How long after the beginning that is.
    fn since(self, number: u64) -> Duration {
        let tick = number * self.apart / TICK_NANOS;
        Duration::from_nanos((tick + 1) * TICK_NANOS)
    }

    async fn publish(
        self,
        mut publisher: Publisher,
        start: Instant,
        payload_bytes: u32,
    ) -> Fallible<Seen> {
        let mut seen = Seen::nothing();
        let (mut sent, mut confirmed, mut latest) = (0, 0, start);
        while confirmed < self.messages {
            tokio::select! {
                () = sleep_until(self.meant(start, sent).into()), if sent < self.messages => {
                    if sent == confirmed {
                        // Nobody was waiting until now.
                        latest = Instant::now();
                    }
                    let last = self.due_by(start, Instant::now()).min(sent + BATCH_MAX);
                    let numbers = sent..last.max(sent + 1);
                    sent = numbers.end;
                    let make = |number| {
                        OutgoingMessage::new(numbered::payload(number, payload_bytes))
                    };
                    publisher.offer_messages(numbers.map(make).collect()).await?;
                    seen.in_flight_max = seen.in_flight_max.max(u32::try_from(sent - confirmed)?);
                }
                messages = bounded(publisher.confirmed()), if confirmed < sent => {
                    let now = Instant::now();
                    seen.gap(latest, now)?;
                    latest = now;
                    let newly = messages?;
                    for number in confirmed..confirmed + newly {
                        seen.confirm.record(self.since(number), self.late(start, number, now)?, 1)?;
                    }
                    confirmed += newly;
                }
            }
        }
        Ok(seen)
    }

    /// How many messages are meant to be sent by then.
    fn due_by(self, start: Instant, then: Instant) -> u64 {
        let ticks = u64::try_from(then.duration_since(start).as_nanos()).unwrap_or(u64::MAX);
        let ticks = ticks / TICK_NANOS;
        (ticks * TICK_NANOS).div_ceil(self.apart).min(self.messages)
    }

    /// How long after it was meant to be sent.
    fn late(self, start: Instant, number: u64, now: Instant) -> Fallible<u64> {
        let late = now.saturating_duration_since(self.meant(start, number));
        Ok(u64::try_from(late.as_nanos())?)
    }

    /// Takes and acks all; how late they were, and how long the acks took.
    async fn take(
        self,
        consumer: Consumer,
        start: Instant,
        progress: Arc<Progress>,
    ) -> Fallible<(Minutes, Minutes)> {
        let (mut deliver, mut acks) = (Minutes::new(), Acks::new(start));
        let mut next = 0;
        while next < self.messages || !acks.waiting.is_empty() {
            tokio::select! {
                batch = consumer.next_batch(usize::MAX), if next < self.messages => {
                    let (batch, now) = (batch?, Instant::now());
                    for delivery in &batch {
                        let number = numbered::number(delivery)?;
                        ensure!(number == next, "message {number} came instead of {next}");
                        deliver.record(self.since(number), self.late(start, number, now)?, 1)?;
                        next += 1;
                    }
                    ensure!(!batch.is_empty(), "the broker drained the consumer");
                    progress.add(batch.len() as u64);
                    acks.add(now, batch.len() as u64, consumer.ack_all(batch));
                }
                answered = bounded(acks.next()), if !acks.waiting.is_empty() => answered?,
                () = tokio::time::sleep(super::traffic::STUCK) => {
                    anyhow::bail!("no delivery of message {next}");
                }
            }
        }
        Ok((deliver, acks.times))
    }
}

/// Acks on their way, oldest first.
struct Acks {
    start: Instant,
    waiting: VecDeque<(Instant, u64, SettlingAll)>,
    /// Nanoseconds to the answer, of each message.
    times: Minutes,
}

impl Acks {
    fn new(start: Instant) -> Self {
        Self { start, waiting: VecDeque::new(), times: Minutes::new() }
    }

    fn add(&mut self, begin: Instant, messages: u64, settling: SettlingAll) {
        self.waiting.push_back((begin, messages, settling));
    }

    /// Waits for the oldest. Canceling it loses nothing.
    async fn next(&mut self) -> Fallible<()> {
        let (begin, messages, settling) = self.waiting.front_mut().context("no ack waits")?;
        let refused = Pin::new(settling).await;
        let nanoseconds = u64::try_from(begin.elapsed().as_nanos())?;
        self.times.record(begin.duration_since(self.start), nanoseconds, *messages)?;
        self.waiting.pop_front();
        ensure!(refused.is_empty(), "an ack was refused: {refused:?}");
        Ok(())
    }
}

impl Seen {
    fn nothing() -> Self {
        Self {
            confirm: Minutes::new(),
            deliver: Minutes::new(),
            ack: Minutes::new(),
            gap_max: 0,
            gaps: Vec::new(),
            in_flight_max: 0,
        }
    }

    /// Nothing was confirmed in between.
    fn gap(&mut self, begin: Instant, end: Instant) -> Fallible<()> {
        let gap = Gap { begin, end };
        self.gap_max = self.gap_max.max(u64::try_from((end - begin).as_nanos())?);
        if GAP <= end - begin {
            self.gaps.push(gap);
        }
        Ok(())
    }
}

impl Gap {
    pub(crate) fn nanoseconds(self) -> u64 {
        u64::try_from((self.end - self.begin).as_nanos()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_messages_all_the_same_time_apart() {
        let stream = OpenLoop::new(1_000.0, Duration::from_secs(3)).unwrap();
        assert_eq!((stream.apart, stream.messages()), (1_000_000, 3_000));
        let start = Instant::now();
        assert_eq!(stream.meant(start, 250), start + Duration::from_millis(251));
        assert_eq!(stream.due_by(start, start + Duration::from_micros(251_900)), 251);
        let fast = OpenLoop::new(50_000.0, Duration::from_secs(1)).unwrap();
        for (number, ms) in [(0, 1), (49, 1), (50, 2)] {
            let meant = fast.meant(start, number);
            assert_eq!(meant, start + Duration::from_millis(ms));
            assert!(number < fast.due_by(start, meant));
            assert!(fast.due_by(start, meant - Duration::from_nanos(1)) <= number);
        }
        assert_eq!(stream.due_by(start, start + Duration::from_secs(9)), 3_000);
        OpenLoop::new(0.0, Duration::from_secs(1)).unwrap_err();
    }

    #[test]
    fn who_waits_since_before_it_was_sent_waits_since_it_was_meant_to_be() {
        let stream = OpenLoop::new(100.0, Duration::from_secs(1)).unwrap();
        let start = Instant::now();
        let now = start + Duration::from_millis(71);
        assert_eq!(stream.late(start, 3, now).unwrap(), 40_000_000);
        assert_eq!(stream.late(start, 9, now).unwrap(), 0);
    }

    #[test]
    fn long_gaps_are_remembered_and_the_longest_is_known() {
        let mut seen = Seen::nothing();
        let begin = Instant::now();
        let gap = |seen: &mut Seen, ms| seen.gap(begin, begin + Duration::from_millis(ms)).unwrap();
        gap(&mut seen, 60);
        gap(&mut seen, 9);
        assert_eq!((seen.gaps.len(), seen.gap_max), (1, 60_000_000));
        assert_eq!(seen.gaps[0].nanoseconds(), 60_000_000);
    }
}
