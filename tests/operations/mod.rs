//! What people need to run a capture for years.

mod deploy;
mod doctor;
mod metrics;
mod status;
