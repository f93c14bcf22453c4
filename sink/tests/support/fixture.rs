//! Histories with real Parquet files in them.

use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch};
use bygone_replication::Lsn;
use bygone_replication::table::TableName;
use bygone_sink::history::{History, Identity, publish_at_free_path};
use bygone_sink::log::path::fact_path;
use bygone_sink::log::{Add, Appended, CommitBody, LogWriter, ManifestSource, Source, Wal};
use bygone_sink::store::Store;
use bygone_sink::timestamp::Timestamp;
use parquet::arrow::ArrowWriter;

pub(crate) fn identity() -> Identity {
    Identity {
        name: "bygone".to_owned(),
        source: ManifestSource { system_id: "7312345678901234567".to_owned(), database: "shop".to_owned() },
        slot: "bygone".to_owned(),
        publications: vec!["bygone".to_owned(), "bygone_insert_only".to_owned()],
    }
}

/// What a commit says that covers the WAL up to `to` and brings these files.
pub(crate) fn body(to: u64, add: Vec<Add>) -> CommitBody {
    CommitBody {
        wal: Wal { from: Lsn(to - 1), to: Lsn(to) },
        resume: Lsn(to),
        epoch: 0,
        source: Source {
            system_id: "7312345678901234567".to_owned(),
            timeline: 1,
            database: "shop".to_owned(),
        },
        server_time: Some(Timestamp(1_795_475_957_000_000)),
        high_water: Some(Timestamp(1_795_475_957_000_000)),
        publication: None,
        schemas: Vec::new(),
        events: Vec::new(),
        add,
        remove: Vec::new(),
        extra: serde_json::Map::new(),
    }
}

pub(crate) async fn writer(store: &Store) -> LogWriter {
    History::open_or_create(store, &identity()).await.unwrap().into_writer()
}

/// Writes a file of that many facts for the writer's next commit.
pub(crate) async fn file(writer: &LogWriter, rows: i64) -> Add {
    let column = Arc::new(Int64Array::from_iter_values(0..rows));
    let batch = RecordBatch::try_from_iter([("_lsn", column as _)]).unwrap();
    let mut staged = writer.store().stage().unwrap();
    let mut parquet = ArrowWriter::try_new(&mut staged, batch.schema(), None).unwrap();
    parquet.write(&batch).unwrap();
    parquet.close().unwrap();
    let mut sealed = staged.seal().await.unwrap();
    let table = TableName::new("public", "orders");
    let path = |n| fact_path(&table, "2026-11-23", writer.next_seq(), n);
    let (path, _) = publish_at_free_path(&mut sealed, 0, path).await.unwrap();
    Add {
        path,
        table: "public.orders".to_owned(),
        schema: 1,
        rows: rows.cast_unsigned(),
        bytes: sealed.bytes(),
        sha256: sealed.sha256(),
        lsn: [Lsn(1), Lsn(2)],
        valid_from: [Timestamp(0), Timestamp(1)],
        digest: None,
        extra: serde_json::Map::new(),
    }
}

/// A commit with one file of that many facts.
pub(crate) async fn commit(writer: &mut LogWriter, rows: i64) -> Appended {
    let add = file(writer, rows).await;
    writer.append(body(100 + writer.next_seq(), vec![add])).await.unwrap()
}
