//! The catalog, publications, slots, the checks before the stream, and the snapshot's statements, on a real server.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "what is not as expected has to fail the test"
)]

mod preflight;
mod publications;
mod server;
mod slots;
mod snapshots;
mod tables;
mod types;
mod zoo;
