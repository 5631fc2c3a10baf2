//! How much is done in each run of a row, as it is asked for and as it is reported.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;

use crate::report::thousands;
use crate::system::Fallible;
use crate::workload::Load;

/// How much is done in one run of a row.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct LoadArgs {
    /// Ends each run after so many messages
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    messages: u64,
    /// Ends each run after so many seconds, where that is earlier
    #[arg(long, value_name = "S", default_value_t = 2.0, value_parser = seconds::<60>)]
    seconds: f64,
    /// Size of each message; of large ones fewer are in a request and in flight
    #[arg(long, value_name = "BYTES", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    payload: u32,
    /// Streams that share the work, each on a connection of its own. Default: one stream, and calls
    /// take turns on as many connections as the client makes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1_000))]
    connections: Option<u16>,
}

/// How the figures were taken; part of the report.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Settings {
    pub(crate) rounds: u32,
    pub(crate) messages_max: u64,
    pub(crate) seconds_max: f64,
    pub(crate) payload_bytes: u32,
    pub(crate) connections: Option<u16>,
    /// Whether this program, and so the floor and the clients, was built without optimisations.
    pub(crate) debug_build: bool,
}

impl LoadArgs {
    /// 1 KiB messages for so long.
    ///
    /// # Errors
    ///
    /// As of `--seconds`.
    pub(crate) fn lasting(length: f64) -> Fallible<Self> {
        let seconds = seconds::<60>(&length.to_string()).map_err(anyhow::Error::msg)?;
        Ok(Self { messages: 1_000_000, seconds, payload: 1024, connections: None })
    }

    pub(crate) fn payload_bytes(&self) -> usize {
        self.payload as usize
    }

    /// How many connections each client makes, where that is not its own choice.
    pub(crate) fn connections(&self) -> Option<usize> {
        self.connections.map(usize::from)
    }

    pub(crate) fn load(&self) -> Load {
        Load {
            payload: Bytes::from(vec![7; self.payload_bytes()]),
            messages_max: self.messages,
            duration_max: Duration::from_secs_f64(self.seconds),
            in_flight: None,
            streams: self.connections.unwrap_or(1),
        }
    }

    pub(crate) fn settings(&self, rounds: u32) -> Settings {
        Settings {
            rounds,
            messages_max: self.messages,
            seconds_max: self.seconds,
            payload_bytes: self.payload,
            connections: self.connections,
            debug_build: cfg!(debug_assertions),
        }
    }
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} rounds, in turns; a run ends after {} messages or {} s; {} byte payloads; client and \
             server on the same cores, over loopback",
            self.rounds,
            thousands(self.messages_max as f64),
            self.seconds_max,
            thousands(f64::from(self.payload_bytes))
        )?;
        match self.connections {
            Some(1) => write!(f, ", 1 connection"),
            Some(connections) => {
                write!(f, ", {connections} connections with a stream each for each stream named")
            }
            None => Ok(()),
        }
    }
}

/// Seconds, more than none and at most so many.
pub(crate) fn seconds<const MAX: u32>(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if 0.0 < seconds && seconds <= f64::from(MAX) => Ok(seconds),
        Ok(_) => Err(format!("must be more than 0 and at most {MAX}")),
        Err(_) => Err("must be a number of seconds".to_owned()),
    }
}
