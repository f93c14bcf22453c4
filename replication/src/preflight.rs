//! Checks that come before the stream, at every connect.
//!
//! The server does not say when it cannot deliver what is asked for: a start below what the slot has confirmed is
//! silently moved up, a start beyond the end of its WAL silently swallows everything up to there, and a publication
//! that is missing at the place that is being decoded makes version 18 skip its changes without a word. So all of that
//! is compared here first, between what the log of the history says and what the server says.

mod server;
mod start;

pub use server::{OLDEST_VERSION, ServerRefused, ServerState, check_server, read_server, warnings};
pub use start::{
    Current, Recorded, SlotRefused, StartRefused, TimelineEntry, check_idle, check_slot, check_start,
    parse_timeline_history,
};
