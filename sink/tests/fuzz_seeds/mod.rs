//! The fuzz targets, on their seeds and on some thousand mutations of them.
//!
//! `fuzz/` runs the same for as long as one likes; a failure that it finds becomes a seed.

#[path = "../../../fuzz/bodies/commit.rs"]
mod commit;
#[path = "../../../fuzz/bodies/kept_row.rs"]
mod kept_row;
#[path = "../../../fuzz/bodies/manifest.rs"]
mod manifest;
#[path = "../../../fuzz/mutations.rs"]
mod mutations;
#[path = "../../../fuzz/bodies/table_text.rs"]
mod table_text;
#[path = "../../../fuzz/bodies/values.rs"]
mod values;

use mutations::exercise;

#[test]
fn commits() {
    exercise("commit", commit::run);
}

#[test]
fn kept_rows() {
    exercise("kept_row", kept_row::run);
}

#[test]
fn manifests() {
    exercise("manifest", manifest::run);
}

#[test]
fn names_of_tables() {
    exercise("table_text", table_text::run);
}

#[test]
fn values_from_the_wire() {
    exercise("values", values::run);
}
