//! Values that the type which a column has on the target does not take.
//!
//! A fact holds the text that a value had then, and the target's type of that name is as it is now: an enum whose label was renamed, or that
//! has fewer of them there, a composite type with another number of fields. No attempt more would help, and the fact has to be kept: the
//! column goes on as text, as one does whose type changes to another. (Domains refuse nothing: see [`FactTables::type_of`].)

use std::collections::BTreeSet;
use std::error::Error as _;

use bygone_replication::table::{DataType, TypeKind, quote_identifier, quote_literal};
use tokio_postgres::error::{DbError, SqlState};

use super::{FactTables, Unfit, told};
use crate::error::{Error, Result};
use crate::log::SchemaVersion;

const DOING: &str = "keeping a column as text";

/// The first oid of types that are not built in.
pub(super) const FIRST_OF_USERS: u32 = 16_384;

/// What the target says of a value that it refuses, in an error of a COPY.
pub(super) fn refusal(error: &Error) -> Option<&DbError> {
    let told = error.source()?.downcast_ref::<tokio_postgres::Error>()?.as_db_error()?;
    is_refusal(told.code()).then_some(told)
}

/// Errors that a value causes, whoever sends it again.
fn is_refusal(code: &SqlState) -> bool {
    matches!(*code, SqlState::NOT_NULL_VIOLATION | SqlState::CHECK_VIOLATION)
        // Data exceptions, and what functions raise.
        || ["22", "P0"].iter().any(|class| code.code().starts_with(class))
}

/// Of these columns the one that a COPY's error tells of; all of them where it tells of none, as in another language.
fn told_of<'a>(error: &DbError, columns: &BTreeSet<&'a str>) -> BTreeSet<&'a str> {
    // `COPY orders_history, line 7, column status: "glad"`, without the value in the binary format.
    let context = error.where_().unwrap_or_default();
    let is_told_of = |name: &str| {
        let rest = context.split_once(&format!(", column {name}")).map(|(_, rest)| rest);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '\n']))
    };
    match columns.iter().find(|name| is_told_of(name)) {
        Some(name) => BTreeSet::from([*name]),
        None => columns.clone(),
    }
}

/// The type, or that of its elements, is no built-in one.
pub(super) fn is_of_users(data_type: &DataType) -> bool {
    let base = data_type.base();
    match &base.kind {
        TypeKind::Array(element) => is_of_users(element),
        _ => base.oid >= FIRST_OF_USERS,
    }
}

/// The columns that a table ever had whose types somebody made, by their names in the history.
fn of_users(versions: &[SchemaVersion]) -> BTreeSet<&str> {
    let columns = versions.iter().flat_map(|version| &version.columns);
    let made = columns.filter(|column| column.hashed.is_none() && is_of_users(&column.data_type()));
    made.map(|column| column.physical()).collect()
}

impl FactTables {
    /// What was copied into a table; remembers which of its columns have to be text, where the target refuses a value, and the table itself where
    /// that is none of them.
    pub(super) fn of_copy(&mut self, table: &str, copied: Result<()>) -> Result<()> {
        let Some(refused) = copied.as_ref().err().and_then(refusal) else {
            return self.of_table(table, copied);
        };
        let versions = self.archive.log().schemas(table);
        let kept = self.as_text.get(table);
        let may_refuse =
            of_users(versions).into_iter().filter(|name| kept.is_none_or(|kept| !kept.contains(*name)));
        let columns = told_of(refused, &may_refuse.collect());
        let columns: Vec<String> = columns.into_iter().map(str::to_owned).collect();
        self.unfit = Some(if columns.is_empty() {
            Unfit::Table(table.to_owned())
        } else {
            Unfit::Values { table: table.to_owned(), columns }
        });
        copied
    }

    /// A column that was made; remembers it where the target does not take its type's modifier, as that of a `numeric(3,-2)` before
    /// PostgreSQL 15.
    pub(super) fn of_column(&mut self, table: &str, physical: &str, made: Result<()>) -> Result<()> {
        if made.as_ref().err().and_then(refusal).is_some() && !self.is_as_text(table, physical) {
            self.unfit = Some(Unfit::Values { table: table.to_owned(), columns: vec![physical.to_owned()] });
        }
        made
    }

    /// These columns of a table are of the type from now on that takes all that facts hold: text, for types of users.
    pub(super) fn keep_as_text(&mut self, table: &str, columns: Vec<String>) {
        tracing::warn!(
            table,
            ?columns,
            "their types on the target of --facts refuse what the source has: they are text there from now on, or of the widest type of their kind"
        );
        self.as_text.entry(table.to_owned()).or_default().extend(columns);
    }

    /// A column of a table is to be of its kind's widest type, whatever its own is called.
    pub(super) fn is_as_text(&self, table: &str, physical: &str) -> bool {
        self.as_text.get(table).is_some_and(|columns| columns.contains(physical))
    }

    /// Has the columns be text that were found to refuse a value of the commit that is written.
    pub(super) async fn widen_refusing(&mut self) -> Result<()> {
        for (table, columns) in self.as_text.clone() {
            let Some(base) = self.names.known(&table).map(str::to_owned) else { continue };
            let Some(newest) = self.newest_there(&table).await? else { continue };
            let versions = self.archive.log().schemas(&table).to_vec();
            for version in versions.iter().filter(|version| version.schema <= newest) {
                self.fit_all(&base, version).await?;
            }
            let objects = self.objects_of(&base, &table, newest)?;
            self.execute(DOING, &objects.statements()).await?;
            self.comment_on(&base, &columns).await?;
        }
        Ok(())
    }

    async fn comment_on(&self, base: &str, columns: &BTreeSet<String>) -> Result<()> {
        let history = format!("{base}_history");
        let there = self.columns_of(&history).await?;
        let name = format!("{}.{}", quote_identifier(&self.schema), quote_identifier(&history));
        for column in columns.iter().filter(|column| there.contains_key(*column)) {
            let sql = format!(
                "comment on column {name}.{} is {}",
                quote_identifier(column),
                quote_literal("of a wider type than in the source, because that one is refused here")
            );
            self.execute(DOING, &sql).await?;
        }
        Ok(())
    }

    /// The newest schema version of a table that the target has.
    pub(super) async fn newest_there(&self, table: &str) -> Result<Option<i32>> {
        let s = quote_identifier(&self.schema);
        let sql = format!("select max(schema) from {s}.schemas where table_name = $1");
        let row = self.client.query_one(&sql, &[&table]).await;
        Ok(row.map_err(|error| told("reading schema versions", &error))?.get(0))
    }
}
