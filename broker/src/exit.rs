//! What the process tells its parent: the exit codes of every command, in one table.

use std::fmt;
use std::process::ExitCode;

/// How a command ended, as its exit code; sysexits where one fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Exit {
    /// Done.
    Ok,
    /// A check failed, or the answer is no.
    Negative,
    /// Part of a bulk command was refused; the rest is done.
    Partial,
    /// The command line is wrong.
    Usage,
    /// The input, or the state of what it names, does not allow it.
    Data,
    /// The broker, a port or the data folder cannot be had now.
    Unavailable,
    /// A bug that was caught. A panic aborts the process instead, so that it can be looked at.
    Internal,
    /// The data folder is damaged. Starting again will not help: a person must look.
    Damaged,
    /// No answer in time, or the answer is to try later.
    TryLater,
    /// The token is missing, unknown or not enough.
    NotPermitted,
    /// The configuration is wrong.
    Config,
    /// Ended by SIGINT.
    Interrupted,
    /// Ended by SIGTERM.
    Terminated,
}

/// Every exit, in the order of its code.
const ALL: [Exit; 13] = [
    Exit::Ok,
    Exit::Negative,
    Exit::Partial,
    Exit::Usage,
    Exit::Data,
    Exit::Unavailable,
    Exit::Internal,
    Exit::Damaged,
    Exit::TryLater,
    Exit::NotPermitted,
    Exit::Config,
    Exit::Interrupted,
    Exit::Terminated,
];

impl Exit {
    /// The number the parent process sees.
    pub const fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Negative => 1,
            Self::Partial => 3,
            Self::Usage => 64,
            Self::Data => 65,
            Self::Unavailable => 69,
            Self::Internal => 70,
            Self::Damaged => 74,
            Self::TryLater => 75,
            Self::NotPermitted => 77,
            Self::Config => 78,
            Self::Interrupted => 130,
            Self::Terminated => 143,
        }
    }

    /// What the code says, as `--help` prints it.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Negative => "a check failed, or the answer is no",
            Self::Partial => "partly done: some items were refused",
            Self::Usage => "wrong usage",
            Self::Data => "bad data, not found, or in conflict",
            Self::Unavailable => "broker, port or data folder not available",
            Self::Internal => "internal error (a panic ends by SIGABRT: 134 in a shell)",
            Self::Damaged => {
                "damaged data: do not restart, see `qbroker data verify --data-dir DIR`"
            }
            Self::TryLater => "timed out or overloaded: try again later",
            Self::NotPermitted => "not permitted: token missing or refused",
            Self::Config => "bad configuration",
            Self::Interrupted => "interrupted (SIGINT)",
            Self::Terminated => "terminated (SIGTERM)",
        }
    }

    /// The table of codes, one per line, for the end of `--help`.
    pub fn table() -> String {
        let lines = ALL.iter().map(|exit| format!("  {exit}\n"));
        std::iter::once("Exit codes:\n".to_owned()).chain(lines).collect()
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>3}  {}", self.code(), self.meaning())
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_names_every_code_once_in_order() {
        let codes: Vec<u8> = ALL.iter().map(|exit| exit.code()).collect();
        assert!(codes.is_sorted_by(|a, b| a < b), "{codes:?}");
        assert_eq!(Exit::table().lines().count(), ALL.len() + 1);
    }

    #[test]
    fn the_codes_others_rely_on_do_not_change() {
        // deploy/qbroker.service and the documentation name these numbers.
        assert_eq!(Exit::Damaged.code(), 74);
        assert_eq!(Exit::Config.code(), 78);
        assert_eq!(Exit::Usage.code(), 64);
    }
}
