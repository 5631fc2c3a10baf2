//! Which messages somebody means: conditions that all must hold.
//!
//! What the core knows of a message answers some of them; the others take its records, which are read
//! without the engine's lock. A condition that cannot be answered does not hold: nothing widens a
//! filter, neither damage nor a kind of term that this version does not know.

use bytes::Bytes;
use prost::Oneof;
use qbroker_storage::{Body, Lsn};

use super::body::{StoredDeadLetter, StoredFailure, StoredMessage};
use super::index::{Message, StateSet};
use super::record::{DeadLetterReason, Record};

/// Conditions that all must hold; without one, every message is meant.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Filter {
    #[prost(message, repeated, tag = "1")]
    pub terms: Vec<Term>,
}

/// One condition.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Term {
    #[prost(oneof = "Is", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11")]
    pub is: Option<Is>,
}

/// What a message must be.
#[derive(Clone, PartialEq, Oneof)]
pub enum Is {
    /// One of these, by id.
    #[prost(message, tag = "1")]
    Named(Names),
    /// In one of these states; bits of [`StateSet`].
    #[prost(uint32, tag = "2")]
    In(u32),
    /// Accepted at this time or later, wall clock.
    #[prost(uint64, tag = "3")]
    PublishedAfter(u64),
    /// Accepted before this time.
    #[prost(uint64, tag = "4")]
    PublishedBefore(u64),
    #[prost(message, tag = "5")]
    Header(HeaderIs),
    #[prost(string, tag = "6")]
    Type(String),
    #[prost(string, tag = "7")]
    Correlation(String),
    /// Its last failure is of this type.
    #[prost(string, tag = "8")]
    FailureType(String),
    #[prost(enumeration = "DeadLetterReason", tag = "9")]
    Reason(i32),
    /// Dead-lettered from this queue.
    #[prost(string, tag = "10")]
    Source(String),
    #[prost(bytes = "bytes", tag = "11")]
    Contains(Bytes),
}

/// Ids: those that publishers chose, and the births of `q.` and a sequence.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Names {
    #[prost(string, repeated, tag = "1")]
    pub ids: Vec<String>,
    /// Sorted.
    #[prost(uint64, repeated, tag = "2")]
    pub births: Vec<u64>,
}

/// A header with its whole value.
#[derive(Clone, PartialEq, prost::Message)]
pub struct HeaderIs {
    #[prost(string, tag = "1")]
    pub key: String,
    #[prost(string, tag = "2")]
    pub value: String,
}

/// Which of a message's records somebody needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    pub message: bool,
    pub failure: bool,
    pub letter: bool,
}

impl Needs {
    /// Whether any of them is needed.
    pub fn any(self) -> bool {
        self.message || self.failure || self.letter
    }

    /// What both need.
    pub fn with(self, other: Self) -> Self {
        Self {
            message: self.message || other.message,
            failure: self.failure || other.failure,
            letter: self.letter || other.letter,
        }
    }
}

impl Filter {
    /// One condition.
    pub fn of(is: Is) -> Self {
        Self { terms: vec![Term { is: Some(is) }] }
    }

    /// The states that a message may be in.
    pub fn states(&self) -> StateSet {
        let of = |term: &Term| match term.is {
            Some(Is::In(states)) => StateSet(states),
            _ => StateSet::ALL,
        };
        self.terms.iter().map(of).fold(StateSet::ALL, |all, states| StateSet(all.0 & states.0))
    }

    /// The only messages that can be meant, by birth, where that is known without looking.
    pub fn births(&self) -> Option<&[u64]> {
        let names = self.terms.iter().find_map(|term| match &term.is {
            Some(Is::Named(names)) if names.ids.is_empty() => Some(names),
            _ => None,
        });
        names.map(|names| &names.births[..])
    }

    /// Whether it asks for nothing but states.
    pub fn is_of_states(&self) -> bool {
        self.terms.iter().all(|term| matches!(term.is, Some(Is::In(_))))
    }

    /// The records that [`Self::holds`] needs.
    pub fn needs(&self) -> Needs {
        let of = |term: &Term| match &term.is {
            None | Some(Is::In(_)) => Needs::default(),
            Some(Is::Named(names)) => Needs { message: !names.ids.is_empty(), ..Needs::default() },
            Some(Is::FailureType(_)) => Needs { failure: true, letter: true, message: false },
            Some(Is::Reason(_) | Is::Source(_)) => Needs { letter: true, ..Needs::default() },
            Some(
                Is::PublishedAfter(_)
                | Is::PublishedBefore(_)
                | Is::Header(_)
                | Is::Type(_)
                | Is::Correlation(_)
                | Is::Contains(_),
            ) => Needs { message: true, ..Needs::default() },
        };
        self.terms.iter().map(of).fold(Needs::default(), Needs::with)
    }

