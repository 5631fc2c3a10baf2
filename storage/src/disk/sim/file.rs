//! An open file of the simulated disk.

use std::io;

use super::{SimDisk, State};
use crate::disk::sim::node::SECTOR;
use crate::disk::{File, ReadAt};

/// Linux's code for an input or output error.
const EIO: i32 = 5;

#[derive(Debug)]
pub(super) struct SimFile {
    pub(super) disk: SimDisk,
    pub(super) node: usize,
}

impl ReadAt for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.disk.state.lock();
        state.alive()?;
        let short = state.faults.short_reads && 1 < buffer.len() && state.rng.below(4) == 0;
        let most = if short { 1 + state.rng.below(buffer.len() - 1) } else { buffer.len() };
        let node = &state.nodes[self.node];
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(node.bytes.len());
        let to = (from + most).min(node.bytes.len());
        if from < to && node.unreadable.range(from / SECTOR..to.div_ceil(SECTOR)).next().is_some() {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        buffer[..to - from].copy_from_slice(&node.bytes[from..to]);
        Ok(to - from)
    }
}

impl File for SimFile {
    /// The simulated system has half of what is asked for in memory.
    fn read_now_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let has_it = self.disk.state.lock().rng.below(2) == 0;
        if has_it { self.read_at(buffer, offset) } else { Err(io::ErrorKind::WouldBlock.into()) }
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.state.lock();
        let goes = state.change()?;
        let number = state.writes;
        state.writes += 1;
        let fails = state.faults.fail_write == Some(number);
        if fails && !state.faults.short_writes {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        state.check_room(self.node, offset + bytes.len() as u64)?;
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        if fails {
            let written = state.rng.below(bytes.len() + 1);
            state.nodes[self.node].write(&bytes[..written], offset);
            return Err(io::Error::from_raw_os_error(EIO));
        }
        state.nodes[self.node].write(bytes, offset);
        State::then_off(goes, ())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.state.lock();
        let goes = state.change()?;
        if goes {
            return State::then_off(goes, ());
        }
        let number = state.syncs;
        state.syncs += 1;
        if state.faults.fail_sync == Some(number) {
            state.nodes[self.node].sync_failed();
            return Err(io::Error::from_raw_os_error(EIO));
        }
        state.nodes[self.node].sync();
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        let state = self.disk.state.lock();
        state.alive()?;
        Ok(state.nodes[self.node].bytes.len() as u64)
    }

    fn set_size(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.disk.state.lock();
        let goes = state.change()?;
        state.check_room(self.node, bytes)?;
        let bytes = usize::try_from(bytes).map_err(io::Error::other)?;
        state.nodes[self.node].resize(bytes);
        State::then_off(goes, ())
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        if bytes <= self.size()? {
            return Ok(());
        }
        self.set_size(bytes)
    }
}
