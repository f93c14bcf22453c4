//! What a commit needs of many tables, made ahead of it.
//!
//! Each object that a transaction makes or alters is locked until it ends: some thirty for a table. A server's lock table takes some 6,400 by
//! default, for all its sessions together, and a first commit may bring a thousand tables. So the objects of many tables are made in
//! transactions of some tables each, before the one that writes the commit. What an attempt that was cut off has made is there already when
//! it is tried again, and holds no facts; a start makes what readers ask as the last commit has it ([`FactTables::renew`]).

use std::collections::BTreeSet;

use bygone_replication::table::quote_identifier;

use super::{FactTables, told};
use crate::error::Result;
use crate::failpoint;
use crate::log::path::TRANSACTIONS;
use crate::log::{Add, Commit, SchemaVersion};

/// Tables whose objects are made in one transaction: they take some 500 locks. What a commit's own transaction keeps of each table that gets
/// facts is one, or three where values are long.
const TOGETHER: usize = 16;

impl FactTables {
    /// Makes what a commit needs, where that is too much for its own transaction.
    pub(super) async fn make_ahead(&mut self, commit: &Commit) -> Result<()> {
        let changed: Vec<&str> = distinct(commit.body.schemas.iter().map(|version| version.table.as_str()));
        if changed.len() > TOGETHER {
            for tables in changed.chunks(TOGETHER) {
                let made = self.begin_ahead(commit.seq).await;
                let made = match made {
                    Ok(()) => self.make_some(&commit.body.schemas, tables).await,
                    Err(error) => Err(error),
                };
                self.end_ahead(made).await?;
            }
        }
        if commit.body.is_aside() {
            return Ok(());
        }
        let lacking = self.lacking(&commit.body.add);
        if lacking.len() > TOGETHER {
            for adds in lacking.chunks(TOGETHER) {
                let made = self.begin_ahead(commit.seq).await;
                let made = match made {
                    Ok(()) => self.make_room_for(adds).await,
                    Err(error) => Err(error),
                };
                self.end_ahead(made).await?;
            }
        }
        Ok(())
    }

    /// Begins a transaction before the one that writes a commit.
    pub(super) async fn begin_ahead(&self, seq: u64) -> Result<()> {
        self.execute("beginning a transaction", "begin").await?;
        let sql = format!("select from {}.commits where seq >= $1 limit 1", quote_identifier(&self.schema));
        let seq_there = i64::try_from(seq).unwrap_or(i64::MAX);
        let there = self.client.query_opt(&sql, &[&seq_there]).await;
        match there.map_err(|error| told("making tables", &error))? {
            None => Ok(()),
            // What this one would make is older than what is there.
            Some(_) => Err(self.fenced(seq)),
        }
    }

    pub(super) async fn end_ahead(&mut self, made: Result<()>) -> Result<()> {
        match made {
            Ok(()) => {
                self.execute("committing", "commit").await?;
                self.named.clear();
                failpoint::hit("facts.tables_made")
            }
            Err(error) => {
                self.roll_back().await;
                Err(error)
            }
        }
    }

    async fn make_some(&mut self, versions: &[SchemaVersion], tables: &[&str]) -> Result<()> {
        for version in versions.iter().filter(|version| tables.contains(&version.table.as_str())) {
            self.make(version).await?;
        }
        let made = versions.iter().filter(|version| tables.contains(&version.table.as_str()));
        self.made.extend(made.map(|version| (version.table.clone(), version.schema)));
        Ok(())
    }

    /// The files of a commit for whose facts a partition or a column may have to be made, in tables that are there.
    fn lacking<'a>(&self, adds: &'a [Add]) -> Vec<&'a Add> {
        let may_lack = |add: &&Add| {
            let whole = self.names.known(&add.table).and_then(|base| self.months.get(base));
            add.table != TRANSACTIONS
                && self.names.known(&add.table).is_some()
                && (add.leaf() != 0 || !matches!(whole, Some(None)))
        };
        adds.iter().filter(may_lack).collect()
    }

    async fn make_room_for(&mut self, adds: &[&Add]) -> Result<()> {
        for add in adds {
            let base = self.names.base(&add.table);
            self.fit_add(&base, add).await?;
        }
        Ok(())
    }
}

/// Each of these once, in the order in which they come.
fn distinct<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut seen = BTreeSet::new();
    names.filter(|name| seen.insert(*name)).collect()
}
