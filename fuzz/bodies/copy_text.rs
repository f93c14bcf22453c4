//! A row of `COPY` in text format. The first byte is the number of columns.

use std::borrow::Cow;

use bygone_replication::snapshot::copy_text::Row;

pub(crate) fn run(data: &[u8]) {
    let Some((columns, payload)) = data.split_first() else { return };
    let columns = usize::from(*columns);
    let Ok(row) = Row::parse(payload, columns) else { return };
    let fields: Vec<Option<Cow<'_, [u8]>>> = row.fields().collect();
    assert_eq!(fields.len(), columns);
    // Written as the server writes it, the row reads the same.
    let mut line = Vec::new();
    for (at, field) in fields.iter().enumerate() {
        if at > 0 {
            line.push(b'\t');
        }
        let Some(field) = field else {
            line.extend(b"\\N");
            continue;
        };
        for byte in field.iter() {
            match byte {
                b'\t' => line.extend(b"\\t"),
                b'\n' => line.extend(b"\\n"),
                b'\r' => line.extend(b"\\r"),
                b'\\' => line.extend(b"\\\\"),
                other => line.push(*other),
            }
        }
    }
    line.push(b'\n');
    let again: Vec<Option<Cow<'_, [u8]>>> =
        Row::parse(&line, columns).expect("a row that was just written").fields().collect();
    assert_eq!(again, fields);
}
