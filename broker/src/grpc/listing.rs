//! Pages: tokens that are opaque to clients and bound to what was asked for.

use qbroker_storage::Lsn;

use super::fault::Fault;
use crate::queue::index::Cursor;

/// Entries of a page where the client does not say.
const PAGE_SIZE: usize = 50;
/// Entries of a page at most.
const PAGE_SIZE_MAX: usize = 1_000;

pub(super) fn page_size(page_size: i32) -> Result<usize, Fault> {
    match usize::try_from(page_size) {
        Ok(0) => Ok(PAGE_SIZE),
        Ok(size) => Ok(size.min(PAGE_SIZE_MAX)),
        Err(_) => Err(Fault::invalid("page_size", "it must not be negative")),
    }
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
