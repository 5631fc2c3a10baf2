//! The messages that the floor hands out: a file of them, read round and round.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use bytes::{Buf as _, Bytes};

use super::log::encode_record;
use super::{DELIVERY_BATCH, MESSAGE_BYTES_MAX};

/// About how much is stored: more than any cache of the processor holds.
const STORED_BYTES: usize = 128 * 1024 * 1024;

/// Bytes in a block, unless a single message is larger: half of what a request may have.
const BLOCK_BYTES: usize = MESSAGE_BYTES_MAX / 2;

/// Stored messages in blocks of [`DELIVERY_BATCH`], of large ones fewer; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    file: Arc<File>,
    /// Messages in a block.
    batch: usize,
    block_bytes: usize,
    blocks: u64,
}

impl Stored {
    /// Fills the file at `path` with messages of `payload_bytes` each and syncs it.
    pub(super) fn create(path: &Path, payload_bytes: usize) -> io::Result<Self> {
        let mut block = Vec::new();
        let payload = vec![7; payload_bytes];
        let batch = (BLOCK_BYTES / payload_bytes.max(1)).clamp(1, DELIVERY_BATCH);
        (0..batch).for_each(|_| encode_record(&payload, &mut block));
        let blocks = STORED_BYTES.div_ceil(block.len()) as u64;
        let mut file = File::options().read(true).write(true).create_new(true).open(path)?;
        for _ in 0..blocks {
            file.write_all(&block)?;
        }
        file.sync_all()?;
        Ok(Self { file: Arc::new(file), batch, block_bytes: block.len(), blocks })
    }

    /// Messages in a block.
    pub(super) fn batch(&self) -> usize {
        self.batch
    }

    /// The first so many payloads of block `number`, counted on from the first again after the last.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or holds something else than was written.
    pub(super) fn read_block(&self, number: u64, messages: usize) -> io::Result<Vec<Bytes>> {
        let mut block = vec![0; self.block_bytes / self.batch * messages];
        let offset = number % self.blocks * self.block_bytes as u64;
        self.file.read_exact_at(&mut block, offset)?;
        let mut block = Bytes::from(block);
        (0..messages).map(|_| split_record(&mut block)).collect()
    }
}

fn split_record(block: &mut Bytes) -> io::Result<Bytes> {
    let damaged = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what);
    let crc = block.try_get_u32_le().map_err(|_| damaged("a block ends inside a record"))?;
    let length = block.try_get_u32_le().map_err(|_| damaged("a block ends inside a record"))?;
    if block.len() < length as usize {
        return Err(damaged("a record is longer than its block"));
    }
    let payload = block.split_to(length as usize);
    if crc32fast::hash(&payload) != crc {
        return Err(damaged("a record's checksum is wrong"));
    }
    Ok(payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_read_round_and_round_and_damage_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stored");
        let stored = Stored::create(&path, 64 * 1024).unwrap();
        for number in [0, stored.blocks - 1, stored.blocks] {
            let payloads = stored.read_block(number, DELIVERY_BATCH).unwrap();
            assert_eq!(payloads.len(), DELIVERY_BATCH);
            assert!(payloads.iter().all(|payload| payload == &vec![7; 64 * 1024]));
        }
        assert_eq!(stored.read_block(1, 3).unwrap(), vec![vec![7; 64 * 1024]; 3]);
        File::options().write(true).open(&path).unwrap().write_all_at(b"x", 100).unwrap();
        let error = stored.read_block(0, 1).unwrap_err();
        assert_eq!(error.to_string(), "a record's checksum is wrong");
    }
}
