//! What a segment says of itself.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    (qbroker_tests::fuzz::target("segment_header").run)(bytes);
});
