//! `qbroker schedule`: made, shown, changed, run and deleted in a shell.

use serde_json::json;

use super::{Stage, check_refused, check_usage};

const NIGHTLY: [&str; 7] =
    ["schedule", "create", "nightly", "reports", "{\"days\": 1}", "--cron", "30 3 * * *"];

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_is_made_shown_changed_and_deleted() {
    let stage = Stage::new().await;
    let create = [&NIGHTLY[..], &["--type", "build", "--time-zone", "Europe/Berlin"]].concat();
    let made = stage.shell.json(&create).await;
    assert_eq!((&made["name"], &made["queue"]), (&json!("nightly"), &json!("reports")));
    assert_eq!((&made["state"], &made["catch_up"]), (&json!("active"), &json!("last")));
    assert_eq!(
        (&made["message_type"], &made["payload"]),
        (&json!("build"), &json!("{\"days\": 1}"))
    );
    assert_eq!(made["next_publish_times"].as_array().unwrap().len(), 5);
    assert_eq!(made["next_publish_time"], made["next_publish_times"][0]);
    check_refused(&stage.shell.run(&create).await, 65, &["nightly exists", "update it"]);

    let listed = stage.shell.out(&["schedule", "list", "-o", "plain", "--no-headers"]).await;
    assert!(
        listed.starts_with("nightly\t30 3 * * *\tEurope/Berlin\treports\tactive\t"),
        "{listed}"
    );
    let line = ["schedule", "update", "nightly", "--cron", "@every 1h", "--jitter", "30s"];
    let line =
        [&line[..], &["--catch-up", "skip", "--skip-if-unfinished", "--priority", "4"]].concat();
    let changed = stage.shell.json(&line).await;
    assert_eq!((&changed["cron"], &changed["jitter"]), (&json!("@every 1h"), &json!("30s")));
    assert_eq!((&changed["catch_up"], &changed["time_zone"]), (&json!("skip"), &made["time_zone"]));
    assert_eq!(
        (&changed["skip_if_unfinished"], &changed["payload"]),
        (&json!(true), &made["payload"])
    );
    let line = ["schedule", "update", "nightly", "--skip-if-unfinished", "false"];
    assert_eq!(stage.shell.json(&line).await["skip_if_unfinished"], json!(false));

    stage.shell.out(&["schedule", "pause", "nightly"]).await;
    let shown = stage.shell.json(&["schedule", "show", "nightly"]).await;
    assert_eq!((&shown["state"], &shown["next_publish_time"]), (&json!("paused"), &json!(null)));
    let ran = stage.shell.json(&["schedule", "run", "nightly"]).await;
    let id = ran["message_id"].as_str().unwrap();
    let got = stage.shell.json(&["message", "get", id]).await;
    assert_eq!(got["headers"]["schedule"], json!("nightly"), "{got}");
    check_refused(&stage.shell.run(&["schedule", "resume", "nightly", "none"]).await, 3, &["none"]);
    let table = stage.shell.out(&["schedule", "show", "nightly", "-o", "table"]).await;
    assert!(table.contains("active") && table.contains("then"), "{table}");

    stage.shell.out(&["schedule", "delete", "nightly", "--yes"]).await;
    let again = ["schedule", "delete", "nightly", "--yes"];
    check_refused(&stage.shell.run(&again).await, 65, &["SCHEDULE_NOT_FOUND"]);
    stage.shell.out(&[&again[..], &["--if-exists"]].concat()).await;
    assert_eq!(stage.shell.json(&["schedule", "list"]).await, json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn times_that_cannot_be_are_refused() {
    let stage = Stage::new().await;
    let run = async |flags: &[&str]| {
        let line = [&["schedule", "create", "s", "q", "x"], flags].concat();
        stage.shell.run(&line).await
    };
    check_usage(&run(&[]).await, "--cron");
    check_refused(&run(&["--cron", "soon"]).await, 65, &["cron"]);
    check_refused(&run(&["--cron", "99 * * * *"]).await, 65, &["minute \"99\"", "0 to 59"]);
    check_refused(&run(&["--cron", "@daily", "--time-zone", "Mars"]).await, 65, &["Mars"]);
    check_usage(&run(&["--cron", "@daily", "--catch-up", "never"]).await, "--catch-up");
    check_usage(&run(&["--cron", "@daily", "--jitter", "some"]).await, "--jitter");
}
