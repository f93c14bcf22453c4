//! Entities: what names a row across all its versions, and how state finds it.

use sha2::{Digest as _, Sha256};
use smallvec::SmallVec;

use crate::schema::TableSchema;
use crate::value::{Field, RowError, render};

/// The key of an entity in state: short enough to live inside the map that holds it.
pub(crate) type StateKey = SmallVec<[u8; 24]>;

/// Appends `_entity_id`: the key column's text, or a JSON array of the texts of a composite key.
///
/// # Errors
/// When a field is damaged.
pub(crate) fn entity_id<'a>(
    schema: &TableSchema,
    mut part: impl FnMut(usize) -> Field<'a>,
    out: &mut String,
) -> Result<(), RowError> {
    let kinds = schema.kinds();
    if let [only] = schema.key.as_slice() {
        return render(kinds.get(*only).ok_or(RowError)?, part(*only), out);
    }
    let mut text = String::new();
    out.push('[');
    for (at, position) in schema.key.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        text.clear();
        render(kinds.get(*position).ok_or(RowError)?, part(*position), &mut text)?;
        push_json_string(&text, out);
    }
    out.push(']');
    Ok(())
}

/// Appends a JSON string.
pub(crate) fn push_json_string(text: &str, out: &mut String) {
    out.push_str(&serde_json::Value::from(text).to_string());
}

/// Bytes of the longest entity id that is a key in state as it is. An index of the server holds no more than 2,704 bytes, which
/// are ten times as many where they compress well.
const LONGEST: usize = 60_000;

/// The key in state of an entity id, without its table.
///
/// Two ids never share a key, but for those that are longer than [`LONGEST`] and of one SHA-256. Whole numbers and UUIDs, the most common ones, are kept short, and numbers in their own
/// order, so that rows which were made one after another lie side by side.
pub(crate) fn state_key(entity_id: &str) -> StateKey {
    let mut key = StateKey::new();
    if let Some(number) = canonical_integer(entity_id) {
        key.push(1);
        key.extend_from_slice(&(number.cast_unsigned() ^ 1 << 63).to_be_bytes());
    } else if let Some(uuid) = canonical_uuid(entity_id) {
        key.push(2);
        key.extend_from_slice(&uuid);
    } else if entity_id.len() > LONGEST {
        key.push(7);
        key.extend_from_slice(&Sha256::digest(entity_id));
    } else {
        key.push(3);
        key.extend_from_slice(entity_id.as_bytes());
    }
    key
}

/// The entity id that a key in state stands for; `None` for a key of content, and for one of an id that was too long.
pub(crate) fn entity_id_of(key: &[u8]) -> Option<String> {
    match key.split_first()? {
        (1, number) => {
            let bits = u64::from_be_bytes(number.try_into().ok()?);
            Some((bits ^ 1 << 63).cast_signed().to_string())
        }
        (2, uuid) => {
            let mut text = String::with_capacity(36);
            crate::value::push_uuid(uuid.try_into().ok()?, &mut text);
            Some(text)
        }
        (3, text) => Some(std::str::from_utf8(text).ok()?.to_owned()),
        _ => None,
    }
}

/// The key in state of a row that its content names.
pub(crate) fn content_key(row: &[u8]) -> StateKey {
    let mut key = StateKey::new();
    key.push(4);
    key.extend_from_slice(Sha256::digest(row).get(..16).unwrap_or_default());
    key
}

/// The key in state of a row that other columns than its key's name; `digest` is of these.
pub(crate) fn row_alias_key(digest: &[u8]) -> StateKey {
    let mut key = StateKey::new();
    key.push(6);
    key.extend_from_slice(digest);
    key
}

/// The key in state under which the place of an entity without a key is found.
pub(crate) fn twin_key(id: [u8; 16]) -> StateKey {
    let mut key = StateKey::new();
    key.push(5);
    key.extend_from_slice(&id);
    key
}

/// The number, where the text is exactly what the number prints as.
fn canonical_integer(text: &str) -> Option<i64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let plain = digits.len() <= 19 && digits.bytes().all(|byte| byte.is_ascii_digit());
    let leading_zero = digits.starts_with('0') && text != "0";
    if !plain || leading_zero || digits.is_empty() {
        return None;
    }
    text.parse().ok()
}

fn canonical_uuid(text: &str) -> Option<[u8; 16]> {
    let bytes: &[u8; 36] = text.as_bytes().try_into().ok()?;
    let mut made = [0u8; 16];
    let mut half = 0usize;
    for (at, byte) in bytes.iter().enumerate() {
        if matches!(at, 8 | 13 | 18 | 23) {
            if *byte != b'-' {
                return None;
            }
            continue;
        }
        let nibble = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            _ => return None,
        };
        let slot = made.get_mut(half / 2)?;
        *slot = *slot << 4 | nibble;
        half += 1;
    }
    Some(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_id_has_a_key_of_its_own_and_comes_back_from_it() {
        let ids = [
            "0",
            "-0",
            "00",
            "1",
            "01",
            "+1",
            "-1",
            "9223372036854775807",
            "9223372036854775808",
            "-9223372036854775808",
            "",
            " ",
            "1.0",
            "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
            "A0EEBC99-9c0b-4ef8-bb6d-6bb9bd380a11",
            "[\"1\",\"2\"]",
            "é",
        ];
        let keys: Vec<_> = ids.iter().map(|id| state_key(id)).collect();
        for (id, key) in ids.iter().zip(&keys) {
            assert_eq!(entity_id_of(key).as_deref(), Some(*id));
            assert_eq!(keys.iter().filter(|other| *other == key).count(), 1, "{id}");
        }
    }

    #[test]
    fn a_long_id_has_a_short_key() {
        let long = "x".repeat(LONGEST + 1);
        let key = state_key(&long);
        assert!(key.len() < 40 && entity_id_of(&key).is_none());
        assert_ne!(key, state_key(&"x".repeat(LONGEST + 2)));
        assert_eq!(entity_id_of(&state_key(&long[1..])).as_deref(), Some(&long[1..]));
    }

    #[test]
    fn numbers_keep_their_order() {
        let numbers = ["-9223372036854775808", "-10", "-9", "0", "2", "10", "9223372036854775807"];
        assert!(numbers.windows(2).all(|pair| state_key(pair[0]) < state_key(pair[1])));
    }
}
