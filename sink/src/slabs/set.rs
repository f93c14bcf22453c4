//! The slabs that a table has.

use std::collections::BTreeMap;

use bygone_replication::Lsn;

use super::ENDED;
use super::path::{Name, directory};
use crate::error::Result;
use crate::read::file;
use crate::store::{Object, Store};
use crate::timestamp::Timestamp;

/// A slab: the stretch `(from, to]` of the WAL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slab {
    /// K1: rows that lived there were carried over.
    pub from: Lsn,
    /// K2: rows that began up to there are in it.
    pub to: Lsn,
    /// From when on it answers for times, and up to when (exclusive).
    pub times: [Timestamp; 2],
    /// Its files.
    pub files: Vec<SlabFile>,
    /// Another one that begins where it begins will take its place.
    pub begun: bool,
}

/// A file of a slab: rows of one schema version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlabFile {
    /// Where it is kept.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// The schema version that its rows were written under.
    pub schema: i32,
}

impl Slab {
    /// It answers for a time.
    #[must_use]
    pub fn covers(&self, time: Timestamp) -> bool {
        let [from, to] = self.times;
        from <= time && time < to
    }

    /// How many rows lived at its end.
    ///
    /// # Errors
    /// Where a file cannot be read.
    pub async fn live(&self, store: &Store) -> Result<u64> {
        let mut live = 0;
        for file in &self.files {
            live += file::null_count(store, &file.path, file.bytes, ENDED).await?;
        }
        Ok(live)
    }
}

/// The slabs of a table, oldest first. They do not overlap; between two there may be a stretch without, where somebody removed one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlabSet {
    slabs: Vec<Slab>,
    /// The newest file of each of them.
    newest: Vec<Object>,
    /// Files of others, with their stretches: unfinished ones, and such as overlap one of these.
    strays: Vec<(Lsn, Lsn, Object)>,
}

impl SlabSet {
    /// Those that a store holds of a table, by its name in the log.
    ///
    /// # Errors
    /// Where the store does not say.
    pub async fn load(store: &Store, log_name: &str) -> Result<Self> {
        let Some(directory) = directory(log_name) else { return Ok(Self::default()) };
        Ok(Self::of(&directory, store.list(&directory).await?))
    }

    fn of(directory: &str, objects: Vec<Object>) -> Self {
        /// What the parts of one slab have in common.
        ///
        /// Of those that begin at one place, whole ones come first: one that was begun is only there until they are.
        type Whole = (Lsn, bool, std::cmp::Reverse<Lsn>, [Timestamp; 2], u32, u32);
        let mut wholes: BTreeMap<Whole, BTreeMap<u32, (i32, Object)>> = BTreeMap::new();
        for object in objects {
            if let Some(name) = Name::parse(directory, &object.path) {
                let whole =
                    (name.from, name.begun, std::cmp::Reverse(name.to), name.times, name.tag, name.parts);
                wholes.entry(whole).or_default().insert(name.part, (name.schema, object));
            }
        }
        let (mut slabs, mut newest, mut strays): (Vec<Slab>, Vec<Object>, Vec<_>) = Default::default();
        for ((from, begun, std::cmp::Reverse(to), times, _, parts), files) in wholes {
            // Two makers at once may have come to different cuts: of stretches that overlap one is taken.
            let behind = slabs.last().is_none_or(|last| last.to <= from && last.times[1] <= times[0]);
            let whole = (1..=parts).eq(files.keys().copied());
            if behind && whole && from < to && times[0] <= times[1] {
                newest.extend(
                    files.values().map(|(_, object)| object).max_by_key(|object| object.modified).cloned(),
                );
                let file = |(schema, object): (i32, Object)| SlabFile {
                    path: object.path,
                    bytes: object.bytes,
                    schema,
                };
                slabs.push(Slab { from, to, times, files: files.into_values().map(file).collect(), begun });
            } else {
                strays.extend(files.into_values().map(|(_, object)| (from, to, object)));
            }
        }
        Self { slabs, newest, strays }
    }

    /// Files that no reader takes, and no maker that is still at work has: left for longer than an hour, as is what took their place, for
    /// somebody may have opened the table before that.
    pub(super) fn left_behind(&self) -> impl Iterator<Item = &str> {
        let is_old = |from: Lsn, to: Lsn| {
            let mut taken = self.slabs.iter().zip(&self.newest);
            !taken.any(|(slab, newest)| slab.from < to && from < slab.to && !newest.is_left_behind())
        };
        let old =
            self.strays.iter().filter(move |(from, to, stray)| stray.is_left_behind() && is_old(*from, *to));
        old.map(|(_, _, stray)| stray.path.as_str())
    }

