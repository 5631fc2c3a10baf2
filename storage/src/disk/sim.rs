//! A disk in memory that loses, tears, fails and refuses, the same way for the same seed.
//!
//! A machine is a chain of disks: [`SimDisk::power_loss`] and [`SimDisk::killed`] end one and
//! give the next, with what would have survived. Sectors of 512 bytes are written whole or not at
//! all, and nothing larger is: the log's assumption, and this disk's cruelty.

mod rng;
mod node;
mod names;
mod file;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use self::file::SimFile;
use self::names::{NameChange, folder_of};
use self::node::{Node, SECTOR};
pub use self::rng::Rng;
use crate::disk::{Disk, File, Held, Lock, Mode};

/// What goes wrong, and when. Counted in operations that change the disk: writes, syncs,
/// makings, renames, removals, changes of size.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// The power goes while the operation after this many is under way.
    pub power_off_after: Option<u64>,
    /// This write of file bytes (from 0) fails with `EIO`, having written nothing.
    pub fail_write: Option<u64>,
    /// This sync of a file (from 0) fails with `EIO`; as on Linux, what was to be synced counts
    /// as clean afterwards though it is not on disk.
    pub fail_sync: Option<u64>,
    /// Bytes that files may take together before `ENOSPC`.
    pub capacity: Option<u64>,
    /// Reads return fewer bytes than asked for, now and then.
    pub short_reads: bool,
    /// A write that fails has written a part.
    pub short_writes: bool,
    /// A loss of power leaves flipped bits, too, in what was written and not synced.
    pub garbles: bool,
    /// The clock and the free space are as given, but everything written is refused with `EROFS`.
    pub read_only: bool,
}

#[derive(Debug)]
struct State {
    nodes: Vec<Node>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    name_changes: Vec<NameChange>,
    dirs: BTreeSet<String>,
    locked: bool,
    rng: Rng,
    now_ms: u64,
    faults: Faults,
    operations: u64,
    writes: u64,
    syncs: u64,
    power_off: bool,
}

/// A disk in memory.
#[derive(Clone, Debug)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

fn not_found(path: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("no {path} on the simulated disk"))
}

