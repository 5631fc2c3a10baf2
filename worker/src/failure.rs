//! How a job fails: any error, and what the worker thinks of it.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::time::Duration;

use qbroker_client::Failure;
use serde::Serialize;

use crate::output::JobOutput;

/// Any error.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// How a job ended: with what it returned, or with an error.
pub type JobResult = Result<JobOutput, JobError>;

/// An error of a job, with what is to be done about it.
///
/// Actors return errors of their own; the worker makes this of them. Middleware sees it, and makes
/// it.
#[derive(Debug)]
pub struct JobError {
    kind: Cow<'static, str>,
    source: BoxError,
    verdict: Verdict,
}

/// What is to be done about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// The job failed, and is tried again while retries are left.
    Retry {
        /// When; `None`: by the actor's backoff.
        delay: Option<Duration>,
    },
    /// No further attempt would mend it: to the dead-letter queue now.
    GiveUp,
    /// It was not done, and that is nobody's failure: handed back, counted as nothing.
    Release {
        /// When it comes again; `None`: at once.
        delay: Option<Duration>,
    },
    /// It need not be done: acked.
    Skip,
    /// The lease has ended: the message is, or will be, somebody else's.
    Lost,
}

impl JobError {
    /// An error that is retried, unless a [`Retry`], [`GiveUp`] or [`Release`] in its chain of sources
    /// says something else.
    pub fn new<E: Into<BoxError>>(error: E) -> Self {
        let mut kind = short_name(std::any::type_name::<E>());
        let source = error.into();
        let mut verdict = Verdict::Retry { delay: None };
        let mut next: Option<&(dyn Error + 'static)> = Some(&*source);
        while let Some(error) = next {
            if let Some(retry) = error.downcast_ref::<Retry>() {
                verdict = Verdict::Retry { delay: retry.delay };
                kind = retry.cause.as_ref().map_or(kind, |cause| cause.kind);
                break;
            }
            if let Some(given_up) = error.downcast_ref::<GiveUp>() {
                verdict = Verdict::GiveUp;
                kind = given_up.0.kind;
                break;
            }
            if let Some(release) = error.downcast_ref::<Release>() {
                verdict = Verdict::Release { delay: release.delay };
                break;
            }
            next = error.source();
        }
        Self { kind: Cow::Borrowed(kind), source, verdict }
    }

    /// An error of the worker or of a middleware.
    pub fn of_kind(
        kind: impl Into<Cow<'static, str>>,
        error: impl Into<BoxError>,
        verdict: Verdict,
    ) -> Self {
        Self { kind: kind.into(), source: error.into(), verdict }
    }

    /// The job need not be done: it is acked.
    pub fn skip(why: impl Into<BoxError>) -> Self {
        Self::of_kind("Skipped", why, Verdict::Skip)
    }

    /// The same error, for which no further attempt is made.
    #[must_use]
    pub fn give_up(mut self) -> Self {
        self.verdict = Verdict::GiveUp;
        self
    }

    /// The name of the error's type, `MailError` say; `Panic`, `TimeLimitExceeded` and the like where
    /// it is the worker's.
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// What is to be done about it.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// The error itself.
    #[must_use]
    pub fn error(&self) -> &(dyn Error + Send + Sync + 'static) {
        &*self.source
    }

    /// What the broker keeps of it: the kind, the message, and the causes as details.
    #[must_use]
    pub fn to_failure(&self) -> Failure {
        let mut details = String::new();
        let mut source = self.source.source();
        while let Some(cause) = source {
            details.push_str("caused by: ");
            details.push_str(&cause.to_string());
            details.push('\n');
            source = cause.source();
        }
        Failure::new(&*self.kind, self.source.to_string()).details(details)
    }
}

impl fmt::Display for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.source)
    }
}

/// What a job may return: nothing, or a result of any value that serde can write, with any error.
pub trait IntoJobResult {
    /// The worker's form of it.
    ///
    /// # Errors
    ///
    /// The job's.
    fn into_job_result(self) -> JobResult;
}

impl IntoJobResult for () {
    fn into_job_result(self) -> JobResult {
        Ok(JobOutput::none())
    }
}

impl<T: Serialize + 'static, E: IntoJobError> IntoJobResult for Result<T, E> {
    fn into_job_result(self) -> JobResult {
        let value = self.map_err(IntoJobError::into_job_error)?;
        JobOutput::new(&value)
    }
}

/// Any error, or one that is a [`JobError`] already.
pub trait IntoJobError {
    /// The worker's form of it.
    fn into_job_error(self) -> JobError;
}

impl<E: Into<BoxError>> IntoJobError for E {
    fn into_job_error(self) -> JobError {
        JobError::new(self)
    }
}

impl IntoJobError for JobError {
    fn into_job_error(self) -> JobError {
        self
    }
}

