//! Columns of which a keyed hash is kept, and not the value.
//!
//! The hash is HMAC-SHA-256 of the text that Postgres prints for the value, as 64 lower-case hexadecimal digits. A value is hashed where
//! a row is taken in, before anything else sees it; whether it came as text or in binary form makes no difference, because
//! it is first read as the column's own kind and printed.

use std::fmt;

use bygone_replication::pgoutput::Cell;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::schema::TableSchema;
use crate::value::{self, Kind, RowBuilder, ValueError, printed, push_hex};

/// A key has so many bytes at least.
pub const LEAST_KEY: usize = 16;
/// What a key's id is the hash of.
const ID_OF: &[u8] = b"bygone key id";
/// Hexadecimal digits of an id.
const ID_DIGITS: usize = 16;

/// The secret that values are hashed with. It is in no log and no history; these name it by its [id](HashKey::id).
#[derive(Clone)]
pub struct HashKey {
    mac: Hmac<Sha256>,
    id: String,
}

impl fmt::Debug for HashKey {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HashKey").field("id", &self.id).finish_non_exhaustive()
    }
}

impl HashKey {
    /// A key of these bytes; none where they are fewer than [`LEAST_KEY`].
    #[must_use]
    pub fn new(secret: &[u8]) -> Option<Self> {
        if secret.len() < LEAST_KEY {
            return None;
        }
        let mac = Hmac::new_from_slice(secret).ok()?;
        let mut key = Self { mac, id: String::new() };
        key.id = key.hash(ID_OF);
        key.id.truncate(ID_DIGITS);
        Some(key)
    }

    /// Tells keys apart, and does not help to guess one.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The hash of a value's text.
    #[must_use]
    pub fn hash(&self, text: &[u8]) -> String {
        let digest = self.mac.clone().chain_update(text).finalize().into_bytes();
        let mut text = String::with_capacity(2 * digest.len());
        push_hex(&digest, &mut text);
        text
    }

    /// The hash of a value as the catalog prints it, whose kind is `kind`.
    #[must_use]
    pub fn hash_text(&self, kind: &Kind, text: &str) -> String {
        // What cannot be read as the kind is hashed as it is.
        let printed = printed(kind, Cell::Text(text.as_bytes())).unwrap_or_else(|_| text.to_owned());
        self.hash(printed.as_bytes())
    }
}

/// How the values of a table are taken in.
#[derive(Clone, Debug, Default)]
pub(crate) struct Intake {
    key: Option<HashKey>,
    /// By position: the kind that the value has in the source, for columns that are hashed.
    hashed: Vec<Option<Kind>>,
}

impl Intake {
    pub(crate) fn new(schema: &TableSchema, key: Option<&HashKey>) -> Self {
        let columns = schema.columns.iter().map(|column| &column.column);
        let hashed: Vec<Option<Kind>> =
            columns.map(|column| column.hashed.as_ref().map(|_| Kind::of(&column.data_type))).collect();
        if hashed.iter().all(Option::is_none) {
            return Self::default();
        }
        let same = |key: &&HashKey| {
            let ids = schema.columns.iter().filter_map(|column| column.column.hashed.as_deref());
            ids.into_iter().all(|id| id == key.id)
        };
        Self { key: key.filter(same).cloned(), hashed }
    }

