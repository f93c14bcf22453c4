//! Reading a table in key order.

use std::iter::Peekable;

use super::error::Result;
use super::spill::Spill;
use super::tree::{self, Entry, Tree};
use super::{Slice, table_range};

/// The entities of one table in key order, as they stood when the scan began. See [`State::scan`](super::State::scan).
pub struct Scan {
    rows: Peekable<tree::Scan>,
    spilled: Option<Peekable<tree::Scan>>,
    failed: bool,
}

impl std::fmt::Debug for Scan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scan").field("spilled", &self.spilled.is_some()).finish_non_exhaustive()
    }
}

impl Scan {
    pub(super) fn start(rows: &Tree, spill: &Spill, table: u32) -> Result<Self> {
        let range = table_range(table);
        let spilled = spill.scan(range.clone())?.map(Iterator::peekable);
        Ok(Self { rows: rows.scan(range)?.peekable(), spilled, failed: false })
    }

    /// The next entry of either source; none as its value says that it was removed.
    fn step(&mut self) -> Option<Result<(lsm_tree::Slice, Entry)>> {
        let from_spill = match (self.rows.peek(), self.spilled.as_mut().and_then(Peekable::peek)) {
            (_, None) => false,
            (None, Some(_)) | (_, Some(Err(_))) => true,
            (Some(Err(_)), Some(_)) => false,
            (Some(Ok((row, _))), Some(Ok((spilled, _)))) => {
                if row == spilled {
                    self.rows.next();
                    true
                } else {
                    spilled < row
                }
            }
        };
        if from_spill { self.spilled.as_mut()?.next() } else { self.rows.next() }
    }
}

impl Iterator for Scan {
    type Item = Result<(Key, Slice)>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.failed {
            match self.step()? {
                Ok((_, None)) => {}
                Ok((key, Some(value))) => return Some(Ok((Key(key), value))),
                Err(error) => {
                    self.failed = true;
                    return Some(Err(error));
                }
            }
        }
        None
    }
}

/// The key of an entity, as the caller wrote it.
#[derive(Clone)]
pub struct Key(lsm_tree::Slice);

impl std::ops::Deref for Key {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.get(4..).unwrap_or_default()
    }
}

impl AsRef<[u8]> for Key {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Keys do not belong into logs.
        write!(f, "Key({} bytes)", self.len())
    }
}
