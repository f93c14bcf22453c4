//! Columns that are left out: no value of them is copied, taken from the stream, or written anywhere. And columns that are not
//! watched: an update that changes nothing else is no fact.

use std::collections::BTreeMap;

use bygone_replication::pattern::Pattern;
use bygone_replication::table::{Column, Table};
use bygone_sink::schema::SchemaColumn;

use super::registry::Registry;
use crate::error::{Error, Result};
use crate::query::lookup::did_you_mean;

/// What is special about columns.
#[derive(Clone, Debug, Default)]
pub(crate) struct ColumnRules {
    left_out: Rule,
    unwatched: Rule,
}

/// Some columns.
#[derive(Clone, Debug, Default)]
struct Rule {
    option: &'static str,
    /// By table pattern and name.
    patterns: Vec<(Pattern, String)>,
    /// By oid and attnum, as schemas of the log have them.
    exact: BTreeMap<u32, Vec<i16>>,
}

impl ColumnRules {
    /// Reads `schema.table.column`, the table as `--table` takes it.
    ///
    /// # Errors
    /// In a sentence, for the first that is none.
    pub(crate) fn parse(left_out: &[String], unwatched: &[String]) -> Result<Self> {
        Ok(Self {
            left_out: Rule::parse("--leave-out", left_out)?,
            unwatched: Rule::parse("--ignore-updates", unwatched)?,
        })
    }

    /// Those of the tables' newest schemas.
    pub(crate) fn of(registry: &Registry) -> Self {
        Self {
            left_out: Rule::of(registry, |column| column.column.left_out),
            unwatched: Rule::of(registry, |column| column.column.unwatched),
        }
    }

    /// The table, its columns marked. `key` names its entities, and is spared.
    pub(crate) fn mark(&self, table: &Table, key: &[i16]) -> Table {
        let mut table = table.clone();
        let (name, oid) = (table.name.clone(), table.oid);
        for column in &mut table.columns {
            // Without a key the row's content names the entity: nothing of it can be spared.
            let free = !key.is_empty() && !key.contains(&column.attnum);
            let names = |rule: &Rule| {
                let named =
                    |(pattern, other): &(Pattern, String)| *other == column.name && pattern.matches(&name);
                let known = rule.exact.get(&oid).is_some_and(|attnums| attnums.contains(&column.attnum));
                free && (known || rule.patterns.iter().any(named))
            };
            let (left_out, unwatched) = (names(&self.left_out), names(&self.unwatched));
            (column.left_out, column.unwatched) = (left_out, unwatched);
        }
        table
    }

    /// # Errors
    /// Where a column is named for which a rule cannot hold, or that is in no table.
    pub(crate) fn check(&self, tables: &[Table]) -> Result<()> {
        self.left_out.check(tables)?;
        self.unwatched.check(tables)
    }
}

/// The same rules hold of two columns.
pub(crate) fn same_rules(one: &Column, other: &Column) -> bool {
    one.left_out == other.left_out && one.unwatched == other.unwatched
}

impl Rule {
    fn parse(option: &'static str, texts: &[String]) -> Result<Self> {
        let patterns = texts.iter().map(|text| {
            let (table, column) = split(text).ok_or_else(|| {
                Error::other(format!(
                    "{option} {text:?} names no column: give table.column or schema.table.column, with \"\" around unusual names"
                ))
            })?;
            let pattern = Pattern::parse(table).map_err(|error| Error::other(format!("{option} {text:?}: {error}")))?;
            Ok((pattern, column))
        });
        Ok(Self { option, patterns: patterns.collect::<Result<_>>()?, exact: BTreeMap::new() })
    }

    fn of(registry: &Registry, holds: fn(&SchemaColumn) -> bool) -> Self {
        let exact = registry.tables().iter().map(|table| {
            let columns = table.schema().columns.iter().filter(|column| holds(column));
            (table.schema().oid, columns.map(|column| column.column.attnum).collect())
        });
        Self { option: "", patterns: Vec::new(), exact: exact.collect() }
    }

    fn check(&self, tables: &[Table]) -> Result<()> {
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
                    "{}: not column {name} of {}: {why}",
                    self.option, table.name
                )));
            }
            if !found {
                let names = tables.iter().filter(|table| pattern.matches(&table.name));
                let names = names.flat_map(|table| table.columns.iter().map(|column| column.name.clone()));
                let near = did_you_mean(name, names);
                let what = format!("{}: no captured table {pattern} has a column {name}{near}", self.option);
                return Err(Error::other(what));
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
