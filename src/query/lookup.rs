//! Tables, columns and rows by the names that people give them.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};

use bygone_replication::pgoutput::Cell as WireCell;
use bygone_replication::table::TableName;
use bygone_sink::log::{parse_table_text, table_text};
use bygone_sink::read::{Archive, Columns, FactFilter, Flow, OwnedFact, TableHistory};
use bygone_sink::schema::{SchemaColumn, TableSchema};
use bygone_sink::value::{self, Kind, RowBuilder, render};

use super::arguments::Entity;
use super::changes::Shown;
use super::comparable::Wanted;
use super::value::{fields, text};
use crate::error::{Error, Result};

/// Names that are offered in place of one that is not known.
const SUGGESTIONS: usize = 3;
/// Keys that are compared with one that is not there.
const COMPARED: usize = 100_000;

/// Finds a table by `name` or `schema.name`, with or without quotes: as it is called now, else as it was when it was
/// attached.
///
/// # Errors
/// In a sentence: there is none (with the names nearest to it), or several.
pub(crate) fn table(archive: &Archive, text: &str) -> Result<TableHistory> {
    let mut tables = archive.tables()?;
    let found = positions(&tables, text);
    match found.as_slice() {
        [one] => Ok(tables.swap_remove(*one)),
        [] => {
            let names = tables.iter().flat_map(|table| [table.name.name.clone(), table.log_name.clone()]);
            Err(Error::other(format!("the history has no table {text:?}{}", did_you_mean(text, names))))
        }
        several => {
            let names = several.iter().filter_map(|at| tables.get(*at)).map(|table| table_text(&table.name));
            Err(Error::other(format!("{text:?} is {}: say which", names.collect::<Vec<_>>().join(" or "))))
        }
    }
}

/// The tables that a text may mean, by the best of the ways to mean one.
fn positions(tables: &[TableHistory], text: &str) -> Vec<usize> {
    let bare = unquoted(text);
    let parts = in_two(text);
    let is_in_two = |name: &TableName| {
        parts.as_ref().is_some_and(|(schema, bare)| (&name.schema, &name.name) == (schema, bare))
    };
    let is_whole = |name: &TableName| name.to_string() == text || table_text(name) == text || is_in_two(name);
    let is_bare = |name: &TableName| name.name == text || Some(name.name.as_str()) == bare.as_deref();
    let attached_as = |table: &TableHistory| parse_table_text(&table.log_name);
    let ways: [&dyn Fn(&TableHistory) -> bool; 4] = [
        &|table| is_whole(&table.name),
        &|table| table.log_name == text || attached_as(table).is_some_and(|name| is_whole(&name)),
        &|table| is_bare(&table.name),
        &|table| attached_as(table).is_some_and(|name| is_bare(&name)),
    ];
    for is_meant in ways {
        let found: Vec<usize> =
            tables.iter().enumerate().filter(|(_, table)| is_meant(table)).map(|(at, _)| at).collect();
        if !found.is_empty() {
            return found;
        }
    }
    Vec::new()
}

/// What one name in quotes says.
fn unquoted(text: &str) -> Option<String> {
    let inside = text.strip_prefix('"')?.strip_suffix('"')?;
    (!inside.replace("\"\"", "").contains('"')).then(|| inside.replace("\"\"", "\""))
}

/// What two names with a dot between them say, each with or without quotes: `"S 2".same`, as Postgres prints it.
fn in_two(text: &str) -> Option<(String, String)> {
    let named = |part: &str| match part.contains('"') {
        true => unquoted(part),
        false => Some(part.to_owned()),
    };
    let mut dots = text.match_indices('.').map(|(at, _)| at);
    dots.find_map(|at| Some((named(text.get(..at)?)?, named(text.get(at + 1..)?)?)))
}

/// Finds a column by its name.
///
/// # Errors
/// In a sentence, with the names nearest to it.
pub(crate) fn column<'a>(schema: &'a TableSchema, name: &str) -> Result<(usize, &'a SchemaColumn)> {
    let exact = schema.columns.iter().position(|column| column.column.name == name);
    let folded = || schema.columns.iter().position(|column| column.column.name == name.to_lowercase());
    exact.or_else(folded).and_then(|at| Some((at, schema.columns.get(at)?))).ok_or_else(|| {
        let names = schema.columns.iter().map(|column| column.column.name.clone());
        Error::usage(format!("{} has no column {name:?}{}", schema.name, did_you_mean(name, names)))
    })
}

