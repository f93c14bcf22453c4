//! Which tables to capture: `--table` patterns.
//!
//! | pattern | selects |
//! |---|---|
//! | `public.*` | every table of the schema `public` |
//! | `shop.order_*`, `shop.log_20??` | `*` stands for any characters, `?` for one |
//! | `orders` | the table `orders` of any schema |
//! | `"Odd.Schema"."t"` | exactly that name: nothing is special inside double quotes, `""` stands for one |
//! | `-audit.*`, `!audit.*` | takes these out again, wherever it stands in the list |
//!
//! Names are compared as the catalog spells them, so upper and lower case differ even without quotes: a table that
//! was created as `Orders` without quotes is `orders`. Without any pattern, or with exclusions alone, every table
//! outside the system schemas is selected. A partition follows its root: patterns name the root.

use std::fmt;

use crate::table::TableName;

/// How many near names an error proposes.
const PROPOSALS: usize = 3;

/// A list of patterns, as `--table` gives them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Patterns {
    patterns: Vec<Pattern>,
}

/// One pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    exclude: bool,
    /// `None` for any schema.
    schema: Option<Glob>,
    name: Glob,
}

/// What is wrong with a pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PatternError {
    /// The text is not a pattern.
    #[error(
        "{pattern:?} is not a table pattern: {problem} (expected name, schema.name or schema.*, each with \"\" around unusual names)"
    )]
    Syntax {
        /// The pattern as given.
        pattern: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// No table has such a name.
    #[error("no table matches {pattern:?}{}", proposals(.nearest))]
    NoMatch {
        /// The pattern as given.
        pattern: String,
        /// Names that are close to it, nearest first.
        nearest: Vec<TableName>,
    },
    /// Only partitions have such a name.
    #[error(
        "{pattern:?} matches only partitions ({partition} among them): a partitioned table is captured as a whole, name its root {root}"
    )]
    OnlyPartitions {
        /// The pattern as given.
        pattern: String,
        /// One of the partitions.
        partition: TableName,
        /// The table that it is a partition of.
        root: TableName,
    },
}

fn proposals(nearest: &[TableName]) -> String {
    if nearest.is_empty() {
        return String::new();
    }
    let names: Vec<String> = nearest.iter().map(ToString::to_string).collect();
    format!("; the nearest: {}", names.join(", "))
}

impl Patterns {
    /// Reads a list of patterns.
    ///
    /// # Errors
    /// [`PatternError::Syntax`] for the first that is none.
    pub fn parse<S: AsRef<str>>(texts: &[S]) -> Result<Self, PatternError> {
        let patterns = texts.iter().map(|text| Pattern::parse(text.as_ref())).collect::<Result<_, _>>()?;
        Ok(Self { patterns })
    }

    /// Whether the list selects a table of this name (system schemas are the caller's matter).
    #[must_use]
    pub fn select(&self, table: &TableName) -> bool {
        let mut included = self.patterns.iter().all(|pattern| pattern.exclude);
        for pattern in self.patterns.iter().filter(|pattern| pattern.matches(table)) {
            if pattern.exclude {
                return false;
            }
            included = true;
        }
        included
    }

    /// Whether some pattern without wildcards spells this name: the user asks for it and no other.
    #[must_use]
    pub fn name_exactly(&self, table: &TableName) -> bool {
        self.patterns
            .iter()
            .any(|pattern| !pattern.exclude && pattern.name.is_literal() && pattern.matches(table))
    }

    /// Refuses patterns that match none of `tables`, which may be a mistyped name or a table that is gone.
    /// `partitions` are pairs of a partition and its root.
    ///
    /// # Errors
    /// [`PatternError::NoMatch`] or [`PatternError::OnlyPartitions`] for the first such pattern.
    pub fn require_matches(
        &self,
        tables: &[TableName],
        partitions: &[(TableName, TableName)],
    ) -> Result<(), PatternError> {
        for pattern in &self.patterns {
            if tables.iter().any(|table| pattern.matches(table)) {
                continue;
            }
            if let Some((partition, root)) = partitions.iter().find(|(name, _)| pattern.matches(name)) {
                return Err(PatternError::OnlyPartitions {
                    pattern: pattern.text.clone(),
                    partition: partition.clone(),
                    root: root.clone(),
                });
            }
            return Err(PatternError::NoMatch {
                pattern: pattern.text.clone(),
                nearest: pattern.nearest(tables),
            });
        }
        Ok(())
    }
}

