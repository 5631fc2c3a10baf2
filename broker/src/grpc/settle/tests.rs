//! Settlements at the bounds of the log.

use bytes::Bytes;
use qbroker_storage::Body;

use crate::grpc::stage::Stage;
use crate::queue::refused::Refused;
use crate::queue::state::{StateChange, StoreValue};
use crate::queue::{Effects, Outcome, Settle, Settlement};

/// What a batch may have and what barriers publish may be more together than half of a small segment:
/// one settlement ended the broker, and again after each start.
#[test]
fn a_settlement_that_the_log_cannot_take_at_once_is_refused() {
    let stage = Stage::set();
    stage.publish("q");
    let token = stage.lease("q");
    let settle = |bytes: usize| {
        let value = Body::new(Bytes::from(vec![0; bytes]), Bytes::new());
        let store = StoreValue { key: "k".into(), value, ttl_ms: None, if_absent: false };
        let changes = vec![StateChange::Store(store)];
        let effects = Some(Box::new(Effects { changes, ..Effects::default() }));
        let settlements = vec![Settlement { token, outcome: Outcome::Ack, effects }];
        let settle = Settle { settlements, ..Settle::default() };
        let turn = stage.context.engine.turn(|core, now, out| core.settle(&settle, now, out));
        turn.expect("the log runs").1.expect("items are refused by themselves")
    };
    let refused = settle(512 << 10);
    let Ok([(_, Refused::Limit { what: "commit_bytes", max })]) = <[_; 1]>::try_from(refused)
    else {
        panic!("it is too large")
    };
    assert_eq!(settle(max - 1_000), [], "the lease is kept, and what fits is taken");
}
