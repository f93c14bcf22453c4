//! Some kept rows at once, read column by column.
//!
//! What a column needs (which type, which builder) is then asked once for all the rows, and not once for each: that is most of
//! what gathering a row into columns costs.

use crate::shelf::LargeRef;

use super::row::{RowError, Status, get_length};

/// Rows in a block: few enough that it stays in the cache nearest to the processor while its columns are read, one after another.
const ROWS: usize = 256;

/// Kept rows, of which the columns are read from the first to the last.
#[derive(Debug, Default)]
pub(crate) struct RowBlock {
    bytes: Vec<u8>,
    places: Vec<Place>,
    /// What is neither a value nor null, in the order in which it was come upon.
    odd: Vec<Odd>,
    /// What names values that are not kept in their rows: row, column, and where that lies.
    large: Vec<(usize, usize, usize)>,
}

/// Where a row lies, and how far it was read.
#[derive(Clone, Copy, Debug)]
struct Place {
    start: usize,
    next: usize,
    end: usize,
}

/// A column of a row of which no value can go into its array.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Odd {
    /// The row's number in the block.
    pub(crate) row: usize,
    /// The column's position.
    pub(crate) column: usize,
    /// Where Postgres' text lies; none where nothing is known of the column.
    text: Option<(usize, usize)>,
}

impl RowBlock {
    /// Adds a row. True when its columns are to be read before there is another.
    #[inline]
    pub(crate) fn push(&mut self, row: &[u8], columns: usize) -> bool {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(row);
        self.places.push(Place { start, next: start + columns.div_ceil(4), end: self.bytes.len() });
        self.places.len() >= ROWS
    }

    /// Rows in it.
    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    /// Forgets the rows.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.places.clear();
        self.odd.clear();
        self.large.clear();
    }

    /// The next column of all rows, whose values take `N` bytes each. No value: null, or [odd](RowBlock::odd).
    ///
    /// # Errors
    /// When a row is damaged.
    #[inline]
    pub(crate) fn fixed<const N: usize>(
        &mut self,
        column: usize,
        mut put: impl FnMut(Option<[u8; N]>),
    ) -> Result<(), RowError> {
        self.each(
            column,
            |bytes, place| {
                let value = bytes.get(place.next..place.end).and_then(<[u8]>::first_chunk);
                place.next += N;
                value.copied().map(Some).ok_or(RowError)
            },
            |value| {
                put(value);
                Ok(())
            },
        )
    }

    /// The next column of all rows, whose values have a length of their own.
    ///
    /// # Errors
    /// When a row is damaged, or what `put` says.
    #[inline]
    pub(crate) fn counted(
        &mut self,
        column: usize,
        put: impl FnMut(Option<&[u8]>) -> Result<(), RowError>,
    ) -> Result<(), RowError> {
        self.each(column, counted, put)
    }

    #[expect(clippy::inline_always, reason = "a loop of its own for each type of column")]
    #[inline(always)]
    fn each<'a, T>(
        &'a mut self,
        column: usize,
        take: impl Fn(&'a [u8], &mut Place) -> Result<Option<T>, RowError>,
        mut put: impl FnMut(Option<T>) -> Result<(), RowError>,
    ) -> Result<(), RowError> {
        let (byte, shift) = (column / 4, column % 4 * 2);
        let bytes = self.bytes.as_slice();
        for (row, place) in self.places.iter_mut().enumerate() {
            let status = bytes.get(place.start + byte).filter(|_| place.start + byte < place.end);
            match Status::from_bits(status.ok_or(RowError)? >> shift) {
                Status::Value | Status::Large => match take(bytes, place)? {
                    Some(value) => put(Some(value))?,
                    None => {
                        self.large.push((row, column, place.next - LargeRef::SIZE));
                        put(None)?;
                    }
                },
                Status::Null => put(None)?,
                Status::Unknown => {
                    self.odd.push(Odd { row, column, text: None });
                    put(None)?;
                }
                Status::Raw => {
                    let length = counted(bytes, place)?.ok_or(RowError)?.len();
                    self.odd.push(Odd { row, column, text: Some((place.next - length, place.next)) });
                    put(None)?;
                }
            }
        }
        Ok(())
    }

    /// The values that are not kept in their rows, of the columns that were read: row, column, and what names them.
    pub(crate) fn large(&self) -> impl Iterator<Item = (usize, usize, &[u8])> {
        self.large.iter().map(|(row, column, at)| {
            (*row, *column, self.bytes.get(*at..*at + LargeRef::SIZE).unwrap_or_default())
        })
    }

    /// What was neither a value nor null in the columns that were read, by row and column.
    pub(crate) fn odd(&mut self) -> impl Iterator<Item = (Odd, Option<&[u8]>)> {
        self.odd.sort_by_key(|odd| (odd.row, odd.column));
        let bytes = &self.bytes;
        self.odd.iter().map(|odd| (*odd, odd.text.and_then(|(start, end)| bytes.get(start..end))))
    }
}

