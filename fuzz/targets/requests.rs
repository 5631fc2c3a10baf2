//! Calls of every kind, on a fresh broker.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    (qbroker_tests::fuzz::target("requests").run)(bytes);
});
