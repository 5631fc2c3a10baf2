//! What names a queue, a session, a consumer and a lease.

use std::fmt;

use qbroker_storage::Lsn;

/// A queue for as long as it exists; a queue made again under the same name has another one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueId(pub u32);

/// A worker process: the LSN of the record that opened it. Zero: no session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

impl SessionId {
    /// The leases of a pull that named no session live with their time alone.
    pub const NONE: Self = Self(0);
}

/// One consuming stream: the start's epoch and a number within it, so that none comes twice.
/// Zero: a pull, which has no stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConsumerId(pub u64);

impl ConsumerId {
    /// No stream.
    pub const NONE: Self = Self(0);

    /// The `number`th consumer of the start with this epoch.
    pub fn new(epoch: u32, number: u32) -> Self {
        Self(u64::from(epoch) << 32 | u64::from(number))
    }

    /// Reads what [`fmt::Display`] wrote.
    pub fn parse(text: &str) -> Option<Self> {
        let (epoch, number) = text.strip_prefix("c.")?.split_once('.')?;
        Some(Self::new(epoch.parse().ok()?, number.parse().ok()?))
    }
}

impl fmt::Display for ConsumerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "c.{}.{}", self.0 >> 32, self.0 & u64::from(u32::MAX))
    }
}

/// Names one lease of one message, on any connection and after a restart.
///
/// The message is named by its birth, the lease by the record that granted it. LSNs can be given
/// again only after a repair cut confirmed records away, or where a copy of the folder goes on: the epoch
/// tells such a lease from another one at the same place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseToken {
    /// LSN of the message's publish.
    pub birth: Lsn,
    /// LSN of the grant.
    pub grant: Lsn,
    /// Epoch of the start that granted it.
    pub epoch: u32,
}

impl LeaseToken {
    /// Bytes on the wire.
    pub const LEN: usize = 20;

    /// The token as clients see it.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&self.birth.0.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.grant.0.to_le_bytes());
        bytes[16..].copy_from_slice(&self.epoch.to_le_bytes());
        bytes
    }

    /// Reads [`Self::to_bytes`]; `None` where this broker never made such a token.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::LEN] = bytes.try_into().ok()?;
        let (birth, rest) = bytes.split_first_chunk()?;
        let (grant, epoch) = rest.split_first_chunk()?;
        Some(Self {
            birth: Lsn(u64::from_le_bytes(*birth)),
            grant: Lsn(u64::from_le_bytes(*grant)),
            epoch: u32::from_le_bytes(epoch.try_into().ok()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_as_it_was_written_and_nothing_else_does() {
        let token = LeaseToken { birth: Lsn(7), grant: Lsn(u64::MAX), epoch: 3 };
        assert_eq!(LeaseToken::from_bytes(&token.to_bytes()), Some(token));
        assert_eq!(LeaseToken::from_bytes(&token.to_bytes()[1..]), None);
        assert_eq!(LeaseToken::from_bytes(&[]), None);
    }

    #[test]
    fn a_consumer_id_reads_as_it_was_written() {
        let consumer = ConsumerId::new(4, 17);
        assert_eq!(consumer.to_string(), "c.4.17");
        assert_eq!(ConsumerId::parse("c.4.17"), Some(consumer));
        assert_eq!(ConsumerId::parse("4.17"), None);
    }
}
