//! Rows of `COPY … TO STDOUT` in binary format.
//!
//! See "Binary Format" under COPY in the PostgreSQL manual: a header (signature, flags, extension), rows (number of
//! fields, then length and bytes of each, length -1 for null), and a trailer. The server sends a row in one CopyData
//! payload, the first one behind the header, and the trailer in one of its own.

use super::CopyError;

const SIGNATURE: &[u8] = b"PGCOPY\n\xFF\r\n\0";

/// Flags above this one change the format. (This one itself said that rows have oids; no supported server sets it.)
const CRITICAL: u32 = 0xFFFF_0000;

/// Reads one COPY, payload by payload.
#[derive(Clone, Debug)]
pub struct BinaryCopy {
    columns: usize,
    place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Header,
    Rows,
    End,
}

impl BinaryCopy {
    /// For a COPY of so many columns.
    #[must_use]
    pub const fn new(columns: usize) -> Self {
        Self { columns, place: Place::Header }
    }

    /// The next row of a payload, leaving what comes behind it; `None` when the payload is used up.
    ///
    /// # Errors
    /// [`CopyError`]; nothing more should be read then.
    pub fn next_row<'a>(&mut self, payload: &mut &'a [u8]) -> Result<Option<Row<'a>>, CopyError> {
        if payload.is_empty() {
            return Ok(None);
        }
        if self.place == Place::Header {
            header(payload)?;
            self.place = Place::Rows;
            if payload.is_empty() {
                return Ok(None);
            }
        }
        if self.place == Place::End {
            return Err(CopyError::AfterEnd);
        }
        let count = i16::from_be_bytes(take_array(payload)?);
        if count == -1 {
            self.place = Place::End;
            return if payload.is_empty() { Ok(None) } else { Err(CopyError::AfterEnd) };
        }
        let found = usize::try_from(count).map_err(|_| CopyError::Length(i32::from(count)))?;
        if found != self.columns {
            return Err(CopyError::Fields { expected: self.columns, found });
        }
        let start = *payload;
        for _ in 0..found {
            field(payload)?;
        }
        Ok(Some(Row { bytes: start, fields: found }))
    }

    /// To be called when the server says that the COPY is done.
    ///
    /// # Errors
    /// [`CopyError::Unfinished`] when the trailer did not come.
    pub const fn finish(&self) -> Result<(), CopyError> {
        match self.place {
            Place::End => Ok(()),
            Place::Header | Place::Rows => Err(CopyError::Unfinished),
        }
    }
}

/// One row, checked to be whole.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// From the first field's length on; there may be more behind the last.
    bytes: &'a [u8],
    fields: usize,
}

impl<'a> Row<'a> {
    /// The fields in order, `None` for null.
    #[must_use]
    #[inline]
    pub const fn fields(&self) -> Fields<'a> {
        Fields { rest: self.bytes, left: self.fields }
    }
}

/// The fields of a [`Row`].
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    rest: &'a [u8],
    left: usize,
}

impl<'a> Iterator for Fields<'a> {
    type Item = Option<&'a [u8]>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        // The row was checked: this does not fail.
        field(&mut self.rest).ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Fields<'_> {}

fn header(bytes: &mut &[u8]) -> Result<(), CopyError> {
    let found = bytes.get(..SIGNATURE.len().min(bytes.len())).unwrap_or_default();
    if !SIGNATURE.starts_with(found) {
        return Err(CopyError::Signature);
    }
    take(bytes, SIGNATURE.len())?;
    let flags = u32::from_be_bytes(take_array(bytes)?);
    if flags & CRITICAL != 0 {
        return Err(CopyError::Flags(flags));
    }
    let extension = i32::from_be_bytes(take_array(bytes)?);
    take(bytes, usize::try_from(extension).map_err(|_| CopyError::Length(extension))?)?;
    Ok(())
}

#[inline]
fn field<'a>(bytes: &mut &'a [u8]) -> Result<Option<&'a [u8]>, CopyError> {
    match i32::from_be_bytes(take_array(bytes)?) {
        -1 => Ok(None),
        length => take(bytes, usize::try_from(length).map_err(|_| CopyError::Length(length))?).map(Some),
    }
}

#[inline]
fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Result<&'a [u8], CopyError> {
    let (taken, rest) = bytes.split_at_checked(length).ok_or(CopyError::Truncated)?;
    *bytes = rest;
    Ok(taken)
}

