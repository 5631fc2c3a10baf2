//! A participant's turn: its server is fresh, warms up and runs every row once.

use std::sync::Arc;

use anyhow::Context as _;

use super::peer::{Peer, RowRuns};
use crate::meter::Meter;
use crate::row::Row;
use crate::system::Fallible;
use crate::workload::{self, Load, Run};

/// Messages in flight that a broker may choose from where there are batches.
const WINDOWS: [u32; 2] = [1_000, 4_000];

/// What is known of a participant from earlier turns.
#[derive(Debug)]
pub(crate) struct Turn {
    /// The window of each row, where it is not the row's.
    fitted: Vec<(Row, u32)>,
    /// Whether it is still to be found.
    to_be_fitted: bool,
}

impl Turn {
    pub(crate) fn to_be_fitted() -> Self {
        Self { fitted: Vec::new(), to_be_fitted: true }
    }

    pub(crate) fn as_the_rows_say() -> Self {
        Self { fitted: Vec::new(), to_be_fitted: false }
    }

    pub(crate) fn in_flight(&self, row: Row) -> u32 {
        let fitted = self.fitted.iter().find(|(fitted, _)| *fitted == row);
        fitted.map_or_else(|| row.in_flight(), |(_, window)| *window)
    }
}

/// Runs `rows` after a warm-up.
///
/// In the first turn the warm-up also finds out which of the windows suits the broker better.
pub(crate) async fn run<P: Peer>(
    turn: &mut Turn,
    peer: &Arc<P>,
    rows: &[Row],
    load: &Load,
) -> Fallible<RowRuns> {
    let messages_max = load.messages_max.div_ceil(4);
    let little = Load { messages_max, duration_max: load.duration_max / 4, ..load.clone() };
    for &row in rows {
        // Nothing is at its speed in the first moment.
        run_once(peer, row, "warm", &little, turn.in_flight(row)).await?;
    }
    if std::mem::take(&mut turn.to_be_fitted) {
        for &row in rows.iter().filter(|row| WINDOWS.contains(&row.in_flight()) && row.batch() > 1)
        {
            let window = fit(peer, row, &little).await?;
            turn.fitted.push((row, window));
        }
    }
    let mut runs = Vec::new();
    for &row in rows {
        runs.push((row, run_once(peer, row, "run", load, turn.in_flight(row)).await?));
    }
    Ok(runs)
}

/// The window that `row` is faster with.
async fn fit<P: Peer>(peer: &Arc<P>, row: Row, load: &Load) -> Fallible<u32> {
    let mut best = (0.0, row.in_flight());
    for window in WINDOWS {
        let run = run_once(peer, row, &format!("fit-{window}"), load, window).await?;
        let rate = run.messages as f64 / run.measured.elapsed.as_secs_f64();
        if best.0 < rate {
            best = (rate, window);
        }
    }
    Ok(best.1)
}

async fn run_once<P: Peer>(
    peer: &Arc<P>,
    row: Row,
    purpose: &str,
    load: &Load,
    in_flight: u32,
) -> Fallible<Run> {
    let queue = format!("{}-{purpose}", row.key());
    let load = Load { in_flight: Some(in_flight), ..load.clone() };
    let meter = Meter::new(peer.server().id(), None);
    let run = workload::run(row, Arc::clone(peer), queue, load, meter).await;
    run.with_context(|| format!("its server said last:\n{}", peer.server().last_words()))
}
