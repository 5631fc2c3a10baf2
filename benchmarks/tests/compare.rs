//! The comparison itself works, with whatever is installed: everybody who takes part is measured in
//! every row, who does not is named. No figure is looked at. `QBROKER_SLOW=1` takes those too that
//! are slow to start.

use std::process::Command;

use serde_json::Value;

/// Who starts in a moment.
const QUICK: [&str; 4] = ["floor", "redis-everysec", "nats-default", "beanstalkd"];

const ALL: [&str; 9] = [
    "floor",
    "rabbitmq-quorum",
    "rabbitmq-classic",
    "redis-always",
    "redis-everysec",
    "nats-default",
    "nats-always",
    "beanstalkd",
    "postgresql",
];

#[test]
fn who_is_installed_is_measured_and_who_is_not_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (json, svg) = (folder.path().join("figures.json"), folder.path().join("figures.svg"));
    let asked = if std::env::var_os("QBROKER_SLOW").is_some() { &ALL[..] } else { &QUICK[..] };
    let output = compare()
        .args(["--only", &asked.join(",")])
        .args(["--messages", "120", "--seconds", "0.1", "--rounds", "1", "--backlog", "200"])
        .arg("--json")
        .arg(&json)
        .arg("--svg")
        .arg(&svg)
        .arg("--dir")
        .arg(folder.path())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");

    let text = String::from_utf8(output.stdout).unwrap();
    let report: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    let participants = report["participants"].as_array().unwrap();
    let missing = report["missing"].as_array().unwrap();
    // qbroker is always there.
    assert_eq!(participants.len() + missing.len(), asked.len() + 1, "{report}");
    for participant in participants {
        is_measured(participant);
        assert!(text.contains(participant["about"]["title"].as_str().unwrap()), "{text}");
    }
    for peer in missing {
        assert!(text.contains(peer["reason"].as_str().unwrap()), "{text}");
    }
    let names: Vec<_> = participants.iter().map(|one| one["about"]["name"].as_str()).collect();
    assert_eq!(names[..2], [Some("floor"), Some("qbroker")]);

    assert!(std::fs::read_to_string(&svg).unwrap().contains("qbroker"));
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), 2, "besides the reports: {left:?}");
}

fn is_measured(participant: &Value) {
    let rows = participant["rows"].as_array().expect("rows");
    assert_eq!(rows.len(), 5, "{participant}");
    for row in rows {
        assert!(0.0 < number(&row["figures"]["figure"]["median"]), "{row}");
        assert!(0.0 < number(&row["qbroker_times"]["median"]), "{row}");
    }
    if participant["about"]["name"] != "floor" {
        let backlog = &participant["backlog"];
        assert_eq!(backlog["messages"], 200, "{participant}");
        assert!(0.0 < number(&backlog["memory"]["held_bytes"]), "{participant}");
        assert!(0.0 < number(&backlog["restart_seconds"]), "{participant}");
    }
}

fn number(value: &Value) -> f64 {
    value.as_f64().expect("a number")
}

#[test]
fn the_hint_is_a_command_or_says_that_nothing_is_missing() {
    let output = compare().arg("--install-hint").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let command = text.starts_with("sudo apt-get install --no-install-recommends ");
    assert!(command || text.starts_with("No package is missing"), "{text}");
}

/// With the broker that the other tests use, and without `CARGO`: see `quick.rs`.
fn compare() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qbroker-benchmarks"));
    command.arg("compare").arg("--qbroker").arg(qbroker_tests::program::path());
    command.env_remove("CARGO");
    command
}
