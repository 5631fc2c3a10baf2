//! What becomes of jobs when their worker or their broker is killed, when they cannot hear each other,
//! and when their clocks differ; and what the guides say about all that.

mod killed;
mod clocks;
mod guides;
mod idle;
mod lost;
mod restarts;
