//! The token that a broker beyond loopback makes for itself at its first start.
//!
//! Two files in the data folder: `bootstrap-token` holds the token in the clear for the operator to
//! take away, and may then be deleted; `bootstrap-tokens.toml` holds its hash and keeps it accepted
//! over restarts. The first is written first, so that a crash in between makes no second token.

use std::path::{Path, PathBuf};

use tracing::{info, warn};

use super::file::{self, TokenEntry, TokenFileError};
use super::token::Token;
use super::{AccessError, Settings};

const CLEAR: &str = "bootstrap-token";
const HASHED: &str = "bootstrap-tokens.toml";

/// Returns the file of the token's hash and its entries, making both where they are missing. Others may
/// have been added to it.
pub(super) fn ensure(settings: &Settings) -> Result<(PathBuf, Vec<TokenEntry>), AccessError> {
    let clear = settings.data_dir.join(CLEAR);
    let hashed = settings.data_dir.join(HASHED);
    if exists(&hashed)? {
        let entries = file::read_tokens(&hashed)?;
        if exists(&clear)? {
            info!(file = %clear.display(), "the token of the first start is accepted");
        }
        return Ok((hashed, entries));
    }
    let token = match exists(&clear)? {
        true => read_clear(&clear)?,
        false => Token::generate()?,
    };
    file::write_private(&clear, &format!("{}\n", token.reveal()))?;
    let entry = TokenEntry::of(&token, "bootstrap");
    file::write_private(&hashed, &entry.to_toml())?;
    announce(settings, &clear);
    Ok((hashed, vec![entry]))
}

/// Names the file, never the token: logs are read by many and kept for long.
fn announce(settings: &Settings, clear: &Path) {
    let scheme = if settings.tls_cert.is_some() { "https" } else { "http" };
    let port = settings.grpc_listen.port();
    let command = format!(
        "qbroker queue list --url {scheme}://<this host>:{port} --token-file {}",
        clear.display()
    );
    info!(
        file = %clear.display(),
        command,
        "made the first token: copy it from the file and use it like this"
    );
    if scheme == "http" {
        warn!("tokens travel in the clear without TLS: set tls-cert and tls-key");
    }
}

fn read_clear(path: &Path) -> Result<Token, TokenFileError> {
    let io = |source| TokenFileError::Io { doing: "read", path: path.to_owned(), source };
    let text = std::fs::read_to_string(path).map_err(io)?;
    Token::parse(&text).map_err(|error| TokenFileError::Content {
        path: path.to_owned(),
        reason: format!("{error}; delete the file to have a new token made"),
    })
}

fn exists(path: &Path) -> Result<bool, TokenFileError> {
    let io = |source| TokenFileError::Io { doing: "look for", path: path.to_owned(), source };
    std::fs::exists(path).map_err(io)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn settings(folder: &tempfile::TempDir) -> Settings {
        Settings { data_dir: folder.path().to_owned(), ..Settings::default() }
    }

    fn clear(folder: &tempfile::TempDir) -> Token {
        let text = std::fs::read_to_string(folder.path().join(CLEAR)).unwrap();
        Token::parse(&text).unwrap()
    }

    #[test]
    fn the_first_start_makes_a_token_and_later_ones_keep_it() {
        let folder = tempfile::tempdir().unwrap();
        let (_, first) = ensure(&settings(&folder)).unwrap();
        let token = clear(&folder);
        assert!(first[0].hash.fits(&token));
        let mode = std::fs::metadata(folder.path().join(CLEAR)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let (_, again) = ensure(&settings(&folder)).unwrap();
        assert!(again[0].hash.fits(&token));
        let another = TokenEntry::of(&Token::generate().unwrap(), "another");
        file::append_token(&folder.path().join(HASHED), &another).unwrap();
        let (_, both) = ensure(&settings(&folder)).unwrap();
        assert_eq!(
            both.iter().map(|it| it.name.as_str()).collect::<Vec<_>>(),
            ["bootstrap", "another"]
        );
    }

    #[test]
    fn the_token_stays_accepted_when_its_clear_text_is_taken_away() {
        let folder = tempfile::tempdir().unwrap();
        ensure(&settings(&folder)).unwrap();
        let token = clear(&folder);
        std::fs::remove_file(folder.path().join(CLEAR)).unwrap();
        let (_, entries) = ensure(&settings(&folder)).unwrap();
        assert!(entries[0].hash.fits(&token));
        assert!(!folder.path().join(CLEAR).exists());
    }

    #[test]
    fn a_crash_between_the_two_files_makes_no_second_token() {
        let folder = tempfile::tempdir().unwrap();
        ensure(&settings(&folder)).unwrap();
        let token = clear(&folder);
        std::fs::remove_file(folder.path().join(HASHED)).unwrap();
        let (_, entries) = ensure(&settings(&folder)).unwrap();
        assert!(entries[0].hash.fits(&token));
    }

    #[test]
    fn a_spoilt_token_file_is_an_error_that_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(CLEAR), "qbt_oops").unwrap();
        let error = ensure(&settings(&folder)).expect_err("spoilt").to_string();
        assert!(error.contains("delete the file to have a new token made"), "{error}");
    }
}
