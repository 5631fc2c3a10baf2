//! An append-only log that is synced before anything is confirmed: bytes in, LSNs out.
//!
//! [`Log::append`] gives a batch its LSNs at once; the writer's thread puts all that has piled up
//! into one frame, writes and syncs it, and tells the [`Observer`] what is durable. What nothing
//! needs any more leaves in whole segments, once two checkpoints have absorbed it; the few records
//! that live on in sparse ones are copied together first.
//!
//! What is promised: a batch told to be durable is there after any crash, whole and in its
//! place; one that was not is there whole, or not at all. A torn end is repaired, damage to
//! confirmed data is refused with its place named. After a failed write or sync nothing more is
//! accepted.
//!
//! `docs/internals/log-format.md` draws the files byte by byte.

// What is appended, and how it gets to disk.
mod lsn;
mod record;

mod log;
mod tables;
mod tail;
mod writer;

mod frame;
mod pool;
mod segment;

// How it is read.
mod follow;
mod heads;
mod reader;
mod scan;

// How it leaves.
mod checkpoint;
mod cold;
mod compaction;
mod liveness;
mod retention;

// How it comes back.
mod recovery;

mod repair;
mod survey;
mod verify;

#[cfg(feature = "sim")]
pub mod fuzz;

pub mod disk;
mod background;
mod error;
mod layout;
mod stats;

pub use crate::background::give_way;
pub use crate::error::{AppendError, Damage, DiskError, Lost, OpenError, ReadError, WriteError};
pub use crate::follow::{Bound, FollowError, Stretch};
pub use crate::liveness::{Kept, Liveness};
pub use crate::log::{Log, Observer, Options};
pub use crate::lsn::{Lsn, LsnRange};
pub use crate::pool::Space;
pub use crate::reader::Reader;
pub use crate::record::{Batch, Body, Retention, StoredRecord};
pub use crate::recovery::{Cut, Recovery, RecoveryReport};
pub use crate::repair::{RepairError, RepairOptions, RepairReport, repair};
pub use crate::stats::{SYNC_BUCKETS_US, Stats};
pub use crate::verify::{VerifyReport, verify};
pub use crate::writer::Writer;
