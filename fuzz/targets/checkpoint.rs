//! A checkpoint's file.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    (qbroker_tests::fuzz::target("checkpoint").run)(bytes);
});
