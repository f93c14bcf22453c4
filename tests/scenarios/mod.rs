//! What bygone promises, subject by subject.

mod azure;
mod bad_input;
mod column_rules;
mod compaction;
mod context;
mod delta;
mod doubts;
mod exactly_once;
mod fact_tables;
mod fact_tables_columns;
mod fact_tables_concurrent;
mod fact_tables_guarded;
mod fact_tables_limits;
mod fact_tables_merged;
mod fact_tables_strange;
mod fact_tables_types;
mod faults;
mod gaps;
mod hashed_columns;
mod judges;
mod large_values;
mod names;
mod publications;
mod retention;
mod schema;
mod snapshot;
mod soak;
mod standbys;
mod tables;
mod trial;
mod types;
mod verify;
mod versions;
mod waiting;

use std::path::Path;

use crate::support::bygone::Bygone;
use crate::support::comparison::{assert_flawless, judge};
use crate::support::history::History;
use crate::support::oracle::Oracle;
use crate::support::postgres::Postgres;
use crate::support::scratch::Scratch;
use crate::support::store::Store;
use crate::support::workload::{TABLES, Workload};

/// A source with the workload's tables under audit.
struct Source {
    server: Postgres,
    oracle: Oracle,
    scratch: Scratch,
}

impl Source {
    fn start() -> Self {
        Self::of(Postgres::start())
    }

    /// The same on a server that is there already.
    fn of(server: Postgres) -> Self {
        Workload::create(&server);
        let oracle = Oracle::install(&mut server.connect(), &TABLES);
        Self { server, oracle, scratch: Scratch::new("history") }
    }

    /// A directory for the history. Nothing is there yet.
    fn history(&self) -> std::path::PathBuf {
        self.scratch.join("history")
    }

    /// A bygone that captures it into that directory.
    fn bygone(&self) -> Bygone {
        Bygone::new(self.server.url(), self.history())
    }

    /// Every fact is there once and right, and nothing else is. `least` facts prove something.
    #[track_caller]
    fn assert_exact(&self, store: Store, least: i64) -> History {
        let mut history = History::read(store);
        let found = judge(&mut self.server.connect(), &self.oracle, &mut history, true);
        assert_flawless(&found);
        let facts = history.fact_count();
        let changes = self.oracle.change_count(&mut self.server.connect());
        eprintln!("{facts} facts in {} commits for {changes} changes", history.commits.len());
        assert!(facts >= least, "{facts} facts are too few to prove anything");
        history
    }
}

/// A small shop: what a test needs that is not about many rows.
const SHOP: &str = "
    create table orders (id bigint primary key, customer text, total numeric(12,2));
    insert into orders values (1, 'ann', 12.50), (2, 'bob', 99.90), (3, 'cid', 0.01)";

/// The paths of all files below a directory, with their bytes.
fn contents(root: &Path) -> Vec<(String, Vec<u8>)> {
    let store = Store::directory(root);
    store.list().into_keys().map(|path| (path.clone(), store.read(&path).unwrap())).collect()
}
