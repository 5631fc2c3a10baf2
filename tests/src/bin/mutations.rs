//! `cargo run -p qbroker-tests --bin mutations -- --scratch FOLDER`: plants the bugs of
//! `tests/mutations/list` in a copy of the source, one at a time, and says who found each: the
//! simulator, or the library tests. Ends with code 1 where nobody did.
#![allow(clippy::print_stdout, clippy::print_stderr, clippy::exit)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use clap::Parser;
use qbroker_tests::mutations::{Mutation, list};

/// Plants bugs, and looks whether the tests find them.
#[derive(Parser)]
struct Args {
    /// Where the copy and what is built of it go.
    #[arg(long)]
    scratch: PathBuf,
    /// Seeds that the simulator plays of each.
    #[arg(long, default_value_t = 300)]
    seeds: u64,
    /// These alone, by name.
    #[arg(long)]
    only: Vec<String>,
}

/// Who found a bug.
enum Found {
    /// With this seed.
    Simulator(String),
    Compiler,
    Libraries,
    Nobody,
}

fn main() {
    let args = Args::parse();
    let root = std::env::current_dir().expect("there is a current folder");
    let mutations = list(&root).unwrap_or_else(|why| fail(&why));
    let copy = args.scratch.join("source");
    copy_source(&root, &copy);
    let is_wanted = |it: &&Mutation| args.only.is_empty() || args.only.contains(&it.name);
    let (mut planted, mut missed) = (0, Vec::new());
    for mutation in mutations.iter().filter(is_wanted) {
        let began = Instant::now();
        let path = copy.join(&mutation.path);
        let source = std::fs::read_to_string(&path).unwrap_or_else(|why| fail(&why.to_string()));
        let bad = mutation.plant(&source).unwrap_or_else(|why| fail(&why));
        write(&path, &bad);
        let found = look(&copy, &args);
        write(&path, &source);
        let by = match &found {
            Found::Simulator(seed) => format!("the simulator, {seed}"),
            Found::Compiler => "the compiler".to_owned(),
            Found::Libraries => "the library tests".to_owned(),
            Found::Nobody => "nobody".to_owned(),
        };
        println!("{}: found by {by} ({} s)", mutation.name, began.elapsed().as_secs());
        planted += 1;
        if matches!(found, Found::Nobody | Found::Compiler) {
            missed.push(mutation.name.as_str());
        }
    }
    println!("{} of {planted} planted bugs were found", planted - missed.len());
    if !missed.is_empty() {
        fail(&format!("not found: {}", missed.join(", ")));
    }
}

fn fail(why: &str) -> ! {
    eprintln!("{why}");
    std::process::exit(1);
}

fn write(path: &Path, text: &str) {
    if let Err(why) = std::fs::write(path, text) {
        fail(&format!("{}: {why}", path.display()));
    }
}

/// Copies what git knows; what is the same stays as it is, so that it need not be built again.
fn copy_source(root: &Path, copy: &Path) {
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output();
    let listed = listed.unwrap_or_else(|why| fail(&format!("git: {why}")));
    for path in String::from_utf8_lossy(&listed.stdout).lines() {
        let (from, to) = (root.join(path), copy.join(path));
        let Ok(bytes) = std::fs::read(&from) else { continue };
        if std::fs::read(&to).is_ok_and(|there| there == bytes) {
            continue;
        }
        let folder = to.parent().unwrap_or(copy);
        let copied = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&to, bytes));
        copied.unwrap_or_else(|why| fail(&format!("{}: {why}", to.display())));
    }
}

fn cargo(copy: &Path, args: &Args, command: &[&str]) -> Command {
    let mut cargo = Command::new("nice");
    cargo.args(["-n", "19", "cargo"]).args(command).current_dir(copy);
    cargo.env("CARGO_TARGET_DIR", args.scratch.join("target"));
    cargo.stdout(Stdio::null()).stderr(Stdio::null());
    cargo
}

fn succeeds(mut command: Command) -> bool {
    command.status().is_ok_and(|status| status.success())
}

/// What is asked where the simulator finds nothing.
const LIBRARY_TESTS: [&[&str]; 2] =
    [&["test", "--workspace", "--lib"], &["test", "-p", "qbroker-storage", "--test", "it"]];

/// Looks for the bug that is planted.
fn look(copy: &Path, args: &Args) -> Found {
    let build = ["build", "--workspace", "--bin", "simulate"];
    if !succeeds(cargo(copy, args, &build)) {
        return Found::Compiler;
    }
    let mut simulate = Command::new("nice");
    // A bug may be one that has no end.
    simulate.args(["-n", "19", "timeout", "600"]).arg(args.scratch.join("target/debug/simulate"));
    simulate.args(["--seeds", &args.seeds.to_string(), "--no-shrink"]);
    match simulate.output() {
        Ok(output) if !output.status.success() => {
            let said = String::from_utf8_lossy(&output.stderr);
            let violation = said.lines().find(|line| line.starts_with("VIOLATION"));
            Found::Simulator(violation.unwrap_or("which had no end").chars().take(160).collect())
        }
        Ok(_) if LIBRARY_TESTS.iter().all(|tests| succeeds(cargo(copy, args, tests))) => {
            Found::Nobody
        }
        Ok(_) => Found::Libraries,
        Err(why) => fail(&format!("the simulator: {why}")),
    }
}
