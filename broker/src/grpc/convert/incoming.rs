//! What clients hand in: extensions, consumers, pulls.

use bytes::Bytes;
use qbroker_proto::v1::{ConsumeOpen, ExtendLeasesRequest, FlowUpdate, PullRequest, Started};

use super::time::duration_ms;
use super::token::Seal;
use super::{bounds, selector};
use crate::grpc::fault::Fault;
use crate::queue::ids::{ConsumerId, LeaseToken};
use crate::queue::{Extend, OpenConsumer, Pull, Window};

const LEASE_MS_MIN: u64 = 1_000;
const LEASE_MS_MAX: u64 = 12 * 60 * 60 * 1_000;
const GRACE_MS: u64 = 15_000;
const GRACE_MS_MAX: u64 = 10 * 60 * 1_000;
const EXTENSION_MS_MAX: u64 = 30 * 24 * 60 * 60 * 1_000;

/// Tokens of a call that this broker never made, each once, beside what was understood.
pub(in crate::grpc) struct Understood<T> {
    pub(in crate::grpc) command: T,
    pub(in crate::grpc) invalid: Vec<Bytes>,
}

pub(in crate::grpc) fn extend(
    request: ExtendLeasesRequest,
    seal: Seal,
) -> Result<Understood<Extend>, Fault> {
    let count = request.lease_tokens.len();
    if request.session_id.is_empty() || 0 < count {
        bounds::batch("lease_tokens", count, bounds::SETTLEMENTS_MAX, "lease tokens")?;
    }
    bounds::id("session_id", &request.session_id)?;
    let (tokens, invalid) = tokens(request.lease_tokens, seal);
    let session = Some(request.session_id).filter(|session| !session.is_empty());
    let duration_ms = lease_ms(request.lease_duration)?;
    Ok(Understood { command: Extend { tokens, session, duration_ms }, invalid })
}

pub(in crate::grpc) fn started(started: Started, seal: Seal) -> Result<Vec<LeaseToken>, Fault> {
    let count = started.lease_tokens.len();
    bounds::batch("lease_tokens", count, bounds::SETTLEMENTS_MAX, "lease tokens")?;
    let (tokens, invalid) = tokens(started.lease_tokens, seal);
    invalid.into_iter().next().map_or(Ok(tokens), |invalid| Err(Fault::TokenInvalid(invalid)))
}

fn tokens(tokens: Vec<Bytes>, seal: Seal) -> (Vec<LeaseToken>, Vec<Bytes>) {
    let mut understood = Vec::with_capacity(tokens.len());
    let mut invalid = Vec::new();
    for bytes in tokens {
        match seal.open(&bytes) {
            Some(token) => understood.push(token),
            None => invalid.push(bytes),
        }
    }
    (understood, invalid)
}

fn lease_ms(duration: Option<prost_types::Duration>) -> Result<Option<u64>, Fault> {
    duration_ms("lease_duration", duration, LEASE_MS_MIN, LEASE_MS_MAX)
}

pub(in crate::grpc) fn open_consumer(
    open: ConsumeOpen,
    seal: Seal,
    fresh_session: impl FnOnce() -> String,
) -> Result<OpenConsumer, Fault> {
    bounds::id("session_id", &open.session_id)?;
    let previous = previous(&open)?;
    let count = open.held_lease_tokens.len();
    if bounds::HELD_MAX < count {
        let (limit, unit) = (bounds::HELD_MAX, "held lease tokens");
        return Err(Fault::BatchTooLarge { size: count, limit, unit });
    }
    let (held, invalid) = tokens(open.held_lease_tokens, seal);
    if let Some(invalid) = invalid.into_iter().next() {
        return Err(Fault::TokenInvalid(invalid));
    }
    let extension = duration_ms(
        "max_lease_extension",
        open.max_lease_extension,
        LEASE_MS_MIN,
        EXTENSION_MS_MAX,
    )?;
    if open.manual_extend && extension.is_some() {
        return Err(Fault::invalid("max_lease_extension", "it does not go with manual_extend"));
    }
    let grace = duration_ms("session_grace", open.session_grace, 1_000, GRACE_MS_MAX)?;
    let window = open.flow.unwrap_or(FlowUpdate {
        max_outstanding_messages: bounds::WINDOW_MESSAGES.cast_signed(),
        max_outstanding_bytes: 0,
    });
    Ok(OpenConsumer {
        queues: selector::selectors(open.queues)?,
        window: self::window(window)?,
        lease_duration_ms: lease_ms(open.lease_duration)?,
        session: if open.session_id.is_empty() { fresh_session() } else { open.session_id },
        session_grace_ms: grace.unwrap_or(GRACE_MS),
        manual_extend: open.manual_extend,
        reports_started: open.reports_started,
        extension_ms_max: extension.unwrap_or_default(),
        previous,
        held,
        reset_session: open.reset_session,
    })
}

