//! Who may use the broker: bearer tokens, checked against hashes.
//!
//! Loopback is open. Any other address requires a token: from the file of `auth-tokens`, or, where
//! none is named, the one that the first start makes for itself. [`Access::open`] decides which, once;
//! each listener then checks with its own [`Authenticator`].

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;

pub use self::file::{TokenEntry, TokenFileError, append_token, read_tokens};
pub use self::token::{Token, TokenError, TokenHash, TokenId};
use crate::config::Settings;

mod bootstrap;
mod file;
mod token;

/// Why access could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// A token file cannot be used.
    #[error(transparent)]
    File(#[from] TokenFileError),
    /// No token can be made.
    #[error("cannot make the first token: the system gives no randomness: {0}")]
    Randomness(#[from] getrandom::Error),
}

/// The tokens a broker accepts, shared by its listeners.
#[derive(Clone, Debug)]
pub struct Access {
    rule: Rule,
    shared: Arc<Shared>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// `insecure-no-auth`.
    NobodyAsked,
    /// No token file: loopback is open.
    LoopbackOpen,
    /// A token file: asked everywhere.
    EverybodyAsked,
}

#[derive(Debug)]
struct Shared {
    /// Where the entries come from; `None` while there are none to read again.
    source: Option<PathBuf>,
    entries: ArcSwap<Vec<TokenEntry>>,
    failures: Failures,
}

#[derive(Debug, Default)]
struct Failures {
    missing: AtomicU64,
    malformed: AtomicU64,
    unknown: AtomicU64,
}

/// How often callers were turned away, by reason, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AuthFailures {
    /// Calls without a token.
    pub missing: u64,
    /// Calls with something that is no token.
    pub malformed: u64,
    /// Calls with a token that is not accepted.
    pub unknown: u64,
}

impl Access {
    /// Sets up access as `settings` say, for the addresses they name. Where a first token is needed
    /// and missing, it is made and written to the data folder, which must exist and be locked.
    ///
    /// # Errors
    /// Where a token file cannot be read or written, and where there is no randomness.
    pub fn open(settings: &Settings) -> Result<Self, AccessError> {
        if settings.insecure_no_auth {
            warn_aloud(settings);
            return Ok(Self::new(Rule::NobodyAsked, None, Vec::new()));
        }
        if let Some(path) = &settings.auth_tokens {
            let entries = read_tokens(path)?;
            return Ok(Self::new(Rule::EverybodyAsked, Some(path), entries));
        }
        if !is_reachable(settings) {
            return Ok(Self::new(Rule::LoopbackOpen, None, Vec::new()));
        }
        let (source, entries) = bootstrap::ensure(settings)?;
        Ok(Self::new(Rule::LoopbackOpen, Some(&source), entries))
    }

    fn new(rule: Rule, source: Option<&Path>, entries: Vec<TokenEntry>) -> Self {
        let entries = ArcSwap::from_pointee(entries);
        let failures = Failures::default();
        let shared = Shared { source: source.map(Path::to_owned), entries, failures };
        Self { rule, shared: Arc::new(shared) }
    }

    /// The check for callers that come through `listener`.
    pub fn authenticator(&self, listener: SocketAddr) -> Authenticator {
        let asked = match self.rule {
            Rule::NobodyAsked => false,
            Rule::LoopbackOpen => !listener.ip().is_loopback(),
            Rule::EverybodyAsked => true,
        };
        Authenticator { asked, shared: Arc::clone(&self.shared) }
    }

    /// Reads the token file again (SIGHUP) and returns how many tokens are accepted now.
    ///
    /// # Errors
    /// Where the file cannot be read; the tokens of before stay accepted.
    pub fn reload(&self) -> Result<usize, TokenFileError> {
        if let Some(source) = &self.shared.source {
            self.shared.entries.store(Arc::new(read_tokens(source)?));
        }
        Ok(self.shared.entries.load().len())
    }

    /// How often callers were turned away so far.
    pub fn failures(&self) -> AuthFailures {
        let Failures { missing, malformed, unknown } = &self.shared.failures;
        AuthFailures {
            missing: missing.load(Ordering::Relaxed),
            malformed: malformed.load(Ordering::Relaxed),
            unknown: unknown.load(Ordering::Relaxed),
        }
    }

    /// How access is granted, in a few words for the start line of the log.
    pub fn summary(&self) -> String {
        let count = self.shared.entries.load().len();
        match (self.rule, count) {
            (Rule::NobodyAsked, _) => "off (insecure-no-auth)".to_owned(),
            (Rule::LoopbackOpen, 0) => "off (loopback only)".to_owned(),
            (Rule::LoopbackOpen, _) => "token beyond loopback".to_owned(),
            (Rule::EverybodyAsked, count) => format!("token ({count} accepted)"),
        }
    }
}

/// Checks the callers of one listener. Cheap to clone, and to ask.
#[derive(Clone, Debug)]
pub struct Authenticator {
    asked: bool,
    shared: Arc<Shared>,
}

/// Who is calling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Principal {
    /// Nobody asked.
    Anonymous,
    /// The bearer of this token.
    Token {
        /// The token's public part.
        id: TokenId,
        /// The name its entry gives.
        name: String,
    },
}

/// Why a caller is turned away: gRPC `UNAUTHENTICATED`, HTTP 401.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// No token came.
    #[error("a token is required here: send it as authorization: Bearer <token>")]
    Missing,
    /// What came is no token.
    #[error("the authorization is not understood: {0}")]
    Malformed(TokenError),
    /// The token is not accepted.
    #[error("the token is not accepted: it was never created here, or it was revoked")]
    Unknown,
}

