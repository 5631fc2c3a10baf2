//! The scenarios themselves work: nothing is lost, doubled, out of order or early, every phase is
//! measured, every figure told. No speed is looked at: that is for a quiet machine and an optimised
//! build.
#![allow(clippy::unwrap_used)]

use std::process::Command;

use serde_json::Value;

/// Runs a scenario in its small form; its report.
fn scenario(arguments: &[&str]) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let (json, svg) = (folder.path().join("figures.json"), folder.path().join("figures.svg"));
    // With the broker that the other tests use, and without `CARGO`: see `quick.rs`.
    let mut command = Command::new(env!("CARGO_BIN_EXE_qbroker-benchmarks"));
    command.args(arguments).arg("--qbroker").arg(qbroker_tests::program::path());
    command.arg("--json").arg(&json).arg("--svg").arg(&svg).arg("--dir").arg(folder.path());
    let output = command.env_remove("CARGO").output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");

    let text = String::from_utf8(output.stdout).unwrap();
    let report: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    assert_eq!(report["scenario"], arguments[0]);
    for phase in list(&report["phases"]) {
        assert!(text.contains(phase["name"].as_str().unwrap()), "{text}");
        assert!(0.0 < number(&phase["held_max_bytes"]), "{phase}");
        assert!(0.0 < number(&phase["disk_max_bytes"]), "{phase}");
    }
    for figure in list(&report["figures"]) {
        assert!(text.contains(figure["title"].as_str().unwrap()), "{text}");
        assert!(figure["value"].is_number(), "{figure}");
    }
    assert!(2 <= list(&report["samples"]).len());
    let svg = std::fs::read_to_string(&svg).unwrap();
    assert!(svg.contains("Memory, MiB") && svg.contains("<polyline"), "{svg}");
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), 2, "besides the reports: {left:?}");
    report
}

fn list(value: &Value) -> &Vec<Value> {
    value.as_array().expect("a list")
}

fn number(value: &Value) -> f64 {
    value.as_f64().expect("a number")
}

/// How many messages went through in each phase whose name begins so.
fn messages(report: &Value, name: &str) -> Vec<u64> {
    let phases = list(&report["phases"]).iter();
    let named = phases.filter(|phase| phase["name"].as_str().unwrap().starts_with(name));
    named.map(|phase| phase["messages"].as_u64().unwrap()).collect()
}

/// The figure whose title begins so.
fn figure<'a>(report: &'a Value, title: &str) -> &'a Value {
    let mut figures = list(&report["figures"]).iter();
    let found = figures.find(|figure| figure["title"].as_str().unwrap().starts_with(title));
    found.unwrap_or_else(|| panic!("no figure {title:?}: {report}"))
}

#[test]
fn a_backlog_is_filled_survives_a_kill_and_is_drained_in_order() {
    let report = scenario(&["backlog", "--messages", "2500", "--hold-seconds", "0.1"]);
    assert_eq!(messages(&report, "fill to"), [500; 5]);
    assert_eq!(messages(&report, "drain"), [2500]);
    assert_eq!(messages(&report, "steady"), [2500]);
    assert_eq!(figure(&report, "most memory, VmHWM")["reached"], true);
    assert!(0.0 < number(&figure(&report, "start after SIGKILL, until the first")["value"]));
    assert_eq!(figure(&report, "publish rate")["messages_in_flight"], 4000);
}

#[test]
fn what_does_not_fit_on_the_disk_is_refused_first() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qbroker-benchmarks"));
    command.args(["backlog", "--messages", "1000000000000", "--qbroker"]);
    command.arg(qbroker_tests::program::path()).env_remove("CARGO");
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && errors.contains("MiB are free"), "{errors}");
}

#[test]
fn delayed_messages_come_once_and_never_early() {
    let report = scenario(&[
        "delayed",
        "--messages",
        "2000",
        "--due-rate",
        "500",
        "--due-seconds",
        "2",
        "--hold-seconds",
        "0.1",
    ]);
    assert_eq!(messages(&report, "fill"), [2000]);
    assert_eq!(messages(&report, "messages fall due"), [1000]);
    for of in ["a time", "a delay"] {
        let least = figure(&report, &format!("late, least of those with {of}"));
        assert_eq!(least["reached"], true, "{least}");
    }
    let canceled =
        list(&report["figures"]).iter().any(|figure| figure["title"] == "cancel by id, most");
    assert!(canceled || list(&report["missing"]).len() == 1, "{report}");
}

