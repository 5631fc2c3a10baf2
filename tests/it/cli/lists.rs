//! Lists of queues, for people and for programs.

use serde_json::{Value, json};

use super::{Stage, check_usage, each, json_lines};

async fn with_queues() -> Stage {
    let stage = Stage::new().await;
    stage.publish("mails", &["one", "two"]).await;
    stage.shell.out(&["queue", "create", "reports", "--label", "team=a"]).await;
    stage
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_the_same_in_every_format() {
    let stage = with_queues().await;
    let list = async |format| stage.shell.out(&["queue", "list", "-o", format]).await;
    let array: Value = serde_json::from_str(&list("json").await).unwrap();
    let mut queues = array.as_array().unwrap().clone();
    let mut lines = json_lines(&list("jsonl").await);
    // An age goes on.
    for queue in queues.iter_mut().chain(&mut lines) {
        queue["oldest_ready_age"] = Value::Null;
    }
    assert_eq!(lines, queues);
    assert_eq!(each(&queues, "name"), ["mails", "reports"]);
    assert_eq!((&queues[0]["ready"], &queues[1]["labels"]["team"]), (&2.into(), &"a".into()));

    let plain = list("plain").await;
    let rows: Vec<Vec<&str>> = plain.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!(rows[0][..3], ["NAME", "READY", "SCHEDULED"]);
    assert_eq!((rows[1][..3].join(" "), rows.len()), ("mails 2 0".to_owned(), 3));
    let table = list("table").await;
    let rows: Vec<Vec<&str>> =
        table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!((rows[0][0], &rows[1][..2], rows.len()), ("NAME", &["mails", "2"][..], 3));
    check_usage(&stage.shell.run(&["queue", "list", "-o", "xml"]).await, "xml");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_goes_by_name_and_without_titles_where_one_asks() {
    let stage = with_queues().await;
    // Not on a terminal, it is plain; the noun has a plural.
    let bare = stage.shell.out(&["queues", "list", "--no-headers", "--contains", "ail"]).await;
    assert!(bare.starts_with("mails\t2\t") && bare.lines().count() == 1, "{bare}");
    assert_eq!(stage.shell.json(&["queue", "list", "--contains", "none"]).await, json!([]));
    let shell = stage.shell.clone().with_variable("QBROKER_OUTPUT", "jsonl");
    assert_eq!(json_lines(&shell.out(&["queue", "list"]).await).len(), 2);
}
