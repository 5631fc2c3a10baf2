//! Filters: what they mean, what they refuse, and that pages end where enough was looked at.

use filter_term::Kind;
use qbroker_proto::v1::*;
use tonic::Code::InvalidArgument;

use super::{Broker, Refusal, answer, message, publish, seconds, settlement};

fn term(kind: Kind) -> FilterTerm {
    FilterTerm { kind: Some(kind) }
}

pub(super) fn all_of(kinds: impl IntoIterator<Item = Kind>) -> MessageFilter {
    MessageFilter { terms: kinds.into_iter().map(term).collect(), all: false }
}

pub(super) fn ids(ids: &[&str]) -> Kind {
    Kind::MessageIds(IdList { ids: ids.iter().map(|id| (*id).to_owned()).collect() })
}

fn header(key: &str, value: &str) -> Kind {
    Kind::Header(HeaderEquals { key: key.to_owned(), value: value.to_owned() })
}

impl Broker {
    async fn page(&self, request: ListMessagesRequest) -> Result<ListMessagesResponse, Refusal> {
        answer(self.wire.admin().list_messages(request).await)
    }

    /// The payloads of what a filter means, page by page.
    async fn meant(&self, queue: &str, filter: MessageFilter, page_size: i32) -> Vec<String> {
        let mut request = ListMessagesRequest {
            queue: queue.to_owned(),
            filter: Some(filter),
            page_size,
            ..ListMessagesRequest::default()
        };
        let mut payloads = Vec::new();
        loop {
            let page = self.page(request.clone()).await.unwrap();
            let payload = |info: MessageInfo| info.message.expect("it is set").payload.to_vec();
            payloads.extend(
                page.messages.into_iter().map(|it| String::from_utf8(payload(it)).unwrap()),
            );
            if page.next_page_token.is_empty() {
                return payloads;
            }
            request.page_token = page.next_page_token;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_term_means_what_it_says_and_all_must_hold() {
    let broker = Broker::start(&[]).await;
    let tenant = |name: &str| [("tenant".to_owned(), name.to_owned())].into();
    let delay = Some(outgoing_message::Schedule::Delay(seconds(3_600)));
    let messages = vec![
        OutgoingMessage { message_id: "own".to_owned(), headers: tenant("a"), ..message("one") },
        OutgoingMessage { message_type: "mail".to_owned(), headers: tenant("b"), ..message("two") },
        OutgoingMessage { correlation_id: "c7".to_owned(), ..message("three") },
        OutgoingMessage { headers: tenant("a"), schedule: delay, ..message("later") },
    ];
    let stored = broker.publish(publish("q", messages)).await.unwrap();
    let two = format!("q.{}", stored[1].sequence);
    let hour = |offset: i64| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let seconds = i64::try_from(now.as_secs()).unwrap() + offset * 3_600;
        prost_types::Timestamp { seconds, nanos: 0 }
    };
    let cases = [
        (vec![ids(&["own", "q.1"])], "one"),
        (vec![ids(&[&two, "own"])], "one two"),
        (vec![ids(&[&two])], "two"),
        (vec![header("tenant", "a")], "one later"),
        (vec![header("tenant", "")], ""),
        (vec![Kind::MessageType("mail".to_owned())], "two"),
        (vec![Kind::CorrelationId("c7".to_owned())], "three"),
        (vec![Kind::State(MessageState::Scheduled.into())], "later"),
        (vec![header("tenant", "a"), Kind::State(MessageState::Ready.into())], "one"),
        (vec![Kind::PayloadContains("wo".into())], "two"),
        (vec![Kind::PublishedAfter(hour(-1)), header("tenant", "b")], "two"),
        (vec![Kind::PublishedAfter(hour(1))], ""),
        (vec![Kind::PublishedBefore(hour(1)), ids(&["own"])], "one"),
        (vec![Kind::PublishedBefore(hour(-1))], ""),
        (vec![Kind::SourceQueue("q".to_owned())], ""),
    ];
    for (kinds, expected) in cases {
        for page_size in [1, 50] {
            let meant = broker.meant("q", all_of(kinds.clone()), page_size).await;
            assert_eq!(meant.join(" "), expected, "{kinds:?}");
        }
    }
    let everything = MessageFilter { all: true, terms: Vec::new() };
    assert_eq!(broker.meant("q", everything, 50).await.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_found_by_why_they_died_after_a_kill_too() {
    let broker = Broker::start(&[]).await;
    broker.publish(publish("a", vec![message("1"), message("2")])).await.unwrap();
    broker.publish(publish("b", vec![message("3")])).await.unwrap();
    let letters = Queue {
        name: "a".to_owned(),
        policy: Some(QueuePolicy {
            dead_letter_queue: Some("dead".to_owned()),
            ..QueuePolicy::default()
        }),
        ..Queue::default()
    };
    for name in ["a", "b"] {
        let update_mask =
            Some(prost_types::FieldMask { paths: vec!["policy.dead_letter_queue".to_owned()] });
        let queue = Some(Queue { name: name.to_owned(), ..letters.clone() });
        let update = UpdateQueueRequest { queue, update_mask, ..UpdateQueueRequest::default() };
        broker.wire.admin().update_queue(update).await.unwrap();
    }
    for (queue, kinds) in [("a", ["Timeout", "Refused"]), ("b", ["Timeout", "Timeout"])] {
        for (held, kind) in broker.pull(queue, 9).await.iter().zip(kinds) {
            let failure = Some(Failure { r#type: kind.to_owned(), ..Failure::default() });
            let dead = settlement::Outcome::DeadLetter(DeadLetter { failure, patch: None });
            assert_eq!(broker.settle(vec![settlement(&held.lease_token, dead)]).await.unwrap(), []);
        }
    }
    let broker = broker.kill_and_start().await;
    let timeout = || Kind::FailureType("Timeout".to_owned());
    let cases = [
        (vec![timeout()], "1 3"),
        (vec![timeout(), Kind::SourceQueue("b".to_owned())], "3"),
        (vec![Kind::DeadLetterReason(DeadLetterReason::ByConsumer.into())], "1 2 3"),
        (vec![Kind::DeadLetterReason(DeadLetterReason::Expired.into())], ""),
    ];
    for (kinds, expected) in cases {
        assert_eq!(broker.meant("dead", all_of(kinds), 50).await.join(" "), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_ends_where_enough_was_looked_at_and_names_the_next_one() {
    let broker = Broker::start(&[]).await;
    for first in (0..12_000).step_by(1_000) {
        let text = |number: i32| if number == 11_500 { "wanted" } else { "other" };
        let batch = (first..first + 1_000).map(|number| message(text(number))).collect();
        broker.publish(publish("q", batch)).await.unwrap();
    }
    let filter = || Some(all_of([Kind::PayloadContains("wanted".into())]));
    let queue = "q".to_owned();
    let first = ListMessagesRequest { queue, filter: filter(), ..ListMessagesRequest::default() };
    let page = broker.page(first.clone()).await.unwrap();
    assert_eq!(page.messages.len(), 0);
    let token = page.next_page_token;
    let next = ListMessagesRequest { page_token: token.clone(), ..first.clone() };
    let page = broker.page(next).await.unwrap();
    assert_eq!((page.messages.len(), page.next_page_token.as_str()), (1, ""));
    // It is of that filter alone.
    let other = Some(all_of([Kind::PayloadContains("want".into())]));
    for filter in [None, other] {
        let request = ListMessagesRequest { filter, page_token: token.clone(), ..first.clone() };
        let refused = broker.page(request).await.unwrap_err();
        assert_eq!(refused.is(), (InvalidArgument, "INVALID_ARGUMENT"));
        assert_eq!(refused.metadata["field"], "page_token");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_says_nothing_is_refused_and_never_everything() {
    let broker = Broker::start(&[]).await;
    broker.publish(publish("q", vec![message("a")])).await.unwrap();
    let bad = [
        (MessageFilter::default(), "filter"),
        (MessageFilter { terms: vec![FilterTerm::default()], all: false }, "filter"),
        (MessageFilter { terms: vec![term(ids(&["a"]))], all: true }, "filter"),
        (all_of([Kind::MessageType(String::new())]), "filter.message_type"),
        (all_of([Kind::State(0)]), "filter.state"),
    ];
    for (filter, field) in bad {
        let queue = "q".to_owned();
        let request = ListMessagesRequest { queue, filter: Some(filter), ..Default::default() };
        let refused = broker.page(request).await.expect_err(field);
        assert_eq!(refused.is(), (InvalidArgument, "INVALID_ARGUMENT"), "{field}");
        assert_eq!(refused.metadata["field"], field, "{}", refused.message);
    }
}
