//! Types that are kept as PostgreSQL's text and whose binary form is printed here as PostgreSQL prints it.
//!
//! What is here is simple enough to be certain of, under the session settings of [18] and whatever the server's version,
//! locale and encoding are. `interval` is not: what PostgreSQL 17 prints as `infinity` is a number of years before.

use std::fmt::Write as _;

use super::ValueError;
use super::binary;
use super::float;
use super::kind::Kind;

/// A type whose binary form is printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Printed {
    /// `"char"`: one byte.
    Char,
    /// `time without time zone`.
    Time,
    /// `time with time zone`.
    Timetz,
    /// `money`, as under `lc_monetary` C.
    Money,
    /// `xid8`.
    Xid8,
    /// `cid`.
    Cid,
    /// `tid`.
    Tid,
    /// `pg_lsn`.
    Lsn,
    /// `macaddr` and `macaddr8`.
    Mac,
    /// `inet` and `cidr`.
    Inet,
    /// `bit` and `bit varying`.
    Bits,
    /// `jsonpath`: text behind a version byte.
    Jsonpath,
    /// `point`.
    Point,
    /// `line`.
    Line,
    /// `lseg`.
    Segment,
    /// `box`.
    Box,
    /// `path`.
    Path,
    /// `polygon`.
    Polygon,
    /// `circle`.
    Circle,
    /// A range of values that print without a character that a locale could take for white space.
    Range(std::boxed::Box<Kind>),
    /// A multirange of such values.
    Multirange(std::boxed::Box<Kind>),
}

impl Printed {
    /// The built-in type of this name, where it is one of these.
    pub(super) fn of_builtin(name: &str) -> Option<Self> {
        let range = |kind| Some(Self::Range(std::boxed::Box::new(kind)));
        let multirange = |kind| Some(Self::Multirange(std::boxed::Box::new(kind)));
        match name {
            "char" => Some(Self::Char),
            "time" => Some(Self::Time),
            "timetz" => Some(Self::Timetz),
            "money" => Some(Self::Money),
            "xid8" => Some(Self::Xid8),
            "cid" => Some(Self::Cid),
            "tid" => Some(Self::Tid),
            "pg_lsn" => Some(Self::Lsn),
            "macaddr" | "macaddr8" => Some(Self::Mac),
            "inet" | "cidr" => Some(Self::Inet),
            "bit" | "varbit" => Some(Self::Bits),
            "jsonpath" => Some(Self::Jsonpath),
            "point" => Some(Self::Point),
            "line" => Some(Self::Line),
            "lseg" => Some(Self::Segment),
            "box" => Some(Self::Box),
            "path" => Some(Self::Path),
            "polygon" => Some(Self::Polygon),
            "circle" => Some(Self::Circle),
            "int4range" => range(Kind::Int32),
            "int8range" => range(Kind::Int64),
            "numrange" => range(Kind::NumericText),
            "daterange" => range(Kind::Date),
            "tsrange" => range(Kind::Timestamp),
            "tstzrange" => range(Kind::Timestamptz),
            "int4multirange" => multirange(Kind::Int32),
            "int8multirange" => multirange(Kind::Int64),
            "nummultirange" => multirange(Kind::NumericText),
            "datemultirange" => multirange(Kind::Date),
            "tsmultirange" => multirange(Kind::Timestamp),
            "tstzmultirange" => multirange(Kind::Timestamptz),
            _ => None,
        }
    }

