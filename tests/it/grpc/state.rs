//! Values, counters, permits and barriers on the wire.

use acquire_permit_request::Holder;
use prost::Message as _;
use qbroker_proto::v1::state_service_client::StateServiceClient;
use qbroker_proto::v1::*;
use qbroker_tests::patiently;
use tokio::task::JoinHandle;
use tonic::Code::{FailedPrecondition, InvalidArgument, ResourceExhausted};
use tonic::transport::Channel;

use super::{Broker, ack, message, publish, refusal, seconds};

impl Broker {
    fn state(&self) -> StateServiceClient<Channel> {
        StateServiceClient::new(self.wire.channel())
    }

    async fn put(&self, key: &str, value: &str) -> bool {
        let value = StoreValue { value: value.to_owned().into(), ..store(key) };
        let request = PutValueRequest { value: Some(value) };
        self.state().put_value(request).await.unwrap().into_inner().stored
    }

    async fn values(&self, keys: &[&str], wait: i64) -> Vec<(String, String)> {
        let keys = keys.iter().map(|key| (*key).to_owned()).collect();
        let request = BatchGetValuesRequest { keys, wait_timeout: Some(seconds(wait)) };
        let values = self.state().batch_get_values(request).await.unwrap().into_inner().values;
        let text = |value: bytes::Bytes| String::from_utf8(value.into()).unwrap();
        let mut values: Vec<_> = values.into_iter().map(|(key, it)| (key, text(it))).collect();
        values.sort_unstable();
        values
    }

    async fn add(&self, change: AddToCounter) -> (bool, i64) {
        let request = ChangeCounterRequest { change: Some(change), request_id: String::new() };
        let response = self.state().change_counter(request).await.unwrap().into_inner();
        (response.applied, response.value)
    }
}

fn store(key: &str) -> StoreValue {
    StoreValue { key: key.to_owned(), ..StoreValue::default() }
}

fn add(key: &str, amount: i64) -> AddToCounter {
    AddToCounter { key: key.to_owned(), amount, ..AddToCounter::default() }
}

fn acquire(key: &str) -> AcquirePermitRequest {
    AcquirePermitRequest { key: key.to_owned(), limit: 1, ..AcquirePermitRequest::default() }
}

fn arrive(barrier: &str, member: &str) -> Arrive {
    let (barrier, member_id) = (barrier.to_owned(), member.to_owned());
    Arrive { barrier, member_id, value: member.to_uppercase().into(), failed: member == "b" }
}

