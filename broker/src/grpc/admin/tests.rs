//! Administration while the log is written by hand.

use futures_util::FutureExt as _;

use super::*;
use crate::grpc::stage::Stage;
use crate::queue::Outcome;

#[tokio::test]
async fn a_queue_emptied_in_the_commit_that_the_first_look_waits_for_is_seen_empty() {
    let mut stage = Stage::set();
    let admin = Admin::new(stage.context.clone());
    stage.publish("q");
    let token = stage.lease("q");
    stage.write();
    // Something that is not durable yet, and that the look has to wait for.
    stage.publish("other");
    let request = WaitQueueEmptyRequest { name: "q".to_owned(), wait_timeout: None };
    let mut waiting = Box::pin(admin.wait_empty(request));
    assert!((&mut waiting).now_or_never().is_none());
    stage.settle(token, Outcome::Ack);
    stage.write();
    let answer = waiting.now_or_never().expect("nothing more will ever come");
    assert!(answer.unwrap().empty);
}
