//! What qbroker promises, a file per promise.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod crash;
mod disk;
mod grpc;
mod kill;
mod start;
mod stop;
mod tidy;
mod time;
