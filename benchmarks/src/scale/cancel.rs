//! Canceling messages that wait, by their ids.

use std::time::Instant;

use anyhow::ensure;
use qbroker_client::Client;

use super::figure::{Figure, Unit};
use super::percentiles::milliseconds;
use crate::samples::histogram;
use crate::system::Fallible;

/// Milliseconds that a cancel may take.
const CANCEL_MS_MAX: f64 = 5.0;

/// Cancels one message after the other, each durably gone before the next; half of them take no
/// longer than the first figure, none longer than the second.
pub(crate) async fn cancel(
    client: &Client,
    queue: &str,
    ids: impl Iterator<Item = String>,
) -> Fallible<[Figure; 2]> {
    let mut times = histogram();
    for id in ids {
        let begin = Instant::now();
        let refused = client.delete_messages(queue, vec![id]).await?;
        ensure!(refused.is_empty(), "not canceled: {refused:?}");
        times.record(u64::try_from(begin.elapsed().as_nanos())?)?;
    }
    let figure = |title, nanoseconds| {
        Figure::new(title, milliseconds(nanoseconds), Unit::Milliseconds).in_flight(1)
    };
    Ok([
        figure("cancel by id, p50", times.value_at_quantile(0.5)),
        figure("cancel by id, most", times.max()).at_most(CANCEL_MS_MAX),
    ])
}
