//! Columns that are left out: no value of them is copied, taken from the stream, or written anywhere. Columns that are hashed: what is
//! written is a keyed hash of the value. And columns that are not watched: an update that changes nothing else is no fact.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use bygone_replication::pattern::Pattern;
use bygone_replication::table::{Column, Table};
use bygone_sink::hashing::{HashKey, LEAST_KEY};
use bygone_sink::schema::SchemaColumn;
use bygone_sink::value::Kind;

use super::registry::Registry;
use crate::error::{Error, Result};
use crate::query::lookup::did_you_mean;

/// What is special about columns.
#[derive(Clone, Debug, Default)]
pub(crate) struct ColumnRules {
    left_out: Rule,
    unwatched: Rule,
    hashed: Rule,
    hash_key: Option<HashKey>,
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
    /// In a sentence, for the first that is none, or where columns are to be hashed without a key.
    pub(crate) fn parse(
        left_out: &[String],
        unwatched: &[String],
        hashed: &[String],
        hash_key: Option<&Path>,
    ) -> Result<Self> {
        if let (Some(first), None) = (hashed.first(), hash_key) {
            return Err(Error::usage(format!(
                "--hash-column {first}: a hash needs a key: give --hash-key-file a file that holds one (openssl rand -hex 32)"
            )));
        }
        Ok(Self {
            left_out: Rule::parse("--leave-out", left_out)?,
            unwatched: Rule::parse("--ignore-updates", unwatched)?,
            hashed: Rule::parse("--hash-column", hashed)?,
            hash_key: hash_key.map(read_hash_key).transpose()?,
        })
    }

    /// Those of the tables' newest schemas.
    ///
    /// # Errors
    /// Where columns of these tables, by index, are hashed, and the key is not the one that they are hashed with.
    pub(crate) fn of(
        registry: &Registry,
        tables: impl Iterator<Item = usize>,
        hash_key: Option<HashKey>,
    ) -> Result<Self> {
        for table in tables.filter_map(|index| registry.tables().get(index)) {
            for column in &table.schema().columns {
                check_key(hash_key.as_ref(), &column.column, &table.schema().log_name)?;
            }
        }
        Ok(Self {
            left_out: Rule::of(registry, |column| column.column.left_out),
            unwatched: Rule::of(registry, |column| column.column.unwatched),
            hashed: Rule::of(registry, |column| column.column.hashed.is_some()),
            hash_key,
        })
    }

    /// The key for columns that are hashed.
    pub(crate) const fn hash_key(&self) -> Option<&HashKey> {
        self.hash_key.as_ref()
    }

    /// These, and for columns that are known what holds of them already: a table or column may have another name by now.
    pub(crate) fn with_known(&self, registry: &Registry) -> Self {
        Self {
            left_out: self.left_out.with_known(registry, |column| column.column.left_out),
            unwatched: self.unwatched.with_known(registry, |column| column.column.unwatched),
            hashed: self.hashed.with_known(registry, |column| column.column.hashed.is_some()),
            hash_key: self.hash_key.clone(),
        }
    }

    /// These, and for the columns of a table that was marked what was marked, under whatever name the columns go elsewhere.
    pub(crate) fn with_marked(&self, table: &Table) -> Self {
        let mut rules = self.clone();
        for column in &table.columns {
            for (rule, holds) in [
                (&mut rules.left_out, column.left_out),
                (&mut rules.unwatched, column.unwatched),
                (&mut rules.hashed, column.hashed.is_some()),
            ] {
                if holds {
                    rule.exact.entry(table.oid).or_default().push(column.attnum);
                }
            }
        }
        rules
    }

    /// The table, its columns marked. `key` names its entities, and is spared.
    pub(crate) fn mark(&self, table: &Table, key: &[i16]) -> Table {
        let mut table = table.clone();
        let (name, oid) = (table.name.clone(), table.oid);
        for column in &mut table.columns {
            let free = is_free(column, key);
            let names = |rule: &Rule| {
                let named =
                    |(pattern, other): &(Pattern, String)| *other == column.name && pattern.matches(&name);
                let known = rule.exact.get(&oid).is_some_and(|attnums| attnums.contains(&column.attnum));
                free && (known || rule.patterns.iter().any(named))
            };
            let (left_out, unwatched) = (names(&self.left_out), names(&self.unwatched));
            // Of what is left out there is nothing to hash.
            let hashed = self.hash_key.as_ref().filter(|_| names(&self.hashed) && !left_out);
            (column.left_out, column.unwatched) = (left_out, unwatched);
            if let (Some(key), None, Some(missing)) = (hashed, &column.hashed, &column.missing) {
                column.missing = Some(key.hash_text(&Kind::of(&column.data_type), missing));
            }
            column.hashed = hashed.map(|key| key.id().to_owned());
        }
        table
    }

