//! What a token looks like: a prefix scanners know, an id, a secret, a checksum.
//!
//! `qbt_<id: 8>_<secret: 43>_<checksum: 6>`, all base 62. The id may be logged and names the token
//! in a file; the secret has 256 bits, so that one fast hash of the whole is safe to store; the
//! checksum tells a slip of the hand from a wrong token, without asking anybody.

use std::fmt;

use subtle::ConstantTimeEq as _;

const PREFIX: &str = "qbt";
const ID_CHARACTERS: usize = 8;
/// 62^43 is above 2^256.
const SECRET_CHARACTERS: usize = 43;
/// 62^6 is above 2^32.
const CHECKSUM_CHARACTERS: usize = 6;
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A token in the clear. Printed once, when it is made; never by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

/// The public part of a token: names it in files, logs and metrics.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TokenId(String);

/// What is stored of a token: BLAKE3 of the whole text.
#[derive(Clone)]
pub struct TokenHash([u8; 32]);

/// Why a text is not a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not of the form.
    #[error("not a qbroker token: it looks like qbt_<id>_<secret>_<checksum>")]
    Form,
    /// Of the form, but the checksum does not fit.
    #[error("the token is incomplete or mistyped: its checksum does not fit")]
    Checksum,
}

impl Token {
    /// Makes a token from the system's randomness.
    ///
    /// # Errors
    /// Where the system has no randomness to give.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let id = random_characters(ID_CHARACTERS)?;
        let secret = random_characters(SECRET_CHARACTERS)?;
        let body = format!("{PREFIX}_{id}_{secret}");
        let checksum = checksum(&body);
        Ok(Self(format!("{body}_{checksum}")))
    }

    /// Reads a token; blanks around it are ignored.
    ///
    /// # Errors
    /// Where `text` is not of the form or was mistyped.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        let (body, given) = text.rsplit_once('_').ok_or(TokenError::Form)?;
        let mut parts = body.split('_');
        let prefix = parts.next().ok_or(TokenError::Form)?;
        let id = parts.next().ok_or(TokenError::Form)?;
        let secret = parts.next().ok_or(TokenError::Form)?;
        let whole = prefix == PREFIX
            && is_base62(id, ID_CHARACTERS)
            && is_base62(secret, SECRET_CHARACTERS)
            && is_base62(given, CHECKSUM_CHARACTERS)
            && parts.next().is_none();
        if !whole {
            return Err(TokenError::Form);
        }
        if checksum(body) != given {
            return Err(TokenError::Checksum);
        }
        Ok(Self(text.to_owned()))
    }

    /// Its public part.
    pub fn id(&self) -> TokenId {
        let start = PREFIX.len() + 1;
        TokenId(self.0[start..start + ID_CHARACTERS].to_owned())
    }

    /// What to store of it.
    pub fn hash(&self) -> TokenHash {
        TokenHash(*blake3::hash(self.0.as_bytes()).as_bytes())
    }

    /// The secret text, to be shown to the person it was made for.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({}, ...)", self.id())
    }
}

impl TokenId {
    /// Reads an id as a token file holds it.
    pub fn parse(text: &str) -> Option<Self> {
        is_base62(text, ID_CHARACTERS).then(|| Self(text.to_owned()))
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TokenHash {
    const PREFIX: &str = "blake3:";

    /// Reads a hash as a token file holds it: `blake3:` and 64 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let hash = blake3::Hash::from_hex(text.strip_prefix(Self::PREFIX)?).ok()?;
        Some(Self(*hash.as_bytes()))
    }

    /// Whether `token` is the one this was made of, in time that does not depend on either.
    pub fn fits(&self, token: &Token) -> bool {
        self.0.ct_eq(&token.hash().0).into()
    }
}

impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", Self::PREFIX, blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenHash(..)")
    }
}

fn is_base62(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

fn random_characters(count: usize) -> Result<String, getrandom::Error> {
    /// The largest multiple of 62 in a byte: what lies above would favour the first characters.
    const FAIR: u8 = 248;
    let mut text = String::with_capacity(count);
    let mut bytes = [0; 64];
    while text.len() < count {
        getrandom::fill(&mut bytes)?;
        let fair = bytes.iter().filter(|&&byte| byte < FAIR);
        let characters = fair.map(|byte| char::from(ALPHABET[usize::from(byte % 62)]));
        text.extend(characters.take(count - text.len()));
    }
    Ok(text)
}

fn checksum(body: &str) -> String {
    let mut rest = crc32fast::hash(body.as_bytes());
    let mut digits = [0; CHECKSUM_CHARACTERS];
    for digit in digits.iter_mut().rev() {
        *digit = ALPHABET[(rest % 62) as usize];
        rest /= 62;
    }
    digits.into_iter().map(char::from).collect()
}

/// The token that `text` would be, had its checksum been made for it.
#[cfg(test)]
pub(super) fn with_right_checksum(text: &str) -> Token {
    let (body, _) = text.rsplit_once('_').expect("a token has four parts");
    Token(format!("{body}_{}", checksum(body)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made once; its form must be read for ever.
    const KNOWN: &str = "qbt_0a1b2c3d_0000000000111111111122222222223333333333444_0cUUFw";

    #[test]
    fn a_token_reads_back_and_fits_its_own_hash_only() {
        let token = Token::generate().unwrap();
        let other = Token::generate().unwrap();
        let read = Token::parse(&format!(" {}\n", token.reveal())).unwrap();
        assert_eq!(read, token);
        let stored = TokenHash::parse(&token.hash().to_string()).unwrap();
        assert!(stored.fits(&token));
        assert!(!stored.fits(&other));
        assert_ne!(token.id(), other.id());
    }

    #[test]
    fn every_single_slip_is_noticed() {
        let token = Token::generate().unwrap();
        let text = token.reveal();
        for position in 0..text.len() {
            let mut slip = text.as_bytes().to_vec();
            slip[position] = if slip[position] == b'x' { b'y' } else { b'x' };
            let slip = String::from_utf8(slip).unwrap();
            assert!(Token::parse(&slip).is_err(), "{slip}");
        }
        assert_eq!(Token::parse(&text[..text.len() - 1]), Err(TokenError::Form));
        assert_eq!(Token::parse(&format!("{text}_1")), Err(TokenError::Form));
        assert_eq!(Token::parse(""), Err(TokenError::Form));
    }

    #[test]
    fn the_form_does_not_change() {
        let token = Token::parse(KNOWN).unwrap();
        assert_eq!(token.id(), TokenId("0a1b2c3d".to_owned()));
        let hash = token.hash().to_string();
        assert!(hash.starts_with("blake3:") && hash.len() == 71, "{hash}");
    }

    #[test]
    fn debug_does_not_show_the_secret() {
        let token = Token::parse(KNOWN).unwrap();
        assert_eq!(format!("{token:?}"), "Token(0a1b2c3d, ...)");
        assert_eq!(format!("{:?}", token.hash()), "TokenHash(..)");
    }
}