/// The value; none for one that is not kept in the row.
#[inline]
fn counted<'a>(bytes: &'a [u8], place: &mut Place) -> Result<Option<&'a [u8]>, RowError> {
    let mut rest = bytes.get(place.next..place.end).ok_or(RowError)?;
    let (length, is_large) = get_length(&mut rest).ok_or(RowError)?;
    let value = rest.get(..length).ok_or(RowError)?;
    place.next = place.end - rest.len() + length;
    Ok((!is_large).then_some(value))
}

#[cfg(test)]
mod tests {
    use super::super::RowBuilder;
    use super::*;

    fn rows() -> Vec<Vec<u8>> {
        let mut builder = RowBuilder::default();
        let mut rows = Vec::new();
        for number in 0..5i32 {
            builder.start(5);
            if number == 3 {
                builder.unknown()
            } else {
                builder.fixed(number.to_le_bytes())
            }
            if number == 1 {
                builder.null()
            } else {
                builder.variable(&[b'x'; 200])
            }
            if number > 2 {
                builder.raw("infinity")
            } else {
                builder.fixed([7; 8])
            }
            builder.decimal(i128::from(number) << 40);
            builder.null();
            rows.push(builder.bytes().to_vec());
        }
        rows
    }

    /// The first column, the lengths of the second, and how many values the others have.
    type Columns = (Vec<Option<[u8; 4]>>, Vec<Option<usize>>, usize);

    fn read(block: &mut RowBlock) -> Result<Columns, RowError> {
        let (mut numbers, mut lengths, mut values) = (Vec::new(), Vec::new(), 0);
        block.fixed(0, |value| numbers.push(value))?;
        block.counted(1, |value| {
            lengths.push(value.map(<[u8]>::len));
            Ok(())
        })?;
        block.fixed::<8>(2, |value| values += usize::from(value.is_some()))?;
        block.counted(3, |value| {
            values += usize::from(value.is_some());
            Ok(())
        })?;
        block.fixed::<1>(4, |value| values += usize::from(value.is_some()))?;
        Ok((numbers, lengths, values))
    }

    #[test]
    fn columns_are_those_of_the_rows_and_what_is_odd_comes_by_row() {
        let mut block = RowBlock::default();
        for _ in 0..2 {
            block.clear();
            for row in rows() {
                assert!(!block.push(&row, 5));
            }
            let (numbers, lengths, values) = read(&mut block).unwrap();
            let expected = [Some(0i32), Some(1), Some(2), None, Some(4)];
            assert_eq!(numbers, expected.map(|number| number.map(i32::to_le_bytes)));
            assert_eq!(lengths, [Some(200), None, Some(200), Some(200), Some(200)]);
            assert_eq!(values, 3 + 5);
            let odd: Vec<_> =
                block.odd().map(|(odd, text)| (odd.row, odd.column, text.map(<[u8]>::to_vec))).collect();
            let infinity = Some(b"infinity".to_vec());
            assert_eq!(odd, [(3, 0, None), (3, 2, infinity.clone()), (4, 2, infinity)]);
        }
    }

    #[test]
    fn a_row_cut_at_any_byte_is_refused_and_takes_nothing_from_the_next() {
        let [row, next] = [&rows()[0], &rows()[2]];
        for cut in 0..row.len() {
            let mut block = RowBlock::default();
            block.push(&row[..cut], 5);
            block.push(next, 5);
            assert!(read(&mut block).is_err(), "cut to {cut}");
        }
    }
}
