//! What is kept, on a disk and in a bucket: against a real directory and a real S3 server.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that meets the unexpected should end where it stands"
)]

mod fuzz_seeds;
mod scenarios;
mod support;
