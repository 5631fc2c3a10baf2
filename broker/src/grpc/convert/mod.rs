//! Wire types to ours and back; nowhere else.

pub(super) mod batch;
pub(super) mod bounds;
pub(super) mod client;
pub(super) mod delivery;
pub(super) mod effects;
pub(super) mod filter;
pub(super) mod event;
pub(super) mod incoming;
pub(super) mod names;
pub(super) mod operation;
pub(super) mod outgoing;
pub(super) mod policy;
pub(super) mod schedule;
pub(super) mod selector;
pub(super) mod settlements;
pub(super) mod state;
pub(super) mod time;
pub(super) mod token;

#[cfg(test)]
mod tests;
