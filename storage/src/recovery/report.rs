//! What a start found and did, for the start log.

use std::fmt;
use std::time::Duration;

use crate::error::Lost;
use crate::lsn::Lsn;

/// What a start found and did.
#[derive(Clone, Debug, Default)]
pub struct RecoveryReport {
    /// Segments in the log.
    pub segments: usize,
    /// Cold segments beside them.
    pub cold_segments: usize,
    /// The oldest LSN in them.
    pub first_lsn: Lsn,
    /// The newest LSN in them; [`Lsn::NONE`] while nothing was ever appended.
    pub last_lsn: Lsn,
    /// The number of this start.
    pub epoch: u64,
    /// The LSN of the checkpoint that was used.
    pub checkpoint: Option<Lsn>,
    /// Bytes of its state.
    pub checkpoint_bytes: u64,
    /// Records replayed after the checkpoint.
    pub replayed_records: u64,
    /// Bytes of log read for it.
    pub replayed_bytes: u64,
    /// Whether the log was closed in order. A log that begins with this start was not.
    pub closed: bool,
    /// Bytes at the end of the log that were written again, since nothing proved them durable.
    pub rewritten_bytes: u64,
    /// What was cut off, if the last write was torn. It was never confirmed to anybody.
    pub cut: Option<Cut>,
    /// LSNs that an earlier repair gave up.
    pub lost: Vec<Lost>,
    /// What somebody should look at, though nothing is lost.
    pub warnings: Vec<String>,
    /// How long recovering took, the owner's part of the replay included.
    pub took: Duration,
}

/// A torn tail that was cut off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The segment, relative to the data folder.
    pub file: String,
    /// Where the torn frame began.
    pub offset: u64,
    /// Bytes from there on that were cut.
    pub bytes: u64,
    /// Where they were copied to.
    pub kept_in: String,
}

impl fmt::Display for RecoveryReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "epoch {}: {} segments, LSN {} to {}",
            self.epoch, self.segments, self.first_lsn, self.last_lsn
        )?;
        if 0 < self.cold_segments {
            write!(f, ", {} cold segments", self.cold_segments)?;
        }
        match self.checkpoint {
            Some(lsn) => write!(f, ", checkpoint at {lsn} ({} bytes)", self.checkpoint_bytes)?,
            None => write!(f, ", no checkpoint")?,
        }
        write!(
            f,
            ", {} records replayed from {} bytes in {:.3} s, {}",
            self.replayed_records,
            self.replayed_bytes,
            self.took.as_secs_f64(),
            match self.segments {
                0 => "a new log",
                _ if self.closed => "closed in order",
                _ => "not closed in order",
            }
        )?;
        if 0 < self.rewritten_bytes {
            write!(f, ", {} bytes written again", self.rewritten_bytes)?;
        }
        if let Some(cut) = &self.cut {
            write!(
                f,
                ", a torn write of {} bytes cut from {} at {}, kept in {}",
                cut.bytes, cut.file, cut.offset, cut.kept_in
            )?;
        }
        for lost in &self.lost {
            let what = if lost.heads { "lost" } else { "without their bodies" };
            write!(f, ", LSN {} {what} by a repair", lost.lsns)?;
        }
        Ok(())
    }
}
