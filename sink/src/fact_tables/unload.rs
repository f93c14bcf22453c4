//! Fact tables made into files: a history of the same facts, commit by commit.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use bygone_replication::Lsn;
use bytes::Bytes;
use serde_json::json;
use tokio::runtime::Handle;

use super::rows::Rows;
use crate::batch::{FactBatch, FactHead};
use crate::encoder::{Encoder, EncoderLimits, FileNumbers, WrittenFile};
use crate::error::{Error, ErrorKind, Result};
use crate::fact::{Context, Op, Origin, parse_fact_id};
use crate::history::{History, Identity, read_manifest};
use crate::log::path::TRANSACTIONS;
use crate::log::{self, Add, Commit, CommitBody, MANIFEST, Manifest};
use crate::read::{Archive, Fact, Flow, Head, TableHistory};
use crate::schema::TableSchema;
use crate::store::{PutOutcome, Store};
use crate::transactions::TransactionBatch;

/// The field of a commit, and of a manifest, that says what it was made from.
const BACKFILLED: &str = "backfilled_from";
const DAY_US: i64 = 86_400_000_000;

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unloaded {
    /// Commits written.
    pub commits: u64,
    /// Facts written.
    pub facts: u64,
}

/// Writes the commits of fact tables that a history of files lacks. It is begun where there is none, and goes on where an earlier call
/// was interrupted, or more has come since.
///
/// # Errors
/// [`ErrorKind::OtherSource`] where another history is there; where rows cannot be read, or files not be written.
pub async fn unload(archive: &Archive, store: &Store, limits: EncoderLimits) -> Result<Unloaded> {
    let rows = archive.rows()?;
    rows.check_all_whole()?;
    let history = open(archive.manifest(), store).await?;
    let mut from = match history.state().last_seq() {
        None => 0,
        Some(last) => continued(archive.manifest(), &log::read(store, last).await?.commit)?,
    };
    let mut writer = history.into_writer();
    let commits: Vec<Commit> =
        rows.commits(from, None).await?.into_iter().map(|stored| stored.commit).collect();
    let numbers = Arc::new(FileNumbers::new(writer.next_seq()));
    let (encoder, _) = Encoder::start(store.clone(), Arc::clone(&numbers), limits, Handle::current())?;
    let mut done = Unloaded::default();
    let mut rest = commits.as_slice();
    for count in group_sizes(&commits) {
        let (group, after) = rest.split_at_checked(count).unwrap_or((rest, &[]));
        rest = after;
        let mut work = Work { rows, encoder: &encoder, facts: 0 };
        for (table, range) in ranges(group) {
            if table == TRANSACTIONS {
                work.transactions(range).await?;
            } else {
                work.table(&archive.table(table)?, range).await?;
            }
        }
        let wanted: u64 = facts_of(group).map(|add| add.rows).sum();
        if work.facts != wanted {
            let detail =
                format!("commits from {from} on have {wanted} facts, and {} of them are there", work.facts);
            return Err(Error::new(ErrorKind::Damaged, "the fact tables are damaged", detail));
        }
        let files = encoder.finish(Some(writer.next_seq() + 1))?.await;
        let files = files.map_err(|_| Error::new(ErrorKind::Latched, "the encoder has stopped", ""))??;
        let Some(body) = body(archive.manifest(), group, &files) else { break };
        let appended = writer.append(body).await?;
        tracing::debug!(seq = appended.seq(), facts = work.facts, "a commit made from rows");
        from += count as u64;
        done.commits += count as u64;
        done.facts += work.facts;
    }
    writer.remove_orphans().await?;
    Ok(done)
}

/// The history of files that is to be filled.
async fn open(manifest: &Manifest, store: &Store) -> Result<History> {
    match read_manifest(store).await {
        Ok(theirs) if theirs.extra.get(BACKFILLED) == Some(&json!(manifest.id)) => {}
        Ok(theirs) => {
            let detail = format!(
                "{} holds history {}, which was not made from these tables; give --history another place",
                store.describe(),
                theirs.id
            );
            return Err(Error::new(ErrorKind::OtherSource, "there is another history already", detail));
        }
        Err(error) if error.kind() == ErrorKind::NoHistory => {
            store.check_writable().await?;
            let mut new = Manifest::new(&manifest.name, manifest.source.clone());
            new.slot.clone_from(&manifest.slot);
            new.publications.clone_from(&manifest.publications);
            new.extra.insert(BACKFILLED.to_owned(), json!(manifest.id));
            if store.put_new(MANIFEST, Bytes::from(new.to_bytes()?)).await? == PutOutcome::AlreadyExists {
                let detail = format!("{}: somebody else began one in this moment", store.describe());
                return Err(Error::new(ErrorKind::Fenced, "there is another history already", detail));
            }
        }
        Err(error) => return Err(error),
    }
    let identity = Identity {
        name: manifest.name.clone(),
        source: manifest.source.clone(),
        slot: manifest.slot.clone().unwrap_or_default(),
        publications: manifest.publications.clone(),
    };
    History::open_or_create(store, &identity).await
}

