//! `latency`: how long a confirm, a delivery and an ack take, with one message in flight and under
//! load, and whether anything ever stands still.

use std::time::Duration;

use qbroker_client::OutgoingMessage;

use super::figure::{Figure, Unit};
use super::idle;
use super::minutes::Minutes;
use super::open_loop::{OpenLoop, Seen};
use super::percentiles::{self, milliseconds};
use super::probe::{self, Probe};
use super::slow::SlowConsumer;
use super::stage::{Done, Stage};
use super::streams::drain_all;
use super::traffic::{in_flight, publish};
use super::{Findings, ScaleArgs, Scenario, numbered};
use crate::system::{Fallible, System as _};

/// What `latency` is told.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct LatencyArgs {
    /// How long the load lasts
    #[arg(long, value_name = "S", default_value_t = 600.0, value_parser = crate::settings::seconds::<86_400>)]
    seconds: f64,
    /// The load, as a share of the most that goes through
    #[arg(long, value_name = "SHARE", default_value_t = 0.5, value_parser = share)]
    load: f64,
    /// How long one message at a time is sent before
    #[arg(long, value_name = "S", default_value_t = 10.0, value_parser = crate::settings::seconds::<3_600>)]
    idle_seconds: f64,
    /// Messages that tell how much goes through
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    messages: u64,
    #[command(flatten)]
    scale: ScaleArgs,
}

/// No confirm may be later than this after the one before.
const GAP_MS_MAX: f64 = 50.0;

/// One in a hundred may take so long under half of the load.
const P99_MS_MAX: f64 = 10.0;

impl Scenario for LatencyArgs {
    const NAME: &'static str = "latency";

    fn scale(&self) -> &ScaleArgs {
        &self.scale
    }

    fn settings(&self) -> String {
        format!("{} s at {} of the most that goes through", self.seconds, self.load)
    }

    fn messages_stored(&self) -> u64 {
        self.messages
    }

    async fn measure(&self, stage: &mut Stage) -> Fallible<Findings> {
        let mut figures = self.idle(stage).await?;
        let most = self.most(stage).await?;
        let title = "publish and consume at once, the most";
        let rate = Figure::new(title, most, Unit::MessagesPerSecond);
        figures.push(rate.in_flight(in_flight()));

        let stream = OpenLoop::new(most * self.load, Duration::from_secs_f64(self.seconds))?;
        let broker = stage.broker()?;
        let progress = stage.progress();
        let slow = SlowConsumer::start(&broker, stage.payload_bytes(), &progress).await?;
        let probe = Probe::start(stage.folder())?;
        let open = stage.begin("under load", Some(stream.messages())).await?;
        let seen = stream.run(&broker, stage.payload_bytes(), progress).await?;
        let done = Done { messages: stream.messages(), in_flight: seen.in_flight_max };
        stage.end(open, done).await?;
        let machine = probe.end()?;
        let slow = slow.end().await?;
        figures.extend(under_load(&seen, &machine));
        figures.push(Figure::new("taken by the slow consumer", slow as f64, Unit::Count));
        Ok(Findings { figures, missing: Vec::new() })
    }
}

impl LatencyArgs {
    async fn idle(&self, stage: &mut Stage) -> Fallible<Vec<Figure>> {
        let broker = stage.broker()?;
        let open = stage.begin("one at a time", None).await?;
        let length = Duration::from_secs_f64(self.idle_seconds);
        let seen = idle::run(&broker, stage.payload_bytes(), length).await?;
        let messages = seen.confirm.len();
        stage.end(open, Done { messages, in_flight: 1 }).await?;
        let of = |what, times| percentiles::figures(what, times, 1);
        let figures = [
            of("one at a time: confirm", &seen.confirm),
            of("one at a time: publish to deliver", &seen.deliver),
            of("one at a time: ack", &seen.ack),
        ];
        Ok(figures.into_iter().flatten().collect())
    }

    /// Messages per second that go through when as many are in flight as ever.
    async fn most(&self, stage: &mut Stage) -> Fallible<f64> {
        const QUEUE: &str = "most";
        let broker = stage.broker()?;
        let mut publisher = broker.publisher(QUEUE).await?;
        let consumer = broker.client().consumer([QUEUE]).window(0).open().await?;
        let bytes = stage.payload_bytes();
        let make = |number| OutgoingMessage::new(numbered::payload(number, bytes));
        let open = stage.begin("the most", Some(2 * self.messages)).await?;
        let mut consuming = tokio::task::JoinSet::new();
        let progress = stage.progress();
        consuming.spawn(drain_all(vec![consumer], in_flight(), self.messages, progress));
        publish(&mut publisher, 0..self.messages, in_flight(), &stage.progress(), make).await?;
        consuming.join_next().await.expect("one task")??;
        let done = Done { messages: self.messages, in_flight: in_flight() };
        Ok(stage.end(open, done).await?.messages_per_second)
    }
}

fn under_load(seen: &Seen, machine: &probe::Seen) -> Vec<Figure> {
    let in_flight = seen.in_flight_max;
    let of = |what, times: &Minutes| {
        let [p50, p99, rest @ ..] = percentiles::figures(what, times.all(), in_flight);
        let minute = |(which, nanoseconds)| {
            let title = format!("{what}, p99 of the {which} minute");
            Figure::new(title, milliseconds(nanoseconds), Unit::Milliseconds).in_flight(in_flight)
        };
        let minutes = ["best", "middle", "worst"].into_iter().zip(times.p99_spread()).map(minute);
        [p50, p99.at_most(P99_MS_MAX)].into_iter().chain(rest).chain(minutes).collect::<Vec<_>>()
    };
    let figures = [
        of("under load: confirm", &seen.confirm),
        of("under load: publish to deliver", &seen.deliver),
        of("under load: ack", &seen.ack),
    ];
    let mut figures: Vec<_> = figures.into_iter().flatten().collect();
    let gap = |title: &str, nanoseconds| {
        Figure::new(title, milliseconds(nanoseconds), Unit::Milliseconds).in_flight(in_flight)
    };
    let calm = seen.gaps.iter().filter(|gap| !machine.stalled_between(gap.begin, gap.end));
    let calm = calm.map(|gap| gap.nanoseconds()).max().unwrap_or_default();
    figures.push(gap("longest between confirms", seen.gap_max).at_most(GAP_MS_MAX));
    figures.push(gap("longest between confirms while the machine did not stall", calm));
    for (what, times) in [
        ("write and fdatasync of another file", &machine.syncs),
        ("a sleeper of highest priority is late by", &machine.naps),
    ] {
        let figure = |which, nanoseconds| {
            let title = format!("{what}, {which}");
            Figure::new(title, milliseconds(nanoseconds), Unit::Milliseconds)
        };
        figures.push(figure("p50", times.all.value_at_quantile(0.5)));
        figures.push(figure("p99", times.all.value_at_quantile(0.99)));
        figures.push(figure("most", times.all.max()));
    }
    figures
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if 0.0 < share && share <= 1.0 => Ok(share),
        Ok(_) => Err("must be more than 0 and at most 1".to_owned()),
        Err(_) => Err("must be a number".to_owned()),
    }
}
