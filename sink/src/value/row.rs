//! A row as it is kept: in state, and on its way into a fact file.
//!
//! ```text
//! row    = status bytes, then the value of each column that has one
//! status = two bits a column, lowest first: 0 null, 1 value, 2 raw, 3 unknown
//! value  = fixed width, little endian (bool, integers, floats, date, timestamp, uuid)
//!        | varint length, bytes      (text, bytea, decimal as 16-byte two's complement cut to its length, list)
//! large  = nine bytes 0xFF and 0x01 in place of the length, then the [`LargeRef`] of a value that is kept on the [`Shelf`]
//! raw    = varint length, UTF-8 bytes of Postgres' text
//! list   = varint count, null bits (lowest first), then the elements that are not null, each as a value
//! ```

use std::sync::Arc;

use super::{Kind, ValueError};
use crate::error::Error;
use crate::shelf::{LARGE, LargeRef, Shelf};

/// What stands in place of the length of a large value: a length that none has.
pub(crate) const LARGE_MARK: [u8; 10] = [0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01];

/// What is known of one column of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// SQL null.
    Null,
    /// A value of the column's kind.
    Value,
    /// A value of the column's kind that is not kept in the row.
    Large,
    /// Postgres' text of a value that the kind cannot hold.
    Raw,
    /// Never seen: neither a value nor null.
    Unknown,
}

impl Status {
    pub(super) const fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::Null,
            1 => Self::Value,
            2 => Self::Raw,
            _ => Self::Unknown,
        }
    }
}

/// A kept row is damaged: it was not made by [`RowBuilder`] for these kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a kept row is damaged")]
pub struct RowError;

/// Makes rows, one after another, in one buffer.
#[derive(Debug, Default)]
pub struct RowBuilder {
    bytes: Vec<u8>,
    columns: usize,
    next: usize,
    /// Where large values go; in rows for readers they stay what they are.
    shelf: Option<Arc<Shelf>>,
    /// A large value could not be put there.
    failure: Option<Error>,
}

impl RowBuilder {
    /// A builder that puts large values on a shelf, and takes down what is none of this row's.
    #[must_use]
    pub(crate) fn with_shelf(shelf: Option<Arc<Shelf>>) -> Self {
        Self { shelf, ..Self::default() }
    }

    /// Forgets the row before, and starts one of so many columns.
    #[inline]
    pub fn start(&mut self, columns: usize) {
        self.bytes.clear();
        self.bytes.resize(columns.div_ceil(4), 0);
        self.columns = columns;
        self.next = 0;
    }

