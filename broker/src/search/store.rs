//! The database: blocks of entries by the first bits of their hashes.
//!
//! An entry of its own for each name would cost the database a hundred bytes of memory for each, and
//! a random write. So entries are gathered, and go in together: a bucket is a row of blocks of up to
//! 256 entries, and only its last one is ever changed. 20,000,000 entries take 720 MiB of disk, 100 MiB of
//! memory and 17 seconds. What is gone is taken out when half of what is there may be.

use std::collections::BTreeSet;
use std::path::Path;

use prost::Message as _;
use qbroker_storage::Lsn;

use super::entry::Attribute;
use super::guard::Broken;

/// Buckets of an attribute.
const BUCKETS: usize = 1_024;
/// Bytes of an entry: six of its hash, eight of its LSN.
const ENTRY: usize = 14;
/// Entries of a block.
const BLOCK: usize = 256;
/// Entries that are gathered in memory: the more, the less is written.
const GATHERED_MAX: usize = 1 << 17;
/// Entries at most; beyond it nothing more is taken in, and whoever asks is told.
pub(super) const ENTRIES_MAX: u64 = 32 << 20;
/// The database's cache. It takes several times as much.
const CACHE_BYTES: u64 = 1 << 20;
/// Another layout is another number, and begins anew.
const LAYOUT: u32 = 1;
const ABOUT: &[u8] = b"\xffabout";

/// What the database says of itself.
#[derive(Clone, PartialEq, prost::Message)]
struct About {
    #[prost(uint32, tag = "1")]
    layout: u32,
    #[prost(bytes = "vec", tag = "2")]
    log_id: Vec<u8>,
    /// Uptime of the machine in which it was written: what was written before a power cut is not to be
    /// believed, unless it was closed before.
    #[prost(string, tag = "3")]
    boot_id: String,
    #[prost(bool, tag = "4")]
    closed: bool,
    /// Everything up to here was looked at.
    #[prost(uint64, tag = "5")]
    applied: u64,
    #[prost(uint64, tag = "6")]
    entries: u64,
    /// Entries that were left when it was last tidied.
    #[prost(uint64, tag = "7")]
    tidy: u64,
}

#[derive(Debug)]
pub(super) struct Store {
    db: sled::Db,
    about: About,
    /// Of each bucket: its last block, and how many entries are in it.
    tails: Vec<(u32, usize)>,
    gathered: Vec<Vec<u8>>,
    count: usize,
    /// The next bucket to be tidied, while that goes on.
    tidying: Option<usize>,
}

impl Store {
    /// Opens what is in the folder, where it is of this log and can be believed.
    pub(super) fn open(
        folder: &Path,
        log_id: [u8; 16],
        boot_id: String,
        durable: Lsn,
    ) -> Result<Self, Broken> {
        let db = sled::Config::new()
            .path(folder)
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(Some(1_000))
            .mode(sled::Mode::HighThroughput)
            .open()?;
        let fresh = About {
            layout: LAYOUT,
            log_id: log_id.to_vec(),
            boot_id: boot_id.clone(),
            ..About::default()
        };
        let about = match db.get(ABOUT)? {
            Some(bytes) => About::decode(&*bytes).map_err(|_| Broken::Unfit("it is unreadable"))?,
            None if db.is_empty() => fresh.clone(),
            None => return Err(Broken::Unfit("it does not say what it is of")),
        };
        if about.layout != LAYOUT {
            return Err(Broken::Unfit("another version wrote it"));
        }
        if about.log_id != fresh.log_id {
            return Err(Broken::Unfit("it is of another log"));
        }
        if durable.0 < about.applied {
            return Err(Broken::Unfit("it tells of what the log does not have"));
        }
        if !about.closed && about.boot_id != boot_id {
            return Err(Broken::Unfit("the machine stopped before it was closed"));
        }
        let buckets = BUCKETS * Attribute::ALL.len();
        let gathered = vec![Vec::new(); buckets];
        let mut store = Self { db, about, tails: Vec::new(), gathered, count: 0, tidying: None };
        store.tails = (0..buckets).map(|bucket| store.tail(bucket)).collect::<Result<_, _>>()?;
        store.about.boot_id = boot_id;
        store.about.closed = false;
        store.write_about()?;
        Ok(store)
    }

    /// Where it goes on in the log.
    pub(super) fn applied(&self) -> Lsn {
        Lsn(self.about.applied)
    }

    pub(super) fn entries(&self) -> u64 {
        self.about.entries + self.count as u64
    }

    pub(super) fn is_full(&self) -> bool {
        ENTRIES_MAX <= self.entries()
    }

    /// Takes an entry in; it counts once it is written.
    pub(super) fn add(&mut self, attribute: Attribute, hash: u64, lsn: Lsn) {
        if self.is_full() {
            return;
        }
        let gathered = &mut self.gathered[bucket_of(attribute, hash)];
        gathered.extend_from_slice(&rest_of(hash));
        gathered.extend_from_slice(&lsn.0.to_be_bytes());
        self.count += 1;
    }

