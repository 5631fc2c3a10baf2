//! Bytes of any kind, to every decoder and every call: refused or taken, never a panic, and never more
//! memory than they account for. `fuzz/` has the same targets for a fuzzer that sees the branches.

use qbroker_tests::fuzz::allocations::{Counting, largest};
use qbroker_tests::fuzz::mutate::mutate;
use qbroker_tests::fuzz::{Target, requests, target};
use qbroker_tests::seed;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What a reader takes to read with, whatever there is to be read.
const MEMORY: usize = 2 << 20;
/// What a byte of the input may account for: a varint of one byte is a number of eight.
const MEMORY_PER_BYTE: usize = 256;

fn feed(target: &Target, input: &[u8]) {
    // Shown where it fails.
    let hex = || input.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let ran = std::panic::catch_unwind(|| largest(|| (target.run)(input)));
    let Ok(asked) = ran else { panic!("{} panics on {}", target.name, hex()) };
    let allowed = MEMORY + MEMORY_PER_BYTE * input.len();
    assert!(asked <= allowed, "{} asks for {asked} bytes at once for {}", target.name, hex());
}

fn hold(name: &str, usual: u64, thorough: u64) {
    let (target, mut rng) = (target(name), seed::rng(&format!("fuzz {name}")));
    let seeds = (target.seeds)();
    assert!(!seeds.is_empty());
    seeds.iter().for_each(|seed| feed(target, seed));
    feed(target, &[]);
    let mut inputs = seeds.clone();
    for _ in 0..seed::rounds(usual, thorough) {
        let (first, second) = (rng.below(inputs.len()), rng.below(seeds.len()));
        let input = mutate(&inputs[first], &seeds[second], &mut rng);
        feed(target, &input);
        // Some changed ones are changed further.
        if rng.below(8) == 0 && inputs.len() < 4 * seeds.len() + 64 {
            inputs.push(input);
        } else if rng.below(8) == 0 {
            let replaced = rng.below(inputs.len());
            inputs[replaced] = input;
        }
    }
}

#[test]
fn the_counting_allocator_counts() {
    let asked = largest(|| drop(std::hint::black_box(vec![1_u8; 5_000_000])));
    assert!((5_000_000..6_000_000).contains(&asked), "{asked}");
}

#[test]
fn any_frames_are_read_or_refused() {
    hold("frames", 20_000, 5_000_000);
}

#[test]
fn any_segment_header_is_read_or_refused() {
    hold("segment_header", 10_000, 1_000_000);
}

#[test]
fn any_checkpoint_is_read_or_refused() {
    hold("checkpoint", 20_000, 5_000_000);
}

#[test]
fn any_directory_of_a_cold_segment_is_read_or_refused() {
    hold("directory", 20_000, 5_000_000);
}

#[test]
fn any_head_of_a_record_is_read_or_refused() {
    hold("record", 20_000, 5_000_000);
}

#[test]
fn any_page_of_the_index_is_read_or_refused() {
    hold("page", 20_000, 5_000_000);
}

#[test]
fn any_state_of_a_checkpoint_is_read_or_refused() {
    hold("snapshot", 5_000, 1_000_000);
}

#[test]
fn any_requests_are_done_or_refused() {
    hold("requests", 500, 100_000);
}

/// As above, right in form: these reach what is behind the form.
#[test]
fn any_requests_of_the_right_form_are_done_or_refused() {
    let mut rng = seed::rng("fuzz plausible requests");
    let target = target("requests");
    for _ in 0..seed::rounds(500, 100_000) {
        feed(target, &requests::plausible(&mut rng));
    }
}
