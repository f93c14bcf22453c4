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

/// From this size on a value is large.
pub(crate) const LARGE: usize = 4 << 20;

/// The levels of a page of one value that is not null ("RLE" in Parquet's encodings): length of the run's bytes, one value,
/// level 1.
const LEVELS: [u8; 6] = [2, 0, 0, 0, 2, 1];

/// There is always room for so much that nobody needs.
const SWEEP_FROM: u64 = 1 << 30;

/// What a row says of a large value.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct LargeRef {
    length: u64,
    sha256: [u8; 32],
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
        Self { length: value.len() as u64, sha256: Sha256::digest(value).into() }
    }

    pub(crate) fn to_bytes(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        let (length, hash) = bytes.split_at_mut(8);
        length.copy_from_slice(&self.length.to_le_bytes());
        hash.copy_from_slice(&self.sha256);
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (length, hash) = bytes.split_first_chunk::<8>()?;
        Some(Self { length: u64::from_le_bytes(*length), sha256: hash.try_into().ok()? })
    }

    fn name(self) -> String {
        self.sha256.iter().fold(String::with_capacity(64), |mut name, byte| {
            name.push(char::from_digit(u32::from(byte >> 4), 16).unwrap_or('0'));
            name.push(char::from_digit(u32::from(byte & 15), 16).unwrap_or('0'));
            name
        })
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
    put: HashMap<[u8; 32], u64>,
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
        let left = files(&directory).map(|(_, bytes)| bytes).sum();
        Self { directory, inner: Mutex::new(Inner { left, ..Inner::default() }), holds: Arc::default() }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Nothing in it is ever half-done.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, of: LargeRef) -> PathBuf {
        self.directory.join(of.name())
    }

    /// Keeps a value.
    pub(crate) fn put(&self, value: &[u8]) -> io::Result<LargeRef> {
        let reference = LargeRef::of(value);
        let path = self.path(reference);
        if self.is_known(reference, &path) {
            return Ok(reference);
        }
        let mut builder = fs::DirBuilder::new();
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.recursive(true).create(&self.directory)?;
        let file = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(&self.directory)?;
        let mut packed = zstd::Encoder::new(BufWriter::new(file.as_file()), zstd::DEFAULT_COMPRESSION_LEVEL)?;
        packed.include_checksum(true)?;
        packed.set_pledged_src_size(Some((LEVELS.len() + 4 + value.len()) as u64))?;
        packed.write_all(&LEVELS)?;
        let length = u32::try_from(value.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
        packed.write_all(&length.to_le_bytes())?;
        packed.write_all(value)?;
        packed.finish()?.flush()?;
        // State that is durable may name it.
        file.as_file().sync_all()?;
        let bytes = file.as_file().metadata()?.len();
        let mut inner = self.inner();
        file.persist(&path).map_err(|error| error.error)?;
        File::open(&self.directory)?.sync_all()?;
        let generation = inner.generation;
        inner.put.insert(reference.sha256, generation);
        inner.added += bytes;
        Ok(reference)
    }

    /// It is there, and will not be swept before the commit that is being gathered.
    fn is_known(&self, reference: LargeRef, path: &Path) -> bool {
        let mut inner = self.inner();
        let known = path.exists();
        if known {
            let generation = inner.generation;
            inner.put.insert(reference.sha256, generation);
        }
        known
    }

    /// The page of a value, after a look at whether it still is that of the value.
    pub(crate) fn page(&self, of: LargeRef) -> Result<Page> {
        let body = fs::read(self.path(of)).map_err(|error| self.damaged(of, &error))?;
        let mut hash = Hashing(Sha256::new());
        let unpacked = self.unpack(of, &body[..], &mut hash)?;
        if <[u8; 32]>::from(hash.0.finalize()) != of.sha256 {
            return Err(self.damaged(of, &io::Error::other("it holds another value")));
        }
        Ok(Page { body: body.into(), unpacked })
    }

    /// A value itself: for what cannot do without.
    pub(crate) fn value(&self, of: LargeRef) -> Result<Vec<u8>> {
        let file = File::open(self.path(of)).map_err(|error| self.damaged(of, &error))?;
        let mut value = Vec::with_capacity(usize::try_from(of.length).unwrap_or(0));
        self.unpack(of, BufReader::new(file), &mut value)?;
        if LargeRef::of(&value) != of {
            return Err(self.damaged(of, &io::Error::other("it holds another value")));
        }
        Ok(value)
    }

    /// Writes the value that a page holds. Returns the page's bytes.
    fn unpack(&self, of: LargeRef, page: impl Read, into: &mut impl Write) -> Result<usize> {
        let copied = || -> io::Result<u64> {
            let mut plain = zstd::Decoder::new(page)?;
            let mut head = [0; LEVELS.len() + 4];
            plain.read_exact(&mut head)?;
            // No more than there should be, whatever the file unpacks to.
            io::copy(&mut plain.take(of.length + 1), into)
        };
        match copied() {
            Ok(length) if length == of.length => {
                Ok(usize::try_from(length).unwrap_or(usize::MAX).saturating_add(LEVELS.len() + 4))
            }
            Ok(_) => Err(self.damaged(of, &io::Error::other("it has another length"))),
            Err(error) => Err(self.damaged(of, &error)),
        }
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

    /// An error of [`Shelf::put`], in words.
    pub(crate) fn unwritable(&self, error: io::Error) -> Error {
        Error::from(crate::state::StateError::unwritable_in(&self.directory, error))
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
            let hash = from_hex(&name);
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
struct Hashing(Sha256);

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
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

fn from_hex(name: &str) -> Option<[u8; 32]> {
    let digits = name.as_bytes();
    let mut hash = [0; 32];
    if digits.len() != 64 {
        return None;
    }
    for (byte, pair) in hash.iter_mut().zip(digits.as_chunks::<2>().0) {
        let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(hash)
}

/// The large values that rows name.
#[derive(Debug, Default)]
pub(crate) struct Named(HashSet<[u8; 32]>);

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
