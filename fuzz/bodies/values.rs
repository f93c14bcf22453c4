//! A value from the wire. The first byte chooses the kind (`A` is the first of [`kinds`]), the second text (`t`) or binary.

use bygone_replication::pgoutput::Cell;
use bygone_sink::value::{Kind, Printed, Row, RowBuilder, Status, read, render};

pub(crate) fn kinds() -> Vec<Kind> {
    let decimal = |precision, scale| Kind::Decimal { precision, scale };
    let list = |kind: Kind| Kind::List(Box::new(kind));
    vec![
        Kind::Bool,
        Kind::Int16,
        Kind::Int32,
        Kind::Int64,
        Kind::Oid,
        Kind::Float32,
        Kind::Float64,
        Kind::Text,
        Kind::Json,
        Kind::Jsonb,
        Kind::NumericText,
        Kind::Other,
        Kind::Uuid,
        Kind::Bytes,
        Kind::Date,
        Kind::Timestamp,
        Kind::Timestamptz,
        decimal(12, 2),
        decimal(38, 10),
        decimal(5, 0),
        decimal(5, 5),
        decimal(38, 38),
        list(Kind::Int32),
        list(Kind::Text),
        list(Kind::Date),
        list(decimal(12, 2)),
        list(Kind::Bytes),
        list(Kind::Timestamptz),
        list(Kind::Uuid),
        list(Kind::Float64),
        list(Kind::Bool),
        list(Kind::Jsonb),
        list(Kind::NumericText),
        list(Kind::Printed(Printed::Inet)),
        Kind::Printed(Printed::Char),
        Kind::Printed(Printed::Time),
        Kind::Printed(Printed::Timetz),
        Kind::Printed(Printed::Money),
        Kind::Printed(Printed::Xid8),
        Kind::Printed(Printed::Cid),
        Kind::Printed(Printed::Tid),
        Kind::Printed(Printed::Lsn),
        Kind::Printed(Printed::Mac),
        Kind::Printed(Printed::Inet),
        Kind::Printed(Printed::Bits),
        Kind::Printed(Printed::Jsonpath),
        Kind::Printed(Printed::Point),
        Kind::Printed(Printed::Line),
        Kind::Printed(Printed::Segment),
        Kind::Printed(Printed::Box),
        Kind::Printed(Printed::Path),
        Kind::Printed(Printed::Polygon),
        Kind::Printed(Printed::Circle),
        Kind::Printed(Printed::Range(Box::new(Kind::Int32))),
        Kind::Printed(Printed::Range(Box::new(Kind::Timestamptz))),
        Kind::Printed(Printed::Range(Box::new(Kind::NumericText))),
        Kind::Printed(Printed::Multirange(Box::new(Kind::Date))),
        Kind::Printed(Printed::Multirange(Box::new(Kind::Int64))),
    ]
}

pub(crate) fn run(data: &[u8]) {
    let [kind, form, bytes @ ..] = data else { return };
    let kinds = kinds();
    let Some(kind) = kinds.get(usize::from(kind.wrapping_sub(b'A')) % kinds.len()) else { return };
    let text = *form == b't';
    let cell = if text { Cell::Text(bytes) } else { Cell::Binary(bytes) };
    let Some(kept) = keep(kind, cell) else { return };
    let (status, shown) = show(kind, &kept);
    let textual = matches!(
        kind,
        Kind::Text | Kind::Json | Kind::Jsonb | Kind::NumericText | Kind::Printed(_) | Kind::Other
    );
    match status {
        // Shown as Postgres shows it, a value reads back as the same.
        Status::Value => {
            let again = keep(kind, Cell::Text(shown.as_bytes())).expect("the text of a value");
            assert_eq!(show(kind, &again), (Status::Value, shown.clone()), "{kind:?}");
            assert!(has_float(kind) || again == kept, "{kind:?} {shown}");
            let bare_byte = *kind == Kind::Printed(Printed::Char) && matches!(bytes, [0x80..=0xFF]);
            if text && !bare_byte && (textual || is_canonical(kind, &shown, bytes)) {
                assert_eq!(shown.as_bytes(), bytes, "{kind:?}");
            }
        }
        // Bytes that are not UTF-8 are shown in hex; else the text is kept as it came.
        Status::Large => unreachable!("there is no shelf"),
        Status::Raw if textual => assert!(std::str::from_utf8(bytes).is_err(), "{kind:?}"),
        Status::Raw if text && std::str::from_utf8(bytes).is_ok() => {
            assert_eq!(shown.as_bytes(), bytes, "{kind:?}");
        }
        Status::Raw => {}
        Status::Null | Status::Unknown => panic!("{kind:?} became {status:?}"),
    }
}

