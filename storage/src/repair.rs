//! Repairing a damaged data folder, offline: what is lost is given up by name, all else stays.

mod adopt;
mod cold;
mod plan;

use std::sync::Arc;

use crate::disk::{Disk, Mode, read_file, read_up_to};
use crate::error::{Damage, DiskError, Doing as _, Lost, OpenError};
use crate::layout::{self, CKPT, FORMAT, Identity, LOG, QUARANTINE};
use crate::repair::adopt::Readopted;
use crate::repair::plan::{Plan, Step};
use crate::survey::{Patient, survey};
use crate::verify::{self, VerifyReport};

/// How far a repair goes.
#[derive(Copy, Clone, Debug, Default)]
pub struct RepairOptions {
    /// Only say what would be done.
    pub dry_run: bool,
    /// Accept that messages come again: without a usable checkpoint, what was settled in
    /// segments that are gone is not known any more.
    pub accept_redelivery: bool,
}

/// What a repair did, or would do.
#[derive(Clone, Debug, Default)]
pub struct RepairReport {
    /// Each change, in words.
    pub actions: Vec<String>,
    /// The records given up.
    pub lost: Vec<Lost>,
    /// Whether the changes were made.
    pub applied: bool,
    /// What a verification finds afterwards, once the changes were made.
    pub after: Option<VerifyReport>,
}

impl RepairReport {
    /// How many records were given up, wholly or without their bodies.
    #[must_use]
    pub fn lost_records(&self) -> u64 {
        self.lost.iter().map(|lost| lost.lsns.count()).sum()
    }
}

/// Why a folder was not repaired. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    /// The folder could not be looked at, or written.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It takes a decision of the person in charge.
    #[error(
        "no checkpoint is usable and segments are gone, so messages that were settled may come \
         again: repair with --accept-redelivery if that is acceptable"
    )]
    RedeliveryNotAccepted,
}

impl From<DiskError> for RepairError {
    fn from(error: DiskError) -> Self {
        Self::Open(error.into())
    }
}

/// Makes a damaged folder one that a start accepts, giving up as little as possible.
///
/// Every file that is changed is copied to `quarantine/` first. What is given up is recorded in
/// the log itself, so that later starts know those LSNs as lost. Run it dry first.
///
/// # Errors
/// When the folder is in use or fails, or when losing settlements must be accepted first.
pub fn repair(disk: &Arc<dyn Disk>, options: RepairOptions) -> Result<RepairReport, RepairError> {
    layout::refuse_foreign(&**disk)?;
    let _held = layout::lock(&**disk)?;
    let (log_id, format_damage) = identity(&**disk)?;
    let mut before = survey(&**disk, &log_id)?;
    let readopted = Readopted::find(&mut before);
    let accept = options.accept_redelivery || redelivery_accepted(&**disk, &log_id);
    let mut plan = Plan::of(&before, readopted.as_ref(), &log_id, accept)
        .ok_or(RepairError::RedeliveryNotAccepted)?;
    if let Some(damage) = format_damage {
        plan.steps.insert(0, Step::RestoreFormat { why: damage.problem });
    }
    let mut report = RepairReport {
        actions: plan.steps.iter().map(Step::describe).collect(),
        lost: plan.lost.clone(),
        ..RepairReport::default()
    };
    if !options.dry_run {
        if !plan.steps.is_empty() {
            layout::make_folders(&**disk)?;
        }
        for step in &plan.steps {
            apply(&**disk, step, &log_id)?;
        }
        report.applied = true;
        let after = survey(&**disk, &log_id)?;
        let accepted = redelivery_accepted(&**disk, &log_id);
        report.after = Some(verify::report(&after, accepted));
    }
    Ok(report)
}

