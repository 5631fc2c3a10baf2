//! What is appended: records, and the batches that are on disk together or not at all.

use bytes::Bytes;

/// The payload part of a record: encoded and checksummed by the caller, outside every lock.
///
/// Two parts, so that a small prefix and a big payload need not be copied together. On disk they
/// are one run of bytes; a body read back from disk has all of it in the second part.
#[derive(Clone, Debug, Default)]
pub struct Body {
    parts: [Bytes; 2],
    crc: u32,
}

impl Body {
    /// A body of `prefix` followed by `payload`; computes its CRC-32 here.
    #[must_use]
    pub fn new(prefix: Bytes, payload: Bytes) -> Self {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&prefix);
        hasher.update(&payload);
        Self { parts: [prefix, payload], crc: hasher.finalize() }
    }

    /// A body read from disk, or `None` when the bytes do not have the checksum they were stored with.
    pub(crate) fn checked(bytes: Bytes, crc: u32) -> Option<Self> {
        (crc32fast::hash(&bytes) == crc).then(|| Self { parts: [Bytes::new(), bytes], crc })
    }

    /// Whether there are no bytes in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of both parts.
    #[must_use]
    pub fn len(&self) -> usize {
        self.parts[0].len() + self.parts[1].len()
    }

    /// The bytes, in order.
    #[must_use]
    pub fn parts(&self) -> &[Bytes; 2] {
        &self.parts
    }

    /// CRC-32 of the bytes.
    #[must_use]
    pub fn crc(&self) -> u32 {
        self.crc
    }
}

/// Equal when the bytes are, however they are cut into parts.
impl PartialEq for Body {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len()
            && self.crc == other.crc
            && self.parts.iter().flatten().eq(other.parts.iter().flatten())
    }
}

impl Eq for Body {}

/// How long a record is needed.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Retention {
    /// Until it is retired in [`Liveness`](crate::Liveness): message bodies, failures.
    Keep,
    /// Until the older checkpoint has absorbed it: acks, grants.
    Passing,
}

/// One record of a batch. Its head ends at `head_end` of the batch's heads.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) head_end: u32,
    pub(crate) retention: Retention,
    pub(crate) body: Body,
}

/// Records that are on disk together or not at all: they go into one frame.
#[derive(Debug, Default)]
pub struct Batch {
    records: Vec<Record>,
    heads: Vec<u8>,
    body_bytes: usize,
    head_bytes_longest: usize,
}

impl Batch {
    /// Adds a record. `encode_head` appends the head, the part that recovery replays.
    pub fn push(
        &mut self,
        retention: Retention,
        body: Body,
        encode_head: impl FnOnce(&mut Vec<u8>),
    ) {
        let head_start = self.heads.len();
        encode_head(&mut self.heads);
        self.head_bytes_longest = self.head_bytes_longest.max(self.heads.len() - head_start);
        self.body_bytes += body.len();
        // A batch whose heads pass 4 GiB is refused by its size, so the cut cannot matter.
        let head_end = u32::try_from(self.heads.len()).unwrap_or(u32::MAX);
        self.records.push(Record { head_end, retention, body });
    }

    /// How many records it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether it holds no records.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Bytes it will take in a frame: heads, bodies and their table, without the frame's header.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.heads.len() + self.body_bytes + self.records.len() * crate::frame::ENTRY_LEN
    }

    pub(crate) fn head_bytes_longest(&self) -> usize {
        self.head_bytes_longest
    }

    /// Shares the batch between the writer and the tail cache, heads uncopied.
    pub(crate) fn freeze(self) -> FrozenBatch {
        let bytes = self.bytes();
        FrozenBatch {
            keeps: self.records.iter().filter(|r| r.retention == Retention::Keep).count(),
            records: self.records,
            heads: Bytes::from(self.heads),
            body_bytes: self.body_bytes,
            bytes,
        }
    }
}

/// A batch that will not change any more.
#[derive(Debug)]
pub(crate) struct FrozenBatch {
    pub(crate) records: Vec<Record>,
    pub(crate) heads: Bytes,
    pub(crate) body_bytes: usize,
    pub(crate) bytes: usize,
    pub(crate) keeps: usize,
}

impl FrozenBatch {
    fn head_start(&self, index: usize) -> usize {
        index.checked_sub(1).map_or(0, |before| self.records[before].head_end as usize)
    }

    pub(crate) fn head_len(&self, index: usize) -> usize {
        self.records[index].head_end as usize - self.head_start(index)
    }

    /// A record's head; shares the memory of the batch.
    pub(crate) fn head(&self, index: usize) -> Bytes {
        self.heads.slice(self.head_start(index)..self.records[index].head_end as usize)
    }

    /// A record as a read returns it; shares the memory of the batch.
    pub(crate) fn stored(&self, index: usize) -> StoredRecord {
        let record = &self.records[index];
        StoredRecord { head: self.head(index), body: record.body.clone() }
    }
}

/// A record as it was appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRecord {
    /// What recovery replays.
    pub head: Bytes,
    /// The payload part.
    pub body: Body,
}
