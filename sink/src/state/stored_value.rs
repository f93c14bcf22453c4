//! The form in which the store keeps a value: the value, packed when it is large, and a tag byte.

use std::borrow::Cow;
use std::ops::Deref;

use super::error::{Result, StateError, StateErrorKind};

/// The entity was removed: only where something older must be hidden.
const REMOVED: u8 = 0;
/// The value as it is.
const PLAIN: u8 = 1;
/// The value in an LZ4 block, then its length (four bytes, little endian).
const PACKED: u8 = 2;

/// From this size on a value is packed by itself, for the blocks of new files are not, and Postgres too packs what is
/// larger than some 2 kB.
const PACK_FROM: usize = 1024;
/// Output that one byte of an LZ4 block can stand for, at most.
const LARGEST_RATIO: usize = 255;

/// A value as it goes into the store, without its tag byte.
#[derive(Debug)]
pub(super) struct Stored<'a> {
    pub(super) bytes: Cow<'a, [u8]>,
    pub(super) tag: u8,
}

impl<'a> Stored<'a> {
    pub(super) fn new(value: &'a [u8]) -> Self {
        if value.len() >= PACK_FROM
            && let Some(packed) = pack(value)
        {
            return Self { bytes: Cow::Owned(packed), tag: PACKED };
        }
        Self { bytes: Cow::Borrowed(value), tag: PLAIN }
    }

    /// What stands for a removed entity.
    pub(super) const fn removed() -> Self {
        Self { bytes: Cow::Borrowed(&[]), tag: REMOVED }
    }
}

/// A stored form; none when it says that the entity was removed.
pub(super) fn unless_removed(stored: &[u8]) -> Option<&[u8]> {
    (*stored != [REMOVED]).then_some(stored)
}

/// The packed form, if it is worth it.
fn pack(value: &[u8]) -> Option<Vec<u8>> {
    let length = u32::try_from(value.len()).ok()?;
    let mut packed = lz4_flex::block::compress(value);
    if packed.len() > value.len() / 8 * 7 {
        return None;
    }
    packed.extend_from_slice(&length.to_le_bytes());
    Some(packed)
}

/// A value of the state, mostly read without copying.
///
/// It may keep the whole block that it was read from in memory: copy what is kept for long.
#[derive(Clone)]
pub struct Slice(Bytes);

#[derive(Clone)]
enum Bytes {
    /// All but the tag byte.
    Plain(lsm_tree::Slice),
    Unpacked(Box<[u8]>),
}

impl Slice {
    /// Reads the stored form; none when it says that the entity was removed.
    pub(super) fn read(stored: lsm_tree::Slice) -> Result<Option<Self>> {
        match stored.split_last() {
            Some((&PLAIN, _)) => Ok(Some(Self(Bytes::Plain(stored)))),
            Some((&PACKED, packed)) => unpack(packed).map(|value| Some(Self(Bytes::Unpacked(value)))),
            Some((&REMOVED, [])) => Ok(None),
            _ => Err(damaged()),
        }
    }
}

fn unpack(packed: &[u8]) -> Result<Box<[u8]>> {
    let (block, length) = packed.split_last_chunk().ok_or_else(damaged)?;
    let length = u32::from_le_bytes(*length) as usize;
    if length > block.len().saturating_mul(LARGEST_RATIO) {
        return Err(damaged());
    }
    let value = lz4_flex::block::decompress(block, length).map_err(|err| damaged().caused_by(err))?;
    if value.len() == length { Ok(value.into()) } else { Err(damaged()) }
}

fn damaged() -> StateError {
    StateError::new(StateErrorKind::Damaged, "a value of the state is damaged")
}

impl Deref for Slice {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Bytes::Plain(stored) => stored.split_last().map_or(&[], |(_, value)| value),
            Bytes::Unpacked(value) => value,
        }
    }
}

impl AsRef<[u8]> for Slice {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl std::fmt::Debug for Slice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Rows do not belong into logs.
        write!(f, "Slice({} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::SmallRng;
    use rand::{Rng as _, SeedableRng as _};

    use super::*;

    fn stored(value: &[u8]) -> Vec<u8> {
        let stored = Stored::new(value);
        let mut bytes = stored.bytes.into_owned();
        bytes.push(stored.tag);
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Option<Slice>> {
        Slice::read(bytes.into())
    }

    #[test]
    fn values_of_all_sizes_come_back() {
        let mut noise = vec![0; 100_000];
        SmallRng::seed_from_u64(1).fill(&mut noise[..]);
        for length in [0, 1, PACK_FROM - 1, PACK_FROM, PACK_FROM + 1, 100_000] {
            for value in [&noise[..length], &vec![7; length][..]] {
                assert_eq!(&*read(&stored(value)).unwrap().unwrap(), value);
            }
        }
        assert!(stored(&[7; 100_000]).len() < 1000);
        assert_eq!(stored(&noise).len(), noise.len() + 1);
    }

    #[test]
    fn damaged_values_are_refused() {
        let packed = stored(&[7; 5000]);
        let mut lying = packed.clone();
        let at = lying.len() - 3;
        lying[at] = 0xFF;
        assert!(read(&lying).is_err());
        let tagged = |bytes: &[u8], tag| [bytes, &[tag]].concat();
        for bytes in [&[][..], &[9], &[PACKED], &[1, 2, 3, PACKED], &[1, REMOVED]] {
            assert_eq!(read(bytes).unwrap_err().kind(), StateErrorKind::Damaged, "{bytes:?}");
        }
        for end in 0..packed.len() - 1 {
            assert!(read(&tagged(&packed[..end], PACKED)).is_err(), "cut to {end}");
        }
        assert!(read(&[REMOVED]).unwrap().is_none());
    }
}
