//! `qbroker data`: checks and repairs a data folder while no broker uses it.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, Subcommand};
use qbroker::config::ServeFlags;
use qbroker::exit::Exit;
use qbroker_storage::disk::{Disk, RealDisk};
use qbroker_storage::{
    Damage, OpenError, RepairError, RepairOptions, RepairReport, VerifyReport, repair, verify,
};
use rustix::process::{Gid, Uid, geteuid};
use rustix::thread::{set_thread_gid, set_thread_groups, set_thread_uid};
use serde_json::{Value, json};

use super::Outcome;
use super::failure::{Failure, say};
use super::globals::Globals;
use super::output::{Column, Item, column};

#[derive(Debug, Subcommand)]
pub(super) enum DataCommand {
    /// Read everything and check every checksum. Changes nothing.
    Verify(FolderArgs),
    /// Make a damaged folder one that a broker accepts, giving up what cannot be saved.
    ///
    /// Files are copied to quarantine/ in the folder before they are changed. Keep a copy of the
    /// whole folder all the same, and run it with --dry-run first.
    Repair(RepairArgs),
}

#[derive(Debug, Args)]
pub(super) struct FolderArgs {
    /// The data folder [default: as `serve` would take it].
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct RepairArgs {
    #[command(flatten)]
    folder: FolderArgs,
    /// Say what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
    /// Accept that messages which were settled may come again.
    #[arg(long)]
    accept_redelivery: bool,
}

const VERIFIED: [Column; 9] = [
    column("FOLDER", "folder"),
    column("SEGMENTS", "segments"),
    column("FRAMES", "frames"),
    column("RECORDS", "records"),
    column("CHECKPOINTS", "checkpoints"),
    column("LAST LSN", "last_lsn"),
    column("TORN", "torn"),
    column("DAMAGES", "damages"),
    column("REFUSED", "refused"),
];

const REPAIRED: [Column; 4] = [
    column("FOLDER", "folder"),
    column("ACTIONS", "actions"),
    column("RECORDS LOST", "lost_records"),
    column("APPLIED", "applied"),
];

impl DataCommand {
    /// Runs one of them.
    pub(super) fn run(self, globals: &Globals) -> Outcome {
        super::serve::keep_files_private();
        match self {
            Self::Verify(args) => check(&args, globals),
            Self::Repair(args) => mend(&args, globals),
        }
    }
}

fn check(args: &FolderArgs, globals: &Globals) -> Outcome {
    let (folder, disk) = args.open()?;
    let report = verify(&disk)?;
    for damage in &report.damages {
        say(&damage.to_string());
    }
    if let Some(advice) = advice(&report, &folder) {
        say(&advice);
    }
    globals.output().item(&VERIFIED, counted(verified(&folder, &report), "damages", globals))?;
    Ok(if report.damages.is_empty() { Exit::Ok } else { Exit::Damaged })
}

/// What damage means for the next start.
fn advice(report: &VerifyReport, folder: &Path) -> Option<String> {
    let repair = format!("`qbroker data repair --dry-run --data-dir {}`", folder.display());
    match (report.damages.is_empty(), report.refused) {
        (true, _) => None,
        (false, true) => Some(format!(
            "a start refuses this folder: restore a backup, or see with {repair} what a repair \
             would give up"
        )),
        (false, false) => Some(format!(
            "a start accepts this folder, and meets the damage when somebody needs what is there; \
             {repair} says what is lost"
        )),
    }
}

fn mend(args: &RepairArgs, globals: &Globals) -> Outcome {
    let (folder, disk) = args.folder.open()?;
    let options = RepairOptions { dry_run: true, accept_redelivery: args.accept_redelivery };
    let plan = repair(&disk, options)?;
    for action in &plan.actions {
        say(action);
    }
    if args.dry_run || plan.actions.is_empty() {
        tell_repair(globals, &folder, &plan)?;
        return Ok(Exit::Ok);
    }
    let lost = plan.lost_records();
    globals.confirm(&format!("repair {} and give up {lost} records", folder.display()))?;
    let report = repair(&disk, RepairOptions { dry_run: false, ..options })?;
    tell_repair(globals, &folder, &report)?;
    let left = report.after.as_ref().map_or(0, |after| after.damages.len());
    if 0 < left {
        return Err(Failure::new(Exit::Damaged, format!("{left} damages are left: run it again")));
    }
    Ok(Exit::Ok)
}

fn tell_repair(globals: &Globals, folder: &Path, report: &RepairReport) -> io::Result<()> {
    globals.output().item(&REPAIRED, counted(repaired(folder, report), "actions", globals))
}

/// In columns, how many there are: each was told on stderr.
fn counted(mut item: Item, key: &str, globals: &Globals) -> Item {
    if let Some(Value::Array(values)) = item.get(key).filter(|_| globals.output().has_columns()) {
        let count = values.len();
        item.insert(key.to_owned(), json!(count));
    }
    item
}

impl FolderArgs {
    /// The folder and the disk below it. It must exist: a slip must not make a new one.
    fn open(&self) -> Result<(PathBuf, Arc<dyn Disk>), Failure> {
        let folder = match &self.data_dir {
            Some(folder) => folder.clone(),
            None => super::config::resolve(ServeFlags::default())?.settings.data_dir,
        };
        if !folder.is_dir() {
            let message = format!("there is no folder {}", folder.display());
            return Err(Failure::new(Exit::Data, message));
        }
        let cannot_open = |error: io::Error| {
            Failure::new(Exit::Unavailable, format!("cannot open {}: {error}", folder.display()))
        };
        let root = enter_as_owner(&folder).map_err(cannot_open)?;
        let disk = RealDisk::open(root).map_err(cannot_open)?;
        Ok((folder, Arc::new(disk)))
    }
}

/// Where the folder is from now on. Root becomes whoever owns it: what is made in it is theirs, or they
/// could not open it again, and nothing is touched that they could not touch themselves. From within,
/// for they may not find it: systemd hides the folders of its dynamic users.
fn enter_as_owner(folder: &Path) -> io::Result<PathBuf> {
    if !geteuid().is_root() {
        return Ok(folder.to_owned());
    }
    // First: what the path leads to may be another folder at the next look.
    std::env::set_current_dir(folder)?;
    let (root, here) = (0, PathBuf::from("."));
    let owner = std::fs::metadata(&here)?;
    if owner.uid() != root {
        // This thread is the only one so far; those that it starts are like it.
        set_thread_groups(&[])?;
        set_thread_gid(Gid::from_raw(owner.gid()))?;
        set_thread_uid(Uid::from_raw(owner.uid()))?;
    }
    Ok(here)
}

fn verified(folder: &Path, report: &VerifyReport) -> Item {
    object(json!({
        "folder": folder.display().to_string(),
        "segments": report.segments,
        "frames": report.frames,
        "records": report.records,
        "checkpoints": report.checkpoints,
        "last_lsn": report.last_lsn.0,
        "torn": report.torn,
        "damages": report.damages.iter().map(damage).collect::<Vec<_>>(),
        "refused": report.refused,
    }))
}

fn damage(damage: &Damage) -> Value {
    json!({
        "file": damage.file,
        "offset": damage.offset,
        "first_lsn": damage.first_lsn.map(|lsn| lsn.0),
        "last_lsn": damage.last_lsn.map(|lsn| lsn.0),
        "problem": damage.problem,
        "evidence": damage.evidence,
    })
}

fn repaired(folder: &Path, report: &RepairReport) -> Item {
    object(json!({
        "folder": folder.display().to_string(),
        "actions": report.actions,
        "lost_records": report.lost_records(),
        "applied": report.applied,
    }))
}

fn object(value: Value) -> Item {
    let Value::Object(item) = value else { unreachable!("callers make objects") };
    item
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        Self::new(exit_of_open(&error), error.to_string())
    }
}

