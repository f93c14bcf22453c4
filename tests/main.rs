//! End-to-end tests: the real binary between a real PostgreSQL and a real disk or S3 server.
//!
//! What a scenario has produced is judged by [`support::oracle`], which saw the changes inside the source, and by
//! [`support::history`], which reads the files without any of bygone's own code. [`scenarios::judges`] proves that
//! these two can say no.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that meets the unexpected should end where it stands"
)]

mod operations;
mod queries;
mod scenarios;
mod support;
