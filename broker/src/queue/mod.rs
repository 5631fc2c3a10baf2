//! The queues.