    /// The finished row. Columns that were not appended are null.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Columns appended so far.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.next
    }

    /// Nothing was appended yet.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.next == 0
    }

    #[inline]
    fn mark(&mut self, status: Status) {
        let bits = match status {
            Status::Null => 0,
            Status::Value | Status::Large => 1,
            Status::Raw => 2,
            Status::Unknown => 3,
        };
        if let Some(byte) = self.bytes.get_mut(self.next / 4) {
            *byte |= bits << (self.next % 4 * 2);
        }
        self.next += 1;
    }

    /// Appends SQL null.
    #[inline]
    pub fn null(&mut self) {
        self.mark(Status::Null);
    }

    /// Appends "never seen".
    #[inline]
    pub fn unknown(&mut self) {
        self.mark(Status::Unknown);
    }

    /// Appends a value of fixed width.
    #[inline]
    pub fn fixed<const N: usize>(&mut self, value: [u8; N]) {
        self.mark(Status::Value);
        self.bytes.extend_from_slice(&value);
    }

    /// Appends a value of any length.
    #[inline]
    pub fn variable(&mut self, value: &[u8]) {
        if value.len() >= LARGE {
            return self.large(value);
        }
        self.whole(value);
    }

    /// Appends a value of any length that stays in the row.
    #[inline]
    fn whole(&mut self, value: &[u8]) {
        self.mark(Status::Value);
        put_counted(&mut self.bytes, value);
    }

    #[cold]
    fn large(&mut self, value: &[u8]) {
        let put = self.shelf.as_ref().map(|shelf| shelf.put(value));
        match put {
            None => self.whole(value),
            Some(Ok(reference)) => {
                self.mark(Status::Large);
                self.bytes.extend_from_slice(&LARGE_MARK);
                self.bytes.extend_from_slice(&reference.to_bytes());
            }
            Some(Err(error)) => {
                self.failure = Some(error);
                self.unknown();
            }
        }
    }

    /// Where a large value could not be kept, the row is none.
    ///
    /// # Errors
    /// Then.
    #[inline]
    pub(crate) fn check(&mut self) -> Result<(), Error> {
        self.failure.take().map_or(Ok(()), Err)
    }

    /// Appends Postgres' text of a value that the kind cannot hold.
    pub fn raw(&mut self, text: &str) {
        self.mark(Status::Raw);
        put_counted(&mut self.bytes, text.as_bytes());
    }

    /// Appends a decimal's unscaled digits.
    #[inline]
    pub fn decimal(&mut self, digits: i128) {
        self.mark(Status::Value);
        put_decimal(&mut self.bytes, digits);
    }

    /// Appends a column of another row as it is.
    #[inline]
    pub fn field(&mut self, field: Field<'_>) {
        self.mark(field.status);
        self.bytes.extend_from_slice(field.stored);
    }
}

pub(super) fn put_varint(out: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        #[expect(clippy::cast_possible_truncation, reason = "the low seven bits are meant")]
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    #[expect(clippy::cast_possible_truncation, reason = "below 0x80")]
    out.push(value as u8);
}

#[inline]
pub(super) fn get_varint(bytes: &mut &[u8]) -> Option<usize> {
    match bytes.split_first()? {
        (first @ ..0x80, rest) => {
            *bytes = rest;
            Some(usize::from(*first))
        }
        _ => get_long_varint(bytes),
    }
}

fn get_long_varint(bytes: &mut &[u8]) -> Option<usize> {
    let mut value = 0usize;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= usize::from(first & 0x7F).checked_shl(shift)?;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// The length that a value of a row begins with, and whether it is a large one: then it is the length of what names it.
#[inline]
pub(super) fn get_length(bytes: &mut &[u8]) -> Option<(usize, bool)> {
    match get_varint(bytes)? {
        usize::MAX => Some((LargeRef::SIZE, true)),
        length => Some((length, false)),
    }
}

#[inline]
pub(super) fn put_counted(out: &mut Vec<u8>, value: &[u8]) {
    put_varint(out, value.len());
    out.extend_from_slice(value);
}

/// A decimal takes the bytes that it needs, as two's complement.
#[inline]
pub(super) fn put_decimal(out: &mut Vec<u8>, digits: i128) {
    let Ok(short) = i64::try_from(digits) else { return put_long_decimal(out, digits) };
    // Bits beside those that repeat the sign, and one of these.
    let bits = 65 - (short ^ short >> 63).leading_zeros();
    let length = bits.div_ceil(8);
    put_varint(out, length as usize);
    let end = out.len() + length as usize;
    // All eight bytes at once, of which the upper ones go again: that costs less than to copy a number of bytes that only a loop knows.
    out.extend_from_slice(&short.to_le_bytes());
    out.truncate(end);
}

fn put_long_decimal(out: &mut Vec<u8>, digits: i128) {
    let bytes = digits.to_le_bytes();
    let sign = if digits < 0 { 0xFF } else { 0 };
    let mut length = bytes.len();
    // The last byte kept must still carry the sign.
    while length > 1
        && bytes.get(length - 1) == Some(&sign)
        && bytes.get(length - 2).is_some_and(|below| (below ^ sign) & 0x80 == 0)
    {
        length -= 1;
    }
    put_counted(out, bytes.get(..length).unwrap_or(&bytes));
}

#[inline]
pub(crate) fn get_decimal(bytes: &[u8]) -> Result<i128, RowError> {
    if bytes.len() <= 8 {
        let value = bytes.iter().rev().fold(0i64, |value, byte| value << 8 | i64::from(*byte));
        let unused = 64 - 8 * u32::try_from(bytes.len()).map_err(|_| RowError)?;
        return match unused {
            64 => Err(RowError),
            unused => Ok(i128::from(value << unused >> unused)),
        };
    }
    let negative = bytes.last().ok_or(RowError)? & 0x80 != 0;
    let mut whole = if negative { [0xFF; 16] } else { [0; 16] };
    whole.get_mut(..bytes.len()).ok_or(RowError)?.copy_from_slice(bytes);
    Ok(i128::from_le_bytes(whole))
}

/// One column of a kept row.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Field<'a> {
    /// What is known of it.
    pub status: Status,
    /// The value as it is stored, its length included.
    stored: &'a [u8],
    /// The value alone.
    value: &'a [u8],
}

