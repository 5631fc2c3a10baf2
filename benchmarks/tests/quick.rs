//! The benchmark itself works: every row goes through on both systems and is reported. No figure is
//! looked at: those are for a quiet machine and an optimised build.

use std::process::Command;

use serde_json::Value;

const ROWS: [&str; 6] =
    ["publish-batches", "publish-singles", "publish-unary", "consume", "both", "round-trip"];

#[test]
fn every_row_is_measured_for_both_systems_and_reported() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("figures.json");
    let output = quick()
        .args([
            "--messages",
            "700",
            "--seconds",
            "0.5",
            "--rounds",
            "2",
            "--payload",
            "100",
            "--json",
        ])
        .arg(&json)
        .arg("--dir")
        .arg(folder.path())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");

    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("fdatasync: p50 "), "{text}");
    assert!(text.contains("qbroker/floor"), "{text}");

    let report: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    let rows = report["rows"].as_array().unwrap();
    let names: Vec<_> = rows.iter().map(|row| row["row"].as_str().unwrap()).collect();
    assert_eq!(names, ROWS);
    for row in rows {
        assert!(0 < row["messages_in_flight"].as_u64().unwrap(), "{row}");
        for system in ["floor", "qbroker"] {
            let rounds = row[system]["rounds"].as_array().unwrap();
            assert_eq!(rounds.len(), 2, "{row}");
            assert!(rounds.iter().all(|figure| 0.0 < figure.as_f64().unwrap()), "{row}");
        }
    }
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "besides the report: {left:?}");
}

#[test]
fn a_row_can_be_measured_alone() {
    let output = quick()
        .args(["--messages", "50", "--rounds", "1", "--only", "round-trip"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("round trip: publish, deliver, ack"), "{text}");
    assert!(!text.contains("consume + ack"), "{text}");
}

/// With the broker that the other tests use: built already where the workspace is tested. Without
/// `CARGO` in its environment, or the benchmark would build the broker again with other features.
fn quick() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qbroker-benchmarks"));
    command.arg("quick").arg("--qbroker").arg(qbroker_tests::program::path()).env_remove("CARGO");
    command
}
