//! Scripts: lines of a time and a command, and under each what came of it.
//!
//! `0s publish mail a b` is a command; the lines that begin with spaces are its transcript: `=` the
//! answer, `+` a record with its LSN, `>` an effect, `-` records retired. Commands name a message by
//! its payload, its last lease likewise, and its first lease as `a@1`; transcripts name a message by
//! its LSN and a lease as `3@4`: message and grant.

use std::collections::BTreeMap;
use std::path::PathBuf;

use qbroker_storage::Lsn;

use super::args::{Args, duration_ms};
use super::commands;
use super::show;
use super::stage::{BOOT_MS, Outcome, Stage, StageIndex, WALL_MS};
use crate::queue::Limits;
use crate::queue::index::memory::MemoryIndex;
use crate::queue::index::missing::MissingIndex;
use crate::queue::record::Record;
use crate::queue::state::Waiter;
use crate::queue::time::Now;

/// Runs a script on an index that has everything in memory, and on one that misses what it can; both
/// transcripts are the one in the file.
#[expect(clippy::disallowed_methods, reason = "a transcript is rewritten where asked for")]
pub(super) fn check_script(name: &str) {
    let path = folder().join(format!("{name}.txt"));
    let expected = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
    let actual = play::<MemoryIndex>(&expected);
    if std::env::var_os("QBROKER_UPDATE").is_some() {
        std::fs::write(&path, &actual).unwrap();
    } else {
        assert_same(name, &expected, &actual);
    }
    assert_same(
        &format!("{name}, on an index that misses"),
        &actual,
        &play::<MissingIndex>(&actual),
    );
}

/// Every file is one of the tests.
pub(super) fn check_all_named(names: &[&str]) {
    for entry in std::fs::read_dir(folder()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let name = name.strip_suffix(".txt").expect("a script is a .txt file").to_owned();
        assert!(names.contains(&name.as_str()), "testdata/{name}.txt is not in tests.rs");
    }
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/queue/testdata")
}

fn assert_same(name: &str, expected: &str, actual: &str) {
    let both = expected.lines().zip(actual.lines());
    for (number, (expected, actual)) in (1..).zip(both) {
        assert_eq!(expected, actual, "{name}, line {number}; QBROKER_UPDATE=1 rewrites it");
    }
    assert_eq!(expected.lines().count(), actual.lines().count(), "{name}: lines");
}

fn play<I: StageIndex>(text: &str) -> String {
    let mut transcript = String::new();
    let mut script = None;
    for line in text.lines().filter(|line| !line.starts_with(' ')) {
        transcript += line;
        transcript.push('\n');
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let said = if let Some(limits) = line.strip_prefix("limits ") {
            assert!(script.is_none(), "limits come first");
            let script = script.insert(Script::<I>::new(limits_of(limits)));
            std::mem::take(&mut script.said)
        } else {
            let script = script.get_or_insert_with(|| Script::new(Limits::default()));
            script.line(line);
            std::mem::take(&mut script.said)
        };
        for line in said {
            transcript += &format!("  {line}\n");
        }
    }
    transcript
}

fn limits_of(text: &str) -> Limits {
    let mut limits = Limits::default();
    let mut args = Args::new(text);
    let number = |value: Option<&str>, limit: &mut usize| {
        *limit = value.map_or(*limit, |value| value.parse().unwrap());
    };
    number(args.key("leases"), &mut limits.leases_max);
    number(args.key("queues"), &mut limits.queues_max);
    number(args.key("sessions"), &mut limits.sessions_max);
    number(args.key("producers"), &mut limits.producers_max);
    number(args.key("ids"), &mut limits.message_ids_max);
    number(args.key("settled"), &mut limits.settled_max);
    number(args.key("operations"), &mut limits.operations_max);
    number(args.key("operations-kept"), &mut limits.operations_kept_max);
    number(args.key("pulled"), &mut limits.pulled_max);
    number(args.key("batches"), &mut limits.unconfirmed_batches_max);
    number(args.key("state"), &mut limits.state_bytes_max);
    number(args.key("outcomes"), &mut limits.outcomes_max);
    number(args.key("unwritten"), &mut limits.unwritten_outcomes_max);
    number(args.key("trail"), &mut limits.trail_max);
    limits.payload_bytes_max = args.number("payload").unwrap_or(limits.payload_bytes_max);
    limits.auto_create_queues = !args.flag("no-auto-create");
    args.done();
    limits
}

/// A script under way.
pub(super) struct Script<I> {
    pub(super) stage: Stage<I>,
    /// How far the wall clock has jumped.
    pub(super) wall_jump_ms: i64,
    /// Messages by their payloads, the last of each.
    pub(super) names: BTreeMap<String, Lsn>,
    /// Who waits for a change of the state, by the names that the script gives.
    pub(super) waiters: BTreeMap<String, Waiter>,
    pub(super) said: Vec<String>,
}

impl<I: StageIndex> Script<I> {
    fn new(limits: Limits) -> Self {
        let (stage, started) = Stage::new(limits);
        let (names, waiters) = (BTreeMap::new(), BTreeMap::new());
        let mut script = Self { stage, wall_jump_ms: 0, names, waiters, said: Vec::new() };
        script.tell(started, |()| Vec::new());
        script
    }

    fn line(&mut self, line: &str) {
        let (time, command) = line.split_once(' ').unwrap_or_else(|| panic!("no command: {line}"));
        let ms = duration_ms(time);
        let wall_ms = (WALL_MS + ms).checked_add_signed(self.wall_jump_ms).unwrap();
        let now = Now { wall_ms, boot_ms: BOOT_MS + ms, begun: false };
        assert!(self.stage.now.boot_ms <= now.boot_ms, "time runs forwards: {line}");
        self.stage.now = now;
        let mut args = Args::new(command);
        commands::run(self, &mut args);
        args.done();
    }

    /// Says what came out of a command.
    pub(super) fn tell<T>(
        &mut self,
        outcome: Outcome<T>,
        answer: impl FnOnce(T) -> Vec<String>,
    ) -> Option<()> {
        let (lines, done) = match outcome.answer {
            Ok(value) => (answer(value), Some(())),
            Err(refused) => (vec![show::refused(&refused)], None),
        };
        self.said.extend(lines.into_iter().map(|line| format!("= {line}")));
        for (lsn, record, body) in &outcome.logged {
            self.said.push(format!("+{lsn} {}", show::record(record, body)));
            if matches!(record, Record::Published(_)) {
                self.names.insert(show::payload_of(body), *lsn);
            }
        }
        if !outcome.retired.is_empty() {
            let retired: Vec<_> = outcome.retired.iter().map(|lsn| lsn.0).collect();
            self.said.push(format!("- {}", show::numbers(&retired)));
        }
        for effect in &outcome.effects {
            self.said.extend(show::effect(effect).into_iter().map(|line| format!("> {line}")));
        }
        done
    }
}
