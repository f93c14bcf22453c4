//! What people need to run a capture for years.

mod config;
mod deploy;
mod doctor;
mod live;
mod manual;
mod metrics;
mod output;
mod pages;
mod status;
