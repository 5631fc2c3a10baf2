//! The broker while nobody asks anything of it: what it holds, and what it lets go.

use std::time::{Duration, Instant};

use super::figure::{Figure, MEBIBYTE, Unit};
use super::stage::{Done, Phase, Stage};
use crate::report::thousands;
use crate::system::Fallible;

/// What the broker may keep of a drained queue: 12 segments.
pub(crate) const DISK_EMPTY_MAX: u64 = 12 * (64 << 20);

/// How long it has for letting the rest go.
const DISK_WITHIN: Duration = Duration::from_secs(30);

/// Watches the broker while nobody asks anything of it.
pub(crate) async fn hold(stage: &mut Stage, seconds: f64) -> Fallible<Phase> {
    let open = stage.begin("hold", None).await?;
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
    stage.end(open, Done::default()).await
}

/// Waits until the data folder takes no more than `bytes`; how long that took. Twice the time it may
/// take is waited at most, and told.
pub(crate) async fn until_disk(stage: &mut Stage, what: &str, bytes: u64) -> Fallible<Figure> {
    let open = stage.begin(what, None).await?;
    let begin = Instant::now();
    while bytes < stage.disk_bytes()? && begin.elapsed() < 2 * DISK_WITHIN {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let phase = stage.end(open, Done::default()).await?;
    let title = format!("{what}: at most {} MiB after", thousands(bytes as f64 / MEBIBYTE));
    let figure = Figure::new(title, phase.seconds, Unit::Seconds);
    Ok(figure.at_most(DISK_WITHIN.as_secs_f64()))
}

pub(crate) fn most(phases: &[Phase], value: fn(&Phase) -> u64) -> u64 {
    phases.iter().map(value).max().unwrap_or_default()
}
