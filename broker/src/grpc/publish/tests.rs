//! What a call leaves behind whose caller does not wait for the answer.

use std::task::{Context as Poller, Waker};

use prost::Message as _;
use qbroker_proto::raw::PublishRequest;
use qbroker_proto::raw::publisher_service_server::PublisherService as _;
use qbroker_proto::v1::OutgoingMessage;
use tonic::Request;

use super::super::stage::Stage;
use super::Publisher;

/// While the disk stood still, clients with a deadline of a second could fill the memory.
#[tokio::test]
async fn what_a_caller_does_not_wait_for_is_counted_until_it_is_on_disk() {
    for allow_partial in [false, true] {
        let mut stage = Stage::set();
        let publisher = Publisher::new(stage.context.clone());
        let message = OutgoingMessage { payload: vec![0; 10_000].into(), ..Default::default() };
        let messages = vec![message.encode_to_vec().into()];
        let request = PublishRequest { queue: "q".into(), messages, allow_partial };
        let mut call = publisher.publish(Request::new(request));
        let polled = call.as_mut().poll(&mut Poller::from_waker(Waker::noop()));
        assert!(polled.is_pending(), "it is not on disk yet");
        drop(call);
        let pending = || stage.context.engine.pending_bytes();
        assert!(10_000 <= pending(), "{} bytes are on their way", pending());
        stage.write();
        assert_eq!(stage.context.engine.pending_bytes(), 0);
    }
}