    /// Whether a message may be meant, as far as the core knows it.
    pub fn may_hold(&self, birth: Lsn, message: &Message) -> bool {
        self.terms.iter().all(|term| match &term.is {
            None => false,
            Some(Is::Named(names)) => !names.ids.is_empty() || names.has(birth),
            Some(Is::In(states)) => StateSet(*states).contains(message.state.into()),
            // It came into its queue when it was published, or later.
            Some(Is::PublishedAfter(ms)) => *ms <= message.since_ms,
            Some(Is::Reason(_) | Is::Source(_)) => message.dead_letter != Lsn(0),
            Some(Is::FailureType(_)) => message.last_failure.max(message.dead_letter) != Lsn(0),
            Some(
                Is::PublishedBefore(_)
                | Is::Header(_)
                | Is::Type(_)
                | Is::Correlation(_)
                | Is::Contains(_),
            ) => true,
        })
    }

    /// Whether a message is meant that [`Self::may_hold`] lets through.
    pub fn holds(&self, birth: Lsn, told: &Told) -> bool {
        self.terms.iter().all(|term| match &term.is {
            None => false,
            Some(Is::In(_)) => true,
            Some(Is::Named(names)) => {
                let is_one = |it: &StoredMessage| names.ids.contains(&it.message_id);
                names.has(birth) || (!names.ids.is_empty() && told.is(is_one))
            }
            Some(Is::PublishedAfter(ms)) => told.publish_ms.is_some_and(|at| *ms <= at),
            Some(Is::PublishedBefore(ms)) => told.publish_ms.is_some_and(|at| at < *ms),
            Some(Is::Header(header)) => {
                told.is(|it| it.headers.get(&header.key) == Some(&header.value))
            }
            Some(Is::Type(wanted)) => told.is(|it| it.message_type == *wanted),
            Some(Is::Correlation(wanted)) => told.is(|it| it.correlation_id == *wanted),
            Some(Is::FailureType(wanted)) => told.failure_type.as_ref() == Some(wanted),
            Some(Is::Reason(wanted)) => {
                told.letter.as_ref().is_some_and(|(reason, _)| reason == wanted)
            }
            Some(Is::Source(wanted)) => {
                told.letter.as_ref().is_some_and(|(_, source)| source == wanted)
            }
            Some(Is::Contains(wanted)) => told.is(|it| contains(&it.payload, wanted)),
        })
    }
}

impl Names {
    fn has(&self, birth: Lsn) -> bool {
        self.births.binary_search(&birth.0).is_ok()
    }
}

fn contains(payload: &[u8], wanted: &[u8]) -> bool {
    wanted.is_empty() || payload.windows(wanted.len()).any(|window| window == wanted)
}

/// What a message's records tell: as far as they were asked for, and can be read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Told {
    pub publish_ms: Option<u64>,
    /// The hash of an id that its publisher chose.
    pub id_hash: Option<u128>,
    pub message: Option<StoredMessage>,
    /// Of the last failure, where one was told.
    pub failure_type: Option<String>,
    /// Why it is a dead letter, and of which queue.
    pub letter: Option<(i32, String)>,
}

impl Told {
    /// Reads the records of a message; those that were not asked for are `None`.
    pub fn read(
        message: Option<(&Record, &Body)>,
        last_failure: Option<(&Record, &Body)>,
        letter: Option<(&Record, &Body)>,
    ) -> Self {
        let mut told = Self::default();
        let content = match message {
            Some((Record::Published(published), body)) => Some((published, body)),
            Some((Record::Patched(patched), body)) => Some((&patched.published, body)),
            _ => None,
        };
        if let Some((published, body)) = content {
            told.publish_ms = Some(published.wall_ms);
            told.id_hash = published.id_hash();
            told.message = decoded(body);
        }
        if let Some((Record::DeadLettered(of), body)) = letter {
            told.letter = decoded(body).map(|it: StoredDeadLetter| (of.reason, it.source_queue));
        }
        // In a dead-letter queue it may have failed again since.
        let failure = last_failure.or(letter).and_then(|(record, body)| failure_of(record, body));
        told.failure_type = failure.map(|failure| failure.kind);
        told
    }

    fn is(&self, so: impl FnOnce(&StoredMessage) -> bool) -> bool {
        self.message.as_ref().is_some_and(so)
    }
}

/// The failure that a record tells: of an attempt, or of the last one before a dead-lettering.
pub fn failure_of(record: &Record, body: &Body) -> Option<StoredFailure> {
    match record {
        Record::DeadLettered(_) => decoded::<StoredDeadLetter>(body)?.failure,
        _ => decoded(body),
    }
}

