//! What happened that no fact says.

use std::fmt;

use bygone_replication::Lsn;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::lsn_text;

/// The detail of a `reconcile` event that only compared a table with the source, and set nothing right: true where they agreed.
pub const VERIFIED: &str = "verified";

/// The detail of an event that a look at the catalog tells of: the last position at which it was known not to have happened.
pub const SINCE: &str = "since";

/// Something in the life of a table or of the history.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// [`table_text`](super::table_text) of the table; none where it concerns all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// Where in the WAL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lsn: Option<EventLsn>,
    /// What else there is to say; names and counts, never row values.
    #[serde(flatten)]
    pub detail: Map<String, Value>,
}

impl Event {
    /// An event at one position.
    #[must_use]
    pub fn at(kind: EventKind, table: Option<String>, lsn: Lsn) -> Self {
        Self::placed(kind, table, EventLsn::At(lsn))
    }

    /// An event at a place, be it a position or a range of them.
    #[must_use]
    pub fn placed(kind: EventKind, table: Option<String>, place: EventLsn) -> Self {
        Self { kind, table, lsn: Some(place), detail: Map::new() }
    }

    /// The same event with one more thing to say.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.detail.insert(key.to_owned(), value.into());
        self
    }
}

/// Where in the WAL an event lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum EventLsn {
    /// Exactly here.
    At(#[serde(with = "lsn_text")] Lsn),
    /// After the first and not after the second: what the stream does not say more exactly.
    Within(#[serde(with = "lsn_text::pair")] [Lsn; 2]),
}

impl EventLsn {
    /// The latest position at which it can have happened.
    #[must_use]
    pub fn latest(self) -> Lsn {
        match self {
            Self::At(lsn) | Self::Within([_, lsn]) => lsn,
        }
    }

    /// The earliest position at which it can have happened.
    #[must_use]
    pub fn earliest(self) -> Lsn {
        match self {
            Self::At(lsn) | Self::Within([lsn, _]) => lsn,
        }
    }
}

macro_rules! event_kinds {
    ($($(#[doc = $doc:literal])+ $variant:ident = $text:literal,)+) => {
        /// What happened.
        #[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(from = "String", into = "String")]
        #[non_exhaustive]
        pub enum EventKind {
            $($(#[doc = $doc])+ $variant,)+
            /// What a later version calls so.
            Other(String),
        }

        impl EventKind {
            /// The kind as the log has it.
            #[must_use]
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => $text,)+
                    Self::Other(text) => text,
                }
            }
        }

        impl From<String> for EventKind {
            fn from(text: String) -> Self {
                match text.as_str() {
                    $($text => Self::$variant,)+
                    _ => Self::Other(text),
                }
            }
        }
    };
}

event_kinds! {
    /// A table is captured from here on.
    Attach = "attach",
    /// A table's rows as of this position stand in the history.
    Snapshot = "snapshot",
    /// A table's columns changed.
    Schema = "schema",
    /// A table was truncated.
    Truncate = "truncate",
    /// A table's rows were rewritten without a word in the WAL.
    Rewrite = "rewrite",
    /// A partition was attached or detached.
    Partition = "partition",
    /// A table is gone.
    Drop = "drop",
    /// Changes in this range are not known.
    Gap = "gap",
    /// The source went on from an earlier position on another timeline.
    Fork = "fork",
    /// The source's clock ran ahead.
    Clock = "clock",
    /// Facts were set right by comparing with the source.
    Reconcile = "reconcile",
    /// A table is no longer captured.
    Detach = "detach",
    /// Files were rewritten as fewer ones.
    Compact = "compact",
    /// Facts were removed on request.
    Redact = "redact",
    /// A table's key changed.
    Key = "key",
    /// An enum's labels changed.
    Enum = "enum",
    /// What is published of a table, or of all, is a part: some rows, columns or operations are left out.
    Partial = "partial",
    /// A table's updates and deletes cannot be seen.
    UpdatesUnseen = "updates_unseen",
}

impl From<EventKind> for String {
    fn from(kind: EventKind) -> Self {
        match kind {
            EventKind::Other(text) => text,
            known => known.as_str().to_owned(),
        }
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_read_back_as_written() {
        for text in [
            r#"{"kind":"schema","table":"public.t","lsn":["0/1","0/2"],"added":["x"]}"#,
            r#"{"kind":"gap","lsn":"0/1"}"#,
            r#"{"kind":"novelty"}"#,
            r#"{"kind":"updates_unseen","table":"public.\"a.b\""}"#,
        ] {
            let event: Event = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&event).unwrap(), text);
        }
        let event = Event::at(EventKind::Attach, None, Lsn(1)).with("rows", 7);
        assert_eq!(serde_json::to_string(&event).unwrap(), r#"{"kind":"attach","lsn":"0/1","rows":7}"#);
    }
}
