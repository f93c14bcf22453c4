//! The messages of the `pgoutput` plugin, decoded in place.
//!
//! A [`Message`] borrows from the bytes of one XLogData payload: nothing is copied. Every input that is not a whole,
//! well-formed message is a [`DecodeError`]; none panics. Formats: "Logical Replication Message Formats" in the
//! PostgreSQL manual, protocol version 1 (bygone asks for neither streaming nor two-phase [33]).

use std::fmt;

use crate::Lsn;

/// Microseconds between the Unix epoch and 2000-01-01, the epoch of Postgres.
pub const POSTGRES_EPOCH_US: i64 = 946_684_800_000_000;

/// One message of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// A transaction starts: everything up to its [`Message::Commit`] belongs to it.
    Begin(Begin),
    /// The transaction that began last is whole.
    Commit(Commit),
    /// The transaction came from elsewhere (`pg_replication_origin`).
    Origin {
        /// Commit position on the origin.
        lsn: Lsn,
        /// Name of the origin.
        name: &'a str,
    },
    /// Describes a table before its first row, and whenever it may have changed.
    Relation(Relation<'a>),
    /// Describes a type that is not built in.
    Type {
        /// `pg_type.oid`.
        oid: u32,
        /// Schema; empty for `pg_catalog`.
        schema: &'a str,
        /// Name; for a domain, of its base type [19].
        name: &'a str,
    },
    /// A row came.
    Insert {
        /// `oid` of the table.
        relation: u32,
        /// The row.
        new: Tuple<'a>,
    },
    /// A row changed.
    Update {
        /// `oid` of the table.
        relation: u32,
        /// The old row or its key, where sent.
        old: Option<Old<'a>>,
        /// The new row; values stored out of line that did not change are [`Cell::Unchanged`].
        new: Tuple<'a>,
    },
    /// A row went.
    Delete {
        /// `oid` of the table.
        relation: u32,
        /// The old row or its key.
        old: Old<'a>,
    },
    /// Tables were emptied.
    Truncate {
        /// `truncate … cascade`.
        cascade: bool,
        /// `truncate … restart identity`.
        restart_identity: bool,
        /// The tables.
        relations: Relations<'a>,
    },
    /// `pg_logical_emit_message`.
    Logical {
        /// It belongs to the transaction; otherwise it may come from one that aborted [33].
        transactional: bool,
        /// Where it stands.
        lsn: Lsn,
        /// Who it is for.
        prefix: &'a str,
        /// What it says.
        content: &'a [u8],
    },
}

/// The start of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begin {
    /// Start of the commit record.
    pub final_lsn: Lsn,
    /// Commit time, microseconds since the Unix epoch.
    pub committed_at: i64,
    /// The low 32 bits of the transaction id.
    pub xid: u32,
}

/// The end of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Start of the commit record.
    pub commit_lsn: Lsn,
    /// End of the commit record: the position of the transaction in the history [7].
    pub end_lsn: Lsn,
    /// Commit time, microseconds since the Unix epoch.
    pub committed_at: i64,
}

/// A table as it stood at this place of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relation<'a> {
    /// `oid` of the table.
    pub oid: u32,
    /// Schema; empty for `pg_catalog`.
    pub schema: &'a str,
    /// Name.
    pub name: &'a str,
    /// `relreplident`: `d`, `n`, `f` or `i`.
    pub identity: u8,
    count: u16,
    columns: &'a [u8],
}

/// A column of a [`Relation`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelationColumn<'a> {
    /// Part of the replica identity; under FULL every column is.
    pub key: bool,
    /// Name.
    pub name: &'a str,
    /// `pg_type.oid`.
    pub type_oid: u32,
    /// `atttypmod`.
    pub typmod: i32,
}

/// What is told of the row before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Old<'a> {
    /// The columns of the replica identity; the others are null.
    Key(Tuple<'a>),
    /// The whole row (REPLICA IDENTITY FULL).
    Row(Tuple<'a>),
}

impl<'a> Old<'a> {
    /// The columns told, whichever they are.
    #[must_use]
    pub const fn tuple(&self) -> Tuple<'a> {
        match *self {
            Self::Key(tuple) | Self::Row(tuple) => tuple,
        }
    }
}

