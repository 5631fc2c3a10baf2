//! Whole histories of a broker from one number: random clients and operators, faults of every kind,
//! and a model that judges every answer.
//!
//! The parts stand in the order in which a history meets them: `plan` names its steps, `choice` chooses
//! them, `world` is the machine and `found` what its disk holds; `clients`, `parts`, `pulls`,
//! `producers`, `schedules`, `streams`, `works`, `keeping`, `holding` and `operators` use the broker, and
//! `policies` says how queues are made and changed; `model` says what must be answered, `timeline` where a
//! crash may lead back to, `audit` compares everything with that, `rot` flips bits; `run` puts it together,
//! and `search` looks for histories that break a promise.

pub mod plan;
mod choice;
mod world;
mod digest;
mod found;
mod clients;
mod parts;
mod pulls;
mod producers;
mod schedules;
mod streams;
mod works;
mod keeping;
mod holding;
mod operators;
mod policies;
mod model;
mod timeline;
mod audit;
mod rot;
mod run;
pub mod search;

pub use run::Outcome;
pub use world::{Injected, Nature};

/// A history that broke a promise.
#[derive(Debug)]
pub struct Violation {
    pub seed: u64,
    pub what: String,
    /// What had happened, the last thing last.
    pub lines: Vec<String>,
}

/// Plays the history of a seed, or of some of its steps, by their numbers.
pub fn play(
    seed: u64,
    only: Option<&[usize]>,
    verbose: bool,
) -> Result<(Outcome, Injected), Violation> {
    play_on(Nature::Honest, seed, only, verbose)
}

/// [`play`], on a disk of this nature.
pub fn play_on(
    nature: Nature,
    seed: u64,
    only: Option<&[usize]>,
    verbose: bool,
) -> Result<(Outcome, Injected), Violation> {
    let all = choice::steps(seed).into_iter().enumerate();
    let steps: Vec<_> = all.filter(|(at, _)| only.is_none_or(|only| only.contains(at))).collect();
    let violation = |what, lines: &[String]| Violation { seed, what, lines: lines.to_vec() };
    let mut run = run::Run::new(seed, verbose, nature).map_err(|what| violation(what, &[]))?;
    match run.play(&steps) {
        Ok(outcome) => Ok((outcome, run.injected())),
        Err(what) => Err(violation(what, run.lines())),
    }
}

/// Plays it twice: the same seed gives the same bytes.
pub fn play_twice(seed: u64) -> Result<(Outcome, Injected), Violation> {
    let first = play(seed, None, false)?;
    let second = play(seed, None, false)?;
    if first.0 == second.0 {
        return Ok(first);
    }
    let what = format!("played twice, it was another history: {:?}, {:?}", first.0, second.0);
    Err(Violation { seed, what, lines: Vec::new() })
}
