//! Verifying a data folder, offline: everything is read, nothing is changed.

use std::sync::Arc;

use crate::checkpoint;
use crate::cold::file::read_column;
use crate::disk::Disk;
use crate::error::{Damage, OpenError};
use crate::layout::{self, CKPT, LOG, folder_missing, segment_path};
use crate::lsn::{Lsn, LsnRange};
use crate::repair;
use crate::survey::{Fault, Survey, Surveyed, survey};

/// What a data folder holds, and what is wrong in it.
#[derive(Clone, Debug, Default)]
pub struct VerifyReport {
    /// Segments read.
    pub segments: usize,
    /// Cold segments among what the log names.
    pub cold_segments: usize,
    /// Frames read in them.
    pub frames: u64,
    /// Records read in them.
    pub records: u64,
    /// Checkpoints that read well.
    pub checkpoints: usize,
    /// The last LSN in the log.
    pub last_lsn: Lsn,
    /// The end of the log is torn: a start cuts it, nothing confirmed is lost.
    pub torn: bool,
    /// Everything that is damaged.
    pub damages: Vec<Damage>,
    /// Some of it is what a start has to read: it refuses the folder. What the newest checkpoint has
    /// absorbed is met when somebody needs it.
    pub refused: bool,
}

/// Reads a whole data folder, under its lock, and checks every byte. Changes nothing.
///
/// # Errors
/// When the folder cannot be looked at; damage is not an error but what the report is for.
pub fn verify(disk: &Arc<dyn Disk>) -> Result<VerifyReport, OpenError> {
    layout::refuse_foreign(&**disk)?;
    let _held = layout::lock(&**disk)?;
    let (log_id, format_damage) = repair::identity(&**disk)?;
    let survey = survey(&**disk, &log_id)?;
    let accepted = repair::redelivery_accepted(&**disk, &log_id);
    let mut report = report(&survey, accepted);
    if let Some(damage) = format_damage {
        report.refused = true;
        report.damages.insert(0, *damage);
    }
    Ok(report)
}

pub(crate) fn report(survey: &Survey, redelivery_accepted: bool) -> VerifyReport {
    let newest = survey.segments.keys().next_back().copied();
    let mut report = VerifyReport {
        segments: survey.segments.len(),
        checkpoints: survey.checkpoints.len(),
        last_lsn: Lsn(survey.end().0 - 1),
        torn: survey.tail.is_some_and(|(_, torn)| torn),
        ..VerifyReport::default()
    };
    for &dir in &survey.missing {
        report.refused |= dir == LOG;
        report.damages.push(*folder_missing(dir));
    }
    let replayed_from = survey.replayed_from();
    for (seq, surveyed) in &survey.segments {
        report.frames += surveyed.frames;
        report.records += surveyed.records;
        // At the end of the newest segment, what no frame can be made of may be torn, or nothing.
        if newest == Some(*seq) && survey.tail.is_some() {
            continue;
        }
        let may_end = survey.newest_seq() == *seq;
        let faults = surveyed.faults.iter();
        let faults = faults.filter(|fault| !may_end || !is_open_end(survey, *seq, fault));
        let found = report.damages.len();
        report.damages.extend(faults.map(|fault| *damage(surveyed, fault)));
        report.refused |= found < report.damages.len() && replayed_from <= *seq;
    }
    let expected = survey.expected_cold();
    report.cold_segments = expected.len();
    for (seq, lsns) in expected {
        match survey.cold.get(&seq) {
            Some(surveyed) => {
                report.frames += surveyed.frames;
                report.records += surveyed.records;
                report.damages.extend(cold_damages(surveyed));
                // A start reads which records are in it, not what they say.
                report.refused |= read_column(&surveyed.file).is_err();
            }
            None => {
                report.refused = true;
                report.damages.push(*cold_missing(survey, seq, lsns));
            }
        }
    }
    let missing = missing(survey, redelivery_accepted);
    report.refused |= !missing.is_empty() || survey.tail_damage.is_some();
    report.damages.extend(missing);
    if report.damages.is_empty() {
        report.damages.extend(survey.tail_damage.clone());
    }
    for (path, problem) in &survey.bad_checkpoints {
        report.damages.push(*Damage::of(&**path, &**problem));
    }
    report
}

