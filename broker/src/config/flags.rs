//! The settings as flags of the command line, made from the table.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};

use super::{ConfigError, Environment, Fallback, Layers, Resolved, SETTINGS, Setting};

/// The settings given on the command line, unchecked, and the file to read.
#[derive(Clone, Debug, Default)]
pub struct ServeFlags {
    values: BTreeMap<&'static str, String>,
    config: Option<PathBuf>,
}

impl ServeFlags {
    /// Layers these flags over the process's environment, the file and the defaults.
    ///
    /// # Errors
    /// As [`Layers::resolve`] and [`Environment::of_process`].
    pub fn resolve(self) -> Result<Resolved, ConfigError> {
        let environment = Environment::of_process()?;
        Layers { flags: self.values, environment, file: self.config }.resolve()
    }

    /// Sets `name` unless the command line did: the defaults of a command other than `serve`.
    ///
    /// # Panics
    /// Where the table has no such setting.
    pub fn or_set(&mut self, name: &str, value: impl Into<String>) {
        let setting = super::find(name).expect("callers name settings of the table");
        self.values.entry(setting.name).or_insert_with(|| value.into());
    }
}

impl Args for ServeFlags {
    fn augment_args(command: Command) -> Command {
        let config = Arg::new("config")
            .long("config")
            .value_name("FILE")
            .env("QBROKER_CONFIG")
            .value_parser(clap::value_parser!(PathBuf))
            .help("Reads settings from this TOML file");
        let command = command.arg(config);
        SETTINGS.iter().map(argument).fold(command, Command::arg)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for ServeFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut flags = Self::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.config = matches.get_one::<PathBuf>("config").cloned();
        for setting in SETTINGS {
            if let Some(value) = matches.get_one::<String>(setting.name) {
                self.values.insert(setting.name, value.clone());
            }
        }
        Ok(())
    }
}

fn argument(setting: &'static Setting) -> Arg {
    let default = match setting.default {
        Fallback::Text("") => "none".to_owned(),
        Fallback::Text(text) => text.to_owned(),
        Fallback::Computed(_, how) => how.replace('`', ""),
    };
    let about = format!("[env: {}] [default: {default}]", setting.variable());
    let argument = Arg::new(setting.name)
        .long(setting.name)
        .value_name(setting.takes)
        .help_heading(setting.section)
        .hide_short_help(setting.advanced)
        .help(format!("{} {about}", setting.summary()))
        .long_help(format!("{}\n\n{about}", setting.doc.replace('`', "")));
    if setting.is_switch() {
        return argument.num_args(0..=1).require_equals(true).default_missing_value("true");
    }
    argument.num_args(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<ServeFlags, clap::Error> {
        let command = ServeFlags::augment_args(Command::new("serve"));
        let words = std::iter::once("serve").chain(arguments.iter().copied());
        ServeFlags::from_arg_matches(&command.try_get_matches_from(words)?)
    }

    #[test]
    fn a_switch_may_stand_alone_and_a_value_may_not() {
        let flags = parse(&["--insecure-no-auth", "--auto-create-queues=false"]).unwrap();
        assert_eq!(flags.values["insecure-no-auth"], "true");
        assert_eq!(flags.values["auto-create-queues"], "false");
        assert!(parse(&["--max-streams"]).is_err());
        assert!(parse(&["--max-strems", "4"]).is_err());
    }

    #[test]
    fn a_command_s_own_default_gives_way_to_the_command_line() {
        let mut flags = parse(&["--grpc-listen", "127.0.0.1:1"]).unwrap();
        flags.or_set("grpc-listen", "127.0.0.1:0");
        flags.or_set("http-listen", "127.0.0.1:0");
        assert_eq!(flags.values["grpc-listen"], "127.0.0.1:1");
        assert_eq!(flags.values["http-listen"], "127.0.0.1:0");
    }
}
