//! Tables of the target made to fit what comes: columns, months, leaf partitions.

use std::collections::{BTreeMap, HashSet};

use bygone_replication::table::{DataType, quote_identifier};
use tokio_postgres::Row;

use super::objects::{self, Objects};
use super::{FactTables, LEAF_COLUMN, told};
use crate::error::Result;
use crate::log::SchemaVersion;
use crate::timestamp::Timestamp;

/// Built-in types, and arrays of which, that are kept as text: the server takes no values of them from a client, or takes them for names
/// of objects that the target need not have.
const ONLY_AS_TEXT: &str =
    "^(pg_node_tree|pg_ndistinct|pg_dependencies|pg_mcv_list|pg_brin_.*_summary|gtsvector|aclitem|reg.*)$";

/// What the target calls a type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TypeName {
    /// With its modifier: `numeric(12,2)`.
    whole: String,
    /// Without, so that values of any modifier fit: `numeric`; `bpchar`, for `character` alone has length 1.
    bare: String,
}

impl TypeName {
    fn text() -> Self {
        Self { whole: "text".to_owned(), bare: "text".to_owned() }
    }
}

impl FactTables {
    /// A table has new columns: they are added, and what readers ask is made anew.
    pub(super) async fn evolve(&mut self, version: &SchemaVersion) -> Result<()> {
        let doing = "following a change of columns";
        let s = quote_identifier(&self.schema);
        let log_name = &version.table;
        let base = match self.names.known(log_name) {
            Some(base) => base.to_owned(),
            None => {
                let base = self.names.choose(log_name);
                let sql = format!("insert into {s}.tables (log_name, base) values ($1, $2)");
                self.client.execute(&sql, &[log_name, &base]).await.map_err(|error| told(doing, &error))?;
                self.execute(doing, &objects::history_table(&self.schema, &base, log_name, self.layout))
                    .await?;
                base
            }
        };
        let document = serde_json::to_string(version).unwrap_or_else(|_| "{}".to_owned());
        let sql = format!(
            "insert into {s}.schemas (table_name, schema, document) values ($1, $2, $3::text::jsonb)"
        );
        self.client
            .execute(&sql, &[log_name, &version.schema, &document])
            .await
            .map_err(|error| told(doing, &error))?;
        self.execute(doing, &objects::slab_table(&self.schema, &base)).await?;
        // In the order in which slabs are made of facts.
        for table in [format!("{base}_history"), format!("{base}_slabs")] {
            self.fit(&base, &table, version).await?;
        }
        // As of this version, which need not be the newest that the log has.
        let mut table = self.archive.table(log_name)?;
        table.versions.retain(|known| known.schema.version <= version.schema);
        let objects = Objects::of(&self.schema, &base, &table);
        self.execute(doing, &objects.statements()).await
    }

    /// Has a table take the columns of a schema version.
    async fn fit(&mut self, base: &str, table: &str, version: &SchemaVersion) -> Result<()> {
        let doing = "following a change of columns";
        let s = quote_identifier(&self.schema);
        let of = quote_identifier(table);
        let mut columns = self.columns_of(table).await?;
        for column in version.columns.iter().filter(|column| !column.dropped) {
            let name = column.physical();
            let wanted = match column.hashed {
                Some(_) => TypeName::text(),
                None => self.type_of(&column.data_type()).await?,
            };
            let quoted = quote_identifier(name);
            match columns.get(name) {
                None => {
                    let sql = format!("alter table {s}.{of} add column {quoted} {}", wanted.whole);
                    self.execute(doing, &sql).await?;
                    columns.insert(name.to_owned(), wanted);
                }
                // Values of each modifier of a type fit into the type without one.
                Some(there) if *there == wanted || there.whole == wanted.bare => {}
                Some(TypeName { bare, .. }) => {
                    let bare = bare.clone();
                    let views = [base.to_owned(), format!("{base}_timeline")];
                    for view in views.map(|view| quote_identifier(&view)) {
                        self.execute(doing, &format!("drop view if exists {s}.{view} cascade")).await?;
                    }
                    let sql = format!("alter table {s}.{of} alter column {quoted} type {bare}");
                    self.execute(doing, &sql).await?;
                    columns.insert(name.to_owned(), TypeName { whole: bare.clone(), bare });
                }
            }
        }
        self.columns.insert(table.to_owned(), columns);
        self.receivers.remove(table);
        Ok(())
    }

    /// Sees to it that a partitioned history has a partition for each month.
    pub(super) async fn know_months(&mut self, base: &str, [from, to]: [Timestamp; 2]) -> Result<()> {
        let mut months = match self.months.remove(base) {
            Some(known) => known,
            None => self.is_partitioned(base).await?.then(HashSet::new),
        };
        if let Some(months) = &mut months {
            self.make_months(base, months, [from, to]).await?;
        }
        self.months.insert(base.to_owned(), months);
        Ok(())
    }