    /// # Errors
    /// Where a column is named for which a rule cannot hold, or that is in none of the source's tables and was in none that is `known`.
    pub(crate) fn check(&self, tables: &[Table], known: &Registry) -> Result<()> {
        self.left_out.check(tables, known)?;
        self.unwatched.check(tables, known)?;
        self.hashed.check(tables, known)
    }

    /// # Errors
    /// Where values of a table's columns would be kept that are to be left out or hashed, because they name rows.
    pub(crate) fn check_table(&self, table: &Table, key: &[i16]) -> Result<()> {
        self.left_out.check_table(table, key)?;
        self.hashed.check_table(table, key)
    }

    /// # Errors
    /// Where a column is hashed, was hashed before, and not with this key: its hashes could not be compared.
    pub(crate) fn check_same_key(&self, now: &Column, before: &Column, table: &str) -> Result<()> {
        if now.hashed.is_some() { check_key(self.hash_key.as_ref(), before, table) } else { Ok(()) }
    }
}

fn check_key(key: Option<&HashKey>, column: &Column, table: &str) -> Result<()> {
    let Some(id) = &column.hashed else { return Ok(()) };
    let name = &column.name;
    match key {
        Some(key) if key.id() == id => Ok(()),
        Some(key) => Err(Error::other(format!(
            "column {name} of {table} is hashed with the key {id}, and --hash-key-file holds {}: give the file with that key. Where it \
             is lost, or is to be replaced, start once with --leave-out {table}.{name}, then with --hash-column and the new key",
            key.id()
        ))),
        None => Err(Error::other(format!(
            "column {name} of {table} is hashed with the key {id}: give the file that holds it with --hash-key-file"
        ))),
    }
}

/// Reads the key for hashes: the file's bytes, without a line break at the end.
///
/// # Errors
/// Where the file cannot be read, or holds too little.
pub(crate) fn read_hash_key(path: &Path) -> Result<HashKey> {
    let shown = path.display();
    let bytes = std::fs::read(path).map_err(|error| {
        Error::other(format!(
            "--hash-key-file {shown} cannot be read: {error}; a key is made with: (umask 077; openssl rand -hex 32 > {shown})"
        ))
    })?;
    let secret = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    let secret = secret.strip_suffix(b"\r").unwrap_or(secret);
    let key = HashKey::new(secret).ok_or_else(|| {
        let has = if secret.is_empty() { "is empty".to_owned() } else { format!("holds {} bytes", secret.len()) };
        Error::other(format!(
            "--hash-key-file {shown} {has}: a key of fewer than {LEAST_KEY} bytes can be guessed; make one with: openssl rand -hex 32"
        ))
    })?;
    let open = std::fs::metadata(path).is_ok_and(|about| about.permissions().mode() & 0o077 != 0);
    if open {
        tracing::warn!("--hash-key-file {shown} can be read by others than its owner: run chmod 600 {shown}");
    }
    Ok(key)
}

/// No value of the column is kept.
pub(crate) const fn is_spared(column: &Column) -> bool {
    column.left_out || column.hashed.is_some()
}

/// Without a key the row's content names the entity: nothing of it can be spared.
fn is_free(column: &Column, key: &[i16]) -> bool {
    !key.is_empty() && !key.contains(&column.attnum)
}

/// # Errors
/// Where values of a column would be kept that were to be left out or hashed, because it has come to name rows.
pub(crate) fn check_still_free(old: &[SchemaColumn], key: &[i16], table: &str) -> Result<()> {
    let mut kept = old.iter().map(|column| &column.column);
    match kept.find(|column| is_spared(column) && !is_free(column, key)) {
        None => Ok(()),
        Some(column) => Err(Error::other(format!(
            "column {} of {table} is left out or hashed, and names the table's rows by now, for its key is another one: give the \
             table a primary key without it, leave the table out with --table '-{table}', or take the column in by starting without \
             the option that names it",
            column.name
        ))),
    }
}