impl Pattern {
    /// Reads one pattern.
    ///
    /// # Errors
    /// [`PatternError::Syntax`] when it is none.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let syntax = |problem| PatternError::Syntax { pattern: text.to_owned(), problem };
        let trimmed = text.trim();
        let (exclude, rest) = match trimmed.strip_prefix(['-', '!']) {
            Some(rest) => (true, rest.trim_start()),
            None => (false, trimmed),
        };
        let mut parts = split(rest).map_err(syntax)?.into_iter();
        let (schema, name) = match (parts.next(), parts.next(), parts.next()) {
            (Some(name), None, None) => (None, name),
            (Some(schema), Some(name), None) => (Some(schema), name),
            _ => return Err(syntax("it has more than two parts")),
        };
        Ok(Self { text: trimmed.to_owned(), exclude, schema, name })
    }

    /// Whether the pattern matches a name, be it to take it in or out.
    #[must_use]
    pub fn matches(&self, table: &TableName) -> bool {
        self.schema.as_ref().is_none_or(|schema| schema.matches(&table.schema))
            && self.name.matches(&table.name)
    }

    /// The tables whose names differ from the pattern by few letters, nearest first.
    fn nearest(&self, tables: &[TableName]) -> Vec<TableName> {
        let mut near: Vec<(usize, &TableName)> = tables
            .iter()
            .filter_map(|table| {
                let name = self.name.distance(&table.name)?;
                let schema = match &self.schema {
                    None => 0,
                    Some(schema) => match schema.distance(&table.schema) {
                        Some(schema) => schema,
                        // The very name is near, whatever its schema is called.
                        None if name == 0 && self.name.is_literal() => 1,
                        None => return None,
                    },
                };
                Some((name + schema, table))
            })
            .collect();
        near.sort();
        near.into_iter().take(PROPOSALS).map(|(_, table)| table.clone()).collect()
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Splits at dots outside quotes.
fn split(text: &str) -> Result<Vec<Glob>, &'static str> {
    let mut parts = Vec::new();
    let mut chars = text.chars().peekable();
    loop {
        let mut tokens = Vec::new();
        if chars.peek() == Some(&'"') {
            chars.next();
            loop {
                match chars.next() {
                    None => return Err("a quote is not closed"),
                    Some('"') if chars.peek() == Some(&'"') => {
                        chars.next();
                        tokens.push(Token::Char('"'));
                    }
                    Some('"') => break,
                    Some(other) => tokens.push(Token::Char(other)),
                }
            }
            if !matches!(chars.peek(), None | Some('.')) {
                return Err("a quoted name must be followed by a dot or by the end");
            }
        } else {
            while let Some(next) = chars.next_if(|next| *next != '.') {
                tokens.push(match next {
                    '"' => return Err("a quote may only stand around a whole name"),
                    '*' => Token::Any,
                    '?' => Token::One,
                    other => Token::Char(other),
                });
            }
        }
        if tokens.is_empty() {
            return Err("a name is empty");
        }
        parts.push(Glob(tokens));
        if chars.next().is_none() {
            return Ok(parts);
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Glob(Vec<Token>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Char(char),
    One,
    Any,
}

impl Glob {
    fn is_literal(&self) -> bool {
        self.0.iter().all(|token| matches!(token, Token::Char(_)))
    }

    /// How many letters a name differs by, upper and lower case being the same; `None` for too many. Of a pattern with
    /// wildcards, what stands before the first of them counts.
    fn distance(&self, name: &str) -> Option<usize> {
        let lower =
            |chars: &mut dyn Iterator<Item = char>| chars.flat_map(char::to_lowercase).collect::<String>();
        let letters = lower(&mut self.0.iter().map_while(|token| match token {
            Token::Char(char) => Some(*char),
            Token::One | Token::Any => None,
        }));
        let length = letters.chars().count();
        let compared = if self.is_literal() { usize::MAX } else { length };
        let distance = distance(&letters, &lower(&mut name.chars().take(compared)));
        (distance <= (length / 3).max(2)).then_some(distance)
    }

    /// Linear in practice: on a mismatch, only the last `*` is tried again.
    fn matches(&self, name: &str) -> bool {
        let mut tokens = self.0.as_slice();
        let mut chars = name.chars();
        let mut retry: Option<(&[Token], std::str::Chars<'_>)> = None;
        loop {
            let here = chars.clone();
            match (tokens.split_first(), chars.next()) {
                (Some((Token::Any, after)), _) => {
                    chars = here;
                    tokens = after;
                    retry = Some((after, chars.clone()));
                    continue;
                }
                (Some((Token::One, after)), Some(_)) => {
                    tokens = after;
                    continue;
                }
                (Some((Token::Char(want), after)), Some(got)) if *want == got => {
                    tokens = after;
                    continue;
                }
                (None, None) => return true,
                _ => {}
            }
            // Let the last `*` take one character more.
            let Some((after, mut rest)) = retry.take() else { return false };
            if rest.next().is_none() {
                return false;
            }
            tokens = after;
            chars = rest.clone();
            retry = Some((after, rest));
        }
    }
}

/// Levenshtein's distance: insertions, deletions and replacements of single characters.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (line, from) in left.chars().enumerate() {
        let mut diagonal = line;
        let mut before = line + 1;
        if let Some(first) = row.first_mut() {
            *first = before;
        }
        for (cell, to) in row.iter_mut().skip(1).zip(&right) {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = *cell;
            *cell = replaced.min(diagonal + 1).min(before + 1);
            before = *cell;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(texts: &[&str]) -> Patterns {
        Patterns::parse(texts).unwrap()
    }

    fn name(schema: &str, name: &str) -> TableName {
        TableName::new(schema, name)
    }

    #[test]
    fn wildcards_match_within_one_part() {
        for (pattern, schema, table, expected) in [
            ("public.*", "public", "orders", true),
            ("public.*", "shop", "orders", false),
            ("shop.order_*", "shop", "order_", true),
            ("shop.order_*", "shop", "order_items", true),
            ("shop.order_*", "shop", "orders", false),
            ("orders", "anything", "orders", true),
            ("orders", "public", "orders2", false),
            ("Orders", "public", "orders", false),
            ("log_20??", "public", "log_2024", true),
            ("log_20??", "public", "log_202", false),
            ("*a*b*", "public", "xxaxxabx", true),
            ("*a*b*", "public", "xxbxxa", false),
            ("*.t", "anything", "t", true),
            ("?", "public", "é", true),
            ("a.b", "public", "a.b", false),
            ("\"a.b\"", "public", "a.b", true),
            ("\"Odd.Schema\".\"t\"", "Odd.Schema", "t", true),
            ("\"wild*\".x", "wild1", "x", false),
            ("\"wild*\".x", "wild*", "x", true),
            ("\"q\"\"q\"", "public", "q\"q", true),
            ("  public.x  ", "public", "x", true),
            (
                "*aaaaaaaaaaaaaaaaaaaaaaaab",
                "public",
                "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
                false,
            ),
        ] {
            assert_eq!(
                patterns(&[pattern]).select(&name(schema, table)),
                expected,
                "{pattern} on {schema}.{table}"
            );
        }
    }

    #[test]
    fn exclusion_wins_wherever_it_stands() {
        let both = [patterns(&["-public.tmp_*", "public.*"]), patterns(&["public.*", "!public.tmp_*"])];
        for list in both {
            assert!(list.select(&name("public", "orders")));
            assert!(!list.select(&name("public", "tmp_orders")));
            assert!(!list.select(&name("shop", "orders")));
        }
    }

    #[test]
    fn without_an_inclusion_everything_is_selected() {
        assert!(Patterns::default().select(&name("any", "thing")));
        let list = patterns(&["-audit.*"]);
        assert!(list.select(&name("any", "thing")));
        assert!(!list.select(&name("audit", "thing")));
    }

    #[test]
    fn malformed_patterns_are_refused() {
        for text in ["", "-", "a.b.c", ".", "a.", ".a", "\"a", "\"a\"b", "a\"b\"", "\"\"", "!  "] {
            assert!(
                matches!(Pattern::parse(text), Err(PatternError::Syntax { .. })),
                "{text:?} gave {:?}",
                Pattern::parse(text)
            );
        }
    }

    #[test]
    fn a_pattern_without_a_match_names_the_nearest_tables() {
        let tables = [name("public", "orders"), name("public", "order_items"), name("shop", "customers")];
        let error = |text: &str| patterns(&[text]).require_matches(&tables, &[]).unwrap_err().to_string();
        assert_eq!(error("order"), "no table matches \"order\"; the nearest: public.orders");
        assert_eq!(error("Orders"), "no table matches \"Orders\"; the nearest: public.orders");
        assert_eq!(
            error("public.customers"),
            "no table matches \"public.customers\"; the nearest: shop.customers"
        );
        assert_eq!(
            error("publik.*"),
            "no table matches \"publik.*\"; the nearest: public.order_items, public.orders"
        );
        assert_eq!(
            error("public.oder_*"),
            "no table matches \"public.oder_*\"; the nearest: public.order_items, public.orders"
        );
        assert_eq!(error("zzzzzzzzzz"), "no table matches \"zzzzzzzzzz\"");
        assert!(patterns(&["public.*", "-shop.*"]).require_matches(&tables, &[]).is_ok());
        assert!(patterns(&["-shop.customer"]).require_matches(&tables, &[]).is_err());
    }

    #[test]
    fn a_pattern_that_matches_only_partitions_names_the_root() {
        let partitions = [(name("public", "orders_2024"), name("public", "orders"))];
        let error =
            patterns(&["orders_*"]).require_matches(&[name("public", "orders")], &partitions).unwrap_err();
        assert!(
            matches!(&error, PatternError::OnlyPartitions { root, .. } if root.name == "orders"),
            "{error}"
        );
    }

    #[test]
    fn distance_counts_single_edits() {
        for (left, right, expected) in
            [("", "", 0), ("a", "", 1), ("", "ab", 2), ("kitten", "sitting", 3), ("same", "same", 0)]
        {
            assert_eq!(distance(left, right), expected, "{left} {right}");
        }
    }
}