    /// No value is hashed.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        self.hashed.is_empty()
    }

    /// Appends the value of the column at a position, of kind `kind` in the row.
    #[inline]
    pub(crate) fn read(
        &self,
        at: usize,
        kind: &Kind,
        cell: Cell<'_>,
        row: &mut RowBuilder,
    ) -> Result<(), ValueError> {
        match self.hashed.get(at) {
            Some(Some(own)) => self.hash(own, cell, row),
            _ => value::read(kind, cell, row),
        }
    }

    fn hash(&self, kind: &Kind, cell: Cell<'_>, row: &mut RowBuilder) -> Result<(), ValueError> {
        match cell {
            Cell::Null => row.null(),
            Cell::Unchanged => row.unknown(),
            Cell::Text(_) | Cell::Binary(_) => {
                let key = self.key.as_ref().ok_or(ValueError::NoHashKey)?;
                row.variable(key.hash(printed(kind, cell)?.as_bytes()).as_bytes());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::Row;

    const SECRET: &[u8] = b"a secret of some length";

    #[test]
    fn a_hash_is_hmac_sha_256_in_hex() {
        // Test case 2 of RFC 4231 has a key that is too short for us; case 3 has not.
        let key = HashKey::new(&[0xaa; 20]).unwrap();
        assert_eq!(key.hash(&[0xdd; 50]), "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe");
    }

    #[test]
    fn a_short_key_is_none() {
        assert!(HashKey::new(&[7; LEAST_KEY - 1]).is_none());
        assert!(HashKey::new(b"").is_none());
    }

    #[test]
    fn an_id_tells_keys_apart_and_shows_nothing_of_them() {
        let (one, other) = (HashKey::new(SECRET).unwrap(), HashKey::new(&[SECRET, b"!"].concat()).unwrap());
        assert_eq!(one.id().len(), ID_DIGITS);
        assert_ne!(one.id(), other.id());
        assert_eq!(one.id(), HashKey::new(SECRET).unwrap().id());
        assert!(!format!("{one:?}").contains("secret"));
    }

    #[test]
    fn text_and_binary_form_hash_alike() {
        let key = HashKey::new(SECRET).unwrap();
        let of = |kind: &Kind, cell: Cell<'_>| {
            let intake = Intake { key: Some(key.clone()), hashed: vec![Some(kind.clone())] };
            let mut row = RowBuilder::default();
            row.start(1);
            intake.read(0, &Kind::Text, cell, &mut row).unwrap();
            let kinds = [Kind::Text];
            let field = Row::new(row.bytes(), &kinds).fields().next().unwrap().unwrap();
            field.text().unwrap().to_owned()
        };
        for (kind, text, binary) in [
            (Kind::Text, "é", "é".as_bytes()),
            (Kind::Int32, "-7", &(-7i32).to_be_bytes()),
            (Kind::Bool, "t", &[1]),
            (Kind::Float64, "0.1", &0.1f64.to_be_bytes()),
            (Kind::Date, "infinity", &i32::MAX.to_be_bytes()),
            (Kind::Timestamptz, "2000-01-01 00:00:00.000001+00", &1i64.to_be_bytes()),
            (Kind::Jsonb, "{\"a\": 1}", b"\x01{\"a\": 1}"),
        ] {
            let hash = key.hash(text.as_bytes());
            assert_eq!(of(&kind, Cell::Text(text.as_bytes())), hash, "{kind:?}");
            assert_eq!(of(&kind, Cell::Binary(binary)), hash, "{kind:?}");
        }
    }

    #[test]
    fn null_and_what_is_not_sent_stay_so() {
        let intake = Intake { key: HashKey::new(SECRET), hashed: vec![Some(Kind::Text); 2] };
        let mut row = RowBuilder::default();
        row.start(2);
        intake.read(0, &Kind::Text, Cell::Null, &mut row).unwrap();
        intake.read(1, &Kind::Text, Cell::Unchanged, &mut row).unwrap();
        let kinds = [Kind::Text, Kind::Text];
        let fields: Vec<_> =
            Row::new(row.bytes(), &kinds).fields().map(|field| field.unwrap().status).collect();
        assert_eq!(fields, [value::Status::Null, value::Status::Unknown]);
    }

    #[test]
    fn without_the_key_no_value_is_taken_in() {
        let intake = Intake { key: None, hashed: vec![Some(Kind::Text)] };
        let mut row = RowBuilder::default();
        row.start(1);
        assert_eq!(intake.read(0, &Kind::Text, Cell::Text(b"x"), &mut row), Err(ValueError::NoHashKey));
        assert!(!row.bytes().contains(&b'x'));
    }
}
