//! Finds rows by an index.

use std::collections::HashSet;

use arrow::array::Int64Array;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::{HASH, Indexes, ROW, hash};
use crate::error::Result;
use crate::log::LiveFile;
use crate::read::TableHistory;
use crate::read::file::{self, column, integer_bounds};
use crate::store::{Object, Store};

/// Indexes that are read at the same time.
const AT_A_TIME: usize = 8;
/// With more entities than these the files are read from end to end.
const ENTITIES: usize = 1_000;

/// The rows of some entities in the files of a table.
#[derive(Debug, Default)]
pub(crate) struct Finder {
    rows: std::collections::HashMap<String, Vec<u32>>,
}

impl Finder {
    /// Looks into the indexes of these files.
    pub(crate) async fn of(
        store: &Store,
        table: &TableHistory,
        files: &[&LiveFile],
        entities: &HashSet<String>,
    ) -> Result<Self> {
        if entities.len() > ENTITIES || files.iter().all(|file| file.add.rows < super::LEAST) {
            return Ok(Self::default());
        }
        let indexes = Indexes::load(store, &table.log_name, files.iter().map(|file| &file.add)).await?;
        let mut wanted: Vec<i64> = entities.iter().map(|id| i64::from(hash(id))).collect();
        wanted.sort_unstable();
        let found =
            files.iter().filter_map(|file| Some((file.add.path.as_str(), indexes.of(&file.add.path)?)));
        let looks = found.map(|(path, index)| {
            let (store, index, wanted) = (store.clone(), index.clone(), wanted.clone());
            async move {
                // Each on a thread of its own: decoding keeps one busy.
                let task = tokio::spawn(async move { rows(&store, &index, &wanted).await });
                match task.await.unwrap_or(Ok(None)) {
                    Ok(rows) => Ok(rows.map(|rows| (path.to_owned(), rows))),
                    // Its file is read as a whole instead. An index may go at any time, and holds no truth.
                    Err(error) if error.kind().is_of_object() => {
                        tracing::warn!(%error, "an index is left aside");
                        Ok(None)
                    }
                    Err(error) => Err(error),
                }
            }
        });
        let rows: Vec<Option<(String, Vec<u32>)>> =
            stream::iter(looks).buffer_unordered(AT_A_TIME).try_collect().await?;
        Ok(Self { rows: rows.into_iter().flatten().collect() })
    }

    /// The rows in one file, in order; none where its index does not say.
    pub(crate) fn rows(&self, file: &str) -> Option<&[u32]> {
        self.rows.get(file).map(Vec::as_slice)
    }
}

async fn rows(store: &Store, index: &Object, wanted: &[i64]) -> Result<Option<Vec<u32>>> {
    let path = &index.path;
    let builder = file::open(store, path, index.bytes).await?;
    let groups = builder.metadata().row_groups().iter().enumerate();
    let may_hold = groups.filter(|(_, group)| {
        integer_bounds(group, HASH).is_none_or(|(min, max)| {
            let from = wanted.partition_point(|hash| *hash < min);
            wanted.get(from).is_some_and(|hash| *hash <= max)
        })
    });
    let groups: Vec<usize> = may_hold.map(|(at, _)| at).collect();
    let mut found = Vec::new();
    if !groups.is_empty() {
        let mut batches = file::read(path, builder.with_row_groups(groups))?;
        while let Some(batch) = file::next(path, &mut batches).await? {
            let hashes: &Int64Array = column(path, &batch, HASH)?;
            let rows: &Int64Array = column(path, &batch, ROW)?;
            let entries = hashes.values().iter().zip(rows.values());
            let ours = entries.filter(|(hash, _)| wanted.binary_search(hash).is_ok());
            for (_, row) in ours {
                let Ok(row) = u32::try_from(*row) else { return Ok(None) };
                found.push(row);
            }
        }
    }
    found.sort_unstable();
    Ok(Some(found))
}
