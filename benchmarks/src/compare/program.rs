//! Programs that the system has installed: where they are, what version, which port is free for them.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, ensure};
use tokio::process::Command;

use crate::system::Fallible;

/// Where system packages put servers; root's paths are not in everybody's `PATH`.
const FOLDERS: [&str; 4] = ["/usr/local/bin", "/usr/bin", "/usr/local/sbin", "/usr/sbin"];

/// The program of this name, if it is installed.
pub(super) fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(FOLDERS.map(PathBuf::from));
    folders.map(|folder| folder.join(name)).find(|program| program.is_file())
}

/// What the program says when it is asked for its version: the first line of it.
pub(super) async fn version(program: &Path, question: &str) -> Fallible<String> {
    let mut command = Command::new(program);
    command.arg(question).stdin(Stdio::null());
    let output = command.output().await.with_context(|| format!("{}", program.display()))?;
    ensure!(output.status.success(), "{} {question}: {}", program.display(), output.status);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().next().context("a program without a version")?;
    Ok(line.trim().to_owned())
}

/// A port that nobody listens on now.
pub(super) fn free_port() -> Fallible<u16> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).context("no port is free")?;
    Ok(listener.local_addr()?.port())
}

/// The numbers of a version, wherever they stand in the text: `nats-server: v2.9.10`.
#[cfg(feature = "peers")]
pub(super) fn numbers(version: &str) -> Option<(u32, u32)> {
    let start = version.find(|c: char| c.is_ascii_digit())?;
    let mut numbers = version[start..].split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "peers")]
    #[test]
    fn versions_are_found_in_what_programs_say() {
        assert_eq!(numbers("nats-server: v2.9.10"), Some((2, 9)));
        assert_eq!(numbers("Redis server v=7.0.15 sha=0:0"), Some((7, 0)));
        assert_eq!(numbers("no version"), None);
    }

    #[test]
    fn what_is_not_installed_is_not_found() {
        assert_eq!(find("qbroker-no-such-program"), None);
        assert!(find("sh").is_some());
    }
}
