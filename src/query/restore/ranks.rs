//! Which tables refer to which, as the source knows it.

use std::collections::HashMap;

use bygone_replication::table::TableName;
use tokio_postgres::Client;

use super::apply::told;
use crate::error::{Error, Result};

/// How far each table stands from those that it refers to: a table comes after its parents. The default is that of a source that was not
/// asked, where nothing is known to refer to anything.
#[derive(Default)]
pub(super) struct Ranks {
    ranks: HashMap<TableName, usize>,
    /// Tables and those that they refer to.
    edges: Vec<(TableName, TableName)>,
}

impl Ranks {
    pub(super) async fn ask(client: &Client) -> Result<Self> {
        let rows = client
            .query(
                "select n.nspname::text, c.relname::text, pn.nspname::text, pc.relname::text
                 from pg_constraint f join pg_class c on c.oid = f.conrelid join pg_namespace n on n.oid = c.relnamespace
                 join pg_class pc on pc.oid = f.confrelid join pg_namespace pn on pn.oid = pc.relnamespace
                 where f.contype = 'f' and f.conrelid <> f.confrelid",
                &[],
            )
            .await
            .map_err(|error| {
                Error::other(format!("the source does not tell its foreign keys: {}", told(&error)))
            })?;
        let name = |row: &tokio_postgres::Row, at: usize| {
            TableName::new(row.get::<_, String>(at), row.get::<_, String>(at + 1))
        };
        Ok(Self::new(rows.iter().map(|row| (name(row, 0), name(row, 2))).collect()))
    }

    fn new(edges: Vec<(TableName, TableName)>) -> Self {
        let mut ranks: HashMap<TableName, usize> = HashMap::new();
        // As many rounds as there are edges: tables that refer to each other in a circle stop there.
        for _ in 0..=edges.len() {
            let mut moved = false;
            for (child, parent) in &edges {
                let wanted = ranks.get(parent).copied().unwrap_or(0) + 1;
                let rank = ranks.entry(child.clone()).or_default();
                if *rank < wanted && wanted <= edges.len() {
                    (*rank, moved) = (wanted, true);
                }
            }
            if !moved {
                break;
            }
        }
        Self { ranks, edges }
    }

    pub(super) fn of(&self, table: &TableName) -> usize {
        self.ranks.get(table).copied().unwrap_or(0)
    }

    /// Each of these tables comes after those of them that it refers to: there is no circle.
    pub(super) fn are_in_order(&self, tables: &[&TableName]) -> bool {
        let within =
            |(child, parent): &&(TableName, TableName)| tables.contains(&child) && tables.contains(&parent);
        self.edges.iter().filter(within).all(|(child, parent)| self.of(child) > self.of(parent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_comes_after_those_that_it_refers_to_unless_they_are_a_circle() {
        let name = |bare: &str| TableName::new("public", bare);
        let ranks = Ranks::new(
            [("lines", "orders"), ("orders", "customers"), ("chicken", "egg"), ("egg", "chicken")]
                .map(|(child, parent)| (name(child), name(parent)))
                .to_vec(),
        );
        assert_eq!(["customers", "orders", "lines"].map(|table| ranks.of(&name(table))), [0, 1, 2]);
        assert!(ranks.are_in_order(&[&name("lines"), &name("customers"), &name("orders"), &name("egg")]));
        assert!(!ranks.are_in_order(&[&name("egg"), &name("chicken")]));
    }
}
