//! What a worker promises, on a real broker.
#![allow(clippy::unwrap_used)]

mod harness;

mod jobs;
mod retries;
mod attempts;
mod defaults;
mod limits;
mod shutdown;
mod middleware;
mod results;
mod composition;
mod rates;
mod killed;
mod scheduled;
mod process;
mod guide;
