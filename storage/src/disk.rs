//! The disk as the log sees it: a small trait, and the real one, the only user of `std::fs`.

#[cfg(any(test, feature = "sim"))]
pub mod sim;

use std::fmt::Debug;
use std::fs;
use std::io;
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::error::DiskError;

/// How a file is opened.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It exists; it is only read.
    Read,
    /// It exists; it is read and written.
    Write,
    /// It is made, and may not exist yet.
    CreateNew,
    /// It is made, or emptied where it exists.
    Replace,
}

/// A folder on a machine: everything the log needs from outside itself.
///
/// Paths are relative to the data folder, with `/` between their parts.
pub trait Disk: Send + Sync + Debug + 'static {
    /// Opens a file. Making one is durable only after [`Disk::sync_dir`].
    fn open(&self, path: &str, mode: Mode) -> io::Result<Arc<dyn File>>;
    /// Names of everything in a folder, in no order; `""` is the data folder.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;
    /// Makes a folder unless it exists.
    fn create_dir(&self, dir: &str) -> io::Result<()>;
    /// Renames a file in one step, replacing what has the new name.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &str) -> io::Result<()>;
    /// Makes the names in a folder durable.
    fn sync_dir(&self, dir: &str) -> io::Result<()>;
    /// Takes the lock of the data folder for as long as the guard lives.
    fn lock(&self, path: &str) -> io::Result<Lock>;
    /// Bytes that may still be written on the disk.
    fn free_bytes(&self) -> io::Result<u64>;
    /// Wall-clock time, milliseconds since 1970; for people reading the log, decides nothing.
    fn now_ms(&self) -> u64;
    /// Fills `bytes` with randomness nobody can guess.
    fn random(&self, bytes: &mut [u8]) -> io::Result<()>;
}

/// What bytes can be read from.
pub trait ReadAt: Send + Sync + Debug {
    /// Reads up to `buffer.len()` bytes; 0 only at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
}

/// An open file, used from several threads at once.
pub trait File: ReadAt {
    /// [`ReadAt::read_at`] of what the system has in memory; [`io::ErrorKind::WouldBlock`] where it
    /// would have to wait for the disk, or cannot tell.
    fn read_now_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `bytes`.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Makes what was written durable. After a failure nothing may be believed but a restart.
    fn sync_data(&self) -> io::Result<()>;
    /// Bytes in the file.
    fn size(&self) -> io::Result<u64>;
    /// Cuts the file, or extends it by a hole.
    fn set_size(&self, bytes: u64) -> io::Result<()>;
    /// Reserves room, so that writing below `bytes` cannot find the disk full.
    fn allocate(&self, bytes: u64) -> io::Result<()>;
}

/// Reads until `buffer` is full or the file ends; the number of bytes read.
pub(crate) fn read_up_to(file: &dyn ReadAt, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Reads a whole small file.
pub(crate) fn read_file(disk: &dyn Disk, path: &str) -> io::Result<Vec<u8>> {
    let file = disk.open(path, Mode::Read)?;
    let size = usize::try_from(file.size()?).map_err(io::Error::other)?;
    let mut bytes = vec![0; size];
    let read = read_up_to(&*file, &mut bytes, 0)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// [`read_file`] of one that may be damaged. What may not be read is not: nobody knows what is in it.
pub(crate) fn read_doubtful(disk: &dyn Disk, path: &str) -> Result<io::Result<Vec<u8>>, DiskError> {
    match read_file(disk, path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(DiskError::new("open", path, error))
        }
        read => Ok(read),
    }
}

/// The outcome of asking for the data folder's lock.
#[derive(Debug)]
pub enum Lock {
    /// It is ours until this is dropped.
    Taken(Box<dyn Held>),
    /// Somebody else has it; who, as far as known.
    HeldBy(String),
}

/// A lock that is ours until dropped.
pub trait Held: Send + Sync + Debug {}

/// A folder of the operating system.
#[derive(Debug)]
pub struct RealDisk {
    root: PathBuf,
}

impl RealDisk {
    /// The folder `root`, made with its parents if it is missing.
    ///
    /// # Errors
    /// What the operating system says when the folder cannot be made.
    pub fn open(root: impl Into<PathBuf>) -> io::Result<Self> {
        let root = root.into();
        fs::create_dir_all(&root)?;
        Ok(Self { root })
    }

    fn path(&self, path: &str) -> PathBuf {
        if path.is_empty() { self.root.clone() } else { self.root.join(path) }
    }
}

impl Disk for RealDisk {
    fn open(&self, path: &str, mode: Mode) -> io::Result<Arc<dyn File>> {
        let path = self.path(path);
        let mut options = fs::OpenOptions::new();
        match mode {
            Mode::Read => options.read(true),
            Mode::Write => options.read(true).write(true),
            Mode::CreateNew => options.read(true).write(true).create_new(true),
            Mode::Replace => options.read(true).write(true).create(true).truncate(true),
        };
        Ok(Arc::new(RealFile(options.open(path)?)))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let name = |entry: io::Result<fs::DirEntry>| {
            entry.map(|entry| entry.file_name().to_string_lossy().into_owned())
        };
        fs::read_dir(self.path(dir))?.map(name).collect()
    }

    fn create_dir(&self, dir: &str) -> io::Result<()> {
        match fs::create_dir(self.path(dir)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from), self.path(to))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        fs::remove_file(self.path(path))
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        fs::File::open(self.path(dir))?.sync_all()
    }

    fn lock(&self, path: &str) -> io::Result<Lock> {
        let file = self.path(path);
        // Whoever deletes the file cannot take the folder's own lock away.
        let Some(folder) = try_lock_folder(&self.root)? else {
            return Ok(Lock::HeldBy(holder_in(&file)));
        };
        lock_file(&file, folder)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.root)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn now_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn random(&self, bytes: &mut [u8]) -> io::Result<()> {
        getrandom::fill(bytes).map_err(io::Error::other)
    }
}

