//! `qbroker queue top`: what queues hold and do, again and again.

use std::collections::HashMap;
use std::io::{self, IsTerminal as _};
use std::time::{Duration, SystemTime};

use clap::{Args, ValueEnum};
use qbroker::exit::Exit;
use qbroker_client::{Client, QueueState, QueueStats, StatsRound, StatsWatch, WatchedQueue};
use serde_json::{Value, json};

use super::screen::Screen;
use super::view::whole_seconds;
use crate::cli::Outcome;
use crate::cli::failure::Failure;
use crate::cli::globals::{Format, Globals};
use crate::cli::output::{Column, Item, column, time, write_out};
use crate::cli::signals::Stops;

const COLUMNS: [Column; 12] = [
    column("NAME", "name"),
    column("READY", "ready"),
    column("SCHEDULED", "scheduled"),
    column("LEASED", "leased"),
    column("DEAD", "dead_letters"),
    column("IN/S", "published_rate"),
    column("OUT/S", "delivered_rate"),
    column("ACKED/S", "acked_rate"),
    column("FAILED/S", "failed_rate"),
    column("CONSUMERS", "consumers"),
    column("OLDEST", "oldest_ready_age"),
    column("STATE", "state"),
];

const TOP_HELP: &str = "\
On a terminal the table is drawn anew every interval, as many queues as fit; q or Ctrl-C ends it.
Elsewhere each round is printed below the one before, with an empty line between them. Rates are
over the last interval: --once therefore takes one.";

#[derive(Debug, Args)]
#[command(after_help = TOP_HELP)]
pub(in crate::cli) struct TopArgs {
    /// The queues; all where none is named.
    names: Vec<String>,
    /// How often, 100ms to 1min.
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = humantime::parse_duration)]
    interval: Duration,
    /// What comes first; the largest number does, of names the first.
    #[arg(long, value_name = "COLUMN", default_value = "ready")]
    sort: Sort,
    /// The most queues to show.
    #[arg(long, value_name = "N")]
    count: Option<usize>,
    /// Print one round and end.
    #[arg(long)]
    once: bool,
}

/// What the queues are sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Sort {
    Name,
    Ready,
    Scheduled,
    Leased,
    Dead,
    In,
    Out,
    Acked,
    Failed,
    Consumers,
    Oldest,
}

/// A queue in one round.
#[derive(Debug)]
struct Row {
    queue: WatchedQueue,
    oldest: Option<Duration>,
    rates: Option<Rates>,
}

/// What a queue does in a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Rates {
    published: f64,
    delivered: f64,
    acked: f64,
    failed: f64,
}

impl TopArgs {
    /// Watches until it is stopped, or once.
    pub(super) async fn run(self, client: &Client, globals: &Globals) -> Outcome {
        if globals.output == Some(Format::Json) && !self.once {
            let message = "-o json is one document: say --once, or -o jsonl for a line per queue";
            return Err(Failure::new(Exit::Usage, message));
        }
        let stops = Stops::listen()?;
        let mut watch = client.watch_stats(self.names.clone(), self.interval).await?;
        let is_screen = !self.once && globals.output.is_none() && io::stdout().is_terminal();
        let watched = if is_screen {
            self.draw(&mut watch, globals, &stops).await
        } else {
            self.print(&mut watch, globals, &stops).await
        };
        watched.map(|()| Exit::Ok)
    }

    async fn draw(
        &self,
        watch: &mut StatsWatch,
        globals: &Globals,
        stops: &Stops,
    ) -> Result<(), Failure> {
        let (mut screen, mut before) = (Screen::open()?, None);
        loop {
            let round = tokio::select! {
                round = watch.next() => round?,
                () = stops.finish.cancelled() => return Ok(()),
                () = screen.quit(), if before.is_some() => return Ok(()),
            };
            let rows = self.rows(before.as_ref(), &round);
            // Of titles and queues.
            let most = self.count.unwrap_or(usize::MAX).min(screen.lines().saturating_sub(1));
            let items = rows.iter().take(most).map(|row| item(row, &round)).collect();
            screen.draw(&globals.output().render_list(&COLUMNS, items))?;
            before = Some(round);
        }
    }

    async fn print(
        &self,
        watch: &mut StatsWatch,
        globals: &Globals,
        stops: &Stops,
    ) -> Result<(), Failure> {
        let (mut before, mut is_first) = (None, true);
        loop {
            let round = tokio::select! {
                round = watch.next() => round?,
                () = stops.finish.cancelled() => return Ok(()),
            };
            if before.is_some() {
                if !is_first && globals.output().has_columns() {
                    write_out("\n")?;
                }
                is_first = false;
                let rows = self.rows(before.as_ref(), &round);
                let most = self.count.unwrap_or(usize::MAX);
                let items = rows.iter().take(most).map(|row| item(row, &round)).collect();
                globals.output().list(&COLUMNS, items)?;
                if self.once {
                    return Ok(());
                }
            }
            before = Some(round);
        }
    }

    /// The queues of a round, sorted.
    fn rows(&self, before: Option<&StatsRound>, round: &StatsRound) -> Vec<Row> {
        let earlier: HashMap<&str, &QueueStats> = before
            .into_iter()
            .flat_map(|before| &before.queues)
            .map(|queue| (queue.name.as_str(), &queue.stats))
            .collect();
        let passed = before.and_then(|before| since(before.time, round.time)).unwrap_or_default();
        let none = QueueStats::default();
        let row = |queue: &WatchedQueue| Row {
            oldest: queue.stats.oldest_ready_time.and_then(|it| since(Some(it), round.time)),
            rates: before.is_some().then(|| {
                // A queue that was just made did all it did since.
                let earlier = earlier.get(queue.name.as_str()).copied();
                rates(earlier.unwrap_or(&none), &queue.stats, passed)
            }),
            queue: queue.clone(),
        };
        let mut rows: Vec<Row> = round.queues.iter().map(row).collect();
        // Sorted by name already, and those that are equal stay so.
        rows.sort_by(|a, b| self.sort.key(b).total_cmp(&self.sort.key(a)));
        rows
    }
}

