//! State that clients hand in and ask for.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use qbroker_proto::v1::{self, OutgoingMessage, acquire_permit_request};
use qbroker_storage::Body;

use super::batch::outgoing_message;
use super::bounds;
use super::settlements::Reading;
use super::time::{DURATION_MS_MAX, duration_ms};
use crate::grpc::convert::batch::IdHasher;
use crate::grpc::fault::Fault;
use crate::queue::NewMessage;
use crate::queue::state::{
    AcquirePermit, AddToCounter, Arrive, BarrierState, BarrierView, ChangeCounter, CreateBarrier,
    Holder, Key, StoreValue,
};

/// Bytes of a key.
const KEY_BYTES_MAX: usize = 256;
/// Keys that one call names.
const KEYS_MAX: usize = 1_000;
/// Permits of a key.
const PERMITS_MAX: i32 = 1_000_000;
/// Members of a barrier.
const PARTIES_MAX: i32 = 100_000;
const TTL_MS_MIN: u64 = 1_000;
/// How long permits and barriers last where nobody says.
const TTL_MS: u64 = 15 * 60 * 1_000;
const PERMIT_MS_MAX: u64 = 30 * 24 * 60 * 60 * 1_000;
const WAIT_MS_MAX: u64 = 60_000;

/// A key of whatever kind.
pub(in crate::grpc) fn key(field: &'static str, key: String) -> Result<Key, Fault> {
    match key.len() {
        1..=KEY_BYTES_MAX => Ok(key.into()),
        size => {
            let why = format!("it has {size} bytes, and not 1 to {KEY_BYTES_MAX}");
            Err(Fault::invalid(field, why))
        }
    }
}

/// The keys that a call names.
pub(in crate::grpc) fn keys(keys: Vec<String>) -> Result<Vec<Key>, Fault> {
    bounds::batch("keys", keys.len(), KEYS_MAX, "keys")?;
    keys.into_iter().map(|name| key("keys", name)).collect()
}

/// How long a call may wait.
pub(in crate::grpc) fn wait(wait: Option<prost_types::Duration>) -> Result<Duration, Fault> {
    let wait_ms = duration_ms("wait_timeout", wait, 0, WAIT_MS_MAX)?;
    Ok(Duration::from_millis(wait_ms.unwrap_or_default()))
}

fn ttl_ms(ttl: Option<prost_types::Duration>) -> Result<Option<u64>, Fault> {
    Ok(duration_ms("ttl", ttl, 0, DURATION_MS_MAX)?.filter(|ms| *ms != 0))
}

pub(in crate::grpc) fn store_value(store: v1::StoreValue) -> Result<StoreValue, Fault> {
    let v1::StoreValue { key: name, value, ttl, if_absent } = store;
    Ok(StoreValue {
        key: key("key", name)?,
        value: Body::new(Bytes::new(), value),
        ttl_ms: ttl_ms(ttl)?,
        if_absent,
    })
}

pub(in crate::grpc) fn add_to_counter(add: v1::AddToCounter) -> Result<AddToCounter, Fault> {
    let count = add.sum_with.len();
    if KEYS_MAX < count {
        let (limit, unit) = (KEYS_MAX, "keys in sum_with");
        return Err(Fault::BatchTooLarge { size: count, limit, unit });
    }
    let sum_with = add.sum_with.into_iter().map(|name| key("sum_with", name));
    Ok(AddToCounter {
        key: key("key", add.key)?,
        amount: add.amount,
        initial: add.initial.unwrap_or_default(),
        if_absent: add.if_absent,
        minimum: add.minimum,
        maximum: add.maximum,
        sum_with: sum_with.collect::<Result<_, _>>()?,
        ttl_ms: ttl_ms(add.ttl)?,
    })
}

pub(in crate::grpc) fn change_counter(
    request: v1::ChangeCounterRequest,
) -> Result<ChangeCounter, Fault> {
    let v1::ChangeCounterRequest { change, request_id } = request;
    bounds::id("request_id", &request_id)?;
    Ok(ChangeCounter { add: add_to_counter(needed("change", change)?)?, request_id })
}

pub(in crate::grpc) fn arrive(arrive: v1::Arrive, hasher: IdHasher) -> Result<Arrive, Fault> {
    let v1::Arrive { barrier, member_id, value, failed } = arrive;
    let member = key("member_id", member_id)?;
    Ok(Arrive {
        key: key("barrier", barrier)?,
        member_hash: hasher.hash(&member),
        member_id: member.to_string(),
        value,
        failed,
    })
}

/// What a permit is asked with, and how long it may take.
pub(in crate::grpc) fn acquire_permit(
    request: v1::AcquirePermitRequest,
    reading: Reading,
) -> Result<(AcquirePermit, Duration), Fault> {
    use acquire_permit_request::Holder as Asked;
    bounds::id("request_id", &request.request_id)?;
    let limit = request.limit;
    if !(1..=PERMITS_MAX).contains(&limit) {
        let why = format!("{limit} is not within 1 to {PERMITS_MAX}");
        return Err(Fault::invalid("limit", why));
    }
    let holder = match request.holder {
        None => Holder::Nobody,
        Some(Asked::LeaseToken(token)) => {
            let open = reading.seal.open(&token);
            Holder::Lease(open.ok_or(Fault::TokenInvalid(token))?)
        }
        Some(Asked::SessionId(session)) => {
            bounds::id("session_id", &session)?;
            Holder::Session(session)
        }
    };
    let acquire = AcquirePermit {
        key: key("key", request.key)?,
        limit: limit.cast_unsigned(),
        ttl_ms: duration_ms("ttl", request.ttl, TTL_MS_MIN, PERMIT_MS_MAX)?.unwrap_or(TTL_MS),
        holder,
        request_id: request.request_id,
    };
    Ok((acquire, wait(request.wait_timeout)?))
}

