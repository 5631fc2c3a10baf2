//! What qbroker promises, a file per promise.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod backlog;
mod cli;
mod compact;
mod crash;
mod disk;
mod faults;
mod fuzz;
mod grpc;
mod jumps;
mod hostile;
mod kill;
mod network;
mod old;
mod pages;
mod pki;
mod simulate;
mod start;
mod stop;
mod tidy;
mod time;
mod torture;
mod unreadable;
mod worker;
