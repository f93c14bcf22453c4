//! What tables are called on the target.

use std::collections::{HashMap, HashSet};

use super::objects::FRAME;
use crate::log::{ContentHash, parse_table_text};

/// PostgreSQL cuts names after so many bytes; the longest suffix takes some of them.
const LONGEST: usize = 63 - "_history_p202611".len();

/// The names that are given, by the table's name in the log.
#[derive(Debug, Default)]
pub(super) struct Names {
    bases: HashMap<String, String>,
    /// What others are called.
    taken: HashSet<String>,
}

impl Names {
    pub(super) fn know(&mut self, log_name: String, base: String) {
        self.bases.insert(log_name, base);
    }

    /// The name that was given to a table is free again.
    pub(super) fn forget(&mut self, log_name: &str) {
        self.bases.remove(log_name);
    }

    /// Something of somebody else's is called like an object of a table of this name would be.
    pub(super) fn is_taken(&mut self, base: String) {
        self.taken.insert(base);
    }

    /// All names that are given.
    pub(super) fn bases(&self) -> impl Iterator<Item = &str> {
        self.bases.values().map(String::as_str)
    }

    pub(super) fn known(&self, log_name: &str) -> Option<&str> {
        self.bases.get(log_name).map(String::as_str)
    }

    /// The name of a table that is known; its own otherwise.
    pub(super) fn base(&self, log_name: &str) -> String {
        self.known(log_name).unwrap_or(log_name).to_owned()
    }

    /// Gives a table a name: its own, with its schema before it outside `public`, cut where it is too long, numbered where
    /// another has it.
    pub(super) fn choose(&mut self, log_name: &str) -> String {
        let own = base_of(log_name);
        let taken = |name: &String| {
            FRAME.contains(&name.as_str())
                || INDEXES.contains(&name.as_str())
                || self.taken.contains(name)
                || self.bases.values().any(|other| clashes(other, name))
        };
        let mut base = own.clone();
        let mut number = 2;
        while taken(&base) {
            base = format!("{own}__{number}");
            number += 1;
        }
        self.bases.insert(log_name.to_owned(), base.clone());
        base
    }
}

/// What the indexes of the frame are called, or were: they share a space of names with tables.
const INDEXES: [&str; 16] = [
    "commits_pkey",
    "commits_wal_to",
    "events_left_out",
    "events_of_gaps",
    "events_table",
    "history_pkey",
    "schemas_pkey",
    "slabs_base_begins_key",
    "slabs_pkey",
    "slabs_slab_seq",
    "tables_base_key",
    "tables_pkey",
    "transactions_actor",
    "transactions_by_actor",
    "transactions_pkey",
    "transactions_xid",
];

/// What the objects of a table are called after its name.
pub(super) const SUFFIXES: [&str; 7] = ["", "_history", "_timeline", "_slabs", "_as_of", "_blame", "_diff"];

/// Objects of the one would be called as objects of the other are.
fn clashes(one: &str, other: &str) -> bool {
    SUFFIXES.iter().any(|a| SUFFIXES.iter().any(|b| format!("{one}{a}") == format!("{other}{b}")))
}

fn base_of(log_name: &str) -> String {
    let base = match parse_table_text(log_name) {
        Some(table) if table.schema == "public" => table.name,
        Some(table) => format!("{}_{}", table.schema, table.name),
        None => log_name.to_owned(),
    };
    if base.len() <= LONGEST {
        return base;
    }
    let hash = ContentHash::of(base.as_bytes()).to_string();
    let hash = hash.get(..8).unwrap_or_default();
    let mut cut = LONGEST - 9;
    while !base.is_char_boundary(cut) {
        cut -= 1;
    }
    format!("{}_{hash}", base.get(..cut).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_keep_their_names_where_they_can() {
        let mut names = Names::default();
        assert_eq!(names.choose("public.orders"), "orders");
        assert_eq!(names.choose("shop.orders"), "shop_orders");
        assert_eq!(names.choose("public.shop_orders"), "shop_orders__2");
        assert_eq!(names.choose("public.orders_history"), "orders_history__2");
        assert_eq!(names.choose("public.commits"), "commits__2");
        assert_eq!(names.choose("public.events_table"), "events_table__2");
        assert_eq!(names.choose("public.\"a.b\"\"c\""), "a.b\"c");
        let long = names.choose(&format!("public.{}", "é".repeat(31)));
        assert!(long.len() <= LONGEST, "{long}");
        assert_ne!(names.choose(&format!("public.{}x", "é".repeat(30))), long);
        assert_eq!(names.base("public.orders"), "orders");
    }
}