/// The number of the commit after those that were written before.
fn continued(manifest: &Manifest, last: &Commit) -> Result<u64> {
    let told = last.body.extra.get(BACKFILLED);
    let seq = told.and_then(|told| told.get("seq")).and_then(serde_json::Value::as_u64);
    seq.map(|seq| seq + 1).ok_or_else(|| {
        let detail = format!(
            "commit {} was not made from history {}: it has gone on by itself",
            last.seq, manifest.id
        );
        Error::new(ErrorKind::OtherSource, "the history has commits of its own", detail)
    })
}

/// What commits added that readers of facts see: what replaced something is the same facts once more.
fn facts_of(commits: &[Commit]) -> impl Iterator<Item = &Add> {
    added(commits).filter(|add| add.table != TRANSACTIONS)
}

fn added(commits: &[Commit]) -> impl Iterator<Item = &Add> {
    commits.iter().filter(|commit| !commit.body.is_aside()).flat_map(|commit| &commit.body.add)
}

/// The positions that a table's facts in some commits lie between.
fn ranges(commits: &[Commit]) -> BTreeMap<&str, [Lsn; 2]> {
    let mut ranges: BTreeMap<&str, [Lsn; 2]> = BTreeMap::new();
    for add in added(commits) {
        let range = ranges.entry(&add.table).or_insert(add.lsn);
        *range = [range[0].min(add.lsn[0]), range[1].max(add.lsn[1])];
    }
    ranges
}

/// How many commits each have to be written together. Facts are told apart by their positions: commits whose facts of one
/// table have positions in common are one.
fn group_sizes(commits: &[Commit]) -> Vec<usize> {
    let mut joined = vec![false; commits.len()];
    let mut last: HashMap<&str, (Lsn, usize)> = HashMap::new();
    for (at, commit) in commits.iter().enumerate() {
        for (table, [from, to]) in ranges(std::slice::from_ref(commit)) {
            let known = last.entry(table).or_insert((to, at));
            if known.1 < at && from <= known.0 {
                let both: Range<usize> = known.1 + 1..at + 1;
                joined.get_mut(both).into_iter().flatten().for_each(|joined| *joined = true);
            }
            if to >= known.0 {
                *known = (to, at);
            }
        }
    }
    let mut sizes: Vec<usize> = Vec::new();
    for joined in joined {
        match sizes.last_mut() {
            Some(size) if joined => *size += 1,
            _ => sizes.push(1),
        }
    }
    sizes
}

/// What some commits say together, with files of one's own.
fn body(manifest: &Manifest, commits: &[Commit], files: &[WrittenFile]) -> Option<CommitBody> {
    let (first, last) = (commits.first()?, commits.last()?);
    let mut body = last.body.clone();
    body.wal.from = first.body.wal.from;
    let all = || commits.iter().map(|commit| &commit.body);
    body.publication = all().filter_map(|body| body.publication.clone()).next_back();
    body.schemas = all().flat_map(|body| body.schemas.clone()).collect();
    body.events = all().flat_map(|body| body.events.clone()).collect();
    body.add = files.iter().map(WrittenFile::added).collect();
    body.remove = Vec::new();
    let from = json!({"history": manifest.id, "seq": last.seq, "at": last.at.to_string()});
    body.extra.insert(BACKFILLED.to_owned(), from);
    Some(body)
}

struct Work<'a> {
    rows: &'a Rows,
    encoder: &'a Encoder,
    facts: u64,
}

