//! Facts on their way into a target, as text.

use std::fmt::Write as _;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use bygone_replication::Lsn;
use bygone_replication::table::quote_identifier;
use bytes::Bytes;
use futures_util::SinkExt as _;
use tokio::runtime::Handle;
use tokio_postgres::Client;

use crate::error::{Error, ErrorKind, Result};
use crate::log::{Add, LiveFile};
use crate::read::{self, Archive, Columns, Fact, FactFilter, Flow, TableHistory};
use crate::schema::SYSTEM_COLUMNS;
use crate::value::{Row, RowError, Status, render};

use super::{LEAF_COLUMN, told, within};

/// Bytes that are sent at a time, and how many such pieces wait.
const PIECE: usize = 256 << 10;
const WAITING: usize = 8;

/// Copies the facts of one commit out of a file that holds them, and perhaps others.
pub(super) async fn facts(
    client: &Client,
    archive: &Archive,
    schema: &str,
    base: &str,
    mut table: TableHistory,
    file: &LiveFile,
    add: &Add,
) -> Result<()> {
    // A file holds facts of one schema version.
    let Some(version) = table.version(add.schema).cloned() else {
        let detail = format!("{}: the log has no schema {}", add.path, add.schema);
        return Err(Error::new(ErrorKind::Damaged, "the log is damaged", detail));
    };
    table.files = vec![file.clone()];
    let leaf = (add.leaf() != 0).then(|| i64::from(add.leaf()));
    // Values that files keep as text beside their column stand in the column itself here.
    let columns: Vec<String> = SYSTEM_COLUMNS
        .iter()
        .filter(|name| **name != "_raw")
        .map(|name| (*name).to_owned())
        .chain(version.columns.iter().map(|column| column.physical.clone()))
        .chain(leaf.map(|_| LEAF_COLUMN.to_owned()))
        .map(|name| quote_identifier(&name))
        .collect();
    let statement = format!(
        "copy {}.{} ({}) from stdin",
        quote_identifier(schema),
        quote_identifier(&format!("{base}_history")),
        columns.join(", ")
    );
    let (pieces, waiting) = sync_channel(WAITING);
    let (store, range, of_schema) = (archive.store()?.clone(), add.lsn, add.schema);
    let runtime = Handle::current();
    // Decoding keeps a thread busy, and has to wait for the target.
    let reading = tokio::task::spawn_blocking(move || {
        runtime.block_on(async move {
            let mut out = Lines { text: String::new(), pieces };
            let mut failure = Ok(());
            read::facts(&store, &table, &FactFilter::default(), &Columns::All, &mut |fact| {
                if fact.schema.version != of_schema || !within(fact.head.lsn, range) {
                    return Flow::Continue(());
                }
                failure = line(fact, leaf, &mut out);
                if failure.is_ok() && out.flush(false) { Flow::Continue(()) } else { Flow::Break(()) }
            })
            .await?;
            failure.map_err(|_| crate::fact_file::damaged("a fact file", "a row makes no sense"))?;
            out.flush(true);
            Ok::<_, Error>(())
        })
    });
    // Where the reading fails, what was sent goes with the transaction.
    let sent = send(client, &statement, waiting).await;
    reading.await.map_err(ended)??;
    sent
}

/// Copies the transactions of one commit.
pub(super) async fn transactions(
    client: &Client,
    archive: &Archive,
    schema: &str,
    file: &LiveFile,
    range: [Lsn; 2],
) -> Result<()> {
    let statement = format!(
        "copy {}.transactions (xid, lsn, committed_at, valid_from, actor, context, origin, tables) from stdin",
        quote_identifier(schema)
    );
    let (pieces, waiting) = sync_channel(WAITING);
    let (archive, path) = (archive.clone(), file.add.path.clone());
    let runtime = Handle::current();
    let reading = tokio::task::spawn_blocking(move || {
        runtime.block_on(async move {
            let mut out = Lines { text: String::new(), pieces };
            archive
                .transactions_of(&path, &mut |transaction| {
                    if !within(transaction.lsn, range) {
                        return Flow::Continue(());
                    }
                    let counts: serde_json::Map<String, serde_json::Value> = transaction
                        .tables
                        .iter()
                        .map(|(table, count)| (table.clone(), (*count).into()))
                        .collect();
                    out.number(transaction.xid);
                    out.plain(&transaction.lsn.to_string());
                    out.plain(&transaction.committed_at.to_string());
                    out.plain(&transaction.valid_from.to_string());
                    out.optional(transaction.actor.as_deref());
                    out.optional(transaction.context.as_deref().map(without_nul).as_deref());
                    out.optional(transaction.origin.as_deref());
                    out.field(&serde_json::Value::Object(counts).to_string());
                    out.end();
                    if out.flush(false) { Flow::Continue(()) } else { Flow::Break(()) }
                })
                .await?;
            out.flush(true);
            Ok::<_, Error>(())
        })
    });
    // Where the reading fails, what was sent goes with the transaction.
    let sent = send(client, &statement, waiting).await;
    reading.await.map_err(ended)??;
    sent
}