/// The columns of a row, in the order of its [`Relation`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Tuple<'a> {
    count: u16,
    cells: &'a [u8],
}

/// One value as it came.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Cell<'a> {
    /// SQL null.
    Null,
    /// A value stored out of line that the update left alone: it is not sent.
    Unchanged,
    /// The type's output text.
    Text(&'a [u8]),
    /// The type's binary form.
    Binary(&'a [u8]),
}

impl fmt::Debug for Cell<'_> {
    /// Row values never reach a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("Null"),
            Self::Unchanged => f.write_str("Unchanged"),
            Self::Text(bytes) => write!(f, "Text({} bytes)", bytes.len()),
            Self::Binary(bytes) => write!(f, "Binary({} bytes)", bytes.len()),
        }
    }
}

impl fmt::Debug for Tuple<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.cells()).finish()
    }
}

impl<'a> Tuple<'a> {
    /// Number of columns.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count as usize
    }

    /// A row without columns.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The values in order.
    #[must_use]
    pub const fn cells(&self) -> Cells<'a> {
        Cells { left: self.count, reader: Reader { bytes: self.cells } }
    }

    fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let count = reader.u16()?;
        let start = reader.bytes;
        for _ in 0..count {
            read_cell(reader)?;
        }
        let length = start.len() - reader.bytes.len();
        let cells = start.get(..length).ok_or(DecodeError::Truncated)?;
        Ok(Self { count, cells })
    }
}

/// Iterator over the values of a [`Tuple`].
#[derive(Clone, Debug)]
pub struct Cells<'a> {
    left: u16,
    reader: Reader<'a>,
}

impl<'a> Iterator for Cells<'a> {
    type Item = Cell<'a>;

    #[inline]
    fn next(&mut self) -> Option<Cell<'a>> {
        self.left = self.left.checked_sub(1)?;
        // The tuple was walked once when the message was decoded: this does not fail.
        read_cell(&mut self.reader).ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left as usize, Some(self.left as usize))
    }
}

impl ExactSizeIterator for Cells<'_> {}

#[inline]
fn read_cell<'a>(reader: &mut Reader<'a>) -> Result<Cell<'a>, DecodeError> {
    Ok(match reader.u8()? {
        b'n' => Cell::Null,
        b'u' => Cell::Unchanged,
        b't' => Cell::Text(reader.counted()?),
        b'b' => Cell::Binary(reader.counted()?),
        tag => return Err(DecodeError::Tag { what: "column value", tag }),
    })
}

impl<'a> Relation<'a> {
    /// The columns in order.
    #[must_use]
    pub const fn columns(&self) -> RelationColumns<'a> {
        RelationColumns { left: self.count, reader: Reader { bytes: self.columns } }
    }

    fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let oid = reader.u32()?;
        let schema = reader.text()?;
        let name = reader.text()?;
        let identity = reader.u8()?;
        let count = reader.u16()?;
        let columns = reader.bytes;
        for _ in 0..count {
            read_column(reader)?;
        }
        Ok(Self { oid, schema, name, identity, count, columns })
    }
}

/// Iterator over the columns of a [`Relation`].
#[derive(Clone, Debug)]
pub struct RelationColumns<'a> {
    left: u16,
    reader: Reader<'a>,
}

impl<'a> Iterator for RelationColumns<'a> {
    type Item = RelationColumn<'a>;

    fn next(&mut self) -> Option<RelationColumn<'a>> {
        self.left = self.left.checked_sub(1)?;
        read_column(&mut self.reader).ok()
    }
}

fn read_column<'a>(reader: &mut Reader<'a>) -> Result<RelationColumn<'a>, DecodeError> {
    Ok(RelationColumn {
        key: reader.u8()? & 1 == 1,
        name: reader.text()?,
        type_oid: reader.u32()?,
        typmod: reader.u32()?.cast_signed(),
    })
}

