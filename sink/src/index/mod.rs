//! Which rows of a file are an entity's: so that its history is found without reading every file from end to end.
//!
//! Facts stand in the order in which they came, and the versions of a row far apart. For each file of many facts there can be an index: the
//! hash of each fact's `_entity_id`, and its row, in the order of the hashes, as a Parquet file of small row groups. A look-up reads
//! the index's footer and one group of it, and of the facts the pages in which the rows lie. Sorting the facts themselves by
//! entity would do as well for this, and was measured: but what tells facts apart that came together, their positions, times and ids, is
//! then all over the file, and takes 15 bytes more for each in small transactions.
//!
//! Like [slabs](crate::slabs), indexes hold no truth: the log does not know of them, a file without is read as a whole, and who
//! removes `index/` loses nothing but time. [`prove`] holds one against its file.

mod build;
mod find;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use sha2::{Digest, Sha256};

use crate::error::Result;
use crate::log::path::derived_dir;
use crate::log::{Add, LogState};
use crate::store::{Object, Store};

pub use build::prove;
pub(crate) use find::Finder;

/// The directory of all indexes.
pub const INDEX: &str = "index";

/// The hash of an entity's id.
const HASH: &str = "hash";
/// The place of a fact in its file, counted from 0.
const ROW: &str = "row";

/// Files of fewer facts are read from end to end as quickly.
const LEAST: u64 = 50_000;
/// Of more facts, what has to be sorted does not fit into memory.
const MOST: u64 = 20_000_000;

/// The indexes that a table has, by the path of the file that each is of.
#[derive(Debug, Default)]
pub struct Indexes {
    of: HashMap<String, Object>,
    strays: Vec<Object>,
}

impl Indexes {
    /// Those that a store holds of these files of a table, by its name in the log.
    ///
    /// # Errors
    /// Where the store does not say.
    pub async fn load<'a>(
        store: &Store,
        log_name: &str,
        files: impl Iterator<Item = &'a Add>,
    ) -> Result<Self> {
        let Some(directory) = directory(log_name) else { return Ok(Self::default()) };
        let mut objects: HashMap<String, Object> =
            store.list(&directory).await?.into_iter().map(|object| (object.path.clone(), object)).collect();
        let of = files.filter_map(|add| Some((add.path.clone(), objects.remove(&path(&directory, add)?)?)));
        Ok(Self { of: of.collect(), strays: objects.into_values().collect() })
    }

    /// The index of a file.
    #[must_use]
    pub fn of(&self, file: &str) -> Option<&Object> {
        self.of.get(file)
    }
}

/// What a pass came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Indexes that were made.
    pub indexes: usize,
    /// Facts in them.
    pub rows: u64,
    /// Bytes of them.
    pub bytes: u64,
}

/// Makes the indexes that are missing, beside a capture.
#[derive(Debug)]
pub struct Indexer {
    store: Store,
    stop: Arc<AtomicBool>,
    /// Files that have theirs.
    known: HashSet<String>,
}

impl Indexer {
    /// For a history. Setting `stop` ends a pass early, with nothing half-made.
    #[must_use]
    pub fn new(store: Store, stop: Arc<AtomicBool>) -> Self {
        Self { store, stop, known: HashSet::new() }
    }

    /// Makes all that are missing in the history as the log leaves it, and removes those of files that are no more. Those of the other
    /// tables are made, too, where a file of one is not what it should be.
    ///
    /// # Errors
    /// Where facts cannot be read, or are not what they should be, and what the store has to say.
    pub async fn pass(&mut self, log: &LogState) -> Result<Done> {
        let mut done = Done::default();
        let mut failed = None;
        for table in log.tables() {
            match self.indexes_of(log, table, &mut done).await {
                Err(error) if error.kind().is_of_object() => failed = failed.or(Some(error)),
                made => made?,
            }
        }
        self.known.retain(|path| log.file(path).is_some());
        failed.map_or(Ok(done), Err)
    }

    async fn indexes_of(&mut self, log: &LogState, table: &str, done: &mut Done) -> Result<()> {
        let Some(directory) = directory(table) else { return Ok(()) };
        let files: Vec<&Add> = log.files_of(table).into_iter().map(|file| &file.add).collect();
        let due = |add: &&&Add| (LEAST..=MOST).contains(&add.rows) && !self.known.contains(&add.path);
        let due: Vec<&Add> = files.iter().filter(due).copied().collect();
        if due.is_empty() {
            return Ok(());
        }
        let indexes = Indexes::load(&self.store, table, files.into_iter()).await?;
        let old = indexes.strays.iter().filter(|object| object.is_left_behind());
        self.store.delete_unread(old.map(|object| object.path.as_str())).await?;
        for add in due {
            if indexes.of(&add.path).is_none()
                && let Some(path) = path(&directory, add)
            {
                let Some(bytes) = build::build(&self.store, add, &path, &self.stop).await? else {
                    return Ok(());
                };
                done.indexes += 1;
                done.rows += add.rows;
                done.bytes += bytes;
            }
            self.known.insert(add.path.clone());
        }
        Ok(())
    }
}

fn directory(log_name: &str) -> Option<String> {
    derived_dir(INDEX, log_name)
}

/// The name holds the file's content: an index is never taken for that of another file.
fn path(directory: &str, add: &Add) -> Option<String> {
    let name = add.path.rsplit('/').next()?.strip_suffix(".parquet")?;
    let hash = add.sha256.to_string();
    Some(format!("{directory}/{name}-{}.parquet", hash.get(..16)?))
}

/// The first 32 bits of the SHA-256 of an entity's id. Two that share them cost a page that was read in vain.
fn hash(entity_id: &str) -> u32 {
    Sha256::digest(entity_id).first_chunk().map_or(0, |head| u32::from_be_bytes(*head))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_the_same_on_every_machine() {
        assert_eq!([hash(""), hash("1"), hash("[\"a\",\"b\"]")], [0xe3b0_c442, 0x6b86_b273, 0x0473_ef2d]);
    }
}
