//! Lease tokens on the wire: sealed, so that an altered one and one of another log are known as such.

use std::hash::Hasher as _;

use siphasher::sip::SipHasher24;

use crate::queue::ids::LeaseToken;

/// Seals tokens with the log's own key. It tells a slip from a token; it keeps out no attacker, who
/// could read tokens anyway.
///
/// Without it a token of a folder that was wiped could name somebody's lease of the next one: LSNs
/// and epochs begin anew there.
#[derive(Clone, Copy, Debug)]
pub(in crate::grpc) struct Seal {
    key: [u8; 16],
}

const TAG_BYTES: usize = 8;

/// A token as clients see it.
pub(in crate::grpc) type Sealed = [u8; LeaseToken::LEN + TAG_BYTES];

impl Seal {
    /// The seal of the log with this id.
    pub(in crate::grpc) fn new(log_id: [u8; 16]) -> Self {
        Self { key: log_id }
    }

    /// A token as clients see it.
    pub(in crate::grpc) fn close(self, token: LeaseToken) -> Sealed {
        let token = token.to_bytes();
        let mut bytes = Sealed::default();
        bytes[..LeaseToken::LEN].copy_from_slice(&token);
        bytes[LeaseToken::LEN..].copy_from_slice(&self.tag(&token));
        bytes
    }

    /// Reads what [`Self::close`] wrote; `None` for anything else.
    pub(in crate::grpc) fn open(self, bytes: &[u8]) -> Option<LeaseToken> {
        let (token, tag) = bytes.split_at_checked(LeaseToken::LEN)?;
        if tag == self.tag(token) { LeaseToken::from_bytes(token) } else { None }
    }

    fn tag(self, token: &[u8]) -> [u8; TAG_BYTES] {
        let mut hasher = SipHasher24::new_with_key(&self.key);
        hasher.write(token);
        hasher.finish().to_le_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use qbroker_storage::Lsn;

    #[test]
    fn a_token_opens_where_it_was_closed_and_only_unaltered() {
        let token = LeaseToken { birth: Lsn(7), grant: Lsn(9), epoch: 3 };
        let seal = Seal::new([1; 16]);
        let closed = seal.close(token);
        assert_eq!(seal.open(&closed), Some(token));
        assert_eq!(Seal::new([2; 16]).open(&closed), None);
        for at in 0..closed.len() {
            let mut altered = closed.to_vec();
            altered[at] ^= 1;
            assert_eq!(seal.open(&altered), None, "byte {at}");
            assert_eq!(seal.open(&closed[..at]), None, "{at} bytes");
        }
        assert_eq!(seal.open(&[&closed[..], &[0]].concat()), None);
    }
}
