//! What people need to run a capture for years.

mod doctor;
mod status;