impl Authenticator {
    /// Whether callers need a token at all.
    pub fn requires_token(&self) -> bool {
        self.asked
    }

    /// Checks the value of a call's `authorization` header.
    ///
    /// # Errors
    /// Where a token is required and `authorization` holds none that is accepted; it is counted.
    pub fn check(&self, authorization: Option<&str>) -> Result<Principal, AuthError> {
        if !self.asked {
            return Ok(Principal::Anonymous);
        }
        self.identify(authorization).inspect_err(|error| self.shared.failures.count(*error))
    }

    fn identify(&self, authorization: Option<&str>) -> Result<Principal, AuthError> {
        let value = authorization.ok_or(AuthError::Missing)?;
        let token = bearer(value).ok_or(AuthError::Malformed(TokenError::Form))?;
        let token = Token::parse(token).map_err(AuthError::Malformed)?;
        let id = token.id();
        let entries = self.shared.entries.load();
        // Ids are public, so finding one may take its time; the secret is compared in constant time.
        let entry = entries.iter().find(|entry| entry.id == id).ok_or(AuthError::Unknown)?;
        if !entry.hash.fits(&token) {
            return Err(AuthError::Unknown);
        }
        Ok(Principal::Token { id, name: entry.name.clone() })
    }
}

impl Failures {
    fn count(&self, error: AuthError) {
        let counter = match error {
            AuthError::Missing => &self.missing,
            AuthError::Malformed(_) => &self.malformed,
            AuthError::Unknown => &self.unknown,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// The token of `Bearer <token>`; the scheme's case does not matter (RFC 9110).
fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn is_reachable(settings: &Settings) -> bool {
    let listeners = [Some(settings.grpc_listen), settings.http_listen];
    listeners.into_iter().flatten().any(|address| !address.ip().is_loopback())
}

fn warn_aloud(settings: &Settings) {
    tracing::warn!(
        grpc_listen = %settings.grpc_listen,
        "insecure-no-auth: everybody who reaches this address can read and delete everything"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn far() -> SocketAddr {
        "0.0.0.0:7650".parse().unwrap()
    }

    fn near() -> SocketAddr {
        "127.0.0.1:7650".parse().unwrap()
    }

    /// An access by file that accepts one token, and the folder that holds the file.
    fn by_file() -> (Access, Token, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.toml");
        let token = Token::generate().unwrap();
        append_token(&path, &TokenEntry::of(&token, "ci")).unwrap();
        let settings = Settings { auth_tokens: Some(path), ..Settings::default() };
        (Access::open(&settings).unwrap(), token, folder)
    }

    #[test]
    fn loopback_is_open_and_other_addresses_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let data_dir = folder.path().to_owned();
        let settings = Settings { data_dir, grpc_listen: far(), ..Settings::default() };
        let access = Access::open(&settings).unwrap();
        assert_eq!(access.authenticator(near()).check(None), Ok(Principal::Anonymous));
        assert_eq!(access.authenticator(far()).check(None), Err(AuthError::Missing));
        assert_eq!(access.failures().missing, 1);
    }

    #[test]
    fn a_token_file_asks_everywhere() {
        let (access, token, _folder) = by_file();
        let check = |value: &str| access.authenticator(near()).check(Some(value));
        let principal = Principal::Token { id: token.id(), name: "ci".to_owned() };
        assert_eq!(check(&format!("bearer  {}", token.reveal())), Ok(principal));
        assert_eq!(check("Basic abc"), Err(AuthError::Malformed(TokenError::Form)));
        assert_eq!(check(token.reveal()), Err(AuthError::Malformed(TokenError::Form)));
        let stranger = Token::generate().unwrap();
        assert_eq!(check(&format!("Bearer {}", stranger.reveal())), Err(AuthError::Unknown));
        assert_eq!(access.authenticator(near()).check(None), Err(AuthError::Missing));
        assert_eq!(access.failures(), AuthFailures { missing: 1, malformed: 2, unknown: 1 });
    }

    #[test]
    fn the_right_id_with_another_secret_is_unknown() {
        let (access, token, _folder) = by_file();
        let stranger = Token::generate().unwrap();
        let text = stranger.reveal().replace(&stranger.id().to_string(), &token.id().to_string());
        let forged = token::with_right_checksum(&text);
        assert_eq!(forged.id(), token.id());
        let check =
            access.authenticator(near()).check(Some(&format!("Bearer {}", forged.reveal())));
        assert_eq!(check, Err(AuthError::Unknown));
    }

    #[test]
    fn reloading_takes_new_tokens_and_keeps_the_old_ones_on_an_error() {
        let (access, token, folder) = by_file();
        let path = folder.path().join("tokens.toml");
        let second = Token::generate().unwrap();
        append_token(&path, &TokenEntry::of(&second, "")).unwrap();
        assert_eq!(access.reload().unwrap(), 2);
        let header = format!("Bearer {}", second.reveal());
        assert!(access.authenticator(far()).check(Some(&header)).is_ok());
        std::fs::write(&path, "not toml").unwrap();
        assert!(access.reload().is_err());
        let header = format!("Bearer {}", token.reveal());
        assert!(access.authenticator(far()).check(Some(&header)).is_ok());
    }

    #[test]
    fn insecure_asks_nobody() {
        let settings =
            Settings { insecure_no_auth: true, grpc_listen: far(), ..Settings::default() };
        let access = Access::open(&settings).unwrap();
        assert_eq!(access.authenticator(far()).check(None), Ok(Principal::Anonymous));
        assert_eq!(access.summary(), "off (insecure-no-auth)");
    }
}
