//! Pages: tokens that are opaque to clients and bound to what was asked for.

use qbroker_storage::Lsn;

use super::fault::Fault;
use crate::queue::index::Cursor;

/// Entries of a page where the client does not say.
const PAGE_SIZE: usize = 50;
/// Entries of a page at most.
const PAGE_SIZE_MAX: usize = 1_000;
/// Bytes that a page may hold, unless one entry is larger: clients take answers of 16 MiB.
const PAGE_BYTES: u64 = 8 << 20;

pub(super) fn page_size(page_size: i32) -> Result<usize, Fault> {
    match usize::try_from(page_size) {
        Ok(0) => Ok(PAGE_SIZE),
        Ok(size) => Ok(size.min(PAGE_SIZE_MAX)),
        Err(_) => Err(Fault::invalid("page_size", "it must not be negative")),
    }
}

/// What a page holds while it is filled.
#[derive(Default)]
pub(super) struct Held {
    entries: usize,
    bytes: u64,
}

impl Held {
    /// Whether an entry of so many bytes has its place on the page as well. The first one has, however
    /// large it is.
    pub(super) fn takes(&mut self, bytes: u64) -> bool {
        self.entries += 1;
        self.bytes += bytes;
        self.entries == 1 || self.bytes <= PAGE_BYTES
    }
}

/// As many of these entries as a page holds; whether there are more.
pub(super) fn page<M: prost::Message>(
    entries: impl IntoIterator<Item = M>,
    size: usize,
) -> (Vec<M>, bool) {
    let (mut page, mut held) = (Vec::new(), Held::default());
    for entry in entries {
        if page.len() == size || !held.takes(entry.encoded_len() as u64) {
            return (page, true);
        }
        page.push(entry);
    }
    (page, false)
}

/// A token that says where to go on, and for which question.
pub(super) fn to_token(question: &[&str], after: &str) -> String {
    format!("{:08x}.{after}", digest(question))
}

/// Where a token says to go on.
pub(super) fn from_token<'a>(question: &[&str], token: &'a str) -> Result<&'a str, Fault> {
    let malformed = || Fault::invalid("page_token", "it is not the token of such a call");
    let (of, after) = token.split_once('.').ok_or_else(malformed)?;
    if of == format!("{:08x}", digest(question)) { Ok(after) } else { Err(malformed()) }
}

fn digest(question: &[&str]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for part in question {
        hasher.update(part.as_bytes());
        hasher.update(&[0]);
    }
    hasher.finalize()
}

pub(super) fn cursor_text(cursor: Cursor) -> String {
    format!("{:x}-{:x}-{:x}", cursor.section, cursor.key, cursor.birth.0)
}

pub(super) fn parse_lsn(text: &str) -> Result<Lsn, Fault> {
    let malformed = |_| Fault::invalid("page_token", "it is not the token of such a call");
    text.parse().map(Lsn).map_err(malformed)
}

pub(super) fn parse_cursor(text: &str) -> Result<Cursor, Fault> {
    let malformed = || Fault::invalid("page_token", "it is not the token of such a call");
    let mut numbers =
        text.split('-').map(|part| u64::from_str_radix(part, 16).map_err(|_| malformed()));
    let mut next = || numbers.next().ok_or_else(malformed)?;
    let section = u8::try_from(next()?).map_err(|_| malformed())?;
    Ok(Cursor { section, key: next()?, birth: Lsn(next()?) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_brought_down_to_its_bound() {
        let size = |size: i32| page_size(size).map_err(drop);
        assert_eq!((size(0), size(1), size(1_000)), (Ok(50), Ok(1), Ok(1_000)));
        assert_eq!((size(1_001), size(-1)), (Ok(1_000), Err(())));
    }

    #[test]
    fn a_page_ends_where_it_is_large_and_holds_one_entry_at_least() {
        let count_of = |entries: Vec<Vec<u8>>, size| {
            let (page, is_more) = page(entries, size);
            (page.len(), is_more)
        };
        let large = vec![0; 3 << 20];
        assert_eq!(count_of(vec![large.clone(); 4], 4), (2, true));
        assert_eq!(count_of(vec![large.clone(); 2], 2), (2, false));
        assert_eq!(count_of(vec![large.clone(); 2], 1), (1, true));
        assert_eq!(count_of(vec![vec![0; 9 << 20], large], 2), (1, true));
        assert_eq!(count_of(Vec::new(), 1), (0, false));
    }

    #[test]
    fn a_token_is_good_for_its_own_question_only() {
        let token = to_token(&["mail", "x"], "a.b");
        assert_eq!(from_token(&["mail", "x"], &token).unwrap(), "a.b");
        assert!(from_token(&["mailx", ""], &token).is_err());
        assert!(from_token(&["mail", "x"], "nonsense").is_err());
        let cursor = Cursor { section: 2, key: u64::MAX, birth: Lsn(9) };
        assert_eq!(parse_cursor(&cursor_text(cursor)).unwrap(), cursor);
        assert!(parse_cursor("1-2").is_err());
    }
}
