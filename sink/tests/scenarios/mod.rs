//! What must hold, by subject.

mod conformance;
mod crashes;
mod errors;
mod log;
mod lost_replies;
mod verify;