#[test]
fn every_message_of_many_queues_comes_once() {
    let report = scenario(&["queues", "1200", "--messages", "2400", "--rounds", "2"]);
    assert_eq!(messages(&report, "make the queues"), [1200]);
    // And once more for the warm-up.
    assert_eq!(messages(&report, "publish to one queue"), [2400; 3]);
    assert_eq!(messages(&report, "consume from one queue"), [2400; 3]);
    assert_eq!(messages(&report, "consume from 1,200 queues"), [2400; 2]);
    assert!(0.0 < number(&figure(&report, "publish over all queues, to one")["value"]));
}

#[test]
fn many_consumers_take_every_message_once() {
    let report =
        scenario(&["consumers", "40", "--connections", "2", "--messages", "1500", "--rounds", "2"]);
    assert_eq!(messages(&report, "consume by 1"), [1500; 2]);
    assert_eq!(messages(&report, "consume by 40"), [1500; 2]);
    assert_eq!(figure(&report, "consume + ack by all streams")["messages_in_flight"], 4000);
}

#[test]
fn what_a_pattern_of_settling_keeps_is_there_and_the_rest_is_gone() {
    let report = scenario(&["pinned", "--messages", "1000", "--nack-delay", "0.01"]);
    for pattern in ["every second", "the oldest", "a random tenth", "each nacked once"] {
        let live = number(&figure(&report, &format!("{pattern}: live bytes"))["value"]);
        let share = live / 1024.0 / 1000.0;
        let expected = match pattern {
            "every second" => 0.49..0.52,
            "the oldest" => 0.0009..0.0012,
            "a random tenth" => 0.07..0.13,
            _ => 0.99..1.03,
        };
        assert!(expected.contains(&share), "{pattern}: {share}");
        assert_eq!(figure(&report, &format!("{pattern}: disk at the end"))["reached"], true);
    }
    assert_eq!(messages(&report, "nacked again and again: nack"), [1000]);
}

#[test]
fn whatever_messages_ask_for_each_comes_once_and_in_the_order_of_its_line() {
    let report = scenario(&["features", "--messages", "1000"]);
    assert_eq!(messages(&report, "plain: fill"), [1000]);
    for feature in [
        "priorities",
        "ordering keys",
        "fairness keys",
        "unique keys",
        "message ids",
        "ttl",
        "outcomes",
    ] {
        assert_eq!(messages(&report, &format!("{feature}: fill")), [1000]);
        assert_eq!(messages(&report, &format!("{feature}: drain")), [1000]);
        assert_eq!(figure(&report, &format!("{feature}: most memory"))["reached"], true);
        let rate = figure(&report, &format!("{feature}: drain, to plain"));
        assert!(0.0 < number(&rate["value"]), "{rate}");
    }
}

#[test]
fn jobs_are_measured_beside_the_bare_client() {
    let jobs = ["jobs", "--jobs", "3000", "--rounds", "1"];
    let report = scenario(&[&jobs[..], &["--at-once", "500", "--at-stop", "100"]].concat());
    assert_eq!(messages(&report, "consume + ack"), [3_000]);
    assert_eq!(messages(&report, "empty jobs"), [3_000]);
    assert!(0.0 < number(&figure(&report, "empty jobs, to the bare")["value"]));
    // Of memory that was there already, that may be none.
    assert!(0.0 <= number(&figure(&report, "memory of 500 jobs")["value"]));
    assert!(0.0 < number(&figure(&report, "stop with 100 jobs")["value"]));
    // Of those that may end while it stops; on a busy machine fewer do in time.
    assert!(number(&figure(&report, "jobs that have ended by then")["value"]) <= 50.0);
    assert!(number(&figure(&report, "jobs lost or repeated")["value"]).abs() < 0.5);
}

#[test]
fn latency_is_told_one_at_a_time_and_under_load() {
    let report = scenario(&[
        "latency",
        "--seconds",
        "1",
        "--load",
        "0.3",
        "--idle-seconds",
        "0.2",
        "--messages",
        "3000",
    ]);
    assert!(messages(&report, "under load")[0] > 0);
    for when in ["one at a time", "under load"] {
        for what in ["confirm", "publish to deliver", "ack"] {
            let of = |which| number(&figure(&report, &format!("{when}: {what}, {which}"))["value"]);
            assert!(0.0 < of("p50") && of("p50") <= of("p99.9"), "{report}");
        }
    }
    assert!(0.0 < number(&figure(&report, "longest between confirms")["value"]));
    assert!(0.0 < number(&figure(&report, "write and fdatasync of another file")["value"]));
}
