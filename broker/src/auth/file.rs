//! The file of accepted tokens: names and hashes, in TOML, meant for people to edit.

use std::fs::Metadata;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::token::{Token, TokenHash, TokenId};

/// One accepted token.
#[derive(Clone, Debug)]
pub struct TokenEntry {
    /// The public part.
    pub id: TokenId,
    /// Who uses it, for logs and listings.
    pub name: String,
    /// What the token must hash to.
    pub hash: TokenHash,
}

/// Why a token file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenFileError {
    /// It cannot be read or written.
    #[error("cannot {doing} the token file {}: {source}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is not a token file.
    #[error("{}: not a token file: {reason}", path.display())]
    Content {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// It accepts nobody.
    #[error("{}: holds no token; `qbroker token create --file` adds one", path.display())]
    Empty {
        /// Which file.
        path: PathBuf,
    },
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    token: Vec<Row>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    id: String,
    #[serde(default)]
    name: String,
    hash: String,
}

impl TokenEntry {
    /// The entry that accepts `token`.
    pub fn of(token: &Token, name: &str) -> Self {
        Self { id: token.id(), name: name.to_owned(), hash: token.hash() }
    }

    /// The entry as the file holds it.
    pub fn to_toml(&self) -> String {
        let (id, hash) = (self.id.to_string(), self.hash.to_string());
        let document = Document { token: vec![Row { id, name: self.name.clone(), hash }] };
        toml::to_string(&document).expect("three strings are always TOML")
    }
}

/// Reads every entry of the file at `path`.
///
/// # Errors
/// Where the file cannot be read, is not a token file, names an id twice, or holds no token.
pub fn read_tokens(path: &Path) -> Result<Vec<TokenEntry>, TokenFileError> {
    let text = std::fs::read_to_string(path).map_err(io("read", path))?;
    let content = |reason: String| TokenFileError::Content { path: path.to_owned(), reason };
    // Only the parser's message, never its excerpt: that could be a token put there by mistake.
    let document: Document =
        toml::from_str(&text).map_err(|error| content(error.message().to_owned()))?;
    let mut entries: Vec<TokenEntry> = Vec::with_capacity(document.token.len());
    for (index, row) in document.token.into_iter().enumerate() {
        let place = index + 1;
        let id = TokenId::parse(&row.id)
            .ok_or_else(|| content(format!("token {place}: the id is not one of a token")))?;
        let hash = TokenHash::parse(&row.hash).ok_or_else(|| {
            content(format!("token {place} ({id}): the hash is not blake3:<hex>"))
        })?;
        if entries.iter().any(|entry| entry.id == id) {
            return Err(content(format!("token {place}: the id {id} stands there twice")));
        }
        entries.push(TokenEntry { id, name: row.name, hash });
    }
    if entries.is_empty() {
        return Err(TokenFileError::Empty { path: path.to_owned() });
    }
    Ok(entries)
}

/// Adds `entry` to the file at `path`. Where it is missing it is made, readable by the owner only;
/// else it keeps its owner and its mode, which say who may read it.
///
/// # Errors
/// Where the file cannot be written, and where it is there and not a token file.
pub fn append_token(path: &Path, entry: &TokenEntry) -> Result<(), TokenFileError> {
    let present = match std::fs::metadata(path) {
        Ok(metadata) => Some(metadata),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(io("look for", path)(error)),
    };
    let before = match present {
        Some(_) => std::fs::read_to_string(path).map_err(io("read", path))?,
        None => String::new(),
    };
    if !before.trim().is_empty() {
        read_tokens(path)?;
    }
    let gap = if before.is_empty() { "" } else { "\n" };
    replace(path, &format!("{before}{gap}{}", entry.to_toml()), present.as_ref())
}

/// Puts `text` at `path` in one step, readable by the owner only, and on disk when this returns.
///
/// # Errors
/// Where any step fails; what stood at `path` is then as it was.
pub(super) fn write_private(path: &Path, text: &str) -> Result<(), TokenFileError> {
    replace(path, text, None)
}

