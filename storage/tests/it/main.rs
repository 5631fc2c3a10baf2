//! What the log promises, a file per promise.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod model;

mod append;
mod compaction;
mod crash;
mod damage;
mod follow;
mod refusal;
mod repair;
mod tail;
mod threads;