/// The tables of a [`Message::Truncate`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relations<'a> {
    oids: &'a [u8],
}

impl<'a> Relations<'a> {
    /// Their oids.
    pub fn oids(&self) -> impl Iterator<Item = u32> + 'a {
        self.oids.as_chunks::<4>().0.iter().map(|oid| u32::from_be_bytes(*oid))
    }
}

/// Why bytes are not a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes end inside the message.
    #[error("the replication message ends too early")]
    Truncated,
    /// The message ends before the bytes do.
    #[error("{0} bytes follow the end of the replication message")]
    Trailing(usize),
    /// A name or text is not UTF-8.
    #[error("a name in the replication message is not UTF-8")]
    Encoding,
    /// A tag that the protocol does not know.
    #[error("unknown {what} tag {tag:#04x} in a replication message")]
    Tag {
        /// Where it stood.
        what: &'static str,
        /// The byte.
        tag: u8,
    },
    /// A message of streamed or two-phase transactions, which bygone does not ask for.
    #[error(
        "the server sent a message of a {0} transaction, which bygone did not ask for: the slot was made or read with \
         that option by another client; make a slot of its own for bygone"
    )]
    NotAsked(&'static str),
}

impl<'a> Message<'a> {
    /// Decodes the payload of one XLogData message.
    ///
    /// # Errors
    /// Whenever `bytes` is anything but exactly one message of protocol version 1.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader { bytes };
        let message = match reader.u8()? {
            b'B' => Self::Begin(Begin {
                final_lsn: reader.lsn()?,
                committed_at: reader.timestamp()?,
                xid: reader.u32()?,
            }),
            b'C' => {
                reader.u8()?; // flags, none defined
                Self::Commit(Commit {
                    commit_lsn: reader.lsn()?,
                    end_lsn: reader.lsn()?,
                    committed_at: reader.timestamp()?,
                })
            }
            b'O' => Self::Origin { lsn: reader.lsn()?, name: reader.text()? },
            b'R' => Self::Relation(Relation::read(&mut reader)?),
            b'Y' => Self::Type { oid: reader.u32()?, schema: reader.text()?, name: reader.text()? },
            b'I' => {
                let relation = reader.u32()?;
                reader.expect(b'N', "new row")?;
                Self::Insert { relation, new: Tuple::read(&mut reader)? }
            }
            b'U' => {
                let relation = reader.u32()?;
                let old = match reader.u8()? {
                    b'N' => None,
                    tag => {
                        let old = Self::old(tag, &mut reader)?;
                        reader.expect(b'N', "new row")?;
                        Some(old)
                    }
                };
                Self::Update { relation, old, new: Tuple::read(&mut reader)? }
            }
            b'D' => {
                let relation = reader.u32()?;
                let tag = reader.u8()?;
                Self::Delete { relation, old: Self::old(tag, &mut reader)? }
            }
            b'T' => {
                let count = reader.u32()? as usize;
                let options = reader.u8()?;
                let oids = reader.take(count.checked_mul(4).ok_or(DecodeError::Truncated)?)?;
                Self::Truncate {
                    cascade: options & 1 == 1,
                    restart_identity: options & 2 == 2,
                    relations: Relations { oids },
                }
            }
            b'M' => Self::Logical {
                transactional: reader.u8()? & 1 == 1,
                lsn: reader.lsn()?,
                prefix: reader.label()?,
                content: reader.counted()?,
            },
            b'S' | b'E' | b'c' | b'A' => return Err(DecodeError::NotAsked("streamed")),
            b'b' | b'P' | b'K' | b'r' | b'p' => return Err(DecodeError::NotAsked("two-phase")),
            tag => return Err(DecodeError::Tag { what: "message", tag }),
        };
        if reader.bytes.is_empty() { Ok(message) } else { Err(DecodeError::Trailing(reader.bytes.len())) }
    }

    fn old(tag: u8, reader: &mut Reader<'a>) -> Result<Old<'a>, DecodeError> {
        match tag {
            b'K' => Ok(Old::Key(Tuple::read(reader)?)),
            b'O' => Ok(Old::Row(Tuple::read(reader)?)),
            tag => Err(DecodeError::Tag { what: "old row", tag }),
        }
    }
}

