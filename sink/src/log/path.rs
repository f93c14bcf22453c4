//! The names of objects: which paths a history has, and what they say.

use bygone_replication::table::{TableName, quote_identifier};

use crate::error::{Error, ErrorKind, Result};
use crate::log::hash::ContentHash;
use crate::store::check_path;

/// The table name under which transactions stand in the log. No user's table is called so: theirs have a schema.
pub const TRANSACTIONS: &str = "transactions";

/// Directories that hold what commits name.
pub const DATA: [&str; 2] = ["tables", "transactions"];

/// The path of commit `seq`: `log/00000000000000000042.json`.
#[must_use]
pub fn commit_path(seq: u64) -> String {
    format!("log/{seq:020}.json")
}

/// The sequence number in a commit's path; `None` for any other path.
#[must_use]
pub fn commit_seq(path: &str) -> Option<u64> {
    let digits = path.strip_prefix("log/")?.strip_suffix(".json")?;
    let exact = digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit());
    exact.then(|| digits.parse().ok()).flatten()
}

/// The path of a fact file: `tables/<dir>/_date=<date>/<seq>-<nnn>.parquet`. `date` is a day as
/// [`Timestamp::date`](crate::timestamp::Timestamp::date) gives it, `n` tells the files of one commit apart.
#[must_use]
pub fn fact_path(table: &TableName, date: &str, seq: u64, n: u32) -> String {
    format!("tables/{}/_date={date}/{seq:020}-{n:03}.parquet", table_dir(&table.schema, &table.name))
}

/// The path of a file of transactions: `transactions/_date=<date>/<seq>-<nnn>.parquet`.
#[must_use]
pub fn transactions_path(date: &str, seq: u64, n: u32) -> String {
    format!("transactions/_date={date}/{seq:020}-{n:03}.parquet")
}

/// The sequence number of the commit for which a fact file was written, from its path.
#[must_use]
pub fn fact_seq(path: &str) -> Option<u64> {
    fact_number(path).map(|(seq, _)| seq)
}

/// The same, and which of that commit's files it is.
pub(crate) fn fact_number(path: &str) -> Option<(u64, u32)> {
    let name = path.rsplit('/').next()?.strip_suffix(".parquet")?;
    let (seq, n) = name.split_once('-')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if seq.len() != 20 || !digits(seq) || !digits(n) {
        return None;
    }
    Some((seq.parse().ok()?, n.parse().unwrap_or(u32::MAX)))
}

/// The path of a file that a compaction makes beside those that it merges, which `beside` is one of:
/// `…/<seq>-c<id>.parquet`. [`fact_seq`] knows nothing of it, so no capture takes it for something that it left behind.
#[must_use]
pub(crate) fn compacted_path(beside: &str, seq: u64, id: u64) -> String {
    let directory = beside.rsplit_once('/').map_or("", |(directory, _)| directory);
    format!("{directory}/{seq:020}-c{id:016x}.parquet")
}

/// The number of the commit for which a compaction made a file, or a lower one; none for other files.
#[must_use]
pub(crate) fn compacted_seq(path: &str) -> Option<u64> {
    let name = path.rsplit('/').next()?.strip_suffix(".parquet")?;
    let (seq, id) = name.split_once("-c")?;
    let exact = seq.len() == 20 && seq.bytes().all(|b| b.is_ascii_digit()) && id.len() == 16;
    exact.then(|| seq.parse().ok()).flatten()
}

/// Refuses what no commit may name: paths that lead elsewhere, or to something that is no data file.
pub(crate) fn check_data_path(path: &str) -> Result<()> {
    check_path(path)?;
    let mut segments = path.split('/');
    let in_data = segments.next().is_some_and(|first| DATA.contains(&first)) && segments.next().is_some();
    // Delta's own files have names of their own; a commit that named them could have them removed.
    if in_data && path.ends_with(".parquet") && !path.split('/').any(|segment| segment == "_delta_log") {
        return Ok(());
    }
    let detail = format!("{path:?} is no data file (tables/….parquet or transactions/….parquet)");
    Err(Error::new(ErrorKind::InvalidPath, "not a path of a data file", detail))
}

/// The longest directory name that is written out; file systems take 255 bytes.
const LONGEST_DIRECTORY: usize = 200;

/// The directory of a table: `public.orders`.
///
/// `[a-z0-9_-]` stand for themselves, every other character, dots within a name included, as `~hex~` of its Unicode
/// scalar value. Two tables never share a directory. A name that would grow too long for a file system is cut and ends in
/// `~h~` and its SHA-256. The true names stand in the log.
#[must_use]
pub fn table_dir(schema: &str, name: &str) -> String {
    let whole = format!("{}.{}", encoded(schema), encoded(name));
    if whole.len() <= LONGEST_DIRECTORY {
        return whole;
    }
    let hash = ContentHash::of(whole.as_bytes());
    // The encoding is ASCII, so any cut is at a character.
    let head: String = whole.chars().take(LONGEST_DIRECTORY - 67).collect();
    format!("{head}~h~{hash}")
}

fn encoded(part: &str) -> String {
    let mut text = String::with_capacity(part.len());
    for c in part.chars() {
        if matches!(c, 'a'..='z' | '0'..='9' | '_' | '-') {
            text.push(c);
        } else {
            text.push_str(&format!("~{:x}~", u32::from(c)));
        }
    }
    // No identifier of Postgres is empty, yet the directory must not begin or end in a dot.
    if text.is_empty() { "~~".to_owned() } else { text }
}

