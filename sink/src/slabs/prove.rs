//! Slabs held against the facts.

use std::sync::Arc;

use arrow::array::{Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use bygone_replication::Lsn;
use sha2::{Digest, Sha256};

use super::build::parts;
use super::cut::{self, Stretch};
use super::gather::gather;
use super::{BEGAN, ENDED, Slab};
use crate::error::Result;
use crate::fact_file::{Notes, RowColumns};
use crate::read::TableHistory;
use crate::read::file::{self, column};
use crate::schema::TableSchema;
use crate::store::Store;
use crate::value::RowBuilder;

/// What a slab proved to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// It holds what the facts say: so many rows.
    Holds(u64),
    /// It holds other rows: so many, where the facts say so many.
    Differs(u64, u64),
    /// Its name has it answer for other times than those of its facts.
    OtherTimes,
    /// The slab before it is missing, whose rows it carried over: nothing can be said.
    Alone,
}

/// Holds a slab against the facts, and the rows at the end of the slab before, which has been proved itself. In about `memory` bytes.
///
/// # Errors
/// Where facts or slabs cannot be read.
pub async fn prove(
    store: &Store,
    table: &TableHistory,
    before: Option<&Slab>,
    slab: &Slab,
    memory: usize,
) -> Result<Proof> {
    let before = before.filter(|before| before.to == slab.from);
    if before.is_none() && slab.from != Lsn::ZERO {
        return Ok(Proof::Alone);
    }
    if cut::times(store, table, before, [slab.from, slab.to]).await? != Some(slab.times) {
        return Ok(Proof::OtherTimes);
    }
    let mut rows = 0;
    for file in &slab.files {
        let metadata = file::open(store, &file.path, file.bytes).await?.metadata().clone();
        rows += u64::try_from(metadata.file_metadata().num_rows()).unwrap_or(0);
    }
    let stretch = Stretch { from: slab.from, to: slab.to, times: slab.times, rows };
    let mut said = Digests::default();
    let parts = parts(store, table, before, &stretch, memory).await?;
    for part in gather(store, table, before, &stretch, parts, memory).await? {
        for gathered in part.rows(table)? {
            for (at, batch) in gathered.batches.iter().enumerate() {
                let reader = Reader::new(&table.log_name, &gathered.schema, batch)?;
                for row in gathered.rows.iter().filter(|row| row.at.0 == at) {
                    said.add(&reader, row.at.1, row.began, row.ended)?;
                }
            }
        }
    }
    let mut held = Digests::default();
    for slab_file in &slab.files {
        let path = &slab_file.path;
        let schema = table.version(slab_file.schema).ok_or_else(|| {
            crate::fact_file::damaged(path, &format!("the log has no schema {}", slab_file.schema))
        })?;
        let mut batches = file::read(path, file::open(store, path, slab_file.bytes).await?)?;
        while let Some(batch) = file::next(path, &mut batches).await? {
            let reader = Reader::new(path, schema, &batch)?;
            let began: &TimestampMicrosecondArray = column(path, &batch, BEGAN)?;
            let ended: &TimestampMicrosecondArray = column(path, &batch, ENDED)?;
            for at in 0..batch.num_rows() {
                let time = |array: &TimestampMicrosecondArray| array.is_valid(at).then(|| array.value(at));
                held.add(&reader, at, time(began), time(ended))?;
            }
        }
    }
    Ok(if held == said { Proof::Holds(said.rows) } else { Proof::Differs(held.rows, said.rows) })
}

/// Rows in any order: their number, and the sum of their hashes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Digests {
    rows: u64,
    sum: u128,
}

impl Digests {
    fn add(&mut self, reader: &Reader<'_>, at: usize, began: Option<i64>, ended: Option<i64>) -> Result<()> {
        let mut row = RowBuilder::default();
        reader.columns.row(at, &mut row)?;
        let mut hash = Sha256::new();
        hash.update(reader.entity_id.value(at).as_bytes());
        hash.update([0]);
        hash.update(reader.version.value(at).to_le_bytes());
        hash.update(reader.schema.to_le_bytes());
        for time in [began, ended] {
            hash.update([u8::from(time.is_some())]);
            hash.update(time.unwrap_or(0).to_le_bytes());
        }
        hash.update(row.bytes());
        let digest = hash.finalize();
        let (head, _) = digest.split_first_chunk::<16>().unwrap_or((&[0; 16], &[]));
        self.sum = self.sum.wrapping_add(u128::from_le_bytes(*head));
        self.rows += 1;
        Ok(())
    }
}

struct Reader<'a> {
    entity_id: &'a StringArray,
    version: &'a Int64Array,
    schema: i32,
    columns: RowColumns<'a>,
}

impl<'a> Reader<'a> {
    fn new(path: &'a str, schema: &Arc<TableSchema>, batch: &'a RecordBatch) -> Result<Self> {
        Ok(Self {
            entity_id: column(path, batch, "_entity_id")?,
            version: column(path, batch, "_version")?,
            schema: schema.version,
            columns: RowColumns::new(path, Arc::clone(schema), batch, Notes::ALL)?,
        })
    }
}