impl std::fmt::Debug for Field<'_> {
    /// Row values never reach a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}({} bytes)", self.status, self.value.len())
    }
}

impl<'a> Field<'a> {
    /// SQL null.
    pub const NULL: Self = Self { status: Status::Null, stored: &[], value: &[] };
    /// Never seen.
    pub const UNKNOWN: Self = Self { status: Status::Unknown, stored: &[], value: &[] };

    /// The value's bytes: what the kind says for [`Status::Value`], UTF-8 for [`Status::Raw`], else empty.
    #[must_use]
    pub const fn bytes(&self) -> &'a [u8] {
        self.value
    }

    /// The value as an array of fixed width.
    ///
    /// # Errors
    /// When it has another length.
    #[inline]
    pub fn array<const N: usize>(&self) -> Result<[u8; N], RowError> {
        self.value.try_into().map_err(|_| RowError)
    }

    /// The value as text.
    ///
    /// # Errors
    /// When it is not UTF-8.
    #[inline]
    pub fn text(&self) -> Result<&'a str, RowError> {
        std::str::from_utf8(self.value).map_err(|_| RowError)
    }

    /// What names the value of [`Status::Large`].
    pub(crate) fn large(&self) -> Result<LargeRef, RowError> {
        LargeRef::from_bytes(self.value).filter(|_| self.status == Status::Large).ok_or(RowError)
    }

    /// A decimal's unscaled digits.
    ///
    /// # Errors
    /// When the bytes are no decimal.
    pub fn decimal(&self) -> Result<i128, RowError> {
        get_decimal(self.value)
    }

    /// The elements of a list, `None` for a null one.
    #[must_use]
    pub fn elements<'k>(&self, kind: &'k Kind) -> Elements<'a, 'k> {
        Elements::new(self.value, kind)
    }
}

/// Iterator over the elements of a list.
#[derive(Debug)]
pub struct Elements<'a, 'k> {
    kind: &'k Kind,
    nulls: &'a [u8],
    values: &'a [u8],
    next: usize,
    count: usize,
}

impl<'a, 'k> Elements<'a, 'k> {
    /// The elements of a list's value, which are of this kind.
    #[must_use]
    pub(crate) fn new(mut list: &'a [u8], kind: &'k Kind) -> Self {
        let count = get_varint(&mut list).unwrap_or(0);
        let (nulls, values) = list.split_at_checked(count.div_ceil(8)).unwrap_or((&[], &[]));
        Self { kind, nulls, values, next: 0, count }
    }
}

impl<'a> Iterator for Elements<'a, '_> {
    type Item = Result<Option<Field<'a>>, RowError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next >= self.count {
            return None;
        }
        let at = self.next;
        self.next += 1;
        let Some(byte) = self.nulls.get(at / 8) else {
            self.next = self.count;
            return Some(Err(RowError));
        };
        if byte >> (at % 8) & 1 == 1 {
            return Some(Ok(None));
        }
        Some(take_value(self.kind, &mut self.values).map(Some))
    }
}