/// Locks the folder itself; `None` where somebody else has it. A file system that locks files only, as
/// NFS does, gives it unlocked: there the file alone tells two brokers apart.
fn try_lock_folder(root: &Path) -> io::Result<Option<fs::File>> {
    let folder = fs::File::open(root)?;
    match folder.try_lock() {
        Ok(()) => Ok(Some(folder)),
        Err(fs::TryLockError::WouldBlock) => Ok(None),
        Err(fs::TryLockError::Error(error)) => match Errno::from_io_error(&error) {
            Some(Errno::BADF | Errno::OPNOTSUPP | Errno::NOLCK) => Ok(Some(folder)),
            _ => Err(error),
        },
    }
}

/// The kernel lets go of both locks with the process, however it ends. The process id in the file
/// is for people.
fn lock_file(path: &Path, folder: fs::File) -> io::Result<Lock> {
    let mut options = fs::OpenOptions::new();
    // A link in its place may lead anywhere, and this writes.
    options.custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    let mut file = options.read(true).write(true).create(true).truncate(false).open(path)?;
    match file.try_lock() {
        Ok(()) => {
            file.set_len(0)?;
            write!(file, "{}", std::process::id())?;
            Ok(Lock::Taken(Box::new(RealLock { _file: file, _folder: folder })))
        }
        Err(fs::TryLockError::WouldBlock) => Ok(Lock::HeldBy(holder_in(path))),
        Err(fs::TryLockError::Error(error)) => Err(error),
    }
}

/// Who has the lock, as far as the file tells.
fn holder_in(path: &Path) -> String {
    let holder = fs::read_to_string(path).unwrap_or_default();
    let known = !holder.is_empty() && holder.bytes().all(|byte| byte.is_ascii_digit());
    if known { format!("process {holder}") } else { "another process".to_owned() }
}

#[derive(Debug)]
struct RealLock {
    _file: fs::File,
    _folder: fs::File,
}

impl Held for RealLock {}

#[derive(Debug)]
struct RealFile(fs::File);

impl ReadAt for RealFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }
}

impl File for RealFile {
    #[cfg(target_os = "linux")]
    fn read_now_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        use rustix::io::ReadWriteFlags;
        let mut buffers = [io::IoSliceMut::new(buffer)];
        match rustix::io::preadv2(&self.0, &mut buffers, offset, ReadWriteFlags::NOWAIT) {
            // Not every file system and kernel knows how.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Err(io::ErrorKind::WouldBlock.into()),
            other => Ok(other?),
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn read_now_at(&self, _: &mut [u8], _: u64) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    /// `fdatasync` on Linux; on macOS the standard library uses `F_FULLFSYNC`.
    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_size(&self, bytes: u64) -> io::Result<()> {
        self.0.set_len(bytes)
    }

    #[cfg(target_os = "linux")]
    fn allocate(&self, bytes: u64) -> io::Result<()> {
        use rustix::fs::FallocateFlags;
        match rustix::fs::fallocate(&self.0, FallocateFlags::empty(), 0, bytes) {
            // File systems that cannot reserve give a hole; the space watch still looks ahead.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.0.set_len(bytes),
            other => Ok(other?),
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn allocate(&self, bytes: u64) -> io::Result<()> {
        self.0.set_len(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two brokers once ran on one folder after somebody had deleted the file.
    #[test]
    fn a_folder_is_locked_by_more_than_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let disk = RealDisk::open(folder.path()).unwrap();
        let Lock::Taken(held) = disk.lock("LOCK").unwrap() else { panic!("it is free") };
        let this = format!("process {}", std::process::id());
        let held_by = |name: &str| match disk.lock(name).unwrap() {
            Lock::HeldBy(holder) => holder,
            Lock::Taken(_) => panic!("it is taken twice"),
        };
        assert_eq!(held_by("LOCK"), this);
        disk.remove("LOCK").unwrap();
        assert_eq!(held_by("LOCK"), "another process");
        assert!(disk.list("").unwrap().is_empty(), "who is refused makes nothing");
        drop(held);
        assert!(matches!(disk.lock("LOCK").unwrap(), Lock::Taken(_)));
    }
}
