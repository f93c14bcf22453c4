//! Values in PostgreSQL's binary format, as the target's `receive` functions read them.
//!
//! Which function that is decides the form: the target's column may have another type than the source's. What has no form here
//! ([`Form::of`], [`Form::put`]) travels as text, which the target's input functions take of every type.

use std::collections::HashMap;
use std::net::IpAddr;

use bygone_replication::pgoutput::POSTGRES_EPOCH_US;
use tokio_postgres::Client;

use super::told;
use crate::error::Result;
use crate::value::{Field, Kind, Printed, RowError, Status, render};

/// Days between 1970-01-01 and 2000-01-01.
const POSTGRES_EPOCH_DAYS: i32 = 10_957;

/// What reads a column's values on the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Receiver {
    /// The built-in function, of the type below all domains.
    pub(super) function: String,
    /// The type of an array's elements, and what reads them.
    pub(super) element: Option<(u32, String)>,
}

/// What reads the values of a table's columns, by name. Below a domain stands what reads its values.
pub(super) async fn receivers(
    client: &Client,
    schema: &str,
    table: &str,
) -> Result<HashMap<String, Receiver>> {
    let sql = "with recursive types (name, element, type) as (
            select a.attname::text, 0::oid, a.atttypid from pg_attribute a join pg_class c on c.oid = a.attrelid join pg_namespace n on \
                n.oid = c.relnamespace where n.nspname = $1 and c.relname = $2 and a.attnum > 0 and not a.attisdropped
            union all
            select s.name, case t.typtype when 'd' then s.element else t.typelem end, case t.typtype when 'd' then t.typbasetype else \
                t.typelem end from types s join pg_type t on t.oid = s.type where t.typtype = 'd' or s.element = 0 and t.typreceive = \
                'array_recv'::regproc)
        select s.name, s.element, p.prosrc from types s join pg_type t on t.oid = s.type join pg_proc p on p.oid = t.typreceive join \
            pg_language l on l.oid = p.prolang where t.typtype <> 'd' and l.lanname = 'internal' order by s.element <> 0";
    let rows = client
        .query(sql, &[&schema, &table])
        .await
        .map_err(|error| told("reading the target's catalog", &error))?;
    let mut receivers: HashMap<String, Receiver> = HashMap::new();
    for row in rows {
        let (name, element, function) = (row.get::<_, String>(0), row.get::<_, u32>(1), row.get(2));
        // Arrays come before their elements.
        if element == 0 {
            receivers.insert(name, Receiver { function, element: None });
        } else if let Some(array) = receivers.get_mut(&name) {
            array.element = Some((element, function));
        }
    }
    Ok(receivers)
}

/// How the values of a column are sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// The text that PostgreSQL prints: the binary form of texts, enums and `json`.
    Text,
    /// The same behind a version byte.
    Jsonb,
    /// The binary form of the kind itself.
    Own,
    /// An array, with the type of its elements.
    List(u32, Box<Form>),
}

impl Form {
    /// The form of a kind's values for what receives them; none where there is none that keeps all of them as they are.
    pub(super) fn of(kind: &Kind, receiver: &Receiver) -> Option<Self> {
        match (kind, receiver.element.as_ref()) {
            (Kind::List(element), Some((oid, function))) => {
                Some(Self::List(*oid, Box::new(Self::of_scalar(element, function)?)))
            }
            _ => Self::of_scalar(kind, &receiver.function),
        }
    }

    fn of_scalar(kind: &Kind, function: &str) -> Option<Self> {
        match (kind, function) {
            // Whatever the kind: the text is what the type's input function would get.
            (_, "textrecv" | "varcharrecv" | "bpcharrecv" | "enum_recv" | "json_recv") => Some(Self::Text),
            (_, "jsonb_recv") => Some(Self::Jsonb),
            (Kind::Bool, "boolrecv")
            | (Kind::Int16, "int2recv")
            | (Kind::Int32, "int4recv")
            | (Kind::Int64, "int8recv")
            | (Kind::Oid, "oidrecv" | "xidrecv")
            | (Kind::Float32, "float4recv")
            | (Kind::Float64, "float8recv")
            | (Kind::Decimal { .. } | Kind::NumericText, "numeric_recv")
            | (Kind::Uuid, "uuid_recv")
            | (Kind::Bytes, "bytearecv")
            | (Kind::Date, "date_recv")
            | (Kind::Printed(Printed::Time), "time_recv")
            | (Kind::Printed(Printed::Inet), "inet_recv" | "cidr_recv")
            | (Kind::Other, "interval_recv")
            | (Kind::Timestamp, "timestamp_recv")
            | (Kind::Timestamptz, "timestamptz_recv") => Some(Self::Own),
            _ => None,
        }
    }