/// Whether a fault of the newest segment is where its frames end, and nothing says that there were
/// more: behind damage before it, an end like any other.
fn is_open_end(survey: &Survey, seq: u64, fault: &Fault) -> bool {
    let Fault::Gap { from, first_lsn, next: None, .. } = fault else { return false };
    let floor = survey.floor.filter(|floor| floor.seq == seq);
    floor.is_none_or(|floor| u64::from(floor.offset) <= *from) && survey.confirmed() < *first_lsn
}

/// What is wrong in a cold segment that is there.
pub(crate) fn cold_damages(surveyed: &Surveyed) -> Vec<Damage> {
    let damages: Vec<Damage> =
        surveyed.faults.iter().map(|fault| *damage(surveyed, fault)).collect();
    match read_column(&surveyed.file) {
        Err(damage) if damages.is_empty() => vec![*damage],
        _ => damages,
    }
}

fn cold_missing(survey: &Survey, seq: u64, lsns: LsnRange) -> Box<Damage> {
    let missing = || Damage::of(segment_path(seq), "the cold segment is missing");
    let headless = survey.headless_cold.get(&seq).cloned();
    headless.unwrap_or_else(missing).with_lsns(lsns.first, Some(lsns.last))
}

fn damage(surveyed: &Surveyed, fault: &Fault) -> Box<Damage> {
    let path = &*surveyed.file.path;
    match fault {
        Fault::Bodies { offset, header, records } => {
            let problem = format!("the bodies of {} records have wrong checksums", records.len());
            let first = records.first().map_or(header.first_lsn, |&(_, lsn)| lsn);
            let last = records.last().map(|&(_, lsn)| lsn);
            Damage::of(path, problem).at(*offset).with_lsns(first, last)
        }
        Fault::Gap { from, first_lsn, next, problem, .. } => {
            let last = next.map(|(_, lsn)| Lsn(lsn.0 - 1)).filter(|last| first_lsn <= last);
            Damage::of(path, &**problem).at(*from).with_lsns(*first_lsn, last)
        }
    }
}

/// Segments and checkpoints that should be there, and an end that comes too early.
fn missing(survey: &Survey, redelivery_accepted: bool) -> Vec<Damage> {
    let mut damages = Vec::new();
    let there = |seq: &u64| survey.segments.contains_key(seq);
    let gone: Vec<u64> = survey.expected().into_iter().filter(|seq| !there(seq)).collect();
    let confirmed = survey.confirmed();
    if survey.listed().is_none() && !gone.is_empty() && !redelivery_accepted {
        let problem = "there is no usable checkpoint, and segments are gone";
        damages.push(*Damage::of(CKPT, problem));
    } else if !redelivery_accepted || survey.listed().is_some() {
        let damage = |seq: &u64| match survey.headless.get(seq) {
            Some(path) => Damage::of(&**path, "its header is damaged").at(0),
            None => Damage::of(segment_path(*seq), "the segment is missing"),
        };
        damages.extend(gone.iter().map(|seq| *damage(seq)));
    }
    let end = survey.end();
    if end <= confirmed && damages.is_empty() && survey.tail_damage.is_none() {
        let problem = "the log ends before what was confirmed";
        damages.push(*Damage::of(LOG, problem).with_lsns(end, Some(confirmed)));
    }
    for loaded in survey.checkpoints.iter().filter(|loaded| end <= loaded.meta.lsn) {
        let path = checkpoint::path(loaded.meta.lsn);
        damages.iter_mut().for_each(|damage| {
            damage.evidence.get_or_insert_with(|| format!("{path} was finished after it"));
        });
    }
    damages
}
