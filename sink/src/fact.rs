//! Facts: one immutable version of an entity, and what is said about it.

use bygone_replication::Lsn;

use crate::value::push_uuid;

/// What brought a fact about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// The row was there when bygone came.
    Snapshot,
    /// A row came.
    Insert,
    /// A row changed.
    Update,
    /// A row went: a tombstone.
    Delete,
    /// The table was emptied: a tombstone.
    Truncate,
    /// The row's key changed: a tombstone of the old entity, and a version of the new one.
    Rekey,
    /// A difference to the source that its WAL never told.
    Reconcile,
    /// The table went: a tombstone.
    Drop,
}

impl Op {
    const ALL: [Self; 8] = [
        Self::Snapshot,
        Self::Insert,
        Self::Update,
        Self::Delete,
        Self::Truncate,
        Self::Rekey,
        Self::Reconcile,
        Self::Drop,
    ];

    /// The one of a name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|op| op.name() == name)
    }

    /// The name in `_op`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Snapshot => "snapshot",
            Self::Insert => "insert",
            Self::Update => "update",
            Self::Delete => "delete",
            Self::Truncate => "truncate",
            Self::Rekey => "rekey",
            Self::Reconcile => "reconcile",
            Self::Drop => "drop",
        }
    }
}

/// Who changed something and why, as the application said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// `_actor`.
    pub actor: Option<String>,
    /// `_context`: a JSON object.
    pub json: Option<String>,
}

/// The transaction, or snapshot, that facts come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// `_lsn`: the end of the commit record, or the consistent point of a snapshot [7].
    pub lsn: Lsn,
    /// The 64-bit transaction id; 0 for a snapshot.
    pub xid: i64,
    /// The commit time as the source recorded it, microseconds since the Unix epoch.
    pub committed_at: i64,
    /// `_valid_from`: the commit time made non-decreasing in LSN order, microseconds since the Unix epoch [11].
    pub valid_from: i64,
}

/// The id of a fact: a UUIDv7 made of where the fact comes from alone, so that a replay yields the same one [12].
///
/// 48 bits of the raw commit time in milliseconds, 42 low bits of the LSN, 32 bits of `_seq`.
#[must_use]
pub fn fact_id(committed_at: i64, lsn: Lsn, seq: u32) -> [u8; 16] {
    let ms = u128::from((committed_at.div_euclid(1_000)).cast_unsigned() & 0xFFFF_FFFF_FFFF);
    let high = u128::from(lsn.0 >> 30 & 0xFFF);
    let low = u128::from(lsn.0 & 0x3FFF_FFFF);
    let bits = ms << 80 | 7 << 76 | high << 64 | 2 << 62 | low << 32 | u128::from(seq);
    bits.to_be_bytes()
}

/// The text of a [`fact_id`].
#[must_use]
pub fn fact_id_text(id: [u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    push_uuid(id, &mut text);
    text
}

/// The id that a text stands for.
#[must_use]
pub(crate) fn parse_fact_id(text: &str) -> Option<[u8; 16]> {
    let digits: String = text.split('-').collect();
    u128::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 32).map(u128::to_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_uuid_of_version_7_that_holds_its_origin() {
        let id = fact_id(1_763_940_000_123_456, Lsn(0x12_3456_789A), 7);
        let text = fact_id_text(id);
        assert_eq!(&text[14..15], "7");
        assert!(matches!(&text[19..20], "8" | "9" | "a" | "b"), "the variant of RFC 9562: {text}");
        let bits = u128::from_be_bytes(id);
        assert_eq!(bits >> 80, 1_763_940_000_123);
        let lsn = (bits >> 64 & 0xFFF) << 30 | bits >> 32 & 0x3FFF_FFFF;
        assert_eq!(lsn, 0x12_3456_789A & ((1 << 42) - 1));
        assert_eq!(bits & 0xFFFF_FFFF, 7);
    }
}
