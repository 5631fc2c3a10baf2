//! The process's log: set up once, text for people and JSON for machines, always on stderr.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::LogFormat;

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The level is not one of tracing's, nor a list of filters.
    #[error(
        "log level {level:?} is not understood ({reason}): use error, warn, info, debug, trace"
    )]
    Level {
        /// What was given.
        level: String,
        /// What the parser said.
        reason: String,
    },
    /// Somebody in this process had set up logging before.
    #[error("logging is already set up: {0}")]
    Twice(String),
}

/// Sends the process's log to stderr, at `level` (a level, or a filter such as `info,qbroker=debug`).
///
/// # Errors
/// Where `level` does not parse, and where logging is set up already.
pub fn init(level: &str, format: LogFormat) -> Result<(), TelemetryError> {
    let filter = parse_level(level)?;
    let text = match format {
        LogFormat::Text => true,
        LogFormat::Json => false,
        LogFormat::Auto => std::io::stderr().is_terminal(),
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let set = if text {
        builder.with_target(false).with_ansi(colours_wanted()).finish().try_init()
    } else {
        builder.json().flatten_event(true).finish().try_init()
    };
    set.map_err(|error| TelemetryError::Twice(error.to_string()))
}

/// Checks a level as `init` will read it.
///
/// # Errors
/// Where `level` does not parse.
pub fn parse_level(level: &str) -> Result<EnvFilter, TelemetryError> {
    let filter = EnvFilter::builder().parse(level).map_err(|error| error.to_string());
    let filter = match filter {
        // A bare word that is no level parses as the name of a target: surely a slip.
        Ok(_) if is_unknown_word(level) => Err("no such level".to_owned()),
        other => other,
    };
    filter.map_err(|reason| TelemetryError::Level { level: level.to_owned(), reason })
}

fn is_unknown_word(level: &str) -> bool {
    let bare = level.is_empty() || !level.contains(['=', ',', '[', ':']);
    let known = !level.is_empty() && level.parse::<LevelFilter>().is_ok();
    bare && !known
}

/// Colours only for a person at a terminal who has not declined them (<https://no-color.org>).
fn colours_wanted() -> bool {
    let declined = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !declined && std::io::stderr().is_terminal()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_filters_parse_and_slips_do_not() {
        for good in ["info", "WARN", "off", "info,qbroker=debug", "qbroker::engine=trace"] {
            assert!(parse_level(good).is_ok(), "{good}");
        }
        for bad in ["", "inof", "verbose", "qbroker=loud"] {
            let error = parse_level(bad).expect_err(bad).to_string();
            assert!(error.contains(&format!("{bad:?}")), "{error}");
        }
    }
}
