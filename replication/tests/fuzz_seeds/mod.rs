//! The fuzz targets, on their seeds and on some thousand mutations of them.
//!
//! `fuzz/` runs the same for as long as one likes; a failure that it finds becomes a seed.

#[path = "../../../fuzz/bodies/conninfo.rs"]
mod conninfo;
#[path = "../../../fuzz/bodies/copy_binary.rs"]
mod copy_binary;
#[path = "../../../fuzz/bodies/copy_text.rs"]
mod copy_text;
#[path = "../../../fuzz/mutations.rs"]
mod mutations;
#[path = "../../../fuzz/bodies/pattern.rs"]
mod pattern;
#[path = "../../../fuzz/bodies/pgoutput.rs"]
mod pgoutput;
#[path = "../../../fuzz/bodies/publications.rs"]
mod publications;

use mutations::exercise;

#[test]
fn connection_settings() {
    exercise("conninfo", conninfo::run);
}

#[test]
fn copies_in_binary() {
    exercise("copy_binary", copy_binary::run);
}

#[test]
fn rows_of_a_copy_in_text() {
    exercise("copy_text", copy_text::run);
}

#[test]
fn table_patterns() {
    exercise("pattern", pattern::run);
}

#[test]
fn messages_of_the_stream() {
    exercise("pgoutput", pgoutput::run);
}

#[test]
fn recorded_publications() {
    exercise("publications", publications::run);
}
