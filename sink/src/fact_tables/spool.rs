//! Facts that are kept in these tables and nowhere else: what stands on a disk of them is on its way.
//!
//! A capture writes its commits into a spool, which is a history on a local disk, and from there into the tables. Only what the tables
//! hold counts: it is acknowledged to the source after that, and a spool that is missing, or says something else, is made anew from the
//! documents that the tables keep of their commits. Files that the tables hold are removed, and once the tables have a checkpoint the documents
//! of the commits before it: the spool's log then begins with what [`arrived`](checkpoint::arrived) says.

use std::path::Path;

use bytes::Bytes;
use tokio_postgres::Client;

use super::ownership;
use super::rows::{Checkpoint, Rows};
use crate::checkpoint::{self, ARRIVED};
use crate::error::{Error, ErrorKind, Result};
use crate::history::read_manifest;
use crate::log::path::commit_path;
use crate::log::{self, LogState, MANIFEST};
use crate::store::{PutOutcome, Store};

/// What has become of a spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restored {
    /// It holds what the tables hold, and perhaps commits that are on their way to them.
    Kept,
    /// It was made anew: what else was derived from it does not count either.
    Anew,
}

/// Sees to it that a spool holds the log that fact tables hold.
///
/// # Errors
/// What the database says, and where the spool cannot be read or written.
pub async fn restore(client: Client, schema: &str, spool: &Store) -> Result<Restored> {
    ownership::check(&client, schema).await?;
    let (rows, manifest) = match Rows::open(client, schema).await {
        Ok((rows, manifest)) => (rows, manifest),
        Err(error) if error.kind() == ErrorKind::NoHistory => {
            // Nothing has arrived yet; or everything was removed, and then what is here is of no use.
            return if can_be_delivered(spool, 0).await.unwrap_or(false) {
                Ok(Restored::Kept)
            } else {
                wipe(spool)?;
                Ok(Restored::Anew)
            };
        }
        Err(error) => return Err(error),
    };
    let arrived = rows.next().await?;
    let ours = read_manifest(spool).await.ok().is_some_and(|ours| ours.id == manifest.id);
    let (mut from, restored) = if ours && agrees(spool, &rows, arrived).await? {
        if let Some(first) = checkpoint::arrived(spool).await?.0.last_seq() {
            checkpoint::forget_before(spool, first).await?;
        }
        (count(spool).await?, Restored::Kept)
    } else {
        tracing::info!("the spool is made anew from what the fact tables hold");
        wipe(spool)?;
        put(spool, MANIFEST, rows.manifest().to_owned()).await?;
        (begin(spool, &rows).await?, Restored::Anew)
    };
    while from < arrived {
        for (seq, document) in rows.documents(from, Some(DOCUMENTS)).await? {
            put(spool, &commit_path(seq), document).await?;
            from = seq + 1;
        }
    }
    Ok(restored)
}

/// Begins the log with what the tables' newest checkpoint says; gives the number of the commit that comes next.
async fn begin(spool: &Store, rows: &Rows) -> Result<u64> {
    let Some(Checkpoint { seq, commit, document, .. }) = rows.checkpoint().await? else { return Ok(0) };
    put(spool, &commit_path(seq), commit).await?;
    checkpoint::begin_with(spool, seq, &document).await?;
    Ok(seq + 1)
}

/// How many commits the log has, those included that it does not begin with.
async fn count(spool: &Store) -> Result<u64> {
    let (arrived, _) = checkpoint::arrived(spool).await?;
    log::commit_count_from(spool, arrived.next_seq).await
}

/// Documents written at a time.
const DOCUMENTS: u64 = 500;

/// The spool's log begins as the tables' does, or the other way round, and what is on its way is there.
async fn agrees(spool: &Store, rows: &Rows, arrived: u64) -> Result<bool> {
    let Ok(here) = count(spool).await else { return Ok(false) };
    let Some(last) = here.min(arrived).checked_sub(1) else {
        return Ok(here > 0 && can_be_delivered(spool, 0).await.unwrap_or(false));
    };
    // Each document holds the hash of the one before: where one is the same, all before it are.
    let theirs = rows.documents(last, Some(1)).await?;
    // The tables may have been put back to a time before the one that the log begins with.
    let Ok(ours) = spool.get(&commit_path(last)).await else { return Ok(false) };
    let same = theirs.first().is_some_and(|(_, document)| document.as_bytes() == &*ours);
    Ok(same && can_be_delivered(spool, arrived).await.unwrap_or(false))
}

/// The commits from one on have their files.
async fn can_be_delivered(spool: &Store, from: u64) -> Result<bool> {
    for seq in from..count(spool).await? {
        for add in &log::read(spool, seq).await?.commit.body.add {
            if !spool.exists(&add.path).await? {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

async fn put(spool: &Store, path: &str, text: String) -> Result<()> {
    match spool.put_new(path, Bytes::from(text)).await? {
        PutOutcome::Created => Ok(()),
        PutOutcome::AlreadyExists => {
            Err(Error::new(ErrorKind::Fenced, "another process writes this spool", path.to_owned()))
        }
    }
}

/// Removes everything that a history has.
fn wipe(spool: &Store) -> Result<()> {
    let Some(root) = spool.local_root() else { return Ok(()) };
    let remove = |name: &str| {
        let path = root.join(name);
        let removed = if path.is_dir() { std::fs::remove_dir_all(&path) } else { remove_file(&path) };
        removed.map_err(|error| {
            Error::new(ErrorKind::Io, "a spool cannot be removed", path.display().to_string())
                .with_source(error)
        })
    };
    // The log last: without it nothing would say what the rest is.
    ["tables", "transactions", MANIFEST, ARRIVED, "log"].into_iter().try_for_each(remove)
}

fn remove_file(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes the files of commits before one, which have arrived.
pub(super) async fn clear(spool: &Store, log: &LogState, before: u64) -> Result<()> {
    for file in log.files_before(before).filter(|file| !file.is_merged()) {
        spool.delete(&file.add.path).await?;
    }
    Ok(())
}
