//! Jobs: passages of text whose words are to be counted, one per line of a JSON-lines file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use anyhow::Context as _;
use qbroker_client::OutgoingMessage;
use serde::{Deserialize, Serialize};

use crate::Fallible;

/// The queue that the Rust worker takes from.
pub(crate) const RUST_QUEUE: &str = "passages";

/// The queue that the shell workers take from.
pub(crate) const SHELL_QUEUE: &str = "passages-shell";

/// One job, in the form that `qbroker message publish --jsonl FILE --envelope` reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) message_id: String,
    pub(crate) queue: String,
    /// Where the passage is from, and how long it is.
    pub(crate) headers: BTreeMap<String, String>,
    /// The passage.
    pub(crate) payload: String,
}

impl Job {
    /// The message that asks for this job; its id is the job's, so that nobody counts it twice.
    pub(crate) fn message(&self) -> OutgoingMessage {
        let message = OutgoingMessage::new(self.payload.clone())
            .queue(&self.queue)
            .message_id(&self.message_id)
            .content_type("text/plain");
        self.headers.iter().fold(message, |message, (key, value)| message.header(key, value))
    }
}

/// The jobs of a file, in its order.
#[derive(Debug)]
pub(crate) struct Jobs(Vec<Job>);

impl Jobs {
    /// Reads a JSON-lines file.
    ///
    /// # Errors
    ///
    /// It cannot be read, or a line of it is no job: then the line is named.
    pub(crate) fn read(path: &Path) -> Fallible<Self> {
        let place = |line: usize| format!("{}:{}", path.display(), line + 1);
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        let jobs = BufReader::new(file).lines().enumerate().map(|(number, line)| {
            let line = line.with_context(|| place(number))?;
            serde_json::from_str(&line).with_context(|| place(number))
        });
        Ok(Self(jobs.collect::<Fallible<_>>()?))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn iter(&self) -> std::slice::Iter<'_, Job> {
        self.0.iter()
    }

    /// In pieces of at most `jobs`.
    pub(crate) fn batches(&self, jobs: usize) -> std::slice::Chunks<'_, Job> {
        self.0.chunks(jobs)
    }

    /// How many go to this queue.
    pub(crate) fn in_queue(&self, queue: &str) -> u64 {
        self.iter().filter(|job| job.queue == queue).count() as u64
    }
}

/// The work itself: the words of a passage, what blanks, tabs and ends of lines separate. The shell
/// workers do the same with awk.
pub(crate) fn count_words(passage: &[u8]) -> u64 {
    let gap = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n');
    passage.split(gap).filter(|word| !word.is_empty()).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_what_gaps_separate() {
        assert_eq!(count_words(b"  let a\t= 1;\n\n// one more\n"), 7);
        assert_eq!(count_words(b" \n"), 0);
    }
}
