//! The bytes of a snapshot, in pieces: nothing large is ever moved.

use bytes::{Bytes, BytesMut};
use prost::encoding::{WireType, encode_key, encode_varint, key_len};
use prost::{Message as _, length_delimiter_len};
use qbroker_storage::Lsn;

use super::items::{KeptItem, MessageIdsItem};
use super::{Envelope, Item};
use crate::queue::ids::QueueId;
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

    /// As `add(Item::Page(page))`, but for the order of fields: births and hashes of keys are most of it.
    pub(super) fn add_page(&mut self, page: &Page) {
        const PAGE_TAG: u32 = 9;
        let (head, fields) = page.split();
        self.add_shared(PAGE_TAG, &head, fields.map(|(tag, field)| (tag, [field])));
    }

    /// As `add(Item::MessageIds(item))`, of entries in two parts.
    pub(super) fn add_message_ids(&mut self, queue: QueueId, entries: [Bytes; 2]) {
        const MESSAGE_IDS_TAG: u32 = 12;
        const ENTRIES_TAG: u32 = 2;
        let head = MessageIdsItem { queue: queue.0, ..MessageIdsItem::default() };
        self.add_shared(MESSAGE_IDS_TAG, &head, [(ENTRIES_TAG, entries)]);
    }

    /// Adds an item and its large fields, each in some parts, which are shared and not copied.
    fn add_shared<const N: usize, const PARTS: usize>(
        &mut self,
        tag: u32,
        head: &impl prost::Message,
        fields: [(u32, [Bytes; PARTS]); N],
    ) {
        let bytes_of = |parts: &[Bytes; PARTS]| parts.iter().map(Bytes::len).sum::<usize>();
        let fields = fields.map(|(tag, parts)| (tag, bytes_of(&parts), parts));
        let fields = || fields.iter().filter(|(_, bytes, _)| *bytes != 0);
        let before = |&(tag, bytes, _): &_| key_len(tag) + length_delimiter_len(bytes);
        let shared_bytes: usize = fields().map(|(_, bytes, _)| bytes).sum();
        let item_bytes = head.encoded_len() + fields().map(before).sum::<usize>() + shared_bytes;
        let bytes = key_len(tag) + length_delimiter_len(item_bytes) + item_bytes;
        self.make_room(bytes - shared_bytes);
        encode_varint(bytes as u64, &mut self.piece);
        encode_key(tag, WireType::LengthDelimited, &mut self.piece);
        encode_varint(item_bytes as u64, &mut self.piece);
        head.encode_raw(&mut self.piece);
        for (tag, bytes, parts) in fields() {
            encode_key(*tag, WireType::LengthDelimited, &mut self.piece);
            encode_varint(*bytes as u64, &mut self.piece);
            self.cut();
            self.full.extend(parts.iter().filter(|part| !part.is_empty()).cloned());
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
