//! The client against a scripted broker: each test plays the broker's part, word by word.
#![allow(clippy::unwrap_used)] // a test's helpers fail the test

mod begin;
mod broker;
mod calls;
mod consume;
mod effects;
mod ends;
mod publish;