    const fn name(&self) -> &'static str {
        match self {
            Self::Char => "\"char\"",
            Self::Time => "time",
            Self::Timetz => "timetz",
            Self::Money => "money",
            Self::Xid8 => "xid8",
            Self::Cid => "cid",
            Self::Tid => "tid",
            Self::Lsn => "pg_lsn",
            Self::Mac => "macaddr",
            Self::Inet => "inet",
            Self::Bits => "bit string",
            Self::Jsonpath => "jsonpath",
            Self::Point => "point",
            Self::Line => "line",
            Self::Segment => "lseg",
            Self::Box => "box",
            Self::Path => "path",
            Self::Polygon => "polygon",
            Self::Circle => "circle",
            Self::Range(_) => "range",
            Self::Multirange(_) => "multirange",
        }
    }

    /// Appends the text of a value's binary form.
    pub(super) fn print(&self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), ValueError> {
        let wrong = ValueError::Binary(self.name());
        let mut bytes = Bytes(bytes);
        let text = match self {
            Self::Jsonpath => match bytes.0 {
                [1, text @ ..] => {
                    out.extend_from_slice(text);
                    return Ok(());
                }
                _ => None,
            },
            Self::Range(kind) => return range(kind, &mut bytes, out)?.ended().ok_or(wrong),
            Self::Multirange(kind) => return multirange(kind, &mut bytes, out)?.ended().ok_or(wrong),
            Self::Char => char(bytes.0),
            Self::Time => bytes.int().and_then(clock),
            Self::Timetz => timetz(&mut bytes),
            Self::Money => bytes.int().map(money),
            Self::Xid8 => bytes.take().map(|value| u64::from_be_bytes(value).to_string()),
            Self::Cid => bytes.take().map(|value| u32::from_be_bytes(value).to_string()),
            Self::Tid => tid(&mut bytes),
            Self::Lsn => bytes.take().map(|value| {
                let value = u64::from_be_bytes(value);
                format!("{:X}/{:X}", value >> 32, value & 0xFFFF_FFFF)
            }),
            Self::Mac => return mac(bytes.0, out).ok_or(wrong),
            Self::Inet => inet(&mut bytes),
            Self::Bits => bits(&mut bytes),
            Self::Point => points(&mut bytes, 1, "", ""),
            Self::Line => line(&mut bytes),
            Self::Segment => points(&mut bytes, 2, "[", "]"),
            Self::Box => points(&mut bytes, 2, "", ""),
            Self::Path => path(&mut bytes),
            Self::Polygon => bytes.count(16).and_then(|count| points(&mut bytes, count, "(", ")")),
            Self::Circle => circle(&mut bytes),
        };
        match text {
            // `"char"` and bytes of any length were taken whole.
            Some(text) if bytes.0.is_empty() || matches!(self, Self::Char) => {
                out.extend_from_slice(text.as_bytes());
                Ok(())
            }
            _ => Err(wrong),
        }
    }
}

/// What is still to be read of a value.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn int(&mut self) -> Option<i64> {
        self.take().map(i64::from_be_bytes)
    }

    fn int32(&mut self) -> Option<i32> {
        self.take().map(i32::from_be_bytes)
    }

    fn slice(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    /// A count of things of this width, all of which must be there.
    fn count(&mut self, width: usize) -> Option<usize> {
        let count = usize::try_from(self.int32()?).ok()?;
        (count.checked_mul(width)? <= self.0.len()).then_some(count)
    }

    /// Bytes behind their length.
    fn counted(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.int32()?).ok()?;
        self.slice(length)
    }

    fn ended(&self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

/// The byte zero is an empty text; what is not ASCII is shown in octal (`charout`).
fn char(bytes: &[u8]) -> Option<String> {
    match bytes {
        [0] => Some(String::new()),
        [byte] if byte.is_ascii() => Some(char::from(*byte).to_string()),
        [byte] => Some(format!("\\{byte:03o}")),
        _ => None,
    }
}

const DAY_US: i64 = 86_400_000_000;

fn clock(us: i64) -> Option<String> {
    if !(0..=DAY_US).contains(&us) {
        return None;
    }
    let seconds = us / 1_000_000;
    let mut text = format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    let micros = us % 1_000_000;
    if micros != 0 {
        let fraction = format!("{micros:06}");
        text.push('.');
        text.push_str(fraction.trim_end_matches('0'));
    }
    Some(text)
}

/// The zone is in seconds west of Greenwich.
fn timetz(bytes: &mut Bytes<'_>) -> Option<String> {
    let mut text = clock(bytes.int()?)?;
    let west = bytes.int32()?;
    let seconds = west.unsigned_abs();
    text.push(if west <= 0 { '+' } else { '-' });
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    // Writing to a String does not fail.
    let _ = write!(text, "{hours:02}");
    if minutes != 0 || seconds != 0 {
        let _ = write!(text, ":{minutes:02}");
    }
    if seconds != 0 {
        let _ = write!(text, ":{seconds:02}");
    }
    Some(text)
}

fn money(cents: i64) -> String {
    let whole = (cents.unsigned_abs() / 100).to_string();
    let mut text = String::from(if cents < 0 { "-$" } else { "$" });
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    let _ = write!(text, ".{:02}", cents.unsigned_abs() % 100);
    text
}

fn tid(bytes: &mut Bytes<'_>) -> Option<String> {
    let block = u32::from_be_bytes(bytes.take()?);
    let offset = u16::from_be_bytes(bytes.take()?);
    Some(format!("({block},{offset})"))
}

fn mac(bytes: &[u8], out: &mut Vec<u8>) -> Option<()> {
    if !matches!(bytes.len(), 6 | 8) {
        return None;
    }
    let parts: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    out.extend_from_slice(parts.join(":").as_bytes());
    Some(())
}

fn bits(bytes: &mut Bytes<'_>) -> Option<String> {
    let count = usize::try_from(bytes.int32()?).ok()?;
    let packed = bytes.slice(count.div_ceil(8))?;
    let all = packed.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1));
    Some(all.take(count).map(|bit| if bit == 1 { '1' } else { '0' }).collect())
}