pub(in crate::grpc) fn create_barrier(
    request: v1::CreateBarrierRequest,
    reading: Reading,
) -> Result<CreateBarrier, Fault> {
    let parties = request.parties;
    if !(1..=PARTIES_MAX).contains(&parties) {
        let why = format!("{parties} is not within 1 to {PARTIES_MAX}");
        return Err(Fault::invalid("parties", why));
    }
    Ok(CreateBarrier {
        key: key("key", request.key)?,
        parties: parties.cast_unsigned(),
        ttl_ms: duration_ms("ttl", request.ttl, TTL_MS_MIN, DURATION_MS_MAX)?.unwrap_or(TTL_MS),
        on_complete: messages(request.on_complete, reading)?,
        on_expire: messages(request.on_expire, reading)?,
        collect: request.collect_values,
    })
}

fn messages(messages: Vec<OutgoingMessage>, reading: Reading) -> Result<Vec<NewMessage>, Fault> {
    let Reading { hasher, limits, .. } = reading;
    if limits.messages_max < messages.len() {
        let (size, limit, unit) = (messages.len(), limits.messages_max, "messages");
        return Err(Fault::BatchTooLarge { size, limit, unit });
    }
    let nowhere: Arc<str> = Arc::from("");
    let mut prefixes = BytesMut::new();
    let message = |message| outgoing_message(message, &nowhere, hasher, &mut prefixes);
    messages.into_iter().map(message).collect()
}

/// What a request is about.
pub(in crate::grpc) fn needed<T>(field: &'static str, part: Option<T>) -> Result<T, Fault> {
    part.ok_or_else(|| Fault::invalid(field, "it is needed"))
}

pub(in crate::grpc) fn barrier(key: &str, view: BarrierView) -> v1::Barrier {
    let state = match view.state {
        BarrierState::Open => v1::BarrierState::Open,
        BarrierState::Complete => v1::BarrierState::Complete,
        BarrierState::Expired => v1::BarrierState::Expired,
    };
    v1::Barrier {
        key: key.to_owned(),
        parties: view.parties.cast_signed(),
        arrived: view.arrived.cast_signed(),
        failed: view.failed.cast_signed(),
        state: state.into(),
    }
}

#[cfg(test)]
mod tests {
    use prost_types::Duration;

    use super::*;
    use crate::grpc::convert::batch::BatchLimits;
    use crate::grpc::convert::token::Seal;

    fn ms(ms: i64) -> Option<Duration> {
        let nanos = i32::try_from(ms % 1_000 * 1_000_000).unwrap();
        Some(Duration { seconds: ms / 1_000, nanos })
    }

    fn reading() -> Reading {
        Reading {
            seal: Seal::new([0; 16]),
            hasher: IdHasher { key: [0; 16] },
            limits: BatchLimits { messages_max: 10, bytes_max: 1_000 },
        }
    }

    #[test]
    fn calls_name_so_many_keys_and_wait_so_long() {
        let many = |count: usize| keys(vec!["k".to_owned(); count]).is_ok();
        assert!(many(1) && many(1_000) && !many(0) && !many(1_001));
        let long = |bytes: usize| key("key", "k".repeat(bytes)).is_ok();
        assert!(long(1) && long(256) && !long(0) && !long(257));
        assert!(wait(ms(60_000)).is_ok() && wait(ms(60_001)).is_err());
        let summed = |count: usize| {
            let sum_with = vec!["k".to_owned(); count];
            add_to_counter(v1::AddToCounter { key: "k".to_owned(), sum_with, ..Default::default() })
        };
        assert!(summed(1_000).is_ok() && summed(1_001).is_err());
    }

    #[test]
    fn times_to_live_have_bounds_at_them_and_one_beyond() {
        let year = 365 * 24 * 60 * 60 * 1_000;
        let value = |time| {
            let store = v1::StoreValue { key: "k".to_owned(), ttl: ms(time), ..Default::default() };
            store_value(store).is_ok()
        };
        assert!(value(0) && value(year) && !value(year + 1));
        let month = 30 * 24 * 60 * 60 * 1_000;
        let permit = |limit, time| {
            let key = "k".to_owned();
            let request =
                v1::AcquirePermitRequest { key, limit, ttl: ms(time), ..Default::default() };
            acquire_permit(request, reading()).is_ok()
        };
        assert!(permit(1, 1_000) && permit(1_000_000, month));
        assert!(
            !permit(1, 999)
                && !permit(1, month + 1)
                && !permit(0, 1_000)
                && !permit(1_000_001, 1_000)
        );
        let barrier = |parties, time| {
            let key = "k".to_owned();
            let request =
                v1::CreateBarrierRequest { key, parties, ttl: ms(time), ..Default::default() };
            create_barrier(request, reading()).is_ok()
        };
        assert!(barrier(1, 1_000) && barrier(100_000, year));
        assert!(!barrier(1, 999) && !barrier(1, year + 1));
        assert!(!barrier(0, 1_000) && !barrier(100_001, 1_000));
    }
}
