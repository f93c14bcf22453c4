//! Arrays: their binary form (`array_send`), and their text (`array_out`).

use std::fmt::Write as _;

use super::ValueError;
use super::binary;
use super::kind::Kind;

const WRONG: ValueError = ValueError::Binary("array");
/// Of Postgres' own.
const MOST_DIMENSIONS: usize = 6;

/// One dimension of an array.
#[derive(Clone, Copy, Debug, Default)]
struct Dimension {
    length: usize,
    lower: i32,
}

/// An array in binary form. Its elements are not looked at yet.
#[derive(Debug)]
pub(super) struct Array<'a> {
    dimensions: Vec<Dimension>,
    count: usize,
    elements: &'a [u8],
}

impl<'a> Array<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, ValueError> {
        let mut rest = bytes;
        let dimensions = usize::try_from(int(&mut rest)?).map_err(|_| WRONG)?;
        // Whether there are nulls, and the type of the elements: each element says itself, and the column has a type.
        let _flags = int(&mut rest)?;
        let _element = int(&mut rest)?;
        if dimensions > MOST_DIMENSIONS {
            return Err(WRONG);
        }
        let mut made = Self { dimensions: Vec::with_capacity(dimensions), count: 0, elements: &[] };
        let mut count = usize::from(dimensions > 0);
        for _ in 0..dimensions {
            let length = usize::try_from(int(&mut rest)?).map_err(|_| WRONG)?;
            let lower = int(&mut rest)?;
            let upper = i32::try_from(length).ok().and_then(|length| lower.checked_add(length));
            if length == 0 || upper.is_none() {
                return Err(WRONG);
            }
            count = count.checked_mul(length).ok_or(WRONG)?;
            made.dimensions.push(Dimension { length, lower });
        }
        // Each element has a length at least.
        if count.checked_mul(4).is_none_or(|least| least > rest.len()) {
            return Err(WRONG);
        }
        made.count = count;
        made.elements = rest;
        Ok(made)
    }

    /// It is empty, or has one dimension that begins at 1.
    pub(super) fn is_list(&self) -> bool {
        matches!(self.dimensions.as_slice(), [] | [Dimension { lower: 1, .. }])
    }

    /// The elements, row by row, `None` for null; the last item is an error where bytes are left over.
    pub(super) fn elements(&self) -> impl Iterator<Item = Result<Option<&'a [u8]>, ValueError>> {
        let mut rest = self.elements;
        let mut left = self.count;
        std::iter::from_fn(move || {
            if left == 0 {
                return (!std::mem::take(&mut rest).is_empty()).then_some(Err(WRONG));
            }
            left -= 1;
            let taken = element(&mut rest);
            if taken.is_err() {
                (left, rest) = (0, &[]);
            }
            Some(taken)
        })
    }

    /// Appends what `array_out` prints.
    pub(super) fn print(&self, kind: &Kind, out: &mut Vec<u8>) -> Result<(), ValueError> {
        if self.dimensions.is_empty() {
            out.extend_from_slice(b"{}");
            return Ok(());
        }
        if self.dimensions.iter().any(|dimension| dimension.lower != 1) {
            let mut bounds = String::new();
            for Dimension { length, lower } in &self.dimensions {
                let upper = i64::from(*lower) + i64::try_from(*length).unwrap_or(i64::MAX) - 1;
                // Writing to a String does not fail.
                let _ = write!(bounds, "[{lower}:{upper}]");
            }
            out.extend_from_slice(bounds.as_bytes());
            out.push(b'=');
        }
        // How many elements one brace of each dimension holds, the outermost first.
        let mut sizes: Vec<usize> = Vec::with_capacity(self.dimensions.len());
        let mut size = 1usize;
        for dimension in self.dimensions.iter().rev() {
            size = size.checked_mul(dimension.length).ok_or(WRONG)?;
            sizes.insert(0, size);
        }
        let mut text = Vec::new();
        for (at, item) in self.elements().enumerate() {
            let item = item?;
            if at > 0 {
                out.extend(sizes.iter().filter(|size| at.is_multiple_of(**size)).map(|_| b'}'));
                out.push(b',');
            }
            out.extend(sizes.iter().filter(|size| at.is_multiple_of(**size)).map(|_| b'{'));
            match item {
                None => out.extend_from_slice(b"NULL"),
                Some(item) => {
                    text.clear();
                    binary::print(kind, item, &mut text)?;
                    put_bytes(&text, out);
                }
            }
        }
        out.extend(sizes.iter().map(|_| b'}'));
        Ok(())
    }
}

fn int(bytes: &mut &[u8]) -> Result<i32, ValueError> {
    let (taken, rest) = bytes.split_first_chunk().ok_or(WRONG)?;
    *bytes = rest;
    Ok(i32::from_be_bytes(*taken))
}

