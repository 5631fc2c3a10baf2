//! The database, in a folder of its own.

use tempfile::TempDir;

use super::*;

const MAX: u64 = 1 << 18;

fn open(folder: &TempDir, log: u8, boot: &str, durable: u64) -> Result<Store, Broken> {
    let of = Of { log_id: [log; 16], boot_id: boot.to_owned(), durable: Lsn(durable) };
    Store::open(&folder.path().join("search"), &of, MAX)
}

/// As when the process dies.
fn leave(store: Store) {
    store.db.flush().unwrap();
    drop(ManuallyDrop::into_inner(store.db));
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
    let last = store.latest(Attribute::MessageId, hash(3), 2).unwrap();
    assert_eq!(last, [Lsn(696), Lsn(701)]);
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
    leave(store);
    for (log, boot, durable) in [(2, "a", 10), (1, "a", 9), (1, "b", 10)] {
        let refused = open(&folder, log, boot, durable).unwrap_err();
        assert!(matches!(refused, Broken::Unfit(_)), "{refused}");
    }
    assert_eq!(open(&folder, 1, "a", 10).unwrap().applied(), Lsn(10));
}

#[test]
fn it_holds_so_many_and_of_what_is_delayed_half_of_that() {
    let folder = TempDir::new().unwrap();
    let mut store = open(&folder, 1, "a", 0).unwrap();
    (1..MAX / 2).for_each(|lsn| store.add(Attribute::MessageId, hash(lsn), Lsn(lsn)));
    assert!(!store.is_full(true));
    store.add(Attribute::MessageId, hash(0), Lsn(MAX / 2));
    assert!(store.is_full(true) && !store.is_full(false));
    store.write(Lsn(MAX)).unwrap();
    (1..MAX / 2).for_each(|lsn| store.add(Attribute::MessageType, hash(lsn), Lsn(lsn)));
    assert!(!store.is_full(false));
    store.add(Attribute::MessageType, hash(0), Lsn(MAX));
    assert!(store.is_full(false));
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