async fn send(client: &Client, statement: &str, mut pieces: Receiver<Bytes>) -> Result<()> {
    let doing = "copying facts";
    let sink = client.copy_in::<_, Bytes>(statement).await.map_err(|error| told(doing, &error))?;
    let mut sink = std::pin::pin!(sink);
    loop {
        let waited = tokio::task::spawn_blocking(move || {
            let piece = pieces.recv();
            (pieces, piece)
        });
        let (back, piece) = waited.await.map_err(ended)?;
        pieces = back;
        // The reader has ended, well or not.
        let Ok(piece) = piece else { break };
        sink.send(piece).await.map_err(|error| told(doing, &error))?;
    }
    sink.finish().await.map_err(|error| told(doing, &error)).map(drop)
}

fn ended(error: tokio::task::JoinError) -> Error {
    Error::new(ErrorKind::Io, "a task was ended", "reading facts").with_source(error)
}

fn line(fact: &Fact<'_>, leaf: Option<i64>, out: &mut Lines) -> Result<(), RowError> {
    let head = fact.head;
    out.plain(&head.id);
    out.field(&head.entity_id);
    out.number(head.version);
    out.plain(&head.op);
    out.plain(&head.valid_from.to_string());
    out.optional(head.tombstone.then(|| head.valid_from.to_string()).as_deref());
    out.plain(&head.lsn.to_string());
    out.number(head.seq);
    out.number(head.xid);
    out.names(head.changed.as_deref());
    out.optional(head.actor.as_deref());
    out.optional(head.context.as_deref().map(without_nul).as_deref());
    let fields: Vec<_> = Row::new(fact.row, fact.schema.kinds()).fields().collect::<Result<_, _>>()?;
    let unknown: Vec<String> = fields
        .iter()
        .zip(&fact.schema.columns)
        .filter(|(field, _)| field.status == Status::Unknown)
        .map(|(_, column)| column.physical.clone())
        .collect();
    out.names((!unknown.is_empty()).then_some(unknown.as_slice()));
    out.number(i64::from(fact.schema.version));
    let mut text = String::new();
    for (field, column) in fields.iter().zip(&fact.schema.columns) {
        match field.status {
            Status::Null | Status::Unknown => out.optional(None),
            Status::Value | Status::Raw => {
                text.clear();
                render(&column.kind, *field, &mut text)?;
                out.field(&text);
            }
        }
    }
    if let Some(leaf) = leaf {
        out.number(leaf);
    }
    out.end();
    Ok(())
}

/// JSON that `jsonb` takes: it knows no NUL character.
fn without_nul(json: &str) -> String {
    json.replace("\\u0000", "\\ufffd")
}

/// Lines of COPY's text format.
struct Lines {
    text: String,
    pieces: SyncSender<Bytes>,
}

impl Lines {
    /// Text without special characters.
    fn plain(&mut self, text: &str) {
        self.text.push_str(text);
        self.text.push('\t');
    }

    fn number(&mut self, number: i64) {
        // Writing to a String does not fail.
        let _ = write!(self.text, "{number}\t");
    }

    fn field(&mut self, text: &str) {
        for c in text.chars() {
            match c {
                '\\' => self.text.push_str("\\\\"),
                '\t' => self.text.push_str("\\t"),
                '\n' => self.text.push_str("\\n"),
                '\r' => self.text.push_str("\\r"),
                c => self.text.push(c),
            }
        }
        self.text.push('\t');
    }

    fn optional(&mut self, text: Option<&str>) {
        match text {
            Some(text) => self.field(text),
            None => self.plain("\\N"),
        }
    }

    /// An array of names.
    fn names(&mut self, names: Option<&[String]>) {
        let text = names.map(|names| {
            let quoted: Vec<String> = names
                .iter()
                .map(|name| format!("\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\"")))
                .collect();
            format!("{{{}}}", quoted.join(","))
        });
        self.optional(text.as_deref());
    }

    fn end(&mut self) {
        self.text.pop();
        self.text.push('\n');
    }

    /// Sends what has been gathered, once that is worth it. False where nobody takes it any more.
    fn flush(&mut self, all: bool) -> bool {
        if self.text.is_empty() || (!all && self.text.len() < PIECE) {
            return true;
        }
        // A thread of its own, which may wait.
        self.pieces.send(Bytes::from(std::mem::take(&mut self.text))).is_ok()
    }
}
