//! Makes jobs of real text: every passage of the files in a folder can be one.

use std::fmt;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

use crate::Fallible;
use crate::jobs::{Job, RUST_QUEUE, SHELL_QUEUE};

/// Files that hold text for people.
const ENDINGS: [&str; 5] = ["rs", "md", "proto", "toml", "py"];

/// What the jobs were made of.
#[derive(Debug)]
pub(crate) struct Made {
    jobs: usize,
    files: usize,
    lines: usize,
    passes: usize,
    bytes: usize,
}

impl fmt::Display for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { jobs, files, lines, passes, bytes } = self;
        let kib = bytes / 1024;
        write!(f, "{jobs} jobs of {lines} lines in {files} files: overlapping passages of up ")?;
        write!(f, "to {passes} lines, {kib} KiB of JSON lines")
    }
}

/// Writes `jobs` jobs to `path`, `shell_jobs` of them, evenly spread, for the shell workers.
///
/// A passage begins at each line that is not blank. There are fewer lines than jobs: the first pass
/// makes passages of one line, the second of two, and so on, until there are enough.
///
/// # Errors
///
/// The text cannot be read, there is too little of it, or the file cannot be written.
pub(crate) fn write_jobs(
    folder: &Path,
    path: &Path,
    jobs: usize,
    shell_jobs: usize,
) -> Fallible<Made> {
    let texts = read_texts(folder)?;
    let file = File::create_new(path).with_context(|| format!("cannot make {}", path.display()))?;
    let mut out = BufWriter::new(file);
    let lines = texts.iter().map(|text| text.lines().count()).sum();
    let mut made = Made { jobs: 0, files: texts.len(), lines, passes: 0, bytes: 0 };
    while made.jobs < jobs {
        let before = made.jobs;
        made.passes += 1;
        for (text, first) in texts.iter().flat_map(|text| text.passages(made.passes)) {
            if made.jobs == jobs {
                break;
            }
            let shell = is_chosen(made.jobs, shell_jobs, jobs);
            let line = serde_json::to_string(&text.job(made.jobs, first, made.passes, shell))?;
            writeln!(out, "{line}")?;
            made.bytes += line.len() + 1;
            made.jobs += 1;
        }
        ensure!(before < made.jobs, "{} has no more than {before} passages", folder.display());
    }
    out.flush()?;
    Ok(made)
}

/// Whether `number` is one of `chosen` out of `all` that are evenly spread.
fn is_chosen(number: usize, chosen: usize, all: usize) -> bool {
    number * chosen / all != (number + 1) * chosen / all
}

/// A file's text.
#[derive(Debug)]
struct Text {
    /// Relative to the folder, for people.
    name: String,
    text: String,
}

impl Text {
    fn lines(&self) -> std::str::Lines<'_> {
        self.text.lines()
    }

    /// Where passages of so many lines begin.
    fn passages(&self, length: usize) -> impl Iterator<Item = (&Self, usize)> {
        let begins = self.lines().count().saturating_sub(length - 1);
        let lines = self.lines().take(begins).enumerate();
        lines.filter(|(_, line)| !line.trim().is_empty()).map(move |(first, _)| (self, first))
    }

    fn job(&self, number: usize, first: usize, length: usize, shell: bool) -> Job {
        let passage = self.lines().skip(first).take(length).collect::<Vec<_>>().join("\n");
        let headers = [
            ("bytes".to_owned(), passage.len().to_string()),
            ("file".to_owned(), self.name.clone()),
            ("first-line".to_owned(), (first + 1).to_string()),
            ("lines".to_owned(), length.to_string()),
        ];
        Job {
            message_id: format!("passage-{:06}", number + 1),
            queue: if shell { SHELL_QUEUE } else { RUST_QUEUE }.to_owned(),
            headers: headers.into(),
            payload: passage,
        }
    }
}

/// Reads the text files of a folder and those below it, in the order of their names.
fn read_texts(folder: &Path) -> Fallible<Vec<Text>> {
    let mut paths = Vec::new();
    collect(folder, &mut paths)?;
    paths.sort();
    let texts = paths.iter().map(|path| {
        let text = std::fs::read_to_string(path);
        let text = text.with_context(|| format!("cannot read {}", path.display()))?;
        let name = path.strip_prefix(folder).unwrap_or(path).display().to_string();
        Ok(Text { name, text })
    });
    texts.collect()
}

fn collect(folder: &Path, paths: &mut Vec<PathBuf>) -> Fallible<()> {
    let entries = std::fs::read_dir(folder);
    for entry in entries.with_context(|| format!("cannot list {}", folder.display()))? {
        let (path, kind) = entry.and_then(|entry| Ok((entry.path(), entry.file_type()?)))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let ending = path.extension().unwrap_or_default().to_string_lossy();
        // What starts with a dot, and what cargo builds, was not written by anybody.
        if kind.is_dir() && !name.starts_with('.') && name != "target" {
            collect(&path, paths)?;
        } else if kind.is_file() && ENDINGS.contains(&&*ending) {
            paths.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::Jobs;

    fn text_folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.md"), "one\n\ntwo three\nfour\n").unwrap();
        std::fs::write(folder.path().join("b.bin"), [0xff]).unwrap();
        std::fs::create_dir(folder.path().join("target")).unwrap();
        std::fs::write(folder.path().join("target/c.md"), "built").unwrap();
        folder
    }

    #[test]
    fn passages_overlap_and_grow_until_there_are_enough() {
        let folder = text_folder();
        let path = folder.path().join("jobs.jsonl");
        let made = write_jobs(folder.path(), &path, 5, 2).unwrap();
        assert_eq!((made.files, made.lines, made.passes), (1, 4, 2));
        let jobs = Jobs::read(&path).unwrap();
        let payloads: Vec<_> = jobs.iter().map(|job| job.payload.as_str()).collect();
        assert_eq!(payloads, ["one", "two three", "four", "one\n", "two three\nfour"]);
        assert_eq!((jobs.in_queue(SHELL_QUEUE), jobs.in_queue(RUST_QUEUE)), (2, 3));
        let last = jobs.iter().last().unwrap();
        assert_eq!((last.message_id.as_str(), &*last.headers["file"]), ("passage-000005", "a.md"));
        assert_eq!((&*last.headers["first-line"], &*last.headers["bytes"]), ("3", "14"));
    }

    #[test]
    fn too_little_text_is_an_error() {
        let folder = text_folder();
        let error = write_jobs(folder.path(), &folder.path().join("jobs.jsonl"), 99, 0);
        assert!(error.unwrap_err().to_string().ends_with("has no more than 7 passages"));
    }
}
