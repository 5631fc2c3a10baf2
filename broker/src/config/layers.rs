//! Layers flags over environment over file over defaults, and remembers which one won.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::{SETTINGS, Setting, Settings};

/// Variables that start with `QBROKER_` and are not settings of the server.
const OTHER_VARIABLES: [&str; 9] = [
    "QBROKER_CONFIG",
    "QBROKER_URL",
    "QBROKER_TOKEN",
    "QBROKER_TOKEN_FILE",
    "QBROKER_CA_FILE",
    "QBROKER_TIMEOUT",
    "QBROKER_OUTPUT",
    "QBROKER_COLOR",
    "QBROKER_SLOW",
];

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}: {source}", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{}:{line}: not TOML: {reason}", path.display())]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// What the parser said.
        reason: String,
    },
    /// The file sets what does not exist.
    #[error("{}:{line}: there is no setting {key:?}; `qbroker config defaults` lists them all", path.display())]
    UnknownKey {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// What stands there.
        key: String,
    },
    /// A value is not what its setting takes.
    #[error("{name} is {value:?} ({origin}): {reason}")]
    Bad {
        /// The setting.
        name: &'static str,
        /// What was given.
        value: String,
        /// Where it was given.
        origin: Origin,
        /// What would be right.
        reason: String,
    },
    /// Values that do not fit together.
    #[error("{0}")]
    Conflict(String),
    /// A variable holds bytes that are no text.
    #[error("the environment variable {0} is not valid UTF-8")]
    NotText(String),
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The command line.
    Flag,
    /// This environment variable.
    Variable(String),
    /// This line of this file.
    File(PathBuf, usize),
    /// Nobody set it.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("flag"),
            Self::Variable(name) => write!(f, "env {name}"),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

/// The `QBROKER_...` variables of a process.
#[derive(Clone, Debug, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// Those of this process.
    ///
    /// # Errors
    /// Where one of them is not valid UTF-8.
    pub fn of_process() -> Result<Self, ConfigError> {
        let mut variables = BTreeMap::new();
        for (name, value) in std::env::vars_os() {
            let Some(name) = name.to_str().filter(|name| name.starts_with("QBROKER_")) else {
                continue;
            };
            let value = value.into_string();
            let value = value.map_err(|_| ConfigError::NotText(name.to_owned()))?;
            variables.insert(name.to_owned(), value);
        }
        Ok(Self(variables))
    }

    /// Variables that look like settings and are none: surely slips.
    fn unknown(&self) -> Vec<String> {
        let known = |name: &str| {
            let setting = SETTINGS.iter().any(|setting| setting.variable() == name);
            // `consume --exec` hands these to its commands.
            setting || OTHER_VARIABLES.contains(&name) || name.starts_with("QBROKER_MESSAGE_")
        };
        self.0.keys().filter(|name| !known(name)).cloned().collect()
    }
}

impl FromIterator<(String, String)> for Environment {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(variables: I) -> Self {
        Self(variables.into_iter().collect())
    }
}

/// What may set a setting, in falling order of precedence; defaults come last by themselves.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    /// Values given as flags, by setting.
    pub flags: BTreeMap<&'static str, String>,
    /// Values given as variables.
    pub environment: Environment,
    /// The file, where one was named.
    pub file: Option<PathBuf>,
}

/// One setting as it came out.
#[derive(Debug)]
pub struct ResolvedRow {
    /// Which setting.
    pub setting: &'static Setting,
    /// The value, as it was written.
    pub text: String,
    /// Who said so.
    pub origin: Origin,
}

/// The settings, and where each came from.
#[derive(Debug)]
pub struct Resolved {
    /// What the broker reads.
    pub settings: Settings,
    /// One row per setting, in the table's order.
    pub rows: Vec<ResolvedRow>,
    /// Variables that start with `QBROKER_` and mean nothing.
    pub unknown_variables: Vec<String>,
}

impl Layers {
    /// Takes each setting from the first layer that has it, and checks the whole.
    ///
    /// # Errors
    /// Where the file cannot be read or names an unknown key, where a value is not what its
    /// setting takes, and where values contradict each other.
    pub fn resolve(mut self) -> Result<Resolved, ConfigError> {
        let mut file = match &self.file {
            Some(path) => read_file(path)?,
            None => BTreeMap::new(),
        };
        let unknown_variables = self.environment.unknown();
        let mut settings = Settings::blank();
        let mut rows = Vec::with_capacity(SETTINGS.len());
        for setting in SETTINGS {
            let (text, origin) = self.take(setting, &mut file);
            (setting.set)(&mut settings, &text).map_err(|reason| ConfigError::Bad {
                name: setting.name,
                value: text.clone(),
                origin: origin.clone(),
                reason,
            })?;
            rows.push(ResolvedRow { setting, text, origin });
        }
        settings.check()?;
        Ok(Resolved { settings, rows, unknown_variables })
    }

    fn take(&mut self, setting: &Setting, file: &mut FileValues) -> (String, Origin) {
        if let Some(text) = self.flags.remove(setting.name) {
            return (text, Origin::Flag);
        }
        let variable = setting.variable();
        if let Some(text) = self.environment.0.remove(&variable) {
            return (text, Origin::Variable(variable));
        }
        file.remove(setting.name).unwrap_or_else(|| (setting.default_text(), Origin::Default))
    }
}

type FileValues = BTreeMap<&'static str, (String, Origin)>;

