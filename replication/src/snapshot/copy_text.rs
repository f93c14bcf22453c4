//! Rows of `COPY … TO STDOUT` in text format.
//!
//! See "Text Format" under COPY in the PostgreSQL manual. One CopyData payload is one row.

use std::borrow::Cow;

use super::CopyError;

/// One row: the bytes of one CopyData payload, checked to have as many fields as there are columns.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    line: &'a [u8],
    columns: usize,
}

impl<'a> Row<'a> {
    /// Takes a payload for a row of `columns` columns.
    ///
    /// # Errors
    /// [`CopyError::Truncated`] when it does not end with a line end, or ends within an escape;
    /// [`CopyError::Fields`] when it has another number of fields.
    pub fn parse(payload: &'a [u8], columns: usize) -> Result<Self, CopyError> {
        let line = payload.strip_suffix(b"\n").ok_or(CopyError::Truncated)?;
        let mut fields = 1;
        let mut rest = line.iter();
        while let Some(byte) = rest.next() {
            match byte {
                b'\t' => fields += 1,
                b'\\' => {
                    rest.next().ok_or(CopyError::Truncated)?;
                }
                _ => {}
            }
        }
        // A row without columns and a row of one empty field look alike.
        if columns == 0 && line.is_empty() {
            fields = 0;
        }
        if fields != columns {
            return Err(CopyError::Fields { expected: columns, found: fields });
        }
        Ok(Self { line, columns })
    }

    /// The fields in order, `None` for null; borrowed unless something in them is escaped.
    #[must_use]
    pub fn fields(&self) -> Fields<'a> {
        Fields { rest: self.line, left: self.columns }
    }
}

/// The fields of a [`Row`].
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    rest: &'a [u8],
    left: usize,
}

impl<'a> Iterator for Fields<'a> {
    type Item = Option<Cow<'a, [u8]>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let special = self.rest.iter().position(|byte| matches!(byte, b'\t' | b'\\'));
        let (field, escaped) = match special.map(|at| (at, self.rest.get(at))) {
            None => (std::mem::take(&mut self.rest), false),
            Some((at, Some(b'\t'))) => (self.take(at), false),
            Some((at, _)) => {
                let end = field_end(self.rest, at);
                (self.take(end), true)
            }
        };
        Some(match (escaped, field) {
            (_, b"\\N") => None,
            (false, plain) => Some(Cow::Borrowed(plain)),
            (true, escaped) => Some(Cow::Owned(unescape(escaped))),
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Fields<'_> {}

impl<'a> Fields<'a> {
    /// The bytes before `end`, leaving what comes after the delimiter there.
    fn take(&mut self, end: usize) -> &'a [u8] {
        let (field, after) = self.rest.split_at_checked(end).unwrap_or((self.rest, &[]));
        self.rest = after.get(1..).unwrap_or_default();
        field
    }
}

/// Where the field ends, looking from `from` on.
fn field_end(bytes: &[u8], from: usize) -> usize {
    let mut at = from;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'\t' => return at,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut bytes = field.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            plain.push(byte);
            continue;
        }
        // The row was checked not to end within an escape.
        let Some(escape) = bytes.next() else { break };
        plain.push(match escape {
            b'b' => 0x08,
            b'f' => 0x0C,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'v' => 0x0B,
            b'0'..=b'7' => {
                let mut value = escape - b'0';
                for _ in 0..2 {
                    let Some(digit) = bytes.next_if(|byte| matches!(byte, b'0'..=b'7')) else { break };
                    // Like the server: one byte, what does not fit is cut off.
                    value = value.wrapping_shl(3) | (digit - b'0');
                }
                value
            }
            b'x' if bytes.peek().is_some_and(u8::is_ascii_hexdigit) => {
                let mut value = 0;
                for _ in 0..2 {
                    let Some(digit) = bytes.next_if(u8::is_ascii_hexdigit).and_then(hex_digit) else { break };
                    value = value << 4 | digit;
                }
                value
            }
            other => other,
        });
    }
    plain
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(payload: &[u8], columns: usize) -> Vec<Option<Vec<u8>>> {
        Row::parse(payload, columns).unwrap().fields().map(|field| field.map(Cow::into_owned)).collect()
    }

    fn some(text: &[u8]) -> Option<Vec<u8>> {
        Some(text.to_vec())
    }

    #[test]
    fn fields_are_told_apart() {
        assert_eq!(fields(b"1\ta b\t\\N\t\n", 4), [some(b"1"), some(b"a b"), None, some(b"")]);
        assert_eq!(fields(b"\n", 1), [some(b"")]);
        assert_eq!(fields(b"\n", 0), []);
        assert_eq!(fields(b"\\N\n", 1), [None]);
        assert_eq!(fields(b"\\\\N\n", 1), [some(b"\\N")]);
    }

    #[test]
    fn every_escape_of_the_manual_is_undone() {
        assert_eq!(fields(b"\\b\\f\\n\\r\\t\\v\\\\\n", 1), [some(b"\x08\x0C\n\r\t\x0B\\")]);
        assert_eq!(fields(b"\\101\\7\\x41\\x4a\\xg\\.\\q\\400\n", 1), [some(b"A\x07AJxg.q\0")]);
        assert_eq!(fields(b"a\\\tb\tc\n", 2), [some(b"a\tb"), some(b"c")]);
    }

    #[test]
    fn a_field_without_a_backslash_is_not_copied() {
        let row = Row::parse(b"plain\tb\\\\s\n", 2).unwrap();
        let kinds: Vec<bool> = row.fields().map(|field| matches!(field, Some(Cow::Borrowed(_)))).collect();
        assert_eq!(kinds, [true, false]);
    }

    #[test]
    fn a_row_truncated_at_any_byte_is_refused() {
        let row = b"1\ta\\tb\t\\N\tz\\\\\n";
        assert!(Row::parse(row, 4).is_ok());
        for end in 0..row.len() {
            assert_eq!(Row::parse(&row[..end], 4).unwrap_err(), CopyError::Truncated, "{end}");
        }
        assert_eq!(Row::parse(b"a\\\n", 1).unwrap_err(), CopyError::Truncated);
    }

    #[test]
    fn another_number_of_fields_is_refused() {
        for (payload, columns, found) in
            [(&b"a\tb\n"[..], 1, 2), (b"a\n", 2, 1), (b"a\n", 0, 1), (b"\t\n", 1, 2), (b"\n", 2, 1)]
        {
            let expected = CopyError::Fields { expected: columns, found };
            assert_eq!(Row::parse(payload, columns).unwrap_err(), expected);
        }
    }

    #[test]
    fn no_bytes_make_it_panic() {
        // Every string of up to five of the bytes that mean something.
        let letters = [b'\\', b'\t', b'\n', b'N', b'x', b'7', 0xFF];
        let mut strings: Vec<Vec<u8>> = vec![Vec::new()];
        for _ in 0..5 {
            strings = strings
                .iter()
                .flat_map(|string| letters.iter().map(move |letter| [&string[..], &[*letter]].concat()))
                .collect();
            for string in &strings {
                for columns in 0..4 {
                    if let Ok(row) = Row::parse(string, columns) {
                        assert_eq!(row.fields().count(), columns, "{string:?}");
                    }
                }
            }
        }
    }
}
