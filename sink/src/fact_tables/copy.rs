//! Facts on their way into a target.
//!
//! A transaction of the target has one session, which takes one COPY at a time. Meanwhile the next files are read and their tuples made.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::mpsc::{Receiver as Pieces, sync_channel};

use bygone_replication::Lsn;
use bygone_replication::table::quote_identifier;
use bytes::Bytes;
use futures_util::SinkExt as _;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, CopyInSink};

use super::binary::{Form, Receiver};
use super::placed::Placed;
use super::tuples::{Format, Piece, Tuples, Unfit};
use super::{LEAF_COLUMN, told};
use crate::error::{Error, ErrorKind, Result};
use crate::log::LiveFile;
use crate::log::path::TRANSACTIONS;
use crate::read::{self, Columns, Fact, FactFilter, Flow, TableHistory, Transaction};
use crate::schema::{SYSTEM_COLUMNS, TableSchema};
use crate::store::Store;
use crate::value::{Row, Status};

/// Pieces of a file that wait to be sent.
const WAITING: usize = 8;
/// Files that are read before it is their turn: each takes so many pieces, and what Parquet's decoder holds.
const AHEAD: usize = 2;

const TRANSACTION_COLUMNS: [&str; 8] =
    ["xid", "lsn", "committed_at", "valid_from", "actor", "context", "origin", "tables"];

/// Rows of files that are to be copied into a table of the target.
#[derive(Debug)]
pub(super) struct Work {
    /// Its name in the log.
    captured: String,
    /// The table with the columns, as COPY takes them.
    into: String,
    format: Format,
    source: Source,
    range: [Lsn; 2],
    count: u64,
}

#[derive(Debug)]
enum Source {
    Facts(Box<Facts>),
    Transactions(Vec<LiveFile>),
}

#[derive(Debug)]
struct Facts {
    table: TableHistory,
    schema: i32,
    leaf: Option<i64>,
    /// The files hold facts of other commits, too.
    is_merged: bool,
    /// Ids of facts of earlier commits, which the target has.
    there: HashSet<String>,
    /// Of each of the user's columns; none in the text format.
    forms: Vec<Form>,
}

impl Work {
    /// Facts of one commit, in files that hold them and perhaps others. `receivers` are the target's, by column.
    pub(super) fn facts(
        history: &str,
        mut table: TableHistory,
        facts: Placed<'_>,
        there: HashSet<String>,
        receivers: &HashMap<String, Receiver>,
    ) -> Result<Self> {
        let Placed { of: add, files, range, count, is_merged } = facts;
        // A file holds facts of one schema version.
        let Some(version) = table.version(add.schema).cloned() else {
            let detail = format!("{}: the log has no schema {}", add.path, add.schema);
            return Err(Error::new(ErrorKind::Damaged, "the log is damaged", detail));
        };
        table.files = files;
        let leaf = (add.leaf() != 0).then(|| i64::from(add.leaf()));
        // Values that files keep as text beside their column stand in the column itself here.
        let system = SYSTEM_COLUMNS.iter().copied().filter(|name| *name != "_raw");
        let user = version.columns.iter().map(|column| column.physical.as_str());
        let columns = system.chain(user).chain(leaf.map(|_| LEAF_COLUMN));
        let forms = forms(&version, receivers);
        Ok(Self {
            captured: add.table.clone(),
            into: into(history, columns),
            format: if forms.is_some() { Format::Binary } else { Format::Text },
            source: Source::Facts(Box::new(Facts {
                table,
                schema: add.schema,
                leaf,
                is_merged,
                there,
                forms: forms.unwrap_or_default(),
            })),
            range,
            count,
        })
    }

    /// Transactions of one commit.
    pub(super) fn transactions(table: &str, facts: Placed<'_>) -> Self {
        let Placed { files, range, count, .. } = facts;
        let into = into(table, TRANSACTION_COLUMNS.into_iter());
        let captured = TRANSACTIONS.to_owned();
        let source = Source::Transactions(files);
        Self { captured, into, format: Format::Binary, source, range, count }
    }

    /// Begins to read. Decoding keeps a thread busy, and has to wait for the target.
    fn begin(self, store: &Store) -> UnderWay {
        let (pieces, waiting) = sync_channel(WAITING);
        let (runtime, store) = (Handle::current(), store.clone());
        let Self { captured, into, format, source, range, count } = self;
        let mut wanted = Wanted { range, left: count };
        let reading = tokio::task::spawn_blocking(move || {
            let mut out = Tuples::new(format, pieces);
            runtime.block_on(async {
                match source {
                    Source::Facts(facts) => facts.read(&store, &mut wanted, &mut out).await,
                    Source::Transactions(files) => transactions(&store, &files, &mut wanted, &mut out).await,
                }
            })?;
            out.finish();
            Ok(())
        });
        UnderWay { captured, into, waiting, reading }
    }
}

