//! A table of a history: its columns at each moment, and from when to when its rows are known.

use std::sync::Arc;

use bygone_replication::Lsn;
use bygone_replication::table::TableName;

use super::archive::{overlaps, unknown_table};
use super::{Archive, Cut};
use crate::error::{Error, ErrorKind, Result};
use crate::log::{Event, EventKind, EventLsn, LiveFile, SchemaVersion, VERIFIED, parse_table_text};
use crate::schema::{SchemaColumn, TableSchema};

/// One version of a table's columns.
#[derive(Clone, Debug)]
pub struct Version {
    /// The columns.
    pub schema: Arc<TableSchema>,
    /// Where the version begins; it may have begun earlier inside an interval.
    pub from: EventLsn,
}

impl Version {
    /// The version is in force at a position.
    ///
    /// One whose beginning is not known exactly begins where it was first seen. An interval that is but one position says
    /// that the columns changed after it, and that the table has no fact since.
    #[must_use]
    pub fn has_begun(&self, place: Lsn) -> bool {
        match self.from {
            EventLsn::Within([after, seen]) if after == seen => place > after,
            from => place >= from.latest(),
        }
    }
}

/// A range of the WAL in which a table's rows are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The position of the snapshot that it begins with.
    pub from: Lsn,
    /// The position from which on nothing is known any more; none while the table is captured.
    pub to: Option<Lsn>,
    /// The table was dropped there, and did not only go out of capture.
    pub dropped: bool,
}

/// A table of a history.
#[derive(Clone, Debug)]
pub struct TableHistory {
    /// Schema and name in the source, as they are now.
    pub name: TableName,
    /// The name in the log: the one that the table had when it was attached.
    pub log_name: String,
    /// The versions of its columns, oldest first; never empty.
    pub versions: Vec<Version>,
    /// Its live files, in the order of their commits.
    pub files: Vec<LiveFile>,
    /// Ranges in which its rows are known, oldest first. Empty: its snapshot is not in the log yet.
    pub known: Vec<Extent>,
    /// Where its updates and deletes cannot be seen [9]: from the first position on, up to the second where they could be
    /// again and the rows were compared.
    pub updates_unseen: Vec<(Lsn, Option<Lsn>)>,
}

impl TableHistory {
    /// Its updates and deletes cannot be seen, to this day.
    #[must_use]
    pub fn are_updates_unseen(&self) -> bool {
        self.updates_unseen.last().is_some_and(|(_, to)| to.is_none())
    }

    /// Its updates and deletes could not be seen at one of the positions from `place` to before `next`.
    #[must_use]
    pub fn were_updates_unseen(&self, place: Lsn, next: Lsn) -> bool {
        let meets =
            |(from, to): &(Lsn, Option<Lsn>)| overlaps(place, next, Lsn(from.0.saturating_sub(1)), *to);
        self.updates_unseen.iter().any(meets)
    }
}

impl Archive {
    /// The table with a name in the log.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] without it, [`ErrorKind::Damaged`] where the log's word on its columns makes no sense.
    pub fn table(&self, log_name: &str) -> Result<TableHistory> {
        let name = parse_table_text(log_name).ok_or_else(|| unknown_table(log_name))?;
        let documents = self.log().schemas(log_name);
        if documents.is_empty() {
            return Err(unknown_table(log_name));
        }
        let events: Vec<&Event> = self.events(log_name).map(|(_, event)| event).collect();
        let name = present_name(name, &events);
        let own = |event: &&&Event| event.table.is_some();
        let attach = events.iter().filter(own).find(|event| event.kind == EventKind::Attach);
        let mut from = attach.and_then(|event| event.lsn).unwrap_or(EventLsn::At(Lsn::ZERO));
        let files: Vec<LiveFile> = self.log().files_of(log_name).into_iter().cloned().collect();
        let mut versions = Vec::new();
        for document in documents {
            let told = events.iter().find(|event| {
                let number = event.detail.get("schema").and_then(serde_json::Value::as_i64);
                matches!(event.kind, EventKind::Schema | EventKind::Attach)
                    && number == Some(i64::from(document.schema))
            });
            from = told.and_then(|event| event.lsn).unwrap_or(from);
            // The change came after that position and not after the version's first fact.
            if let EventLsn::Within([after, seen]) = from
                && after == seen
            {
                let facts = files.iter().filter(|file| file.add.schema >= document.schema);
                let first = facts.map(|file| file.add.lsn[0]).filter(|first| *first > after).min();
                from = EventLsn::Within([after, first.unwrap_or(seen)]);
            }
            versions.push(Version { schema: Arc::new(schema_of(name.clone(), document)?), from });
        }
        Ok(TableHistory {
            files,
            known: extents(&events),
            updates_unseen: unseen(&events),
            log_name: log_name.to_owned(),
            name,
            versions,
        })
    }

    /// All tables, by name.
    ///
    /// # Errors
    /// As [`Archive::table`].
    pub fn tables(&self) -> Result<Vec<TableHistory>> {
        self.log().tables().map(|name| self.table(name)).collect()
    }
}

/// What a table is called now: a `schema` event says where it was renamed or moved, an `attach` event what another table
/// that goes on under the name in the log is called.
fn present_name(attached_as: TableName, events: &[&Event]) -> TableName {
    let mut name = attached_as.clone();
    for event in events.iter().filter(|event| event.table.is_some()) {
        let told =
            |key: &str| event.detail.get(key).and_then(serde_json::Value::as_str).and_then(parse_table_text);
        match event.kind {
            EventKind::Attach => name = told("name").unwrap_or_else(|| attached_as.clone()),
            EventKind::Schema => name = told("renamed_to").unwrap_or(name),
            _ => {}
        }
    }
    name
}