    /// Appends a value with its length before it. False where it has no such form; what was appended counts for nothing then.
    pub(super) fn put(
        &self,
        kind: &Kind,
        field: Field<'_>,
        text: &mut String,
        out: &mut Vec<u8>,
    ) -> std::result::Result<bool, RowError> {
        if matches!(field.status, Status::Null | Status::Unknown) {
            put_null(out);
            return Ok(true);
        }
        counted(out, |out| match (self, kind) {
            (Self::Text | Self::Jsonb, _) => {
                if *self == Self::Jsonb {
                    out.push(1);
                }
                text.clear();
                render(kind, field, text)?;
                out.extend_from_slice(text.as_bytes());
                Ok(true)
            }
            (Self::List(oid, form), Kind::List(element)) if field.status == Status::Value => {
                put_list(*oid, form, element, field, text, out)
            }
            (Self::List(..), _) => Ok(false),
            (Self::Own, _) => put_own(kind, field, out),
        })
    }
}

/// Appends what `put` appends, and its length before it.
fn counted(
    out: &mut Vec<u8>,
    put: impl FnOnce(&mut Vec<u8>) -> std::result::Result<bool, RowError>,
) -> std::result::Result<bool, RowError> {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    let done = put(out)?;
    let Ok(length) = i32::try_from(out.len() - start - 4) else { return Ok(false) };
    if let Some(place) = out.get_mut(start..start + 4) {
        place.copy_from_slice(&length.to_be_bytes());
    }
    Ok(done)
}

/// Appends SQL null.
pub(super) fn put_null(out: &mut Vec<u8>) {
    out.extend_from_slice(&(-1i32).to_be_bytes());
}

/// Appends bytes with their length before them; none for what is longer than any value may be.
pub(super) fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let length = i32::try_from(bytes.len()).ok()?;
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(bytes);
    Some(())
}

/// The head of an array of one dimension, or of none where it is empty.
pub(super) fn array_head(element: u32, count: usize, nulls: bool) -> Option<Vec<u8>> {
    let words = |words: &[i32]| words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<u8>>();
    let mut head = words(&[i32::from(count > 0), i32::from(nulls)]);
    head.extend_from_slice(&element.to_be_bytes());
    if count > 0 {
        head.extend(words(&[i32::try_from(count).ok()?, 1]));
    }
    Some(head)
}