/// Family (2, or 3 for IPv6), bits of the mask, whether it is a cidr, count of bytes, the bytes.
fn inet(bytes: &mut Bytes<'_>) -> Option<String> {
    let [family, mask, is_cidr, length] = bytes.take()?;
    let (mut text, whole) = match (family, length) {
        (2, 4) => {
            let [a, b, c, d] = bytes.take()?;
            (format!("{a}.{b}.{c}.{d}"), 32)
        }
        (3, 16) => (ipv6(bytes.take()?), 128),
        _ => return None,
    };
    if mask > whole || is_cidr > 1 {
        return None;
    }
    if mask != whole || is_cidr == 1 {
        let _ = write!(text, "/{mask}");
    }
    Some(text)
}

/// As `inet_net_ntop` does it: the first of the longest runs of two or more zeros is left out, and an address that holds
/// one of IPv4 shows that.
fn ipv6(bytes: [u8; 16]) -> String {
    let words: Vec<u16> = bytes.as_chunks::<2>().0.iter().map(|pair| u16::from_be_bytes(*pair)).collect();
    let mut best = 0..0;
    let mut at = 0;
    for run in words.chunk_by(|one, other| (*one == 0) == (*other == 0)) {
        if run.first() == Some(&0) && run.len() > best.len() && run.len() >= 2 {
            best = at..at + run.len();
        }
        at += run.len();
    }
    let holds_ipv4 = best.start == 0
        && match best.len() {
            6 => true,
            5 => words.get(5) == Some(&0xFFFF),
            _ => false,
        };
    let mut text = String::new();
    for (at, word) in words.iter().enumerate() {
        if best.contains(&at) {
            if at == best.start {
                text.push(':');
            }
            continue;
        }
        if at > 0 {
            text.push(':');
        }
        if at == 6 && holds_ipv4 {
            let [.., a, b, c, d] = bytes;
            let _ = write!(text, "{a}.{b}.{c}.{d}");
            return text;
        }
        let _ = write!(text, "{word:x}");
    }
    if best.end == words.len() && !best.is_empty() {
        text.push(':');
    }
    text
}

fn double(bytes: &mut Bytes<'_>, out: &mut String) -> Option<()> {
    float::double(f64::from_be_bytes(bytes.take()?), out);
    Some(())
}

fn points(bytes: &mut Bytes<'_>, count: usize, open: &str, close: &str) -> Option<String> {
    let mut text = open.to_owned();
    for at in 0..count {
        text.push_str(if at == 0 { "(" } else { ",(" });
        double(bytes, &mut text)?;
        text.push(',');
        double(bytes, &mut text)?;
        text.push(')');
    }
    text.push_str(close);
    Some(text)
}

fn path(bytes: &mut Bytes<'_>) -> Option<String> {
    let [closed] = bytes.take()?;
    let count = bytes.count(16)?;
    if closed == 0 { points(bytes, count, "[", "]") } else { points(bytes, count, "(", ")") }
}

fn line(bytes: &mut Bytes<'_>) -> Option<String> {
    let mut text = String::from("{");
    for at in 0..3 {
        if at > 0 {
            text.push(',');
        }
        double(bytes, &mut text)?;
    }
    text.push('}');
    Some(text)
}

fn circle(bytes: &mut Bytes<'_>) -> Option<String> {
    let mut text = points(bytes, 1, "<", ",")?;
    double(bytes, &mut text)?;
    text.push('>');
    Some(text)
}

const EMPTY: u8 = 0x01;
const LOWER_INCLUSIVE: u8 = 0x02;
const UPPER_INCLUSIVE: u8 = 0x04;
const LOWER_INFINITE: u8 = 0x08;
const UPPER_INFINITE: u8 = 0x10;

fn range<'a, 'b>(
    kind: &Kind,
    bytes: &'a mut Bytes<'b>,
    out: &mut Vec<u8>,
) -> Result<&'a mut Bytes<'b>, ValueError> {
    let wrong = ValueError::Binary("range");
    let [flags] = bytes.take().ok_or(wrong)?;
    if flags & EMPTY != 0 {
        out.extend_from_slice(b"empty");
        return Ok(bytes);
    }
    out.push(if flags & LOWER_INCLUSIVE != 0 { b'[' } else { b'(' });
    if flags & LOWER_INFINITE == 0 {
        bound(kind, bytes.counted().ok_or(wrong)?, out)?;
    }
    out.push(b',');
    if flags & UPPER_INFINITE == 0 {
        bound(kind, bytes.counted().ok_or(wrong)?, out)?;
    }
    out.push(if flags & UPPER_INCLUSIVE != 0 { b']' } else { b')' });
    Ok(bytes)
}

