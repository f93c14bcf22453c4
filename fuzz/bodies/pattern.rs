//! `--table` patterns, one a line.

use bygone_replication::pattern::Patterns;
use bygone_replication::table::TableName;

pub(crate) fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let lines: Vec<&str> = text.lines().collect();
    let Ok(patterns) = Patterns::parse(&lines) else { return };
    for table in [TableName::new("public", "orders"), TableName::new("", ""), TableName::new("O\"dd", "a.b*")]
    {
        // A table that a pattern names in full is one that it selects, unless another one leaves it out.
        let excludes = lines.iter().any(|line| line.trim_start().starts_with(['-', '!']));
        assert!(excludes || !patterns.name_exactly(&table) || patterns.select(&table));
        // A name that is near to a pattern is proposed, at whatever length.
        let _ = patterns.require_matches(&[table], &[]);
    }
}
