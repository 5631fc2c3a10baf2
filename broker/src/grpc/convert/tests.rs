//! How many tokens one request may name: so many, and not one more.

use bytes::Bytes;
use prost::Message as _;
use qbroker_proto::raw::SettleRequest;
use qbroker_proto::v1::{
    self, ConsumeOpen, ExtendLeasesRequest, QueueSelector, Started, settlement,
};
use qbroker_storage::Lsn;

use super::batch::{BatchLimits, IdHasher};
use super::bounds::{HELD_MAX, SETTLEMENTS_MAX};
use super::incoming;
use super::settlements::{self, Reading};
use super::token::Seal;
use crate::grpc::fault::Fault;
use crate::queue::ids::{ConsumerId, LeaseToken};

fn seal() -> Seal {
    Seal::new([1; 16])
}

/// Tokens of this broker.
fn tokens(count: usize) -> Vec<Bytes> {
    let token = LeaseToken { birth: Lsn(7), grant: Lsn(9), epoch: 1 };
    vec![Bytes::copy_from_slice(&seal().close(token)); count]
}

fn check_too_large<T>(answer: Result<T, Fault>, most: usize) {
    match answer {
        Err(Fault::BatchTooLarge { size, limit, .. }) => {
            assert_eq!((size, limit), (most + 1, most))
        }
        Err(fault) => panic!("refused for something else: {fault}"),
        Ok(_) => panic!("{} are taken", most + 1),
    }
}

#[test]
fn a_call_has_ten_thousand_settlements_and_not_one_more() {
    assert_eq!(SETTLEMENTS_MAX, 10_000);
    let limits = BatchLimits { messages_max: 1, bytes_max: 1 };
    let reading = Reading { seal: seal(), hasher: IdHasher { key: [1; 16] }, limits };
    let settle = |count: usize| {
        let lease_token = tokens(1).remove(0);
        let outcome = Some(settlement::Outcome::Ack(v1::Ack {}));
        let ack = v1::Settlement { lease_token, outcome, effects: Vec::new() };
        let settlements = vec![Bytes::from(ack.encode_to_vec()); count];
        let request = SettleRequest { settlements, ..SettleRequest::default() };
        settlements::settle(request, ConsumerId::NONE, reading)
    };
    let Ok(understood) = settle(SETTLEMENTS_MAX) else { panic!("so many are taken") };
    assert_eq!(understood.command.settlements.len(), SETTLEMENTS_MAX);
    check_too_large(settle(SETTLEMENTS_MAX + 1), SETTLEMENTS_MAX);
}

#[test]
fn a_call_extends_ten_thousand_leases_and_not_one_more() {
    for session_id in ["", "s1"] {
        let extend = |count: usize| {
            let session_id = session_id.to_owned();
            let lease_tokens = tokens(count);
            let request = ExtendLeasesRequest { lease_tokens, session_id, ..Default::default() };
            incoming::extend(request, seal())
        };
        let Ok(understood) = extend(SETTLEMENTS_MAX) else { panic!("so many are taken") };
        assert_eq!(understood.command.tokens.len(), SETTLEMENTS_MAX);
        check_too_large(extend(SETTLEMENTS_MAX + 1), SETTLEMENTS_MAX);
        // Who names a session need name no lease.
        assert_eq!(extend(0).is_ok(), !session_id.is_empty());
    }
}

#[test]
fn a_call_begins_ten_thousand_leases_and_not_one_more() {
    let started = |count| incoming::started(Started { lease_tokens: tokens(count) }, seal());
    assert_eq!(started(SETTLEMENTS_MAX).unwrap().len(), SETTLEMENTS_MAX);
    check_too_large(started(SETTLEMENTS_MAX + 1), SETTLEMENTS_MAX);
}

#[test]
fn a_stream_that_comes_back_names_a_hundred_thousand_leases_and_not_one_more() {
    assert_eq!(HELD_MAX, 100_000);
    let open = |count: usize| {
        let open = ConsumeOpen {
            queues: vec![QueueSelector { queue: "q".to_owned(), ..QueueSelector::default() }],
            session_id: "s1".to_owned(),
            previous_consumer_id: ConsumerId(5).to_string(),
            held_lease_tokens: tokens(count),
            ..ConsumeOpen::default()
        };
        incoming::open_consumer(open, seal(), || unreachable!("it has a session"))
    };
    assert_eq!(open(HELD_MAX).unwrap().held.len(), HELD_MAX);
    check_too_large(open(HELD_MAX + 1), HELD_MAX);
}
