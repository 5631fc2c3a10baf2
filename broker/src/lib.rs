//! A durable message broker in one process.
//!
//! The modules below stand in the order a message meets them.

pub mod queue;

// shell modules
