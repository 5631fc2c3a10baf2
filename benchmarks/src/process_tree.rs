//! A process and all that it has started: their processor time, their memory, their end.
//!
//! Some servers are one process, some are a tree of them; figures are about the whole tree.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::process::{
    Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, waitpid,
};
use serde::Serialize;

use crate::process::ticks;
use crate::system::Fallible;

/// What `/proc/<id>/stat` says of a process.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Stat {
    parent: u32,
    /// Its own, and of children that have ended and were waited for.
    processor_ticks: u64,
}

/// What a process tree holds in memory, the page cache aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Memory {
    /// Held now. What processes share is counted once.
    pub(crate) held_bytes: u64,
    /// The most that each process held, added up. What they share is counted for each of them.
    pub(crate) peak_bytes: u64,
}

/// The processor time that `root` and all its descendants have used, in all their threads.
pub(crate) fn processor_time(root: u32) -> Fallible<Duration> {
    let all = read_all()?;
    all.get(&root).with_context(|| format!("process {root} has ended"))?;
    ticks(tree(root, &all).iter().filter_map(|id| Some(all.get(id)?.processor_ticks)).sum())
}

/// What `root` and all its descendants hold in memory.
pub(crate) fn memory(root: u32) -> Fallible<Memory> {
    let all = read_all()?;
    let mut memory = memory_of(root).with_context(|| format!("process {root} has ended"))?;
    for id in tree(root, &all).into_iter().filter(|&id| id != root) {
        // One that has ended since holds nothing.
        let Some(of_child) = memory_of(id) else { continue };
        memory.held_bytes += of_child.held_bytes;
        memory.peak_bytes += of_child.peak_bytes;
    }
    Ok(memory)
}

/// Kills `root` and all its descendants, and waits until they hold nothing any more.
///
/// Who calls must not have waited for `root`: then its number is still its own.
pub(crate) fn kill(root: u32) {
    // Children first would let a parent start others in their place; one that was started while
    // this went on is a child of nobody left, so the list is read before the first is killed.
    let ids = read_all().map_or_else(|_| vec![root], |all| tree(root, &all));
    for &id in &ids {
        signal(id, Signal::KILL);
    }
    let begin = Instant::now();
    while ids.iter().any(|&id| is_running(id)) && begin.elapsed() < KILL_WITHIN {
        std::thread::sleep(LOOK_AGAIN);
    }
    for pid in ids.iter().skip(1).filter_map(|&id| pid(id)) {
        // An error says that it was not adopted: somebody else waits for it.
        waitpid(Some(pid), WaitOptions::NOHANG).ok();
    }
}

/// Makes this process the parent of what its servers leave behind, so that their processor time is
/// known after their end.
pub(crate) fn adopt_orphans() -> Fallible<()> {
    set_child_subreaper(Some(getpid())).context("cannot become the parent of orphans")
}

/// Nothing outlives SIGKILL but a write to the disk that is under way.
const KILL_WITHIN: Duration = Duration::from_secs(20);

/// How often it is looked who is still there.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// Whether there is more of it than its outcome, which somebody may not have asked for yet.
fn is_running(id: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat"));
    let state = stat.ok().and_then(|stat| stat.rsplit_once(')')?.1.trim_start().chars().next());
    state.is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

/// Sends a signal to one process; to one that has ended it does nothing.
pub(crate) fn signal(id: u32, signal: Signal) {
    pid(id).map(|pid| kill_process(pid, signal));
}

fn pid(id: u32) -> Option<Pid> {
    i32::try_from(id).ok().and_then(Pid::from_raw)
}

/// `root` and its descendants, parents before children.
fn tree(root: u32, all: &HashMap<u32, Stat>) -> Vec<u32> {
    let mut found = vec![root];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        let mut children: Vec<_> =
            all.iter().filter(|(_, stat)| stat.parent == parent).map(|(&id, _)| id).collect();
        children.sort_unstable();
        found.extend(children);
        next += 1;
    }
    found
}

/// Every process of the machine.
fn read_all() -> Fallible<HashMap<u32, Stat>> {
    let mut all = HashMap::new();
    for entry in std::fs::read_dir("/proc").context("cannot read /proc")? {
        let Ok(id) = entry?.file_name().to_string_lossy().parse::<u32>() else { continue };
        // A process that ends while this looks is none any more.
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{id}/stat")) else { continue };
        all.insert(id, parse(&stat).with_context(|| format!("cannot understand {stat:?}"))?);
    }
    Ok(all)
}

/// Fields 4 and 14 to 17, counted behind the name, which may hold anything.
fn parse(stat: &str) -> Option<Stat> {
    let (_, behind_name) = stat.rsplit_once(')')?;
    let fields: Vec<_> = behind_name.split_ascii_whitespace().collect();
    let times: Option<Vec<u64>> =
        fields.get(11..15)?.iter().map(|time| time.parse().ok()).collect();
    Some(Stat { parent: fields.get(1)?.parse().ok()?, processor_ticks: times?.iter().sum() })
}

/// `None` of a process that is not there or has ended.
fn memory_of(id: u32) -> Option<Memory> {
    let kib = |file: &str, name: &str| {
        let text = std::fs::read_to_string(format!("/proc/{id}/{file}")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    };
    Some(Memory {
        held_bytes: kib("smaps_rollup", "Pss:")? * 1024,
        peak_bytes: kib("status", "VmHWM:")? * 1024,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn parent_and_times_stand_behind_a_name_that_holds_anything() {
        let stat = "7 (a) b) S 3 7 7 0 -1 4194560 1 2 3 4 30 12 5 6 20 0 1 0 9 9 9";
        assert_eq!(parse(stat), Some(Stat { parent: 3, processor_ticks: 53 }));
        assert_eq!(parse("7 (a) S 1"), None);
    }

    #[test]
    fn a_tree_is_a_process_and_all_below_it() {
        let parents = [(1, 0), (5, 1), (6, 5), (7, 6), (8, 1), (9, 5)];
        let stat = |parent| Stat { parent, processor_ticks: 1 };
        let all = parents.into_iter().map(|(id, parent)| (id, stat(parent))).collect();
        assert_eq!(tree(5, &all), [5, 6, 9, 7]);
        assert_eq!(tree(8, &all), [8]);
    }

    #[test]
    fn this_process_uses_time_and_memory() {
        processor_time(std::process::id()).unwrap();
        let memory = memory(std::process::id()).unwrap();
        assert!(0 < memory.held_bytes && 0 < memory.peak_bytes, "{memory:?}");
    }

    #[test]
    fn a_tree_is_killed_with_all_its_branches() {
        let mut command = Command::new("sh");
        command
            .args(["-c", "sleep 600 & echo $!; cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut shell = command.spawn().unwrap();
        let mut line = String::new();
        let mut output = std::io::BufReader::new(shell.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut output, &mut line).unwrap();
        let branch: u32 = line.trim().parse().unwrap();
        assert!(tree(shell.id(), &read_all().unwrap()).contains(&branch));

        assert!(is_running(branch));
        kill(shell.id());
        assert!(!is_running(shell.id()) && !is_running(branch));
        assert!(!shell.wait().unwrap().success());
    }
}