/// The same rules hold of two columns.
pub(crate) fn same_rules(one: &Column, other: &Column) -> bool {
    one.left_out == other.left_out && one.unwatched == other.unwatched && one.hashed == other.hashed
}

impl Rule {
    fn parse(option: &'static str, texts: &[String]) -> Result<Self> {
        let patterns = texts.iter().map(|text| {
            let (table, column) = split(text).ok_or_else(|| {
                Error::usage(format!(
                    "{option} {text:?} names no column: give table.column or schema.table.column, with \"\" around unusual names"
                ))
            })?;
            let pattern = Pattern::parse(table).map_err(|error| Error::usage(format!("{option} {text:?}: {error}")))?;
            Ok((pattern, column))
        });
        Ok(Self { option, patterns: patterns.collect::<Result<_>>()?, exact: BTreeMap::new() })
    }

    fn with_known(&self, registry: &Registry, holds: fn(&SchemaColumn) -> bool) -> Self {
        let mut exact = self.exact.clone();
        for (oid, attnums) in Self::of(registry, holds).exact {
            exact.entry(oid).or_default().extend(attnums);
        }
        Self { exact, ..self.clone() }
    }

    fn of(registry: &Registry, holds: fn(&SchemaColumn) -> bool) -> Self {
        let exact = registry.tables().iter().map(|table| {
            let columns = table.schema().columns.iter().filter(|column| holds(column));
            (table.schema().oid, columns.map(|column| column.column.attnum).collect())
        });
        Self { option: "", patterns: Vec::new(), exact: exact.collect() }
    }

    fn check(&self, tables: &[Table], known: &Registry) -> Result<()> {
        for (pattern, name) in &self.patterns {
            let mut found = false;
            for table in tables.iter().filter(|table| pattern.matches(&table.name)) {
                let Some(column) = table.columns.iter().find(|column| column.name == *name) else { continue };
                found = true;
                self.check_free(table, column, table.key())?;
            }
            if !found && is_lost(pattern, name, tables, known) {
                tracing::warn!("{}: no captured table {pattern} has a column {name} any more", self.option);
            } else if !found {
                let names = tables.iter().filter(|table| pattern.matches(&table.name));
                let names = names.flat_map(|table| table.columns.iter().map(|column| column.name.clone()));
                let near = did_you_mean(name, names);
                let what = format!("{}: no captured table {pattern} has a column {name}{near}", self.option);
                return Err(Error::other(what));
            }
        }
        Ok(())
    }

    /// # Errors
    /// Where the column names rows.
    fn check_free(&self, table: &Table, column: &Column, key: &[i16]) -> Result<()> {
        if is_free(column, key) {
            return Ok(());
        }
        let why = if key.is_empty() {
            "the table has no key, so that the whole row names it: give it a primary key, or leave the table out with --table"
        } else {
            "it belongs to the key that names a row"
        };
        Err(Error::other(format!("{}: not column {} of {}: {why}", self.option, column.name, table.name)))
    }

    /// # Errors
    /// Where a column of the table is meant that names rows.
    fn check_table(&self, table: &Table, key: &[i16]) -> Result<()> {
        for (_, name) in self.patterns.iter().filter(|(pattern, _)| pattern.matches(&table.name)) {
            if let Some(column) = table.columns.iter().find(|column| column.name == *name) {
                self.check_free(table, column, key)?;
            }
        }
        Ok(())
    }
}

/// There were columns of the name, and all have been dropped. One that was renamed would be kept from here on if its old name sufficed.
fn is_lost(pattern: &Pattern, name: &str, tables: &[Table], known: &Registry) -> bool {
    let called = known.tables().iter().filter(|table| table.was_called(pattern));
    let mut had = called.flat_map(|table| table.columns_called(name)).peekable();
    let is_there = |(oid, attnum): (u32, i16)| {
        tables.iter().any(|table| table.oid == oid && table.column(attnum).is_some())
    };
    had.peek().is_some() && !had.any(is_there)
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
