//! A page of the index.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    (qbroker_tests::fuzz::target("page").run)(bytes);
});