    /// Those that end at a position or before: of others the log as it was read says nothing.
    #[must_use]
    pub fn up_to(mut self, known: Lsn) -> Self {
        // They are in order, and do not overlap.
        self.slabs.truncate(self.slabs.partition_point(|slab| slab.to <= known));
        self.newest.truncate(self.slabs.len());
        self
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> &[Slab] {
        &self.slabs
    }

    /// The newest that is done, and one that is begun behind it.
    #[must_use]
    pub fn done_and_begun(&self) -> (Option<&Slab>, Option<&Slab>) {
        match self.slabs.as_slice() {
            [.., done, begun] if begun.begun && done.to == begun.from => (Some(done), Some(begun)),
            [begun] if begun.begun && begun.from == Lsn::ZERO => (None, Some(begun)),
            slabs => (slabs.last(), None),
        }
    }

    /// The one that answers for a time.
    #[must_use]
    pub fn at(&self, time: Timestamp) -> Option<&Slab> {
        self.slabs.iter().find(|slab| slab.covers(time))
    }

    /// The newest that ends at a time or before.
    #[must_use]
    pub fn before(&self, time: Timestamp) -> Option<&Slab> {
        self.slabs.iter().rev().find(|slab| slab.times[1] <= time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(from: u64, to: u64, part: u32, parts: u32) -> Object {
        let times = [Timestamp(from.cast_signed() * 10), Timestamp(to.cast_signed() * 10)];
        let name = Name { from: Lsn(from), to: Lsn(to), times, tag: 7, part, parts, schema: 1, begun: false };
        Object { path: name.path("slabs/public.t"), bytes: 1, modified: Timestamp(0) }
    }

    fn stretches(objects: Vec<Object>) -> Vec<(u64, u64, usize)> {
        let set = SlabSet::of("slabs/public.t", objects);
        set.all().iter().map(|slab| (slab.from.0, slab.to.0, slab.files.len())).collect()
    }

    #[test]
    fn only_whole_slabs_that_do_not_overlap_are_taken() {
        let part = object;
        assert_eq!(stretches(vec![part(0, 5, 1, 2)]), []);
        assert_eq!(
            stretches(vec![part(0, 5, 1, 2), part(0, 5, 2, 2), part(5, 9, 1, 1)]),
            [(0, 5, 2), (5, 9, 1)]
        );
        assert_eq!(stretches(vec![part(0, 5, 1, 1), part(0, 7, 1, 1), part(5, 9, 1, 1)]), [(0, 7, 1)]);
        assert_eq!(stretches(vec![part(0, 5, 1, 1), part(7, 9, 1, 1)]), [(0, 5, 1), (7, 9, 1)]);
    }

    #[test]
    fn a_begun_slab_gives_way_to_the_whole_one() {
        let begun = |from, to| {
            let path = object(from, to, 1, 1).path.replace("-s1.parquet", "-s1-begun.parquet");
            Object { path, ..object(from, to, 1, 1) }
        };
        let set = SlabSet::of("slabs/public.t", vec![object(0, 5, 1, 1), begun(5, 7)]);
        let (done, at_work) = set.done_and_begun();
        assert_eq!((done.map(|slab| slab.to.0), at_work.map(|slab| slab.to.0)), (Some(5), Some(7)));
        let set = SlabSet::of("slabs/public.t", vec![object(0, 5, 1, 1), begun(5, 7), object(5, 9, 1, 1)]);
        let (done, at_work) = set.done_and_begun();
        assert_eq!((done.map(|slab| slab.to.0), at_work), (Some(9), None));
        assert_eq!(set.strays.len(), 1);
        let set = SlabSet::of("slabs/public.t", vec![begun(0, 7)]);
        let (done, at_work) = set.done_and_begun();
        assert_eq!((done, at_work.map(|slab| slab.to.0)), (None, Some(7)));
    }

    #[test]
    fn a_moment_finds_its_slab() {
        let set = SlabSet::of("slabs/public.t", vec![object(0, 5, 1, 1), object(5, 9, 1, 1)]);
        let at = |time| set.at(Timestamp(time)).map(|slab| slab.from.0);
        assert_eq!([at(-1), at(49), at(50), at(90)], [None, Some(0), Some(5), None]);
        let before = |time| set.before(Timestamp(time)).map(|slab| slab.from.0);
        assert_eq!([before(49), before(50), before(89), before(90)], [None, Some(0), Some(0), Some(5)]);
    }
}
