//! The database: blocks of entries by the first bits of their hashes.
//!
//! An entry of its own for each name would cost the database a hundred bytes of memory for each, and
//! a random write. So entries are gathered, and go in together: a bucket is a row of blocks of up to
//! 256 entries, and only its last one is ever changed. What is gone is taken out when half of what is
//! there may be.
//!
//! Memory, measured: 30 MiB when it is open and empty, 50 with 100,000 entries, 80 with a million, 100
//! with two, 200 with ten. A smaller cache, smaller segments and smaller writes changed nothing.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::mem::ManuallyDrop;
use std::path::Path;

use prost::Message as _;
use qbroker_storage::Lsn;

use super::entry::Attribute;
use super::guard::{Broken, contained, foreign_panics};

/// Buckets of an attribute.
const BUCKETS: usize = 1_024;
/// Bytes of an entry: six of its hash, eight of its LSN.
const ENTRY: usize = 14;
/// Entries of a block.
const BLOCK: usize = 256;
/// Entries that are gathered in memory: the more, the less is written.
const GATHERED_MAX: usize = 1 << 17;
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
    /// Something was passed over for want of room.
    #[prost(bool, tag = "8")]
    misses: bool,
}

/// What the store knows of the log that it is of.
#[derive(Clone, Debug)]
pub(super) struct Of {
    pub(super) log_id: [u8; 16],
    pub(super) boot_id: String,
    pub(super) durable: Lsn,
}

impl About {
    fn read(db: &sled::Db, of: &Of) -> Result<Self, Broken> {
        let about = match db.get(ABOUT)? {
            Some(bytes) => Self::decode(&*bytes).map_err(|_| Broken::Unfit("it is unreadable"))?,
            None if db.is_empty() => Self {
                layout: LAYOUT,
                log_id: of.log_id.to_vec(),
                boot_id: of.boot_id.clone(),
                ..Self::default()
            },
            None => return Err(Broken::Unfit("it does not say what it is of")),
        };
        about.check(of)?;
        Ok(about)
    }

    /// Whether this can be believed of that log.
    fn check(&self, of: &Of) -> Result<(), Broken> {
        let unfit = match self {
            it if it.layout != LAYOUT => "another version wrote it",
            it if it.log_id != of.log_id => "it is of another log",
            it if of.durable.0 < it.applied => "it tells of what the log does not have",
            it if !it.closed && it.boot_id != of.boot_id => {
                "the machine stopped before it was closed"
            }
            _ => return Ok(()),
        };
        Err(Broken::Unfit(unfit))
    }
}

#[derive(Debug)]
pub(super) struct Store {
    /// Closed by [`Store::close`] alone: where something has gone wrong, closing may do it once more.
    db: ManuallyDrop<sled::Db>,
    about: About,
    entries_max: u64,
    /// As many threads of databases had panicked when this one was opened.
    foreign_panics: u64,
    /// Of each bucket: its last block, and how many entries are in it.
    tails: Vec<(u32, usize)>,
    gathered: Vec<Vec<u8>>,
    count: usize,
    /// The next bucket to be tidied, while that goes on.
    tidying: Option<usize>,
}

impl Store {
    /// Opens what is in the folder, where it is of this log and can be believed.
    pub(super) fn open(folder: &Path, of: &Of, entries_max: u64) -> Result<Self, Broken> {
        contained(|| Self::open_contained(folder, of, entries_max))
    }

