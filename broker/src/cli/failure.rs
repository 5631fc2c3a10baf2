//! Why a command failed, and the exit code that says so.

use std::io;

use qbroker::exit::Exit;
use qbroker_client::{Error, Reason};

/// A command that could not do what it was asked.
#[derive(Debug)]
pub(super) struct Failure {
    exit: Exit,
    message: String,
}

impl Failure {
    /// A failure that ends with `exit` and says `message`.
    pub(super) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }

    /// The same, of `what`.
    pub(super) fn of(self, what: &str) -> Self {
        Self { message: format!("{what}: {}", self.message), ..self }
    }

    /// How it ends.
    #[cfg(test)]
    pub(super) fn exit(&self) -> Exit {
        self.exit
    }

    /// Tells the person, unless there is nothing to tell, and how it ends.
    pub(super) fn report(&self) -> Exit {
        if !self.message.is_empty() {
            say(&self.message);
        }
        self.exit
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

/// One line on stderr under the program's name: what is neither data nor log.
pub(super) fn say(text: &str) {
    use std::io::Write as _;
    // Nobody is left to be told that stderr is gone.
    writeln!(io::stderr(), "qbroker: {text}").ok();
}

/// What could not be written to stdout. A reader that has seen enough is no failure.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::new(Exit::Ok, "");
        }
        Self::new(Exit::Unavailable, format!("cannot write the output: {error}"))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::new(exit_of(&error), hint(&error))
    }
}

/// The client's message, and what to do about it where that is not plain.
fn hint(error: &Error) -> String {
    match (error, error.reason()) {
        (Error::Refused(refusal), _) if refusal.metadata.contains_key("stranger") => {
            format!("{}; look for the broker: {PORTS} {FLAG}", refusal.message)
        }
        (_, Some(Reason::Unauthenticated)) => format!(
            "{error}; give a token with --token-file or QBROKER_TOKEN (a broker's first one is in \
             bootstrap-token in its data folder)"
        ),
        (Error::Disconnected(why), _) => format!("{error}; {}", unreached(why)),
        _ => error.to_string(),
    }
}

/// What to look at where no broker answers at a URL.
pub(super) fn unreached(url: &str) -> String {
    let tls = match url.starts_with("https://") {
        true => ", and without TLS its URL begins with http://",
        false => "",
    };
    format!("is the broker running there? {PORTS}{tls} {FLAG}")
}

const PORTS: &str = "its gRPC port is 7650 by default, 7651 is for HTTP";

/// How it is said where the broker is.
const FLAG: &str = "(--url, QBROKER_URL)";

fn exit_of(error: &Error) -> Exit {
    match error {
        Error::Refused(refusal) => exit_of_reason(&refusal.reason, refusal.retryable),
        Error::Disconnected(_) => Exit::Unavailable,
        Error::TimedOut(_) | Error::OutcomeUnknown(_) => Exit::TryLater,
        Error::LeaseLost(_) => Exit::Data,
        Error::Option(_) => Exit::Usage,
        // Also what a newer client may add.
        _ => Exit::Internal,
    }
}

fn exit_of_reason(reason: &Reason, retryable: bool) -> Exit {
    match reason {
        Reason::Unauthenticated | Reason::PermissionDenied => Exit::NotPermitted,
        Reason::FeatureUnsupported => Exit::Unavailable,
        Reason::Internal => Exit::Internal,
        Reason::DataDamaged => Exit::Damaged,
        _ if retryable => Exit::TryLater,
        _ => Exit::Data,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn each_kind_of_error_has_its_exit_code() {
        let exit = |error: Error| Failure::from(error).exit();
        assert_eq!(exit(Error::Disconnected("x".to_owned())), Exit::Unavailable);
        assert_eq!(exit(Error::TimedOut(Duration::ZERO)), Exit::TryLater);
        assert_eq!(exit(Error::Option("url".to_owned())), Exit::Usage);
        assert_eq!(exit(Error::LeaseLost("l".to_owned())), Exit::Data);
        assert_eq!(exit(Error::Protocol("p".to_owned())), Exit::Internal);
        assert_eq!(exit_of_reason(&Reason::QueueNotFound, false), Exit::Data);
        assert_eq!(exit_of_reason(&Reason::DiskFull, true), Exit::TryLater);
        assert_eq!(exit_of_reason(&Reason::Unauthenticated, false), Exit::NotPermitted);
        assert_eq!(exit_of_reason(&Reason::FeatureUnsupported, false), Exit::Unavailable);
    }

    #[test]
    fn who_reaches_no_broker_is_told_what_to_look_at() {
        let told = |why: &str| hint(&Error::Disconnected(why.to_owned()));
        let plain = told("http://b:7651: stream closed");
        for word in ["http://b:7651: ", "is the broker running there?", "7650", "--url"] {
            assert!(plain.contains(word), "{word}: {plain}");
        }
        assert!(!plain.contains("TLS"), "{plain}");
        let secure = told("https://b:7650: received corrupt message");
        assert!(secure.contains("without TLS its URL begins with http://"), "{secure}");
    }

    #[test]
    fn a_reader_that_has_seen_enough_is_no_failure() {
        let failure = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!((failure.exit(), failure.message.as_str()), (Exit::Ok, ""));
    }
}
