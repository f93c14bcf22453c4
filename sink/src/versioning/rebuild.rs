//! State caught up from facts: after a crash, or when it was lost.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bygone_replication::Lsn;

use crate::entity::{state_key, twin_key};
use crate::error::{Error, ErrorKind, Result};
use crate::fact::parse_fact_id;
use crate::fact_file::{self, FactRows};
use crate::log::{LiveFile, LogState};
use crate::read::{Archive, Fact, Flow, Head};
use crate::schema::TableSchema;
use crate::state::State;
use crate::store::Store;
use crate::value::RowBuilder;

use super::content::{find_anew, put_twin, take_twin_by_id};
use super::known::{Entities, Entity, Known, Twin};
use super::table::CapturedTable;

/// Bytes of changes after which they are moved to disk.
const CHUNK_BYTES: usize = 48 << 20;

/// What catching up came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CatchUp {
    /// Fact files read.
    pub files: u64,
    /// Facts read.
    pub facts: u64,
}

/// Brings state up to the last commit of the log, by the facts of the commits that it lacks.
///
/// Files that are not there are taken out of `rows`, where there are such: facts that have arrived in tables are kept nowhere else.
/// `schemas` gives, by name in the log, the schema versions of each table, oldest first. Reading a fact again does no
/// harm: a version that state has already, or a later one, stands.
///
/// # Errors
/// When files or state cannot be read, or state cannot be written.
pub async fn catch_up(
    state: &Arc<State>,
    store: &Store,
    rows: Option<&Archive>,
    log: &LogState,
    schemas: &HashMap<String, Vec<Arc<TableSchema>>>,
) -> Result<CatchUp> {
    catch_up_by(state, store, rows, log, schemas, None).await
}

/// The same, without the facts that stand after `until`: for a state that is to show the tables as they were there.
///
/// # Errors
/// As [`catch_up`].
pub async fn catch_up_until(
    state: &Arc<State>,
    store: &Store,
    log: &LogState,
    schemas: &HashMap<String, Vec<Arc<TableSchema>>>,
    until: Option<Lsn>,
) -> Result<CatchUp> {
    catch_up_by(state, store, None, log, schemas, until).await
}

/// The first commit whose facts have to be read so that state comes to know those of `from` and later ones.
///
/// A merged file may begin before. What it says of entities with a key does no harm: the higher version stands. Of one without a key that
/// had ended by then state knows nothing any more, and would take it for one that lives: its end has to be read, too, in whichever file
/// that is.
fn begin_of_rows(files: &[&LiveFile], versions: &[Arc<TableSchema>], from: u64) -> u64 {
    let mut least = from;
    while versions.iter().any(|schema| schema.key.is_empty()) {
        let read = files.iter().map(|file| file.commits()).filter(|[_, last]| *last >= least);
        match read.map(|[first, _]| first).min() {
            Some(first) if first < least => least = first,
            _ => break,
        }
    }
    least
}

async fn catch_up_by(
    state: &Arc<State>,
    store: &Store,
    rows: Option<&Archive>,
    log: &LogState,
    schemas: &HashMap<String, Vec<Arc<TableSchema>>>,
    until: Option<Lsn>,
) -> Result<CatchUp> {
    let mut done = CatchUp::default();
    let Some(last) = log.last_seq() else { return Ok(done) };
    let applied = state.applied();
    if let Some(applied) = applied
        && !is_of_log(state, store, log, applied).await?
    {
        // State of a history that was put back: nothing in it can be trusted.
        tracing::warn!(
            log = last,
            state = applied,
            "the state is ahead of the log, or of another one: it is rebuilt"
        );
        state.clear()?;
    } else if applied == Some(last) {
        return Ok(done);
    }
    let from = state.applied().map_or(0, |applied| applied + 1);
    let mut entities = Entities::new(Arc::clone(state));
    for (table, versions) in schemas {
        let mut files = log.files_of(table);
        let from = begin_of_rows(&files, versions, from);
        files.retain(|file| file.commits()[1] >= from && until.is_none_or(|until| file.add.lsn[0] <= until));
        let mut versions_of = versions.iter();
        let Some(first) = versions_of.next() else { continue };
        let mut captured = CapturedTable::new(Arc::clone(first), Lsn::ZERO, Arc::clone(state.shelf()));
        versions_of.for_each(|schema| captured.learn(Arc::clone(schema)));
        if let Some(rows) = rows {
            let gone = absent(store, &files).await?;
            // They have arrived before those that are still there were written.
            done.facts += read_rows(&mut entities, &captured, versions, rows, &gone).await?;
            files.retain(|file| !gone.iter().any(|gone| gone.add.path == file.add.path));
        }
        let mut ended = may_end_first(&files).then(HashSet::new);
        let mut read = Lsn::ZERO;
        for file in files {
            // Nothing that is read from here on is of before an end that was read.
            if let Some(ended) = ended.as_mut().filter(|_| file.add.lsn[0] > read) {
                ended.clear();
            }
            read = read.max(file.add.lsn[1]);
            let path = file.add.path.clone();
            let schema =
                versions.iter().find(|schema| schema.version == file.add.schema).ok_or_else(|| {
                    fact_file::damaged(
                        &path,
                        &format!("the log has no schema {} of {table}", file.add.schema),
                    )
                })?;
            let leaf = file.add.leaf();
            let bytes = store.get(&path).await?;
            let schema = Arc::clone(schema);
            let mut work = std::mem::replace(&mut entities, Entities::new(Arc::clone(state)));
            let captured = captured.share();
            let mut ends = ended.take();
            // Decoding is work for a thread that may block.
            let (back, ends, facts) = tokio::task::spawn_blocking(move || {
                let facts = read_file(&mut work, &captured, &schema, &path, leaf, until, bytes, &mut ends);
                (work, ends, facts)
            })
            .await
            .map_err(|error| {
                Error::new(ErrorKind::Io, "a task was ended", "rebuilding state").with_source(error)
            })?;
            (entities, ended) = (back, ends);
            done.facts += facts?;
            done.files += 1;
        }
        if from > 0 && versions.len() > 1 {
            // Of commits that it lacks, one may have brought a change of columns.
            entities =
                blocking(entities, move |entities| find_anew(&captured, entities, CHUNK_BYTES)).await?;
        }
    }
    if let Some(commit) = log.last_hash {
        state.commit_is(last, commit.to_string());
    }
    entities.seal().apply(state, last)?;
    tracing::info!(files = done.files, facts = done.facts, seq = last, "state caught up from facts");
    Ok(done)
}