/// Makes the kept form of a list.
#[derive(Debug)]
pub(crate) struct ListBuilder {
    nulls: Vec<u8>,
    values: Vec<u8>,
    count: usize,
}

impl ListBuilder {
    pub(crate) const fn new() -> Self {
        Self { nulls: Vec::new(), values: Vec::new(), count: 0 }
    }

    pub(crate) fn null(&mut self) {
        if self.count.is_multiple_of(8) {
            self.nulls.push(0);
        }
        if let Some(byte) = self.nulls.last_mut() {
            *byte |= 1 << (self.count % 8);
        }
        self.count += 1;
    }

    /// Appends the one column of a row as an element. False when the kind cannot hold it.
    pub(crate) fn element(&mut self, kind: &Kind, row: &RowBuilder) -> Result<bool, ValueError> {
        let kinds = std::slice::from_ref(kind);
        let field = Row::new(row.bytes(), kinds).fields().next().and_then(Result::ok);
        let Some(field) = field.filter(|field| field.status == Status::Value) else { return Ok(false) };
        if self.count.is_multiple_of(8) {
            self.nulls.push(0);
        }
        self.values.extend_from_slice(field.stored);
        self.count += 1;
        Ok(true)
    }

    pub(crate) fn finish(self, row: &mut RowBuilder) {
        let mut bytes = Vec::with_capacity(self.nulls.len() + self.values.len() + 4);
        put_varint(&mut bytes, self.count);
        bytes.extend_from_slice(&self.nulls);
        bytes.extend_from_slice(&self.values);
        row.whole(&bytes);
    }
}

#[expect(clippy::inline_always, reason = "as Fields::column")]
#[inline(always)]
fn take_value<'a>(kind: &Kind, bytes: &mut &'a [u8]) -> Result<Field<'a>, RowError> {
    if let Some(width) = kind.fixed_width() {
        let (value, rest) = bytes.split_at_checked(width).ok_or(RowError)?;
        *bytes = rest;
        return Ok(Field { status: Status::Value, stored: value, value });
    }
    take_counted(bytes, Status::Value)
}

#[expect(clippy::inline_always, reason = "as Fields::column")]
#[inline(always)]
fn take_counted<'a>(bytes: &mut &'a [u8], status: Status) -> Result<Field<'a>, RowError> {
    let start = *bytes;
    let (length, is_large) = get_length(bytes).ok_or(RowError)?;
    let status = match status {
        Status::Value if is_large => Status::Large,
        _ if is_large => return Err(RowError),
        status => status,
    };
    let (value, rest) = bytes.split_at_checked(length).ok_or(RowError)?;
    *bytes = rest;
    let stored = start.get(..start.len() - rest.len()).ok_or(RowError)?;
    Ok(Field { status, stored, value })
}

/// A kept row, read column by column.
#[derive(Clone, Copy)]
pub struct Row<'a, 'k> {
    bytes: &'a [u8],
    kinds: &'k [Kind],
}

impl std::fmt::Debug for Row<'_, '_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Row({} columns, {} bytes)", self.kinds.len(), self.bytes.len())
    }
}

impl<'a, 'k> Row<'a, 'k> {
    /// A row that a [`RowBuilder`] made for columns of these kinds.
    #[must_use]
    pub const fn new(bytes: &'a [u8], kinds: &'k [Kind]) -> Self {
        Self { bytes, kinds }
    }

    /// The columns in order.
    #[must_use]
    pub fn fields(&self) -> Fields<'a, 'k> {
        let (status, values) =
            self.bytes.split_at_checked(self.kinds.len().div_ceil(4)).unwrap_or((&[], &[]));
        Fields { kinds: self.kinds, status, values, next: 0 }
    }
}

