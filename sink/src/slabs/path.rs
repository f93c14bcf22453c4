//! Where slabs stand.
//!
//! `slabs/<table>/_slab_from=<µs>/_slab_to=<µs>/<K1>-<K2>-<tag>-<part>of<parts>-s<schema>.parquet`: the directories are partitions in the
//! manner of Hive, by which DuckDB and Spark open the one slab that a time falls into and none of the others. Times are microseconds
//! since the Unix epoch. One listing tells all there is to know; a slab is there once all its parts are. The tag is of what all parts
//! hold, so that parts of two makers, who may have parted the same rows in different ways, are never taken for one slab. A slab that
//! is only begun says so at the end of its name.

use bygone_replication::Lsn;

use crate::log::path::derived_dir;
use crate::timestamp::Timestamp;

/// The directory of all slabs.
pub const SLABS: &str = "slabs";
/// The partition column with the first time that a slab answers for.
pub(super) const FROM_TIME: &str = "_slab_from";
/// The partition column with the first time after it.
pub(super) const TO_TIME: &str = "_slab_to";

/// What the path of a file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name {
    pub(super) from: Lsn,
    pub(super) to: Lsn,
    pub(super) times: [Timestamp; 2],
    pub(super) tag: u32,
    pub(super) part: u32,
    pub(super) parts: u32,
    pub(super) schema: i32,
    /// Another one that begins where it begins will take its place.
    pub(super) begun: bool,
}

/// The directory of a table's slabs, by its name in the log.
pub(super) fn directory(log_name: &str) -> Option<String> {
    derived_dir(SLABS, log_name)
}

impl Name {
    pub(super) fn path(&self, directory: &str) -> String {
        let Self { from, to, times: [begins, ends], tag, part, parts, schema, begun } = self;
        let begun = if *begun { "-begun" } else { "" };
        format!(
            "{directory}/{FROM_TIME}={}/{TO_TIME}={}/{:016x}-{:016x}-{tag:08x}-{part}of{parts}-s{schema}{begun}.parquet",
            begins.0, ends.0, from.0, to.0
        )
    }

    /// Reads what [`Name::path`] wrote; none for anything else.
    pub(super) fn parse(directory: &str, path: &str) -> Option<Self> {
        let rest = path.strip_prefix(directory)?.strip_prefix('/')?;
        let mut segments = rest.split('/');
        let time = |segment: Option<&str>, name: &str| {
            let text = segment?.strip_prefix(name)?.strip_prefix('=')?;
            Some(Timestamp(text.parse().ok()?))
        };
        let times = [time(segments.next(), FROM_TIME)?, time(segments.next(), TO_TIME)?];
        let file = segments.next()?.strip_suffix(".parquet")?;
        let mut pieces = file.split('-');
        let lsn = |piece: Option<&str>| {
            piece.filter(|piece| piece.len() == 16).and_then(|hex| u64::from_str_radix(hex, 16).ok()).map(Lsn)
        };
        let (from, to) = (lsn(pieces.next())?, lsn(pieces.next())?);
        let tag = u32::from_str_radix(pieces.next()?, 16).ok()?;
        let (part, parts) = pieces.next()?.split_once("of")?;
        let schema = pieces.next()?.strip_prefix('s')?.parse().ok()?;
        let (part, parts) = (part.parse().ok()?, parts.parse().ok()?);
        let begun = pieces.next() == Some("begun");
        let name = Self { from, to, times, tag, part, parts, schema, begun };
        // What is not written as we write it is not ours.
        (segments.next().is_none() && name.path(directory) == path).then_some(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_says_what_it_was_made_of() {
        let directory = directory("public.Odd Name").unwrap();
        assert_eq!(directory, "slabs/public.~4f~dd~20~~4e~ame");
        let name = Name {
            from: Lsn(0),
            to: Lsn(0x15D_6B88),
            times: [Timestamp(-5), Timestamp(7)],
            tag: 0xbeef,
            part: 2,
            parts: 3,
            schema: 4,
            begun: false,
        };
        let path = name.path(&directory);
        assert_eq!(
            path,
            "slabs/public.~4f~dd~20~~4e~ame/_slab_from=-5/_slab_to=7/0000000000000000-00000000015d6b88-0000beef-2of3-s4.parquet"
        );
        assert_eq!(Name::parse(&directory, &path), Some(name));
        let begun = Name { begun: true, ..name };
        assert!(begun.path(&directory).ends_with("-s4-begun.parquet"));
        assert_eq!(Name::parse(&directory, &begun.path(&directory)), Some(begun));
        for (from, to) in
            [("-2of3", "-02of3"), ("s4", "s4-"), ("_to=7", "_to=+7"), ("slabs/", "slab/"), (".parquet", "")]
        {
            assert_eq!(Name::parse(&directory, &path.replacen(from, to, 1)), None, "{from} {to}");
        }
    }
}
