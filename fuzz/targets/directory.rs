//! The directory of a cold segment.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    (qbroker_tests::fuzz::target("directory").run)(bytes);
});
