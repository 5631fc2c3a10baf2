//! Every setting of `qbroker serve`, one row each: name, default, check and meaning.

use std::path::PathBuf;
use std::time::Duration;

use super::Settings;
use super::value;
use crate::telemetry;

/// One setting. Its flag is `--name`, its key in the file `name`, its variable `QBROKER_NAME`.
#[derive(Debug)]
pub struct Setting {
    /// The one name, in kebab case.
    pub name: &'static str,
    /// The heading it stands under.
    pub section: &'static str,
    /// What kind of value it takes, as `--help` shows it.
    pub takes: &'static str,
    /// What holds when nobody sets it.
    pub default: Fallback,
    /// What it does, its limits and its dangers; the first sentence stands alone.
    pub doc: &'static str,
    /// Left out of the short help.
    pub advanced: bool,
    /// Checks a text and stores its value; the error says what would be right.
    pub(super) set: fn(&mut Settings, &str) -> Result<(), String>,
}

/// A setting's default.
#[derive(Debug)]
pub enum Fallback {
    /// A value as one would write it.
    Text(&'static str),
    /// A value that depends on the machine, and how it is found.
    Computed(fn() -> String, &'static str),
}

impl Setting {
    /// The environment variable that sets it.
    pub fn variable(&self) -> String {
        format!("QBROKER_{}", self.name.to_uppercase().replace('-', "_"))
    }

    /// Whether it is a switch: its flag alone means `true`.
    pub fn is_switch(&self) -> bool {
        self.takes == SWITCH
    }

    /// The first sentence of the documentation.
    pub fn summary(&self) -> &'static str {
        self.doc.split_once(". ").map_or(self.doc, |(first, _)| first).trim_end_matches('.')
    }

    /// The value that holds on this machine when nobody sets it.
    pub fn default_text(&self) -> String {
        match self.default {
            Fallback::Text(text) => text.to_owned(),
            Fallback::Computed(find, _) => find(),
        }
    }
}

/// The row of `name`.
pub fn find(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.name == name)
}

const SWITCH: &str = "BOOL";
const STORAGE: &str = "Storage";
const LISTENERS: &str = "Listeners";
const ACCESS: &str = "Access";
const LIMITS: &str = "Limits";
const PROCESS: &str = "Process";

/// The largest payload: a frame of the log holds at most 32 MiB, and gRPC's own limit is 16 MiB.
const PAYLOAD_BYTES_CEILING: u64 = 12 << 20;

/// The largest batch: with its overhead it must stay below gRPC's message limit of 16 MiB.
const BATCH_BYTES_CEILING: u64 = 15 << 20;

