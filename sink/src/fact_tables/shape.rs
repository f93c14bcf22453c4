//! Tables of the target made to fit what comes: columns, months, leaf partitions.

use std::collections::{BTreeMap, HashMap, HashSet};

use bygone_replication::table::{DataType, TypeKind, quote_identifier};
use tokio_postgres::Row;

use super::names::SUFFIXES;
use super::objects::{self, Objects};
use super::refused::FIRST_OF_USERS;
use super::{FactTables, LEAF_COLUMN, told};
use crate::error::Result;
use crate::log::{Add, SchemaVersion};
use crate::timestamp::Timestamp;
use crate::value::Kind;

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
        Self::plain("text".to_owned())
    }

    /// One that has no modifier.
    fn plain(name: String) -> Self {
        Self { whole: name.clone(), bare: name }
    }

    /// An array of these.
    fn array(self) -> Self {
        Self { whole: self.whole + "[]", bare: self.bare + "[]" }
    }

    /// Every value of another type of the same kind of file column can be put into it, and keeps its text.
    fn takes_all_of(&self, other: &Self, kind: &Kind) -> bool {
        let (whole, bare) = (self.whole.as_str(), other.bare.as_str());
        whole == bare
            || whole == widest(kind)
            || match kind {
                Kind::List(_) => matches!(whole, "text" | "text[]" | "character varying[]"),
                _ => matches!(whole, "text" | "character varying") || (whole, bare) == ("json", "jsonb"),
            }
    }
}

/// The type that takes all values of all types that one file column may hold.
fn widest(kind: &Kind) -> String {
    let name = match kind {
        Kind::Bool => "boolean",
        Kind::Int16 => "smallint",
        Kind::Int32 => "integer",
        Kind::Int64 | Kind::Oid => "bigint",
        Kind::Float32 => "real",
        Kind::Float64 => "double precision",
        Kind::Decimal { .. } => "numeric",
        Kind::Bytes => "bytea",
        Kind::Date => "date",
        Kind::Timestamp => "timestamp without time zone",
        Kind::Timestamptz => "timestamp with time zone",
        Kind::List(element) => return format!("{}[]", widest(element)),
        Kind::Text
        | Kind::Json
        | Kind::Jsonb
        | Kind::NumericText
        | Kind::Printed(_)
        | Kind::Other
        | Kind::Uuid => "text",
    };
    name.to_owned()
}

impl FactTables {
    /// A table has new columns.
    pub(super) async fn evolve(&mut self, version: &SchemaVersion) -> Result<()> {
        if !self.made.contains(&(version.table.clone(), version.schema)) {
            self.make(version).await?;
        }
        let s = quote_identifier(&self.schema);
        let document = serde_json::to_string(version).unwrap_or_else(|_| "{}".to_owned());
        let sql = format!(
            "insert into {s}.schemas (table_name, schema, document) values ($1, $2, $3::text::jsonb)"
        );
        self.client
            .execute(&sql, &[&version.table, &version.schema, &document])
            .await
            .map(drop)
            .map_err(|error| told("following a change of columns", &error))
    }

    /// Adds the columns of a schema version to a table, which is made where it is not there, and makes what readers ask anew.
    pub(super) async fn make(&mut self, version: &SchemaVersion) -> Result<()> {
        if self.left_out.contains(&version.table) {
            return Ok(());
        }
        let made = self.make_table(version).await;
        self.of_table(&version.table, made)
    }

    async fn make_table(&mut self, version: &SchemaVersion) -> Result<()> {
        let doing = "following a change of columns";
        let s = quote_identifier(&self.schema);
        let log_name = &version.table;
        let base = match self.names.known(log_name) {
            Some(base) => base.to_owned(),
            None => {
                let base = self.choose(log_name).await?;
                self.named.push(log_name.clone());
                let sql = format!("insert into {s}.tables (log_name, base) values ($1, $2)");
                self.client.execute(&sql, &[log_name, &base]).await.map_err(|error| told(doing, &error))?;
                self.execute(doing, &objects::history_table(&self.schema, &base, log_name, self.layout))
                    .await?;
                base
            }
        };
        self.execute(doing, &objects::slab_table(&self.schema, &base)).await?;
        self.fit_all(&base, version).await?;
        let objects = self.objects_of(&base, log_name, version.schema)?;
        self.execute(doing, &objects.statements()).await
    }

