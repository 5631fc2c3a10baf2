//! An append-only log that is synced before anything is confirmed: bytes in, LSNs out.
//!
//! [`Log::append`] gives a batch its LSNs at once; the writer's thread puts all that has piled up
//! into one frame, writes and syncs it, and tells the [`Observer`] what is durable. What nothing
//! needs any more leaves in whole segments, once two checkpoints have absorbed it.
//!
//! What is promised: a batch told to be durable is there after any crash, whole and in its
//! place; one that was not is there whole, or not at all. A torn end is repaired, damage to
//! confirmed data is refused with its place named. After a failed write or sync nothing more is
//! accepted.
//!
//! `docs/internals/log-format.md` draws the files byte by byte.

mod checkpoint;
pub mod disk;
mod error;
mod frame;
mod layout;
mod liveness;
mod log;
mod lsn;
mod pool;
mod reader;
mod record;
mod recovery;
mod repair;
mod retention;
mod scan;
mod segment;
mod stats;
mod survey;
mod tail;
mod verify;
mod writer;

pub use crate::error::{AppendError, Damage, DiskError, Lost, OpenError, ReadError, WriteError};
pub use crate::liveness::Liveness;
pub use crate::log::{Log, Observer, Options};
pub use crate::lsn::{Lsn, LsnRange};
pub use crate::pool::Space;
pub use crate::record::{Batch, Body, Retention, StoredRecord};
pub use crate::recovery::{Cut, Recovery, RecoveryReport};
pub use crate::repair::{RepairError, RepairOptions, RepairReport, repair};
pub use crate::stats::{SYNC_BUCKETS_US, Stats};
pub use crate::verify::{VerifyReport, verify};
pub use crate::writer::Writer;
