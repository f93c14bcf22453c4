//! The record of what the store holds: format, history, last commit.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::error::{Result, StateError};

/// Changes with everything that makes older stores unreadable: layout, engine, encoding of keys.
const FORMAT: u32 = 3;

/// The record as the file has it.
#[derive(Serialize, Deserialize)]
struct Record {
    format: u32,
    history: String,
    applied: Option<u64>,
    /// SHA-256 of that commit's bytes, where it was told: another line of the same history may have one of the same number.
    commit: Option<String>,
    /// SHA-256 of the fields above: a flipped digit must not pass for another commit.
    sha256: String,
}

impl Record {
    fn new(history: &str, last: &Last) -> Self {
        let Last { seq, commit } = last.clone();
        let sha256 = checksum(FORMAT, history, seq, commit.as_deref());
        Self { format: FORMAT, history: history.to_owned(), applied: seq, commit, sha256 }
    }
}

/// What the store holds the facts up to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Last {
    pub(super) seq: Option<u64>,
    /// SHA-256 of the commit, in hex, where that is known.
    pub(super) commit: Option<String>,
}

fn checksum(format: u32, history: &str, applied: Option<u64>, commit: Option<&str>) -> String {
    let digest = Sha256::digest(format!("{format}\n{history}\n{applied:?}\n{commit:?}"));
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The file `applied`: written after what it vouches for is durable.
#[derive(Debug)]
pub(super) struct Applied {
    store: PathBuf,
    history: String,
    last: Last,
}

impl Applied {
    /// Reads the record in `store`: none when there is none; as an error, in words, why it cannot be used.
    pub(super) fn read(store: &Path, history: &str) -> std::result::Result<Option<Last>, String> {
        let bytes = match fs::read(store.join("applied")) {
            Ok(bytes) => bytes,
            Err(err) if err.kind() == ErrorKind::NotFound => return Ok(None),
            Err(err) => return Err(format!("its record cannot be read: {err}")),
        };
        let record: Record =
            serde_json::from_slice(&bytes).map_err(|_| "its record is damaged".to_owned())?;
        if record.format != FORMAT {
            return Err(format!("it has format {}, this version has {FORMAT}", record.format));
        }
        let told = checksum(record.format, &record.history, record.applied, record.commit.as_deref());
        if record.sha256 != told {
            return Err("its record is damaged".to_owned());
        }
        if record.history != history {
            return Err(format!("it belongs to history {}, not to {history}", record.history));
        }
        Ok(Some(Last { seq: record.applied, commit: record.commit }))
    }

    /// Begins an empty store, or goes on with the commit that [`Applied::read`] found.
    pub(super) fn open(store: &Path, history: &str, last: Last) -> Result<Self> {
        let is_new = last.seq.is_none();
        let mut applied = Self { store: store.to_owned(), history: history.to_owned(), last };
        if is_new {
            fs::create_dir_all(store)
                .map_err(|err| StateError::io_in(store, "the state store cannot be created", err))?;
            applied.write(Last::default())?;
        }
        Ok(applied)
    }

    /// The last commit recorded.
    pub(super) fn last(&self) -> &Last {
        &self.last
    }

    /// Records, durably, up to where the store holds the facts.
    pub(super) fn record(&mut self, last: Last) -> Result<()> {
        if last == self.last {
            return Ok(());
        }
        self.write(last)
    }

    fn write(&mut self, last: Last) -> Result<()> {
        let failed = |err| StateError::io_in(&self.store, "the state's record cannot be written", err);
        let bytes =
            serde_json::to_vec(&Record::new(&self.history, &last)).map_err(|err| failed(err.into()))?;
        let staged = self.store.join("applied.new");
        let mut file = File::create(&staged).map_err(failed)?;
        file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(failed)?;
        fs::rename(&staged, self.store.join("applied")).map_err(failed)?;
        File::open(&self.store).and_then(|dir| dir.sync_all()).map_err(failed)?;
        self.last = last;
        Ok(())
    }
}
