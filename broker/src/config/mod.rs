//! The settings of `qbroker serve`: one table, four layers, typed values.
//!
//! [`SETTINGS`] names every setting once. Flags, environment, file and defaults are layered over
//! each other by [`Layers::resolve`], which remembers where each value came from; what the broker
//! reads is the plain [`Settings`].

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::queue::turn_bytes_max;

pub use self::flags::ServeFlags;
pub use self::layers::{ConfigError, Environment, Layers, Origin, Resolved, ResolvedRow};
pub use self::table::{Fallback, SETTINGS, Setting, find};
pub use self::value::bytes as parse_bytes;

mod flags;
mod layers;
mod reference;
mod table;
mod value;

pub use self::reference::reference_page;

/// What a segment and its frames take beside their records.
const SEGMENT_OVERHEAD_BYTES: u64 = 16 << 10;

/// Typed values of every setting, checked one by one and against each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The folder that holds everything the broker keeps.
    pub data_dir: PathBuf,
    /// Free disk space below which publishes are refused.
    pub disk_reserve: DiskReserve,
    /// What to do about a data folder that is damaged.
    pub when_damaged: WhenDamaged,
    /// Size of a log segment.
    pub segment_bytes: u32,
    /// Waiting messages that the index keeps in memory.
    pub messages_in_memory: u32,
    pub state_bytes_max: usize,
    /// Whether dead letters, delayed messages and outcomes can be found by their names.
    pub search_index: bool,
    /// How many names it holds.
    pub search_index_names: u64,
    /// Where gRPC listens; port 0 takes a free one.
    pub grpc_listen: SocketAddr,
    /// Where HTTP listens; `None` is off.
    pub http_listen: Option<SocketAddr>,
    /// Certificate chain for gRPC; set exactly where `tls_key` is.
    pub tls_cert: Option<PathBuf>,
    /// Private key of `tls_cert`.
    pub tls_key: Option<PathBuf>,
    /// File of accepted tokens.
    pub auth_tokens: Option<PathBuf>,
    /// Asks nobody for a token.
    pub insecure_no_auth: bool,
    /// Makes a missing queue on first use.
    pub auto_create_queues: bool,
    /// Largest payload of one message.
    pub payload_bytes_max: usize,
    /// Most messages in one publish batch.
    pub batch_messages_max: u32,
    /// Most bytes in one publish batch.
    pub batch_bytes_max: usize,
    /// Most gRPC connections at once.
    pub connections_max: u32,
    /// Most calls at once on one connection.
    pub streams_max: u32,
    /// Memory for what is not yet on disk or not yet sent.
    pub pending_bytes_max: usize,
    /// How long a stopping broker waits for running jobs.
    pub shutdown_grace: Duration,
    /// Level or filter of the log.
    pub log_level: String,
    /// How the log is written.
    pub log_format: LogFormat,
}

/// Free disk space to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskReserve {
    /// 5 % of the file system, at least 1 GiB and at most 5 GiB.
    Auto,
    /// So many bytes.
    Bytes(u64),
}

impl DiskReserve {
    /// The reserve on a file system of `total` bytes.
    pub fn bytes_of(self, total: u64) -> u64 {
        match self {
            // More would only keep a large disk, or a share of one, from its owner: what the broker
            // itself needs to drain is set aside in files.
            Self::Auto => (total / 20).clamp(1 << 30, 5 << 30),
            Self::Bytes(bytes) => bytes,
        }
    }
}

/// What a broker does that finds its confirmed data damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenDamaged {
    /// Ends with exit code 74.
    Exit,
    /// Serves nothing, touches nothing, and waits to be stopped.
    Wait,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, else JSON.
    Auto,
    /// One line of text per event.
    Text,
    /// One JSON object per line.
    Json,
}

impl Default for Settings {
    /// The defaults of the table, as they are on this machine.
    fn default() -> Self {
        let mut settings = Self::blank();
        for setting in SETTINGS {
            (setting.set)(&mut settings, &setting.default_text())
                .expect("a test sets every default");
        }
        settings
    }
}

