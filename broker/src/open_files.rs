//! How many files and connections the process may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

/// Files that are neither segments nor connections: checkpoints, folders, listeners, the runtime's.
const OTHERS: u64 = 128;

/// Asks for as many open files as the system allows this process.
///
/// A log that cannot open its next file ends the process, and shells mostly begin one with 1,024.
pub fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        warn!(%error, limit = limit.current, "the limit of open files cannot be raised");
    }
}

/// How many connections there may be, of those that are asked for: half of the open files are the
/// log's, whose segments are a file each.
pub(crate) fn connections_max(wanted: u32) -> u32 {
    let limit = getrlimit(Resource::Nofile).current;
    let allowed = limit.map_or(wanted, |limit| allowed_by(limit, wanted));
    if allowed < wanted {
        warn!(
            max_connections = wanted,
            open_files = limit,
            allowed,
            "the limit of open files allows fewer connections: raise it (ulimit -n, LimitNOFILE)"
        );
    }
    allowed
}

fn allowed_by(limit: u64, wanted: u32) -> u32 {
    let half = limit.saturating_sub(OTHERS) / 2;
    u32::try_from(half).unwrap_or(wanted).clamp(1, wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_never_take_the_files_of_the_log() {
        assert_eq!(allowed_by(65_536, 4_096), 4_096);
        assert_eq!(allowed_by(1_024, 4_096), 448);
        assert_eq!(allowed_by(100, 4_096), 1);
        assert_eq!(allowed_by(u64::MAX, 7), 7);
    }
}
