//! Positions as text (`16/B374D848`) in JSON: for `#[serde(with = "…")]`.

use bygone_replication::Lsn;
use serde::{Deserialize, Deserializer, Serializer};

/// Writes a position as text.
///
/// # Errors
/// The serializer's.
pub fn serialize<S: Serializer>(lsn: &Lsn, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(lsn)
}

/// Reads a position from text.
///
/// # Errors
/// For anything that is not a position.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Lsn, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

/// Two positions as an array of two texts.
pub mod pair {
    use bygone_replication::Lsn;
    use serde::ser::SerializeTuple;
    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes two positions.
    ///
    /// # Errors
    /// The serializer's.
    pub fn serialize<S: Serializer>([low, high]: &[Lsn; 2], serializer: S) -> Result<S::Ok, S::Error> {
        let mut tuple = serializer.serialize_tuple(2)?;
        tuple.serialize_element(&low.to_string())?;
        tuple.serialize_element(&high.to_string())?;
        tuple.end()
    }

    /// Reads two positions.
    ///
    /// # Errors
    /// For anything that is not an array of two positions.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[Lsn; 2], D::Error> {
        let [low, high] = <[String; 2]>::deserialize(deserializer)?;
        let parse = |text: String| text.parse().map_err(serde::de::Error::custom);
        Ok([parse(low)?, parse(high)?])
    }
}

/// A position or null.
pub mod optional {
    use bygone_replication::Lsn;
    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes a position or null.
    ///
    /// # Errors
    /// The serializer's.
    pub fn serialize<S: Serializer>(lsn: &Option<Lsn>, serializer: S) -> Result<S::Ok, S::Error> {
        match lsn {
            Some(lsn) => serializer.collect_str(lsn),
            None => serializer.serialize_none(),
        }
    }

    /// Reads a position or null.
    ///
    /// # Errors
    /// For anything else.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Lsn>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| text.parse()).transpose().map_err(serde::de::Error::custom)
    }
}
