//! `qbroker version`.

use serde_json::json;

use super::Outcome;
use super::globals::Globals;
use super::output::{Item, column};
use qbroker::exit::Exit;

/// Prints the version of this program.
pub(super) fn run(globals: &Globals) -> Outcome {
    let version = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "os": std::env::consts::OS,
        "arch": std::env::consts::ARCH,
    });
    let item: Item = version.as_object().expect("it was just made as an object").clone();
    let columns = [column("VERSION", "version"), column("OS", "os"), column("ARCH", "arch")];
    globals.output().item(&columns, item)?;
    Ok(Exit::Ok)
}
