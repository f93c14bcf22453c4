//! A row as state keeps it.

use bygone_sink::value::{Field, Kind, Row, RowBuilder, render};

pub(crate) fn run(data: &[u8]) {
    let kinds = [
        Kind::Int64,
        Kind::Text,
        Kind::Decimal { precision: 38, scale: 10 },
        Kind::List(Box::new(Kind::Text)),
        Kind::Timestamptz,
        Kind::Date,
        Kind::Bool,
        Kind::List(Box::new(Kind::Int32)),
        Kind::Uuid,
    ];
    let mut shown = String::new();
    let fields: Vec<_> = Row::new(data, &kinds).fields().collect();
    for (kind, field) in kinds.iter().zip(&fields) {
        if let Ok(field) = field {
            // Damage within a value is an error; its text never ends the process.
            let _ = render(kind, *field, &mut shown);
        }
    }
    let Ok(whole) = fields.into_iter().collect::<Result<Vec<Field<'_>>, _>>() else { return };
    let mut copy = RowBuilder::default();
    copy.start(kinds.len());
    for field in &whole {
        copy.field(*field);
    }
    let again: Vec<_> = Row::new(copy.bytes(), &kinds).fields().map(|field| field.expect("a copy")).collect();
    assert_eq!(again, whole);
}
