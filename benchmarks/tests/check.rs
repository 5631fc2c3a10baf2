//! The check passes what is no worse than its ratios, and fails what is, by name. The ratios here can
//! only be reached, or only be missed, on any machine and in any build.
#![allow(clippy::unwrap_used)]

use std::process::{Command, Output};

const ROWS: [&str; 5] = ["publish-batches", "publish-singles", "publish-unary", "consume", "both"];

/// Runs the check with every rate held to `rate`, in a form too short to tell anything.
fn check(rate: &str) -> (Output, String) {
    let folder = tempfile::tempdir().unwrap();
    let ratios = folder.path().join("ratios.toml");
    let mut text = "[round-trip]\nat-most = 1e9\n".to_owned();
    ROWS.iter().for_each(|row| text.push_str(&format!("[{row}]\nat-least = {rate}\n")));
    std::fs::write(&ratios, text).unwrap();
    // With the broker that the other tests use, and without `CARGO`: see `quick.rs`.
    let mut command = Command::new(env!("CARGO_BIN_EXE_qbroker-benchmarks"));
    command.args(["check", "--seconds", "2"]).arg("--ratios").arg(&ratios);
    command.arg("--qbroker").arg(qbroker_tests::program::path()).env_remove("CARGO");
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, errors)
}

#[test]
fn what_is_no_worse_passes() {
    let (output, errors) = check("1e-9");
    assert!(output.status.success(), "{errors}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(ROWS.iter().all(|row| text.contains(row)), "{text}");
}

#[test]
fn what_is_worse_fails_and_is_named() {
    let (output, errors) = check("1e9");
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("worse than before"), "{errors}");
    assert!(ROWS.iter().all(|row| errors.contains(row)), "{errors}");
    assert!(!errors.contains("round-trip"), "{errors}");
}