/// `; did you mean orders?`, or nothing where no name is near.
pub(crate) fn did_you_mean(text: &str, names: impl Iterator<Item = String>) -> String {
    let wanted = text.to_lowercase();
    let mut near: Vec<(f64, String)> = names
        .map(|name| (strsim::jaro_winkler(&wanted, &name.to_lowercase()), name))
        .filter(|(likeness, _)| *likeness > 0.7)
        .collect();
    near.sort_by(|(a, x), (b, y)| b.total_cmp(a).then_with(|| x.cmp(y)));
    near.dedup_by(|(_, a), (_, b)| a == b);
    near.truncate(SUGGESTIONS);
    let near: Vec<String> = near.into_iter().map(|(_, name)| name).collect();
    if near.is_empty() { String::new() } else { format!("; did you mean {}?", near.join(" or ")) }
}

/// The `_entity_id` of the row that is meant: by the key that the table has now, else by one that it had.
///
/// # Errors
/// Where the key has other columns than those given.
pub(crate) fn entity_id(table: &TableHistory, entity: &Entity) -> Result<String> {
    let now = entity_id_by(table, table.newest(), entity);
    if now.is_ok() {
        return now;
    }
    let key_of = |schema: &TableSchema| -> Vec<String> {
        let columns = schema.key.iter().filter_map(|at| schema.columns.get(*at));
        columns.map(|column| column.column.name.clone()).collect()
    };
    let mut tried = vec![key_of(table.newest())];
    for version in table.versions.iter().rev() {
        let key = key_of(&version.schema);
        if !tried.contains(&key) {
            if let Ok(found) = entity_id_by(table, &version.schema, entity) {
                return Ok(found);
            }
            tried.push(key);
        }
    }
    now
}

fn entity_id_by(table: &TableHistory, schema: &TableSchema, entity: &Entity) -> Result<String> {
    let key: Vec<&SchemaColumn> = schema.key.iter().filter_map(|at| schema.columns.get(*at)).collect();
    let names: Vec<&str> = key.iter().map(|column| column.column.name.as_str()).collect();
    if !entity.key.is_empty() {
        if key.is_empty() {
            return Err(Error::usage(format!("{} has no key: give the row's _entity_id", table.log_name)));
        }
        let given = by_name(&entity.key, &names, &table.log_name)?;
        let parts = key.iter().map(|column| {
            let missing = || Error::usage(format!("the key of {} is ({})", table.log_name, names.join(", ")));
            given
                .get(column.column.name.as_str())
                .map(|text| canonical(&column.kind, text))
                .ok_or_else(missing)
        });
        return Ok(joined(&parts.collect::<Result<Vec<String>>>()?));
    }
    match (entity.keys.as_slice(), key.as_slice()) {
        ([one], []) => Ok(one.clone()),
        ([one], [column]) => Ok(canonical(&column.kind, one)),
        ([one], _) => {
            let parts: Option<Vec<String>> = serde_json::from_str(one).ok();
            let parts = parts
                .filter(|parts| parts.len() == key.len())
                .ok_or_else(|| wrong_count(table, &names, 1))?;
            Ok(joined(&canonical_all(&key, &parts)))
        }
        (several, _) if several.len() == key.len() => Ok(joined(&canonical_all(&key, several))),
        (several, _) => Err(wrong_count(table, &names, several.len())),
    }
}

fn canonical_all(key: &[&SchemaColumn], parts: &[String]) -> Vec<String> {
    key.iter().zip(parts).map(|(column, text)| canonical(&column.kind, text)).collect()
}

fn wrong_count(table: &TableHistory, names: &[&str], given: usize) -> Error {
    let parts: Vec<String> = names.iter().map(|name| format!("{name}=…")).collect();
    Error::usage(format!(
        "the key of {} is ({}), and the number of values given is {given}; write --key {}",
        table.log_name,
        names.join(", "),
        parts.join(",")
    ))
}

/// `a=1,b=2`, where a comma parts two values only if a column of the key follows.
fn by_name<'a>(given: &'a [String], names: &[&str], table: &str) -> Result<HashMap<&'a str, String>> {
    let mut parts: HashMap<&str, String> = HashMap::new();
    for text in given {
        let mut last: Option<&str> = None;
        for part in text.split(',') {
            match part.split_once('=').filter(|(name, _)| names.contains(&name.trim())) {
                Some((name, value)) => {
                    parts.insert(name.trim(), value.to_owned());
                    last = Some(name.trim());
                }
                None => match last.and_then(|name| parts.get_mut(name)) {
                    Some(value) => {
                        value.push(',');
                        value.push_str(part);
                    }
                    None => {
                        return Err(Error::usage(format!(
                            "--key {text:?}: expected {}=value; the key of {table} is ({})",
                            names.first().unwrap_or(&"column"),
                            names.join(", ")
                        )));
                    }
                },
            }
        }
    }
    Ok(parts)
}

