//! Watches the catalog: what an application does to its tables is not all in the stream [5, 8, 21 to 27].
//!
//! A task of its own asks every few seconds whether anything changed, and when something did, reads the tables and
//! publications anew, sees to it that each table is published where its identity allows [9], and hands over what it saw,
//! with a position at which all of that had happened.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bygone_replication::catalog::{self, ErrorKind as CatalogErrorKind, watch};
use bygone_replication::conninfo::ConnectOptions;
use bygone_replication::pattern::Patterns;
use bygone_replication::preflight::StartRefused;
use bygone_replication::publication::{self, Change, Difference, PublicationState};
use bygone_replication::table::{Table, TableKind};
use bygone_replication::{Lsn, session};
use bygone_sink::schema::TableSchema;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use super::wal_held::WalHeld;
use crate::error::{Error, Result};

/// Looks after which a table is tried again that could not be published. The server logs each refusal, too.
const PUBLISHED_AGAIN: u32 = 6;

/// The catalog as it was seen at one moment.
#[derive(Clone, Debug)]
pub(super) struct Look {
    /// Which one it is, from 1.
    pub(super) number: u64,
    /// Nothing of what is new had happened when the WAL ended here; none before the first look.
    pub(super) since: Option<Lsn>,
    /// Everything that was seen had happened when the WAL ended here.
    pub(super) at: Lsn,
    /// The server's clock, microseconds since the Unix epoch.
    pub(super) clock: i64,
    /// Tables that match the patterns and can be captured, and the captured ones that are still there; with leaves.
    pub(super) tables: Vec<Table>,
    /// Oids among them that match the patterns.
    pub(super) wanted: HashSet<u32>,
    /// Oids of captured tables of which a partition is not published.
    pub(super) hidden: HashSet<u32>,
    pub(super) publications: PublicationState,
    /// Labels of enums by the type's oid.
    pub(super) enums: Vec<(u32, Vec<String>)>,
}

/// Tables with what hangs together with each.
#[derive(Debug)]
pub(super) struct Families<'a> {
    by_oid: HashMap<u32, &'a Table>,
    leaves: HashMap<u32, Vec<&'a Table>>,
}

impl<'a> Families<'a> {
    pub(super) fn of(tables: &'a [Table]) -> Self {
        let mut leaves: HashMap<u32, Vec<&Table>> = HashMap::new();
        for table in tables {
            if let TableKind::Leaf { root } = table.kind {
                leaves.entry(root).or_default().push(table);
            }
        }
        Self { by_oid: tables.iter().map(|table| (table.oid, table)).collect(), leaves }
    }

    pub(super) fn get(&self, oid: u32) -> Option<&'a Table> {
        self.by_oid.get(&oid).copied()
    }

    /// A table with its leaves.
    pub(super) fn family(&self, table: &'a Table) -> Vec<Table> {
        let leaves = self.leaves.get(&table.oid).into_iter().flatten();
        std::iter::once(&table).chain(leaves).map(|table| (*table).clone()).collect()
    }
}

/// What the watcher and the thread that follows the stream share.
#[derive(Debug)]
pub(super) struct Shared {
    /// Oids of captured tables and leaves.
    pub(super) captured: Mutex<HashSet<u32>>,
    /// The publications as they were when they were last looked at, and nothing spoke against it: the log says the same, or
    /// will once the stream has come that far.
    pub(super) recorded: Mutex<PublicationState>,
    /// Oids of captured tables, with their leaves, that are to be captured no longer: the patterns select neither the name that they have
    /// nor the one that they had when they were attached. Those that were renamed out of the patterns are not among them.
    pub(super) left_out: HashSet<u32>,
    /// Somebody wants to know now.
    pub(super) now: Notify,
    held: Mutex<Held>,
    /// The next look is taken though nothing has changed.
    anew: AtomicBool,
}

/// How far what looks at the catalog showed is known to have held, in positions of the source; zero where that is not known.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    /// Looks that were handed over.
    looks: u64,
    /// What the last of them shows held up to here.
    last: Lsn,
    /// What the one before it shows held up to here.
    before: Lsn,
}