/// The log's id, and what is wrong with the file that says so: then it is what all others say.
pub(crate) fn identity(disk: &dyn Disk) -> Result<([u8; 16], Option<Box<Damage>>), OpenError> {
    match layout::identify(disk)? {
        Identity::New => Err(OpenError::Unused),
        Identity::Known(log_id) => Ok((log_id, None)),
        Identity::Lost { log_id: Some(log_id), damage } => Ok((log_id, Some(damage))),
        Identity::Lost { log_id: None, damage } => {
            Err(damage.known_by("no segment and no checkpoint tells of which log it was").into())
        }
    }
}

fn apply(disk: &dyn Disk, step: &Step, log_id: &[u8; 16]) -> Result<(), DiskError> {
    match step {
        Step::Replace { path, bytes, keep, .. } => {
            if *keep {
                quarantine(disk, path)?;
            }
            replace(disk, LOG, path, bytes)
        }
        Step::SetAside { path, dir, .. } => {
            quarantine(disk, path)?;
            disk.remove(path).doing("remove", path)?;
            disk.sync_dir(dir).doing("sync the folder", dir)
        }
        // Made before every other step.
        Step::MakeFolder { .. } => Ok(()),
        Step::RestoreFormat { .. } => {
            if layout::names_in(disk, "")?.iter().any(|name| name == FORMAT) {
                quarantine(disk, FORMAT)?;
            }
            layout::restore_format(disk, log_id)
        }
        Step::AcceptRedelivery => replace(disk, CKPT, ACCEPTED, &acceptance(log_id)),
    }
}

/// Copies a file aside, what cannot be read of it as zeros.
fn quarantine(disk: &dyn Disk, path: &str) -> Result<(), DiskError> {
    let name = path.rsplit('/').next().unwrap_or(path);
    let copy_path = format!("{QUARANTINE}/{name}-{:x}", disk.now_ms());
    let original = disk.open(path, Mode::Read).doing("open", path)?;
    let size = usize::try_from(original.size().doing("look at", path)?).unwrap_or(usize::MAX);
    let mut bytes = vec![0; size];
    read_up_to(&Patient(original), &mut bytes, 0).doing("read", path)?;
    let copy = disk.open(&copy_path, Mode::CreateNew).doing("create", &copy_path)?;
    copy.write_all_at(&bytes, 0).doing("write", &copy_path)?;
    copy.sync_data().doing("sync", &copy_path)?;
    disk.sync_dir(QUARANTINE).doing("sync the folder", QUARANTINE)
}

/// Puts a file in place in one step, over what is there.
fn replace(disk: &dyn Disk, dir: &str, path: &str, bytes: &[u8]) -> Result<(), DiskError> {
    let tmp = format!("{path}.tmp");
    let file = disk.open(&tmp, Mode::Replace).doing("create", &tmp)?;
    file.write_all_at(bytes, 0).doing("write", &tmp)?;
    file.sync_data().doing("sync", &tmp)?;
    disk.rename(&tmp, path).doing("rename", &tmp)?;
    disk.sync_dir(dir).doing("sync the folder", dir)
}

/// Says that a log without a usable checkpoint may be replayed as it is.
const ACCEPTED: &str = "ckpt/redelivery-accepted";
const ACCEPTED_MAGIC: &[u8; 8] = b"QBRKRDL1";

fn acceptance(log_id: &[u8; 16]) -> Vec<u8> {
    [&ACCEPTED_MAGIC[..], log_id].concat()
}

/// Whether a repair has accepted that a log without a usable checkpoint is replayed as it is.
pub(crate) fn redelivery_accepted(disk: &dyn Disk, log_id: &[u8; 16]) -> bool {
    read_file(disk, ACCEPTED).is_ok_and(|bytes| bytes == acceptance(log_id))
}

/// A checkpoint has absorbed what was accepted.
pub(crate) fn forget_acceptance(disk: &dyn Disk) -> Result<(), DiskError> {
    match disk.remove(ACCEPTED) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).doing("remove", ACCEPTED)
        }
        _ => Ok(()),
    }
}
