//! Cold segments: the few records that lived in many segments, copied into one file.

pub(crate) mod column;
pub(crate) mod file;

use std::sync::Arc;

use crate::cold::column::Column;
use crate::segment::Segment;

/// A cold segment in use.
#[derive(Debug)]
pub(crate) struct ColdSegment {
    pub(crate) segment: Arc<Segment>,
    /// Which records it holds, and where.
    pub(crate) column: Arc<Column>,
}

impl ColdSegment {
    pub(crate) fn seq(&self) -> u64 {
        self.segment.seq()
    }
}