    async fn make_months(
        &self,
        base: &str,
        known: &mut HashSet<String>,
        [from, to]: [Timestamp; 2],
    ) -> Result<()> {
        let mut day = first_of_month(&from.date());
        let last = to.date();
        while day.as_str() <= last.as_str() {
            let next = month_after(&day);
            if !known.contains(&day) {
                let sql = objects::partition(&self.schema, base, [&day, &next]);
                self.execute("making a partition", &sql).await?;
                known.insert(day.clone());
            }
            // The last month that has a name.
            if next.len() != day.len() {
                break;
            }
            day = next;
        }
        Ok(())
    }

    async fn is_partitioned(&self, base: &str) -> Result<bool> {
        let sql = "select exists (select from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname = $1 and \
             c.relname = $2 and c.relkind = 'p')";
        let row = self
            .client
            .query_one(sql, &[&self.schema, &format!("{base}_history")])
            .await
            .map_err(|error| told("reading the target's catalog", &error))?;
        Ok(row.get(0))
    }

    /// Leaf partitions can be truncated by themselves: whose rows those are has to be known when the state is made anew.
    pub(super) async fn know_leaves(&mut self, base: &str) -> Result<()> {
        let table = format!("{base}_history");
        if self.columns_of(&table).await?.contains_key(LEAF_COLUMN) {
            return Ok(());
        }
        let history = format!("{}.{}", quote_identifier(&self.schema), quote_identifier(&table));
        let sql = format!(
            "alter table {history} add column {LEAF_COLUMN} bigint; comment on column {history}.{LEAF_COLUMN} is 'oid of the partition'"
        );
        self.execute("telling partitions apart", &sql).await?;
        self.columns.remove(&table);
        Ok(())
    }

    async fn columns_of(&self, table: &str) -> Result<BTreeMap<String, TypeName>> {
        if let Some(columns) = self.columns.get(table) {
            return Ok(columns.clone());
        }
        let sql = "select a.attname::text, format_type(a.atttypid, a.atttypmod), format_type(a.atttypid, -1) from pg_attribute a join pg_class c on c.oid = a.attrelid
            join pg_namespace n on n.oid = c.relnamespace where n.nspname = $1 and c.relname = $2 and a.attnum > 0 and not a.attisdropped";
        let rows = self
            .client
            .query(sql, &[&self.schema, &table])
            .await
            .map_err(|error| told("reading the target's catalog", &error))?;
        let named = |row: &Row| (row.get(0), TypeName { whole: row.get(1), bare: row.get(2) });
        Ok(rows.iter().map(named).collect())
    }

    /// The type of a column on the target: its own where the target has it, else text.
    async fn type_of(&self, data_type: &DataType) -> Result<TypeName> {
        const FIRST_OF_USERS: u32 = 16_384;
        let asked = if data_type.oid < FIRST_OF_USERS {
            // Built-in types have the same oids everywhere; a newer source may have one that the target lacks.
            let sql = "select format_type(t.oid, $2), format_type(t.oid, -1) from pg_type t left join pg_type e on e.oid = t.typelem and \
                 t.typcategory = 'A' where t.oid = $1 and coalesce(e.typname, t.typname) <> 'name' and coalesce(e.typname, t.typname) !~ $3";
            self.client.query_opt(sql, &[&data_type.oid, &data_type.typmod, &ONLY_AS_TEXT]).await
        } else {
            let name =
                format!("{}.{}", quote_identifier(&data_type.schema), quote_identifier(&data_type.name));
            let sql = "select format_type(to_regtype($1), $2), format_type(to_regtype($1), -1) where to_regtype($1) is not null";
            self.client.query_opt(sql, &[&name, &data_type.typmod]).await
        };
        let row = asked.map_err(|error| told("looking for a type on the target", &error))?;
        Ok(row.map_or_else(TypeName::text, |row| TypeName { whole: row.get(0), bare: row.get(1) }))
    }
}

/// `2026-11-30` becomes `2026-11-01`.
fn first_of_month(day: &str) -> String {
    format!("{}-01", day.get(..7).unwrap_or(day))
}

/// The first day of the next month.
fn month_after(first: &str) -> String {
    let number = |range: std::ops::Range<usize>| first.get(range).and_then(|text| text.parse::<u32>().ok());
    match (number(0..4), number(5..7)) {
        (Some(year), Some(12)) => format!("{:04}-01-01", year + 1),
        (Some(year), Some(month)) => format!("{year:04}-{:02}-01", month + 1),
        _ => "infinity".to_owned(),
    }
}