/// Iterator over the columns of a [`Row`].
#[derive(Clone, Debug)]
pub struct Fields<'a, 'k> {
    kinds: &'k [Kind],
    status: &'a [u8],
    values: &'a [u8],
    next: usize,
}

impl<'a> Fields<'a, '_> {
    /// The next column, which is of this kind: what [`Iterator::next`] gives, for a loop over the columns themselves.
    ///
    /// # Errors
    /// When the row is damaged, or has no more columns.
    // A field that goes from one function to the next by way of memory, in pieces of other sizes than it is read in again, costs more
    // than all that is done with it: a tenth of a copy's time.
    #[expect(clippy::inline_always, reason = "measured")]
    #[inline(always)]
    pub(crate) fn column(&mut self, kind: &Kind) -> Result<Field<'a>, RowError> {
        let byte = self.status.get(self.next / 4).ok_or(RowError)?;
        let status = Status::from_bits(byte >> (self.next % 4 * 2));
        self.next += 1;
        match status {
            Status::Null => Ok(Field::NULL),
            Status::Unknown => Ok(Field::UNKNOWN),
            Status::Value | Status::Large => take_value(kind, &mut self.values),
            Status::Raw => take_counted(&mut self.values, Status::Raw),
        }
    }
}

impl<'a> Iterator for Fields<'a, '_> {
    type Item = Result<Field<'a>, RowError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let kind = self.kinds.get(self.next)?;
        let field = self.column(kind);
        if field.is_err() {
            self.next = self.kinds.len();
        }
        Some(field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_gives_back_what_was_put_in() {
        let kinds =
            [Kind::Int32, Kind::Text, Kind::Bool, Kind::Date, Kind::Decimal { precision: 38, scale: 2 }];
        let mut builder = RowBuilder::default();
        let long = [i128::from(i64::MAX), i64::MIN.into()].map(|edge| [edge, edge + 1, edge - 1]);
        let short = [0, 1, -1, 127, 128, -128, -129, 255, 256, 1 << 47, -1 << 47, i128::MAX, i128::MIN];
        for digits in short.into_iter().chain(long.into_iter().flatten()) {
            builder.start(kinds.len());
            builder.fixed(7i32.to_le_bytes());
            builder.variable(&[b'x'; 300]);
            builder.unknown();
            builder.raw("infinity");
            builder.decimal(digits);
            let fields: Vec<_> = Row::new(builder.bytes(), &kinds).fields().map(Result::unwrap).collect();
            assert_eq!(i32::from_le_bytes(fields[0].array().unwrap()), 7);
            assert_eq!(fields[1].bytes().len(), 300);
            assert_eq!(fields[2], Field::UNKNOWN);
            assert_eq!((fields[3].status, fields[3].text().unwrap()), (Status::Raw, "infinity"));
            assert_eq!(fields[4].decimal().unwrap(), digits);
            // The form is one alone: rows are compared by their bytes.
            let mut long = Vec::new();
            put_long_decimal(&mut long, digits);
            assert_eq!(fields[4].stored, long);
        }
    }

    #[test]
    fn a_row_cut_at_any_byte_never_panics() {
        let kinds = [Kind::Text, Kind::Int64, Kind::List(Box::new(Kind::Int32))];
        let mut builder = RowBuilder::default();
        builder.start(3);
        builder.variable(b"abc");
        builder.fixed(1i64.to_le_bytes());
        builder.variable(&[2, 0, 1, 0, 0, 0, 2, 0, 0, 0]);
        let whole = builder.bytes().to_vec();
        for cut in 0..whole.len() {
            let cut = Row::new(&whole[..cut], &kinds);
            assert!(cut.fields().any(|field| field.is_err()));
        }
        let list = Row::new(&whole, &kinds).fields().nth(2).unwrap().unwrap();
        let Kind::List(element) = &kinds[2] else { panic!() };
        assert_eq!(list.elements(element).count(), 2);
    }
}