impl SimDisk {
    /// An empty disk whose chances follow from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self::with_state(State {
            nodes: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            name_changes: Vec::new(),
            dirs: BTreeSet::from([String::new()]),
            locked: false,
            rng: Rng::new(seed),
            now_ms: 1_000_000,
            faults: Faults::default(),
            operations: 0,
            writes: 0,
            syncs: 0,
            power_off: false,
        })
    }

    fn with_state(state: State) -> Self {
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// The disk as the log takes it.
    #[must_use]
    pub fn shared(&self) -> Arc<dyn Disk> {
        Arc::new(self.clone())
    }

    /// What goes wrong from now on; counts begin anew.
    pub fn set_faults(&self, faults: Faults) {
        let mut state = self.state.lock();
        state.faults = faults;
        (state.operations, state.writes, state.syncs) = (0, 0, 0);
    }

    /// Operations since the faults were set.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.state.lock().operations
    }

    /// Bytes that files take together.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.state.lock().used()
    }

    /// Syncs of files since the faults were set.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.state.lock().syncs
    }

    /// The disk after a loss of power: of what was not synced, `seed` chooses what is there.
    #[must_use]
    pub fn power_loss(&self, seed: u64) -> Self {
        let state = self.state.lock();
        let mut rng = Rng::new(seed);
        let mut names = state.durable_names.clone();
        for change in &state.name_changes {
            if rng.below(2) == 0 {
                change.apply(&mut names);
            }
        }
        let garbles = state.faults.garbles;
        let nodes = state.nodes.iter().map(|node| node.after_power_loss(&mut rng, garbles));
        let nodes = nodes.collect();
        Self::with_state(State {
            nodes,
            durable_names: names.clone(),
            names,
            name_changes: Vec::new(),
            dirs: state.dirs.clone(),
            // Begun anew, it would draw the names of this life once more.
            rng: state.rng.clone(),
            ..State::after(&state)
        })
    }

    /// The disk after the process was killed: the page cache lives on.
    #[must_use]
    pub fn killed(&self) -> Self {
        let state = self.state.lock();
        Self::with_state(State {
            nodes: state.nodes.clone(),
            names: state.names.clone(),
            durable_names: state.durable_names.clone(),
            name_changes: state.name_changes.clone(),
            dirs: state.dirs.clone(),
            rng: state.rng.clone(),
            ..State::after(&state)
        })
    }

    /// Paths of all files.
    #[must_use]
    pub fn paths(&self) -> Vec<String> {
        self.state.lock().names.keys().cloned().collect()
    }

    /// A file's bytes.
    ///
    /// # Panics
    /// When there is no such file.
    #[must_use]
    pub fn bytes(&self, path: &str) -> Vec<u8> {
        let state = self.state.lock();
        state.nodes[state.names[path]].bytes.clone()
    }

    /// Changes a file's bytes behind the log's back: rot.
    ///
    /// # Panics
    /// When there is no such file.
    pub fn tamper(&self, path: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state.lock();
        let at = state.names[path];
        state.nodes[at].tamper(change);
    }

    /// Removes a file behind the log's back.
    pub fn lose(&self, path: &str) {
        let mut state = self.state.lock();
        state.names.remove(path);
        state.durable_names.remove(path);
    }

    /// Removes a folder with everything in it behind the log's back.
    pub fn lose_folder(&self, dir: &str) {
        let mut state = self.state.lock();
        let inside = format!("{dir}/");
        state.names.retain(|path, _| !path.starts_with(&inside));
        state.durable_names.retain(|path, _| !path.starts_with(&inside));
        state.dirs.remove(dir);
    }

    /// Makes the sector at `offset` unreadable.
    ///
    /// # Panics
    /// When there is no such file.
    pub fn spoil(&self, path: &str, offset: usize) {
        let mut state = self.state.lock();
        let at = state.names[path];
        state.nodes[at].unreadable.insert(offset / SECTOR);
    }
}

impl State {
    /// A fresh state for the machine's next life; the caller fills in what survived.
    fn after(state: &Self) -> Self {
        Self {
            nodes: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            name_changes: Vec::new(),
            dirs: BTreeSet::new(),
            locked: false,
            rng: state.rng.clone(),
            now_ms: state.now_ms,
            faults: Faults::default(),
            operations: 0,
            writes: 0,
            syncs: 0,
            power_off: false,
        }
    }

    /// Counts an operation that changes the disk. Whether the power goes while it is under way:
    /// it may have happened then, but nobody learns of it.
    fn change(&mut self) -> io::Result<bool> {
        self.alive()?;
        if self.faults.read_only {
            return Err(io::Error::from(io::ErrorKind::ReadOnlyFilesystem));
        }
        let goes = self.faults.power_off_after.is_some_and(|after| after <= self.operations);
        self.operations += 1;
        self.power_off |= goes;
        Ok(goes)
    }

    fn alive(&self) -> io::Result<()> {
        if self.power_off { Err(io::Error::other("the power is off")) } else { Ok(()) }
    }

    /// After the operation in which the power went.
    fn then_off<T>(goes: bool, value: T) -> io::Result<T> {
        if goes { Err(io::Error::other("the power went off")) } else { Ok(value) }
    }

    fn used(&self) -> u64 {
        let reachable: BTreeSet<usize> = self.names.values().copied().collect();
        reachable.iter().map(|&at| self.nodes[at].bytes.len() as u64).sum()
    }

    /// Refuses to let a file grow to `len` beyond the disk's capacity.
    fn check_room(&self, node: usize, len: u64) -> io::Result<()> {
        let grows = len.saturating_sub(self.nodes[node].bytes.len() as u64);
        match self.faults.capacity {
            Some(capacity) if 0 < grows && capacity < self.used() + grows => {
                Err(io::Error::from(io::ErrorKind::StorageFull))
            }
            _ => Ok(()),
        }
    }

