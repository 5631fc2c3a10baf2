//! Watching while the log is written by hand.

use std::pin::Pin;

use futures_util::{FutureExt as _, StreamExt as _};
use qbroker_proto::v1::{MessageEvent, MessageEventKind};
use qbroker_storage::Lsn;

use super::*;
use crate::grpc::stage::Stage;
use crate::queue::Outcome;

type Watched = Pin<Box<dyn Stream<Item = Result<WatchEventsResponse, Status>>>>;

async fn watch_from(stage: &Stage, from_sequence: i64) -> Result<Watched, Fault> {
    let request = WatchEventsRequest { from_sequence, ..Default::default() };
    Ok(Box::pin(watch(&stage.context, request).await?))
}

/// The kinds and messages of the next response that tells something.
async fn told(watched: &mut Watched) -> Vec<(MessageEventKind, i64)> {
    loop {
        let response = watched.next().await.expect("it goes on").expect("it does not fail");
        let told = |it: &MessageEvent| (it.kind(), it.message_sequence);
        if !response.events.is_empty() {
            return response.events.iter().map(told).collect();
        }
    }
}

#[tokio::test]
async fn nothing_is_told_before_it_is_durable() {
    let mut stage = Stage::set();
    let mut watched = watch_from(&stage, 0).await.unwrap();
    let begun = watched.next().await.unwrap().unwrap();
    assert_eq!(begun.events, []);
    stage.publish("q");
    assert!(watched.next().now_or_never().is_none());
    stage.write();
    let birth = begun.next_sequence + 1;
    assert_eq!(told(&mut watched).await, [(MessageEventKind::Published, birth)]);
    let token = stage.lease("q");
    stage.settle(token, Outcome::Ack);
    stage.write();
    let rest = [(MessageEventKind::Leased, birth), (MessageEventKind::Acked, birth)];
    assert_eq!(told(&mut watched).await, rest);
}

#[tokio::test]
async fn a_watch_whose_place_is_gone_is_told_where_the_log_begins() {
    let mut stage = Stage::set();
    // It falls behind: nobody takes what it would tell.
    let mut slow = watch_from(&stage, 0).await.unwrap();
    for _ in 0..3 {
        for _ in 0..12 {
            stage.publish_bytes("q", 100 << 10);
            let token = stage.lease("q");
            stage.settle(token, Outcome::Ack);
            stage.write();
        }
        stage.context.engine.checkpoint().unwrap();
    }
    let engine = &stage.context.engine;
    assert!(0 < engine.log().stats().segments_dropped, "{:?}", engine.log().stats());
    let Err(Fault::EventsGone { from: Lsn(1), oldest }) = watch_from(&stage, 1).await else {
        panic!("the log does not begin there any more");
    };
    let refused = loop {
        match slow.next().await.unwrap() {
            Ok(begun) => assert_eq!(begun.events, []),
            Err(refused) => break refused,
        }
    };
    assert_eq!(refused.code(), tonic::Code::OutOfRange);
    let mut watched = watch_from(&stage, oldest.0.cast_signed()).await.unwrap();
    assert!(!told(&mut watched).await.is_empty());
}

#[tokio::test]
async fn there_are_so_many_watches_and_not_one_more() {
    let stage = Stage::set();
    let mut watches = Vec::new();
    for _ in 0..WATCHERS_MAX {
        watches.push(watch_from(&stage, 0).await.unwrap());
    }
    let refused = watch_from(&stage, 0).await.err().expect("it is one too many");
    assert!(matches!(refused, Fault::Refused(Refused::Limit { what: "watchers", .. })));
    watches.pop();
    drop(watch_from(&stage, 0).await.unwrap());
}
