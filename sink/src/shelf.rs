//! The shelf: values too large to go from hand to hand.
//!
//! A value of some megabytes and more is written down as soon as it has come, and a row carries its [`LargeRef`] in its stead. What is written
//! is the very page that a fact file holds of it, packed: each fact of the value takes the bytes as they are, and nobody
//! holds the value itself in memory again. Equal values are one file.
//!
//! ```text
//! <state>/store/large/<SHA-256 of the value>   zstd of: levels, length (four bytes, little endian), value
//! ```
//!
//! Like all of state it is a cache: it goes with the state, which is rebuilt from facts. What no row of state names any more is
//! swept once there is as much of it as there is of the rest.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use memchr::memmem;
use sha2::{Digest as _, Sha256};

use crate::error::{Error, ErrorKind, Result};
use crate::log::ContentHash;
use crate::state::{StateError, create_private};

/// From this size on a value is large.
pub(crate) const LARGE: usize = 4 << 20;

/// The levels of a page of one value that is not null ("RLE" in Parquet's encodings): length of the run's bytes, one value,
/// level 1.
const LEVELS: [u8; 6] = [2, 0, 0, 0, 2, 1];

/// What stands before the value in its page: the levels, and its length.
const HEAD: usize = LEVELS.len() + 4;

/// There is always room for so much that nobody needs.
const SWEEP_FROM: u64 = 1 << 30;

/// What a row says of a large value.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct LargeRef {
    length: u64,
    sha256: ContentHash,
}

impl std::fmt::Debug for LargeRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LargeRef({} bytes)", self.length)
    }
}

impl LargeRef {
    /// Bytes of its kept form.
    pub(crate) const SIZE: usize = 40;

    /// Of a value.
    pub(crate) fn of(value: &[u8]) -> Self {
        Self { length: value.len() as u64, sha256: ContentHash::of(value) }
    }

    pub(crate) fn to_bytes(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        let (length, hash) = bytes.split_at_mut(8);
        length.copy_from_slice(&self.length.to_le_bytes());
        hash.copy_from_slice(&self.sha256.0);
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (length, hash) = bytes.split_first_chunk::<8>()?;
        Some(Self { length: u64::from_le_bytes(*length), sha256: ContentHash(hash.try_into().ok()?) })
    }
}

/// The body of a page of one large value.
#[derive(Debug)]
pub(crate) struct Page {
    /// Packed.
    pub(crate) body: Bytes,
    /// Bytes when unpacked.
    pub(crate) unpacked: usize,
}

/// Keeps large values. See the [module](self).
#[derive(Debug)]
pub struct Shelf {
    directory: PathBuf,
    inner: Mutex<Inner>,
    /// Those who keep rows that no state shows yet.
    holds: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Counts the commits that were sealed.
    generation: u64,
    /// In which generation a file was put or asked for again.
    put: HashMap<ContentHash, u64>,
    /// Bytes put since the last sweep, and left by it.
    added: u64,
    left: u64,
}

