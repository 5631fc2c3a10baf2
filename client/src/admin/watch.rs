//! Statistics of queues, pushed by the broker again and again.

use std::time::{Duration, SystemTime};

use qbroker_proto::v1;
use tonic::Streaming;

use super::{QueueState, QueueStats, admin};
use crate::connection::Client;
use crate::error::Error;
use crate::time;

/// What changes about a queue by itself.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct WatchedQueue {
    /// Its name.
    pub name: String,
    /// Whether it works.
    pub state: QueueState,
    /// Its figures.
    pub stats: QueueStats,
}

impl From<v1::Queue> for WatchedQueue {
    fn from(queue: v1::Queue) -> Self {
        let state = QueueState::from_wire(queue.state());
        Self { name: queue.name, state, stats: queue.stats.unwrap_or_default().into() }
    }
}

/// The queues at one moment, by name.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct StatsRound {
    /// When, by the broker's clock.
    pub time: Option<SystemTime>,
    /// What there was.
    pub queues: Vec<WatchedQueue>,
}

impl StatsRound {
    /// A round of these queues.
    #[must_use]
    pub fn new(time: Option<SystemTime>, queues: Vec<WatchedQueue>) -> Self {
        Self { time, queues }
    }
}

/// Statistics that the broker pushes, from [`Client::watch_stats`]. Dropped, it ends.
#[derive(Debug)]
pub struct StatsWatch {
    responses: Streaming<v1::WatchStatsResponse>,
}

impl Client {
    /// Has the broker push the figures of these queues, of all where none is named, every `interval`,
    /// 100 ms to 1 min; the first at once.
    ///
    /// ```no_run
    /// # async fn example(client: qbroker_client::Client) -> Result<(), qbroker_client::Error> {
    /// use std::time::Duration;
    ///
    /// let mut watch = client.watch_stats(["mails"], Duration::from_secs(1)).await?;
    /// loop {
    ///     for queue in watch.next().await?.queues {
    ///         println!("{}: {} ready", queue.name, queue.stats.ready);
    ///     }
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with `QUEUE_NOT_FOUND`, or what kept the client from asking.
    pub async fn watch_stats<Q: Into<String>>(
        &self,
        queues: impl IntoIterator<Item = Q>,
        interval: Duration,
    ) -> Result<StatsWatch, Error> {
        let request = v1::WatchStatsRequest {
            queues: queues.into_iter().map(Into::into).collect(),
            interval: Some(time::duration(interval)),
        };
        let call = |channel, request| async move { admin(channel).watch_stats(request).await };
        let responses = self.call(true, Duration::ZERO, request, call).await?;
        Ok(StatsWatch { responses })
    }
}

impl StatsWatch {
    /// Waits for the next round.
    ///
    /// # Errors
    ///
    /// What ended it: the broker is stopping, or the connection broke. It does not come back by itself.
    pub async fn next(&mut self) -> Result<StatsRound, Error> {
        let mut queues = Vec::new();
        loop {
            let Some(part) = self.responses.message().await? else {
                return Err(Error::Disconnected("the broker ended the stream".to_owned()));
            };
            queues.extend(part.queues.into_iter().map(WatchedQueue::from));
            if part.round_complete {
                return Ok(StatsRound { time: part.time.and_then(time::system_time), queues });
            }
        }
    }
}
