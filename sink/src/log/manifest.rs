//! `bygone.json`: what a history is of.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::commit::{FORMAT, from_bytes, to_bytes};
use crate::error::Result;
use crate::timestamp::Timestamp;

/// The manifest's path.
pub const MANIFEST: &str = "bygone.json";

/// What a history is of. Put once, never changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// The history's id: a random UUID as text.
    pub id: String,
    /// When it was begun, by the clock of the one who began it.
    pub created_at: Timestamp,
    /// The capture's name.
    pub name: String,
    /// The database that is captured.
    pub source: ManifestSource,
    /// The slot that it is captured through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<String>,
    /// The publications that it is captured through.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub publications: Vec<String>,
    /// What else a later version says.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// The database that is captured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestSource {
    /// `system_identifier`, as text.
    pub system_id: String,
    /// The database's name.
    pub database: String,
}

impl Manifest {
    /// A manifest with a new id.
    #[must_use]
    pub fn new(name: &str, source: ManifestSource) -> Self {
        Self {
            format: FORMAT,
            id: random_uuid(),
            created_at: Timestamp::now(),
            name: name.to_owned(),
            source,
            slot: None,
            publications: Vec::new(),
            extra: Map::new(),
        }
    }

    /// The bytes that stand in the history: compact JSON and a line feed.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`](crate::error::ErrorKind::Conflict) where a value has no JSON.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        to_bytes(self)
    }

    /// Reads a manifest.
    ///
    /// # Errors
    /// [`ErrorKind::NewerFormat`](crate::error::ErrorKind::NewerFormat), and
    /// [`ErrorKind::Damaged`](crate::error::ErrorKind::Damaged) for what is no manifest.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        from_bytes(bytes, MANIFEST)
    }
}

/// A random UUID (version 4) as text.
fn random_uuid() -> String {
    let random: u128 = rand::random();
    let bits = random & !(0xF << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let hex = format!("{bits:032x}");
    let mut text = String::with_capacity(36);
    for (at, digit) in hex.chars().enumerate() {
        if matches!(at, 8 | 12 | 16 | 20) {
            text.push('-');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_reads_back_and_its_id_is_a_uuid() {
        let source = ManifestSource { system_id: "7312".to_owned(), database: "shop".to_owned() };
        let mut manifest = Manifest::new("bygone", source);
        manifest.publications = vec!["bygone".to_owned()];
        let bytes = manifest.to_bytes().unwrap();
        assert_eq!(Manifest::from_bytes(&bytes).unwrap(), manifest);
        for cut in 0..bytes.len() {
            assert!(Manifest::from_bytes(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        let parts: Vec<usize> = manifest.id.split('-').map(str::len).collect();
        assert_eq!(parts, [8, 4, 4, 4, 12]);
        assert_eq!(manifest.id.as_bytes()[14], b'4');
        assert!(b"89ab".contains(&manifest.id.as_bytes()[19]));
        assert_ne!(random_uuid(), random_uuid());
    }
}
