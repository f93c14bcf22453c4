//! What a file's facts say, as one hash that does not depend on how the file holds them.
//!
//! A compaction replaces files, and once the old ones are gone the SHA-256 of their bytes says nothing of the facts any more. The
//! content hash stands in the log from the first commit on, and can be computed from the merged file, stretch by stretch:
//! whoever alters facts while merging them is found out ([`verify`](crate::verify)).
//!
//! Each column is three streams of bytes, each hashed by SHA-256; numbers are little-endian:
//!
//! - *validity*: stretches of rows that all have a value, or all have none, as long as they go: one byte, 1 or 0, and the number of rows in eight;
//! - *lengths*: of each value that is text, bytes, a list or a map, in four bytes: bytes of the first two, elements of the others;
//! - *values*: one after another: texts and bytes as they are, booleans as one byte, anything else in the width of its Arrow
//!   type. A list or a map has none: its elements are columns of their own, whose rows are the elements.
//!
//! The content hash is the SHA-256 of the number of rows (eight bytes) and of each column in the order of the file: the
//! length of its name (four bytes), the name, its three hashes, and after them those of its elements, whose names are empty.
//!
//! A merged file's is [`of_parts`]: the log alone shows that it is of the files that it replaces.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::DataType;
use sha2::{Digest, Sha256};

use crate::log::ContentHash;

/// Takes the facts of a file batch by batch, wherever these end.
#[derive(Debug, Default)]
pub(crate) struct Content {
    rows: u64,
    columns: Vec<Column>,
    /// A column is of a type that has no stream. None that facts have is.
    unknown: bool,
}

/// The content of a file that several became, in their order.
pub(crate) fn of_parts(parts: impl IntoIterator<Item = ContentHash>) -> ContentHash {
    let mut hash = Sha256::new();
    parts.into_iter().for_each(|part| hash.update(part.0));
    ContentHash(hash.finalize().into())
}

impl Content {
    /// Adds the rows of a batch. Each has the same columns.
    pub(crate) fn add(&mut self, batch: &RecordBatch) {
        if self.columns.is_empty() {
            let schema = batch.schema();
            self.columns = schema.fields().iter().map(|field| Column::named(field.name())).collect();
        }
        self.rows += batch.num_rows() as u64;
        for (column, array) in self.columns.iter_mut().zip(batch.columns()) {
            self.unknown |= column.add(array).is_none();
        }
    }

    /// The hash; none where a column's type is not known here.
    pub(crate) fn finish(self) -> Option<ContentHash> {
        if self.unknown {
            return None;
        }
        let mut hash = Sha256::new();
        hash.update(self.rows.to_le_bytes());
        self.columns.into_iter().for_each(|column| column.finish(&mut hash));
        Some(ContentHash(hash.finalize().into()))
    }
}

/// Facts of one commit, in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) seq: u64,
    pub(crate) rows: u64,
    /// Not known of files of before there were such hashes.
    pub(crate) content: Option<ContentHash>,
}

/// Holds a file against the parts that it has to be made of, one after another.
#[derive(Debug)]
pub(crate) struct Proof<'a> {
    parts: &'a [Part],
    content: Content,
}

impl<'a> Proof<'a> {
    pub(crate) fn new(parts: &'a [Part]) -> Self {
        Self { parts, content: Content::default() }
    }

    /// Adds the file's next rows; gives the part that they prove to be another one than was written.
    pub(crate) fn add(&mut self, batch: &RecordBatch) -> Result<(), Part> {
        let mut at = 0;
        while at < batch.num_rows() {
            // More rows than there should be are for who counts them.
            let Some(part) = self.parts.first() else { return Ok(()) };
            let left = usize::try_from(part.rows - self.content.rows).unwrap_or(usize::MAX);
            let rows = left.min(batch.num_rows() - at);
            self.content.add(&batch.slice(at, rows));
            at += rows;
            if self.content.rows == part.rows {
                self.parts = self.parts.get(1..).unwrap_or_default();
                let found = std::mem::take(&mut self.content).finish();
                if part.content.is_some() && part.content != found {
                    return Err(*part);
                }
            }
        }
        Ok(())
    }

    /// The part of which rows are missing.
    pub(crate) fn finish(self) -> Result<(), Part> {
        self.parts.first().map_or(Ok(()), |part| Err(*part))
    }
}

#[derive(Debug, Default)]
struct Column {
    name: String,
    /// The stretch of rows that goes on: whether they have values, and how many they are.
    stretch: (bool, u64),
    validity: Sha256,
    lengths: Sha256,
    values: Sha256,
    elements: Vec<Column>,
    /// Room for what is hashed.
    room: Vec<u8>,
}

