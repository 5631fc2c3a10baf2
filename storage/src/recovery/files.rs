//! The segment files of a start: which were begun, which were not, which should not be.

use std::sync::Arc;

use crate::disk::{Disk, File, Mode, read_up_to};
use crate::error::{Damage, Doing as _, OpenError};
use crate::layout::{Floor, LOG, segment_path, segment_seq};
use crate::segment::{HeaderFound, SEGMENT_HEADER_LEN, SegmentHeader};

/// A segment file whose header is good.
#[derive(Clone, Debug)]
pub(crate) struct SegmentFile {
    pub(crate) header: SegmentHeader,
    pub(crate) path: String,
    pub(crate) file: Arc<dyn File>,
    pub(crate) len: u64,
}

/// What is in the log's folder.
#[derive(Debug, Default)]
pub(crate) struct Files {
    /// By sequence number.
    pub(crate) begun: Vec<SegmentFile>,
    /// Made for a segment that no sync ever confirmed: may go.
    pub(crate) unbegun: Vec<String>,
}

/// Lists the segments and reads their headers.
pub(crate) fn list(
    disk: &dyn Disk,
    log_id: &[u8; 16],
    floor: Option<Floor>,
) -> Result<Files, OpenError> {
    let names = disk.list(LOG).doing("list", LOG)?;
    let mut seqs: Vec<u64> = names.iter().filter_map(|name| segment_seq(name)).collect();
    seqs.sort_unstable();
    let mut files = Files::default();
    let mut headless: Vec<(u64, String, &str)> = Vec::new();
    for seq in seqs {
        let path = segment_path(seq);
        let file = disk.open(&path, Mode::Write).doing("open", &path)?;
        match read_header(&*file, &path)? {
            HeaderFound::Valid(header) if header.seq == seq => {
                if header.log_id != *log_id {
                    return Err(Damage::of(path, "the segment belongs to another log").into());
                }
                let len = file.size().doing("look at", &path)?;
                let len = len.min(u64::from(header.size));
                files.begun.push(SegmentFile { header, path, file, len });
            }
            // What a recycled file says until it is begun.
            HeaderFound::Valid(_) => headless.push((seq, path, "its header is another segment's")),
            HeaderFound::Blank => headless.push((seq, path, "its header is blank")),
            // A sector is written whole or not at all, so this is not what a crash leaves.
            HeaderFound::Bad => {
                return Err(Damage::of(path, "its header is damaged, in both copies").at(0).into());
            }
        }
    }
    files.unbegun = judge_headless(&files, headless, floor)?;
    Ok(files)
}

/// Opens a cold segment. It was whole before it got its name, so a bad header is rot.
pub(crate) fn open_cold(
    disk: &dyn Disk,
    seq: u64,
    log_id: &[u8; 16],
) -> Result<Result<SegmentFile, Box<Damage>>, OpenError> {
    let path = segment_path(seq);
    let file = disk.open(&path, Mode::Read).doing("open", &path)?;
    let problem = match read_header(&*file, &path) {
        Ok(HeaderFound::Valid(header)) if header.seq == seq && header.log_id == *log_id => {
            let len = file.size().doing("look at", &path)?;
            return Ok(Ok(SegmentFile { header, path, file, len }));
        }
        Ok(HeaderFound::Valid(_)) => "its header is another segment's",
        Ok(HeaderFound::Blank | HeaderFound::Bad) => "its header is damaged, in both copies",
        Err(OpenError::Damaged(damage)) => return Ok(Err(damage)),
        Err(other) => return Err(other),
    };
    Ok(Err(Damage::of(path, problem).at(0)))
}

/// A file without a header of its own may only be the one that was about to be begun.
fn judge_headless(
    files: &Files,
    headless: Vec<(u64, String, &str)>,
    floor: Option<Floor>,
) -> Result<Vec<String>, OpenError> {
    let newest = files.begun.last().map_or(0, |file| file.header.seq);
    for (seq, path, problem) in &headless {
        let damage = || Damage::of(&**path, *problem).at(0);
        if *seq <= newest {
            return Err(damage().known_by("a later segment exists, so it was in use").into());
        }
        if floor.is_some_and(|floor| *seq <= floor.seq) {
            return Err(damage().known_by("FLOOR says that it was in use").into());
        }
    }
    Ok(headless.into_iter().map(|(_, path, _)| path).collect())
}

fn read_header(file: &dyn File, path: &str) -> Result<HeaderFound, OpenError> {
    let mut bytes = vec![0; SEGMENT_HEADER_LEN as usize];
    match read_up_to(file, &mut bytes, 0) {
        Ok(read) => Ok(SegmentHeader::decode(&bytes[..read])),
        Err(error) => {
            let problem = format!("the disk cannot read its header: {error}");
            Err(Damage::of(path, problem).at(0).into())
        }
    }
}