fn put_list(
    oid: u32,
    form: &Form,
    element: &Kind,
    field: Field<'_>,
    text: &mut String,
    out: &mut Vec<u8>,
) -> std::result::Result<bool, RowError> {
    let items: Vec<Option<Field<'_>>> = field.elements(element).collect::<std::result::Result<_, _>>()?;
    let Some(head) = array_head(oid, items.len(), items.iter().any(Option::is_none)) else {
        return Ok(false);
    };
    out.extend_from_slice(&head);
    for item in items {
        if !form.put(element, item.unwrap_or(Field::NULL), text, out)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn put_own(kind: &Kind, field: Field<'_>, out: &mut Vec<u8>) -> std::result::Result<bool, RowError> {
    if field.status == Status::Raw {
        return put_special(kind, field.text()?, out);
    }
    match kind {
        Kind::Bool | Kind::Uuid | Kind::Bytes => out.extend_from_slice(field.bytes()),
        Kind::Int16 => out.extend(reversed::<2>(field)?),
        Kind::Int32 | Kind::Oid | Kind::Float32 => out.extend(reversed::<4>(field)?),
        Kind::Int64 | Kind::Float64 => out.extend(reversed::<8>(field)?),
        Kind::Date => {
            let days = i32::from_le_bytes(field.array()?).checked_sub(POSTGRES_EPOCH_DAYS);
            return Ok(days.map(|days| out.extend(days.to_be_bytes())).is_some());
        }
        Kind::Timestamp | Kind::Timestamptz => {
            let us = i64::from_le_bytes(field.array()?).checked_sub(POSTGRES_EPOCH_US);
            return Ok(us.map(|us| out.extend(us.to_be_bytes())).is_some());
        }
        Kind::Decimal { scale, .. } => {
            put_numeric(&Numeric::of_digits(field.decimal()?, *scale), out);
        }
        Kind::NumericText => return put_special(kind, field.text()?, out),
        Kind::Printed(Printed::Time) => {
            return Ok(time_of_day(field.text()?, 1).map(|us| out.extend(us.to_be_bytes())).is_some());
        }
        Kind::Printed(Printed::Inet) => {
            return Ok(network(field.text()?).map(|net| out.extend(net)).is_some());
        }
        Kind::Other => {
            let Some(Interval { months, days, us }) = interval(field.text()?) else { return Ok(false) };
            out.extend(us.to_be_bytes());
            out.extend(days.to_be_bytes());
            out.extend(months.to_be_bytes());
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// A number that is kept little endian, as it travels.
fn reversed<const N: usize>(field: Field<'_>) -> std::result::Result<[u8; N], RowError> {
    let mut bytes: [u8; N] = field.array()?;
    bytes.reverse();
    Ok(bytes)
}

/// What stands as text, though its kind is none: infinities, and numerics.
fn put_special(kind: &Kind, text: &str, out: &mut Vec<u8>) -> std::result::Result<bool, RowError> {
    match (kind, text) {
        (Kind::Date, "infinity") => out.extend(i32::MAX.to_be_bytes()),
        (Kind::Date, "-infinity") => out.extend(i32::MIN.to_be_bytes()),
        (Kind::Timestamp | Kind::Timestamptz, "infinity") => out.extend(i64::MAX.to_be_bytes()),
        (Kind::Timestamp | Kind::Timestamptz, "-infinity") => out.extend(i64::MIN.to_be_bytes()),
        (Kind::Decimal { .. } | Kind::NumericText, text) => {
            let Some(numeric) = Numeric::of_text(text) else { return Ok(false) };
            put_numeric(&numeric, out);
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// An address with the length of its network, `10.0.0.1/8` or without one: its family, that length, and its bytes.
fn network(text: &str) -> Option<Vec<u8>> {
    let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
    let (family, octets) = match address.parse().ok()? {
        IpAddr::V4(address) => (2, address.octets().to_vec()),
        IpAddr::V6(address) => (3, address.octets().to_vec()),
    };
    let length = u8::try_from(octets.len()).ok()?;
    let bits = bits.map_or(Some(length * 8), |bits| bits.parse().ok())?;
    // The third byte says whether it is a cidr; nobody reads it.
    Some([&[family, bits, 0, length], octets.as_slice()].concat())
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Interval {
    months: i32,
    days: i32,
    us: i64,
}

/// `-1 years -2 mons +3 days -04:05:06.7`, as `intervalstyle` postgres has it.
fn interval(text: &str) -> Option<Interval> {
    let mut made = Interval::default();
    let mut words = text.split(' ');
    while let Some(word) = words.next() {
        if word.contains(':') {
            let (unsigned, sign) = word.strip_prefix('-').map_or((word, 1), |rest| (rest, -1));
            made.us = time_of_day(unsigned.strip_prefix('+').unwrap_or(unsigned), sign)?;
            continue;
        }
        let number: i32 = word.parse().ok()?;
        match words.next()? {
            "year" | "years" => made.months = made.months.checked_add(number.checked_mul(12)?)?,
            "mon" | "mons" => made.months = made.months.checked_add(number)?,
            "day" | "days" => made.days = number,
            _ => return None,
        }
    }
    Some(made)
}

/// Microseconds of `12:34:56.789`, times the sign: the least number of 64 bits has no counterpart above zero.
fn time_of_day(text: &str, sign: i64) -> Option<i64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let mut parts = whole.split(':').map(|part| part.parse::<i64>().ok());
    let (hours, minutes, seconds) = (parts.next()??, parts.next()??, parts.next()??);
    if parts.next().is_some() || fraction.len() > 6 {
        return None;
    }
    let micros: i64 = format!("{fraction:0<6}").parse().ok()?;
    let minutes = hours.checked_mul(60)?.checked_add(minutes)?;
    let seconds = minutes.checked_mul(60)?.checked_add(seconds)?.checked_mul(sign)?;
    seconds.checked_mul(1_000_000)?.checked_add(micros * sign)
}

const NEGATIVE: u16 = 0x4000;

/// A numeric: groups of four decimal digits.
#[derive(Debug, Default, PartialEq, Eq)]
struct Numeric {
    groups: Vec<u16>,
    /// Power of 10,000 of the first group.
    weight: i16,
    sign: u16,
    /// Digits to show after the point.
    shown: u16,
}

impl Numeric {
    fn special(sign: u16) -> Self {
        Self { sign, ..Self::default() }
    }

    /// Digits of a decimal.
    fn of_digits(digits: i128, scale: u8) -> Self {
        let sign = if digits < 0 { NEGATIVE } else { 0 };
        let mut rest = digits.unsigned_abs();
        // Groups of the fraction begin at the point: the last one is filled up with zeros.
        let after = scale.div_ceil(4);
        let mut groups = Vec::with_capacity(12);
        let short = after * 4 - scale;
        if short > 0 {
            let size = 10u128.pow(u32::from(4 - short));
            groups.push(rest % size * 10u128.pow(u32::from(short)));
            rest /= size;
        }
        while rest > 0 {
            groups.push(rest % 10_000);
            rest /= 10_000;
        }
        // At most 39 digits and some zeros.
        let weight = i16::try_from(groups.len()).unwrap_or(0) - i16::from(after) - 1;
        groups.reverse();
        let groups = groups.into_iter().map(|group| u16::try_from(group).unwrap_or(0)).collect();
        Self { groups, weight, sign, shown: scale.into() }.trimmed()
    }

    /// The text that PostgreSQL prints: digits with a point, never with an exponent.
    fn of_text(text: &str) -> Option<Self> {
        match text {
            "NaN" => return Some(Self::special(0xC000)),
            "Infinity" => return Some(Self::special(0xD000)),
            "-Infinity" => return Some(Self::special(0xF000)),
            _ => {}
        }
        let (unsigned, sign) = text.strip_prefix('-').map_or((text, 0), |rest| (rest, NEGATIVE));
        let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
        let (whole, fraction) = (whole.as_bytes(), fraction.as_bytes());
        let group = |digits: &[u8]| {
            digits.iter().try_fold(0u16, |sum, digit| {
                digit.is_ascii_digit().then(|| sum * 10 + u16::from(digit - b'0'))
            })
        };
        let mut groups: Vec<u16> = whole.rchunks(4).rev().map(group).collect::<Option<_>>()?;
        let weight = i16::try_from(groups.len()).ok()? - 1;
        for chunk in fraction.chunks(4) {
            // The last one is filled up with zeros.
            let missing = u32::try_from(4 - chunk.len()).ok()?;
            groups.push(group(chunk)? * 10u16.pow(missing));
        }
        let shown = u16::try_from(fraction.len()).ok().filter(|shown| *shown <= 0x3FFF)?;
        (!whole.is_empty()).then(|| Self { groups, weight, sign, shown }.trimmed())
    }

    /// Without zeros before and after.
    fn trimmed(mut self) -> Self {
        let leading = self.groups.iter().take_while(|group| **group == 0).count();
        self.groups.drain(..leading);
        self.weight = self.weight.saturating_sub(i16::try_from(leading).unwrap_or(i16::MAX));
        while self.groups.last() == Some(&0) {
            self.groups.pop();
        }
        if self.groups.is_empty() {
            (self.weight, self.sign) = (0, 0);
        }
        self
    }
}

fn put_numeric(numeric: &Numeric, out: &mut Vec<u8>) {
    let Numeric { groups, weight, sign, shown } = numeric;
    // The digits of a numeric are fewer than a number of 16 bits says.
    out.extend(u16::try_from(groups.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend(weight.to_be_bytes());
    out.extend(sign.to_be_bytes());
    out.extend(shown.to_be_bytes());
    out.extend(groups.iter().flat_map(|group| group.to_be_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::{Row, RowBuilder, read};
    use bygone_replication::pgoutput::Cell;

    /// The binary form of a text, read back by what reads the source's.
    fn there_and_back(kind: &Kind, text: &str) -> Option<String> {
        let kinds = std::slice::from_ref(kind);
        let mut row = RowBuilder::default();
        row.start(1);
        read(kind, Cell::Text(text.as_bytes()), &mut row).unwrap();
        let field = Row::new(row.bytes(), kinds).fields().next().unwrap().unwrap();
        let form = match kind {
            Kind::List(_) => Form::List(0, Box::new(Form::Own)),
            _ => Form::Own,
        };
        let (mut scratch, mut sent) = (String::new(), Vec::new());
        if !form.put(kind, field, &mut scratch, &mut sent).unwrap() {
            return None;
        }
        let (length, value) = sent.split_first_chunk::<4>().unwrap();
        assert_eq!(usize::try_from(i32::from_be_bytes(*length)).unwrap(), value.len());
        row.start(1);
        read(kind, Cell::Binary(value), &mut row).unwrap();
        let field = Row::new(row.bytes(), kinds).fields().next().unwrap().unwrap();
        let mut back = String::new();
        render(kind, field, &mut back).unwrap();
        Some(back)
    }

    #[test]
    fn what_is_sent_is_read_as_what_it_was() {
        let decimal = |precision, scale| Kind::Decimal { precision, scale };
        let list = |kind| Kind::List(Box::new(kind));
        for (kind, texts) in [
            (Kind::Bool, &["t", "f"][..]),
            (Kind::Int16, &["-32768", "32767"]),
            (Kind::Int32, &["-2147483648", "0", "7"]),
            (Kind::Int64, &["-9223372036854775808", "9223372036854775807"]),
            (Kind::Oid, &["4294967295"]),
            (Kind::Float32, &["1e-45", "NaN", "-Infinity", "-0", "3.4028235e+38"]),
            (Kind::Float64, &["5e-324", "Infinity", "-0", "0.1"]),
            (Kind::Uuid, &["00112233-4455-6677-8899-aabbccddeeff"]),
            (Kind::Bytes, &["\\x", "\\x00ff"]),
            (Kind::Date, &["infinity", "-infinity", "4713-01-01 BC", "5874897-12-31", "1969-12-31"]),
            (
                Kind::Timestamp,
                &["infinity", "-infinity", "4713-01-01 00:00:00 BC", "1999-12-31 23:59:59.999999"],
            ),
            (Kind::Timestamptz, &["infinity", "2026-11-30 01:02:03.000004+00"]),
            (Kind::Printed(Printed::Time), &["00:00:00", "24:00:00", "12:34:56.000001", "01:02:03.5"]),
            (
                Kind::Printed(Printed::Inet),
                &["10.0.0.1", "10.0.0.1/8", "::1", "::ffff:1.2.3.4/100", "0.0.0.0/0"],
            ),
            (decimal(12, 2), &["0.00", "-0.01", "1234567890.12", "100.00", "NaN", "10000.00", "-9999.99"]),
            (decimal(5, 0), &["0", "10000", "99999"]),
            (decimal(5, 5), &["0.00001", "-0.12345", "0.10000"]),
            (decimal(38, 3), &["99999999999999999999999999999999999.999", "10000000000000000.000"]),
            (decimal(38, 38), &["-0.00000000000000000000000000000000000001"]),
            (
                Kind::NumericText,
                &[
                    "NaN",
                    "Infinity",
                    "-Infinity",
                    "0",
                    "0.000",
                    "-1.50",
                    "0.00000042",
                    "10005.12000",
                    "123456789012345678901234567890123456789012345",
                ],
            ),
            (list(Kind::Int32), &["{}", "{1,NULL,3}"]),
            (list(decimal(12, 2)), &["{1.50,-2.25}"]),
        ] {
            for text in texts {
                assert_eq!(there_and_back(&kind, text).as_deref(), Some(*text), "{kind:?}");
            }
        }
    }

    #[test]
    fn intervals_are_what_they_print_as() {
        let of = |months, days, us| Some(Interval { months, days, us });
        for (text, due) in [
            ("00:00:00", of(0, 0, 0)),
            ("1 mon -2 days 03:04:05.6", of(1, -2, 11_045_600_000)),
            ("-1 years -2 mons +3 days -04:05:06.000789", of(-14, 3, -14_706_000_789)),
            ("-178000000 years", of(-2_136_000_000, 0, 0)),
            ("-178956970 years -8 mons", of(i32::MIN, 0, 0)),
            ("2562047788:00:54.775807", of(0, 0, i64::MAX)),
            ("-2562047788:00:54.775808", of(0, 0, i64::MIN)),
            ("infinity", None),
            ("1 week", None),
            ("(1,2)", None),
            ("2562047788:00:54.775808", None),
        ] {
            assert_eq!(interval(text), due, "{text}");
        }
    }

    #[test]
    fn what_has_no_form_is_told() {
        // Beyond what 64 bits of microseconds since 1970 hold, and arrays that are no lists.
        assert_eq!(there_and_back(&Kind::Timestamp, "294276-12-31 23:59:59.999999"), None);
        assert_eq!(there_and_back(&Kind::List(Box::new(Kind::Int32)), "[2:3]={7,8}"), None);
    }

    #[test]
    fn the_targets_type_decides() {
        let receiver = |function: &str| Receiver { function: function.to_owned(), element: None };
        assert_eq!(Form::of(&Kind::Int32, &receiver("int4recv")), Some(Form::Own));
        assert_eq!(Form::of(&Kind::Int32, &receiver("int8recv")), None);
        assert_eq!(Form::of(&Kind::Uuid, &receiver("textrecv")), Some(Form::Text));
        assert_eq!(Form::of(&Kind::Other, &receiver("record_recv")), None);
        let list = Kind::List(Box::new(Kind::Text));
        let moods =
            Receiver { function: "array_recv".to_owned(), element: Some((16_400, "enum_recv".to_owned())) };
        assert_eq!(Form::of(&list, &moods), Some(Form::List(16_400, Box::new(Form::Text))));
        assert_eq!(Form::of(&list, &receiver("textrecv")), Some(Form::Text));
    }
}
