//! The stores side by side, each used as it is meant to be used.

use std::path::Path;
use std::sync::Arc;

use fjall::{KeyspaceCreateOptions, config::CompressionPolicy};
use redb::{Database, Durability, ReadableDatabase as _, ReadableTableMetadata as _, TableDefinition};

use crate::state::{Identity, State};

pub const CACHE: u64 = 32 << 20;

/// A chunk of rows for a bulk load: keys and values.
pub type Chunk = Vec<([u8; 9], Vec<u8>)>;

pub trait Store {
    /// Loads chunks of rows, which arrive in any order.
    fn load(&self, chunks: &mut dyn Iterator<Item = Chunk>);
    /// Looks keys up; returns how many were found.
    fn get(&self, keys: &[[u8; 9]]) -> usize;
    /// Writes rows, which come in key order, as one commit.
    fn put(&self, seq: u64, rows: &mut dyn Iterator<Item = ([u8; 9], Vec<u8>)>);
    /// Reads everything in key order; returns how many rows there are.
    fn scan(&self) -> usize;
    /// Waits for background work.
    fn settle(&self);
}

pub fn open(name: &str, dir: &Path) -> Box<dyn Store> {
    match name {
        "state" => Box::new(Ours::open(dir)),
        "fjall-batch" => Box::new(Fjall::open(dir, false)),
        "fjall-ingest" => Box::new(Fjall::open(dir, true)),
        "redb" => Box::new(Redb::open(dir, Durability::Immediate)),
        "redb-none" => Box::new(Redb::open(dir, Durability::None)),
        _ => panic!("no such store: {name}"),
    }
}

struct Ours(Arc<State>);

impl Ours {
    fn open(dir: &Path) -> Self {
        Self(Arc::new(State::open(dir, &Identity { history_id: "bench".into() }, CACHE).unwrap()))
    }
}

impl Store for Ours {
    fn load(&self, chunks: &mut dyn Iterator<Item = Chunk>) {
        let loader = self.0.bulk_load(1).unwrap();
        let mut writer = loader.writer();
        for chunk in chunks {
            for (key, value) in &chunk {
                writer.push(key, value).unwrap();
            }
        }
        writer.finish().unwrap();
        loader.finish(1).unwrap();
    }

    fn get(&self, keys: &[[u8; 9]]) -> usize {
        keys.iter().filter(|key| self.0.get(1, *key).unwrap().is_some_and(|value| !value.is_empty())).count()
    }

    fn put(&self, seq: u64, rows: &mut dyn Iterator<Item = ([u8; 9], Vec<u8>)>) {
        self.0.apply(seq, rows.map(|(key, value)| (1, key, Some(value))), true).unwrap();
    }

    fn scan(&self) -> usize {
        self.0.scan(1).unwrap().map(|entry| entry.unwrap()).count()
    }

    fn settle(&self) {
        self.0.flush().unwrap();
        self.0.wait_until_compacted();
    }
}

struct Fjall {
    db: fjall::Database,
    rows: fjall::Keyspace,
    ingest: bool,
}

impl Fjall {
    fn open(dir: &Path, ingest: bool) -> Self {
        let db = fjall::Database::builder(dir)
            .cache_size(CACHE)
            .worker_threads(1)
            .max_journaling_size(64 << 20)
            .open()
            .unwrap();
        let options = || {
            KeyspaceCreateOptions::default()
                .max_memtable_size(16 << 20)
                .data_block_compression_policy(CompressionPolicy::all(fjall::CompressionType::Lz4))
        };
        let rows = db.keyspace("rows", options).unwrap();
        Self { db, rows, ingest }
    }

    fn write_run(&self, rows: impl Iterator<Item = ([u8; 9], Vec<u8>)>) {
        let mut ingestion = self.rows.start_ingestion().unwrap();
        for (key, value) in rows {
            ingestion.write(key, value).unwrap();
        }
        ingestion.finish().unwrap();
    }
}

impl Store for Fjall {
    fn load(&self, chunks: &mut dyn Iterator<Item = Chunk>) {
        if !self.ingest {
            return chunks.for_each(|chunk| self.put(0, &mut chunk.into_iter()));
        }
        let mut gathered = Vec::new();
        while let Some(chunk) = chunks.next() {
            gathered.extend(chunk);
            if gathered.len() >= 100_000 {
                gathered.sort_unstable();
                self.write_run(gathered.drain(..));
            }
        }
        gathered.sort_unstable();
        self.write_run(gathered.into_iter());
    }

    fn get(&self, keys: &[[u8; 9]]) -> usize {
        keys.iter().filter(|key| self.rows.get(key).unwrap().is_some_and(|value| !value.is_empty())).count()
    }

    fn put(&self, _: u64, rows: &mut dyn Iterator<Item = ([u8; 9], Vec<u8>)>) {
        if self.ingest {
            return self.write_run(rows);
        }
        let mut rows = rows.peekable();
        while rows.peek().is_some() {
            let mut batch = self.db.batch();
            for (key, value) in rows.by_ref().take(10_000) {
                batch.insert(&self.rows, key, value);
            }
            batch.commit().unwrap();
        }
    }

    fn scan(&self) -> usize {
        self.rows.iter().map(|guard| guard.into_inner().unwrap()).count()
    }

    fn settle(&self) {
        let mut quiet = 0;
        while quiet < 20 {
            let busy = self.db.outstanding_flushes() > 0 || self.db.active_compactions() > 0;
            quiet = if busy { 0 } else { quiet + 1 };
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

const ROWS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("rows");

struct Redb {
    db: Database,
    durability: Durability,
}

impl Redb {
    fn open(dir: &Path, durability: Durability) -> Self {
        let db = Database::builder().set_cache_size(CACHE as usize).create(dir.join("redb")).unwrap();
        Self { db, durability }
    }

    fn write(&self, rows: impl Iterator<Item = ([u8; 9], Vec<u8>)>, last: bool) {
        let mut transaction = self.db.begin_write().unwrap();
        transaction.set_durability(if last { Durability::Immediate } else { self.durability }).unwrap();
        let mut table = transaction.open_table(ROWS).unwrap();
        for (key, value) in rows {
            table.insert(key.as_slice(), value.as_slice()).unwrap();
        }
        drop(table);
        transaction.commit().unwrap();
    }
}

impl Store for Redb {
    fn load(&self, chunks: &mut dyn Iterator<Item = Chunk>) {
        let mut gathered = Vec::new();
        for chunk in chunks {
            gathered.extend(chunk);
            if gathered.len() >= 100_000 {
                // A B-tree likes ascending keys.
                gathered.sort_unstable();
                self.write(gathered.drain(..), false);
            }
        }
        gathered.sort_unstable();
        self.write(gathered.into_iter(), true);
    }

    fn get(&self, keys: &[[u8; 9]]) -> usize {
        let transaction = self.db.begin_read().unwrap();
        let table = transaction.open_table(ROWS).unwrap();
        keys.iter()
            .filter(|key| table.get(key.as_slice()).unwrap().is_some_and(|value| !value.value().is_empty()))
            .count()
    }

    fn put(&self, _: u64, rows: &mut dyn Iterator<Item = ([u8; 9], Vec<u8>)>) {
        self.write(rows, false);
    }

    fn scan(&self) -> usize {
        let transaction = self.db.begin_read().unwrap();
        let table = transaction.open_table(ROWS).unwrap();
        let _ = table.len().unwrap();
        table.range::<&[u8]>(..).unwrap().map(|entry| entry.unwrap()).count()
    }

    fn settle(&self) {
        self.write(std::iter::empty(), true);
    }
}
