//! What the broker writes into the log: heads of records, pages of the index, snapshots.

use bytes::Bytes;
use qbroker::queue::index::paged::PagedIndex;
use qbroker::queue::record::Record;
use qbroker::queue::{Core, Limits, page_messages};
use qbroker_storage::{Body, Bound, Lsn};

use super::mutate::varint;
use super::requests::{self, Broker};

/// A record's head. What is read is written and read again as the same.
///
/// # Panics
/// When it is not.
pub fn record(bytes: &[u8]) {
    let Ok(record) = Record::decode_head(bytes) else { return };
    let mut head = Vec::new();
    record.encode_head(&mut head);
    let again = Record::decode_head(&head).expect("what was written can be read");
    assert_eq!(again, record);
}

/// A page of the index.
pub fn page(bytes: &[u8]) {
    let body = Body::new(Bytes::copy_from_slice(bytes), Bytes::new());
    // Another version's is refused.
    drop(page_messages(&body));
}

/// The state of a checkpoint.
pub fn snapshot(bytes: &[u8]) {
    let (index, state) = (PagedIndex::new(1_000), Bytes::copy_from_slice(bytes));
    drop(Core::restore(index, Limits::default(), state, |_| {}));
}

/// What a broker wrote that was asked all kinds of things.
#[derive(Debug, Default)]
pub struct Written {
    /// Heads of records, each different from all others.
    pub heads: Vec<Vec<u8>>,
    pub snapshots: Vec<Vec<u8>>,
}

impl Written {
    /// Asks some brokers.
    ///
    /// # Panics
    /// When one has a bug.
    pub fn new() -> Self {
        let mut written = Self::default();
        for input in requests::some().chunks(8) {
            let mut broker = Broker::new();
            input.iter().for_each(|input| broker.run(input));
            let bound = Bound { records: 10_000, bytes: 1 << 20 };
            let followed = broker.engine.log().follow(Lsn(1), bound).expect("it is all there");
            written.heads.extend(followed.heads.iter().map(|(_, head)| head.to_vec()));
            let snapshot = broker.engine.look(|core| core.snapshot()).1;
            let kept = broker.engine.log().kept();
            written.snapshots.push(snapshot.encode(kept.runs()).concat());
        }
        written.heads.sort();
        written.heads.dedup();
        written
    }
}

/// Pages of a few messages in each state, as `StoredState` has them.
pub fn some_pages() -> Vec<Vec<u8>> {
    let mut page = Vec::new();
    for state in 0..5 {
        let mut message = Vec::new();
        let fields = [(1, 40 + state), (2, 7), (3, state), (5, 12), (6, 3), (7, 1_024), (9, 2)];
        for (tag, value) in fields {
            message.extend(varint(tag << 3));
            message.extend(varint(value));
        }
        // A due time, as a message of two numbers.
        message.extend([4 << 3 | 2, 4, 8, 5, 16, 6]);
        page.extend(varint(1 << 3 | 2));
        page.extend(varint(message.len() as u64));
        page.extend(message);
    }
    vec![page]
}
