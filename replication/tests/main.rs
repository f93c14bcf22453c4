//! Tests against real PostgreSQL servers, which they start themselves.
//!
//! The server's programs are looked for in `BYGONE_TEST_PG_BIN`, then in Debian's directories, then on the search path.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that meets the unexpected should end where it stands"
)]

mod catalog;
mod cluster;
mod fuzz_seeds;
mod recorded;
mod wire;
