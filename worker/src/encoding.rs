//! How a job's arguments become the payload of a message.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::failure::BoxError;

/// Turns arguments into bytes and back.
///
/// ```
/// use qbroker_worker::{BoxError, Encoding};
/// # mod postcard {
/// #   pub fn to_allocvec<T: serde::Serialize>(v: &T) -> Result<Vec<u8>, serde_json::Error> { serde_json::to_vec(v) }
/// #   pub fn from_bytes<T: serde::de::DeserializeOwned>(b: &[u8]) -> Result<T, serde_json::Error> { serde_json::from_slice(b) }
/// # }
///
/// struct Postcard;
///
/// impl Encoding for Postcard {
///     const CONTENT_TYPE: &'static str = "application/x-postcard";
///
///     fn encode<T: serde::Serialize>(arguments: &T) -> Result<Vec<u8>, BoxError> {
///         Ok(postcard::to_allocvec(arguments)?)
///     }
///
///     fn decode<T: serde::de::DeserializeOwned>(payload: &[u8]) -> Result<T, BoxError> {
///         Ok(postcard::from_bytes(payload)?)
///     }
/// }
/// ```
///
/// Then `#[actor(encoding = Postcard)]`.
pub trait Encoding {
    /// What messages say that they hold. A message that says something else is not decoded; one that
    /// says nothing is.
    const CONTENT_TYPE: &'static str;

    /// The payload of these arguments.
    ///
    /// # Errors
    ///
    /// They cannot be encoded: the job is not sent.
    fn encode<T: Serialize>(arguments: &T) -> Result<Vec<u8>, BoxError>;

    /// The arguments in this payload.
    ///
    /// # Errors
    ///
    /// There are none: the message is dead-lettered with this reason.
    fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<T, BoxError>;
}

/// JSON objects, an argument a key: `{"user_id": 123, "email": "user@example.com"}`. The default.
///
/// An argument that is an `Option` may be missing, and keys that are no arguments are passed over: so
/// arguments can be added and taken away while messages wait.
#[derive(Debug, Clone, Copy)]
pub struct Json;

impl Encoding for Json {
    const CONTENT_TYPE: &'static str = "application/json";

    fn encode<T: Serialize>(arguments: &T) -> Result<Vec<u8>, BoxError> {
        Ok(serde_json::to_vec(arguments)?)
    }

    fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<T, BoxError> {
        Ok(serde_json::from_slice(payload)?)
    }
}
