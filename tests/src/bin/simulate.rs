//! `cargo run --release -p qbroker-tests --bin simulate -- --seeds N --from SEED`: plays the
//! histories of so many seeds, each twice, and ends with code 1 at the first broken promise.
#![allow(clippy::print_stdout, clippy::print_stderr, clippy::exit)]

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use clap::Parser;
use qbroker_tests::simulate::search::{BROKEN, from_text, shrink, to_text};
use qbroker_tests::simulate::{Injected, Violation, play, play_twice};

/// Simulates whole histories of a broker with faults of every kind, and judges every answer.
#[derive(Parser)]
struct Args {
    /// How many seeds to play.
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Plays this one alone, and says what happens.
    #[arg(long)]
    seed: Option<u64>,
    /// Plays these steps of it alone, as in `0-4,17`.
    #[arg(long, requires = "seed")]
    steps: Option<String>,
    /// Plays each of them once: more of them in the same time, and nobody looks whether the same seed
    /// gives the same bytes.
    #[arg(long)]
    once: bool,
    /// Does not look for the few steps that break the promise.
    #[arg(long)]
    no_shrink: bool,
}

/// The seed under way, for what is said when the broker panics.
static SEED: AtomicU64 = AtomicU64::new(0);

fn main() {
    let args = Args::parse();
    match args.seed {
        Some(seed) => one(seed, args.steps.as_deref()),
        None => many(&args),
    }
}

/// Plays one history and tells it.
fn one(seed: u64, steps: Option<&str>) {
    let steps = steps.map(|text| from_text(text).expect("steps are as in 0-4,17"));
    match play(seed, steps.as_deref(), true) {
        Ok((outcome, injected)) => println!("seed {seed} holds: {outcome:x?}, {injected:?}"),
        Err(violation) => {
            eprintln!("VIOLATION with seed {seed}: {}", violation.what);
            std::process::exit(BROKEN);
        }
    }
}

fn many(args: &Args) {
    let (from, seeds, shrinks) = (args.from, args.seeds, !args.no_shrink);
    let said = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        said(panic);
        report((SEED.load(Relaxed), shrinks), "the broker panicked", &[]);
    }));
    let (began, mut told) = (Instant::now(), Instant::now());
    let mut injected = Injected::default();
    for seed in from..from.saturating_add(seeds) {
        SEED.store(seed, Relaxed);
        let played = if args.once { play(seed, None, false) } else { play_twice(seed) };
        match played {
            Ok((_, more)) => injected.add(&more),
            Err(Violation { seed, what, lines }) => report((seed, shrinks), &what, &lines),
        }
        if Duration::from_secs(10) < told.elapsed() {
            told = Instant::now();
            println!("{} of {seeds} seeds, {injected:?}", seed - from + 1);
        }
    }
    println!("{seeds} seeds from {from} hold, in {:?}: {injected:?}", began.elapsed());
}

/// Says what was broken and how to see it again, and ends.
fn report((seed, shrinks): (u64, bool), what: &str, lines: &[String]) {
    let last = lines.len().saturating_sub(12);
    lines[last..].iter().for_each(|line| eprintln!("  {line}"));
    eprintln!("VIOLATION with seed {seed}: {what}");
    let again = "cargo run --release -p qbroker-tests --bin simulate --";
    eprintln!("again: {again} --seed {seed}");
    if !shrinks {
        std::process::exit(BROKEN);
    }
    let steps = shrink(seed);
    eprintln!(
        "the {} steps that it takes: {again} --seed {seed} --steps {}",
        steps.len(),
        to_text(&steps)
    );
    std::process::exit(BROKEN);
}
