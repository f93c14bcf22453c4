//! PostgreSQL as a source of changes.

mod auth;
pub mod backoff;
pub mod catalog;
pub mod conninfo;
pub mod context;
pub mod copy;
pub mod ddl;
pub mod doctor;
pub mod error;
mod frame;
pub mod lsn;
mod passfile;
pub mod pattern;
pub mod pgoutput;
pub mod preflight;
pub mod publication;
mod remedy;
pub mod session;
mod silence;
pub mod slot;
pub mod snapshot;
pub mod stream;
pub mod table;
mod tls;
mod transport;
pub mod wire;

pub use error::{Error, ErrorKind, Policy, Result, ServerError};
pub use lsn::Lsn;
