//! The bytes of a snapshot, in pieces: nothing large is ever moved.

use bytes::{Bytes, BytesMut};
use prost::encoding::{WireType, encode_key, encode_varint, key_len};
use prost::{Message as _, length_delimiter_len};
use qbroker_storage::Lsn;

use super::items::KeptItem;
use super::{Envelope, Item};
use crate::queue::index::Page;

/// Bytes per piece of a snapshot.
const PIECE_BYTES: usize = 1 << 20;

/// Words of [`KeptItem`] per item: none grows large.
pub(super) const KEPT_WORDS: usize = 4_096;

/// Collects items into pieces.
#[derive(Default)]
pub(super) struct Pieces {
    full: Vec<Bytes>,
    piece: BytesMut,
}

impl Pieces {
    pub(super) fn add(&mut self, item: Item) {
        let envelope = Envelope { item: Some(item) };
        let bytes = envelope.encoded_len();
        self.make_room(bytes);
        encode_varint(bytes as u64, &mut self.piece);
        envelope.encode_raw(&mut self.piece);
    }

    /// As `add(Item::Page(page))`, but for the order of fields: births and hashes of keys, most of a
    /// page, are shared with it and not copied.
    pub(super) fn add_page(&mut self, page: &Page) {
        const PAGE_TAG: u32 = 9;
        let (head, fields) = page.split();
        let fields = || fields.iter().filter(|(_, field)| !field.is_empty());
        let before =
            |(tag, field): &(u32, Bytes)| key_len(*tag) + length_delimiter_len(field.len());
        let shared_bytes: usize = fields().map(|(_, field)| field.len()).sum();
        let page_bytes = head.encoded_len() + fields().map(before).sum::<usize>() + shared_bytes;
        let bytes = key_len(PAGE_TAG) + length_delimiter_len(page_bytes) + page_bytes;
        self.make_room(bytes - shared_bytes);
        encode_varint(bytes as u64, &mut self.piece);
        encode_key(PAGE_TAG, WireType::LengthDelimited, &mut self.piece);
        encode_varint(page_bytes as u64, &mut self.piece);
        head.encode_raw(&mut self.piece);
        for (tag, field) in fields() {
            encode_key(*tag, WireType::LengthDelimited, &mut self.piece);
            encode_varint(field.len() as u64, &mut self.piece);
            self.cut();
            self.full.push(field.clone());
        }
    }

    /// For an item of so many bytes and its length.
    fn make_room(&mut self, bytes: usize) {
        let bytes = bytes + length_delimiter_len(usize::MAX);
        if self.piece.capacity() - self.piece.len() < bytes {
            self.cut();
            self.piece.reserve(PIECE_BYTES.max(bytes));
        }
    }

    fn cut(&mut self) {
        if !self.piece.is_empty() {
            self.full.push(self.piece.split().freeze());
        }
    }

    pub(super) fn add_kept(&mut self, first: Lsn, words: &[u64]) {
        if words.iter().any(|word| *word != 0) {
            let bits = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            self.add(Item::Kept(KeptItem { first: first.0, bits }));
        }
    }

    pub(super) fn finish(mut self) -> Vec<Bytes> {
        self.cut();
        self.full
    }
}
