//! The floor's log: one file, one writer thread, one `fdatasync` for all that has piled up.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use tokio::sync::{oneshot, watch};

/// The file's length. It is zero-filled beforehand, so that no sync writes metadata, and begun again
/// when it is full: the floor keeps nothing.
const LOG_BYTES: u64 = 256 * 1024 * 1024;

/// What is stored together.
#[derive(Debug)]
pub(super) enum Entry {
    /// Payloads of one batch.
    Messages(Vec<Bytes>),
    /// Tags of acked deliveries.
    Acks(Vec<u64>),
}

/// Takes entries and says when they are on disk; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Log {
    shared: Arc<Shared>,
    durable: watch::Receiver<u64>,
}

/// The writer thread has ended; what is unanswered may or may not be on disk.
#[derive(Debug)]
pub(super) struct Stopped;

#[derive(Debug, Default)]
struct Shared {
    pending: Mutex<Pending>,
    has_pending: Condvar,
}

/// Entries that no write has taken yet. Its size is bounded by what clients have in flight.
#[derive(Debug, Default)]
struct Pending {
    entries: Vec<(Entry, Option<oneshot::Sender<()>>)>,
    /// Position of the latest entry: their number since the start.
    appended: u64,
}

impl Log {
    /// Makes the file at `path`, zero-filled and synced, and starts the writer thread.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let file = zero_filled(path)?;
        let shared = Arc::new(Shared::default());
        let (durable_sender, durable) = watch::channel(0);
        let of_writer = Arc::clone(&shared);
        std::thread::Builder::new().name("floor-log".to_owned()).spawn(move || {
            let Err(error) = write_groups(&file, &of_writer, &durable_sender);
            // Whoever waits learns that the log has stopped; why stands here.
            writeln!(io::stderr(), "floor: cannot write the log: {error}").ok();
        })?;
        Ok(Self { shared, durable })
    }

    /// Hands in an entry and returns its position, without waiting.
    pub(super) fn append(&self, entry: Entry) -> u64 {
        self.push(entry, None)
    }

    /// Hands in an entry and waits until it is on disk.
    pub(super) async fn store(&self, entry: Entry) -> Result<(), Stopped> {
        let (answer, stored) = oneshot::channel();
        self.push(entry, Some(answer));
        stored.await.map_err(|_| Stopped)
    }

    /// Waits until the entry at `position` is on disk; the position up to which all are.
    pub(super) async fn durable(&mut self, position: u64) -> Result<u64, Stopped> {
        let durable = self.durable.wait_for(|durable| position <= *durable).await;
        durable.map(|durable| *durable).map_err(|_| Stopped)
    }

    fn push(&self, entry: Entry, answer: Option<oneshot::Sender<()>>) -> u64 {
        let mut pending = self.shared.pending.lock();
        pending.entries.push((entry, answer));
        pending.appended += 1;
        let position = pending.appended;
        drop(pending);
        self.shared.has_pending.notify_one();
        position
    }
}

fn zero_filled(path: &Path) -> io::Result<File> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    let zeros = vec![0; 1024 * 1024];
    for _ in 0..LOG_BYTES / zeros.len() as u64 {
        file.write_all(&zeros)?;
    }
    file.sync_all()?;
    Ok(file)
}

/// Natural group commit: all that was handed in during one sync is written with the next.
fn write_groups(
    file: &File,
    shared: &Shared,
    durable: &watch::Sender<u64>,
) -> io::Result<std::convert::Infallible> {
    let mut group = Vec::new();
    let mut frame = Vec::new();
    let mut offset = 0;
    loop {
        let position = take_pending(shared, &mut group);
        frame.clear();
        group.iter().for_each(|(entry, _)| encode(entry, &mut frame));
        let bytes = frame.len() as u64;
        if LOG_BYTES < offset + bytes {
            offset = 0;
        }
        file.write_all_at(&frame, offset)?;
        file.sync_data()?;
        offset += bytes;
        durable.send_replace(position);
        for (_, answer) in group.drain(..) {
            // A caller that has gone away does not need it.
            answer.map(|answer| answer.send(()).ok());
        }
    }
}

/// Waits for entries and swaps them into `group`, which is empty; the position of the latest.
fn take_pending(shared: &Shared, group: &mut Vec<(Entry, Option<oneshot::Sender<()>>)>) -> u64 {
    let mut pending = shared.pending.lock();
    shared.has_pending.wait_while(&mut pending, |pending| pending.entries.is_empty());
    std::mem::swap(&mut pending.entries, group);
    pending.appended
}

fn encode(entry: &Entry, frame: &mut Vec<u8>) {
    match entry {
        Entry::Messages(payloads) => {
            payloads.iter().for_each(|payload| encode_record(payload, frame));
        }
        Entry::Acks(tags) => {
            let tags: Vec<u8> = tags.iter().flat_map(|tag| tag.to_le_bytes()).collect();
            encode_record(&tags, frame);
        }
    }
}

/// Checksum, length, content: the least that could be read back safely.
pub(super) fn encode_record(content: &[u8], frame: &mut Vec<u8>) {
    let length = u32::try_from(content.len()).expect("a record is smaller than a request");
    frame.extend_from_slice(&crc32fast::hash(content).to_le_bytes());
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(content);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_durable_is_in_the_file_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut log = Log::create(&path).unwrap();
        let first = log.append(Entry::Messages(vec![Bytes::from_static(b"one")]));
        let second = log.append(Entry::Acks(vec![7]));
        assert_eq!((first, second), (1, 2));
        assert_eq!(log.durable(2).await.unwrap(), 2);
        log.store(Entry::Messages(vec![Bytes::from_static(b"three")])).await.unwrap();

        let mut expected = Vec::new();
        for content in [&b"one"[..], &7_u64.to_le_bytes(), b"three"] {
            encode_record(content, &mut expected);
        }
        let mut found = vec![0; expected.len()];
        File::open(&path).unwrap().read_exact_at(&mut found, 0).unwrap();
        assert_eq!(found, expected);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), LOG_BYTES);
    }
}
