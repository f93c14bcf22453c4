#![no_main]

#[path = "../bodies/publications.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| body::run(data));
