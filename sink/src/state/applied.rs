//! The record of what the store holds: format, history, last commit.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::error::{Result, StateError};

/// Changes with everything that makes older stores unreadable: layout, engine, encoding of keys.
const FORMAT: u32 = 2;

/// The record as the file has it.
#[derive(Serialize, Deserialize)]
struct Record {
    format: u32,
    history: String,
    applied: Option<u64>,
    /// SHA-256 of the fields above: a flipped digit must not pass for another commit.
    sha256: String,
}

impl Record {
    fn new(history: &str, applied: Option<u64>) -> Self {
        let sha256 = checksum(FORMAT, history, applied);
        Self { format: FORMAT, history: history.to_owned(), applied, sha256 }
    }
}

fn checksum(format: u32, history: &str, applied: Option<u64>) -> String {
    let digest = Sha256::digest(format!("{format}\n{history}\n{applied:?}"));
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The file `applied`: written after what it vouches for is durable.
#[derive(Debug)]
pub(super) struct Applied {
    store: PathBuf,
    history: String,
    seq: Option<u64>,
}

impl Applied {
    /// Reads the record in `store`: none when there is none; as an error, in words, why it cannot be used.
    pub(super) fn read(store: &Path, history: &str) -> std::result::Result<Option<Option<u64>>, String> {
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
        if record.sha256 != checksum(record.format, &record.history, record.applied) {
            return Err("its record is damaged".to_owned());
        }
        if record.history != history {
            return Err(format!("it belongs to history {}, not to {history}", record.history));
        }
        Ok(Some(record.applied))
    }

    /// Begins an empty store, or goes on with the commit that [`Applied::read`] found.
    pub(super) fn open(store: &Path, history: &str, seq: Option<u64>) -> Result<Self> {
        let mut applied = Self { store: store.to_owned(), history: history.to_owned(), seq };
        if seq.is_none() {
            fs::create_dir_all(store)
                .map_err(|err| StateError::io_in(store, "the state store cannot be created", err))?;
            applied.write(None)?;
        }
        Ok(applied)
    }

    /// The last commit recorded.
    pub(super) fn seq(&self) -> Option<u64> {
        self.seq
    }

    /// Records, durably, that the store holds the facts up to `seq`.
    pub(super) fn record(&mut self, seq: Option<u64>) -> Result<()> {
        if seq == self.seq {
            return Ok(());
        }
        self.write(seq)
    }

    fn write(&mut self, seq: Option<u64>) -> Result<()> {
        let failed = |err| StateError::io_in(&self.store, "the state's record cannot be written", err);
        let bytes = serde_json::to_vec(&Record::new(&self.history, seq)).map_err(|err| failed(err.into()))?;
        let staged = self.store.join("applied.new");
        let mut file = File::create(&staged).map_err(failed)?;
        file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(failed)?;
        fs::rename(&staged, self.store.join("applied")).map_err(failed)?;
        File::open(&self.store).and_then(|dir| dir.sync_all()).map_err(failed)?;
        self.seq = seq;
        Ok(())
    }
}