#[inline]
fn take_array<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], CopyError> {
    let (taken, rest) = bytes.split_first_chunk().ok_or(CopyError::Truncated)?;
    *bytes = rest;
    Ok(*taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header_bytes() -> Vec<u8> {
        [SIGNATURE, &[0; 8]].concat()
    }

    /// (7, null, '')
    fn row_bytes() -> Vec<u8> {
        [&3_i16.to_be_bytes()[..], &[0, 0, 0, 1, 7], &[0xFF; 4], &[0; 4]].concat()
    }

    const TRAILER: [u8; 2] = [0xFF, 0xFF];

    fn read(payloads: &[&[u8]], columns: usize) -> Result<Vec<Vec<Option<Vec<u8>>>>, CopyError> {
        let mut copy = BinaryCopy::new(columns);
        let mut rows = Vec::new();
        for payload in payloads {
            let mut rest = *payload;
            while let Some(row) = copy.next_row(&mut rest)? {
                rows.push(row.fields().map(|field| field.map(<[u8]>::to_vec)).collect());
            }
        }
        copy.finish()?;
        Ok(rows)
    }

    #[test]
    fn the_header_may_come_alone_or_with_rows() {
        let (header, row) = (header_bytes(), row_bytes());
        let expected = vec![vec![Some(vec![7]), None, Some(Vec::new())]; 2];
        let first = [&header[..], &row].concat();
        let all = [&header[..], &row, &row, &TRAILER].concat();
        let ways: [&[&[u8]]; 3] = [&[&header, &row, &row, &TRAILER], &[&first, &row, &TRAILER], &[&all]];
        for payloads in ways {
            assert_eq!(read(payloads, 3).unwrap(), expected);
        }
        assert_eq!(read(&[&[&header[..], &TRAILER].concat()], 3).unwrap(), Vec::<Vec<_>>::new());
        let no_columns = [&header[..], &[0, 0], &TRAILER].concat();
        assert_eq!(read(&[&no_columns], 0).unwrap(), [Vec::new()]);
    }

    #[test]
    fn an_extension_of_the_header_is_passed_over() {
        let header = [SIGNATURE, &[0, 0, 0, 1, 0, 0, 0, 2, 9, 9]].concat();
        assert_eq!(read(&[&header, &row_bytes(), &TRAILER], 3).unwrap().len(), 1);
    }

    #[test]
    fn truncated_at_any_byte_it_is_refused() {
        let all = [&header_bytes()[..], &row_bytes(), &TRAILER].concat();
        assert!(read(&[&all], 3).is_ok());
        for end in 0..all.len() {
            let error = read(&[&all[..end]], 3).unwrap_err();
            assert!(matches!(error, CopyError::Truncated | CopyError::Unfinished), "{end}: {error}");
        }
    }

    #[test]
    fn lies_are_refused() {
        let header = header_bytes();
        let with = |bytes: &[u8]| read(&[&[&header[..], bytes].concat()], 1).unwrap_err();
        assert_eq!(with(&[0, 2]), CopyError::Fields { expected: 1, found: 2 });
        assert_eq!(with(&[0x80, 0]), CopyError::Length(-32768));
        assert_eq!(with(&[0, 1, 0x7F, 0xFF, 0xFF, 0xFF, 1]), CopyError::Truncated);
        assert_eq!(with(&[0, 1, 0xFF, 0xFF, 0xFF, 0xFE]), CopyError::Length(-2));
        assert_eq!(with(&[0xFF, 0xFF, 0]), CopyError::AfterEnd);
        assert_eq!(read(&[&header, &TRAILER, &[1]], 1).unwrap_err(), CopyError::AfterEnd);
        assert_eq!(read(&[b"PGCOPZ"], 1).unwrap_err(), CopyError::Signature);
        assert_eq!(read(&[b"1\tabc\n"], 1).unwrap_err(), CopyError::Signature);
        let flags = [SIGNATURE, &[0, 1, 0, 0, 0, 0, 0, 0]].concat();
        assert_eq!(read(&[&flags], 1).unwrap_err(), CopyError::Flags(0x1_0000));
        let extension = [SIGNATURE, &[0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF]].concat();
        assert_eq!(read(&[&extension], 1).unwrap_err(), CopyError::Length(-1));
    }
}
