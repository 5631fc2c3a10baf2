//! The example at its full size: 100,000 jobs, a broker that is killed seven times, and a look at
//! the result with other eyes than its own.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

const JOBS: usize = 100_000;

#[test]
fn every_job_is_done_and_counted_once_whatever_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let output = jobs().arg("--dir").arg(folder.path()).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8(output.stderr));
    assert!(output.status.success(), "{out}\n{}", err.unwrap());
    let kills = out.lines().filter(|line| line.starts_with("killed     at ")).count();
    assert_eq!(kills, 6, "{out}");
    assert!(out.contains("killed     a shell worker"), "{out}");
    assert!(out.contains("killed     once more: nothing has come back, nothing is left"), "{out}");

    let expected = words_of_jobs(&folder.path().join("jobs.jsonl"));
    assert_eq!(expected.len(), JOBS);
    let results = results(&folder.path().join("results.tsv"));
    assert_eq!(results.len(), JOBS, "{out}");
    for (id, words) in expected {
        assert_eq!(results.get(&id), Some(&words), "{id}");
    }
}

#[test]
fn what_cannot_be_done_is_said_before_anything_is_started() {
    for (arguments, told) in [
        (&["--jobs", "0", "--shell-jobs", "0"][..], "0 jobs are none"),
        (&["--jobs", "5", "--shell-jobs", "6"], "of 5 jobs, 6 cannot be for shell workers"),
        (&["--shell-workers", "0"], "3000 jobs for 0 shell workers"),
        (&["--qbroker", "/nowhere/qbroker"], "there is no broker at /nowhere/qbroker"),
    ] {
        let output = jobs().args(arguments).output().unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), &*output.stdout), (Some(1), &b""[..]), "{err}");
        assert!(err.contains(told), "{err}");
    }
}

fn jobs() -> Command {
    Command::new(env!("CARGO_BIN_EXE_jobs"))
}

/// The words of each job, counted here.
fn words_of_jobs(path: &Path) -> HashMap<String, usize> {
    let text = std::fs::read_to_string(path).unwrap();
    let jobs = text.lines().map(|line| {
        let job: Value = serde_json::from_str(line).unwrap();
        let words = job["payload"].as_str().unwrap().split_ascii_whitespace().count();
        (job["message_id"].as_str().unwrap().to_owned(), words)
    });
    jobs.collect()
}

/// The results that the example has written; a second one for the same job is an error.
fn results(path: &Path) -> HashMap<String, usize> {
    let text = std::fs::read_to_string(path).unwrap();
    let mut results = HashMap::new();
    for line in text.lines() {
        let (id, words) = line.split_once('\t').unwrap();
        let before = results.insert(id.to_owned(), words.parse().unwrap());
        assert_eq!(before, None, "{id} has two results");
    }
    results
}
