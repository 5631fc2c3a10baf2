//! Which messages a call means.

use std::collections::BTreeSet;

use prost::Message as _;
use qbroker_proto::v1::{self, filter_term::Kind};
use qbroker_storage::Lsn;

use super::bounds;
use super::outgoing::message_id;
use super::time::{timestamp_ms, to_timestamp};
use crate::grpc::fault::Fault;
use crate::queue::filter::{Filter, HeaderIs, Is, Names, Term};
use crate::queue::index::StateSet;
use crate::queue::policy::check_name;
use crate::queue::record::DeadLetterReason;

/// Terms of one filter.
const TERMS_MAX: usize = 32;
/// Ids of one term.
const IDS_MAX: usize = 1_000;
/// Bytes that are looked for in payloads.
const CONTAINED_BYTES_MAX: usize = 256;
/// Bytes of a filter as a job's record holds it.
const FILTER_BYTES_MAX: usize = 128 << 10;

/// A filter that may be left out: every message then.
pub(in crate::grpc) fn optional(filter: Option<v1::MessageFilter>) -> Result<Filter, Fault> {
    filter.map_or_else(|| Ok(Filter::default()), self::filter)
}

/// A filter that says what it means: nothing is never everything.
pub(in crate::grpc) fn filter(filter: v1::MessageFilter) -> Result<Filter, Fault> {
    match (filter.terms.len(), filter.all) {
        (0, true) => return Ok(Filter::default()),
        (0, false) => return Err(invalid("it has no term and does not say \"all\"")),
        (_, true) => return Err(invalid("it says \"all\" and has terms: one of both")),
        (count, false) if TERMS_MAX < count => {
            return Err(invalid(format!("{count} terms; at most {TERMS_MAX} are allowed")));
        }
        _ => {}
    }
    let terms = filter.terms.into_iter().map(|term| {
        // An arm that is not known arrives as none.
        let unknown = "a term is empty, or of a kind that this server does not know";
        let is = is(term.kind.ok_or_else(|| invalid(unknown))?)?;
        Ok(Term { is: Some(is) })
    });
    let filter = Filter { terms: terms.collect::<Result<_, Fault>>()? };
    let size = filter.encoded_len();
    match FILTER_BYTES_MAX < size {
        true => Err(Fault::FieldTooLarge { field: "filter", size, limit: FILTER_BYTES_MAX }),
        false => Ok(filter),
    }
}

/// As it was asked for; ids in another order, and each once.
pub(in crate::grpc) fn to_wire(filter: &Filter) -> v1::MessageFilter {
    let kind = |is: &Is| match is.clone() {
        Is::Named(names) => {
            let births = names.births.iter().map(|birth| message_id("", Lsn(*birth)));
            Kind::MessageIds(v1::IdList { ids: births.chain(names.ids).collect() })
        }
        Is::In(states) => Kind::State(to_state(StateSet(states)).into()),
        Is::PublishedAfter(ms) => Kind::PublishedAfter(to_timestamp(ms)),
        Is::PublishedBefore(ms) => Kind::PublishedBefore(to_timestamp(ms)),
        Is::Header(HeaderIs { key, value }) => Kind::Header(v1::HeaderEquals { key, value }),
        Is::Type(text) => Kind::MessageType(text),
        Is::Correlation(text) => Kind::CorrelationId(text),
        Is::FailureType(text) => Kind::FailureType(text),
        Is::Reason(reason) => Kind::DeadLetterReason(reason),
        Is::Source(name) => Kind::SourceQueue(name),
        Is::Contains(bytes) => Kind::PayloadContains(bytes),
    };
    let term = |term: &Term| v1::FilterTerm { kind: term.is.as_ref().map(kind) };
    let terms = filter.terms.iter().map(term).collect();
    v1::MessageFilter { terms, all: filter.terms.is_empty() }
}

/// A term names one state.
fn to_state(states: StateSet) -> v1::MessageState {
    match states {
        StateSet::READY => v1::MessageState::Ready,
        StateSet::SCHEDULED => v1::MessageState::Scheduled,
        StateSet::LEASED => v1::MessageState::Leased,
        StateSet::PARKED => v1::MessageState::Parked,
        StateSet::BEHIND => v1::MessageState::Behind,
        _ => v1::MessageState::Unspecified,
    }
}

fn invalid(why: impl Into<String>) -> Fault {
    Fault::invalid("filter", why)
}

fn is(kind: Kind) -> Result<Is, Fault> {
    Ok(match kind {
        Kind::MessageIds(list) => Is::Named(names(list.ids)?),
        Kind::State(state) => Is::In(state_set("filter.state", state)?.0),
        Kind::PublishedAfter(time) => {
            Is::PublishedAfter(timestamp_ms("filter.published_after", time)?)
        }
        Kind::PublishedBefore(time) => {
            Is::PublishedBefore(timestamp_ms("filter.published_before", time)?)
        }
        Kind::Header(v1::HeaderEquals { key, value }) => {
            bounds::headers(&[(key.clone(), value.clone())].into())?;
            Is::Header(HeaderIs { key, value })
        }
        Kind::MessageType(text) => Is::Type(some("filter.message_type", text)?),
        Kind::CorrelationId(text) => Is::Correlation(some("filter.correlation_id", text)?),
        Kind::FailureType(text) => Is::FailureType(some("filter.failure_type", text)?),
        Kind::DeadLetterReason(reason) => Is::Reason(self::reason(reason)?),
        Kind::SourceQueue(name) => {
            check_name(&name)?;
            Is::Source(name)
        }
        Kind::PayloadContains(bytes) => {
            if bytes.is_empty() || CONTAINED_BYTES_MAX < bytes.len() {
                let why = format!("it has not 1 to {CONTAINED_BYTES_MAX} bytes");
                return Err(Fault::invalid("filter.payload_contains", why));
            }
            Is::Contains(bytes)
        }
    })
}