fn pair(key: &str, value: &str) -> (String, String) {
    (key.to_owned(), value.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn state_is_there_after_a_kill() {
    let broker = Broker::start(&[]).await;
    assert!(broker.put("a", "one").await);
    assert!(broker.put("a", "two").await);
    assert_eq!(broker.add(add("n", 5)).await, (true, 5));
    let held = broker.state().acquire_permit(acquire("p")).await.unwrap().into_inner();
    assert!(held.acquired);
    let create = CreateBarrierRequest {
        key: "g".to_owned(),
        parties: 2,
        on_complete: vec![OutgoingMessage { queue: "done".to_owned(), ..message("x") }],
        collect_values: true,
        ..CreateBarrierRequest::default()
    };
    assert!(broker.state().create_barrier(create.clone()).await.unwrap().into_inner().created);
    let request = ArriveAtBarrierRequest { arrive: Some(arrive("g", "a")) };
    broker.state().arrive_at_barrier(request.clone()).await.unwrap();

    let broker = broker.kill_and_start().await;
    assert_eq!(broker.values(&["a", "none"], 0).await, [pair("a", "two")]);
    let keys = vec!["n".to_owned()];
    let counters = broker.state().batch_get_counters(BatchGetCountersRequest { keys }).await;
    assert_eq!(counters.unwrap().into_inner().values["n"], 5);
    let other = broker.state().acquire_permit(acquire("p")).await.unwrap().into_inner();
    assert!(!other.acquired);
    let release = ReleasePermitRequest { permit_id: held.permit_id };
    assert!(broker.state().release_permit(release.clone()).await.unwrap().into_inner().released);
    assert!(!broker.state().release_permit(release).await.unwrap().into_inner().released);
    assert!(!broker.state().create_barrier(create).await.unwrap().into_inner().created);

    // The member that arrived counts once; the other one completes it.
    let again = broker.state().arrive_at_barrier(request).await.unwrap().into_inner();
    assert_eq!((again.last, again.barrier.unwrap().arrived), (false, 1));
    let request = ArriveAtBarrierRequest { arrive: Some(arrive("g", "b")) };
    let last = broker.state().arrive_at_barrier(request).await.unwrap().into_inner();
    let barrier = last.barrier.unwrap();
    assert!(last.last);
    assert_eq!((barrier.state(), barrier.failed), (BarrierState::Complete, 1));
    let done = broker.pull("done", 9).await;
    let results = BarrierResults::decode(done[0].message.clone().unwrap().payload).unwrap();
    let member = |id: &str, value: &'static str, failed| BarrierMember {
        member_id: id.to_owned(),
        value: value.into(),
        failed,
    };
    assert_eq!(results.members, [member("a", "A", false), member("b", "B", true)]);
    assert_eq!(done.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_is_answered_when_it_is_there() {
    let broker = Broker::start(&[]).await;
    let waiting = broker.values(&["a", "b"], 60);
    let (found, ()) = tokio::join!(patiently("both values", waiting), async {
        broker.put("a", "1").await;
        broker.put("b", "2").await;
    });
    assert_eq!(found, [pair("a", "1"), pair("b", "2")]);
    assert_eq!(broker.values(&["a", "c"], 0).await, [pair("a", "1")]);

    // A permit ends with its holder, and whoever waits for it gets it.
    let token = broker.lease().await;
    let holder = Some(Holder::LeaseToken(token.clone()));
    let held = AcquirePermitRequest { holder, ..acquire("p") };
    assert!(broker.state().acquire_permit(held.clone()).await.unwrap().into_inner().acquired);
    let waits = AcquirePermitRequest { wait_timeout: Some(seconds(60)), ..acquire("p") };
    let mut state = broker.state();
    let waiting = patiently("the permit", state.acquire_permit(waits));
    let (got, failures) = tokio::join!(waiting, broker.settle(vec![ack(&token)]));
    assert_eq!(failures.unwrap(), []);
    assert!(got.unwrap().into_inner().acquired);
    let lost = refusal(broker.state().acquire_permit(held).await);
    assert_eq!(lost.is(), (FailedPrecondition, "LEASE_LOST"));

    let create = CreateBarrierRequest { key: "g".to_owned(), parties: 1, ..Default::default() };
    broker.state().create_barrier(create).await.unwrap();
    let key = "g".to_owned();
    let mut state = broker.state();
    let waiting = state.get_barrier(GetBarrierRequest { key, wait_timeout: Some(seconds(60)) });
    let mut other = broker.state();
    let arriving =
        other.arrive_at_barrier(ArriveAtBarrierRequest { arrive: Some(arrive("g", "a")) });
    let (seen, _) = tokio::join!(patiently("the barrier", waiting), arriving);
    let barrier = seen.unwrap().into_inner().barrier.unwrap();
    assert_eq!(barrier.state(), BarrierState::Complete);
}

impl Broker {
    /// Takes a permit of so many, where one is free by now beside those for who waits.
    async fn try_permit(&self, limit: i32) -> Option<String> {
        let asked = AcquirePermitRequest { limit, ..acquire("p") };
        let got = self.state().acquire_permit(asked).await.unwrap().into_inner();
        got.acquired.then_some(got.permit_id)
    }

    async fn give_back(&self, permit_id: String) {
        let released = self.state().release_permit(ReleasePermitRequest { permit_id }).await;
        assert!(released.unwrap().into_inner().released);
    }

    /// Somebody who waits for the only permit, once he stands in line behind `others`.
    async fn in_line(&self, others: i32) -> JoinHandle<String> {
        let mut state = self.state();
        let waits = AcquirePermitRequest { wait_timeout: Some(seconds(60)), ..acquire("p") };
        let waiting = tokio::spawn(async move {
            let got = state.acquire_permit(waits).await.unwrap().into_inner();
            assert!(got.acquired);
            got.permit_id
        });
        // One is held and the others wait: with one more than that, only he keeps it from being free.
        let stands = async {
            while let Some(permit) = self.try_permit(others + 2).await {
                self.give_back(permit).await;
            }
        };
        patiently("his place in the line", stands).await;
        waiting
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_permit_gets_it_in_the_order_of_coming() {
    let broker = Broker::start(&[]).await;
    let mut held = broker.try_permit(1).await.expect("it is free");
    let mut waiting = Vec::new();
    for others in 0..5 {
        waiting.push(broker.in_line(others).await);
    }
    // Who goes away is in nobody's way, once the broker knows: then there is one more beside the others.
    waiting.remove(2).abort();
    let gone = async {
        loop {
            if let Some(permit) = broker.try_permit(6).await {
                return broker.give_back(permit).await;
            }
        }
    };
    patiently("the end of the call", gone).await;
    while !waiting.is_empty() {
        assert!(!waiting.iter().any(JoinHandle::is_finished));
        broker.give_back(held).await;
        held = patiently("the permit", waiting.remove(0)).await.unwrap();
    }
    broker.give_back(held).await;
    assert!(broker.try_permit(1).await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_settlement_changes_state_in_its_own_step_or_not_at_all() {
    let broker = Broker::start(&[]).await;
    broker.publish(publish("work", vec![message("a"), message("b")])).await.unwrap();
    let tokens: Vec<_> =
        broker.pull("work", 2).await.into_iter().map(|it| it.lease_token).collect();
    let effects = |value: &str| {
        let store = StoreValue { value: value.to_owned().into(), ..store("result") };
        let count = AddToCounter { maximum: Some(1), ..add("done", 1) };
        let kinds = [effect::Kind::StoreValue(store), effect::Kind::AddToCounter(count)];
        kinds.into_iter().map(|kind| Effect { kind: Some(kind) }).collect::<Vec<_>>()
    };
    let first = Settlement { effects: effects("one"), ..ack(&tokens[0]) };
    let second = Settlement { effects: effects("two"), ..ack(&tokens[1]) };
    let failures = broker.settle(vec![first, second]).await.unwrap();
    let error = failures[0].error.clone().unwrap();
    assert_eq!((error.reason.as_str(), error.retryable), ("COUNTER_OUT_OF_BOUNDS", true));
    assert_eq!((error.metadata["key"].as_str(), error.metadata["value"].as_str()), ("done", "1"));
    assert_eq!(broker.values(&["result"], 0).await, [pair("result", "one")]);
    assert_eq!(broker.stats("work").await.leased, 1);

    let unfit = Effect { kind: Some(effect::Kind::StoreValue(StoreValue::default())) };
    let third = Effect { kind: Some(effect::Kind::Arrive(arrive("g", "a"))) };
    for (effects, reason) in
        [(vec![unfit], "INVALID_ARGUMENT"), (vec![third; 3], "BATCH_TOO_LARGE")]
    {
        let failures = broker.settle(vec![Settlement { effects, ..ack(&tokens[1]) }]).await;
        assert_eq!(failures.unwrap()[0].error.as_ref().unwrap().reason, reason);
    }
    assert_eq!(broker.settle(vec![ack(&tokens[1])]).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn state_is_held_to_its_bounds_at_them_and_one_beyond() {
    let broker = Broker::start(&["--state-memory", "64KiB", "--max-payload", "1KiB"]).await;
    let mut state = broker.state();
    let put = |key: String, size: usize| {
        let value = Some(StoreValue { value: vec![0; size].into(), ..store(&key) });
        PutValueRequest { value }
    };
    assert!(state.put_value(put("k".repeat(256), 1024)).await.unwrap().into_inner().stored);
    let refused = refusal(state.put_value(put("k".to_owned(), 1025)).await);
    assert_eq!(refused.is(), (InvalidArgument, "MESSAGE_TOO_LARGE"), "{}", refused.message);
    assert_eq!(refused.metadata["field"], "value");
    for key in [String::new(), "k".repeat(257)] {
        let refused = refusal(state.put_value(put(key, 1)).await);
        assert_eq!(refused.is(), (InvalidArgument, "INVALID_ARGUMENT"));
        assert_eq!(refused.metadata["field"], "key");
    }
    for limit in [0, 1_000_001] {
        let refused =
            refusal(state.acquire_permit(AcquirePermitRequest { limit, ..acquire("p") }).await);
        assert_eq!(refused.metadata["field"], "limit");
    }
    for parties in [0, 100_001] {
        let key = "g".to_owned();
        let create = CreateBarrierRequest { key, parties, ..Default::default() };
        assert_eq!(refusal(state.create_barrier(create).await).metadata["field"], "parties");
    }
    let keys = vec!["k".to_owned(); 1_001];
    let refused =
        refusal(state.batch_get_values(BatchGetValuesRequest { keys, wait_timeout: None }).await);
    assert_eq!(refused.is(), (InvalidArgument, "BATCH_TOO_LARGE"));

    // 64 KiB are 253 entries of short keys beside the first one.
    let mut stored = 1;
    let full = loop {
        match state.put_value(put(format!("{stored:03}"), 1)).await {
            Ok(_) => stored += 1,
            Err(status) => break qbroker_tests::wire::Refusal::of(&status),
        }
    };
    assert_eq!(full.is(), (ResourceExhausted, "LIMIT_REACHED"), "{}", full.message);
    assert_eq!(full.metadata["limit"], "max_state_bytes");
    assert_eq!(stored, 1 + (65_536 - (256 + 512)) / (256 + 6));
    let delete = DeleteValueRequest { key: "001".to_owned() };
    assert!(state.delete_value(delete).await.unwrap().into_inner().deleted);
    assert!(state.put_value(put("new".to_owned(), 1)).await.unwrap().into_inner().stored);
}
