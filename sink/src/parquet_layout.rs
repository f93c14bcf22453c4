//! How fact files are laid out: compression, encodings, row groups.

use arrow::datatypes::{DataType, SchemaRef};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder};
use parquet::schema::types::ColumnPath;

use crate::slabs::{BEGAN, ENDED};

/// Bytes of an encoded row group after which a new one is begun: large enough to compress and to scan well, small
/// enough to be held in memory while it is made.
pub(crate) const ROW_GROUP_BYTES: usize = 16 << 20;
const ROW_GROUP_ROWS: usize = 256 * 1024;
/// Rows in a page of a merged file.
const MERGED_PAGE_ROWS: usize = 4 * 1024;
/// Bytes of a dictionary: a look-up reads it whole, and a column that needs a larger one gains little by it.
const DICTIONARY: usize = 128 << 10;
/// Digits of the largest decimals that Parquet keeps as whole numbers.
const MOST_DIGITS: u8 = 18;
/// Rows in a row group of an index.
pub(crate) const INDEX_GROUP_ROWS: usize = 16 * 1024;

/// Writer properties for files of facts with these columns.
pub(crate) fn properties(schema: &SchemaRef) -> WriterProperties {
    facts(schema).build()
}

/// Writer properties for slabs. Their rows are not in the order of time: the times of transactions that changed many rows recur
/// all over a file.
pub(crate) fn slab_properties(schema: &SchemaRef) -> WriterProperties {
    let times = [BEGAN, ENDED].map(|name| ColumnPath::new(vec![name.to_owned()]));
    let properties = times.into_iter().fold(facts(schema), |properties, time| {
        properties
            .set_column_dictionary_enabled(time.clone(), true)
            .set_column_encoding(time, Encoding::PLAIN)
    });
    properties.build()
}

/// Writer properties for facts of many files in one. An entity's versions lie far apart in it, and a look-up reads a page for each: these are
/// small.
pub(crate) fn merged_properties(schema: &SchemaRef) -> WriterProperties {
    facts(schema).set_data_page_row_count_limit(MERGED_PAGE_ROWS).build()
}

/// Writer properties for an index: small groups, of which a look-up reads one.
pub(crate) fn index_properties(schema: &SchemaRef) -> WriterProperties {
    facts(schema)
        .set_max_row_group_row_count(Some(INDEX_GROUP_ROWS))
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .build()
}

fn facts(schema: &SchemaRef) -> WriterPropertiesBuilder {
    let mut properties = WriterProperties::builder()
        .set_created_by(format!("bygone {}", env!("CARGO_PKG_VERSION")))
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_dictionary_page_size_limit(DICTIONARY)
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_write_page_header_statistics(false);
    for field in schema.fields() {
        let column = ColumnPath::new(vec![field.name().clone()]);
        properties = match (field.name().as_str(), field.data_type()) {
            // Ids grow in small steps: what they share with the one before is not written again.
            ("_id" | "_entity_id", DataType::Utf8) => properties
                .set_column_dictionary_enabled(column.clone(), false)
                .set_column_encoding(column, Encoding::DELTA_BYTE_ARRAY),
            // Whole numbers pack well as differences, whether they repeat or grow; a dictionary costs a hash for each.
            (
                _,
                DataType::Int16
                | DataType::Int32
                | DataType::Int64
                | DataType::Date32
                | DataType::Timestamp(..),
            ) => properties
                .set_column_dictionary_enabled(column.clone(), false)
                .set_column_encoding(column, Encoding::DELTA_BINARY_PACKED),
            // These hardly ever repeat: a dictionary would be built only to be given up.
            (_, DataType::Float32 | DataType::Float64) => {
                properties.set_column_dictionary_enabled(column, false)
            }
            // Those that do not repeat are whole numbers too, as far as Parquet keeps them so.
            (_, DataType::Decimal128(..=MOST_DIGITS, _)) => {
                properties.set_column_encoding(column, Encoding::DELTA_BINARY_PACKED)
            }
            // Lengths lie apart from texts: between texts they only look to zstd as if something recurred, which took it twice the time for
            // more bytes; and DuckDB reads them faster.
            (_, DataType::Utf8 | DataType::Binary) => {
                let is_uuid = field.metadata().get("postgres.type").is_some_and(|name| name == "uuid");
                properties
                    .set_column_dictionary_enabled(column.clone(), !is_uuid)
                    .set_column_encoding(column, Encoding::DELTA_LENGTH_BYTE_ARRAY)
            }
            _ => properties,
        };
    }
    properties
}