/// The value as Postgres prints it, where it is one: `007` is 7, an upper-case UUID a lower-case one.
pub(crate) fn canonical(kind: &Kind, text: &str) -> String {
    let lower = if matches!(kind, Kind::Uuid) { text.to_ascii_lowercase() } else { text.to_owned() };
    let trimmed = if matches!(kind, Kind::Int16 | Kind::Int32 | Kind::Int64) {
        lower.trim().parse::<i64>().map_or(lower.clone(), |number| number.to_string())
    } else {
        lower
    };
    reread(kind, &trimmed).unwrap_or(trimmed)
}

/// Text as Postgres prints it where it is a value of a kind; none where it is no such value.
pub(crate) fn reread(kind: &Kind, text: &str) -> Option<String> {
    let mut row = RowBuilder::default();
    row.start(1);
    value::read(kind, WireCell::Text(text.as_bytes()), &mut row).ok()?;
    let field = fields(row.bytes(), std::slice::from_ref(kind)).ok()?.first().copied()?;
    let mut out = String::new();
    render(kind, field, &mut out).ok()?;
    Some(out)
}

/// The parts of a key as `_entity_id` has them.
fn joined(parts: &[String]) -> String {
    match parts {
        [one] => one.clone(),
        several => serde_json::Value::from(several.to_vec()).to_string(),
    }
}

/// The `_entity_id` that a row has by the key of its schema; none without a key.
pub(crate) fn entity_of(row: &Shown) -> Option<String> {
    let fields = row.fields().ok()?;
    let parts = row.schema.key.iter().map(|at| text(row.schema.kinds().get(*at)?, *fields.get(*at)?).ok());
    let parts = parts.collect::<Option<Vec<String>>>()?;
    (!parts.is_empty()).then(|| joined(&parts))
}

/// All versions of one row, oldest first, and what it is called.
///
/// # Errors
/// In a sentence, with the keys nearest to it, where there is no such row.
pub(crate) async fn versions(
    archive: &Archive,
    table: &TableHistory,
    entity_id: String,
) -> Result<(String, Vec<OwnedFact>)> {
    let mut found = versions_of(archive, table, FactFilter::entity(&entity_id)).await?;
    if let Some(versions) = found.remove(&entity_id) {
        return Ok((entity_id, versions));
    }
    let entity_id = by_equal_key(archive, table, &entity_id).await?;
    let mut found = versions_of(archive, table, FactFilter::entity(&entity_id)).await?;
    let versions = found.remove(&entity_id).unwrap_or_default();
    Ok((entity_id, versions))
}

/// The versions of each entity that a filter takes, oldest first.
///
/// # Errors
/// Where the history cannot be read.
pub(crate) async fn versions_of(
    archive: &Archive,
    table: &TableHistory,
    filter: FactFilter,
) -> Result<HashMap<String, Vec<OwnedFact>>> {
    let mut found: HashMap<String, Vec<OwnedFact>> = HashMap::new();
    let mut keep = |fact: &bygone_sink::read::Fact<'_>| {
        found.entry(fact.head.entity_id.clone()).or_default().push(fact.to_owned());
        Flow::Continue(())
    };
    archive.facts(table, &filter, &Columns::All, &mut keep).await?;
    for versions in found.values_mut() {
        versions.sort_by_key(|fact| fact.head.version);
        versions.dedup_by_key(|fact| fact.head.version);
    }
    Ok(found)
}