    /// Whether enough is gathered to be written.
    pub(super) fn is_due(&self) -> bool {
        GATHERED_MAX <= self.count
    }

    /// Writes what is gathered; everything up to `applied` was looked at.
    pub(super) fn write(&mut self, applied: Lsn) -> Result<(), Broken> {
        for bucket in 0..self.gathered.len() {
            let mut entries = std::mem::take(&mut self.gathered[bucket]);
            self.about.entries += (entries.len() / ENTRY) as u64;
            while !entries.is_empty() {
                let (block, held) = self.tails[bucket];
                let key = key(bucket, block);
                let mut bytes = match held {
                    0 => Vec::new(),
                    _ => self.db.get(key)?.ok_or(Broken::Unfit("a block is missing"))?.to_vec(),
                };
                let room = (BLOCK * ENTRY).saturating_sub(bytes.len()).min(entries.len());
                bytes.extend(entries.drain(..room));
                let held = bytes.len() / ENTRY;
                self.db.insert(key, bytes)?;
                self.tails[bucket] = if BLOCK <= held { (block + 1, 0) } else { (block, held) };
            }
        }
        self.count = 0;
        // Behind what it tells of: the database keeps the order.
        self.about.applied = applied.0;
        self.write_about()
    }

    /// Where a name may stand behind `after`: the first `max` places, each once and in order.
    pub(super) fn find(
        &self,
        attribute: Attribute,
        hash: u64,
        after: Lsn,
        max: usize,
    ) -> Result<Vec<Lsn>, Broken> {
        let (bucket, rest) = (bucket_of(attribute, hash), rest_of(hash));
        let mut found = BTreeSet::new();
        let mut look = |entries: &[u8]| {
            let entries = entries.as_chunks::<ENTRY>().0.iter();
            for lsn in entries.filter(|entry| entry[..6] == rest).map(lsn_of) {
                if after < lsn && found.insert(lsn) && max < found.len() {
                    found.pop_last();
                }
            }
        };
        for block in self.db.scan_prefix(prefix(bucket)) {
            look(&block?.1);
        }
        look(&self.gathered[bucket]);
        Ok(found.into_iter().collect())
    }

    /// Takes out entries that nothing is kept for, a bucket at a time; whether there is more to do.
    pub(super) fn tidy(&mut self, is_kept: impl Fn(Lsn) -> bool) -> Result<bool, Broken> {
        let bucket = match self.tidying {
            Some(bucket) => bucket,
            None if self.about.entries < 2 * self.about.tidy + GATHERED_MAX as u64 => {
                return Ok(false);
            }
            None => 0,
        };
        let mut kept = Vec::new();
        let mut blocks = 0_u64;
        for block in self.db.scan_prefix(prefix(bucket)) {
            blocks += 1;
            for entry in block?.1.as_chunks::<ENTRY>().0 {
                if is_kept(lsn_of(entry)) {
                    kept.push(*entry);
                } else {
                    self.about.entries -= 1;
                }
            }
        }
        let mut next = 0;
        for block in kept.chunks(BLOCK) {
            self.db.insert(key(bucket, next), block.as_flattened())?;
            next += 1;
        }
        for block in u64::from(next)..blocks {
            self.db.remove(key(bucket, u32::try_from(block).unwrap_or(u32::MAX)))?;
        }
        self.tails[bucket] = self.tail(bucket)?;
        self.tidying = Some(bucket + 1).filter(|next| *next < self.tails.len());
        if self.tidying.is_none() {
            self.about.tidy = self.about.entries;
            self.write_about()?;
        }
        Ok(self.tidying.is_some())
    }

    /// Writes what is gathered, and says that it is whole.
    pub(super) fn close(mut self, applied: Lsn) -> Result<(), Broken> {
        self.about.closed = true;
        self.write(applied)?;
        self.db.flush()?;
        Ok(())
    }

    /// Lets go of it without another word to the database.
    pub(super) fn abandon(self) {
        std::mem::forget(self);
    }

    fn tail(&self, bucket: usize) -> Result<(u32, usize), Broken> {
        let Some(last) = self.db.scan_prefix(prefix(bucket)).next_back() else { return Ok((0, 0)) };
        let (key, bytes) = last?;
        let block = key.get(3..7).and_then(|block| block.try_into().ok()).map(u32::from_be_bytes);
        let block = block.ok_or(Broken::Unfit("a block has no number"))?;
        if !bytes.len().is_multiple_of(ENTRY) || BLOCK * ENTRY < bytes.len() {
            return Err(Broken::Unfit("a block is of no size that was written"));
        }
        let held = bytes.len() / ENTRY;
        Ok(if held == BLOCK { (block + 1, 0) } else { (block, held) })
    }