/// Which rows of the files are wanted.
struct Wanted {
    range: [Lsn; 2],
    /// How many were not found yet. What comes behind them is of later commits.
    left: u64,
}

impl Wanted {
    /// Counts a row that is at a position, if it is wanted.
    fn takes(&mut self, lsn: Lsn) -> bool {
        let [from, to] = self.range;
        let takes = self.left > 0 && from <= lsn && lsn <= to;
        self.left -= u64::from(takes);
        takes
    }

    /// Refuses where not all were found.
    fn check_found(&self, files: &[LiveFile]) -> Result<()> {
        if self.left == 0 {
            return Ok(());
        }
        let file = files.first().map_or("", |file| file.add.path.as_str());
        Err(crate::fact_file::damaged(file, &format!("{} facts that the log says are not there", self.left)))
    }
}

/// The forms of all columns of a table; none where one has none, for a COPY has one format.
fn forms(schema: &TableSchema, receivers: &HashMap<String, Receiver>) -> Option<Vec<Form>> {
    let form =
        |column: &crate::schema::SchemaColumn| Form::of(&column.kind, receivers.get(&column.physical)?);
    schema.columns.iter().map(form).collect()
}

fn into<'a>(table: &str, columns: impl Iterator<Item = &'a str>) -> String {
    format!("{table} ({})", columns.map(quote_identifier).collect::<Vec<_>>().join(", "))
}

/// A file that is read.
struct UnderWay {
    captured: String,
    into: String,
    waiting: Pieces<Piece>,
    reading: JoinHandle<Result<()>>,
}

/// What went wrong, with facts of which table.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) table: String,
    pub(super) error: Error,
}

/// Copies all of these, in their order.
pub(super) async fn all(client: &Client, store: &Store, works: Vec<Work>) -> Result<(), Failed> {
    let mut works = works.into_iter();
    let mut under_way: VecDeque<UnderWay> =
        works.by_ref().take(AHEAD).map(|work| work.begin(store)).collect();
    loop {
        under_way.extend(works.next().map(|work| work.begin(store)));
        let Some(UnderWay { captured, into, waiting, reading }) = under_way.pop_front() else {
            return Ok(());
        };
        // Where the reading fails, what was sent goes with the transaction.
        let sent = send(client, &into, waiting).await;
        let read = reading.await.map_err(ended).flatten();
        read.and(sent).map_err(|error| Failed { table: captured, error })?;
    }
}

async fn send(client: &Client, into: &str, mut pieces: Pieces<Piece>) -> Result<()> {
    let mut copying: Option<(Format, std::pin::Pin<Box<CopyInSink<Bytes>>>)> = None;
    loop {
        let waited = tokio::task::spawn_blocking(move || {
            let piece = pieces.recv();
            (pieces, piece)
        });
        let (back, piece) = waited.await.map_err(ended)?;
        pieces = back;
        // The reader has ended, well or not.
        let Ok(Piece { format, bytes }) = piece else { break };
        let mut sink = match copying.take() {
            Some((same, sink)) if same == format => sink,
            other => {
                finish(other.map(|(_, sink)| sink)).await?;
                tracing::trace!(%into, ?format, "copying");
                let options = if format == Format::Binary { " (format binary)" } else { "" };
                let statement = format!("copy {into} from stdin{options}");
                Box::pin(client.copy_in(&statement).await.map_err(refused)?)
            }
        };
        sink.send(bytes).await.map_err(refused)?;
        copying = Some((format, sink));
    }
    finish(copying.map(|(_, sink)| sink)).await
}

async fn finish(sink: Option<std::pin::Pin<Box<CopyInSink<Bytes>>>>) -> Result<()> {
    let Some(mut sink) = sink else { return Ok(()) };
    sink.as_mut().finish().await.map(drop).map_err(refused)
}

/// What the target says, and all that it says: it may be about a value.
fn refused(error: tokio_postgres::Error) -> Error {
    told("copying facts", &error).with_source(error)
}

fn ended(error: tokio::task::JoinError) -> Error {
    Error::new(ErrorKind::Io, "a task was ended", "reading facts").with_source(error)
}

impl Facts {
    async fn read(&self, store: &Store, wanted: &mut Wanted, out: &mut Tuples) -> Result<()> {
        let mut failure = Ok(());
        let mut taken = true;
        let filter = FactFilter { within: self.is_merged.then_some(wanted.range), ..FactFilter::default() };
        read::facts(store, &self.table, &filter, &Columns::All, &mut |fact| {
            let is_other = fact.schema.version != self.schema || self.there.contains(&fact.head.id);
            if is_other || !wanted.takes(fact.head.lsn) {
                return Flow::Continue(());
            }
            failure = self.put(fact, out);
            taken = out.flush();
            if failure.is_ok() && taken && wanted.left > 0 { Flow::Continue(()) } else { Flow::Break(()) }
        })
        .await?;
        failure.map_err(|_| crate::fact_file::damaged("a fact file", "a row makes no sense"))?;
        // Where nobody takes them any more, something else has failed.
        if taken { wanted.check_found(&self.table.files) } else { Ok(()) }
    }