impl Column {
    fn named(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    /// Adds an array's rows; none where its type has no stream.
    fn add(&mut self, array: &ArrayRef) -> Option<()> {
        let Some(nulls) = array.nulls().filter(|nulls| nulls.null_count() > 0) else {
            return self.add_valid(array, 0, array.len());
        };
        let mut at = 0;
        for (start, end) in nulls.valid_slices() {
            self.go_on(false, start - at);
            self.add_valid(array, start, end)?;
            at = end;
        }
        self.go_on(false, array.len() - at);
        Some(())
    }

    /// Adds rows that all have a value.
    fn add_valid(&mut self, array: &ArrayRef, start: usize, end: usize) -> Option<()> {
        self.go_on(true, end - start);
        match array.data_type() {
            DataType::Utf8 => {
                let texts = array.as_string_opt::<i32>()?;
                let bytes = self.add_lengths(texts.value_offsets(), start, end)?;
                self.values.update(texts.value_data().get(bytes)?);
            }
            DataType::Binary => {
                let texts = array.as_binary_opt::<i32>()?;
                let bytes = self.add_lengths(texts.value_offsets(), start, end)?;
                self.values.update(texts.value_data().get(bytes)?);
            }
            DataType::List(_) => {
                let lists = array.as_list_opt::<i32>()?;
                let elements = self.add_lengths(lists.value_offsets(), start, end)?;
                self.add_elements(std::slice::from_ref(lists.values()), elements)?;
            }
            DataType::Map(..) => {
                let maps = array.as_map_opt()?;
                let entries = self.add_lengths(maps.value_offsets(), start, end)?;
                self.add_elements(maps.entries().columns(), entries)?;
            }
            DataType::Boolean => {
                let values = array.as_boolean_opt()?.values();
                self.room.clear();
                self.room.extend((start..end).map(|at| u8::from(values.value(at))));
                self.values.update(&self.room);
            }
            other => {
                let width = other.primitive_width()?;
                let data = array.to_data();
                let (start, end) = (data.offset() + start, data.offset() + end);
                self.values.update(data.buffers().first()?.get(start * width..end * width)?);
            }
        }
        Some(())
    }

    /// Adds the lengths of these values; tells where they lie.
    fn add_lengths(&mut self, offsets: &[i32], start: usize, end: usize) -> Option<std::ops::Range<usize>> {
        let offsets = offsets.get(start..=end)?;
        self.room.clear();
        self.room.extend(offsets.windows(2).flat_map(|pair| match *pair {
            [from, to] => (to - from).to_le_bytes(),
            _ => [0; 4],
        }));
        self.lengths.update(&self.room);
        let place = |offset: Option<&i32>| usize::try_from(*offset?).ok();
        Some(place(offsets.first())?..place(offsets.last())?)
    }

    fn add_elements(&mut self, columns: &[ArrayRef], elements: std::ops::Range<usize>) -> Option<()> {
        self.elements.resize_with(columns.len(), Self::default);
        for (column, array) in self.elements.iter_mut().zip(columns) {
            column.add(&array.slice(elements.start, elements.len()))?;
        }
        Some(())
    }

    /// So many more rows that have values, or have none.
    fn go_on(&mut self, valid: bool, rows: usize) {
        if rows == 0 {
            return;
        }
        if self.stretch.0 != valid {
            self.end_stretch();
            self.stretch = (valid, 0);
        }
        self.stretch.1 += rows as u64;
    }

    fn end_stretch(&mut self) {
        let (valid, rows) = self.stretch;
        if rows > 0 {
            self.validity.update([u8::from(valid)]);
            self.validity.update(rows.to_le_bytes());
        }
    }

    fn finish(mut self, hash: &mut Sha256) {
        self.end_stretch();
        hash.update(u32::try_from(self.name.len()).unwrap_or(u32::MAX).to_le_bytes());
        hash.update(&self.name);
        for stream in [self.validity, self.lengths, self.values] {
            hash.update(stream.finalize());
        }
        self.elements.into_iter().for_each(|column| column.finish(hash));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        BinaryArray, BooleanArray, Decimal128Array, Float64Array, Int32Array, ListBuilder, MapBuilder,
        StringArray, StringBuilder, TimestampMicrosecondArray,
    };
    use arrow::compute::concat_batches;
    use bytes::Bytes;
    use parquet::arrow::ArrowWriter;

    use super::*;
    use crate::fact_file;

    fn batch(rows: i32) -> RecordBatch {
        let number = |at: i32| (at % 3 > 0).then_some(at);
        let text = |at: i32| (at % 5 > 1).then(|| "é".repeat((at % 4).unsigned_abs() as usize));
        let mut lists = ListBuilder::new(StringBuilder::new());
        let mut maps = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
        for at in 0..rows {
            for item in 0..at % 4 {
                lists.values().append_option(text(at + item));
                maps.keys().append_value(item.to_string());
                maps.values().append_option(text(item));
            }
            lists.append(at % 7 > 0);
            maps.append(at % 6 > 0).unwrap();
        }
        RecordBatch::try_from_iter_with_nullable([
            ("int", Arc::new((0..rows).map(number).collect::<Int32Array>()) as ArrayRef, true),
            ("text", Arc::new((0..rows).map(text).collect::<StringArray>()), true),
            (
                "bytes",
                Arc::new((0..rows).map(|at| text(at).map(String::into_bytes)).collect::<BinaryArray>()),
                true,
            ),
            (
                "flag",
                Arc::new((0..rows).map(|at| number(at).map(|n| n % 2 == 0)).collect::<BooleanArray>()),
                true,
            ),
            ("real", Arc::new((0..rows).map(|at| Some(f64::from(at) / 7.0)).collect::<Float64Array>()), true),
            (
                "decimal",
                Arc::new((0..rows).map(|at| number(at).map(i128::from)).collect::<Decimal128Array>()),
                true,
            ),
            (
                "at",
                Arc::new(
                    (0..rows)
                        .map(|at| number(at).map(i64::from))
                        .collect::<TimestampMicrosecondArray>()
                        .with_timezone("UTC"),
                ),
                true,
            ),
            ("list", Arc::new(lists.finish()), true),
            ("map", Arc::new(maps.finish()), true),
        ])
        .unwrap()
    }

    fn content<'a>(batches: impl IntoIterator<Item = &'a RecordBatch>) -> ContentHash {
        let mut content = Content::default();
        batches.into_iter().for_each(|batch| content.add(batch));
        content.finish().unwrap()
    }