impl Settings {
    /// Values nobody sees: every row of the table overwrites its own.
    fn blank() -> Self {
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            data_dir: PathBuf::new(),
            disk_reserve: DiskReserve::Auto,
            when_damaged: WhenDamaged::Exit,
            segment_bytes: 0,
            messages_in_memory: 0,
            state_bytes_max: 0,
            search_index: false,
            search_index_names: 0,
            grpc_listen: nowhere,
            http_listen: None,
            tls_cert: None,
            tls_key: None,
            auth_tokens: None,
            insecure_no_auth: false,
            auto_create_queues: false,
            payload_bytes_max: 0,
            batch_messages_max: 0,
            batch_bytes_max: 0,
            connections_max: 0,
            streams_max: 0,
            pending_bytes_max: 0,
            shutdown_grace: Duration::ZERO,
            log_level: String::new(),
            log_format: LogFormat::Auto,
        }
    }

    /// What no single setting can see: values that do not fit together.
    fn check(&self) -> Result<(), ConfigError> {
        let conflict = |text: &str| Err(ConfigError::Conflict(text.to_owned()));
        if self.tls_cert.is_some() != self.tls_key.is_some() {
            return conflict("tls-cert and tls-key belong together: set both or neither");
        }
        if self.insecure_no_auth && self.auth_tokens.is_some() {
            return conflict("insecure-no-auth and auth-tokens contradict each other: set one");
        }
        if self.batch_bytes_max < self.payload_bytes_max {
            return conflict(
                "max-batch-bytes is below max-payload: such a message would never fit",
            );
        }
        // A batch is one frame, and a frame must fit into half a segment.
        let turn = turn_bytes_max(self.batch_bytes_max, self.batch_messages_max as usize);
        let needed = 2 * turn as u64 + SEGMENT_OVERHEAD_BYTES;
        if u64::from(self.segment_bytes) < needed {
            let mib = needed.div_ceil(1 << 20);
            return Err(ConfigError::Conflict(format!(
                "segment-bytes must be at least {mib}MiB for this max-batch-bytes and \
                 max-batch-messages"
            )));
        }
        if self.pending_bytes_max < 2 * self.batch_bytes_max {
            return conflict("max-pending-bytes must be at least twice max-batch-bytes");
        }
        let same = |http: SocketAddr| http.port() != 0 && http == self.grpc_listen;
        if self.http_listen.is_some_and(same) {
            return conflict("grpc-listen and http-listen are the same address");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_a_value_of_its_setting_and_they_fit_together() {
        for setting in SETTINGS {
            let set = (setting.set)(&mut Settings::blank(), &setting.default_text());
            assert_eq!(set, Ok(()), "{}", setting.name);
        }
        assert!(Settings::default().check().is_ok());
    }

    #[test]
    fn values_that_do_not_fit_together_are_refused() {
        type Spoil = fn(&mut Settings);
        let broken: [(&str, Spoil); 7] = [
            ("tls-cert", |s| s.tls_cert = Some("c.pem".into())),
            ("contradict", |s| {
                s.insecure_no_auth = true;
                s.auth_tokens = Some("t".into());
            }),
            ("below max-payload", |s| s.batch_bytes_max = s.payload_bytes_max - 1),
            ("at least 18MiB", |s| s.segment_bytes = 16 << 20),
            ("at least 34MiB", |s| {
                s.batch_bytes_max = 15 << 20;
                s.batch_messages_max = 10_000;
                s.segment_bytes = 33 << 20;
            }),
            ("twice", |s| s.pending_bytes_max = s.batch_bytes_max),
            ("same address", |s| s.http_listen = Some(s.grpc_listen)),
        ];
        for (expected, spoil) in broken {
            let mut settings = Settings::default();
            spoil(&mut settings);
            let error = settings.check().expect_err(expected).to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn the_reserve_is_a_twentieth_from_one_gib_to_five() {
        assert_eq!(DiskReserve::Auto.bytes_of(10 << 30), 1 << 30);
        assert_eq!(DiskReserve::Auto.bytes_of(40 << 30), 2 << 30);
        assert_eq!(DiskReserve::Auto.bytes_of(1 << 40), 5 << 30);
        assert_eq!(DiskReserve::Bytes(5).bytes_of(200 << 30), 5);
    }
}
