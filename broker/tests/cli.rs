//! The command line as a script sees it: output, exit codes, and what goes to which stream.
//!
//! Everything here works without a broker; what needs one is in the workspace's own test crate.
#![allow(clippy::unwrap_used)]

use std::io::Write as _;
use std::net::TcpListener;
use std::process::{Command, Output, Stdio};

/// The program in an environment that holds nothing but what the test puts there.
fn qbroker(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qbroker"));
    command.args(arguments).env_clear().stdin(Stdio::null());
    command
}

struct Ran {
    code: i32,
    out: String,
    err: String,
}

fn ran(output: Output) -> Ran {
    Ran {
        code: output.status.code().expect("it ended by itself"),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

fn run(arguments: &[&str]) -> Ran {
    ran(qbroker(arguments).output().unwrap())
}

fn run_with_input(arguments: &[&str], input: &str) -> Ran {
    let mut command = qbroker(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    ran(child.wait_with_output().unwrap())
}

/// A URL at which nobody listens.
fn nowhere() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

#[test]
fn help_goes_to_stdout_and_wrong_usage_to_stderr_with_64() {
    let help = run(&["--help"]);
    assert_eq!((help.code, help.err.as_str()), (0, ""));
    assert!(help.out.contains("Exit codes:"), "{}", help.out);
    let wrong = run(&["queue", "list", "--nonsense"]);
    assert_eq!((wrong.code, wrong.out.as_str()), (64, ""));
    assert!(wrong.err.contains("--nonsense"), "{}", wrong.err);
    assert_eq!(run(&[]).code, 64);
}

#[test]
fn every_command_has_help() {
    let commands: &[&[&str]] = &[
        &["serve"],
        &["dev"],
        &["queue", "create"],
        &["queue", "list"],
        &["queue", "show"],
        &["queue", "update"],
        &["queue", "delete"],
        &["queue", "purge"],
        &["message", "publish"],
        &["message", "pull"],
        &["message", "peek"],
        &["message", "consume"],
        &["health"],
        &["data", "verify"],
        &["data", "repair"],
        &["config", "show"],
        &["token", "create"],
        &["completions"],
    ];
    for command in commands {
        let help = run(&[command, &["--help"][..]].concat());
        assert_eq!(help.code, 0, "{command:?}");
        assert!(help.out.contains("Usage: qbroker"), "{command:?}: {}", help.out);
    }
}

#[test]
fn help_speaks_of_what_the_command_has_and_does() {
    let help = |command: &[&str]| run(&[command, &["-h"]].concat()).out;
    assert!(help(&["message", "pull"]).contains("made on demand"));
    let schedule = help(&["schedule", "create"]);
    assert!(!schedule.contains("--jsonl") && !schedule.contains("from now"), "{schedule}");
    assert!(help(&["message", "publish"]).contains("application/json unless"));
    // A line that is too long is broken where the terminal ends, and one that is broken by hand looks so.
    let consume = help(&["message", "consume"]);
    let (_, with_exec) = consume.split_once("With --exec, ").expect("it is told of");
    assert!(with_exec.lines().all(|line| line.len() <= 100), "{with_exec}");
}

#[test]
fn settings_are_shown_with_where_they_came_from() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("q.toml");
    std::fs::write(&file, "max-streams = 7\nmax-connections = 8\n").unwrap();
    let file = file.to_str().unwrap();
    let arguments =
        ["config", "show", "--origin", "--config", file, "--log-level", "debug", "-o", "plain"];
    let shown = ran(qbroker(&arguments)
        .env("QBROKER_MAX_CONNECTIONS", "9")
        .env("QBROKER_MAX_CONECTIONS", "9")
        .output()
        .unwrap());
    assert_eq!(shown.code, 0, "{}", shown.err);
    let line = |name: &str| shown.out.lines().find(|line| line.starts_with(name)).unwrap();
    assert_eq!(line("NAME"), "NAME\tVALUE\tORIGIN");
    assert_eq!(line("max-streams"), format!("max-streams\t7\t{file}:1"));
    assert_eq!(line("max-connections"), "max-connections\t9\tenv QBROKER_MAX_CONNECTIONS");
    assert_eq!(line("log-level"), "log-level\tdebug\tflag");
    assert_eq!(line("shutdown-grace"), "shutdown-grace\t30s\tdefault");
    assert!(shown.err.contains("QBROKER_MAX_CONECTIONS"), "{}", shown.err);
}

#[test]
fn a_wrong_configuration_is_78_and_says_where() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("q.toml");
    std::fs::write(&file, "\nmax-stream = 7\n").unwrap();
    for noun in [&["config", "check"][..], &["serve"]] {
        let refused = run(&[noun, &["--config", file.to_str().unwrap()]].concat());
        assert_eq!(refused.code, 78, "{}", refused.err);
        let place = format!("{}:2: there is no setting \"max-stream\"", file.display());
        assert!(refused.err.contains(&place), "{}", refused.err);
    }
    let refused = run(&["serve", "--tls-cert", "only-one.pem"]);
    assert_eq!(refused.code, 78);
    assert!(refused.err.contains("tls-cert and tls-key belong together"), "{}", refused.err);
    assert_eq!(run(&["config", "check", "--max-payload", "1KiB"]).code, 0);
}

#[test]
fn nobody_there_is_69_for_commands_and_1_for_health() {
    let url = nowhere();
    for command in [
        &["queue", "list"][..],
        &["message", "publish", "q", "x"],
        &["message", "consume", "q"],
        &["message", "pull", "q"],
    ] {
        let refused = run(&[command, &["--url", &url]].concat());
        assert_eq!(refused.code, 69, "{command:?}: {}", refused.err);
        assert_eq!(refused.out, "");
        assert!(refused.err.contains("is the broker running there?"), "{}", refused.err);
        assert!(refused.err.contains(&url), "{}", refused.err);
        assert!(!refused.err.contains("transport error"), "{}", refused.err);
    }
    let below = run(&["queue", "list", "--url", &format!("{url}/foo")]);
    assert_eq!(below.code, 64, "{}", below.err);
    assert!(below.err.contains("not found below a path"), "{}", below.err);
    let health = run(&["health", "--url", &url]);
    assert_eq!((health.code, health.out.as_str()), (1, ""));
    let address = url.strip_prefix("http://").unwrap();
    assert_eq!(run(&["health", "--http", address]).code, 1);
    assert_eq!(run(&["queue", "list", "--url", "broker:7650"]).code, 64);
}

#[test]
fn a_token_is_printed_once_and_its_hash_can_be_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens.toml");
    let made = run(&["token", "create", "--name", "ci", "--file", file.to_str().unwrap()]);
    assert_eq!(made.code, 0, "{}", made.err);
    let token = made.out.trim();
    assert!(token.starts_with("qbt_") && !made.err.contains(token));
    let stored = std::fs::read_to_string(&file).unwrap();
    assert!(!stored.contains(token));
    let hashed = run_with_input(&["token", "hash", "--name", "ci"], &made.out);
    assert_eq!((hashed.code, hashed.out), (0, stored));
    let mistyped = run_with_input(&["token", "hash"], &token.replace("qbt_", "qbt_x"));
    assert_eq!(mistyped.code, 65, "{}", mistyped.err);
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let mut command = qbroker(&["config", "reference"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let ended = ran(child.wait_with_output().unwrap());
    assert_eq!((ended.code, ended.err.as_str()), (0, ""));
}

#[test]
fn data_commands_need_a_folder_that_is_one() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing");
    let refused = run(&["data", "verify", "--data-dir", missing.to_str().unwrap()]);
    assert_eq!(refused.code, 65, "{}", refused.err);
    std::fs::write(folder.path().join("letter.txt"), "dear").unwrap();
    let refused = run(&["data", "verify", "--data-dir", folder.path().to_str().unwrap()]);
    assert_eq!(refused.code, 78, "{}", refused.err);
    assert!(refused.err.contains("not a qbroker data folder"), "{}", refused.err);
    assert_eq!(std::fs::read_to_string(folder.path().join("letter.txt")).unwrap(), "dear");
}

#[test]
fn versions_and_completions_are_data() {
    let version = run(&["version", "-o", "json"]);
    let version: serde_json::Value = serde_json::from_str(&version.out).unwrap();
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
    for shell in ["bash", "zsh", "fish"] {
        let script = run(&["completions", shell]);
        assert_eq!(script.code, 0);
        assert!(script.out.contains("consume"), "{shell}");
    }
    assert_eq!(run(&["completions", "cmd.exe"]).code, 64);
}
