//! Changes in a data folder, told as they happen: files that come, go and are renamed.

use std::collections::VecDeque;
use std::io::ErrorKind;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
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
    /// Those that nobody has asked for yet.
    seen: VecDeque<Change>,
}

/// A change of one file.
#[derive(Debug)]
pub struct Change {
    /// The folder it is in; `""` is the data folder itself.
    pub dir: &'static str,
    /// Its name.
    pub name: String,
    /// What happened to it.
    pub how: How,
}

/// What happens to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// It is made, or gets its name.
    Comes,
    /// It is deleted.
    Goes,
    /// It gets another name, or goes to another folder.
    Moves,
}

impl Changes {
    /// Begins to watch.
    ///
    /// # Panics
    /// When the data folder is missing, or the system refuses.
    pub fn of(folder: &Folder) -> Self {
        let told = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC);
        let told = told.expect("the system tells of changes");
        let comes = WatchFlags::CREATE | WatchFlags::MOVED_TO;
        let changes = comes | WatchFlags::MOVED_FROM | WatchFlags::DELETE;
        let there = FOLDERS.into_iter().filter(|dir| folder.data().join(dir).is_dir());
        let watch = |dir| (inotify::add_watch(&told, folder.data().join(dir), changes), dir);
        let watched = there.map(watch).map(|(watch, dir)| (watch.expect("it may be watched"), dir));
        let watched = watched.collect();
        let told = Receiver::from_owned_fd_unchecked(told).expect("it can be waited for");
        Self { told, watched, seen: VecDeque::new() }
    }

    /// Waits for the next change in this folder, `""` being the data folder itself.
    ///
    /// # Panics
    /// When the system cannot tell.
    pub async fn next_in(&mut self, dir: &str) {
        // What moves comes somewhere, and counts there.
        self.next_where(|change| change.dir == dir && change.how != How::Moves).await;
    }

    /// Waits for the next change that is wanted.
    ///
    /// # Panics
    /// When the system cannot tell.
    pub async fn next_where(&mut self, wanted: impl Fn(&Change) -> bool) {
        loop {
            while let Some(change) = self.seen.pop_front() {
                if wanted(&change) {
                    return;
                }
            }
            self.told.readable().await.expect("the runtime lives");
            let mut told = [0; 4_096];
            match self.told.try_read(&mut told) {
                Ok(bytes) => self.take_down(&told[..bytes]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => panic!("changes are not told: {error}"),
            }
        }
    }

    /// Takes down these events (inotify(7)).
    fn take_down(&mut self, mut events: &[u8]) {
        while let Some((event, rest)) = events.split_at_checked(EVENT) {
            let field = |at: usize| event[at..at + 4].try_into().expect("four bytes");
            let watch = i32::from_ne_bytes(field(0));
            let how = match ReadFlags::from_bits_retain(u32::from_ne_bytes(field(4))) {
                mask if mask.contains(ReadFlags::DELETE) => How::Goes,
                mask if mask.contains(ReadFlags::MOVED_FROM) => How::Moves,
                _ => How::Comes,
            };
            let (name, rest) = rest.split_at(u32::from_ne_bytes(field(12)) as usize);
            let name = String::from_utf8_lossy(name).trim_end_matches('\0').to_owned();
            let watched = self.watched.iter().find(|(it, _)| *it == watch);
            self.seen.extend(watched.map(|&(_, dir)| Change { dir, name, how }));
            events = rest;
        }
    }
}
