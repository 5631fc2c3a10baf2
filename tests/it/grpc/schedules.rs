//! Schedules over the wire: what is refused, what is told, and that each tick comes once.

use std::time::Duration;

use qbroker_client::{CatchUp, Client, Error, Reason, ScheduleQuery, ScheduleSpec};
use qbroker_proto::v1::schedule_service_client::ScheduleServiceClient;
use qbroker_proto::v1::*;
use qbroker_tests::embedded::{Embedded, clock};
use qbroker_tests::folder::Folder;
use qbroker_tests::load;
use qbroker_tests::wire::Refusal;
use tonic::Code;

use super::{Broker, answer, message, seconds};

async fn put(broker: &Broker, schedule: Schedule) -> Result<Schedule, Refusal> {
    let mut schedules = ScheduleServiceClient::new(broker.wire.channel());
    let request = PutScheduleRequest { schedule: Some(schedule) };
    answer(schedules.put_schedule(request).await).map(|response| response.schedule.unwrap())
}

fn every_day() -> Schedule {
    let message = OutgoingMessage { queue: "q".to_owned(), ..message("x") };
    let (name, cron) = ("daily".to_owned(), "30 3 * * *".to_owned());
    Schedule { name, cron, message: Some(message), ..Schedule::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_that_cannot_be_is_refused_by_the_field() {
    let broker = Broker::start(&[]).await;
    type Set = fn(&mut Schedule);
    let with = |set: Set| {
        let mut schedule = every_day();
        set(&mut schedule);
        schedule
    };
    let invalid: [(&str, Set); 10] = [
        ("cron", |it| it.cron = "never".to_owned()),
        ("cron", |it| it.cron.clear()),
        ("cron", |it| it.cron = "0 0 30 2 *".to_owned()),
        ("cron", |it| it.cron = "@every 500ms".to_owned()),
        ("time_zone", |it| it.time_zone = "Europe/Atlantis".to_owned()),
        ("message", |it| it.message = None),
        ("message_id", |it| it.message.as_mut().unwrap().message_id = "one".to_owned()),
        ("jitter", |it| it.jitter = Some(seconds(24 * 3_600 + 1))),
        ("catch_up", |it| it.catch_up = 9),
        ("headers", |it| {
            let headers = (0..63).map(|number| (format!("h{number}"), String::new()));
            it.message.as_mut().unwrap().headers = headers.collect();
        }),
    ];
    for (field, set) in invalid {
        let refused = put(&broker, with(set)).await.unwrap_err();
        assert_eq!(refused.is(), (Code::InvalidArgument, "INVALID_ARGUMENT"), "{field}");
        assert_eq!(refused.metadata["field"], field);
    }
    let nowhere = put(&broker, with(|it| it.message.as_mut().unwrap().queue.clear())).await;
    assert_eq!(nowhere.unwrap_err().is().1, "INVALID_QUEUE_NAME");
    let unnamed = put(&broker, with(|it| it.name = "no name".to_owned())).await;
    assert_eq!(unnamed.unwrap_err().is().1, "INVALID_QUEUE_NAME");
    let large = put(
        &broker,
        with(|it| {
            it.message.as_mut().unwrap().payload = vec![0; 256 << 10].into();
        }),
    );
    let large = large.await.unwrap_err();
    assert_eq!((large.is().1, &*large.metadata["limit"]), ("LIMIT_REACHED", "max_schedule_bytes"));

    let most = put(
        &broker,
        with(|it| {
            let headers = (0..62).map(|number| (format!("h{number}"), String::new()));
            it.message.as_mut().unwrap().headers = headers.collect();
            it.message.as_mut().unwrap().payload = vec![0; 250 << 10].into();
            it.jitter = Some(seconds(24 * 3_600));
        }),
    );
    assert_eq!(most.await.unwrap().next_publish_times.len(), 5);
    broker.check_alive().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn schedules_are_told_as_they_were_put_and_survive_a_kill() {
    let broker = Broker::start(&[]).await;
    let client = load::client(&broker.server.url()).await;
    let message = outgoing("x").message_type("t").priority(3);
    let message = message.header("tenant", "acme").delay(Duration::from_secs(5));
    let spec = ScheduleSpec::new("b", "0 12 * * mon", message.clone()).time_zone("Asia/Tokyo");
    let spec = spec.catch_up(CatchUp::All).jitter(Duration::from_secs(9)).skip_if_unfinished(true);
    let put = client.put_schedule(spec).await.unwrap();
    assert_eq!((put.name.as_str(), put.queue.as_str(), put.message_type.as_str()), ("b", "q", "t"));
    assert_eq!(put.message, message.unique_key("schedule:b"));
    assert_eq!((put.catch_up, put.jitter), (CatchUp::All, Duration::from_secs(9)));
    assert_eq!((put.next_publish_times.len(), put.last_publish_time), (5, None));
    for name in ["a", "c"] {
        let plain = outgoing("y");
        client.put_schedule(ScheduleSpec::new(name, "@every 365d", plain)).await.unwrap();
    }
    let paused = client.pause_schedule("c").await.unwrap();
    assert!(paused.paused && paused.next_publish_times.is_empty());

    let broker = broker.kill_and_start().await;
    let client = load::client(&broker.server.url()).await;
    assert_eq!(client.get_schedule("b").await.unwrap(), put);
    let mut query = ScheduleQuery { page_size: 2, ..ScheduleQuery::default() };
    let first = client.list_schedules(query.clone()).await.unwrap();
    query.page_token = first.next_page_token;
    let second = client.list_schedules(query).await.unwrap();
    let names: Vec<_> = first.items.iter().chain(&second.items).map(|it| &*it.name).collect();
    assert_eq!((names, second.next_page_token.as_str()), (vec!["a", "b", "c"], ""));
    // Putting it again does not let it go on.
    let again = ScheduleSpec::from(second.items[0].clone());
    assert!(client.put_schedule(again).await.unwrap().paused);
    assert!(!client.resume_schedule("c").await.unwrap().paused);

    let id = client.trigger_schedule("b").await.unwrap().expect("nothing holds its key");
    assert!(id.starts_with("q."), "{id}");
    assert_eq!(client.trigger_schedule("b").await.unwrap(), None, "the first is unfinished");
    // Handed in again as it was told, it skips no more where it is not to.
    let again = client.get_schedule("b").await.unwrap();
    client.put_schedule(ScheduleSpec::from(again).skip_if_unfinished(false)).await.unwrap();
    assert!(client.trigger_schedule("b").await.unwrap().is_some());
    client.delete_schedule("b").await.unwrap();
    let gone = |done: Result<(), Error>| {
        assert_eq!(done.unwrap_err().reason(), Some(&Reason::ScheduleNotFound));
    };
    gone(client.delete_schedule("b").await);
    gone(client.get_schedule("b").await.map(drop));
    gone(client.trigger_schedule("b").await.map(drop));
    gone(client.pause_schedule("b").await.map(drop));
}

/// Together they are more than a client takes in one answer.
#[tokio::test(flavor = "multi_thread")]
async fn large_schedules_are_listed_in_pages_that_can_be_received() {
    let broker = Broker::start(&[]).await;
    let client = load::client(&broker.server.url()).await;
    let names: Vec<_> = (0..70).map(|number| format!("s{number:02}")).collect();
    for name in &names {
        let message = qbroker_client::OutgoingMessage::new(vec![b'x'; 250 << 10]).queue("q");
        client.put_schedule(ScheduleSpec::new(name, "@every 365d", message)).await.unwrap();
    }
    let mut query = ScheduleQuery { page_size: 1_000, ..ScheduleQuery::default() };
    let mut pages = Vec::new();
    loop {
        let page = client.list_schedules(query.clone()).await.unwrap();
        pages.push(page.items.into_iter().map(|it| it.name).collect::<Vec<_>>());
        query.page_token = page.next_page_token;
        if query.page_token.is_empty() {
            break;
        }
    }
    assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [32, 32, 6]);
    assert_eq!(pages.concat(), names);
}

fn outgoing(payload: &'static str) -> qbroker_client::OutgoingMessage {
    qbroker_client::OutgoingMessage::new(payload).queue("q")
}

async fn ticks(client: &Client) -> Vec<String> {
    let page = client.list_messages("q", qbroker_client::MessageQuery::default()).await;
    // Before the first tick there is no queue.
    let messages = page.map(|page| page.items).unwrap_or_default();
    let tick = |ms: &String| ms.parse::<u64>().unwrap() - 1_700_000_000_000;
    let ticks = messages.iter().map(|it| tick(&it.message.headers["schedule-tick-ms"]));
    ticks.map(|ms| format!("{}s", ms / 1_000)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_tick_is_published_once_over_restarts() {
    let (folder, clock) = (Folder::new(), clock());
    let broker = Embedded::start(&folder, &clock).await;
    let client = broker.client().await;
    let message = outgoing("x");
    client.put_schedule(ScheduleSpec::new("s", "*/10 * * * * *", message)).await.unwrap();
    broker.pass(Duration::from_millis(9_999));
    assert_eq!(ticks(&client).await, [""; 0]);
    broker.pass(Duration::from_millis(1));
    assert_eq!(ticks(&client).await, ["10s"]);
    broker.stop().await;

    // While it is down, ticks pass; the last one is caught up.
    clock.advance(33_000);
    let broker = Embedded::start(&folder, &clock).await;
    let client = broker.client().await;
    broker.pass(Duration::ZERO);
    assert_eq!(ticks(&client).await, ["10s", "40s"]);
    broker.pass(Duration::from_secs(7));
    assert_eq!(ticks(&client).await, ["10s", "40s", "50s"]);
    let schedule = client.get_schedule("s").await.unwrap();
    assert_eq!((schedule.published_total, schedule.skipped_total), (3, 0));
    broker.stop().await;
}