impl Sort {
    #[expect(clippy::cast_precision_loss, reason = "an order needs no more than 53 bits")]
    fn key(self, row: &Row) -> f64 {
        let (stats, rates) = (&row.queue.stats, row.rates.unwrap_or_default());
        match self {
            Self::Name => 0.0,
            Self::Ready => stats.ready as f64,
            Self::Scheduled => stats.scheduled as f64,
            Self::Leased => stats.leased as f64,
            Self::Dead => stats.dead as f64,
            Self::In => rates.published,
            Self::Out => rates.delivered,
            Self::Acked => rates.acked,
            Self::Failed => rates.failed,
            Self::Consumers => stats.consumers as f64,
            Self::Oldest => row.oldest.unwrap_or_default().as_secs_f64(),
        }
    }
}

/// Nothing where a clock was set back.
fn since(before: Option<SystemTime>, now: Option<SystemTime>) -> Option<Duration> {
    Some(now?.duration_since(before?).unwrap_or_default())
}

fn rates(before: &QueueStats, now: &QueueStats, passed: Duration) -> Rates {
    #[expect(clippy::cast_precision_loss, reason = "a rate needs no more than 53 bits")]
    let rate = |total: fn(&QueueStats) -> u64| {
        // A queue that was deleted and made again counts anew.
        let done = total(now).saturating_sub(total(before)) as f64;
        if passed.is_zero() { 0.0 } else { done / passed.as_secs_f64() }
    };
    Rates {
        published: rate(|stats| stats.published_total),
        delivered: rate(|stats| stats.delivered_total),
        acked: rate(|stats| stats.acked_total),
        failed: rate(|it| it.retried_total + it.dead_lettered_total + it.expired_leases_total),
    }
}

/// A queue by key.
fn item(row: &Row, round: &StatsRound) -> Item {
    let stats = &row.queue.stats;
    let rate = |rate: fn(Rates) -> f64| match row.rates {
        // One digit is as much as can be read.
        Some(rates) => json!((rate(rates) * 10.0).round() / 10.0),
        None => Value::Null,
    };
    let item = json!({
        "time": time(round.time),
        "name": row.queue.name,
        "state": if row.queue.state == QueueState::Paused { "paused" } else { "active" },
        "ready": stats.ready,
        "scheduled": stats.scheduled,
        "leased": stats.leased,
        "parked": stats.parked,
        "dead_letters": stats.dead,
        "consumers": stats.consumers,
        "oldest_ready_age": row.oldest.map(whole_seconds),
        "published_rate": rate(|rates| rates.published),
        "delivered_rate": rate(|rates| rates.delivered),
        "acked_rate": rate(|rates| rates.acked),
        "failed_rate": rate(|rates| rates.failed),
    });
    let Value::Object(item) = item else { unreachable!("it was made as an object") };
    item
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: TopArgs,
    }

    fn args(line: &[&str]) -> TopArgs {
        Line::parse_from(std::iter::once(&"top").chain(line)).args
    }

    fn round(seconds: u64, queues: &[(&str, u64, u64)]) -> StatsRound {
        use qbroker_proto::v1;
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let queue = |(name, ready, published): &(&str, u64, u64)| {
            let stats = v1::QueueStats {
                ready: ready.cast_signed(),
                published_total: published.cast_signed(),
                oldest_ready_time: Some(SystemTime::UNIX_EPOCH.into()),
                ..v1::QueueStats::default()
            };
            let name = (*name).to_owned();
            v1::Queue { name, stats: Some(stats), ..v1::Queue::default() }.into()
        };
        let queues = queues.iter().map(queue).collect();
        StatsRound::new(Some(at), queues)
    }

    #[test]
    fn the_busiest_come_first_and_rates_are_over_the_interval() {
        let before = round(10, &[("a", 1, 100), ("b", 5, 9)]);
        let now = round(12, &[("a", 1, 110), ("b", 5, 3), ("c", 7, 4)]);
        let names = |sort: &str| {
            let rows = args(&["--sort", sort]).rows(Some(&before), &now);
            rows.iter().map(|row| row.queue.name.clone()).collect::<String>()
        };
        assert_eq!(
            (names("ready"), names("in"), names("name")),
            ("cba".into(), "acb".into(), "abc".into())
        );
        let rows = args(&[]).rows(Some(&before), &now);
        let published: Vec<f64> = rows.iter().map(|row| row.rates.unwrap().published).collect();
        // One that was made anew counts from there, never below zero.
        assert_eq!(published, [2.0, 0.0, 5.0]);
        assert_eq!(rows[0].oldest, Some(Duration::from_secs(12)));
        assert!(args(&[]).rows(None, &now).iter().all(|row| row.rates.is_none()));
        assert_eq!(item(&rows[2], &now)["published_rate"], 5.0);
    }

    #[test]
    fn every_column_has_its_key() {
        let now = round(12, &[("a", 1, 1)]);
        let item = item(&args(&[]).rows(None, &now)[0], &now);
        assert!(COLUMNS.iter().all(|column| item.contains_key(column.key)));
    }
}
