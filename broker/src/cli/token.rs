//! `qbroker token`: makes tokens, and the entries that a broker stores of them.

use std::io::Read as _;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use qbroker::auth::{Token, TokenEntry, append_token};
use qbroker::exit::Exit;

use super::Outcome;
use super::failure::{Failure, say};
use super::globals::Globals;
use super::output::write_out;

#[derive(Debug, Subcommand)]
pub(super) enum TokenCommand {
    /// Make a token and print it, once; its hash goes to the file.
    Create(CreateArgs),
    /// Read a token from stdin and print the entry that accepts it.
    Hash(HashArgs),
}

#[derive(Debug, Args)]
pub(super) struct CreateArgs {
    /// The file that `serve --auth-tokens` reads; made where it is missing. Without it the entry is
    /// printed on stderr.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Who will use the token, for logs and listings.
    #[arg(long, default_value = "")]
    name: String,
}

#[derive(Debug, Args)]
pub(super) struct HashArgs {
    /// Who uses the token, for logs and listings.
    #[arg(long, default_value = "")]
    name: String,
}

impl TokenCommand {
    /// Runs one of them.
    pub(super) fn run(self, globals: &Globals) -> Outcome {
        match self {
            Self::Create(args) => create(&args, globals.quiet),
            Self::Hash(args) => hash(&args),
        }
    }
}

fn create(args: &CreateArgs, quiet: bool) -> Outcome {
    let token = Token::generate().map_err(|error| {
        Failure::new(Exit::Unavailable, format!("the system gives no randomness: {error}"))
    })?;
    let entry = TokenEntry::of(&token, &args.name);
    match &args.file {
        Some(path) => {
            append_token(path, &entry)
                .map_err(|error| Failure::new(Exit::Config, error.to_string()))?;
            if !quiet {
                say(&format!(
                    "added the token's hash to {}; the token itself is shown only here; a running \
                     broker takes it on SIGHUP",
                    path.display()
                ));
            }
        }
        None => say(&format!("add this to the file of --auth-tokens:\n{}", entry.to_toml())),
    }
    write_out(&format!("{}\n", token.reveal()))?;
    Ok(Exit::Ok)
}

fn hash(args: &HashArgs) -> Outcome {
    let mut text = String::new();
    std::io::stdin()
        .take(4096)
        .read_to_string(&mut text)
        .map_err(|error| Failure::new(Exit::Data, format!("cannot read the token: {error}")))?;
    let token = Token::parse(&text).map_err(|error| Failure::new(Exit::Data, error.to_string()))?;
    write_out(&TokenEntry::of(&token, &args.name).to_toml())?;
    Ok(Exit::Ok)
}
