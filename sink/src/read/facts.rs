//! A walk over the facts of a table.

use std::collections::HashMap;
use std::collections::HashSet;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int32Array, Int64Array, ListArray, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use bygone_replication::Lsn;
use futures_util::TryStreamExt as _;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowPredicate, ArrowPredicateFn, RowFilter, RowSelection};
use parquet::file::metadata::RowGroupMetaData;

use super::file::{self, Builder, column, excludes_text, integer_bounds};
use super::{Cut, Flow, TableHistory};
use crate::error::{Error, ErrorKind, Result};
use crate::fact_file::{FactRows, damaged};
use crate::index::Finder;
use crate::log::{Add, LiveFile};
use crate::schema::{SYSTEM_COLUMNS, TableSchema};
use crate::store::Store;
use crate::timestamp::Timestamp;
use crate::value::RowBuilder;
use tokio::task::JoinHandle;

/// Which of the user's columns are read; the others read as null.
#[derive(Clone, Debug)]
pub enum Columns {
    /// All.
    All,
    /// Those of these attnums.
    Some(Vec<i16>),
}

/// Which facts are wanted.
#[derive(Clone, Debug, Default)]
pub struct FactFilter {
    /// Those at or before this moment.
    pub until: Option<Cut>,
    /// Those of these entities.
    pub entities: Option<HashSet<String>>,
    /// Those of the transaction that ends here.
    pub lsn: Option<Lsn>,
    /// Those of transactions that end from one position to another.
    pub within: Option<[Lsn; 2]>,
    /// Those of this actor.
    pub actor: Option<String>,
    /// Those at or after this time.
    pub since: Option<Timestamp>,
}

/// What is said of a fact beside its row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// `_id`.
    pub id: String,
    /// `_entity_id`.
    pub entity_id: String,
    /// `_version`.
    pub version: i64,
    /// `_op`.
    pub op: String,
    /// `_valid_from`.
    pub valid_from: Timestamp,
    /// `_deleted_at` is set.
    pub tombstone: bool,
    /// `_lsn`.
    pub lsn: Lsn,
    /// `_seq`.
    pub seq: i64,
    /// `_xid`; 0 for a snapshot.
    pub xid: i64,
    /// `_actor`.
    pub actor: Option<String>,
    /// `_context`.
    pub context: Option<String>,
    /// `_changed`: names of columns in the files. None for version 1.
    pub changed: Option<Vec<String>>,
}

/// A fact in the midst of a walk.
#[derive(Debug)]
pub struct Fact<'a> {
    /// What is said of it.
    pub head: &'a Head,
    /// The schema version that it was written under.
    pub schema: &'a Arc<TableSchema>,
    /// Its row, of that schema version.
    pub row: &'a [u8],
}

/// A fact of one's own.
#[derive(Clone, Debug)]
pub struct OwnedFact {
    /// What is said of it.
    pub head: Head,
    /// The schema version that it was written under.
    pub schema: Arc<TableSchema>,
    /// Its row, of that schema version.
    pub row: Box<[u8]>,
}

impl Fact<'_> {
    /// The same, to keep.
    #[must_use]
    pub fn to_owned(&self) -> OwnedFact {
        OwnedFact { head: self.head.clone(), schema: Arc::clone(self.schema), row: self.row.into() }
    }
}

