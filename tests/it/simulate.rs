//! Whole histories from seeds: the known ones, and fresh ones.

use qbroker_tests::seed;
use qbroker_tests::simulate::{Injected, Nature, play_on, play_twice};

/// Seeds that are always played.
const KNOWN: std::ops::Range<u64> = 0..48;
/// And those that have found something, of the broker or of the model, in the histories as they are now.
const FOUND: [u64; 14] = [
    5_000_900, 5_005_856, 5_006_247, 5_016_752, 5_030_091, 5_031_285, 5_033_872, 5_080_181,
    5_086_412, 5_122_201, 5_122_749, 5_151_930, 5_172_887, 5_311_002,
];
/// How many fresh ones a run plays, and a thorough one: as many as take a minute or so, and hours.
const FRESH: (u64, u64) = (200, 50_000);

fn hold(seed: u64) -> Injected {
    let played = play_twice(seed);
    let (_, injected) = played.unwrap_or_else(|violation| {
        let lines = violation.lines.join("\n");
        let again = "cargo run --release -p qbroker-tests --bin simulate -- --from";
        panic!(
            "{lines}\nseed {seed}: {}\nagain, and shorter: {again} {seed} --seeds 1",
            violation.what
        )
    });
    injected
}

#[test]
fn the_known_histories_keep_every_promise_and_are_the_same_each_time() {
    let mut injected = Injected::default();
    KNOWN.chain(FOUND).map(hold).for_each(|more| injected.add(&more));
    eprintln!("simulate: {injected:?}");
    assert!(40 < injected.power_losses && 8 < injected.kills, "{injected:?}");
    assert!(10 < injected.interrupted_starts && 4 < injected.refused_starts, "{injected:?}");
    assert!(4 < injected.write_errors && 4 < injected.sync_errors, "{injected:?}");
    assert!(2 < injected.full_disks && 100 < injected.flipped_bits, "{injected:?}");
}

/// [`FRESH`], or so many as `QBROKER_SEEDS` says.
#[test]
fn fresh_histories_keep_every_promise() {
    let mut rng = seed::rng("simulate");
    let seeds = match std::env::var("QBROKER_SEEDS") {
        Ok(seeds) => seeds.parse().expect("QBROKER_SEEDS is a number"),
        Err(_) => seed::rounds(FRESH.0, FRESH.1),
    };
    let mut injected = Injected::default();
    (0..seeds).for_each(|_| injected.add(&hold(rng.next_u64() >> 16)));
    eprintln!("simulate: {seeds} fresh histories, {injected:?}");
}

/// The list of bugs that prove what the tests see, `tests/mutations/list`, keeps up with the source.
#[test]
fn every_bug_to_be_planted_still_has_its_place() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("it is above");
    let mutations = qbroker_tests::mutations::list(root).expect("there is a list");
    assert!(20 < mutations.len(), "{}", mutations.len());
    for mutation in mutations {
        let source = std::fs::read_to_string(root.join(&mutation.path)).expect("the file is there");
        mutation.plant(&source).unwrap_or_else(|why| panic!("{why}"));
    }
}

/// Who judges the broker is judged by a disk on which no broker can keep its promises.
#[test]
fn a_disk_that_lies_about_what_is_synced_is_found_out() {
    let found = KNOWN.filter(|seed| play_on(Nature::Lying, *seed, None, false).is_err()).count();
    assert!(20 < found, "{found} of {KNOWN:?}");
}