impl Shared {
    pub(super) fn new(
        captured: HashSet<u32>,
        left_out: HashSet<u32>,
        recorded: PublicationState,
    ) -> Arc<Self> {
        Arc::new(Self {
            captured: Mutex::new(captured),
            left_out,
            recorded: Mutex::new(recorded),
            now: Notify::new(),
            held: Mutex::default(),
            anew: AtomicBool::new(false),
        })
    }

    /// Up to where the catalog is known to have been as the look of this number shows it, in positions of the source. Before the first
    /// one: as the log has it.
    pub(super) fn held(&self, look: u64) -> Option<Lsn> {
        let held = *self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let until = match held.looks.checked_sub(look)? {
            0 => held.last,
            1 => held.before,
            // Whoever took that look has not come to those since.
            _ => Lsn::ZERO,
        };
        Some(until).filter(|until| *until > Lsn::ZERO)
    }

    /// Where the source was when it was looked at last.
    pub(super) fn latest(&self) -> Lsn {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).last
    }

    /// What is known of the catalog held up to here.
    pub(super) fn set_held(&self, until: Lsn) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        *held = Held { last: until, before: until, ..*held };
    }

    /// There was a look at this position, and something to hand over or nothing that is new. Gives the number of the look.
    fn looked(&self, here: Lsn, is_new: bool) -> u64 {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if is_new {
            *held = Held { looks: held.looks + 1, last: held.last, before: held.last };
        }
        held.last = here;
        held.looks
    }

    /// Something was told that no change of the catalog may stand behind.
    pub(super) fn look_anew(&self) {
        self.anew.store(true, Ordering::Relaxed);
    }

    pub(super) fn recorded(&self) -> PublicationState {
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn record(&self, publications: &PublicationState) {
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner).clone_from(publications);
    }

    fn captured(&self) -> HashSet<u32> {
        self.captured.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Oids of captured tables and leaves, without those that are to be captured no longer.
    pub(super) fn kept(&self) -> HashSet<u32> {
        let mut captured = self.captured();
        captured.retain(|oid| !self.left_out.contains(oid));
        captured
    }

    pub(super) fn capture(&self, oids: HashSet<u32>) {
        *self.captured.lock().unwrap_or_else(PoisonError::into_inner) = oids;
    }
}

/// What a watcher sees.
#[derive(Debug)]
pub(super) struct Looks {
    taken: Receiver<Result<Look>>,
    task: JoinHandle<()>,
}

impl Looks {
    /// The next look, where there was one.
    pub(super) fn take(&self) -> Option<Result<Look>> {
        self.taken.try_recv().ok()
    }

    /// Comes back when the watcher does nothing any more.
    pub(super) async fn stop(self) {
        self.task.abort();
        // It was told to.
        let _ = self.task.await;
    }
}

/// Looks at the catalog.
#[derive(Debug)]
pub(super) struct Watcher {
    pub(super) options: ConnectOptions,
    pub(super) patterns: Patterns,
    pub(super) publications: Vec<String>,
    /// The capture's own publications; none where the operator made them.
    pub(super) own: Option<publication::Names>,
    pub(super) shared: Arc<Shared>,
    pub(super) every: Duration,
    pub(super) held: WalHeld,
    /// A connection that is silent for longer is given up: nobody may be at its other end.
    pub(super) patience: Duration,
    /// The run ends by itself, and for that needs a look: it does not wait for one any longer than for the source.
    pub(super) ends: bool,
    /// Nothing had changed here that is not in the last look.
    pub(super) quiet_until: Option<Lsn>,
    /// Tables that were refused for a clash of names: said once.
    pub(super) refused: HashSet<u32>,
    /// Tables that could not be published, and when that is tried again.
    pub(super) unpublished: HashMap<u32, Instant>,
}

impl Watcher {
    /// Looks until nobody takes it any more. An error is the last that is sent, and of the kind that must stop the capture.
    pub(super) fn start(self) -> Looks {
        let (sender, taken) = channel();
        Looks { taken, task: tokio::spawn(self.run(sender)) }
    }

