//! Chance that can be repeated, and how much of it a run takes.

pub use qbroker_storage::disk::sim::Rng;

/// The run's generator: of `QBROKER_SEED` where it is set, else of a fresh seed. The seed is
/// printed, and shown when the test fails.
///
/// # Panics
/// When `QBROKER_SEED` is not a number.
pub fn rng(test: &str) -> Rng {
    let seed = match std::env::var("QBROKER_SEED") {
        Ok(seed) => seed.parse().expect("QBROKER_SEED is a number"),
        Err(_) => rand::random(),
    };
    eprintln!("{test}: QBROKER_SEED={seed}");
    Rng::new(seed)
}

/// `usual`, or `thorough` under `QBROKER_SLOW=1`.
pub fn rounds<T>(usual: T, thorough: T) -> T {
    if std::env::var_os("QBROKER_SLOW").is_some() { thorough } else { usual }
}