/// Puts `text` at `path` in one step, with the owner and mode of `like`, or for the owner only.
fn replace(path: &Path, text: &str, like: Option<&Metadata>) -> Result<(), TokenFileError> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or_else(|| Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let staged = folder.join(format!(".{name}.{}.tmp", std::process::id()));
    let written = write_and_move(&staged, path, folder, text, like);
    if written.is_err() {
        // Whatever is left of it is of no use; the error below says what went wrong.
        std::fs::remove_file(&staged).ok();
    }
    written.map_err(io("write", path))
}

fn write_and_move(
    staged: &Path,
    path: &Path,
    folder: &Path,
    text: &str,
    like: Option<&Metadata>,
) -> std::io::Result<()> {
    // `create_new`: never through a link somebody else put there.
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(staged)?;
    file.write_all(text.as_bytes())?;
    if let Some(like) = like {
        let own = file.metadata()?;
        if (own.uid(), own.gid()) != (like.uid(), like.gid()) {
            std::os::unix::fs::fchown(&file, Some(like.uid()), Some(like.gid()))?;
        }
        // After the owner: a mode for one group must not serve another, be it for a moment.
        file.set_permissions(like.permissions())?;
    }
    file.sync_all()?;
    std::fs::rename(staged, path)?;
    std::fs::File::open(folder)?.sync_all()
}

fn io(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> TokenFileError {
    move |source| TokenFileError::Io { doing, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn entries_are_added_to_a_private_file_and_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.toml");
        let (first, second) = (Token::generate().unwrap(), Token::generate().unwrap());
        append_token(&path, &TokenEntry::of(&first, "ci \"x\"")).unwrap();
        append_token(&path, &TokenEntry::of(&second, "")).unwrap();
        let entries = read_tokens(&path).unwrap();
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[0].name, "ci \"x\"");
        assert!(entries[1].hash.fits(&second));
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains(first.reveal()));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    /// A bug: a file for a group to read was only its owner's after a token was added.
    #[test]
    fn a_file_that_is_there_keeps_its_mode_and_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.toml");
        let entry = || TokenEntry::of(&Token::generate().unwrap(), "");
        append_token(&path, &entry()).unwrap();
        for mode in [0o640, 0o600, 0o444] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let before = std::fs::metadata(&path).unwrap();
            append_token(&path, &entry()).unwrap();
            let after = std::fs::metadata(&path).unwrap();
            assert_eq!(after.permissions().mode() & 0o777, mode);
            assert_eq!((after.uid(), after.gid()), (before.uid(), before.gid()));
        }
        assert_eq!(read_tokens(&path).unwrap().len(), 4);
    }

    #[test]
    fn a_file_that_is_none_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.toml");
        let token = Token::generate().unwrap();
        let cases = [
            ("", "holds no token"),
            ("tokens = 1\n", "unknown field"),
            ("[[token]]\nid = \"x\"\nhash = \"\"\n", "the id is not one"),
            ("[[token]]\nid = \"0a1b2c3d\"\nhash = \"md5:1\"\n", "not blake3"),
        ];
        for (text, expected) in cases {
            std::fs::write(&path, text).unwrap();
            let error = read_tokens(&path).expect_err(text).to_string();
            assert!(error.contains(expected), "{error}");
            if !text.is_empty() {
                assert!(append_token(&path, &TokenEntry::of(&token, "")).is_err());
                assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
            }
        }
        let entry = TokenEntry::of(&token, "").to_toml();
        std::fs::write(&path, format!("{entry}{entry}")).unwrap();
        assert!(read_tokens(&path).expect_err("twice").to_string().contains("twice"));
    }

    #[test]
    fn a_token_written_where_a_hash_belongs_is_not_repeated_in_the_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.toml");
        let token = Token::generate().unwrap();
        std::fs::write(&path, token.reveal()).unwrap();
        let error = read_tokens(&path).expect_err("not TOML").to_string();
        assert!(!error.contains(token.reveal()), "{error}");
    }
}