fn decoded<T: prost::Message + Default>(body: &Body) -> Option<T> {
    use bytes::Buf as _;
    let [first, second] = body.parts().clone();
    T::decode(first.chain(second)).ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::queue::body::small_body;
    use crate::queue::record::{DeadLettered, Nacked, Published};

    fn told() -> Told {
        let message = StoredMessage {
            message_id: "own".to_owned(),
            headers: BTreeMap::from([("tenant".to_owned(), "a".to_owned())]),
            message_type: "mail".to_owned(),
            correlation_id: "c".to_owned(),
            payload: Bytes::from_static(b"to ann"),
            ..StoredMessage::default()
        };
        let published = Record::Published(Published { wall_ms: 1_000, ..Published::default() });
        let letter = Record::DeadLettered(DeadLettered {
            reason: DeadLetterReason::Expired.into(),
            ..DeadLettered::default()
        });
        let failure = Some(StoredFailure { kind: "E".to_owned(), ..StoredFailure::default() });
        let source = StoredDeadLetter { source_queue: "q".to_owned(), failure };
        Told::read(
            Some((&published, &small_body(&message))),
            None,
            Some((&letter, &small_body(&source))),
        )
    }

    #[test]
    fn each_term_holds_for_what_it_names_and_for_nothing_else() {
        let named = |ids: &[&str], births: &[u64]| {
            let ids = ids.iter().map(|id| (*id).to_owned()).collect();
            Is::Named(Names { ids, births: births.to_vec() })
        };
        let header = |value: &str| {
            Is::Header(HeaderIs { key: "tenant".to_owned(), value: value.to_owned() })
        };
        let pairs = [
            (named(&["other", "own"], &[]), named(&["other"], &[])),
            (named(&[], &[6, 7]), named(&[], &[6, 8])),
            (named(&["other"], &[7]), named(&["q.7"], &[])),
            (Is::PublishedAfter(1_000), Is::PublishedAfter(1_001)),
            (Is::PublishedBefore(1_001), Is::PublishedBefore(1_000)),
            (header("a"), header("")),
            (Is::Type("mail".to_owned()), Is::Type("mai".to_owned())),
            (Is::Correlation("c".to_owned()), Is::Correlation(String::new())),
            (Is::FailureType("E".to_owned()), Is::FailureType(String::new())),
            (Is::Reason(3), Is::Reason(0)),
            (Is::Source("q".to_owned()), Is::Source(String::new())),
            (Is::Contains(Bytes::from_static(b"ann")), Is::Contains(Bytes::from_static(b"annx"))),
        ];
        let told = told();
        for (yes, no) in pairs {
            assert!(Filter::of(yes.clone()).holds(Lsn(7), &told), "{yes:?}");
            assert!(!Filter::of(no.clone()).holds(Lsn(7), &told), "{no:?}");
            let both = Filter { terms: [yes, no].map(|is| Term { is: Some(is) }).to_vec() };
            assert!(!both.holds(Lsn(7), &told), "all must hold: {both:?}");
        }
    }

    #[test]
    fn what_cannot_be_answered_does_not_hold() {
        let unknown = Filter { terms: vec![Term { is: None }] };
        assert!(!unknown.holds(Lsn(7), &told()));
        let nothing = Told::default();
        for is in [Is::PublishedBefore(u64::MAX), Is::Type(String::new()), Is::Reason(0)] {
            assert!(!Filter::of(is.clone()).holds(Lsn(7), &nothing), "{is:?}");
        }
        assert!(Filter::default().holds(Lsn(7), &nothing), "every message is meant");
    }

    #[test]
    fn the_latest_failure_counts_whichever_record_tells_it() {
        let failure =
            |kind: &str| StoredFailure { kind: kind.to_owned(), ..StoredFailure::default() };
        let source = StoredDeadLetter { failure: Some(failure("first")), ..Default::default() };
        let letter = Record::DeadLettered(DeadLettered::default());
        let nacked = Record::Nacked(Nacked::default());
        let (told, again) = (small_body(&source), small_body(&failure("again")));
        let kind = |last, letter| Told::read(None, last, letter).failure_type;
        assert_eq!(kind(None, Some((&letter, &told))).as_deref(), Some("first"));
        assert_eq!(kind(Some((&nacked, &again)), Some((&letter, &told))).as_deref(), Some("again"));
        assert_eq!(kind(Some((&letter, &told)), None).as_deref(), Some("first"));
    }

    #[test]
    fn states_are_what_all_terms_allow() {
        let states = |sets: &[u32]| {
            let terms = sets.iter().map(|set| Term { is: Some(Is::In(*set)) }).collect();
            Filter { terms }.states()
        };
        assert_eq!(states(&[]), StateSet::ALL);
        assert_eq!(states(&[3, 6]), StateSet::SCHEDULED);
        assert_eq!(states(&[1, 2]), StateSet(0));
    }
}