/// Walks over facts of a table in the order of its files, which within an entity is the order of its versions until
/// files are merged.
///
/// # Errors
/// Where a file cannot be read.
pub(crate) async fn facts(
    store: &Store,
    table: &TableHistory,
    filter: &FactFilter,
    columns: &Columns,
    visit: &mut dyn FnMut(&Fact<'_>) -> Flow,
) -> Result<()> {
    let files: Vec<&LiveFile> = table.files.iter().filter(|file| filter.may_take_file(file)).collect();
    let finder = match &filter.entities {
        Some(entities) => Finder::of(store, table, &files, entities).await?,
        None => Finder::default(),
    };
    let mut found = Looked::up(store, table, &files, &finder, columns);
    let mut visit = |fact: &Fact<'_>| if filter.takes(fact.head) { visit(fact) } else { Flow::Continue(()) };
    let adds = files.iter().map(|file| &file.add);
    let whole: Vec<&Add> = adds.filter(|add| finder.rows(&add.path).is_none()).collect();
    let mut opened = std::pin::pin!(file::opened(store, &whole));
    for file in files {
        if let Some(rows) = finder.rows(&file.add.path) {
            if rows.is_empty() {
                continue;
            }
            let flow = match found.next(&file.add.path).await? {
                Some(batches) => {
                    let mut walk = Walk::new(table, &file.add.path);
                    let mut flow = Flow::Continue(());
                    for batch in &batches {
                        if flow.is_continue() {
                            flow = walk.over_batch(batch, 0, &mut |_, fact| visit(fact))?;
                        }
                    }
                    flow
                }
                None => facts_at(store, table, file, rows, columns, &mut |_, fact| visit(fact)).await?,
            };
            if flow.is_break() {
                break;
            }
            continue;
        }
        let Some(builder) = opened.try_next().await? else { break };
        let groups: Vec<usize> = builder
            .metadata()
            .row_groups()
            .iter()
            .enumerate()
            .filter(|(_, group)| filter.may_take_group(group))
            .map(|(at, _)| at)
            .collect();
        if groups.is_empty() {
            continue;
        }
        let rows = filter.row_filter(&builder);
        let mut builder = builder.with_row_groups(groups);
        if let Some(rows) = rows {
            builder = builder.with_row_filter(rows);
        }
        let mut walk = Walk::new(table, &file.add.path);
        if walk.over(builder, columns, &mut |_, fact| visit(fact)).await?.is_break() {
            break;
        }
    }
    Ok(())
}

/// Facts of which an index knew the rows, read from several files at the same time.
struct Looked {
    tasks: HashMap<String, JoinHandle<Result<Vec<RecordBatch>>>>,
}

impl Looked {
    /// More rows than these are rather read one after another: they are held in memory here.
    const MOST: usize = 10_000;

    fn up(
        store: &Store,
        table: &TableHistory,
        files: &[&LiveFile],
        finder: &Finder,
        columns: &Columns,
    ) -> Self {
        let of = |file: &&LiveFile| Some((LiveFile::clone(file), finder.rows(&file.add.path)?.to_vec()));
        let all: Vec<(LiveFile, Vec<u32>)> =
            files.iter().filter_map(of).filter(|(_, rows)| !rows.is_empty()).collect();
        if all.iter().map(|(_, rows)| rows.len()).sum::<usize>() > Self::MOST {
            return Self { tasks: HashMap::new() };
        }
        let table = Arc::new(TableHistory { files: Vec::new(), ..table.clone() });
        let tasks = all.into_iter().map(|(file, rows)| {
            let (store, table, columns) = (store.clone(), Arc::clone(&table), columns.clone());
            let path = file.add.path.clone();
            let task = tokio::spawn(async move {
                let builder = file::open(&store, &file.add.path, file.add.bytes).await?;
                let selection = selection(&builder, &rows);
                let mask = mask(&builder, &table, &SYSTEM_COLUMNS, &columns);
                let builder = builder.with_row_selection(selection).with_projection(mask);
                let mut batches = file::read(&file.add.path, builder)?;
                let mut all = Vec::new();
                while let Some(batch) = file::next(&file.add.path, &mut batches).await? {
                    all.push(batch);
                }
                Ok(all)
            });
            (path, task)
        });
        Self { tasks: tasks.collect() }
    }

    async fn next(&mut self, file: &str) -> Result<Option<Vec<RecordBatch>>> {
        let Some(task) = self.tasks.remove(file) else { return Ok(None) };
        let batches = task.await.map_err(|error| {
            Error::new(ErrorKind::Io, "a task was ended", "looking up facts").with_source(error)
        })?;
        batches.map(Some)
    }
}

/// What was begun and is not wanted any more.
impl Drop for Looked {
    fn drop(&mut self) {
        self.tasks.values().for_each(JoinHandle::abort);
    }
}

impl FactFilter {
    /// Facts of one entity.
    #[must_use]
    pub fn entity(entity_id: &str) -> Self {
        Self { entities: Some(HashSet::from([entity_id.to_owned()])), ..Self::default() }
    }

    fn takes(&self, head: &Head) -> bool {
        self.until.is_none_or(|cut| cut.covers(head.lsn.as_i64(), head.valid_from.0))
            && self.since.is_none_or(|since| head.valid_from >= since)
            && self.lsn.is_none_or(|lsn| head.lsn == lsn)
            && self.within.is_none_or(|[from, to]| from <= head.lsn && head.lsn <= to)
            && self.entities.as_ref().is_none_or(|wanted| wanted.contains(&head.entity_id))
            && self.actor.as_ref().is_none_or(|wanted| head.actor.as_ref() == Some(wanted))
    }

    pub(super) fn may_take_file(&self, file: &LiveFile) -> bool {
        let [first, last] = file.add.lsn;
        self.until.is_none_or(|cut| cut.covers(first.as_i64(), file.add.valid_from[0].0))
            && self.since.is_none_or(|since| file.add.valid_from[1] >= since)
            && self.lsn.is_none_or(|lsn| first <= lsn && lsn <= last)
            && self.within.is_none_or(|[from, to]| first <= to && from <= last)
    }

    fn may_take_group(&self, group: &RowGroupMetaData) -> bool {
        let meets = |[from, to]: [Lsn; 2]| {
            integer_bounds(group, "_lsn").is_none_or(|(min, max)| min <= to.as_i64() && from.as_i64() <= max)
        };
        let begun = match self.until {
            Some(Cut::Lsn(lsn)) => integer_bounds(group, "_lsn").is_none_or(|(min, _)| min <= lsn.as_i64()),
            Some(Cut::Time(time)) => {
                integer_bounds(group, "_valid_from").is_none_or(|(min, _)| min <= time.0)
            }
            None => true,
        };
        let lasts =
            |since: Timestamp| integer_bounds(group, "_valid_from").is_none_or(|(_, max)| max >= since.0);
        begun
            && self.since.is_none_or(lasts)
            && self.lsn.is_none_or(|lsn| meets([lsn; 2]))
            && self.within.is_none_or(meets)
            && self.actor.as_ref().is_none_or(|actor| !excludes_text(group, "_actor", actor))
            && self
                .entities
                .as_ref()
                .is_none_or(|wanted| wanted.iter().any(|id| !excludes_text(group, "_entity_id", id)))
    }

    /// What is decided on small columns before the others are decoded.
    fn row_filter(&self, builder: &Builder) -> Option<RowFilter> {
        let mut predicates: Vec<Box<dyn ArrowPredicate>> = Vec::new();
        let mask = |name: &str| ProjectionMask::columns(builder.parquet_schema(), [name]);
        if let Some(wanted) = self.entities.clone() {
            predicates.push(Box::new(ArrowPredicateFn::new(mask("_entity_id"), move |batch| {
                Ok(on_texts(&batch, |text| text.is_some_and(|text| wanted.contains(text))))
            })));
        }
        if let Some(wanted) = self.actor.clone() {
            predicates.push(Box::new(ArrowPredicateFn::new(mask("_actor"), move |batch| {
                Ok(on_texts(&batch, |text| text == Some(wanted.as_str())))
            })));
        }
        if let Some([from, to]) = self.within {
            predicates.push(Box::new(ArrowPredicateFn::new(mask("_lsn"), move |batch| {
                Ok(on_integers(&batch, |value| (from.as_i64()..=to.as_i64()).contains(&value)))
            })));
        }
        if let Some(lsn) = self.lsn {
            predicates.push(Box::new(ArrowPredicateFn::new(mask("_lsn"), move |batch| {
                Ok(on_integers(&batch, |value| value == lsn.as_i64()))
            })));
        }
        (!predicates.is_empty()).then(|| RowFilter::new(predicates))
    }
}

/// A column of another type keeps every row: the one who reads it then says what is wrong.
fn on_texts(batch: &RecordBatch, mut takes: impl FnMut(Option<&str>) -> bool) -> BooleanArray {
    match batch.columns().first().and_then(|array: &ArrayRef| array.as_string_opt::<i32>()) {
        Some(texts) => texts.iter().map(|text| Some(takes(text))).collect(),
        None => std::iter::repeat_n(Some(true), batch.num_rows()).collect(),
    }
}

fn on_integers(batch: &RecordBatch, mut takes: impl FnMut(i64) -> bool) -> BooleanArray {
    match batch.columns().first().and_then(|array| array.as_any().downcast_ref::<Int64Array>()) {
        Some(numbers) => numbers.iter().map(|number| Some(number.is_some_and(&mut takes))).collect(),
        None => std::iter::repeat_n(Some(true), batch.num_rows()).collect(),
    }
}

/// Walks over facts at known rows of one file, given in order; says which with each.
pub(super) async fn facts_at(
    store: &Store,
    table: &TableHistory,
    file: &LiveFile,
    rows: &[u32],
    columns: &Columns,
    visit: &mut dyn FnMut(u32, &Fact<'_>) -> Flow,
) -> Result<Flow> {
    let builder = file::open(store, &file.add.path, file.add.bytes).await?;
    let selection = selection(&builder, rows);
    let mut walk = Walk::new(table, &file.add.path);
    walk.over(builder.with_row_selection(selection), columns, &mut |at, fact| {
        rows.get(at).map_or(Flow::Break(()), |row| visit(*row, fact))
    })
    .await
}

fn selection(builder: &Builder, rows: &[u32]) -> RowSelection {
    let total: i64 = builder.metadata().row_groups().iter().map(RowGroupMetaData::num_rows).sum();
    let ranges =
        rows.iter().filter_map(|row| usize::try_from(*row).ok()).map(|row| row..row.saturating_add(1));
    RowSelection::from_consecutive_ranges(ranges, usize::try_from(total).unwrap_or(0))
}

/// These columns of bygone's, and those of the user's that are wanted, as they are called in any schema version.
fn mask(builder: &Builder, table: &TableHistory, system: &[&str], columns: &Columns) -> ProjectionMask {
    let users = columns.in_files(table);
    file::mask(builder, |name| system.contains(&name) || users.contains(&name))
}

impl Columns {
    /// What they are called in files of any schema version.
    pub(super) fn in_files<'a>(&self, table: &'a TableHistory) -> HashSet<&'a str> {
        let columns = table.versions.iter().flat_map(|version| &version.schema.columns);
        let is_wanted = |attnum: i16| match self {
            Self::All => true,
            Self::Some(attnums) => attnums.contains(&attnum),
        };
        let wanted = columns.filter(|column| is_wanted(column.column.attnum));
        wanted.map(|column| column.physical.as_str()).collect()
    }
}