fn element<'a>(bytes: &mut &'a [u8]) -> Result<Option<&'a [u8]>, ValueError> {
    let length = int(bytes)?;
    if length == -1 {
        return Ok(None);
    }
    let length = usize::try_from(length).map_err(|_| WRONG)?;
    let (taken, rest) = bytes.split_at_checked(length).ok_or(WRONG)?;
    *bytes = rest;
    Ok(Some(taken))
}

/// Appends an element's text to that of its array, in quotes where it needs some.
pub(super) fn put_element(item: &str, out: &mut String) {
    if !needs_quotes(item.as_bytes()) {
        out.push_str(item);
        return;
    }
    out.push('"');
    for character in item.chars() {
        if matches!(character, '"' | '\\') {
            out.push('\\');
        }
        out.push(character);
    }
    out.push('"');
}

fn put_bytes(item: &[u8], out: &mut Vec<u8>) {
    if !needs_quotes(item) {
        out.extend_from_slice(item);
        return;
    }
    out.push(b'"');
    for byte in item {
        if matches!(byte, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(*byte);
    }
    out.push(b'"');
}

/// What `array_out` puts into quotes.
fn needs_quotes(item: &[u8]) -> bool {
    item.is_empty()
        || item.eq_ignore_ascii_case(b"null")
        || item.iter().any(|byte| {
            matches!(byte, b'"' | b'\\' | b'{' | b'}' | b',' | b' ' | b'\t' | b'\n' | b'\r' | 0x0B | 0x0C)
        })
}

#[cfg(test)]
mod tests {
    use super::super::{Kind, Row, RowBuilder, Status, read, render};
    use bygone_replication::pgoutput::Cell;

    fn array(dimensions: &[(i32, i32)], elements: &[Option<&[u8]>]) -> Vec<u8> {
        let mut made = Vec::new();
        for number in [dimensions.len() as i32, 1, 23] {
            made.extend(number.to_be_bytes());
        }
        for (length, lower) in dimensions {
            made.extend(length.to_be_bytes());
            made.extend(lower.to_be_bytes());
        }
        for element in elements {
            match element {
                None => made.extend((-1i32).to_be_bytes()),
                Some(bytes) => {
                    made.extend((bytes.len() as i32).to_be_bytes());
                    made.extend(*bytes);
                }
            }
        }
        made
    }

    fn shown(kind: &Kind, bytes: &[u8]) -> Option<(Status, String)> {
        let mut row = RowBuilder::default();
        row.start(1);
        read(kind, Cell::Binary(bytes), &mut row).ok()?;
        let field = Row::new(row.bytes(), std::slice::from_ref(kind)).fields().next().unwrap().unwrap();
        let mut text = String::new();
        render(kind, field, &mut text).unwrap();
        Some((field.status, text))
    }

    #[test]
    fn every_shape_is_shown_as_array_out_shows_it() {
        let texts = Kind::List(Box::new(Kind::Text));
        let abc: &[Option<&[u8]>] =
            &[Some(b"a"), None, Some(b"b c"), Some(b"NULL"), Some(b""), Some(b"q\"\\")];
        for (dimensions, elements, status, text) in [
            (&[][..], &[][..], Status::Value, "{}"),
            (&[(6, 1)], abc, Status::Value, r#"{a,NULL,"b c","NULL","","q\"\\"}"#),
            (&[(6, 0)], abc, Status::Raw, r#"[0:5]={a,NULL,"b c","NULL","","q\"\\"}"#),
            (&[(2, 1), (3, 1)], abc, Status::Raw, r#"{{a,NULL,"b c"},{"NULL","","q\"\\"}}"#),
            (
                &[(3, -2), (1, 1), (2, 5)],
                abc,
                Status::Raw,
                r#"[-2:0][1:1][5:6]={{{a,NULL}},{{"b c","NULL"}},{{"","q\"\\"}}}"#,
            ),
            (&[(1, 1)], &[Some(b"\xFF")], Status::Raw, "\\x7bff7d"),
        ] {
            let bytes = array(dimensions, elements);
            assert_eq!(shown(&texts, &bytes), Some((status, text.to_owned())));
            for cut in 0..bytes.len() {
                assert_eq!(shown(&texts, &bytes[..cut]), None, "{text} cut at {cut}");
            }
            let longer = [&bytes[..], b"\0"].concat();
            assert_eq!(shown(&texts, &longer), None, "{text} with a byte too many");
        }
        let dates = Kind::List(Box::new(Kind::Date));
        let infinite = array(&[(2, 1)], &[Some(&[0; 4]), Some(&i32::MAX.to_be_bytes())]);
        assert_eq!(shown(&dates, &infinite), Some((Status::Raw, "{2000-01-01,infinity}".to_owned())));
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        let ints = Kind::List(Box::new(Kind::Int32));
        for dimensions in
            [&[(i32::MAX, 1)][..], &[(-1, 1)], &[(0, 1)], &[(1, i32::MAX)], &[(65_536, 1); 6], &[(1, 1); 7]]
        {
            assert_eq!(shown(&ints, &array(dimensions, &[Some(&[0; 4])])), None, "{dimensions:?}");
        }
    }
}