    #[test]
    fn batches_and_files_do_not_matter() {
        let whole = batch(100);
        let hash = content([&whole]);
        for cut in 0..=100 {
            assert_eq!(content([&whole.slice(0, cut), &whole.slice(cut, 100 - cut)]), hash, "{cut}");
        }
        let mut file = Vec::new();
        let mut writer = ArrowWriter::try_new(&mut file, whole.schema(), None).unwrap();
        writer.write(&whole.slice(0, 33)).unwrap();
        writer.flush().unwrap();
        writer.write(&whole.slice(33, 67)).unwrap();
        writer.close().unwrap();
        let read: Vec<RecordBatch> =
            fact_file::open("f", Bytes::from(file)).unwrap().map(Result::unwrap).collect();
        assert_eq!(content(&read), hash);
    }

    #[test]
    fn each_value_matters() {
        let whole = batch(40);
        let hash = content([&whole]);
        for column in 0..whole.num_columns() {
            for at in 0..39 {
                // Two rows change places in one column.
                let array = whole.column(column);
                if array.slice(at, 1) == array.slice(at + 1, 1) {
                    continue;
                }
                let pieces = [
                    array.slice(0, at),
                    array.slice(at + 1, 1),
                    array.slice(at, 1),
                    array.slice(at + 2, 38 - at),
                ];
                let pieces: Vec<&dyn Array> = pieces.iter().map(|piece| &**piece).collect();
                let mut columns = whole.columns().to_vec();
                columns[column] = arrow::compute::concat(&pieces).unwrap();
                let altered = RecordBatch::try_new(whole.schema(), columns).unwrap();
                assert_ne!(content([&altered]), hash, "{column} {at}");
            }
        }
        assert_ne!(content([&whole.slice(0, 39)]), hash);
    }

    #[test]
    fn a_merged_file_is_held_against_its_parts() {
        let (one, two) = (batch(30), batch(80).slice(30, 50));
        let part = |seq, batch: &RecordBatch| Part {
            seq,
            rows: batch.num_rows() as u64,
            content: Some(content([batch])),
        };
        let parts = [part(1, &one), part(2, &two)];
        let held = |batches: &[RecordBatch]| {
            let mut proof = Proof::new(&parts);
            batches.iter().try_for_each(|batch| proof.add(batch))?;
            proof.finish()
        };
        let merged = concat_batches(&one.schema(), [&one, &two]).unwrap();
        assert_eq!(held(std::slice::from_ref(&merged)), Ok(()));
        assert_eq!(held(&[merged.slice(0, 7), merged.slice(7, 60), merged.slice(67, 13)]), Ok(()));
        assert_eq!(held(&[one.clone(), one.clone()]), Err(parts[1]));
        assert_eq!(held(std::slice::from_ref(&two)), Err(parts[0]));
        assert_eq!(held(&[one.clone(), two.slice(0, 49)]), Err(parts[1]));
    }
}
