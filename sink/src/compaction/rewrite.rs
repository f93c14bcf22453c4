//! Writes the facts of several files into one, and reads it again: the others will be gone.

use std::sync::atomic::{AtomicBool, Ordering};

use arrow::record_batch::RecordBatchReader as _;
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::content::{self, Content, Part, Proof};
use crate::error::{Error, ErrorKind, Result};
use crate::fact_file::{self, damaged};
use crate::failpoint;
use crate::log::path::{compacted_path, compacted_seq};
use crate::log::{Add, COMMITS, ContentHash};
use crate::parquet_layout;
use crate::store::{PutOutcome, StagedFile, Store};

use super::plan::Group;

type Writer = ArrowWriter<StagedFile>;

/// Merges a group; gives what the log has to say of the new file, which is durable then. None where `stop` was set meanwhile,
/// with nothing left behind.
pub(super) async fn rewrite(
    store: &Store,
    group: &Group,
    seq: u64,
    class: Option<&str>,
    stop: &AtomicBool,
) -> Result<Option<Add>> {
    let Some(first) = group.files.first() else { return Ok(None) };
    let mut writer: Option<Writer> = None;
    let mut parts = Vec::with_capacity(group.files.len());
    for file in &group.files {
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let bytes = store.get(&file.add.path).await?;
        let (add, store) = (file.add.clone(), store.clone());
        let before = writer.take();
        // Decoding and encoding keep a thread busy.
        let copied = blocking(move || copy(&store, before, &add, bytes)).await?;
        writer = Some(copied.0);
        parts.push(Part { seq: file.added_by, rows: file.add.rows, content: copied.1 });
    }
    let Some(writer) = writer else { return Ok(None) };
    let adds = || group.files.iter().map(|file| &file.add);
    let rows = adds().map(|add| add.rows).sum();
    let staged = blocking(move || writer.into_inner().map_err(|error| failed(&error))).await?;
    let mut sealed = staged.seal().await?;
    let again = sealed.reopen()?;
    blocking(move || prove(again, &parts)).await?;
    // A name that nobody else takes, and that no capture takes for a left-over of its own.
    let path = compacted_path(&first.add.path, seq, rand::random());
    if sealed.publish_of_class(&path, class).await? == PutOutcome::AlreadyExists {
        return Err(Error::new(ErrorKind::Conflict, "a file's name is taken", path));
    }
    failpoint::hit("compact.after_file")?;
    let mut extra = first.add.extra.clone();
    let from = group.files.iter().map(|file| file.commits()[0]).min();
    let to = group.files.iter().map(|file| file.commits()[1]).max();
    extra.insert(COMMITS.to_owned(), [from, to].into_iter().flatten().collect::<Vec<u64>>().into());
    let lsn = [adds().map(|add| add.lsn[0]).min(), adds().map(|add| add.lsn[1]).max()];
    let valid_from = [adds().map(|add| add.valid_from[0]).min(), adds().map(|add| add.valid_from[1]).max()];
    let ([Some(least), Some(greatest)], [Some(earliest), Some(latest)]) = (lsn, valid_from) else {
        return Ok(None);
    };
    Ok(Some(Add {
        path,
        table: first.add.table.clone(),
        schema: first.add.schema,
        rows,
        bytes: sealed.bytes(),
        sha256: sealed.sha256(),
        lsn: [least, greatest],
        valid_from: [earliest, latest],
        digest: adds().map(|add| add.digest).collect::<Option<Vec<_>>>().map(content::of_parts),
        extra,
    }))
}

async fn blocking<T: Send + 'static>(task: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(task).await;
    done.map_err(|error| Error::new(ErrorKind::Io, "a task was ended", "compacting").with_source(error))?
}

/// Adds the facts of a file, which has to be the one that the log names; gives what they say, too.
fn copy(
    store: &Store,
    writer: Option<Writer>,
    add: &Add,
    bytes: Bytes,
) -> Result<(Writer, Option<ContentHash>)> {
    if ContentHash::of(&bytes) != add.sha256 {
        return Err(damaged(&add.path, "its SHA-256 is not the one that the log says"));
    }
    let reader = fact_file::open(&add.path, bytes)?;
    let mut writer = match writer {
        Some(writer) => writer,
        None => {
            let schema = reader.schema();
            let properties = parquet_layout::merged_properties(&schema);
            ArrowWriter::try_new(store.stage()?, schema, Some(properties)).map_err(|error| failed(&error))?
        }
    };
    let mut rows = 0;
    let mut content = Content::default();
    for batch in reader {
        let batch = batch.map_err(|error| damaged(&add.path, &error.to_string()))?;
        rows += batch.num_rows() as u64;
        content.add(&batch);
        writer.write(&batch).map_err(|error| failed(&error))?;
        if writer.in_progress_size() > parquet_layout::ROW_GROUP_BYTES {
            writer.flush().map_err(|error| failed(&error))?;
        }
    }
    if rows != add.rows {
        return Err(damaged(&add.path, &format!("it holds {rows} facts, and the log says {}", add.rows)));
    }
    let found = content.finish();
    if compacted_seq(&add.path).is_none() && add.digest.is_some() && add.digest != found {
        return Err(damaged(&add.path, "its facts are not those that the log says"));
    }
    Ok((writer, found))
}

/// Reads a merged file: it has to say what the files said that became it.
fn prove(file: std::fs::File, parts: &[Part]) -> Result<()> {
    let other = |part: Part| {
        Error::new(
            ErrorKind::Io,
            "a merged file does not hold what was written",
            format!("facts of commit {} read differently; the files that were to be merged stay", part.seq),
        )
    };
    let unreadable = |error: &dyn std::fmt::Display| {
        Error::new(ErrorKind::Io, "a merged file cannot be read again", error.to_string())
    };
    let reader =
        ParquetRecordBatchReaderBuilder::try_new(file).and_then(ParquetRecordBatchReaderBuilder::build);
    let mut proof = Proof::new(parts);
    for batch in reader.map_err(|error| unreadable(&error))? {
        proof.add(&batch.map_err(|error| unreadable(&error))?).map_err(other)?;
    }
    proof.finish().map_err(other)
}

fn failed(error: &parquet::errors::ParquetError) -> Error {
    Error::new(ErrorKind::Io, "a Parquet file cannot be encoded", error.to_string())
}
