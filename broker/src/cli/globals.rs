//! The flags that every command takes.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ColorChoice, ValueEnum};
use qbroker::exit::Exit;
use qbroker_client::Client;

use super::failure::Failure;
use super::output::Output;

/// Where the broker is, how to talk to it, and how to print what it says.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(super) struct Globals {
    /// The broker's gRPC address.
    #[arg(long, global = true, env = "QBROKER_URL", default_value = "http://127.0.0.1:7650")]
    pub(super) url: String,

    /// File that holds the token to send; QBROKER_TOKEN may hold the token itself.
    #[arg(long, global = true, value_name = "FILE", env = "QBROKER_TOKEN_FILE")]
    pub(super) token_file: Option<PathBuf>,

    /// Certificates to trust for https:// (PEM), instead of the system's.
    #[arg(long, global = true, value_name = "FILE", env = "QBROKER_CA_FILE")]
    pub(super) ca_file: Option<PathBuf>,

    /// How long the broker may take to answer.
    #[arg(long, global = true, value_name = "DURATION", env = "QBROKER_TIMEOUT",
          default_value = "10s", value_parser = humantime::parse_duration)]
    pub(super) timeout: Duration,

    /// How to print data; a table on a terminal, else plain, unless the command says otherwise.
    #[arg(short, long, global = true, value_name = "FORMAT", env = "QBROKER_OUTPUT")]
    pub(super) output: Option<Format>,

    /// No line of titles above tables and plain lists.
    #[arg(long, global = true)]
    pub(super) no_headers: bool,

    /// Do not ask before deleting.
    #[arg(short, long, global = true)]
    pub(super) yes: bool,

    /// Print data and errors only.
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(super) quiet: bool,

    /// Print what the client does; twice for every detail.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(super) verbose: u8,

    /// Whether to use colours.
    #[arg(long, global = true, value_name = "WHEN", env = "QBROKER_COLOR",
          default_value_t = ColorChoice::Auto)]
    pub(super) color: ColorChoice,
}

/// How data is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Columns for people.
    Table,
    /// One line per item, columns separated by tabs.
    Plain,
    /// One JSON document.
    Json,
    /// One JSON object per line.
    Jsonl,
}

impl Globals {
    /// Connects to the broker these flags name.
    ///
    /// # Errors
    /// Where a file cannot be read, the URL is none, or nobody answers.
    pub(super) async fn connect(&self) -> Result<Client, Failure> {
        let mut builder =
            Client::builder(&self.url).connect_timeout(self.timeout).request_timeout(self.timeout);
        if let Some(token) = self.token()? {
            builder = builder.token(token);
        }
        if let Some(pem) = self.ca()? {
            builder = builder.ca_certificate(pem);
        }
        Ok(builder.connect().await?)
    }

    /// The token: the file's where one is named, else the variable's.
    pub(super) fn token(&self) -> Result<Option<String>, Failure> {
        let token = match &self.token_file {
            Some(path) => Some(read(path)?),
            None => std::env::var("QBROKER_TOKEN").ok(),
        };
        Ok(token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty()))
    }

    /// The certificates to trust.
    pub(super) fn ca(&self) -> Result<Option<String>, Failure> {
        self.ca_file.as_deref().map(read).transpose()
    }

    /// The printer of lists and items.
    pub(super) fn output(&self) -> Output {
        Output::new(self.output, !self.no_headers)
    }

    /// Runs a client's command to its end.
    ///
    /// # Errors
    /// What the command returns, and where the runtime cannot start.
    pub(super) fn block_on<T>(
        &self,
        command: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        self.log()?;
        let runtime = tokio::runtime::Runtime::new()
            .map_err(|error| Failure::new(Exit::Internal, format!("cannot start: {error}")))?;
        let outcome = runtime.block_on(command);
        // What still runs in the background is of no use to anybody any more.
        runtime.shutdown_background();
        outcome
    }

    /// The client's own log, for `-v`.
    fn log(&self) -> Result<(), Failure> {
        let level = match (self.quiet, self.verbose) {
            (true, _) => "error",
            (false, 0) => "warn",
            (false, 1) => "info",
            (false, _) => "debug",
        };
        let set = qbroker::telemetry::init(level, qbroker::config::LogFormat::Text);
        set.map_err(|error| Failure::new(Exit::Internal, error.to_string()))
    }
}

fn read(path: &std::path::Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|error| {
        Failure::new(Exit::Config, format!("cannot read {}: {error}", path.display()))
    })
}
