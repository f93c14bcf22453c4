//! Columns that are left out: no value of them is copied, taken from the stream, or written anywhere.

use std::collections::BTreeMap;

use bygone_replication::pattern::Pattern;
use bygone_replication::table::Table;

use super::registry::Registry;
use crate::error::{Error, Result};

/// Which columns are left out.
#[derive(Clone, Debug, Default)]
pub(crate) struct LeaveOut {
    /// By table pattern and name.
    patterns: Vec<(Pattern, String)>,
    /// By oid and attnum, as schemas of the log have them.
    exact: BTreeMap<u32, Vec<i16>>,
}

impl LeaveOut {
    /// Reads `schema.table.column`, the table as `--table` takes it.
    ///
    /// # Errors
    /// In a sentence, for the first that is none.
    pub(crate) fn parse(texts: &[String]) -> Result<Self> {
        let patterns = texts.iter().map(|text| {
            let (table, column) = split(text).ok_or_else(|| {
                Error::other(format!(
                    "--leave-out {text:?} names no column: give table.column or schema.table.column, with \"\" around unusual names"
                ))
            })?;
            let pattern = Pattern::parse(table).map_err(|error| Error::other(format!("--leave-out {text:?}: {error}")))?;
            Ok((pattern, column))
        });
        Ok(Self { patterns: patterns.collect::<Result<_>>()?, exact: BTreeMap::new() })
    }

    /// What the newest schemas of the tables leave out.
    pub(crate) fn of(registry: &Registry) -> Self {
        let exact = registry.tables().iter().map(|table| {
            let left_out = table.schema().columns.iter().filter(|column| column.column.left_out);
            (table.schema().oid, left_out.map(|column| column.column.attnum).collect())
        });
        Self { patterns: Vec::new(), exact: exact.collect() }
    }

    /// The table, its columns marked. `key` names its entities, and stays.
    pub(crate) fn mark(&self, table: &Table, key: &[i16]) -> Table {
        let mut table = table.clone();
        for column in &mut table.columns {
            let named = self
                .patterns
                .iter()
                .any(|(pattern, name)| *name == column.name && pattern.matches(&table.name));
            let known = self.exact.get(&table.oid).is_some_and(|attnums| attnums.contains(&column.attnum));
            // Without a key the row's content names the entity: nothing of it can be spared.
            column.left_out = (named || known) && !key.is_empty() && !key.contains(&column.attnum);
        }
        table
    }

    /// # Errors
    /// Where a column is to be left out that cannot be, or that is in no table.
    pub(crate) fn check(&self, tables: &[Table]) -> Result<()> {
        for (pattern, name) in &self.patterns {
            let mut found = false;
            for table in tables.iter().filter(|table| pattern.matches(&table.name)) {
                let Some(column) = table.columns.iter().find(|column| column.name == *name) else { continue };
                found = true;
                let why = if table.key().is_empty() {
                    "the table has no key, so that the whole row names it: give it a primary key"
                } else if table.key().contains(&column.attnum) {
                    "it belongs to the key that names a row"
                } else {
                    continue;
                };
                return Err(Error::other(format!(
                    "column {name} of {} cannot be left out: {why}",
                    table.name
                )));
            }
            if !found {
                let names = tables.iter().filter(|table| pattern.matches(&table.name));
                let names = names.flat_map(|table| table.columns.iter().map(|column| column.name.clone()));
                let near = crate::query::lookup::did_you_mean(name, names);
                return Err(Error::other(format!(
                    "--leave-out: no captured table {pattern} has a column {name}{near}"
                )));
            }
        }
        Ok(())
    }
}

/// The table's part and the column's name, at the last dot outside of quotes.
fn split(text: &str) -> Option<(&str, String)> {
    let mut quoted = false;
    let dots = text.char_indices().filter(|(_, char)| {
        quoted ^= *char == '"';
        *char == '.' && !quoted
    });
    let (table, column) = text.split_at(dots.last()?.0);
    let column = column.strip_prefix('.')?;
    let bare = column
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
        .map(|name| name.replace("\"\"", "\""));
    let column = bare.unwrap_or_else(|| column.to_owned());
    (!table.is_empty() && !column.is_empty()).then_some((table, column))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_part_is_the_column() {
        let column = |text: &str| split(text).map(|(table, column)| (table.to_owned(), column));
        let some = |table: &str, column: &str| Some((table.to_owned(), column.to_owned()));
        assert_eq!(column("users.password"), some("users", "password"));
        assert_eq!(column("shop.*.secret"), some("shop.*", "secret"));
        assert_eq!(column("a.\"B.c\".\"d.\"\"e\""), some("a.\"B.c\"", "d.\"e"));
        for text in ["password", "", ".a", "a.", "\"a.b\""] {
            assert_eq!(column(text), None, "{text}");
        }
    }
}
