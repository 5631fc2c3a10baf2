//! Heads are read as they were written, and newer ones refused.

use super::*;

#[test]
fn a_head_reads_as_it_was_written() {
    let record = Record::Granted(Granted { births: vec![5, 6], timed: true, ..Granted::default() });
    let mut head = Vec::new();
    record.encode_head(&mut head);
    assert_eq!(Record::decode_head(&head).unwrap(), record);
}

#[test]
fn a_record_of_a_newer_kind_is_refused_rather_than_skipped() {
    // Field 99, empty message.
    assert!(matches!(Record::decode_head(&[0x9a, 0x06, 0x00]), Err(UnknownRecord::Kind)));
}