fn previous(open: &ConsumeOpen) -> Result<Option<ConsumerId>, Fault> {
    let field = "previous_consumer_id";
    if open.previous_consumer_id.is_empty() {
        if !open.held_lease_tokens.is_empty() {
            let why = "it needs previous_consumer_id";
            return Err(Fault::invalid("held_lease_tokens", why));
        }
        return Ok(None);
    }
    if open.session_id.is_empty() {
        return Err(Fault::invalid(field, "it needs session_id"));
    }
    if open.reset_session {
        return Err(Fault::invalid("reset_session", "it does not go with previous_consumer_id"));
    }
    let previous = ConsumerId::parse(&open.previous_consumer_id);
    previous.map(Some).ok_or_else(|| Fault::invalid(field, "this broker never gave such an id"))
}

pub(in crate::grpc) fn window(flow: FlowUpdate) -> Result<Window, Fault> {
    let negative = |field| Fault::invalid(field, "it must not be negative");
    let messages = u32::try_from(flow.max_outstanding_messages)
        .map_err(|_| negative("max_outstanding_messages"))?;
    let bytes =
        u64::try_from(flow.max_outstanding_bytes).map_err(|_| negative("max_outstanding_bytes"))?;
    let bytes = if bytes == 0 { bounds::WINDOW_BYTES } else { bytes };
    Ok(Window {
        messages: messages.min(bounds::WINDOW_MESSAGES_MAX),
        bytes: bytes.min(bounds::WINDOW_BYTES_MAX),
    })
}

/// A pull, and how long it may wait.
pub(in crate::grpc) fn pull(request: PullRequest) -> Result<(Pull, std::time::Duration), Fault> {
    bounds::id("request_id", &request.request_id)?;
    bounds::id("session_id", &request.session_id)?;
    let messages_max = match u32::try_from(request.max_messages) {
        Ok(0) => 1,
        Ok(messages) if messages <= bounds::PULL_MAX => messages,
        _ => return Err(Fault::invalid("max_messages", "it is not within 1 to 1000")),
    };
    let wait_ms = duration_ms("wait_timeout", request.wait_timeout, 0, 60_000)?;
    let pull = Pull {
        queues: selector::selectors(request.queues)?,
        messages_max,
        lease_duration_ms: lease_ms(request.lease_duration)?,
        session: request.session_id,
        request_id: request.request_id,
    };
    Ok((pull, std::time::Duration::from_millis(wait_ms.unwrap_or(20_000))))
}

#[cfg(test)]
mod tests {
    use prost_types::Duration;
    use qbroker_proto::v1::QueueSelector;

    use super::*;

    fn ms(ms: i64) -> Option<Duration> {
        let nanos = i32::try_from(ms % 1_000 * 1_000_000).unwrap();
        Some(Duration { seconds: ms / 1_000, nanos })
    }

    fn queues() -> Vec<QueueSelector> {
        vec![QueueSelector { queue: "q".to_owned(), ..QueueSelector::default() }]
    }

    #[test]
    fn times_of_a_consumer_have_bounds_at_them_and_one_beyond() {
        type Set = fn(&mut ConsumeOpen, Option<Duration>);
        let times: [(i64, i64, Set); 3] = [
            (1_000, 12 * 60 * 60 * 1_000, |open, time| open.lease_duration = time),
            (1_000, 10 * 60 * 1_000, |open, time| open.session_grace = time),
            (1_000, 30 * 24 * 60 * 60 * 1_000, |open, time| open.max_lease_extension = time),
        ];
        let opens = |set: Set, time| {
            let mut open = ConsumeOpen { queues: queues(), ..ConsumeOpen::default() };
            set(&mut open, ms(time));
            open_consumer(open, Seal::new([0; 16]), String::new).is_ok()
        };
        for (min, max, set) in times {
            assert!(opens(set, min) && opens(set, max));
            assert!(!opens(set, min - 1) && !opens(set, max + 1), "{min} to {max}");
        }
    }

    #[test]
    fn a_window_is_brought_down_to_its_bounds() {
        let of = |messages, bytes| {
            let flow =
                FlowUpdate { max_outstanding_messages: messages, max_outstanding_bytes: bytes };
            window(flow).map(|window| (window.messages, window.bytes)).map_err(drop)
        };
        assert_eq!(of(100_000, 256 << 20), Ok((100_000, 256 << 20)));
        assert_eq!(of(100_001, (256 << 20) + 1), Ok((100_000, 256 << 20)));
        assert_eq!(of(0, 0), Ok((0, bounds::WINDOW_BYTES)));
        assert_eq!((of(-1, 0), of(0, -1)), (Err(()), Err(())));
    }

    #[test]
    fn a_pull_has_bounds_at_them_and_one_beyond() {
        let pulls = |max_messages, wait| {
            let wait_timeout = ms(wait);
            let queues = queues();
            pull(PullRequest { queues, max_messages, wait_timeout, ..PullRequest::default() })
                .is_ok()
        };
        assert!(pulls(0, 0) && pulls(1, 60_000) && pulls(1_000, 0));
        assert!(!pulls(-1, 0) && !pulls(1_001, 0) && !pulls(1, 60_001));
    }
}