/// A table's name as the log has it: `schema.name`, a part that holds a dot or a double quote quoted as in SQL, so that
/// no two tables share a text.
#[must_use]
pub fn table_text(table: &TableName) -> String {
    let part = |text: &str| {
        if text.is_empty() || text.contains(['.', '"']) { quote_identifier(text) } else { text.to_owned() }
    };
    format!("{}.{}", part(&table.schema), part(&table.name))
}

/// The directory below `root` of what is made from a table's facts beside them, by its name in the log.
pub(crate) fn derived_dir(root: &str, log_name: &str) -> Option<String> {
    let table = parse_table_text(log_name)?;
    Some(format!("{root}/{}", table_dir(&table.schema, &table.name)))
}

/// Reads what [`table_text`] wrote; `None` for anything else.
#[must_use]
pub fn parse_table_text(text: &str) -> Option<TableName> {
    let (schema, rest) = part(text)?;
    let (name, rest) = part(rest.strip_prefix('.')?)?;
    rest.is_empty().then(|| TableName::new(schema, name))
}

/// The identifier at the front, unquoted, and what follows.
fn part(text: &str) -> Option<(String, &str)> {
    let Some(mut rest) = text.strip_prefix('"') else {
        let (plain, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
        return (!plain.is_empty() && !plain.contains('"')).then(|| (plain.to_owned(), rest));
    };
    let mut name = String::new();
    loop {
        let (before, after) = rest.split_once('"')?;
        name.push_str(before);
        match after.strip_prefix('"') {
            Some(after) => {
                name.push('"');
                rest = after;
            }
            None => return Some((name, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AWKWARD: [&str; 14] =
        ["orders", "Id", "id", "a.b", "a", "b", "a\"b", "..", "~", "~61~", "é", "漢字", "a/b", "a b%2F"];

    #[test]
    fn directories_hold_harmless_characters_only() {
        assert_eq!(table_dir("public", "orders"), "public.orders");
        assert_eq!(table_dir("public", "Id"), "public.~49~d");
        assert_eq!(table_dir("public", "a.b"), "public.a~2e~b");
        assert_eq!(table_dir("public.a", "b"), "public~2e~a.b");
        assert_eq!(table_dir(".x", ".."), "~2e~x.~2e~~2e~");
        assert_eq!(table_dir("p", "~"), "p.~7e~");
        assert_eq!(table_dir("p", "é"), "p.~e9~");
        let long = table_dir(&"A".repeat(63), &"B".repeat(63));
        assert!(long.len() <= LONGEST_DIRECTORY, "{}", long.len());
        for name in AWKWARD {
            assert!(
                check_data_path(&fact_path(&TableName::new(name, name), "2026-11-23", 1, 0)).is_ok(),
                "{name:?}"
            );
        }
    }

    #[test]
    fn no_two_tables_share_a_directory_or_a_text() {
        let mut directories = std::collections::BTreeSet::new();
        let mut texts = std::collections::BTreeSet::new();
        let mut long: Vec<String> = ["A", "B"].iter().map(|c| c.repeat(62)).collect();
        long.push("A".repeat(61) + "B");
        let names: Vec<&str> = AWKWARD.into_iter().chain(long.iter().map(String::as_str)).collect();
        for schema in &names {
            for name in &names {
                let table = TableName::new(*schema, *name);
                assert!(directories.insert(table_dir(schema, name)), "{table:?}");
                assert!(texts.insert(table_text(&table)), "{table:?}");
                assert_eq!(parse_table_text(&table_text(&table)), Some(table));
            }
        }
    }

    #[test]
    fn texts_are_plain_where_they_can_be() {
        assert_eq!(table_text(&TableName::new("public", "My Orders")), "public.My Orders");
        assert_eq!(table_text(&TableName::new("public", "a.b")), "public.\"a.b\"");
        for bad in
            ["", ".", "a", "a.", ".a", "a.b.c", "\"a", "\"a\"", "\"a\"b.c", "a\"b.c", "a.b\"", "a.\"b\"c"]
        {
            assert_eq!(parse_table_text(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn sequence_numbers_are_read_from_exact_names_only() {
        assert_eq!(commit_seq(&commit_path(42)), Some(42));
        assert_eq!(commit_seq(&commit_path(u64::MAX)), Some(u64::MAX));
        for bad in [
            "log/42.json",
            "log/99999999999999999999.json",
            "log/0000000000000000000a.json",
            "x",
            "log/+0000000000000000042.json",
        ] {
            assert_eq!(commit_seq(bad), None, "{bad:?}");
        }
        assert_eq!(fact_seq(&transactions_path("2026-11-23", 7, 1000)), Some(7));
        let merged = compacted_path(&transactions_path("2026-11-23", 7, 0), 9, 255);
        assert_eq!(merged, "transactions/_date=2026-11-23/00000000000000000009-c00000000000000ff.parquet");
        assert_eq!((fact_seq(&merged), compacted_seq(&merged)), (None, Some(9)));
        assert_eq!(compacted_seq(&transactions_path("2026-11-23", 7, 0)), None);
        for bad in
            ["tables/x/7-0.parquet", "tables/x/part-0.parquet", "tables/x/00000000000000000007.parquet", ""]
        {
            assert_eq!(fact_seq(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_commit_names_data_files_only() {
        for bad in [
            "bygone.json",
            "log/00000000000000000000.json",
            "tables",
            "tables/../log/x.parquet",
            "/tables/x.parquet",
            "tables/x.json",
            "tables/t/_delta_log/0.checkpoint.parquet",
            "Tables/x.parquet",
            ".staging/x.parquet",
        ] {
            assert_eq!(check_data_path(bad).unwrap_err().kind(), ErrorKind::InvalidPath, "{bad:?}");
        }
    }
}