fn read_file(path: &Path) -> Result<FileValues, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    let table = DeTable::parse(&text).map_err(|error| ConfigError::Syntax {
        path: path.to_owned(),
        line: error.span().map_or(1, |span| line_of(&text, span.start)),
        reason: error.message().to_owned(),
    })?;
    let mut values = FileValues::new();
    for (key, value) in table.get_ref() {
        let line = line_of(&text, key.span().start);
        let Some(setting) = super::find(key.get_ref()) else {
            let key = key.get_ref().to_string();
            return Err(ConfigError::UnknownKey { path: path.to_owned(), line, key });
        };
        let origin = Origin::File(path.to_owned(), line);
        let value = scalar(value.get_ref()).map_err(|found| ConfigError::Bad {
            name: setting.name,
            value: text[value.span()].to_owned(),
            origin: origin.clone(),
            reason: format!("must be a string, an integer or a boolean, not {found}"),
        })?;
        values.insert(setting.name, (value, origin));
    }
    Ok(values)
}

/// The value as a flag would give it; else what it is instead.
fn scalar(value: &DeValue<'_>) -> Result<String, &'static str> {
    match value {
        DeValue::String(text) => Ok(text.to_string()),
        DeValue::Integer(number) if number.radix() == 10 => Ok(number.as_str().to_owned()),
        DeValue::Boolean(value) => Ok(value.to_string()),
        DeValue::Integer(_) => Err("a hexadecimal, octal or binary number"),
        DeValue::Float(_) => Err("a fraction"),
        DeValue::Datetime(_) => Err("a date"),
        DeValue::Array(_) => Err("an array"),
        DeValue::Table(_) => Err("a table"),
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text[..offset.min(text.len())].matches('\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    fn environment(variables: &[(&str, &str)]) -> Environment {
        variables.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    fn refusal(text: &str) -> String {
        let file = file(text);
        let layers = Layers { file: Some(file.path().to_owned()), ..Layers::default() };
        let error = layers.resolve().expect_err("must be refused").to_string();
        error.replace(&file.path().display().to_string(), "FILE")
    }

    #[test]
    fn the_first_layer_that_has_a_value_wins_and_is_named() {
        let file = file("# mine\nmax-streams = 1\nmax-payload = \"1KiB\"\nmax-connections = 7\n");
        let layers = Layers {
            flags: BTreeMap::from([("max-streams", "3".to_owned())]),
            environment: environment(&[
                ("QBROKER_MAX_STREAMS", "2"),
                ("QBROKER_MAX_CONNECTIONS", "8"),
            ]),
            file: Some(file.path().to_owned()),
        };
        let resolved = layers.resolve().unwrap();
        let origin = |name: &str| {
            let row = resolved.rows.iter().find(|row| row.setting.name == name).unwrap();
            row.origin.clone()
        };
        assert_eq!(resolved.settings.streams_max, 3);
        assert_eq!(origin("max-streams"), Origin::Flag);
        assert_eq!(resolved.settings.connections_max, 8);
        let variable = Origin::Variable("QBROKER_MAX_CONNECTIONS".to_owned());
        assert_eq!(origin("max-connections"), variable);
        assert_eq!(resolved.settings.payload_bytes_max, 1024);
        assert_eq!(origin("max-payload"), Origin::File(file.path().to_owned(), 3));
        assert_eq!(origin("shutdown-grace"), Origin::Default);
    }

    #[test]
    fn a_file_is_refused_with_the_line_that_is_wrong() {
        assert_eq!(
            refusal("max-streams = 9\n\nmax-stream = 9\n"),
            "FILE:3: there is no setting \"max-stream\"; `qbroker config defaults` lists them all"
        );
        assert!(refusal("[limits]\nmax-streams = 9\n").starts_with("FILE:1: there is no setting"));
        assert!(refusal("max-streams = 9\nmax-streams = 8\n").starts_with("FILE:2: not TOML"));
        assert!(refusal("log-level = info\n").starts_with("FILE:1: not TOML"));
        assert_eq!(
            refusal("\nmax-payload = [1]\n"),
            "max-payload is \"[1]\" (FILE:2): must be a string, an integer or a boolean, not an array"
        );
        assert_eq!(
            refusal("max-payload = \"0\"\n"),
            "max-payload is \"0\" (FILE:1): must be from 1B to 12MiB"
        );
    }

    #[test]
    fn a_missing_file_is_an_error_with_its_name() {
        let layers = Layers { file: Some("/nowhere/q.toml".into()), ..Layers::default() };
        let error = layers.resolve().expect_err("no such file").to_string();
        assert!(error.starts_with("cannot read the configuration file /nowhere/q.toml: "));
    }

    #[test]
    fn a_wrong_variable_is_named() {
        let variables = environment(&[("QBROKER_GRPC_LISTEN", "everywhere")]);
        let layers = Layers { environment: variables, ..Layers::default() };
        let error = layers.resolve().expect_err("no address").to_string();
        assert!(error.starts_with("grpc-listen is \"everywhere\" (env QBROKER_GRPC_LISTEN): "));
    }

    #[test]
    fn an_empty_http_address_turns_http_off() {
        let variables = environment(&[("QBROKER_HTTP_LISTEN", "")]);
        let layers = Layers { environment: variables, ..Layers::default() };
        assert_eq!(layers.resolve().unwrap().settings.http_listen, None);
    }

    #[test]
    fn variables_that_mean_nothing_are_reported() {
        let variables = environment(&[
            ("QBROKER_MAX_STREAM", "9"),
            ("QBROKER_URL", "http://broker"),
            ("QBROKER_MESSAGE_ID", "m"),
        ]);
        let layers = Layers { environment: variables, ..Layers::default() };
        assert_eq!(layers.resolve().unwrap().unknown_variables, ["QBROKER_MAX_STREAM"]);
    }
}