/// The facts of one file.
struct Walk<'a> {
    table: &'a TableHistory,
    path: &'a str,
    row: RowBuilder,
}

impl<'a> Walk<'a> {
    fn new(table: &'a TableHistory, path: &'a str) -> Self {
        Self { table, path, row: RowBuilder::default() }
    }

    /// Visits each fact, with how many came before it.
    async fn over(
        &mut self,
        builder: Builder,
        columns: &Columns,
        visit: &mut dyn FnMut(usize, &Fact<'_>) -> Flow,
    ) -> Result<Flow> {
        let mask = mask(&builder, self.table, &SYSTEM_COLUMNS, columns);
        let mut batches = file::read(self.path, builder.with_projection(mask))?;
        let mut before = 0;
        while let Some(batch) = file::next(self.path, &mut batches).await? {
            if self.over_batch(&batch, before, visit)?.is_break() {
                return Ok(Flow::Break(()));
            }
            before += batch.num_rows();
        }
        Ok(Flow::Continue(()))
    }

    fn over_batch(
        &mut self,
        batch: &RecordBatch,
        before: usize,
        visit: &mut dyn FnMut(usize, &Fact<'_>) -> Flow,
    ) -> Result<Flow> {
        let heads = Heads::new(self.path, batch)?;
        let mut rows: HashMap<i32, (FactRows<'_>, &Arc<TableSchema>)> = HashMap::new();
        for at in 0..batch.num_rows() {
            let number = heads.schema.value(at);
            let (facts, schema) = match rows.entry(number) {
                Entry::Occupied(known) => &*known.into_mut(),
                Entry::Vacant(unknown) => {
                    let schema = self.table.version(number).ok_or_else(|| {
                        damaged(self.path, &format!("the log has no schema {number} of its table"))
                    })?;
                    &*unknown.insert((FactRows::new(self.path, Arc::clone(schema), batch)?, schema))
                }
            };
            facts.row(at, &mut self.row)?;
            let head = heads.get(at);
            let fact = Fact { head: &head, schema, row: self.row.bytes() };
            if visit(before + at, &fact).is_break() {
                return Ok(Flow::Break(()));
            }
        }
        Ok(Flow::Continue(()))
    }
}

/// The system columns of a batch.
struct Heads<'a> {
    id: &'a StringArray,
    entity_id: &'a StringArray,
    version: &'a Int64Array,
    op: &'a StringArray,
    valid_from: &'a TimestampMicrosecondArray,
    deleted_at: &'a TimestampMicrosecondArray,
    lsn: &'a Int64Array,
    seq: &'a Int64Array,
    xid: &'a Int64Array,
    actor: &'a StringArray,
    context: &'a StringArray,
    changed: &'a ListArray,
    schema: &'a Int32Array,
}

impl<'a> Heads<'a> {
    fn new(path: &str, batch: &'a RecordBatch) -> Result<Self> {
        Ok(Self {
            id: column(path, batch, "_id")?,
            entity_id: column(path, batch, "_entity_id")?,
            version: column(path, batch, "_version")?,
            op: column(path, batch, "_op")?,
            valid_from: column(path, batch, "_valid_from")?,
            deleted_at: column(path, batch, "_deleted_at")?,
            lsn: column(path, batch, "_lsn")?,
            seq: column(path, batch, "_seq")?,
            xid: column(path, batch, "_xid")?,
            actor: column(path, batch, "_actor")?,
            context: column(path, batch, "_context")?,
            changed: column(path, batch, "_changed")?,
            schema: column(path, batch, "_schema")?,
        })
    }

    fn get(&self, at: usize) -> Head {
        let text = |array: &StringArray| array.is_valid(at).then(|| array.value(at).to_owned());
        Head {
            id: self.id.value(at).to_owned(),
            entity_id: self.entity_id.value(at).to_owned(),
            version: self.version.value(at),
            op: self.op.value(at).to_owned(),
            valid_from: Timestamp(self.valid_from.value(at)),
            tombstone: self.deleted_at.is_valid(at),
            lsn: Lsn::from_i64(self.lsn.value(at)),
            seq: self.seq.value(at),
            xid: self.xid.value(at),
            actor: text(self.actor),
            context: text(self.context),
            changed: self.changed.is_valid(at).then(|| {
                let names = self.changed.value(at);
                let names = names.as_string_opt::<i32>().into_iter().flatten();
                names.flatten().map(str::to_owned).collect()
            }),
        }
    }
}
