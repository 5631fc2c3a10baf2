//! Which segments to compact: pure, so that its bound can be read off and tested.
//!
//! A segment in which less than half lives is sparse. As long as there is one, there is something
//! to do, so all that is left takes at most twice what lives in it. Copying never costs more than it
//! gives back.

use crate::cold::file::overhead_max;

/// A file that could be compacted.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) seq: u64,
    /// Bytes it takes on disk.
    pub(crate) size: u64,
    /// Bytes that what lives in it takes in a cold segment.
    pub(crate) live_bytes: u64,
}

/// Files of one pass: what one `Adopt` frame names.
const FILES_MAX: usize = crate::retention::DROP_ENTRIES_MAX;
/// Files below a quarter of a segment are put together once there are so many of them, so that
/// their number is bound by what they hold.
const SMALL_FILES: usize = 8;
/// What a pass must give back, as a part of a segment: less is not worth its syncs.
const GAIN_PART: u64 = 8;

/// The files to copy together into one of at most `room` bytes; none when it is not worth it.
/// `files` come oldest first, and so are they chosen.
pub(crate) fn choose(files: &[File], room: u64) -> Vec<u64> {
    let is_small = |file: &&File| file.size < room / 4;
    let many_small = SMALL_FILES <= files.iter().filter(is_small).count();
    let mut chosen: Vec<&File> = Vec::new();
    let mut bytes = 0;
    for file in files {
        let wanted = file.is_sparse() || (many_small && is_small(&file));
        if wanted && bytes + file.live_bytes <= room && chosen.len() < FILES_MAX {
            bytes += file.live_bytes;
            chosen.push(file);
        }
    }
    let size: u64 = chosen.iter().map(|file| file.size).sum();
    let gain = size.saturating_sub(bytes + overhead_max(bytes));
    let merges = many_small && SMALL_FILES / 2 < chosen.iter().filter(|f| is_small(f)).count();
    let worth_it = room / GAIN_PART <= gain || merges;
    if worth_it { chosen.into_iter().map(|file| file.seq).collect() } else { Vec::new() }
}

impl File {
    fn is_sparse(&self) -> bool {
        2 * self.live_bytes + overhead_max(self.live_bytes) < self.size
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ROOM: u64 = 1000 * KIB;
    const KIB: u64 = 1 << 10;

    fn file(seq: u64, size: u64, live_bytes: u64) -> File {
        File { seq, size: size * KIB, live_bytes: live_bytes * KIB }
    }

    #[test]
    fn what_is_sparse_is_chosen_oldest_first_while_there_is_room() {
        let table: [(&str, Vec<File>, &[u64]); 9] = [
            ("nothing there", vec![], &[]),
            ("all of it lives", vec![file(1, 1000, 990)], &[]),
            ("half of it lives", vec![file(1, 1000, 500)], &[]),
            ("a little less than half", vec![file(1, 1000, 490)], &[1]),
            ("one old message in each", vec![file(1, 1000, 1), file(2, 1000, 1)], &[1, 2]),
            (
                "the third does not fit, the fourth does",
                vec![
                    file(1, 1000, 450),
                    file(2, 1000, 450),
                    file(3, 1000, 450),
                    file(4, 1000, 100),
                ],
                &[1, 2, 4],
            ),
            (
                "a dense one between",
                vec![file(1, 1000, 9), file(2, 1000, 900), file(3, 1000, 9)],
                &[1, 3],
            ),
            ("a cold one that has thinned out", vec![file(100, 900, 300)], &[100]),
            ("too little to gain", vec![file(100, 100, 40)], &[]),
        ];
        for (what, files, expected) in table {
            assert_eq!(choose(&files, ROOM), expected, "{what}");
        }
    }

    #[test]
    fn small_files_are_put_together_once_there_are_many() {
        let mut files: Vec<File> = (100..107).map(|seq| file(seq, 100, 90)).collect();
        files.push(file(200, 900, 890));
        assert_eq!(choose(&files, ROOM), [0; 0]);
        files.push(file(201, 100, 90));
        assert_eq!(choose(&files, ROOM), [100, 101, 102, 103, 104, 105, 106, 201]);
    }

    proptest! {
        /// Applied until it chooses nothing, the files take at most twice what lives, and a little.
        #[test]
        fn the_bound_on_disk_holds(
            content in prop::collection::vec((200..=1000_u64, 0..=100_u64), 1..60),
        ) {
            let mut files: Vec<File> = (1..)
                .zip(content)
                .map(|(seq, (size, share))| file(seq, size, size * share / 103))
                .collect();
            let live: u64 = files.iter().map(|file| file.live_bytes).sum();
            let mut copied = 0;
            for seq in 1000.. {
                let chosen = choose(&files, ROOM);
                if chosen.is_empty() {
                    break;
                }
                let bytes = files.iter().filter(|f| chosen.contains(&f.seq)).map(|f| f.live_bytes);
                let bytes: u64 = bytes.sum();
                prop_assert!(bytes <= ROOM);
                files.retain(|file| !chosen.contains(&file.seq));
                copied += bytes;
                files.push(File { seq, size: bytes + overhead_max(bytes), live_bytes: bytes });
                prop_assert!(seq < 1200, "it ends");
            }
            let size: u64 = files.iter().map(|file| file.size).sum();
            let slack = ROOM / GAIN_PART + files.len() as u64 * overhead_max(ROOM);
            prop_assert!(size <= 2 * live + slack, "{size} for {live}");
            prop_assert!(copied <= 4 * live, "{copied} copied of {live}");
        }
    }
}
