//! What bygone keeps: facts, versions, state, Parquet files and the hash-chained log.
//!
//! ```no_run
//! use bygone_sink::error::Result;
//! use bygone_sink::read::Archive;
//! use bygone_sink::store::{Location, Store, StoreOptions};
//!
//! # async fn example() -> Result<()> {
//! let location = Location::parse("s3://archive/shop")?;
//! let store = Store::open(&location, &StoreOptions::default())?;
//! let archive = Archive::open(&store).await?;
//! for table in archive.tables()? {
//!     println!("{} has {} files of facts", table.log_name, table.files.len());
//! }
//! # Ok(())
//! # }
//! ```
//!
//! **Writing.** Whole transactions go into a [`Versioner`](crate::versioning::Versioner), which knows the last version of each entity by
//! the [`state`] and makes facts of changes. An [`Encoder`](crate::encoder::Encoder) writes these as Parquet files into a
//! [`Store`](crate::store::Store). They become part of a [`History`](crate::history::History) when
//! [`LogWriter::append`](crate::log::LogWriter::append) has put the commit that names them; only the
//! [`Appended`](crate::log::Appended) that it returns says what may be acknowledged to the source.
//!
//! **Following.** [`compaction`], [`slabs`], [`index`], [`checkpoint`], [`delta`] and [`fact_tables`] work from what the log names, and know
//! nothing of the source.
//!
//! **Reading.** An [`Archive`](crate::read::Archive) opens a history, on files or on fact tables; [`verify::verify`] proves one on files.
//!
//! # Guarantees
//! To those who read through the log, a commit is whole or absent, and so is a transaction of the source. Of two writers, one is fenced. State
//! is a cache: it catches up from the facts, and is rebuilt from them. No object is ever overwritten.
//!
//! # What this is not
//! Nothing here speaks to the captured database: that is `bygone_replication`. Reading the files without the log (by a glob) shows each fact
//! at least once, and files of a running commit. The hash chain does not prove that the writer was honest, nor that the end of the log was not
//! cut off, unless a later commit is known from elsewhere: see [`Expectation`](crate::verify::Expectation).
//!
//! # Limits
//! 4,294,967,295 facts of one table in a transaction, or rows of it in a first copy; keys up to 64 KiB; one writer at a time. A value of 4 MiB
//! or more is in memory once while it is written, and several times while it is read.

pub mod batch;
pub mod checkpoint;
pub mod civil;
pub mod compaction;
pub mod content;
pub mod delta;
pub mod encoder;
mod entity;
pub mod error;
pub mod fact;
mod fact_file;
pub mod fact_tables;
pub mod failpoint;
pub mod hashing;
pub mod history;
pub mod index;
mod large_file;
pub mod log;
mod parquet_layout;
pub mod read;
pub mod schema;
mod shelf;
pub mod slabs;
pub mod state;
pub mod store;
pub mod timestamp;
pub mod transactions;
pub mod value;
pub mod verify;
pub mod versioning;
