//! Retention classes: a word for each table that its files carry as a tag, so that a bucket's own rules can tell them apart.

use bygone_replication::pattern::Pattern;
use bygone_replication::table::{Table, TableName};

use super::registry::Registry;
use crate::error::{Error, Result};
use crate::query::lookup::did_you_mean;

const LONGEST: usize = 32;

/// The classes of tables.
#[derive(Clone, Debug, Default)]
pub(crate) struct Retention {
    classes: Vec<(Pattern, String)>,
}

impl Retention {
    /// Reads `schema.table=class`, the table as `--table` takes it.
    ///
    /// # Errors
    /// In a sentence, for the first that is none.
    pub(crate) fn parse(texts: &[String]) -> Result<Self> {
        let classes = texts.iter().map(|text| {
            let (table, class) = text.rsplit_once('=').filter(|(_, class)| is_class(class)).ok_or_else(|| {
                Error::usage(format!(
                    "--retention {text:?}: give TABLE=CLASS, a class of at most {LONGEST} characters among a to z, 0 to 9 and -"
                ))
            })?;
            let pattern = Pattern::parse(table)
                .map_err(|error| Error::usage(format!("--retention {text:?}: {error}")))?;
            Ok((pattern, class.to_owned()))
        });
        Ok(Self { classes: classes.collect::<Result<_>>()? })
    }

    /// The class of a table: of several that match, the one that was given last.
    pub(crate) fn of(&self, table: &TableName) -> Option<&str> {
        let mut matching = self.classes.iter().rev().filter(|(pattern, _)| pattern.matches(table));
        matching.next().map(|(_, class)| class.as_str())
    }

    /// # Errors
    /// Where a pattern matches none of the source's tables, nor one that is `known` and was dropped.
    pub(crate) fn check(&self, tables: &[Table], known: &Registry) -> Result<()> {
        let matches = |pattern: &Pattern| tables.iter().any(|table| pattern.matches(&table.name));
        let is_there = |oid: u32| tables.iter().any(|table| table.oid == oid);
        let is_lost = |pattern: &Pattern| {
            let mut called = known.tables().iter().filter(|table| table.was_called(pattern)).peekable();
            called.peek().is_some() && !called.any(|table| is_there(table.schema().oid))
        };
        let none = self.classes.iter().find(|(pattern, _)| !matches(pattern) && !is_lost(pattern));
        let Some((pattern, _)) = none else { return Ok(()) };
        let text = pattern.to_string();
        let names = tables.iter().flat_map(|table| [table.name.to_string(), table.name.name.clone()]);
        let near = did_you_mean(&text, names);
        Err(Error::other(format!("--retention: no captured table matches {text}{near}")))
    }
}

fn is_class(class: &str) -> bool {
    (1..=LONGEST).contains(&class.len())
        && class.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(texts: &[&str]) -> Result<Retention> {
        Retention::parse(&texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn the_last_that_matches_is_the_class() {
        let classes = parse(&["public.*=years-7", "sessions=days-30", "\"a=b\".t=x"]).unwrap();
        let of = |schema: &str, name: &str| classes.of(&TableName::new(schema, name)).map(str::to_owned);
        assert_eq!(of("public", "orders").as_deref(), Some("years-7"));
        assert_eq!(of("public", "sessions").as_deref(), Some("days-30"));
        assert_eq!(of("a=b", "t").as_deref(), Some("x"));
        assert_eq!(of("shop", "orders"), None);
    }

    #[test]
    fn what_is_no_class_is_refused() {
        let long = format!("t={}", "x".repeat(LONGEST + 1));
        for text in ["t", "t=", "t=Long", "t=a b", "t=ä", "=x", &long] {
            assert!(parse(&[text]).is_err(), "{text}");
        }
    }
}