    fn open_contained(folder: &Path, of: &Of, entries_max: u64) -> Result<Self, Broken> {
        let foreign_panics = foreign_panics();
        let db = sled::Config::new()
            .path(folder)
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(Some(1_000))
            .mode(sled::Mode::HighThroughput)
            .open()?;
        let db = ManuallyDrop::new(db);
        let mut about = match About::read(&db, of) {
            Err(Broken::Unfit(why)) => {
                // Nothing is wrong with the database itself.
                drop(ManuallyDrop::into_inner(db));
                return Err(Broken::Unfit(why));
            }
            about => about?,
        };
        about.boot_id.clone_from(&of.boot_id);
        about.closed = false;
        let buckets = BUCKETS * Attribute::ALL.len();
        let gathered = vec![Vec::new(); buckets];
        let (tails, count, tidying) = (Vec::new(), 0, None);
        let mut store =
            Self { db, about, entries_max, foreign_panics, tails, gathered, count, tidying };
        store.tails = (0..buckets).map(|bucket| store.tail(bucket)).collect::<Result<_, _>>()?;
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

    /// Whether it takes no more of what may be there by the millions, or of anything.
    pub(super) fn is_full(&self, is_delayed: bool) -> bool {
        let max = if is_delayed { self.entries_max / 2 } else { self.entries_max };
        max <= self.entries()
    }

    /// Notes that something was passed over.
    pub(super) fn miss(&mut self) {
        self.about.misses = true;
    }

    /// Whether something was passed over since it was begun.
    pub(super) fn misses(&self) -> bool {
        self.about.misses
    }

    /// Takes an entry in; it counts once it is written.
    pub(super) fn add(&mut self, attribute: Attribute, hash: u64, lsn: Lsn) {
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
        self.check_threads()?;
        contained(|| self.write_contained(applied))
    }

    /// Whether the database's own threads are well, which nobody else would hear.
    fn check_threads(&self) -> Result<(), Broken> {
        match foreign_panics() {
            panics if panics == self.foreign_panics => Ok(()),
            _ => Err(Broken::Unfit("a thread of the database panicked")),
        }
    }

    fn write_contained(&mut self, applied: Lsn) -> Result<(), Broken> {
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
        let mut found = BTreeSet::new();
        self.each(attribute, hash, |lsn| {
            if after < lsn && found.insert(lsn) && max < found.len() {
                found.pop_last();
            }
        })?;
        Ok(found.into_iter().collect())
    }

    /// The last places of a hash, at most so many, in order.
    pub(super) fn latest(
        &self,
        attribute: Attribute,
        hash: u64,
        max: usize,
    ) -> Result<Vec<Lsn>, Broken> {
        let mut found = BTreeSet::new();
        self.each(attribute, hash, |lsn| {
            if found.insert(lsn) && max < found.len() {
                found.pop_first();
            }
        })?;
        Ok(found.into_iter().collect())
    }

    /// Visits the places of a hash, in no order.
    fn each(
        &self,
        attribute: Attribute,
        hash: u64,
        mut visit: impl FnMut(Lsn),
    ) -> Result<(), Broken> {
        let (bucket, rest) = (bucket_of(attribute, hash), rest_of(hash));
        let mut look = |entries: &[u8]| {
            let entries = entries.as_chunks::<ENTRY>().0.iter();
            entries.filter(|entry| entry[..6] == rest).map(lsn_of).for_each(&mut visit);
        };
        contained(|| {
            for block in self.db.scan_prefix(prefix(bucket)) {
                look(&block?.1);
            }
            Ok(())
        })?;
        look(&self.gathered[bucket]);
        Ok(())
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
        let (blocks, mut entries) = contained(|| self.bucket(bucket))?;
        let before = entries.len();
        entries.retain(|entry| is_kept(lsn_of(entry)));
        self.about.entries = self.about.entries.saturating_sub((before - entries.len()) as u64);
        contained(|| self.replace(bucket, blocks, &entries))?;
        self.tidying = Some(bucket + 1).filter(|next| *next < self.tails.len());
        if self.tidying.is_none() {
            self.about.tidy = self.about.entries;
            contained(|| self.write_about())?;
        }
        Ok(self.tidying.is_some())
    }

    /// How many blocks a bucket has, and what is in them.
    fn bucket(&self, bucket: usize) -> Result<(u32, Vec<[u8; ENTRY]>), Broken> {
        let (mut blocks, mut entries) = (0, Vec::new());
        for block in self.db.scan_prefix(prefix(bucket)) {
            blocks += 1;
            entries.extend_from_slice(block?.1.as_chunks::<ENTRY>().0);
        }
        Ok((blocks, entries))
    }

    /// Puts these entries in the place of a bucket's blocks.
    fn replace(
        &mut self,
        bucket: usize,
        blocks: u32,
        entries: &[[u8; ENTRY]],
    ) -> Result<(), Broken> {
        let mut next = 0;
        for block in entries.chunks(BLOCK) {
            self.db.insert(key(bucket, next), block.as_flattened())?;
            next += 1;
        }
        for block in next..blocks {
            self.db.remove(key(bucket, block))?;
        }
        self.tails[bucket] = self.tail(bucket)?;
        Ok(())
    }

    /// Writes what is gathered, and says that it is whole.
    pub(super) fn close(mut self, applied: Lsn) -> Result<(), Broken> {
        self.about.closed = true;
        self.write(applied)?;
        contained(|| {
            self.db.flush()?;
            drop(ManuallyDrop::into_inner(self.db));
            Ok(())
        })
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
