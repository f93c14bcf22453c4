//! What bygone keeps: facts, versions, state, Parquet files and the hash-chained log.

pub mod batch;
pub mod checkpoint;
pub mod compaction;
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
pub mod log;
mod parquet_layout;
pub mod read;
pub mod schema;
pub mod slabs;
pub mod state;
pub mod store;
pub mod timestamp;
pub mod transactions;
pub mod value;
pub mod verify;
pub mod versioning;
