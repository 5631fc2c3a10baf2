//! How a command ends that does the same with several things.

use qbroker::exit::Exit;

use super::Outcome;
use super::failure::{Failure, say};

/// What was done of it, and what was not.
#[derive(Debug, Default)]
pub(super) struct Tally {
    done: usize,
    refused: Option<Failure>,
}

impl Tally {
    /// Counts one of them in.
    pub(super) fn count<T>(&mut self, done: Result<T, qbroker_client::Error>) {
        match done {
            Ok(_) => self.done += 1,
            Err(error) => {
                // The last one is told when the command fails with it.
                if let Some(before) = self.refused.replace(error.into()) {
                    say(&before.to_string());
                }
            }
        }
    }

    /// How it ends: well, with what was refused, or in part.
    pub(super) fn outcome(self) -> Outcome {
        match self.refused {
            None => Ok(Exit::Ok),
            Some(failure) if self.done == 0 => Err(failure),
            Some(failure) => Err(Failure::new(Exit::Partial, failure.to_string())),
        }
    }
}
