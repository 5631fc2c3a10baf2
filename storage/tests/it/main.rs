//! What the log promises, a file per promise.

mod model;

mod append;
mod crash;
mod damage;
mod refusal;
mod repair;
mod threads;
