//! `delayed`: many messages wait for their time. What they take, and how late those come whose time
//! is there.

use std::time::{Duration, Instant};

use qbroker_client::OutgoingMessage;

use super::cancel::cancel;
use super::due::DueStream;
use super::figure::{Figure, MEBIBYTE, Unit};
use super::rest::{hold, most};
use super::stage::{Done, Stage};
use super::traffic::{self, in_flight, publish};
use super::{Findings, ScaleArgs, Scenario};
use crate::report::thousands;
use crate::system::{Fallible, System as _};

/// What `delayed` is told.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct DelayedArgs {
    /// Messages that wait for an hour to 30 days
    #[arg(long, value_name = "N", default_value_t = 10_000_000, value_parser = clap::value_parser!(u64).range(100..))]
    messages: u64,
    /// Messages a second whose time comes while somebody waits for them
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    due_rate: u32,
    /// For how long
    #[arg(long, value_name = "S", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    due_seconds: u32,
    /// How long it is watched while nothing happens
    #[arg(long, value_name = "S", default_value_t = 10.0, value_parser = crate::settings::seconds::<86_400>)]
    hold_seconds: f64,
    #[command(flatten)]
    scale: ScaleArgs,
}

/// The queue of all of them: those that are due now lie among those that are not.
pub(crate) const QUEUE: &str = "delayed";

const HOUR: u64 = 60 * 60;

/// Resident memory, whatever waits.
const MEMORY_MAX: f64 = 256.0 * MEBIBYTE;

/// Messages with ids of their own, to be canceled.
const CANCELED: u64 = 100;

impl Scenario for DelayedArgs {
    const NAME: &'static str = "delayed";

    fn scale(&self) -> &ScaleArgs {
        &self.scale
    }

    fn settings(&self) -> String {
        format!(
            "{} messages wait for 1 h to 30 d, {} a second are due",
            thousands(self.messages as f64),
            thousands(f64::from(self.due_rate))
        )
    }

    fn messages_stored(&self) -> u64 {
        self.messages + self.due().messages()
    }

    async fn measure(&self, stage: &mut Stage) -> Fallible<Findings> {
        self.fill(stage).await?;
        hold(stage, self.hold_seconds).await?;
        let serving = crash(stage).await?;

        let due = self.due();
        let open = stage.begin("messages fall due", Some(due.messages())).await?;
        let broker = stage.broker()?;
        let lateness = due.run(&broker, stage.payload_bytes(), stage.progress()).await?;
        let done = Done { messages: due.messages(), in_flight: in_flight() };
        stage.end(open, done).await?;

        let mut figures = lateness.figures()?;
        figures.push(Figure::new("start after SIGKILL, until it serves", serving, Unit::Seconds));
        let memory = most(stage.phases(), |phase| phase.peak_bytes) as f64;
        figures.push(Figure::new("most memory, VmHWM", memory, Unit::Bytes).at_most(MEMORY_MAX));
        let open = stage.begin("cancel", Some(CANCELED)).await?;
        let ids = (0..CANCELED).map(id);
        figures.extend(cancel(stage.broker()?.client(), QUEUE, ids).await?);
        stage.end(open, Done { messages: CANCELED, in_flight: 1 }).await?;
        Ok(Findings { figures, missing: Vec::new() })
    }
}

impl DelayedArgs {
    fn due(&self) -> DueStream {
        DueStream::new(self.due_rate, self.due_seconds)
    }

    async fn fill(&self, stage: &mut Stage) -> Fallible<()> {
        let broker = stage.broker()?;
        let mut publisher = broker.publisher(QUEUE).await?;
        let payload = traffic::payload(stage.payload_bytes());
        let open = stage.begin("fill", Some(self.messages)).await?;
        // Far from each other, so that they lie in as many pages of the index.
        let step = self.messages / CANCELED;
        let make = |number| {
            let message = OutgoingMessage::new(payload.clone()).delay(delay(number));
            let is_named = number % step == 0 && number / step < CANCELED;
            if is_named { message.message_id(id(number / step)) } else { message }
        };
        publish(&mut publisher, 0..self.messages, in_flight(), &stage.progress(), make).await?;
        stage.end(open, Done { messages: self.messages, in_flight: in_flight() }).await?;
        Ok(())
    }
}

/// Seconds from the start of the program after SIGKILL until it serves.
async fn crash(stage: &mut Stage) -> Fallible<f64> {
    let open = stage.begin("SIGKILL, start", None).await?;
    stage.kill().await?;
    let begin = Instant::now();
    stage.start_again().await?;
    let serving = begin.elapsed().as_secs_f64();
    stage.end(open, Done::default()).await?;
    Ok(serving)
}

fn id(number: u64) -> String {
    format!("canceled-{number}")
}

/// From an hour to 30 days, in no order.
fn delay(number: u64) -> Duration {
    // Steps of the golden ratio fall everywhere, and nowhere twice.
    let place = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    let span = (30 * 24 - 1) * HOUR * 1_000;
    Duration::from_millis(HOUR * 1_000 + ((place * span) >> 32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_are_spread_over_an_hour_to_thirty_days() {
        let delays: Vec<_> = (0..10_000).map(delay).collect();
        let (least, most) = (delays.iter().min().unwrap(), delays.iter().max().unwrap());
        let day = Duration::from_secs(24 * HOUR);
        assert!(Duration::from_secs(HOUR) <= *least && *least < day, "{least:?}");
        assert!(day * 29 < *most && *most < day * 30, "{most:?}");
        let late = delays.iter().filter(|delay| day * 15 < **delay).count();
        assert!((4_900..5_100).contains(&late), "{late}");
    }
}