/// A text that is not empty: an empty one would mean all messages that have none.
fn some(field: &'static str, text: String) -> Result<String, Fault> {
    bounds::text(field, &text, 256)?;
    match text.is_empty() {
        true => Err(Fault::invalid(field, "it is empty")),
        false => Ok(text),
    }
}

fn names(ids: Vec<String>) -> Result<Names, Fault> {
    bounds::batch("filter.message_ids", ids.len(), IDS_MAX, "message ids")?;
    let mut births = BTreeSet::new();
    let mut own = BTreeSet::new();
    for id in ids {
        match id.strip_prefix(super::names::SERVER_ID_START) {
            Some(sequence) => {
                let why = "q. must be followed by a sequence in decimal";
                let birth = sequence.parse::<u64>();
                births.insert(birth.map_err(|_| Fault::invalid("filter.message_ids", why))?);
            }
            None if id.is_empty() => {
                return Err(Fault::invalid("filter.message_ids", "an id is empty"));
            }
            None => {
                bounds::id("filter.message_ids", &id)?;
                own.insert(id);
            }
        }
    }
    Ok(Names { ids: own.into_iter().collect(), births: births.into_iter().collect() })
}

/// The state of this number on the wire.
pub(in crate::grpc) fn state_set(field: &'static str, state: i32) -> Result<StateSet, Fault> {
    Ok(match v1::MessageState::try_from(state) {
        Ok(v1::MessageState::Ready) => StateSet::READY,
        Ok(v1::MessageState::Scheduled) => StateSet::SCHEDULED,
        Ok(v1::MessageState::Leased) => StateSet::LEASED,
        Ok(v1::MessageState::Parked) => StateSet::PARKED,
        Ok(v1::MessageState::Behind) => StateSet::BEHIND,
        Ok(v1::MessageState::Unspecified) | Err(_) => {
            return Err(Fault::invalid(field, format!("{state} is no state")));
        }
    })
}

/// The stored reasons have the protocol's numbers.
fn reason(reason: i32) -> Result<i32, Fault> {
    match DeadLetterReason::try_from(reason) {
        Ok(DeadLetterReason::Unknown) | Err(_) => {
            let why = format!("{reason} is no reason that this server gives");
            Err(Fault::invalid("filter.dead_letter_reason", why))
        }
        Ok(_) => Ok(reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn term(kind: Kind) -> v1::MessageFilter {
        v1::MessageFilter { terms: vec![v1::FilterTerm { kind: Some(kind) }], all: false }
    }

    fn ids(count: usize) -> Kind {
        let id = |number: usize| format!("{number:0>64}");
        Kind::MessageIds(v1::IdList { ids: (0..count).map(id).collect() })
    }

    #[test]
    fn nothing_widens_a_filter() {
        let all = v1::MessageFilter { all: true, ..Default::default() };
        assert_eq!(filter(all).unwrap(), Filter::default());
        assert_eq!(optional(None).unwrap(), Filter::default());
        let empty = v1::FilterTerm { kind: None };
        let bad = [
            v1::MessageFilter::default(),
            v1::MessageFilter { terms: vec![empty.clone()], all: false },
            v1::MessageFilter { terms: vec![empty], all: true },
            term(Kind::MessageIds(v1::IdList::default())),
            term(Kind::MessageIds(v1::IdList { ids: vec![String::new()] })),
            term(Kind::MessageIds(v1::IdList { ids: vec!["q.x".to_owned()] })),
            term(Kind::State(0)),
            term(Kind::State(9)),
            term(Kind::Header(v1::HeaderEquals::default())),
            term(Kind::MessageType(String::new())),
            term(Kind::CorrelationId(String::new())),
            term(Kind::FailureType(String::new())),
            term(Kind::DeadLetterReason(0)),
            term(Kind::DeadLetterReason(99)),
            term(Kind::SourceQueue(String::new())),
            term(Kind::PayloadContains(bytes::Bytes::new())),
        ];
        for bad in bad {
            assert!(filter(bad.clone()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn bounds_hold_at_them_and_one_beyond() {
        assert!(filter(term(ids(1_000))).is_ok() && filter(term(ids(1_001))).is_err());
        let terms = |count: usize| {
            let one = v1::FilterTerm { kind: Some(Kind::State(1)) };
            v1::MessageFilter { terms: vec![one; count], all: false }
        };
        assert!(filter(terms(32)).is_ok() && filter(terms(33)).is_err());
        let two = [term(ids(1_000)), term(ids(1_000))].map(|filter| filter.terms).concat();
        let filter_of_two = v1::MessageFilter { terms: two, all: false };
        let too_large = filter(filter_of_two).unwrap_err();
        assert!(matches!(too_large, Fault::FieldTooLarge { .. }), "{too_large}");
        let contained = |size: usize| term(Kind::PayloadContains(vec![0; size].into()));
        assert!(filter(contained(256)).is_ok() && filter(contained(257)).is_err());
        let text = |size: usize| term(Kind::MessageType("x".repeat(size)));
        assert!(filter(text(256)).is_ok() && filter(text(257)).is_err());
    }

    #[test]
    fn ids_that_the_server_made_are_births() {
        let wanted = ["q.9", "own", "q.4"].map(str::to_owned).to_vec();
        let filter = filter(term(Kind::MessageIds(v1::IdList { ids: wanted }))).unwrap();
        let names = Names { ids: vec!["own".to_owned()], births: vec![4, 9] };
        assert_eq!(filter, Filter::of(Is::Named(names)));
        assert_eq!(filter.births(), None, "the other one may be anywhere");
    }
}