/// Takes big-endian fields off the front of a slice.
#[derive(Clone, Debug)]
struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    #[inline]
    fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.bytes.split_at_checked(count).ok_or(DecodeError::Truncated)?;
        self.bytes = rest;
        Ok(taken)
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self.bytes.split_first_chunk::<N>().ok_or(DecodeError::Truncated)?;
        self.bytes = rest;
        Ok(*taken)
    }

    #[inline]
    fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    #[inline]
    fn u16(&mut self) -> Result<u16, DecodeError> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    #[inline]
    fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    fn lsn(&mut self) -> Result<Lsn, DecodeError> {
        Ok(Lsn(u64::from_be_bytes(self.array()?)))
    }

    fn timestamp(&mut self) -> Result<i64, DecodeError> {
        Ok(i64::from_be_bytes(self.array()?).saturating_add(POSTGRES_EPOCH_US))
    }

    /// A length of four bytes, then as many bytes.
    #[inline]
    fn counted(&mut self) -> Result<&'a [u8], DecodeError> {
        let length = self.u32()?;
        self.take(length as usize)
    }

    /// A zero-terminated string.
    fn text(&mut self) -> Result<&'a str, DecodeError> {
        let end = self.bytes.iter().position(|byte| *byte == 0).ok_or(DecodeError::Truncated)?;
        let text = self.take(end)?;
        self.u8()?;
        std::str::from_utf8(text).map_err(|_| DecodeError::Encoding)
    }

    /// Text that somebody chose, in a database of which the server does not know the encoding (SQL_ASCII): what is not UTF-8 is nobody's
    /// whom we know.
    fn label(&mut self) -> Result<&'a str, DecodeError> {
        match self.text() {
            Err(DecodeError::Encoding) => Ok(""),
            label => label,
        }
    }

    fn expect(&mut self, wanted: u8, what: &'static str) -> Result<(), DecodeError> {
        match self.u8()? {
            tag if tag == wanted => Ok(()),
            tag => Err(DecodeError::Tag { what, tag }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuple(cells: &[(u8, &[u8])]) -> Vec<u8> {
        let mut made = (cells.len() as u16).to_be_bytes().to_vec();
        for (tag, bytes) in cells {
            made.push(*tag);
            if matches!(tag, b't' | b'b') {
                made.extend((bytes.len() as u32).to_be_bytes());
                made.extend(*bytes);
            }
        }
        made
    }

    fn samples() -> Vec<Vec<u8>> {
        let row = tuple(&[(b't', b"1"), (b'n', b""), (b'u', b""), (b'b', &[0, 0, 0, 7])]);
        let mut begin = b"B".to_vec();
        begin.extend(5u64.to_be_bytes());
        begin.extend(0i64.to_be_bytes());
        begin.extend(9u32.to_be_bytes());
        let mut commit = b"C\0".to_vec();
        commit.extend(5u64.to_be_bytes());
        commit.extend(6u64.to_be_bytes());
        commit.extend(0i64.to_be_bytes());
        let mut relation = b"R\0\0\0\x01public\0orders\0d\0\x02".to_vec();
        relation.extend(b"\x01id\0\0\0\0\x14\xff\xff\xff\xff");
        relation.extend(b"\0v\0\0\0\0\x19\0\0\0\x08");
        let insert = [b"I\0\0\0\x01N".to_vec(), row.clone()].concat();
        let update = [b"U\0\0\0\x01K".to_vec(), row.clone(), b"N".to_vec(), row.clone()].concat();
        let plain = [b"U\0\0\0\x01N".to_vec(), row.clone()].concat();
        let delete = [b"D\0\0\0\x01O".to_vec(), row].concat();
        let truncate = b"T\0\0\0\x02\x03\0\0\0\x01\0\0\0\x02".to_vec();
        let logical = b"M\x01\0\0\0\0\0\0\0\x05bygone\0\0\0\0\x02{}".to_vec();
        let origin = b"O\0\0\0\0\0\0\0\x05far\0".to_vec();
        let kind = b"Y\0\0\0\x09public\0mood\0".to_vec();
        vec![begin, commit, relation, insert, update, plain, delete, truncate, logical, origin, kind]
    }

    #[test]
    fn every_message_is_read_field_by_field() {
        let all = samples();
        let decoded: Vec<_> = all.iter().map(|bytes| Message::decode(bytes).unwrap()).collect();
        assert_eq!(
            decoded[0],
            Message::Begin(Begin { final_lsn: Lsn(5), committed_at: POSTGRES_EPOCH_US, xid: 9 })
        );
        assert_eq!(
            decoded[1],
            Message::Commit(Commit { commit_lsn: Lsn(5), end_lsn: Lsn(6), committed_at: POSTGRES_EPOCH_US })
        );
        let Message::Relation(relation) = decoded[2] else { panic!("{:?}", decoded[2]) };
        assert_eq!(
            (relation.oid, relation.schema, relation.name, relation.identity),
            (1, "public", "orders", b'd')
        );
        let columns: Vec<_> = relation.columns().collect();
        assert_eq!(columns[0], RelationColumn { key: true, name: "id", type_oid: 20, typmod: -1 });
        assert_eq!(columns[1], RelationColumn { key: false, name: "v", type_oid: 25, typmod: 8 });
        let Message::Insert { relation: 1, new } = decoded[3] else { panic!("{:?}", decoded[3]) };
        let cells: Vec<_> = new.cells().collect();
        assert_eq!(cells, [Cell::Text(b"1"), Cell::Null, Cell::Unchanged, Cell::Binary(&[0, 0, 0, 7])]);
        assert!(matches!(decoded[4], Message::Update { old: Some(Old::Key(_)), .. }));
        assert!(matches!(decoded[5], Message::Update { old: None, .. }));
        assert!(matches!(decoded[6], Message::Delete { old: Old::Row(_), .. }));
        let Message::Truncate { cascade, restart_identity, relations } = decoded[7] else { panic!() };
        assert!(cascade && restart_identity);
        assert_eq!(relations.oids().collect::<Vec<_>>(), [1, 2]);
        let Message::Logical { transactional: true, prefix: "bygone", content: b"{}", .. } = decoded[8]
        else {
            panic!("{:?}", decoded[8])
        };
        assert_eq!(decoded[9], Message::Origin { lsn: Lsn(5), name: "far" });
        assert_eq!(decoded[10], Message::Type { oid: 9, schema: "public", name: "mood" });
    }

    #[test]
    fn a_message_cut_at_any_byte_is_an_error() {
        for bytes in samples() {
            for cut in 0..bytes.len() {
                assert!(Message::decode(&bytes[..cut]).is_err(), "{:?} cut at {cut}", bytes[0] as char);
            }
        }
    }

    #[test]
    fn a_byte_too_many_is_an_error() {
        for mut bytes in samples() {
            bytes.push(0);
            assert!(Message::decode(&bytes).is_err(), "{:?}", bytes[0] as char);
        }
    }

    #[test]
    fn any_byte_may_be_any_other_without_a_panic() {
        for bytes in samples() {
            for at in 0..bytes.len() {
                for value in 0..=255 {
                    let mut changed = bytes.clone();
                    changed[at] = value;
                    if let Ok(Message::Insert { new, .. }) = Message::decode(&changed) {
                        assert_eq!(new.cells().count(), new.len());
                    }
                }
            }
        }
    }

    #[test]
    fn streamed_and_two_phase_messages_are_named() {
        let streamed = Message::decode(b"S\0\0\0\0\x01").unwrap_err();
        assert!(streamed.to_string().contains("streamed"));
        let prepared = Message::decode(b"P").unwrap_err();
        assert!(prepared.to_string().contains("two-phase"));
    }
}
