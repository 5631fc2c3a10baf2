//! A durable message broker in one process.
//!
//! The modules stand in the order a message meets them: [`grpc`] takes it off the wire, [`engine`]
//! lets [`queue`] decide and the log keep it, and sends on its way what may then be told. The rest
//! is what a process needs around that.

pub mod grpc;
pub mod engine;
pub mod clock;
pub mod calendar;
pub mod queue;
pub mod search;

pub mod server;
pub mod embedded;
pub mod config;
pub mod accept;
pub mod open_files;
pub mod auth;
pub mod tls;
pub mod web;
pub mod metrics;
pub mod telemetry;
pub mod supervisor;
pub mod exit;