/// Nothing is swept while it lives.
#[derive(Debug)]
pub struct Hold(Arc<AtomicUsize>);

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Shelf {
    /// The shelf in a directory, which is made when something is put.
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self { directory, inner: Mutex::default(), holds: Arc::default() }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Nothing in it is ever half-done.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, of: LargeRef) -> PathBuf {
        self.directory.join(of.sha256.to_string())
    }

    /// Keeps a value.
    pub(crate) fn put(&self, value: &[u8]) -> Result<LargeRef> {
        let reference = LargeRef::of(value);
        if !self.is_known(reference) {
            self.write(reference, value)
                .map_err(|error| Error::from(StateError::unwritable_in(&self.directory, error)))?;
        }
        Ok(reference)
    }

    fn write(&self, reference: LargeRef, value: &[u8]) -> io::Result<()> {
        create_private(&self.directory)?;
        let file = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(&self.directory)?;
        let mut packed = zstd::Encoder::new(BufWriter::new(file.as_file()), zstd::DEFAULT_COMPRESSION_LEVEL)?;
        packed.include_checksum(true)?;
        packed.set_pledged_src_size(Some((HEAD + value.len()) as u64))?;
        packed.write_all(&LEVELS)?;
        let length = u32::try_from(value.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
        packed.write_all(&length.to_le_bytes())?;
        packed.write_all(value)?;
        packed.finish()?.flush()?;
        // State that is durable may name it.
        file.as_file().sync_all()?;
        let bytes = file.as_file().metadata()?.len();
        let mut inner = self.inner();
        file.persist(self.path(reference)).map_err(|error| error.error)?;
        File::open(&self.directory)?.sync_all()?;
        let generation = inner.generation;
        inner.put.insert(reference.sha256, generation);
        inner.added += bytes;
        Ok(())
    }

    /// It is there, and will not be swept before the commit that is being gathered.
    fn is_known(&self, reference: LargeRef) -> bool {
        let mut inner = self.inner();
        let known = self.path(reference).exists();
        if known {
            let generation = inner.generation;
            inner.put.insert(reference.sha256, generation);
        }
        known
    }

    /// The page of a value, after a look at whether it still is that of the value.
    pub(crate) fn page(&self, of: LargeRef) -> Result<Page> {
        let body = fs::read(self.path(of)).map_err(|error| self.damaged(of, &error))?;
        self.unpack(of, &body[..], io::sink())?;
        let length = usize::try_from(of.length).unwrap_or(usize::MAX);
        Ok(Page { body: body.into(), unpacked: length.saturating_add(HEAD) })
    }

    /// A value itself: for what cannot do without.
    pub(crate) fn value(&self, of: LargeRef) -> Result<Vec<u8>> {
        let file = File::open(self.path(of)).map_err(|error| self.damaged(of, &error))?;
        let mut value = Vec::with_capacity(usize::try_from(of.length).unwrap_or(0));
        self.unpack(of, BufReader::new(file), &mut value)?;
        Ok(value)
    }

    /// Writes the value that a page holds, which must be the one that is named.
    fn unpack(&self, of: LargeRef, page: impl Read, into: impl Write) -> Result<()> {
        let mut into = Hashing { hash: Sha256::new(), into };
        let copied = || -> io::Result<u64> {
            let mut plain = zstd::Decoder::new(page)?;
            plain.read_exact(&mut [0; HEAD])?;
            // No more than there should be, whatever the file unpacks to.
            io::copy(&mut plain.take(of.length + 1), &mut into)
        };
        let length = copied().map_err(|error| self.damaged(of, &error))?;
        if length != of.length || ContentHash(into.hash.finalize().into()) != of.sha256 {
            return Err(self.damaged(of, &io::Error::other("it holds another value")));
        }
        Ok(())
    }

    fn damaged(&self, of: LargeRef, error: &io::Error) -> Error {
        Error::new(
            ErrorKind::Damaged,
            "a large value of the state cannot be read",
            format!(
                "{}: {error} (delete the state directory: it is rebuilt from facts)",
                self.path(of).display()
            ),
        )
    }

    /// Keeps everything for as long as the hold lives: rows wait somewhere that no state shows.
    #[must_use]
    pub fn hold(&self) -> Hold {
        self.holds.fetch_add(1, Ordering::SeqCst);
        Hold(Arc::clone(&self.holds))
    }

    /// A commit was sealed: what is put from now on belongs to later ones. Returns its generation.
    pub(crate) fn seal(&self) -> u64 {
        let mut inner = self.inner();
        let sealed = inner.generation;
        inner.generation += 1;
        sealed
    }

    /// Enough has come since the last sweep, and nobody holds it off.
    pub(crate) fn is_sweep_due(&self) -> bool {
        let inner = self.inner();
        inner.added > inner.left.max(SWEEP_FROM) && self.holds.load(Ordering::SeqCst) == 0
    }

    /// There is something on it.
    pub(crate) fn is_used(&self) -> bool {
        files(&self.directory).next().is_some()
    }

    /// Removes what was put up to a generation and is not among what `named` has found. Without a generation nothing was put
    /// yet: then files that were not finished go, too.
    pub(crate) fn sweep(&self, named: &Named, generation: Option<u64>) {
        let mut inner = self.inner();
        let Inner { put, added, left, .. } = &mut *inner;
        (*added, *left) = (0, 0);
        for (name, bytes) in files(&self.directory) {
            let hash = name.parse::<ContentHash>().ok();
            let is_newer = hash.and_then(|hash| put.get(&hash)).is_some_and(|put| Some(*put) > generation);
            if is_newer || hash.is_some_and(|hash| named.0.contains(&hash)) {
                *left += bytes;
                continue;
            }
            let swept = hash.is_some() || generation.is_none();
            if swept && let Err(error) = fs::remove_file(self.directory.join(&name)) {
                tracing::warn!(%error, "a large value that nobody needs cannot be removed");
            }
        }
        put.retain(|_, put| Some(*put) > generation);
    }

    /// Bytes on disk, about.
    pub(crate) fn disk_bytes(&self) -> u64 {
        let inner = self.inner();
        inner.added + inner.left
    }
}