    /// Gives a table a name by which none of its objects is called like something that is there.
    async fn choose(&mut self, log_name: &str) -> Result<String> {
        let sql = "select from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname = $1 and c.relname::text = any ($2)";
        loop {
            let base = self.names.choose(log_name);
            let all: Vec<String> = SUFFIXES.iter().map(|suffix| format!("{base}{suffix}")).collect();
            let there = self.client.query_opt(&format!("{sql} limit 1"), &[&self.schema, &all]).await;
            if there.map_err(|error| told("naming a table", &error))?.is_none() {
                return Ok(base);
            }
            self.names.forget(log_name);
            self.names.is_taken(base);
        }
    }

    /// Says of a table that its updates and deletes cannot be seen, or can be again, where that was ever so.
    pub(super) async fn tell_unseen(&mut self, log_name: &str) -> Result<()> {
        let doing = "telling what cannot be seen";
        if self.archive.table(log_name)?.updates_unseen.is_empty() {
            return Ok(());
        }
        let Some(base) = self.names.known(log_name).map(str::to_owned) else { return Ok(()) };
        let Some(schema) = self.newest_there(log_name).await? else { return Ok(()) };
        let objects = self.objects_of(&base, log_name, schema)?;
        self.execute(doing, &objects.comments()).await
    }

    /// What readers ask of a table as of a version, which need not be the newest that the log has.
    pub(super) fn objects_of(&self, base: &str, log_name: &str, schema: i32) -> Result<Objects> {
        let mut table = self.archive.table(log_name)?;
        table.versions.retain(|known| known.schema.version <= schema);
        Ok(Objects::of(&self.schema, base, &table))
    }

    pub(super) async fn fit_all(&mut self, base: &str, version: &SchemaVersion) -> Result<()> {
        // In the order in which slabs are made of facts.
        for table in [format!("{base}_history"), format!("{base}_slabs")] {
            self.fit(base, &table, version).await?;
        }
        Ok(())
    }

    /// Makes anew what readers ask, and gives columns types that take what comes, where another version of bygone made them otherwise.
    pub(super) async fn renew(&mut self) -> Result<()> {
        let doing = "renewing what readers ask";
        let s = quote_identifier(&self.schema);
        let sql = format!(
            "select t.log_name, t.base, max(s.schema) from {s}.tables t join {s}.schemas s on s.table_name = t.log_name group by 1, 2"
        );
        let tables = self.client.query(&sql, &[]).await.map_err(|error| told(doing, &error))?;
        let sql = "select p.proname::text || '(' || oidvectortypes(p.proargtypes) || ')', p.prosrc from pg_proc p join pg_namespace n on \
             n.oid = p.pronamespace where n.nspname = $1";
        let there = self.client.query(sql, &[&self.schema]).await.map_err(|error| told(doing, &error))?;
        let there: HashSet<(String, String)> = there.iter().map(|row| (row.get(0), row.get(1))).collect();
        let sql = "select c.relname::text, obj_description(c.oid, 'pg_class') from pg_class c join pg_namespace n on n.oid = c.relnamespace \
             where n.nspname = $1 and c.relkind = 'v'";
        let said = self.client.query(sql, &[&self.schema]).await.map_err(|error| told(doing, &error))?;
        let said: HashMap<String, Option<String>> = said.iter().map(|row| (row.get(0), row.get(1))).collect();
        for row in tables {
            let (log_name, base, schema): (String, String, i32) = (row.get(0), row.get(1), row.get(2));
            if self.left_out.contains(&log_name) {
                continue;
            }
            let Ok(objects) = self.objects_of(&base, &log_name, schema) else { continue };
            let is_said = said.get(&base).and_then(Option::as_deref) == Some(&objects.current());
            if is_said && objects.functions().iter().all(|function| there.contains(function)) {
                continue;
            }
            let versions = self.archive.log().schemas(&log_name);
            let Some(version) = versions.iter().find(|version| version.schema == schema).cloned() else {
                continue;
            };
            self.execute(doing, "begin").await?;
            let renewed = match self.fit_all(&base, &version).await {
                Ok(()) => self.execute(doing, &objects.statements()).await,
                Err(error) => Err(error),
            };
            match renewed {
                Ok(()) => self.execute(doing, "commit").await?,
                // Facts can be written all the same.
                Err(error) => {
                    self.columns.clear();
                    self.unfit = None;
                    self.execute(doing, "rollback").await?;
                    tracing::warn!(table = log_name, %error, "what readers ask stays as an earlier version made it");
                }
            }
        }
        Ok(())
    }