/// The commit up to which state holds the facts is one of the log.
async fn is_of_log(state: &State, store: &Store, log: &LogState, applied: u64) -> Result<bool> {
    let Some(last) = log.last_seq().filter(|last| applied <= *last) else { return Ok(false) };
    let Some(known) = state.applied_commit() else { return Ok(true) };
    let there = if applied == last {
        log.last_hash
    } else {
        match crate::log::read(store, applied).await {
            Ok(stored) => Some(stored.hash),
            // Of a log that arrives elsewhere, what has arrived is forgotten.
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        }
    };
    Ok(there.is_none_or(|there| there.to_string() == known))
}

/// Has a thread that may block change what is known.
async fn blocking(
    mut entities: Entities,
    work: impl FnOnce(&mut Entities) -> Result<()> + Send + 'static,
) -> Result<Entities> {
    let done = tokio::task::spawn_blocking(move || work(&mut entities).map(|()| entities));
    done.await.map_err(|error| {
        Error::new(ErrorKind::Io, "a task was ended", "rebuilding state").with_source(error)
    })?
}

#[expect(clippy::too_many_arguments, reason = "one caller, which has all of it at hand")]
fn read_file(
    entities: &mut Entities,
    table: &CapturedTable,
    schema: &Arc<TableSchema>,
    path: &str,
    leaf: u32,
    until: Option<Lsn>,
    bytes: bytes::Bytes,
    ended: &mut Option<Ended>,
) -> Result<u64> {
    let mut row = RowBuilder::with_shelf(Some(Arc::clone(entities.store().shelf())));
    let mut count = 0;
    for batch in fact_file::open(path, bytes)? {
        let batch = batch.map_err(|error| fact_file::damaged(path, &error.to_string()))?;
        let facts = FactRows::new(path, Arc::clone(schema), &batch)?;
        for at in 0..batch.num_rows() {
            if until.is_some_and(|until| facts.lsn(at) > until) {
                continue;
            }
            facts.row(at, &mut row)?;
            row.check()?;
            let told = Told {
                schema,
                entity_id: facts.entity_id(at),
                version: facts.version(at),
                is_tombstone: facts.is_tombstone(at),
                leaf,
            };
            if !told.is_over(ended) {
                told.take(entities, table, row.bytes())?;
            }
        }
        count += batch.num_rows() as u64;
        if entities.bytes() > CHUNK_BYTES {
            entities.spill()?;
        }
    }
    Ok(count)
}

/// The end of a row may be read before its beginning: facts with large values stand in files of their own, beside the others', and of
/// several files of one transaction nothing tells which was begun first.
fn may_end_first(files: &[&LiveFile]) -> bool {
    files.iter().any(|file| file.add.is_large())
        || files.iter().zip(files.iter().skip(1)).any(|(one, next)| next.add.lsn[0] <= one.add.lsn[1])
}

/// The files that are not there.
async fn absent<'a>(store: &Store, files: &[&'a LiveFile]) -> Result<Vec<&'a LiveFile>> {
    let mut gone = Vec::new();
    for file in files {
        if !store.exists(&file.add.path).await? {
            gone.push(*file);
        }
    }
    Ok(gone)
}

