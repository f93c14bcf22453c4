//! Entries gathered in memory, to be written in key order.

use super::stored_value::Stored;

/// Entries in one allocation, with an index to sort them by.
///
/// Of several entries with one key the last one pushed counts.
#[derive(Debug, Default)]
pub(super) struct SortBuffer {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// The first 16 bytes of the key, zero-padded: most comparisons end here, without touching the bytes.
    head: u128,
    /// Where the key starts in `bytes`; also the order of arrival.
    at: u64,
    key: u32,
    value: u32,
}

/// Marks an entry without a value: the key was removed.
const REMOVED: u32 = u32::MAX;

impl SortBuffer {
    /// Makes room for `bytes` bytes of keys and values.
    pub(super) fn reserve(&mut self, bytes: usize) {
        self.bytes.reserve(bytes);
    }

    /// Adds an entry; the key is `table` (big-endian) and `key`. The caller has checked the sizes.
    pub(super) fn push(&mut self, table: u32, key: &[u8], value: Option<&Stored<'_>>) {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&table.to_be_bytes());
        self.bytes.extend_from_slice(key);
        let full_key = self.bytes.get(at..).unwrap_or_default();
        let key = u32::try_from(full_key.len()).unwrap_or(u32::MAX);
        let mut entry = Entry { head: head(full_key), at: at as u64, key, value: REMOVED };
        if let Some(value) = value {
            entry.value = u32::try_from(value.bytes.len() + 1).unwrap_or(REMOVED);
            self.bytes.extend_from_slice(&value.bytes);
            self.bytes.push(value.tag);
        }
        self.entries.push(entry);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Memory in use, index included.
    pub(super) fn size(&self) -> usize {
        self.bytes.len() + self.entries.len() * size_of::<Entry>()
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.entries.clear();
    }

    fn key(&self, entry: &Entry) -> &[u8] {
        let at = usize::try_from(entry.at).unwrap_or(usize::MAX);
        self.bytes.get(at..at.saturating_add(entry.key as usize)).unwrap_or_default()
    }

    fn value(&self, entry: &Entry) -> Option<&[u8]> {
        if entry.value == REMOVED {
            return None;
        }
        let at = usize::try_from(entry.at).unwrap_or(usize::MAX).saturating_add(entry.key as usize);
        self.bytes.get(at..at.saturating_add(entry.value as usize))
    }

    /// Puts the entries into ascending key order, each key once.
    pub(super) fn sort(&mut self) {
        let Self { bytes, entries } = self;
        let key = |entry: &Entry| {
            let at = usize::try_from(entry.at).unwrap_or(usize::MAX);
            bytes.get(at..at.saturating_add(entry.key as usize)).unwrap_or_default()
        };
        // Entries of one key: the newest first, so that dedup keeps it.
        entries.sort_unstable_by(|a, b| {
            a.head.cmp(&b.head).then_with(|| key(a).cmp(key(b))).then_with(|| b.at.cmp(&a.at))
        });
        entries.dedup_by(|later, kept| later.head == kept.head && key(later) == key(kept));
    }

    /// The entries: full key, stored value with its tag (none when removed). In key order after [`SortBuffer::sort`].
    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        self.entries.iter().map(|entry| (self.key(entry), self.value(entry)))
    }

    pub(super) fn first_key(&self) -> Option<&[u8]> {
        self.entries.first().map(|entry| self.key(entry))
    }

    pub(super) fn last_key(&self) -> Option<&[u8]> {
        self.entries.last().map(|entry| self.key(entry))
    }
}

fn head(key: &[u8]) -> u128 {
    let mut head = [0; 16];
    for (to, from) in head.iter_mut().zip(key) {
        *to = *from;
    }
    u128::from_be_bytes(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_entry_of_a_key_counts_and_keys_ascend() {
        let mut buffer = SortBuffer::default();
        for (table, key, value) in [
            (2, "a", Some("table two")),
            (1, "key that is longer than the head, b", Some("b")),
            (1, "key that is longer than the head, a", Some("old")),
            (1, "key", None),
            (1, "key\0", Some("")),
            (1, "key that is longer than the head, a", Some("new")),
        ] {
            buffer.push(table, key.as_bytes(), value.map(|value| Stored::new(value.as_bytes())).as_ref());
        }
        buffer.sort();
        let found: Vec<_> = buffer
            .iter()
            .map(|(key, value)| {
                let value = value.map(|value| std::str::from_utf8(value.split_last().unwrap().1).unwrap());
                (std::str::from_utf8(&key[4..]).unwrap(), value)
            })
            .collect();
        let expected = [
            ("key", None),
            ("key\0", Some("")),
            ("key that is longer than the head, a", Some("new")),
            ("key that is longer than the head, b", Some("b")),
            ("a", Some("table two")),
        ];
        assert_eq!(found, expected);
    }
}
