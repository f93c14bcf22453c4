//! A table's name in the log and as a directory. The schema is what stands before the first zero byte.

use bygone_replication::table::TableName;
use bygone_sink::log::{parse_table_text, table_dir, table_text};

pub(crate) fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some(table) = parse_table_text(text) {
        assert_eq!(parse_table_text(&table_text(&table)).as_ref(), Some(&table));
    }
    let Some((schema, name)) = text.split_once('\0') else { return };
    let table = TableName::new(schema, name);
    assert_eq!(parse_table_text(&table_text(&table)), Some(table), "{text:?}");
    let directory = table_dir(schema, name);
    assert!(
        directory.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b'-' | b'~')),
        "{directory}"
    );
}