    fn write_about(&self) -> Result<(), Broken> {
        self.db.insert(ABOUT, self.about.encode_to_vec())?;
        Ok(())
    }
}

fn bucket_of(attribute: Attribute, hash: u64) -> usize {
    let low = usize::try_from(hash % BUCKETS as u64).expect("below a thousand and some");
    usize::from(attribute.number()) * BUCKETS + low
}

/// The part of a hash that tells names of a bucket apart.
fn rest_of(hash: u64) -> [u8; 6] {
    let bytes = hash.to_be_bytes();
    [bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5]]
}

fn lsn_of(entry: &[u8; ENTRY]) -> Lsn {
    Lsn(u64::from_be_bytes(entry[6..].try_into().expect("eight bytes")))
}

fn prefix(bucket: usize) -> [u8; 3] {
    let attribute = u8::try_from(bucket / BUCKETS).expect("there are three");
    let [high, low] = u16::try_from(bucket % BUCKETS).expect("a thousand and some").to_be_bytes();
    [attribute, high, low]
}

fn key(bucket: usize, block: u32) -> [u8; 7] {
    let mut key = [0; 7];
    key[..3].copy_from_slice(&prefix(bucket));
    key[3..].copy_from_slice(&block.to_be_bytes());
    key
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn open(folder: &TempDir, log: u8, boot: &str, durable: u64) -> Result<Store, Broken> {
        Store::open(&folder.path().join("search"), [log; 16], boot.to_owned(), Lsn(durable))
    }

    fn found(store: &Store, hash: u64) -> Vec<u64> {
        let found = store.find(Attribute::MessageId, hash, Lsn(0), 1_000).unwrap();
        found.into_iter().map(|lsn| lsn.0).collect()
    }

    /// Hashes that fall into one bucket, and differ in what is kept of them.
    fn hash(number: u64) -> u64 {
        number << 16 | 5
    }

    #[test]
    fn what_was_added_is_found_before_and_after_it_is_written() {
        let folder = TempDir::new().unwrap();
        let mut store = open(&folder, 1, "a", 0).unwrap();
        // Some blocks of one bucket.
        for lsn in 1..=700 {
            store.add(Attribute::MessageId, hash(lsn % 7), Lsn(lsn));
            if lsn % 100 == 0 {
                store.write(Lsn(lsn)).unwrap();
            }
        }
        store.add(Attribute::MessageId, hash(3), Lsn(701));
        store.add(Attribute::MessageType, hash(3), Lsn(702));
        let threes = || (1..=701).filter(|lsn| lsn % 7 == 3 || *lsn == 701).collect::<Vec<u64>>();
        assert_eq!(found(&store, hash(3)), threes());
        let some = store.find(Attribute::MessageId, hash(3), Lsn(100), 2).unwrap();
        assert_eq!(some, [Lsn(101), Lsn(108)]);
        store.close(Lsn(702)).unwrap();
        // Another uptime believes what was closed.
        let store = open(&folder, 1, "b", 702).unwrap();
        assert_eq!((store.applied(), store.entries()), (Lsn(702), 702));
        assert_eq!(found(&store, hash(3)), threes());
        assert_eq!(found(&store, hash(9)), [0; 0]);
    }

    #[test]
    fn what_cannot_be_believed_is_refused() {
        let folder = TempDir::new().unwrap();
        let mut store = open(&folder, 1, "a", 10).unwrap();
        store.write(Lsn(10)).unwrap();
        drop(store);
        for (log, boot, durable) in [(2, "a", 10), (1, "a", 9), (1, "b", 10)] {
            let refused = open(&folder, log, boot, durable).unwrap_err();
            assert!(matches!(refused, Broken::Unfit(_)), "{refused}");
        }
        assert_eq!(open(&folder, 1, "a", 10).unwrap().applied(), Lsn(10));
    }

    #[test]
    fn what_is_gone_is_taken_out_when_it_may_be_half() {
        let folder = TempDir::new().unwrap();
        let mut store = open(&folder, 1, "a", 0).unwrap();
        assert!(!store.tidy(|_| true).unwrap(), "there is nothing to do");
        let count = GATHERED_MAX as u64;
        (0..count).for_each(|lsn| store.add(Attribute::MessageId, hash(lsn), Lsn(lsn)));
        assert!(store.is_due());
        store.write(Lsn(count)).unwrap();
        while store.tidy(|lsn| lsn.0.is_multiple_of(1_000)).unwrap() {}
        assert_eq!(store.entries(), count.div_ceil(1_000));
        assert_eq!((found(&store, hash(3_000)), found(&store, hash(3_001))), (vec![3_000], vec![]));
        // It goes on where it ended.
        store.add(Attribute::MessageId, hash(1), Lsn(count));
        store.write(Lsn(count)).unwrap();
        assert_eq!(found(&store, hash(1)), [count]);
        assert!(!store.tidy(|_| false).unwrap(), "too little has come since");
    }
}