/// Every setting, in the order in which the reference and `--help` show them.
pub static SETTINGS: &[Setting] = &[
    Setting {
        name: "data-dir",
        section: STORAGE,
        takes: "DIR",
        default: Fallback::Computed(
            default_data_dir,
            "`/var/lib/qbroker` where it exists or can be made, else `$XDG_STATE_HOME/qbroker`, \
             else `~/.local/state/qbroker`",
        ),
        doc: "The folder that holds everything the broker keeps. It is made with mode 0700 where \
              it is missing and locked while a broker runs; a second one is refused. A local file \
              system, please: locks and syncs of network file systems cannot be relied on.",
        advanced: false,
        set: |settings, text| {
            settings.data_dir = required_path(text)?;
            Ok(())
        },
    },
    Setting {
        name: "disk-reserve",
        section: STORAGE,
        takes: "SIZE",
        default: Fallback::Text("auto"),
        doc: "Free disk space below which publishes are refused with DISK_FULL. Settling, deleting \
              and purging still work then. `auto` is 5 % of the file system, at least 1 GiB and at \
              most 5 GiB.",
        advanced: false,
        set: |settings, text| {
            settings.disk_reserve = value::disk_reserve(text)?;
            Ok(())
        },
    },
    Setting {
        name: "when-damaged",
        section: STORAGE,
        takes: "exit|wait",
        default: Fallback::Text("exit"),
        doc: "What to do about a data folder whose confirmed data is damaged. `exit` ends with code \
              74; a supervisor must not start it again (systemd: RestartPreventExitStatus=74). \
              `wait` stays, serves nothing and touches nothing until it is stopped: for containers, \
              whose restart policies do not know exit codes. Either way `qbroker data verify` says \
              what is damaged.",
        advanced: true,
        set: |settings, text| {
            settings.when_damaged = value::when_damaged(text)?;
            Ok(())
        },
    },
    Setting {
        name: "messages-in-memory",
        section: STORAGE,
        takes: "N",
        default: Fallback::Text("65536"),
        doc: "How many waiting messages the broker knows by heart, at some 150 bytes each; what it \
              knows of the others is in the log, and read when their turn comes. From 1000 on.",
        advanced: true,
        set: |settings, text| {
            settings.messages_in_memory = value::count_within(text, 1_000, 100_000_000)?;
            Ok(())
        },
    },
    Setting {
        name: "state-memory",
        section: STORAGE,
        takes: "SIZE",
        default: Fallback::Text("64MiB"),
        doc: "The most memory for values, counters, permits and barriers, at some 250 to 500 bytes each \
              and twice the key, and for schedules with their messages; values themselves are on the \
              disk. What needs more is refused with LIMIT_REACHED. From 64KiB to 16GiB.",
        advanced: true,
        set: |settings, text| {
            settings.state_bytes_max = value::memory_within(text, 64 << 10, 16 << 30)?;
            Ok(())
        },
    },
    Setting {
        name: "search-index",
        section: STORAGE,
        takes: SWITCH,
        default: Fallback::Text("false"),
        doc: "Whether dead letters, delayed messages and outcomes can be found by message id, \
              correlation id and type (`qbroker message find`). The index is in the folder `search` \
              of the data folder, which may be deleted while no broker runs: it is filled again in \
              the background. Off, because its database takes memory: 30 MiB when it is empty, 50 with \
              100,000 names, 80 with a million, 100 with two, 200 with ten.",
        advanced: true,
        set: |settings, text| {
            settings.search_index = value::switch(text)?;
            Ok(())
        },
    },
    Setting {
        name: "search-index-names",
        section: STORAGE,
        takes: "N",
        default: Fallback::Text("2000000"),
        doc: "How many names the search index holds, up to three of a message, delayed messages \
              taking half of them at most; later ones are not found. Two million take 45 MiB of \
              disk, ten 215. From 1000 to 30000000.",
        advanced: true,
        set: |settings, text| {
            settings.search_index_names = value::count_within(text, 1_000, 30_000_000)?.into();
            Ok(())
        },
    },
    Setting {
        name: "segment-bytes",
        section: STORAGE,
        takes: "SIZE",
        default: Fallback::Text("64MiB"),
        doc: "The size of a log segment, from 4MiB to 1GiB; half of one must hold the largest \
              batch and what goes with it, so with the default `max-batch-bytes` it is at least \
              18MiB. Smaller ones are dropped sooner and cost more syncs; the default suits nearly \
              everybody. Existing segments keep theirs.",
        advanced: true,
        set: |settings, text| {
            let size = value::bytes_within(text, 4 << 20, 1 << 30)?;
            settings.segment_bytes = u32::try_from(size).expect("at most 1 GiB was just checked");
            Ok(())
        },
    },
    Setting {
        name: "grpc-listen",
        section: LISTENERS,
        takes: "IP:PORT",
        default: Fallback::Text("127.0.0.1:7650"),
        doc: "The address for gRPC: publishers, consumers and administration. Anything but \
              loopback requires a token, and should have TLS. Port 0 takes a free one, which the \
              start line of the log names.",
        advanced: false,
        set: |settings, text| {
            settings.grpc_listen = value::address(text)?;
            Ok(())
        },
    },
    Setting {
        name: "http-listen",
        section: LISTENERS,
        takes: "IP:PORT",
        default: Fallback::Text("127.0.0.1:7651"),
        doc: "The address for HTTP: `/livez`, `/readyz` and `/metrics`. Plain HTTP always. On \
              anything but loopback `/metrics` requires a token. Empty: no HTTP.",
        advanced: false,
        set: |settings, text| {
            let wanted = !text.trim().is_empty();
            settings.http_listen = wanted.then(|| value::address(text)).transpose()?;
            Ok(())
        },
    },
    Setting {
        name: "tls-cert",
        section: LISTENERS,
        takes: "FILE",
        default: Fallback::Text(""),
        doc: "The certificate chain for gRPC, PEM, the server's own first. Needs `tls-key`. Read \
              again on SIGHUP; a pair that does not fit is refused and the old one kept.",
        advanced: false,
        set: |settings, text| {
            settings.tls_cert = optional_path(text);
            Ok(())
        },
    },
    Setting {
        name: "tls-key",
        section: LISTENERS,
        takes: "FILE",
        default: Fallback::Text(""),
        doc: "The private key of `tls-cert`, PEM (PKCS#8, PKCS#1 or SEC1), without a passphrase.",
        advanced: false,
        set: |settings, text| {
            settings.tls_key = optional_path(text);
            Ok(())
        },
    },
    Setting {
        name: "auth-tokens",
        section: ACCESS,
        takes: "FILE",
        default: Fallback::Text(""),
        doc: "The file of accepted tokens, as `qbroker token create` writes it. It holds hashes \
              only. Where it is given a token is required on loopback, too. Read again on SIGHUP. \
              Without it a broker that listens beyond loopback makes one token at its first \
              start and writes it to `bootstrap-token` in the data folder.",
        advanced: false,
        set: |settings, text| {
            settings.auth_tokens = optional_path(text);
            Ok(())
        },
    },
    Setting {
        name: "insecure-no-auth",
        section: ACCESS,
        takes: SWITCH,
        default: Fallback::Text("false"),
        doc: "Lets everybody in who can reach the address. For closed test networks: whoever \
              connects can read, change and delete everything. Every start warns of it.",
        advanced: false,
        set: |settings, text| {
            settings.insecure_no_auth = value::switch(text)?;
            Ok(())
        },
    },
    Setting {
        name: "auto-create-queues",
        section: ACCESS,
        takes: SWITCH,
        default: Fallback::Text("true"),
        doc: "Makes a missing queue on the first publish to it or consume from it. Off: such calls \
              are refused with QUEUE_NOT_FOUND.",
        advanced: false,
        set: |settings, text| {
            settings.auto_create_queues = value::switch(text)?;
            Ok(())
        },
    },
    Setting {
        name: "max-payload",
        section: LIMITS,
        takes: "SIZE",
        default: Fallback::Text("4MiB"),
        doc: "The largest payload of one message, up to 12MiB. Larger things belong in an object \
              store, with their address in the message.",
        advanced: false,
        set: |settings, text| {
            settings.payload_bytes_max = value::memory_within(text, 1, PAYLOAD_BYTES_CEILING)?;
            Ok(())
        },
    },
    Setting {
        name: "max-batch-messages",
        section: LIMITS,
        takes: "COUNT",
        default: Fallback::Text("1000"),
        doc: "The most messages in one publish batch, up to 10000.",
        advanced: false,
        set: |settings, text| {
            settings.batch_messages_max = value::count_within(text, 1, 10_000)?;
            Ok(())
        },
    },
    Setting {
        name: "max-batch-bytes",
        section: LIMITS,
        takes: "SIZE",
        default: Fallback::Text("8MiB"),
        doc: "The most bytes in one publish batch, up to 15MiB; not less than `max-payload`.",
        advanced: false,
        set: |settings, text| {
            settings.batch_bytes_max = value::memory_within(text, 1, BATCH_BYTES_CEILING)?;
            Ok(())
        },
    },
    Setting {
        name: "max-connections",
        section: LIMITS,
        takes: "COUNT",
        default: Fallback::Text("4096"),
        doc: "The most gRPC connections at once; what comes beyond is closed. Each takes a file \
              descriptor, and all of them at most half of those allowed: mind `ulimit -n`.",
        advanced: false,
        set: |settings, text| {
            settings.connections_max = value::count_within(text, 1, 1_000_000)?;
            Ok(())
        },
    },
    Setting {
        name: "max-streams",
        section: LIMITS,
        takes: "COUNT",
        default: Fallback::Text("1024"),
        doc: "The most calls at once on one gRPC connection. Every waiting pull is one.",
        advanced: false,
        set: |settings, text| {
            settings.streams_max = value::count_within(text, 1, 100_000)?;
            Ok(())
        },
    },
    Setting {
        name: "max-pending-bytes",
        section: LIMITS,
        takes: "SIZE",
        default: Fallback::Text("64MiB"),
        doc: "Memory for messages that are not yet on disk or not yet sent, over all connections. \
              When it is used up publishers wait and deliveries pause; nothing is refused or lost. Four \
              times as much is for requests of 64 KiB and more, from their beginning until they are \
              answered, and once as much for those of consumers: beyond that such a one is refused with \
              LIMIT_REACHED, and comes again.",
        advanced: true,
        set: |settings, text| {
            settings.pending_bytes_max = value::memory_within(text, 16 << 20, 64 << 30)?;
            Ok(())
        },
    },
    Setting {
        name: "shutdown-grace",
        section: PROCESS,
        takes: "DURATION",
        default: Fallback::Text("30s"),
        doc: "How long a stopping broker waits for running jobs to settle. What is still leased \
              then stays leased over the restart. A second signal ends the wait. A supervisor \
              must wait longer than this before it kills.",
        advanced: false,
        set: |settings, text| {
            settings.shutdown_grace = value::duration_within(text, Duration::from_secs(3600))?;
            Ok(())
        },
    },
    Setting {
        name: "log-level",
        section: PROCESS,
        takes: "LEVEL",
        default: Fallback::Text("info"),
        doc: "What goes to the log (stderr): error, warn, info, debug or trace. A filter by module \
              works too: `info,qbroker::engine=debug`.",
        advanced: false,
        set: |settings, text| {
            telemetry::parse_level(text).map_err(|error| error.to_string())?;
            settings.log_level = text.to_owned();
            Ok(())
        },
    },
    Setting {
        name: "log-format",
        section: PROCESS,
        takes: "FORMAT",
        default: Fallback::Text("auto"),
        doc: "How the log is written: text, json, or auto. `auto` is text on a terminal, else JSON \
              with one object per line.",
        advanced: false,
        set: |settings, text| {
            settings.log_format = value::log_format(text)?;
            Ok(())
        },
    },
];

fn required_path(text: &str) -> Result<PathBuf, String> {
    optional_path(text).ok_or_else(|| "must not be empty".to_owned())
}

fn optional_path(text: &str) -> Option<PathBuf> {
    (!text.is_empty()).then(|| PathBuf::from(text))
}

/// Where the data goes when nobody says: the system's place, else the user's. Never the working
/// folder, which differs from one start to the next.
fn default_data_dir() -> String {
    const SYSTEM: &str = "/var/lib/qbroker";
    let can_make = || rustix::fs::access("/var/lib", rustix::fs::Access::WRITE_OK).is_ok();
    if std::path::Path::new(SYSTEM).is_dir() || can_make() {
        return SYSTEM.to_owned();
    }
    let absolute = |name: &str| std::env::var(name).ok().filter(|dir| dir.starts_with('/'));
    absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| format!("{home}/.local/state")))
        .map_or_else(|| SYSTEM.to_owned(), |state| format!("{state}/qbroker"))
}