/// The row whose key is equal, as its columns' types have it, to one that there never was: 1.0 where 1.00 is asked for, a moment in another
/// zone. All keys are looked at.
///
/// # Errors
/// In a sentence, where there is none, with the keys nearest to it, or several; where the history cannot be read.
pub(crate) async fn by_equal_key(archive: &Archive, table: &TableHistory, entity_id: &str) -> Result<String> {
    let mut near: Vec<(f64, String)> = Vec::new();
    let mut equal: BTreeSet<String> = BTreeSet::new();
    let mut wanted: HashMap<i32, Option<EqualKey>> = HashMap::new();
    let mut seen: HashSet<u64> = HashSet::new();
    let hasher = RandomState::new();
    let mut look = |fact: &bygone_sink::read::Fact<'_>| {
        let other = &fact.head.entity_id;
        let key = wanted.entry(fact.schema.version).or_insert_with(|| EqualKey::new(fact.schema, entity_id));
        if key.as_ref().is_some_and(|key| key.is(other)) {
            equal.insert(other.clone());
        }
        if seen.len() >= COMPARED || !seen.insert(hasher.hash_one(other)) {
            return Flow::Continue(());
        }
        let likeness = likeness(entity_id, other);
        if likeness >= 0.5 {
            near.push((likeness, other.clone()));
            near.sort_by(|(a, x), (b, y)| {
                b.total_cmp(a).then_with(|| x.len().cmp(&y.len())).then_with(|| x.cmp(y))
            });
            near.truncate(SUGGESTIONS);
        }
        Flow::Continue(())
    };
    let none = Columns::Some(Vec::new());
    archive.facts(table, &FactFilter::default(), &none, &mut look).await?;
    let hint = match equal.len() {
        0 if near.is_empty() => String::new(),
        0 => {
            let near: Vec<String> = near.into_iter().map(|(_, name)| name).collect();
            format!("; the nearest keys are {}", near.join(", "))
        }
        1 => return Ok(equal.pop_first().unwrap_or_default()),
        _ => {
            let equal: Vec<String> = equal.into_iter().take(SUGGESTIONS).collect();
            format!(", and several keys are equal to it: {}; say which", equal.join(", "))
        }
    };
    Err(Error::other(format!("{} never had a row with the key {entity_id}{hint}", table.log_name)))
}

/// A key, to be compared with others as the types of its columns have it.
struct EqualKey(Vec<Wanted>);

impl EqualKey {
    /// None where it is no key of the schema.
    fn new(schema: &TableSchema, entity_id: &str) -> Option<Self> {
        let key: Vec<&SchemaColumn> = schema.key.iter().filter_map(|at| schema.columns.get(*at)).collect();
        let parts = parts(entity_id, key.len())?;
        let wanted = key.iter().zip(&parts).map(|(column, part)| Wanted::new(column, part).ok());
        wanted.collect::<Option<Vec<Wanted>>>().map(Self)
    }

    fn is(&self, other: &str) -> bool {
        parts(other, self.0.len())
            .is_some_and(|parts| self.0.iter().zip(&parts).all(|(wanted, part)| wanted.is_text(part)))
    }
}

/// The parts of a key of so many columns; none where it has another number of them.
fn parts(entity_id: &str, columns: usize) -> Option<Vec<Cow<'_, str>>> {
    match columns {
        0 => None,
        1 => Some(vec![Cow::Borrowed(entity_id)]),
        _ => serde_json::from_str(entity_id).ok().filter(|parts: &Vec<_>| parts.len() == columns),
    }
}

/// Keys up to so many bytes are compared by what it takes to make one of the other. That takes the product of their lengths (some
/// 2 microseconds for these), and all keys of a table are compared.
const SHORT: usize = 24;

/// How much two keys are alike: 1 where they are equal, 0 where nothing is. Of long keys that is the part which both begin and end with.
fn likeness(one: &str, other: &str) -> f64 {
    let (less, more) = (one.len().min(other.len()), one.len().max(other.len()));
    if more <= SHORT {
        return strsim::normalized_damerau_levenshtein(one, other);
    }
    let alike = |pairs: &mut dyn Iterator<Item = (u8, u8)>| pairs.take_while(|(a, b)| a == b).count();
    let begin = alike(&mut one.bytes().zip(other.bytes()));
    let end = alike(&mut one.bytes().rev().zip(other.bytes().rev()));
    begin.saturating_add(end).min(less) as f64 / more as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_keys_are_alike_in_what_they_begin_and_end_with() {
        let key = "0123456789".repeat(20);
        let typo = key.replacen("45", "54", 1);
        assert!(likeness(&key, &typo) > 0.95, "{}", likeness(&key, &typo));
        assert!(likeness(&key, &format!("{key}0")) > 0.95);
        assert!(likeness(&key, &"x".repeat(200)) < 0.1);
        assert!(likeness(&key, "") < 0.1);
        assert!((likeness(&key, &key) - 1.0).abs() < f64::EPSILON);
        assert!(likeness("1234", "1243") >= 0.5);
    }

    #[test]
    fn two_names_are_told_apart_by_the_dot_outside_of_quotes() {
        let both = |schema: &str, name: &str| Some((schema.to_owned(), name.to_owned()));
        assert_eq!(in_two(r#""S 2".same"#), both("S 2", "same"));
        assert_eq!(in_two(r#""a.b"."c""d""#), both("a.b", "c\"d"));
        assert_eq!(in_two("a.b"), both("a", "b"));
        assert_eq!(in_two(r#""a.b""#), None);
        assert_eq!(in_two(r#""a"b.c"#), None);
    }
}