/// A bound, in quotes where `range_out` puts it into some.
fn bound(kind: &Kind, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), ValueError> {
    let mut text = Vec::new();
    binary::print(kind, bytes, &mut text)?;
    let special =
        |byte: &u8| matches!(byte, b'"' | b'\\' | b'(' | b')' | b'[' | b']' | b',' | b' ' | b'\t'..=b'\r');
    let quoted = text.is_empty() || text.iter().any(special);
    if quoted {
        out.push(b'"');
    }
    for byte in text {
        if matches!(byte, b'"' | b'\\') {
            out.push(byte);
        }
        out.push(byte);
    }
    if quoted {
        out.push(b'"');
    }
    Ok(())
}

fn multirange<'a, 'b>(
    kind: &Kind,
    bytes: &'a mut Bytes<'b>,
    out: &mut Vec<u8>,
) -> Result<&'a mut Bytes<'b>, ValueError> {
    let wrong = ValueError::Binary("multirange");
    let count = bytes.count(4).ok_or(wrong)?;
    out.push(b'{');
    for at in 0..count {
        if at > 0 {
            out.push(b',');
        }
        let mut one = Bytes(bytes.counted().ok_or(wrong)?);
        range(kind, &mut one, out)?.ended().ok_or(wrong)?;
    }
    out.push(b'}');
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(words: [u16; 8]) -> String {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
        ipv6(bytes.try_into().unwrap())
    }

    #[test]
    fn addresses_are_written_as_postgres_writes_them() {
        for (words, text) in [
            ([0; 8], "::"),
            ([0, 0, 0, 0, 0, 0, 0, 1], "::1"),
            ([0, 0, 0, 0, 0, 0, 0, 2], "::2"),
            ([0, 0, 0, 0, 0, 0, 0x102, 0x304], "::1.2.3.4"),
            ([0, 0, 0, 0, 0, 0xFFFF, 0x102, 0x304], "::ffff:1.2.3.4"),
            ([1, 0, 0, 2, 0, 0, 0, 3], "1:0:0:2::3"),
            ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], "2001:db8::"),
            ([1, 0, 2, 3, 4, 5, 6, 7], "1:0:2:3:4:5:6:7"),
        ] {
            assert_eq!(address(words), text);
        }
    }

    #[test]
    fn values_are_printed_and_nothing_else_is_taken() {
        let print = |printed: &Printed, bytes: &[u8]| {
            let mut out = Vec::new();
            printed.print(bytes, &mut out).map(|()| String::from_utf8(out).unwrap())
        };
        let range = Printed::Range(std::boxed::Box::new(Kind::Int32));
        for (printed, bytes, text) in [
            (Printed::Char, vec![0xC8], "\\310"),
            (Printed::Char, vec![0], ""),
            (Printed::Time, DAY_US.to_be_bytes().to_vec(), "24:00:00"),
            (Printed::Money, (-123_456_789i64).to_be_bytes().to_vec(), "-$1,234,567.89"),
            (Printed::Money, i64::MIN.to_be_bytes().to_vec(), "-$92,233,720,368,547,758.08"),
            (Printed::Tid, vec![0, 0, 0, 7, 0, 1], "(7,1)"),
            (Printed::Bits, vec![0, 0, 0, 9, 0b1010_1010, 0b1000_0000], "101010101"),
            (Printed::Bits, vec![0; 4], ""),
            (range.clone(), vec![0x02, 0, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0, 4, 0, 0, 0, 9], "[1,9)"),
            (range.clone(), vec![1], "empty"),
            (range.clone(), vec![0x18], "(,)"),
            (
                Printed::Multirange(std::boxed::Box::new(Kind::Int32)),
                vec![0, 0, 0, 1, 0, 0, 0, 1, 0x18],
                "{(,)}",
            ),
        ] {
            assert_eq!(print(&printed, &bytes).as_deref(), Ok(text), "{printed:?}");
            for cut in 0..bytes.len() {
                assert!(print(&printed, &bytes[..cut]).is_err(), "{printed:?} cut at {cut}");
            }
            let mut longer = bytes.clone();
            longer.push(0);
            assert!(print(&printed, &longer).is_err(), "{printed:?} with a byte too many");
        }
        assert!(print(&Printed::Time, &(DAY_US + 1).to_be_bytes()).is_err());
    }
}
