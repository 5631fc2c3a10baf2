//! Statistics of queues, pushed again and again.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::time::Duration;

use futures_util::stream;
use qbroker_proto::v1::{Queue, WatchStatsRequest, WatchStatsResponse};
use tokio::time::{Interval, MissedTickBehavior};
use tokio_stream::Stream;
use tonic::Status;

use super::Context;
use super::admin::figures;
use super::convert::time::{duration_ms, to_timestamp};
use super::convert::{bounds, policy};
use super::fault::Fault;
use crate::engine::Core;
use crate::queue::policy::check_name;

const INTERVAL_MS: u64 = 1_000;
const INTERVAL_MS_MIN: u64 = 100;
const INTERVAL_MS_MAX: u64 = 60_000;
/// Queues in one response; so long the engine's lock is held.
const PART: usize = 1_000;
/// How long the engine is left to others between two parts of a round.
const BETWEEN_PARTS: Duration = Duration::from_millis(20);

/// Begins to push.
pub(super) async fn watch(
    context: Context,
    request: WatchStatsRequest,
) -> Result<impl Stream<Item = Result<WatchStatsResponse, Status>> + Send, Fault> {
    context.check_running()?;
    let interval = duration_ms("interval", request.interval, INTERVAL_MS_MIN, INTERVAL_MS_MAX)?;
    let interval = Duration::from_millis(interval.unwrap_or(INTERVAL_MS));
    let (size, limit) = (request.queues.len(), bounds::NAMES_MAX);
    if limit < size {
        return Err(Fault::BatchTooLarge { size, limit, unit: "queues" });
    }
    request.queues.iter().try_for_each(|name| check_name(name))?;
    let names: BTreeSet<String> = request.queues.into_iter().collect();
    let there = |core: &Core| names.iter().try_for_each(|name| core.queue(name).map(drop));
    context.engine.ask(there).await??;
    let mut interval = tokio::time::interval(interval);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let watch = Watch { context, names, interval, under_way: None };
    Ok(stream::unfold(Some(watch), |watch| async {
        let mut watch = watch?;
        match watch.next().await {
            Ok(response) => Some((Ok(response), Some(watch))),
            Err(fault) => Some((Err(fault.to_status()), None)),
        }
    }))
}

struct Watch {
    context: Context,
    /// Empty: all queues.
    names: BTreeSet<String>,
    interval: Interval,
    under_way: Option<Round>,
}

/// A round of which something is left to be told.
#[derive(Default)]
struct Round {
    wall_ms: u64,
    /// The name of the queue that was told last.
    after: String,
}

impl Watch {
    async fn next(&mut self) -> Result<WatchStatsResponse, Fault> {
        let round = self.round().await?;
        let part = |core: &Core| self.part(core, &round.after);
        let mut queues = self.context.engine.ask(part).await?;
        let round_complete = queues.len() <= PART;
        queues.truncate(PART);
        if !round_complete {
            let after = queues.last().map(|queue| queue.name.clone()).unwrap_or_default();
            self.under_way = Some(Round { after, ..round });
        }
        let time = Some(to_timestamp(round.wall_ms));
        Ok(WatchStatsResponse { time, queues, round_complete })
    }

    /// The round that is under way, or the next one once it is time.
    async fn round(&mut self) -> Result<Round, Fault> {
        let mut stopping = self.context.stopping.clone();
        let wait = async {
            match self.under_way.take() {
                Some(round) => {
                    tokio::time::sleep(BETWEEN_PARTS).await;
                    round
                }
                None => {
                    self.interval.tick().await;
                    let wall_ms = self.context.engine.clock().now().wall_ms;
                    Round { wall_ms, after: String::new() }
                }
            }
        };
        tokio::select! {
            round = wait => Ok(round),
            _ = stopping.wait_for(Option::is_some) => Err(Fault::ShuttingDown),
        }
    }

    /// The next queues, and one more where there is one.
    fn part(&self, core: &Core, after: &str) -> Vec<Queue> {
        let describe = |queue| policy::to_watched(queue, figures(core, queue));
        if self.names.is_empty() {
            return core.queues_after(after).take(PART + 1).map(describe).collect();
        }
        let rest = self.names.range::<str, _>((Bound::Excluded(after), Bound::Unbounded));
        rest.filter_map(|name| core.queue(name).ok()).take(PART + 1).map(describe).collect()
    }
}