    async fn run(mut self, looks: Sender<Result<Look>>) {
        let mut client: Option<Client> = None;
        let mut last = None;
        let mut failing: Option<Instant> = None;
        loop {
            let turn = tokio::time::timeout(self.patience, self.turn(&mut client, &mut last)).await;
            let turn = turn.unwrap_or_else(|_| Err(Error::other("the source does not answer")));
            failing = turn.is_err().then(|| failing.unwrap_or_else(Instant::now));
            match turn {
                Ok(Some(look)) => {
                    if looks.send(Ok(look)).is_err() {
                        return;
                    }
                }
                Ok(None) => {}
                Err(error @ (Error::Refused(_) | Error::SlotLag { .. })) => {
                    // Whoever follows the stream has ended already if nobody takes it.
                    let _ = looks.send(Err(error));
                    return;
                }
                Err(error) if self.ends && failing.is_some_and(|since| since.elapsed() >= self.patience) => {
                    let said = format!(
                        "{error}; without a look at the catalog nobody knows whether the history is current"
                    );
                    let _ = looks.send(Err(Error::other(said)));
                    return;
                }
                Err(error) => {
                    tracing::warn!(%error, "the catalog could not be looked at: tried again");
                    client = None;
                }
            }
            tokio::select! {
                () = tokio::time::sleep(self.every) => {}
                () = self.shared.now.notified() => {}
            }
        }
    }

    async fn turn(
        &mut self,
        client: &mut Option<Client>,
        last: &mut Option<watch::Mark>,
    ) -> Result<Option<Look>> {
        let sql = match client.take().filter(|client| !client.is_closed()) {
            Some(sql) => sql,
            None => session::connect_sql(&self.options).await?,
        };
        // In this order: what the mark does not show had not happened here.
        let here = watch::position(&sql).await?;
        let mark = watch::mark(&sql).await?;
        // Whatever becomes of the look: what the source keeps for the slot is bounded.
        self.held.look(&sql).await?;
        // No mark shows that a right was given.
        let again = self.shared.anew.swap(false, Ordering::Relaxed)
            || self.unpublished.values().any(|again| *again <= Instant::now());
        let look = if last.as_ref() == Some(&mark) && !again { None } else { Some(self.look(&sql).await?) };
        self.quiet_until = Some(here);
        let number = self.shared.looked(here, look.is_some());
        let look = look.map(|look| Look { number, ..look });
        // What our own statements changed is in the next mark: one more look, which finds nothing.
        *last = Some(mark);
        *client = Some(sql);
        Ok(look)
    }

