//! A durable message broker in one process.
//!
//! The modules below stand in the order a message meets them.

pub mod clock;
pub mod engine;
pub mod grpc;
pub mod queue;

// shell modules
pub mod accept;
pub mod auth;
pub mod config;
pub mod exit;
pub mod metrics;
pub mod supervisor;
pub mod telemetry;
pub mod tls;
pub mod web;
