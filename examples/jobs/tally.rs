//! The books: every job's result once, how far the work is, and whether all of it adds up.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, ensure};
use tokio::sync::watch;

use crate::Fallible;
use crate::jobs::{Jobs, SHELL_QUEUE, count_words};

/// Who has done a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Worker {
    Rust,
    Shell,
}

/// Results by job. Recording one a second time changes nothing: that makes the work idempotent, as
/// at-least-once delivery asks for.
#[derive(Debug)]
pub(crate) struct Tally {
    /// By job, in the file's order: its id and the words that it has.
    expected: Vec<(String, u64)>,
    results: Mutex<Results>,
    progress: watch::Sender<Progress>,
}

#[derive(Debug, Default)]
struct Results {
    words: HashMap<String, u64>,
    /// Results that came for a job that had its result already.
    again: u64,
    leases_lost: u64,
}

/// How far the work is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Progress {
    pub(crate) published: usize,
    pub(crate) by_rust: usize,
    pub(crate) by_shell: usize,
    jobs: usize,
    shell_jobs: usize,
    /// All is done, nobody need go on.
    pub(crate) finished: bool,
}

impl Progress {
    /// From 0 to 1: the mean of publishing, the Rust worker's part and the shell workers' part, so
    /// that each of the three has its share of the kills.
    pub(crate) fn share(&self) -> f64 {
        let share = |done: usize, all: usize| if all == 0 { 1.0 } else { done as f64 / all as f64 };
        let rust_jobs = self.jobs - self.shell_jobs;
        let parts = [
            share(self.published, self.jobs),
            share(self.by_rust, rust_jobs),
            share(self.by_shell, self.shell_jobs),
        ];
        parts.iter().sum::<f64>() / 3.0
    }

    /// Whether the shell workers have done half of their part.
    pub(crate) fn is_shell_half_done(&self) -> bool {
        self.shell_jobs <= 2 * self.by_shell
    }
}

impl Tally {
    /// No results yet of these jobs.
    pub(crate) fn new(jobs: &Jobs) -> Self {
        let expected =
            jobs.iter().map(|job| (job.message_id.clone(), count_words(job.payload.as_bytes())));
        let shell_jobs = jobs.iter().filter(|job| job.queue == SHELL_QUEUE).count();
        let progress = Progress {
            published: 0,
            by_rust: 0,
            by_shell: 0,
            jobs: jobs.len(),
            shell_jobs,
            finished: false,
        };
        Self {
            expected: expected.collect(),
            results: Mutex::default(),
            progress: watch::Sender::new(progress),
        }
    }

    /// So many more are confirmed.
    pub(crate) fn published(&self, jobs: usize) {
        self.progress.send_modify(|progress| progress.published += jobs);
    }

    /// Takes a result.
    ///
    /// # Errors
    ///
    /// The job had another result before.
    pub(crate) fn record(&self, id: &str, words: u64, by: Worker) -> Fallible<()> {
        let mut results = self.results();
        if let Some(&before) = results.words.get(id) {
            ensure!(before == words, "{id} has {before} words and, done again, {words}");
            results.again += 1;
            return Ok(());
        }
        results.words.insert(id.to_owned(), words);
        drop(results);
        self.progress.send_modify(|progress| match by {
            Worker::Rust => progress.by_rust += 1,
            Worker::Shell => progress.by_shell += 1,
        });
        Ok(())
    }

    /// An ack came too late.
    pub(crate) fn lease_lost(&self) {
        self.results().leases_lost += 1;
    }

    /// Says that all is done.
    pub(crate) fn finish(&self) {
        self.progress.send_modify(|progress| progress.finished = true);
    }

    /// Waits for [`Tally::finish`].
    pub(crate) async fn finished(&self) {
        self.reached(|progress| progress.finished).await;
    }

    /// Waits until the work has come so far, and says how far.
    pub(crate) async fn reached(&self, far: impl FnMut(&Progress) -> bool) -> Progress {
        let mut progress = self.progress.subscribe();
        let reached = progress.wait_for(far).await;
        *reached.expect("the sender is in the tally, which is borrowed")
    }