/// Hashes what is written.
struct Hashing<W> {
    hash: Sha256,
    into: W,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.into.write(bytes)?;
        self.hash.update(bytes.get(..written).unwrap_or_default());
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.into.flush()
    }
}

/// How files are called that are not whole yet.
const UNFINISHED: &str = "unfinished-";

/// Names and lengths.
fn files(directory: &Path) -> impl Iterator<Item = (String, u64)> + use<> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let bytes = entry.metadata().ok()?.len();
        Some((entry.file_name().into_string().ok()?, bytes))
    })
}

/// The large values that rows name.
#[derive(Debug, Default)]
pub(crate) struct Named(HashSet<ContentHash>);

impl Named {
    /// Looks through what the state keeps of an entity. Bytes of a value may look like a name: then something stays that nobody
    /// needs.
    pub(crate) fn look_through(&mut self, stored: &[u8]) {
        for at in memmem::find_iter(stored, &crate::value::LARGE_MARK) {
            let reference = stored.get(at + crate::value::LARGE_MARK.len()..).unwrap_or_default();
            if let Some(reference) = reference.get(..LargeRef::SIZE).and_then(LargeRef::from_bytes) {
                self.0.insert(reference.sha256);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(seed: u8) -> Vec<u8> {
        (0..LARGE + usize::from(seed)).map(|at| (at / 7 % 251) as u8 ^ seed).collect()
    }

    fn shelf() -> (tempfile::TempDir, Shelf) {
        let directory = tempfile::tempdir().unwrap();
        let shelf = Shelf::new(directory.path().join("large"));
        (directory, shelf)
    }

    #[test]
    fn a_value_comes_back_and_equal_ones_are_one_file() {
        let (_directory, shelf) = shelf();
        assert!(!shelf.is_used());
        let (one, other) = (value(1), value(2));
        let kept = shelf.put(&one).unwrap();
        assert_eq!(shelf.put(&one).unwrap(), kept);
        assert_eq!(files(&shelf.directory).count(), 1);
        assert_ne!(shelf.put(&other).unwrap(), kept);
        assert_eq!(LargeRef::from_bytes(&kept.to_bytes()), Some(kept));
        assert_eq!(shelf.value(kept).unwrap(), one);
        let page = shelf.page(kept).unwrap();
        let plain = zstd::decode_all(&page.body[..]).unwrap();
        assert_eq!(plain.len(), page.unpacked);
        assert_eq!(plain[10..], one);
    }

    #[test]
    fn a_file_that_was_touched_is_not_taken() {
        let (_directory, shelf) = shelf();
        let (kept, other) = (shelf.put(&value(1)).unwrap(), shelf.put(&value(2)).unwrap());
        let whole = fs::read(shelf.path(kept)).unwrap();
        for damage in [&whole[..whole.len() / 2], &fs::read(shelf.path(other)).unwrap(), b""] {
            fs::write(shelf.path(kept), damage).unwrap();
            assert_eq!(shelf.page(kept).unwrap_err().kind(), ErrorKind::Damaged);
            assert_eq!(shelf.value(kept).unwrap_err().kind(), ErrorKind::Damaged);
        }
        fs::remove_file(shelf.path(kept)).unwrap();
        assert_eq!(shelf.page(kept).unwrap_err().kind(), ErrorKind::Damaged);
    }

    #[test]
    fn what_is_named_or_new_or_held_is_not_swept() {
        let (_directory, shelf) = shelf();
        let [gone, named, again, new] = [1, 2, 3, 4].map(value);
        let [_, _, kept] = [&gone, &again, &named].map(|value| shelf.put(value).unwrap());
        let sealed = shelf.seal();
        shelf.put(&new).unwrap();
        shelf.put(&again).unwrap();
        let mut found = Named::default();
        found.look_through(&[b"row", &crate::value::LARGE_MARK[..], &kept.to_bytes(), b"rest"].concat());
        found.look_through(&crate::value::LARGE_MARK);
        shelf.sweep(&found, Some(sealed));
        let there = |value: &[u8]| shelf.path(LargeRef::of(value)).exists();
        assert_eq!([there(&gone), there(&named), there(&again), there(&new)], [false, true, true, true]);
        let hold = shelf.hold();
        shelf.inner().added = 2 * SWEEP_FROM;
        assert!(!shelf.is_sweep_due());
        drop(hold);
        assert!(shelf.is_sweep_due());
    }
}