fn keep(kind: &Kind, cell: Cell<'_>) -> Option<Vec<u8>> {
    let mut row = RowBuilder::default();
    row.start(1);
    read(kind, cell, &mut row).ok()?;
    Some(row.bytes().to_vec())
}

fn show(kind: &Kind, kept: &[u8]) -> (Status, String) {
    let mut shown = String::new();
    let field = Row::new(kept, std::slice::from_ref(kind)).fields().next();
    let field = field.expect("one column").expect("a row that was just made");
    render(kind, field, &mut shown).expect("a value that was just kept");
    (field.status, shown)
}

fn has_float(kind: &Kind) -> bool {
    match kind {
        Kind::Float32 | Kind::Float64 => true,
        Kind::List(element) => has_float(element),
        _ => false,
    }
}

/// The text is of the one form that Postgres prints for its value. (Others that mean the same are accepted: the server
/// never sends them.)
fn is_canonical(kind: &Kind, shown: &str, text: &[u8]) -> bool {
    // Of one length and one shape: then only the same digits can mean the same, in every notation that is read here.
    let shape = |bytes: &[u8]| -> Vec<u8> {
        bytes.iter().map(|byte| if byte.is_ascii_digit() { b'0' } else { *byte }).collect()
    };
    match kind {
        Kind::Int16 | Kind::Int32 | Kind::Int64 | Kind::Oid => {
            matches!(text, [b'0'] | [b'1'..=b'9', ..] | [b'-', b'1'..=b'9', ..])
        }
        Kind::Uuid => !text.iter().any(u8::is_ascii_uppercase),
        Kind::Bytes => !text.iter().any(u8::is_ascii_uppercase),
        Kind::Date => shape(text) == shape(shown.as_bytes()) && !text.starts_with(b"0000"),
        Kind::Timestamp | Kind::Timestamptz => {
            let two = |at: usize| text.get(at..at + 2).and_then(|two| std::str::from_utf8(two).ok());
            let clock = text.iter().position(|byte| *byte == b' ').map_or(0, |space| space + 1);
            let below = |at, limit| two(at).and_then(|two| two.parse().ok()).is_some_and(|n: u8| n < limit);
            shape(text) == shape(shown.as_bytes())
                && !text.starts_with(b"0000")
                && below(clock, 24)
                && below(clock + 3, 60)
                && below(clock + 6, 60)
                && (matches!(kind, Kind::Timestamp) || shown.contains("+00") && contains(text, b"+00"))
        }
        Kind::Decimal { scale, .. } => {
            let digits = text.strip_prefix(b"-").unwrap_or(text);
            let mut parts = digits.split(|byte| *byte == b'.');
            let (whole, fraction) = (parts.next().unwrap_or_default(), parts.next());
            let negative_zero =
                digits.len() < text.len() && !digits.iter().any(|byte| matches!(byte, b'1'..=b'9'));
            !negative_zero
                && (whole == b"0" || whole.first().is_some_and(|first| *first != b'0'))
                && fraction.map_or(0, <[u8]>::len) == usize::from(*scale)
                && (*scale == 0) == fraction.is_none()
        }
        _ => false,
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}