    fn rename_now(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.name_changes.push(change);
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &str, mode: Mode) -> io::Result<Arc<dyn File>> {
        let mut state = self.state.lock();
        state.alive()?;
        let existing = state.names.get(path).copied();
        let node = match (mode, existing) {
            (Mode::Read | Mode::Write, Some(node)) => node,
            (Mode::Read | Mode::Write, None) => return Err(not_found(path)),
            (Mode::CreateNew, Some(_)) => {
                return Err(io::Error::from(io::ErrorKind::AlreadyExists));
            }
            (Mode::Replace, Some(node)) => {
                let goes = state.change()?;
                state.nodes[node].resize(0);
                State::then_off(goes, node)?
            }
            (Mode::CreateNew | Mode::Replace, None) => {
                let goes = state.change()?;
                if !state.dirs.contains(folder_of(path)) {
                    return Err(not_found(folder_of(path)));
                }
                let node = state.nodes.len();
                state.nodes.push(Node::default());
                state.rename_now(NameChange::Link { path: path.to_owned(), node });
                State::then_off(goes, node)?
            }
        };
        Ok(Arc::new(SimFile { disk: self.clone(), node }))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let state = self.state.lock();
        state.alive()?;
        if !state.dirs.contains(dir) {
            return Err(not_found(dir));
        }
        let inside = |path: &&String| !path.is_empty() && folder_of(path) == dir;
        let name = |path: &String| path.rsplit('/').next().unwrap_or_default().to_owned();
        Ok(state.names.keys().chain(&state.dirs).filter(inside).map(name).collect())
    }

    /// Folders are made once, at the first start: durable at once here.
    fn create_dir(&self, dir: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        if state.dirs.contains(dir) {
            return state.alive();
        }
        let goes = state.change()?;
        state.dirs.insert(dir.to_owned());
        State::then_off(goes, ())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        let goes = state.change()?;
        if !state.names.contains_key(from) {
            return Err(not_found(from));
        }
        state.rename_now(NameChange::Rename { from: from.to_owned(), to: to.to_owned() });
        State::then_off(goes, ())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        let goes = state.change()?;
        if !state.names.contains_key(path) {
            return Err(not_found(path));
        }
        state.rename_now(NameChange::Unlink { path: path.to_owned() });
        State::then_off(goes, ())
    }

    /// Makes durable, in order, every change that touches the folder, and what they build on.
    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        let goes = state.change()?;
        if goes {
            return State::then_off(goes, ());
        }
        let last = state.name_changes.iter().rposition(|change| change.touches(dir));
        let Some(last) = last else { return Ok(()) };
        let changes: Vec<_> = state.name_changes.drain(..=last).collect();
        for change in changes {
            change.apply(&mut state.durable_names);
        }
        Ok(())
    }

    fn lock(&self, _path: &str) -> io::Result<Lock> {
        let mut state = self.state.lock();
        state.alive()?;
        if state.locked {
            return Ok(Lock::HeldBy("another simulated process".to_owned()));
        }
        state.locked = true;
        Ok(Lock::Taken(Box::new(SimLock { disk: self.clone() })))
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let state = self.state.lock();
        state.alive()?;
        let capacity = state.faults.capacity.unwrap_or(1 << 40);
        Ok(capacity.saturating_sub(state.used()))
    }

    fn now_ms(&self) -> u64 {
        let mut state = self.state.lock();
        state.now_ms += 1;
        state.now_ms
    }

    fn random(&self, bytes: &mut [u8]) -> io::Result<()> {
        let mut state = self.state.lock();
        for byte in bytes {
            *byte = state.rng.next_u64().to_le_bytes()[0];
        }
        Ok(())
    }
}

#[derive(Debug)]
struct SimLock {
    disk: SimDisk,
}

impl Held for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.disk.state.lock().locked = false;
    }
}