fn unseen(events: &[&Event]) -> Vec<(Lsn, Option<Lsn>)> {
    let mut unseen: Vec<(Lsn, Option<Lsn>)> = Vec::new();
    for event in events.iter().filter(|event| event.table.is_some()) {
        let open = unseen.last_mut().filter(|(_, to)| to.is_none());
        match (&event.kind, open) {
            (EventKind::UpdatesUnseen, None) => {
                unseen.push((event.lsn.map_or(Lsn::ZERO, EventLsn::earliest), None));
            }
            (EventKind::Reconcile, Some((_, to)))
                if !event.detail.contains_key("updates_unseen")
                    && !event.detail.contains_key("leaf")
                    // What `bygone reconcile` found is of one moment, and changes nothing of what is seen after it.
                    && !event.detail.contains_key(VERIFIED) =>
            {
                *to = event.lsn.map(EventLsn::latest);
            }
            (EventKind::Attach | EventKind::Drop, Some((_, to))) => *to = event.lsn.map(EventLsn::earliest),
            _ => {}
        }
    }
    unseen
}

fn extents(events: &[&Event]) -> Vec<Extent> {
    let mut known: Vec<Extent> = Vec::new();
    for event in events.iter().filter(|event| event.table.is_some()) {
        let Some(lsn) = event.lsn.map(EventLsn::latest) else { continue };
        let open = known.last_mut().filter(|extent| extent.to.is_none());
        match event.kind {
            EventKind::Snapshot if open.is_none() => {
                known.push(Extent { from: lsn, to: None, dropped: false });
            }
            EventKind::Detach | EventKind::Drop => {
                if let Some(open) = open {
                    open.to = Some(lsn);
                    open.dropped = event.kind == EventKind::Drop;
                }
            }
            _ => {}
        }
    }
    known
}

impl TableHistory {
    /// The newest columns.
    ///
    /// # Panics
    /// Never: a table has at least one version.
    #[must_use]
    pub fn newest(&self) -> &Arc<TableSchema> {
        let newest = self.versions.last();
        newest.map_or_else(
            || unreachable!("Archive::table gives no table without a version"),
            |newest| &newest.schema,
        )
    }

    /// The columns of a schema version.
    #[must_use]
    pub fn version(&self, number: i32) -> Option<&Arc<TableSchema>> {
        self.versions.iter().map(|version| &version.schema).find(|schema| schema.version == number)
    }

    /// The columns at a position. A version whose beginning is not known exactly is taken to begin where it was first
    /// seen, which is where its first fact may be.
    #[must_use]
    pub fn schema_at(&self, place: Lsn) -> &Arc<TableSchema> {
        let at = self.versions.iter().rev().find(|version| version.has_begun(place));
        at.or(self.versions.first()).map_or_else(|| self.newest(), |version| &version.schema)
    }

    /// The columns that the facts of a cut which lies at `place` have: those in force there, and no older ones than any of
    /// the facts was written under.
    #[must_use]
    pub fn schema_for(&self, cut: &Cut, place: Lsn) -> &Arc<TableSchema> {
        let at = self.schema_at(place);
        let begun = |file: &&LiveFile| cut.covers(file.add.lsn[0].as_i64(), file.add.valid_from[0].0);
        // The facts of a file have one schema, so its first fact has the one that the log names.
        let written = self.files.iter().filter(begun).map(|file| file.add.schema).max();
        written
            .filter(|written| *written > at.version)
            .and_then(|written| self.version(written))
            .unwrap_or(at)
    }

    /// The versions of columns that may, or may not, have been in force already at one of the positions from `place` to
    /// before `next`.
    pub fn unsettled(&self, place: Lsn, next: Lsn) -> impl Iterator<Item = &Version> {
        let unsettled = move |version: &&Version| {
            overlaps(place, next, version.from.earliest(), Some(version.from.latest()))
        };
        self.versions.iter().filter(unsettled)
    }

    /// The column of an attnum in the first version after `after` that has it, with that version.
    #[must_use]
    pub fn added_after(&self, attnum: i16, after: i32) -> Option<(&Version, &SchemaColumn)> {
        self.versions.iter().filter(|version| version.schema.version > after).find_map(|version| {
            let at = version.schema.position(attnum)?;
            Some((version, version.schema.columns.get(at)?))
        })
    }
}

/// A table's columns as the log has them.
fn schema_of(name: TableName, version: &SchemaVersion) -> Result<TableSchema> {
    let number = version.number().unwrap_or(0);
    let columns = version.live_columns();
    let key: Vec<i16> = if version.key.is_empty() {
        version.columns.iter().filter(|document| document.key).map(|document| document.attnum).collect()
    } else {
        version.key.clone()
    };
    if columns.is_empty() && !version.columns.is_empty() {
        let detail = format!("schema {} of {name} has no columns", version.schema);
        return Err(Error::new(ErrorKind::Damaged, "the log is damaged", detail));
    }
    Ok(TableSchema::of_columns(
        number,
        name,
        version.table.clone(),
        version.oid,
        version.schema,
        columns,
        &key,
    )
    .as_in(version))
}
