//! PostgreSQL as a source of changes: connections, the replication stream, slots, publications, first copies, the catalog.
//!
//! ```no_run
//! use bygone_replication::conninfo::ConnectOptions;
//! use bygone_replication::{session, slot};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let source = ConnectOptions::parse("postgres://bygone@db/shop")?;
//! let sql = session::connect_sql(&source).await?;
//! if let Some(slot) = slot::read(&sql, "bygone").await? {
//!     println!("acknowledged up to {:?}", slot.confirmed_flush_lsn);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! [`conninfo`] takes settings as libpq does. [`session`] opens connections for ordinary SQL, [`wire`] those for replication and `COPY`,
//! which tokio-postgres lacks. [`preflight`] compares what a history says with what the server says, before every stream: the server itself
//! does not report what silently loses changes. [`stream`] then reads the WAL, in a thread of its own, and [`pgoutput`] decodes it in place.
//! [`snapshot`] says how tables are copied, [`catalog`] what tables there are, and [`doctor`] what would go wrong.
//!
//! # Guarantees
//! Nothing from outside makes it panic: bytes of the server that are not a well-formed message are an error. An LSN is acknowledged only when
//! the caller says so ([`Feedback`](crate::stream::Feedback)). An error prints no password, and leaves out the details in which the server
//! quotes rows.
//!
//! # What this is not
//! This crate does not know what becomes of a change: no facts, files or histories. It is not a general client of PostgreSQL, and speaks
//! version 1 of the `pgoutput` protocol alone: no streaming of running transactions, no decoding at PREPARE.
//!
//! # Limits
//! PostgreSQL 14 to 18 ([`OLDEST_VERSION`](crate::preflight::OLDEST_VERSION)); a hot standby as the source from 16 on. A transaction reaches
//! the caller only once the server has it whole.

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
