//! A history: one capture's facts and their log, in one place.

use bytes::Bytes;

use crate::checkpoint;
use crate::error::{Error, ErrorKind, Result};
use crate::log::{self, LogState, LogWriter, MANIFEST, Manifest, ManifestSource};
use crate::store::{PutOutcome, Sealed, Store};

/// A history, read up to some commit.
#[derive(Clone, Debug)]
pub struct History {
    store: Store,
    manifest: Manifest,
    state: LogState,
}

/// What a history is begun as, or must be.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The capture's name.
    pub name: String,
    /// The database that is captured.
    pub source: ManifestSource,
    /// The slot that it is captured through.
    pub slot: String,
    /// The publications that it is captured through.
    pub publications: Vec<String>,
}

impl History {
    /// Opens a history for reading.
    ///
    /// # Errors
    /// [`ErrorKind::NoHistory`] where there is none, [`ErrorKind::NewerFormat`], [`ErrorKind::Damaged`].
    pub async fn open(store: &Store) -> Result<Self> {
        Self::open_at(store, None).await
    }

    /// Opens a history for reading as commit `seq` left it, or as it is.
    ///
    /// # Errors
    /// As [`History::open`]; [`ErrorKind::NotFound`] where the log does not reach `seq`.
    pub async fn open_at(store: &Store, seq: Option<u64>) -> Result<Self> {
        let manifest = read_manifest(store).await?;
        let state = match seq {
            None => load(store).await?,
            seq => log::load(store, seq).await?,
        };
        Ok(Self { store: store.clone(), manifest, state })
    }

    /// Opens a history for writing, beginning it where there is none.
    ///
    /// # Errors
    /// As [`History::open`]; [`ErrorKind::OtherSource`] where the history is of something else;
    /// [`ErrorKind::Unsupported`] where the place lacks what a history needs.
    pub async fn open_or_create(store: &Store, identity: &Identity) -> Result<Self> {
        let manifest = match read_manifest(store).await {
            Ok(manifest) => manifest,
            Err(err) if err.kind() == ErrorKind::NoHistory => create(store, identity).await?,
            Err(err) => return Err(err),
        };
        check_for_writing(store, &manifest, identity).await?;
        let history = Self { store: store.clone(), manifest, state: load(store).await? };
        history.make_durable().await?;
        Ok(history)
    }

    /// Makes a history that was opened for reading one for writing, with what has come since.
    ///
    /// # Errors
    /// As [`History::open_or_create`].
    pub async fn for_writing(mut self, identity: &Identity) -> Result<Self> {
        check_for_writing(&self.store, &self.manifest, identity).await?;
        self.refresh().await?;
        self.make_durable().await?;
        Ok(self)
    }

    /// The last commit is about to be acknowledged: it must not go with the machine.
    async fn make_durable(&self) -> Result<()> {
        match self.state.last_seq() {
            Some(last) => self.store.make_durable(&log::path::commit_path(last)).await,
            None => Ok(()),
        }
    }

    /// Where it is kept.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// What it is of.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// What its log says.
    #[must_use]
    pub fn state(&self) -> &LogState {
        &self.state
    }

    /// Reads what was committed meanwhile; says how many commits.
    ///
    /// # Errors
    /// As [`History::open`].
    pub async fn refresh(&mut self) -> Result<u64> {
        log::catch_up(&self.store, &mut self.state).await
    }

    /// Becomes the one who writes it, until somebody else does.
    #[must_use]
    pub fn into_writer(self) -> LogWriter {
        LogWriter::new(self.store, self.state)
    }
}

/// The history is of this source, and the place has what a writer needs.
async fn check_for_writing(store: &Store, manifest: &Manifest, identity: &Identity) -> Result<()> {
    check_identity(store, manifest, identity)?;
    store.check_writable().await?;
    let stands = store.get(MANIFEST).await?;
    store.check_put_if_absent(MANIFEST, stands).await
}

/// Publishes a file under the first free one of the paths that `path` gives for 0, 1, 2 …, beginning at `from`. Gives the
/// path and its number back.
///
/// An object of a writer that died before its commit may stand in the way; it is an orphan and goes after our next commit.
///
/// # Errors
/// As [`Sealed::publish`]; [`ErrorKind::Conflict`] where a thousand paths are taken.
pub async fn publish_at_free_path(
    file: &mut Sealed,
    from: u32,
    path: impl Fn(u32) -> String,
) -> Result<(String, u32)> {
    for n in from..from.saturating_add(1000) {
        let path = path(n);
        if file.publish(&path).await? == PutOutcome::Created {
            return Ok((path, n));
        }
        tracing::info!(path, "an orphan has this path; taking the next");
    }
    Err(Error::new(ErrorKind::Conflict, "no free path for a file", path(from)))
}

/// What the log says. That of a spool need not begin with commit 0.
async fn load(store: &Store) -> Result<LogState> {
    let (mut state, _) = checkpoint::arrived(store).await?;
    if state.next_seq == 0 {
        return log::load(store, None).await;
    }
    log::catch_up(store, &mut state).await?;
    Ok(state)
}

pub(crate) async fn read_manifest(store: &Store) -> Result<Manifest> {
    match store.get(MANIFEST).await {
        Ok(bytes) => Manifest::from_bytes(&bytes),
        Err(err) if err.kind() == ErrorKind::NotFound => {
            let detail = format!("{} holds no {MANIFEST}; is the address right?", store.describe());
            Err(Error::new(ErrorKind::NoHistory, "there is no history", detail).with_source(err))
        }
        Err(err) => Err(err),
    }
}

async fn create(store: &Store, identity: &Identity) -> Result<Manifest> {
    if log::commit_count(store).await? > 0 {
        let detail = format!("{} has a log and no {MANIFEST}; put the file back", store.describe());
        return Err(Error::new(ErrorKind::Damaged, "a history without its manifest", detail));
    }
    let mut manifest = Manifest::new(&identity.name, identity.source.clone());
    manifest.slot = Some(identity.slot.clone());
    manifest.publications.clone_from(&identity.publications);
    match store.put_new(MANIFEST, Bytes::from(manifest.to_bytes()?)).await? {
        PutOutcome::Created => Ok(manifest),
        // Somebody began it in this moment; the log decides who goes on.
        PutOutcome::AlreadyExists => read_manifest(store).await,
    }
}

fn check_identity(store: &Store, manifest: &Manifest, identity: &Identity) -> Result<()> {
    let other = |what: &str, theirs: &str, ours: &str| {
        let detail = format!(
            "{} is of {what} {theirs:?}, not {ours:?}; give each capture a history of its own",
            store.describe()
        );
        Err(Error::new(ErrorKind::OtherSource, "the history is of something else", detail))
    };
    let (theirs, ours) = (&manifest.source, &identity.source);
    if theirs.system_id != ours.system_id {
        return other("the server with system identifier", &theirs.system_id, &ours.system_id);
    }
    if theirs.database != ours.database {
        return other("database", &theirs.database, &ours.database);
    }
    if manifest.name != identity.name {
        return other("the capture", &manifest.name, &identity.name);
    }
    Ok(())
}