    /// Checks that every job has its result, that it is right, and that there are no others.
    ///
    /// # Errors
    ///
    /// It is not so: the first job that it is not so of is named.
    pub(crate) fn check(&self) -> Fallible<()> {
        let results = self.results();
        for (id, expected) in &self.expected {
            let found = results.words.get(id).with_context(|| format!("{id} has no result"))?;
            ensure!(found == expected, "{id} has {expected} words, not {found}");
        }
        let (found, expected) = (results.words.len(), self.expected.len());
        ensure!(found == expected, "{expected} jobs have {found} results");
        Ok(())
    }

    /// Writes a line per job that has a result, in the file's order: its id, a tab, its words.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub(crate) fn write_results(&self, path: &Path) -> Fallible<()> {
        let file = File::create(path).with_context(|| format!("cannot make {}", path.display()))?;
        let mut out = BufWriter::new(file);
        let results = self.results();
        for (id, _) in &self.expected {
            if let Some(words) = results.words.get(id) {
                writeln!(out, "{id}\t{words}")?;
            }
        }
        Ok(out.flush()?)
    }

    fn results(&self) -> MutexGuard<'_, Results> {
        // Whoever panicked changed nothing by halves.
        self.results.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let progress = *self.progress.borrow();
        let results = self.results();
        let words: u64 = results.words.values().sum();
        let expected: u64 = self.expected.iter().map(|(_, words)| words).sum();
        let Progress { by_rust, by_shell, jobs, .. } = progress;
        writeln!(f, "results    {} of {jobs} jobs, each once", results.words.len())?;
        writeln!(f, "           {by_rust} by the Rust worker, {by_shell} by the shell workers")?;
        writeln!(f, "words      {words} counted, {expected} expected")?;
        let Results { again, leases_lost, .. } = &*results;
        write!(f, "came twice {again} jobs (at least once); {leases_lost} acks were too late")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally_of_two(dir: &Path) -> Tally {
        let path = dir.join("jobs.jsonl");
        let job = |id: &str, queue: &str, payload: &str| {
            format!(
                r#"{{"message_id":"{id}","queue":"{queue}","headers":{{}},"payload":"{payload}"}}"#
            )
        };
        let lines = [job("a", crate::jobs::RUST_QUEUE, "one two"), job("b", SHELL_QUEUE, "three")];
        std::fs::write(&path, lines.join("\n")).unwrap();
        Tally::new(&Jobs::read(&path).unwrap())
    }

    fn told<T: fmt::Debug>(result: Fallible<T>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn a_result_counts_once_and_a_different_one_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let tally = tally_of_two(dir.path());
        tally.record("a", 2, Worker::Rust).unwrap();
        tally.record("a", 2, Worker::Rust).unwrap();
        assert_eq!(told(tally.record("a", 3, Worker::Rust)), "a has 2 words and, done again, 3");
        assert_eq!(told(tally.check()), "b has no result");
        tally.record("b", 1, Worker::Shell).unwrap();
        tally.check().unwrap();
        let words = tally.to_string();
        assert!(words.contains("words      3 counted, 3 expected\ncame twice 1 jobs"), "{words}");
    }

    #[test]
    fn wrong_results_and_unknown_jobs_do_not_pass() {
        let dir = tempfile::tempdir().unwrap();
        let tally = tally_of_two(dir.path());
        tally.record("a", 7, Worker::Rust).unwrap();
        assert_eq!(told(tally.check()), "a has 2 words, not 7");
        let tally = tally_of_two(dir.path());
        for (id, words) in [("a", 2), ("b", 1), ("c", 1)] {
            tally.record(id, words, Worker::Rust).unwrap();
        }
        assert_eq!(told(tally.check()), "2 jobs have 3 results");
    }

    #[test]
    fn progress_is_the_mean_of_its_three_parts() {
        let dir = tempfile::tempdir().unwrap();
        let tally = tally_of_two(dir.path());
        tally.published(2);
        assert!((tally.progress.borrow().share() - 1.0 / 3.0).abs() < 1e-9);
        tally.record("b", 1, Worker::Shell).unwrap();
        assert!((tally.progress.borrow().share() - 2.0 / 3.0).abs() < 1e-9);
    }
}
