//! The state in a checkpoint.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    (qbroker_tests::fuzz::target("snapshot").run)(bytes);
});