/// Reads the facts of files out of rows.
async fn read_rows(
    entities: &mut Entities,
    table: &CapturedTable,
    versions: &[Arc<TableSchema>],
    rows: &Archive,
    files: &[&LiveFile],
) -> Result<u64> {
    let lsn = files.iter().map(|file| file.add.lsn);
    let Some(range) = lsn.reduce(|a, b| [a[0].min(b[0]), a[1].max(b[1])]) else { return Ok(0) };
    let (mut count, mut failure) = (0, Ok(()));
    let history = rows.table(&table.schema.log_name)?;
    rows.rows()?
        .facts_within(&history, range, &mut |leaf, fact| {
            failure = take_row(entities, table, versions, leaf, fact);
            count += 1;
            if failure.is_ok() { Flow::Continue(()) } else { Flow::Break(()) }
        })
        .await?;
    failure.map(|()| count)
}

fn take_row(
    entities: &mut Entities,
    table: &CapturedTable,
    versions: &[Arc<TableSchema>],
    leaf: u32,
    fact: &Fact<'_>,
) -> Result<()> {
    let version = fact.schema.version;
    let schema = versions.iter().find(|schema| schema.version == version).ok_or_else(|| {
        let name = &table.schema.log_name;
        fact_file::damaged(name, &format!("the log has no schema {version} of it"))
    })?;
    let Head { entity_id, version, tombstone, .. } = fact.head;
    let told = Told { schema, entity_id, version: *version, is_tombstone: *tombstone, leaf };
    told.take(entities, table, fact.row)?;
    if entities.bytes() > CHUNK_BYTES { entities.spill() } else { Ok(()) }
}

/// Entities of a table without a key that have ended: none of them begins again.
type Ended = HashSet<[u8; 16]>;

/// What a fact says of its entity.
struct Told<'a> {
    schema: &'a Arc<TableSchema>,
    entity_id: &'a str,
    version: i64,
    is_tombstone: bool,
    leaf: u32,
}

impl Told<'_> {
    /// The end of its entity was read before. Notes it where this is the end.
    fn is_over(&self, ended: &mut Option<Ended>) -> bool {
        let Some(ended) = ended.as_mut().filter(|_| self.schema.key.is_empty()) else { return false };
        let Some(id) = parse_fact_id(self.entity_id) else { return false };
        if self.is_tombstone {
            ended.insert(id);
        }
        !self.is_tombstone && ended.contains(&id)
    }

    fn take(&self, entities: &mut Entities, table: &CapturedTable, row: &[u8]) -> Result<()> {
        if self.schema.key.is_empty() {
            content_fact(entities, table, self, row)
        } else {
            keyed_fact(entities, table, self, row)
        }
    }
}

fn keyed_fact(entities: &mut Entities, table: &CapturedTable, told: &Told<'_>, row: &[u8]) -> Result<()> {
    let &Told { schema, version, leaf, .. } = told;
    let key = state_key(told.entity_id);
    // The end of an entity from before the table had a key.
    if told.is_tombstone
        && let Some(id) = parse_fact_id(told.entity_id)
        && let Some(Known::Place(_)) = entities.get(schema.number, &twin_key(id))?
    {
        return take_twin_by_id(table, entities, id);
    }
    if let Some(Known::Entity(known)) = entities.get(schema.number, &key)?
        && known.version >= version
    {
        return Ok(());
    }
    let entity = Entity { version, live: !told.is_tombstone, leaf, schema: schema.version, row: row.into() };
    entities.put(schema.number, &key, Some(Known::Entity(entity)));
    Ok(())
}

fn content_fact(entities: &mut Entities, table: &CapturedTable, told: &Told<'_>, row: &[u8]) -> Result<()> {
    let number = table.schema.number;
    let &Told { schema, version, leaf, .. } = told;
    // The end of an entity from before the table lost its key.
    let key = state_key(told.entity_id);
    if told.is_tombstone
        && let Some(Known::Entity(entity)) = entities.get(number, &key)?
        && entity.live
    {
        let buried = Entity { version: version.max(entity.version), live: false, ..entity };
        entities.put(number, &key, Some(Known::Entity(buried)));
        return Ok(());
    }
    let Some(id) = parse_fact_id(told.entity_id) else { return Ok(()) };
    if let Some(Known::Place(place)) = entities.get(table.schema.number, &twin_key(id))?
        && place.version >= version
    {
        return Ok(());
    }
    take_twin_by_id(table, entities, id)?;
    if !told.is_tombstone {
        // Rows are found by what they read as now.
        let now = table.convert(row, schema.version)?;
        put_twin(table, entities, now.as_deref().unwrap_or(row), Twin { id, version, leaf })?;
    }
    Ok(())
}