    /// Has a table take the columns of a schema version.
    async fn fit(&mut self, base: &str, table: &str, version: &SchemaVersion) -> Result<()> {
        let doing = "following a change of columns";
        let s = quote_identifier(&self.schema);
        let of = quote_identifier(table);
        let mut columns = self.columns_of(table).await?;
        for column in version.columns.iter().filter(|column| !column.dropped) {
            let name = column.physical();
            let wanted = if column.hashed.is_some() {
                TypeName::text()
            } else if self.is_as_text(&version.table, name) {
                TypeName::plain(widest(&Kind::of_column(&column.column())))
            } else {
                self.type_of(&column.data_type()).await?
            };
            let quoted = quote_identifier(name);
            match columns.get(name) {
                None => {
                    let sql = format!("alter table {s}.{of} add column {quoted} {}", wanted.whole);
                    let added = self.client.batch_execute(&sql).await;
                    let added = added.map_err(|error| told(doing, &error).with_source(error));
                    self.of_column(&version.table, name, added)?;
                    columns.insert(name.to_owned(), wanted);
                }
                Some(there)
                    if *there == wanted
                        || there.takes_all_of(&wanted, &Kind::of_column(&column.column())) => {}
                Some(there) => {
                    let (wider, using) = if there.bare == wanted.bare {
                        // Values of each modifier of a type fit into the type without one.
                        (there.bare.clone(), String::new())
                    } else {
                        // One column of the files holds both types; what takes the values of both keeps the text of those there.
                        let wider = widest(&Kind::of_column(&column.column()));
                        let text = format!("pg_catalog.format('%s', {quoted})::{wider}");
                        let using = format!(" using case when {quoted} is not null then {text} end");
                        (wider, using)
                    };
                    self.execute(doing, &objects::drop_all(&self.schema, base)).await?;
                    let sql = format!("alter table {s}.{of} alter column {quoted} type {wider}{using}");
                    self.execute(doing, &sql).await?;
                    columns.insert(name.to_owned(), TypeName::plain(wider));
                }
            }
        }
        self.columns.insert(table.to_owned(), columns);
        self.receivers.remove(table);
        Ok(())
    }

    /// Sees to it that a history can take the facts of a file.
    pub(super) async fn fit_add(&mut self, base: &str, add: &Add) -> Result<()> {
        if self.left_out.contains(&add.table) {
            return Ok(());
        }
        let known = match add.leaf() {
            0 => Ok(()),
            _ => self.know_leaves(base).await,
        };
        self.of_table(&add.table, known)?;
        self.know_months(base, add.valid_from).await
    }

    /// Sees to it that a partitioned history has a partition for each month.
    async fn know_months(&mut self, base: &str, [from, to]: [Timestamp; 2]) -> Result<()> {
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
    async fn know_leaves(&mut self, base: &str) -> Result<()> {
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

    pub(super) async fn columns_of(&self, table: &str) -> Result<BTreeMap<String, TypeName>> {
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

    /// The type of a column on the target: its own where the target has it, else text; in place of a domain what it is over. For a domain may be
    /// given rules that older values break, and PostgreSQL looks for these in all columns of the domain: a history of it would stand in the way.
    async fn type_of(&self, data_type: &DataType) -> Result<TypeName> {
        let base = data_type.base();
        match &base.kind {
            TypeKind::Array(element) if element.base() != element.as_ref() => match &element.base().kind {
                // There is no type for these.
                TypeKind::Array(_) => Ok(TypeName::text()),
                _ => Ok(self.named_type(element.base()).await?.array()),
            },
            _ => self.named_type(base).await,
        }
    }

    /// What the target has of a name, or an oid.
    async fn named_type(&self, data_type: &DataType) -> Result<TypeName> {
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