    fn put(&self, fact: &Fact<'_>, out: &mut Tuples) -> Result<(), Unfit> {
        match self.tuple(fact, out) {
            // The rest of the file comes as text: where there is one such value there are more.
            Err(Unfit::NoForm) if out.format() == Format::Binary => {
                out.go_on_as_text();
                self.tuple(fact, out)
            }
            put => put,
        }
    }

    fn tuple(&self, fact: &Fact<'_>, out: &mut Tuples) -> Result<(), Unfit> {
        let Fact { head, schema, .. } = fact;
        let columns = &schema.columns;
        out.begin(SYSTEM_COLUMNS.len() - 1 + columns.len() + usize::from(self.leaf.is_some()))?;
        out.uuid(&head.id)?;
        out.text(Some(&head.entity_id))?;
        out.bigint(head.version)?;
        out.text(Some(&head.op))?;
        out.time(Some(head.valid_from))?;
        out.time(head.tombstone.then_some(head.valid_from))?;
        out.lsn(head.lsn)?;
        out.bigint(head.seq)?;
        out.bigint(head.xid)?;
        out.names(head.changed.as_deref())?;
        out.text(head.actor.as_deref())?;
        out.jsonb(head.context.as_deref())?;
        let fields: Vec<_> = Row::new(fact.row, schema.kinds()).fields().collect::<Result<_, _>>()?;
        let unknown: Vec<String> = fields
            .iter()
            .zip(columns)
            .filter(|(field, _)| field.status == Status::Unknown)
            .map(|(_, column)| column.physical.clone())
            .collect();
        out.names((!unknown.is_empty()).then_some(unknown.as_slice()))?;
        out.integer(schema.version)?;
        for (at, (field, column)) in fields.iter().zip(columns).enumerate() {
            out.value(&column.kind, *field, self.forms.get(at))?;
        }
        if let Some(leaf) = self.leaf {
            out.bigint(leaf)?;
        }
        out.end();
        Ok(())
    }
}

async fn transactions(
    store: &Store,
    files: &[LiveFile],
    wanted: &mut Wanted,
    out: &mut Tuples,
) -> Result<()> {
    let mut taken = true;
    for LiveFile { add, .. } in files {
        let mut failure = Ok(());
        read::transactions_of(store, add, &mut |transaction| {
            if !wanted.takes(transaction.lsn) {
                return Flow::Continue(());
            }
            failure = put_transaction(&transaction, out);
            taken = out.flush();
            if failure.is_ok() && taken && wanted.left > 0 { Flow::Continue(()) } else { Flow::Break(()) }
        })
        .await?;
        failure.map_err(|_| crate::fact_file::damaged(&add.path, "a transaction makes no sense"))?;
    }
    if taken { wanted.check_found(files) } else { Ok(()) }
}

fn put_transaction(transaction: &Transaction, out: &mut Tuples) -> Result<(), Unfit> {
    let counts = transaction.tables.iter().map(|(table, count)| (table.clone(), (*count).into()));
    let counts: serde_json::Map<String, serde_json::Value> = counts.collect();
    out.begin(TRANSACTION_COLUMNS.len())?;
    out.bigint(transaction.xid)?;
    out.lsn(transaction.lsn)?;
    out.time(Some(transaction.committed_at))?;
    out.time(Some(transaction.valid_from))?;
    out.text(transaction.actor.as_deref())?;
    out.jsonb(transaction.context.as_deref())?;
    out.text(transaction.origin.as_deref())?;
    out.text(Some(&serde_json::Value::Object(counts).to_string()))?;
    out.end();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn as_many_rows_of_a_range_are_taken_as_the_commit_has() {
        let mut wanted = Wanted { range: [Lsn(5), Lsn(7)], left: 3 };
        // The last two are of a comparison in the next commit.
        let taken = [3, 5, 6, 8, 7, 7, 7].map(|lsn| wanted.takes(Lsn(lsn)));
        assert_eq!(taken, [false, true, true, false, true, false, false]);
        assert!(wanted.check_found(&[]).is_ok());
        let lacking = Wanted { range: [Lsn(5), Lsn(7)], left: 1 };
        assert_eq!(lacking.check_found(&[]).unwrap_err().kind(), ErrorKind::Damaged);
    }
}