/// An error that says when the job is tried again. It counts as a retry.
///
/// ```
/// use std::time::Duration;
/// use qbroker_worker::{BoxError, Retry};
///
/// async fn charge(rate_limited: bool) -> Result<(), BoxError> {
///     if rate_limited {
///         return Err(Retry::after(Duration::from_secs(60)).into());
///     }
///     Ok(())
/// }
/// ```
#[derive(Debug)]
pub struct Retry {
    delay: Option<Duration>,
    cause: Option<Cause>,
}

impl Retry {
    /// Try again after this long, whatever the actor's backoff says.
    #[must_use]
    pub fn after(delay: Duration) -> Self {
        Self { delay: Some(delay), cause: None }
    }

    /// Adds why.
    #[must_use]
    pub fn because<E: Into<BoxError>>(mut self, error: E) -> Self {
        self.cause = Some(Cause::new(error));
        self
    }
}

impl fmt::Display for Retry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.cause, self.delay) {
            (Some(cause), _) => cause.error.fmt(f),
            (None, Some(delay)) => write!(f, "to be tried again in {delay:?}"),
            (None, None) => f.write_str("to be tried again"),
        }
    }
}

impl Error for Retry {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.cause.as_ref().and_then(|cause| cause.error.source())
    }
}

/// An error that no further attempt would mend: the message is dead-lettered at once.
///
/// ```
/// use qbroker_worker::{BoxError, GiveUp};
///
/// async fn charge(card_is_stolen: bool) -> Result<(), BoxError> {
///     if card_is_stolen {
///         return Err(GiveUp::because("the card is stolen").into());
///     }
///     Ok(())
/// }
/// ```
#[derive(Debug)]
pub struct GiveUp(Cause);

impl GiveUp {
    /// Why.
    #[must_use]
    pub fn because<E: Into<BoxError>>(error: E) -> Self {
        Self(Cause::new(error))
    }
}

impl fmt::Display for GiveUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.error.fmt(f)
    }
}

impl Error for GiveUp {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.error.source()
    }
}

/// An "error" that hands the job back: it was not done, counts as nothing, and takes its old place.
///
/// For a job that was told of a shutdown and stops early.
#[derive(Debug, Clone, Copy, Default, thiserror::Error)]
#[error("handed back")]
pub struct Release {
    delay: Option<Duration>,
}

impl Release {
    /// It may come again at once, here or elsewhere.
    #[must_use]
    pub fn now() -> Self {
        Self::default()
    }

    /// It comes again after this long.
    #[must_use]
    pub fn after(delay: Duration) -> Self {
        Self { delay: Some(delay) }
    }
}

/// An error and the name of its type.
#[derive(Debug)]
struct Cause {
    kind: &'static str,
    error: BoxError,
}

impl Cause {
    fn new<E: Into<BoxError>>(error: E) -> Self {
        Self { kind: short_name(std::any::type_name::<E>()), error: error.into() }
    }
}

/// `MailError` of `shop::mail::MailError`; `Error` of what is only text, or any error.
fn short_name(name: &'static str) -> &'static str {
    let plain = name.split('<').next().unwrap_or(name);
    match plain.rsplit("::").next().unwrap_or(plain) {
        "Box" | "String" | "&str" | "Cow" => "Error",
        word => word,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum MailError {
        #[error("the server is away")]
        Away(#[source] std::io::Error),
        #[error("later")]
        Later(#[source] Retry),
    }

    #[test]
    fn an_error_is_retried_and_told_with_its_causes() {
        let error = JobError::new(MailError::Away(std::io::Error::other("refused")));
        assert_eq!(error.verdict(), Verdict::Retry { delay: None });
        let told = Failure::new("MailError", "the server is away").details("caused by: refused\n");
        assert_eq!(error.to_failure(), told);
    }

    #[test]
    fn a_retry_deep_in_the_chain_says_when() {
        let minute = Duration::from_secs(60);
        let error = JobError::new(MailError::Later(Retry::after(minute)));
        assert_eq!(error.verdict(), Verdict::Retry { delay: Some(minute) });
        let error = JobError::new(Retry::after(minute).because(fmt::Error));
        assert_eq!(error.to_failure().kind, "Error");
        assert_eq!(error.verdict(), Verdict::Retry { delay: Some(minute) });
    }

    #[test]
    fn giving_up_keeps_the_name_of_the_error() {
        let boxed: BoxError = GiveUp::because(MailError::Away(std::io::Error::other("?"))).into();
        let error = JobError::new(boxed);
        assert_eq!((error.kind(), error.verdict()), ("MailError", Verdict::GiveUp));
        assert_eq!(error.to_string(), "MailError: the server is away");
    }

    #[test]
    fn names_are_short() {
        for (name, short) in [
            ("shop::mail::MailError", "MailError"),
            ("alloc::string::String", "Error"),
            ("alloc::boxed::Box<dyn core::error::Error + core::marker::Send>", "Error"),
            ("shop::Either<shop::A, shop::B>", "Either"),
            ("&str", "Error"),
        ] {
            assert_eq!(short_name(name), short);
        }
    }
}
