//! Changes in a data folder, told as they happen: files that come, go and are renamed.

use std::io::ErrorKind;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::net::unix::pipe::Receiver;

use crate::folder::Folder;

/// Where files come and go while a broker works.
const FOLDERS: [&str; 3] = ["log", "ckpt", ""];

/// Bytes of an event before its name: the watch, what happened, a cookie, the length of the name.
const EVENT: usize = 16;

/// Watches the folders of a data folder that are there by now.
#[derive(Debug)]
pub struct Changes {
    /// Not a pipe, but read like one.
    told: Receiver,
    watched: Vec<(i32, &'static str)>,
}

impl Changes {
    /// Begins to watch.
    ///
    /// # Panics
    /// When the data folder is missing, or the system refuses.
    pub fn of(folder: &Folder) -> Self {
        let told = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC);
        let told = told.expect("the system tells of changes");
        let changes = WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::DELETE;
        let there = FOLDERS.into_iter().filter(|dir| folder.data().join(dir).is_dir());
        let watch = |dir| (inotify::add_watch(&told, folder.data().join(dir), changes), dir);
        let watched = there.map(watch).map(|(watch, dir)| (watch.expect("it may be watched"), dir));
        let watched = watched.collect();
        let told = Receiver::from_owned_fd_unchecked(told).expect("it can be waited for");
        Self { told, watched }
    }

    /// Waits for the next change in this folder, `""` being the data folder itself.
    ///
    /// # Panics
    /// When the system cannot tell.
    pub async fn next_in(&mut self, dir: &str) {
        let mut told = [0; 4_096];
        loop {
            self.told.readable().await.expect("the runtime lives");
            match self.told.try_read(&mut told) {
                Ok(bytes) if self.is_among(&told[..bytes], dir) => return,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => panic!("changes are not told: {error}"),
            }
        }
    }

    /// Whether one of these events (inotify(7)) is in this folder.
    fn is_among(&self, mut events: &[u8], dir: &str) -> bool {
        while let Some((event, rest)) = events.split_at_checked(EVENT) {
            let field = |at: usize| event[at..at + 4].try_into().expect("four bytes");
            if self.watched.contains(&(i32::from_ne_bytes(field(0)), dir)) {
                return true;
            }
            let name = u32::from_ne_bytes(field(12)) as usize;
            events = rest.get(name..).unwrap_or_default();
        }
        false
    }
}