    /// Reads the catalog, and publishes what is new.
    pub(super) async fn look(&mut self, sql: &Client) -> Result<Look> {
        // Before the tables: one that is dropped in between is then missing in none or in the tables, never in the
        // publications alone.
        let before = publication::inspect(sql, &self.publications).await?;
        let loaded = match catalog::load_tables(sql, &self.patterns).await {
            Ok(loaded) => loaded.tables,
            // All that matched was dropped.
            Err(error) if error.kind() == CatalogErrorKind::Pattern => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        let captured = self.shared.captured();
        let mut tables: Vec<Table> =
            loaded.into_iter().filter(|table| self.is_acceptable(table, &captured)).collect();
        let mut wanted: HashSet<u32> = tables.iter().map(|table| table.oid).collect();
        // Tables that were renamed out of the patterns are captured all the same.
        let others = captured.iter().copied().filter(|oid| !wanted.contains(oid));
        let others: Vec<u32> = others.filter(|oid| !self.shared.left_out.contains(oid)).collect();
        tables.extend(catalog::load_tables_by_oid(sql, &others).await?);
        let differences = publication::compare(&self.shared.recorded(), &before);
        let harm = harmful(&differences, |oid| tables.iter().any(|table| table.oid == oid));
        if !harm.is_empty() {
            return Err(StartRefused::PublicationChanged { differences: harm }.into());
        }
        let (mut altered, mut hidden) = (HashSet::new(), HashSet::new());
        match &self.own {
            Some(names) => {
                let names = names.clone();
                let left;
                (left, altered) = self.publish(sql, &names, &tables, &wanted, &captured, &before).await?;
                let parts =
                    tables.iter().filter(|table| left.contains(&table.oid) && table.root() != table.oid);
                hidden = parts.map(Table::root).collect();
                let is_left = |table: &Table| left.contains(&table.oid) || left.contains(&table.root());
                tables.retain(|table| !is_left(table));
                wanted.retain(|oid| !left.contains(oid));
            }
            None => {
                publication::restrict(&mut tables, &before);
                let listed: HashSet<u32> =
                    publication::published_tables(sql, &self.publications).await?.into_iter().collect();
                self.check_listed(sql, &tables, &captured, &listed).await?;
                let rootless = |table: &Table| match table.kind {
                    TableKind::Partitioned => tables.iter().any(|leaf| {
                        matches!(leaf.kind, TableKind::Leaf { root } if root == table.oid)
                            && listed.contains(&leaf.oid)
                    }),
                    _ => listed.contains(&table.oid),
                };
                let published: HashSet<u32> =
                    tables.iter().filter(|table| rootless(table)).map(|table| table.oid).collect();
                wanted.retain(|oid| published.contains(oid));
            }
        }
        let publications = publication::inspect(sql, &self.publications).await?;
        // What others altered meanwhile must not pass for ours.
        let is_theirs = |oid: u32| !altered.contains(&oid) && tables.iter().any(|table| table.oid == oid);
        let mut meanwhile = publication::compare(&before, &publications);
        // A publication that was not there is made by us.
        meanwhile.retain(|difference| !matches!(difference, Difference::Unexpected { .. }));
        let harm = harmful(&meanwhile, is_theirs);
        if !harm.is_empty() {
            return Err(StartRefused::PublicationChanged { differences: harm }.into());
        }
        // What we alter ourselves is no reason for doubt the next time.
        self.shared.record(&publications);
        let enums = watch::enum_labels(sql).await?;
        let clock = catalog::server_time(sql).await?;
        let at = watch::position(sql).await?;
        Ok(Look {
            number: 0,
            since: self.quiet_until,
            at,
            clock,
            tables,
            wanted,
            hidden,
            publications,
            enums,
        })
    }

    /// Nothing is altered in a publication of a whole schema when a table leaves that.
    ///
    /// # Errors
    /// Where the operator's publications do not publish a captured table any more.
    async fn check_listed(
        &self,
        sql: &Client,
        tables: &[Table],
        captured: &HashSet<u32>,
        listed: &HashSet<u32>,
    ) -> Result<()> {
        let is_listed = |table: &&Table| match table.kind {
            TableKind::Partitioned => true,
            TableKind::Leaf { .. } | TableKind::Ordinary => {
                listed.contains(&table.oid) || listed.contains(&table.root())
            }
        };
        let silent = tables.iter().filter(|table| captured.contains(&table.oid) && !is_listed(table));
        let silent: Vec<u32> = silent.map(|table| table.oid).collect();
        // One that was dropped since the tables were read is not listed, either.
        let there = catalog::load_tables_by_oid(sql, &silent).await?;
        if there.is_empty() {
            return Ok(());
        }
        let publication = self.publications.join(", ");
        let removed = there.into_iter().map(|table| Difference::TableRemoved {
            publication: publication.clone(),
            oid: table.oid,
            table: table.name,
        });
        Err(StartRefused::PublicationChanged { differences: removed.collect() }.into())
    }

    /// Has the tables published, each where its identity allows. Gives those of which nothing is captured for now: that could not be
    /// published, and partitioned ones that are new and have such a partition; and those that were altered.
    async fn publish(
        &mut self,
        sql: &Client,
        names: &publication::Names,
        tables: &[Table],
        wanted: &HashSet<u32>,
        captured: &HashSet<u32>,
        before: &PublicationState,
    ) -> Result<(HashSet<u32>, HashSet<u32>)> {
        let now = Instant::now();
        let waits = |oid: &u32| self.unpublished.get(oid).is_some_and(|again| *again > now);
        let listed: HashSet<u32> = before
            .publications
            .iter()
            .flat_map(|publication| publication.tables.iter().map(|member| member.oid))
            .collect();
        let mine = |table: &&Table| wanted.contains(&table.oid) || captured.contains(&table.oid);
        let mine: Vec<&Table> = tables.iter().filter(mine).filter(|table| !waits(&table.oid)).collect();
        let waits_on: HashSet<u32> =
            tables.iter().map(|table| table.oid).filter(|oid| waits(oid) && !listed.contains(oid)).collect();
        let (ensured, refused) = publication::ensure_each(sql, names, &mine).await?;
        for statement in &ensured.statements {
            tracing::info!(statement, "publication");
        }
        // What waited and is gone, or was published by somebody else, waits no more.
        let waits = |oid: &u32| refused.iter().any(|refused| refused.oid == *oid) || waits_on.contains(oid);
        self.unpublished.retain(|oid, _| waits(oid));
        let recorded = self.shared.recorded();
        let was_listed = |oid: u32| {
            recorded.publications.iter().any(|one| one.tables.iter().any(|member| member.oid == oid))
        };
        let is_whole = |oid: u32| tables.iter().any(|table| table.oid == oid && table.root() == oid);
        // Nothing leads over what goes on being lost of it. A partition that never was published is missing from its root, which is told.
        let lost = |refused: &&publication::Refused| {
            let oid = refused.oid;
            captured.contains(&oid) && !listed.contains(&oid) && (is_whole(oid) || was_listed(oid))
        };
        if let Some(lost) = refused.iter().find(lost) {
            return Err(Error::other(format!(
                "{} is captured, and is not in the publications any more: {}",
                lost.table, lost.error
            )));
        }
        for refused in refused {
            if self.unpublished.insert(refused.oid, now + PUBLISHED_AGAIN * self.every).is_none() {
                tracing::warn!(
                    table = %refused.table,
                    error = %refused.error,
                    "the table cannot be published as it has to be: its changes are not captured until then"
                );
            }
        }
        let mut left: HashSet<u32> =
            self.unpublished.keys().copied().filter(|oid| !listed.contains(oid)).collect();
        for table in tables {
            if let TableKind::Leaf { root } = table.kind
                && left.contains(&table.oid)
                && !captured.contains(&root)
            {
                left.insert(root);
            }
        }
        Ok((left, ensured.changes.iter().filter_map(Change::table_oid).collect()))
    }

    fn is_acceptable(&mut self, table: &Table, captured: &HashSet<u32>) -> bool {
        if captured.contains(&table.oid) || captured.contains(&table.root()) {
            return true;
        }
        let Some(column) = TableSchema::clash(table) else { return true };
        if self.refused.insert(table.oid) {
            tracing::warn!(
                table = %table.name,
                column,
                "not captured: a column has a name that bygone needs for itself; rename it, or leave the table out"
            );
        }
        false
    }
}

/// The differences by which changes are lost. Harmless are: a table that was dropped or is not captured any more, one that was added (what
/// it was before that is compared with the source), and one that went from one of the publications into the other.
pub(super) fn harmful(differences: &[Difference], is_there: impl Fn(u32) -> bool) -> Vec<Difference> {
    let was_added = |oid: u32| {
        differences
            .iter()
            .any(|other| matches!(other, Difference::TableAdded { oid: added, .. } if *added == oid))
    };
    let of_others = |difference: &Difference| difference.table_oid().is_some_and(|oid| !is_there(oid));
    let harms = |difference: &&Difference| match difference {
        difference if of_others(difference) => false,
        Difference::TableRemoved { oid, .. } => !was_added(*oid),
        Difference::TableAdded { .. } => false,
        _ => true,
    };
    differences.iter().filter(harms).cloned().collect()
}