/// How a command or a start ends that could not open the data folder.
pub(super) fn exit_of_open(error: &OpenError) -> Exit {
    match error {
        OpenError::Damaged(_) => Exit::Damaged,
        OpenError::NewerFormat { .. } | OpenError::NotADataFolder { .. } | OpenError::Unused => {
            Exit::Config
        }
        OpenError::Locked { .. }
        | OpenError::Full(_)
        | OpenError::ReadOnly(_)
        | OpenError::Disk(_) => Exit::Unavailable,
    }
}

impl From<RepairError> for Failure {
    fn from(error: RepairError) -> Self {
        match error {
            RepairError::Open(error) => error.into(),
            RepairError::RedeliveryNotAccepted => Self::new(Exit::Data, error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_does_not_exist_is_not_made() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("slip");
        let args = FolderArgs { data_dir: Some(folder.clone()) };
        let failure = args.open().expect_err("there is none");
        assert_eq!(failure.exit(), Exit::Data);
        assert!(!folder.exists());
    }

    #[test]
    fn each_refusal_of_a_folder_has_its_exit_code() {
        let newer = OpenError::NewerFormat { found: 9, supported: 1 };
        assert_eq!(exit_of_open(&newer), Exit::Config);
        let locked = OpenError::Locked { holder: "process 7".to_owned() };
        assert_eq!(exit_of_open(&locked), Exit::Unavailable);
    }
}
