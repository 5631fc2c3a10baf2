//! What a job returns.

use std::any::TypeId;

use bytes::Bytes;
use serde::Serialize;

use crate::failure::{JobError, Verdict};

/// What a job returned, as JSON: kept as its result, told to its callbacks, given to the next step of
/// its pipeline.
///
/// Middleware that answers in place of the work makes one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobOutput(Option<Bytes>);

impl JobOutput {
    /// Nothing: `null`.
    #[must_use]
    pub fn none() -> Self {
        Self(None)
    }

    /// This value.
    ///
    /// # Errors
    ///
    /// It cannot be written as JSON, which another attempt would not mend.
    pub fn new<T: Serialize + 'static>(value: &T) -> Result<Self, JobError> {
        // Most jobs return nothing, and pay nothing for that.
        if TypeId::of::<T>() == TypeId::of::<()>() {
            return Ok(Self::none());
        }
        match serde_json::to_vec(value) {
            Ok(json) => Ok(Self(Some(json.into()))),
            Err(error) => Err(JobError::of_kind("ResultNotEncoded", error, Verdict::GiveUp)),
        }
    }

    /// It as JSON.
    #[must_use]
    pub fn json(&self) -> &str {
        let json = self.0.as_deref().unwrap_or(b"null");
        std::str::from_utf8(json).expect("JSON is written as UTF-8")
    }
}