impl Work<'_> {
    /// Writes the facts of a table that lie in a range of positions.
    async fn table(&mut self, table: &TableHistory, range: [Lsn; 2]) -> Result<()> {
        let mut batches: HashMap<(i32, u32), Batch<'_>> = HashMap::new();
        let (encoder, facts) = (self.encoder, &mut self.facts);
        let mut failure = Ok(());
        self.rows
            .facts_within(table, range, &mut |leaf, fact| {
                let schema = fact.schema;
                let batch = batches.entry((schema.version, leaf)).or_insert_with(|| Batch {
                    encoder,
                    rows: FactBatch::new(Arc::clone(schema)),
                    leaf,
                });
                failure = batch.take(fact);
                *facts += 1;
                if failure.is_ok() { Flow::Continue(()) } else { Flow::Break(()) }
            })
            .await?;
        failure?;
        batches.into_values().try_for_each(|mut batch| batch.flush())
    }

    /// Writes the transactions that end in a range of positions.
    async fn transactions(&self, range: [Lsn; 2]) -> Result<()> {
        let mut batch = TransactionBatch::default();
        let mut failure = Ok(());
        let encoder = self.encoder;
        let flush = |batch: &mut TransactionBatch| match batch.take().map_err(|error| bug(&error))? {
            Some((rows, span)) => encoder.write_transactions(rows, span),
            None => Ok(()),
        };
        self.rows
            .transactions_within(range, &mut |transaction| {
                let origin = Origin {
                    lsn: transaction.lsn,
                    xid: transaction.xid,
                    committed_at: transaction.committed_at.0,
                    valid_from: transaction.valid_from.0,
                };
                let context = Context { actor: transaction.actor, json: transaction.context };
                let context = (context != Context::default()).then_some(context);
                let counts = transaction.tables.iter().map(|(table, count)| (table.as_str(), *count));
                let taken = if batch.is_full(&origin) { flush(&mut batch) } else { Ok(()) };
                failure = taken.and_then(|()| {
                    batch
                        .append(&origin, context.as_ref(), transaction.origin.as_deref(), counts)
                        .map_err(|error| bug(&error))
                });
                if failure.is_ok() { Flow::Continue(()) } else { Flow::Break(()) }
            })
            .await?;
        failure?;
        flush(&mut batch)
    }
}

/// Facts of one schema version and one leaf, gathered day by day.
struct Batch<'a> {
    encoder: &'a Encoder,
    rows: FactBatch,
    leaf: u32,
}

impl Batch<'_> {
    fn take(&mut self, fact: &Fact<'_>) -> Result<()> {
        let Head { valid_from, .. } = fact.head;
        let day = self.rows.first_valid_from().map(|first| first.div_euclid(DAY_US));
        if self.rows.is_full() || day.is_some_and(|day| day != valid_from.0.div_euclid(DAY_US)) {
            self.flush()?;
        }
        let senseless = || {
            let detail = format!("version {} of {:?}", fact.head.version, fact.head.entity_id);
            Error::new(ErrorKind::Damaged, "a fact makes no sense", detail)
        };
        let origin = Origin {
            lsn: fact.head.lsn,
            xid: fact.head.xid,
            committed_at: committed_at(&fact.head.id).ok_or_else(senseless)?,
            valid_from: valid_from.0,
        };
        let changed = positions(fact.schema, fact.head.changed.as_deref()).ok_or_else(senseless)?;
        let context = Context { actor: fact.head.actor.clone(), json: fact.head.context.clone() };
        let head = FactHead {
            entity_id: &fact.head.entity_id,
            version: fact.head.version,
            op: Op::parse(&fact.head.op).ok_or_else(senseless)?,
            tombstone: fact.head.tombstone,
            seq: u32::try_from(fact.head.seq).map_err(|_| senseless())?,
            changed: changed.as_deref(),
            context: Some(&context),
        };
        self.rows.append(&origin, &head, fact.row).map_err(|_| senseless())
    }

    fn flush(&mut self) -> Result<()> {
        self.encoder.write(&mut self.rows, self.leaf)
    }
}

/// Where in a schema the columns stand that a fact names; none where one is not there.
#[expect(
    clippy::option_option,
    reason = "version 1 names none, which is not the same as naming a column that is not there"
)]
fn positions(schema: &TableSchema, changed: Option<&[String]>) -> Option<Option<Vec<u16>>> {
    let Some(changed) = changed else { return Some(None) };
    let position = |name: &String| {
        let at = schema.columns.iter().position(|column| column.physical == *name)?;
        u16::try_from(at).ok()
    };
    changed.iter().map(position).collect::<Option<Vec<u16>>>().map(Some)
}

/// The commit time that the id of a fact holds, to the millisecond.
fn committed_at(id: &str) -> Option<i64> {
    let ms = u128::from_be_bytes(parse_fact_id(id)?) >> 80;
    i64::try_from(ms).ok()?.checked_mul(1_000)
}

fn bug(error: &arrow::error::ArrowError) -> Error {
    Error::new(ErrorKind::Io, "transactions cannot be gathered", error.to_string())
}
