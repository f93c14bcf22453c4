//! The table of transactions, read back.

use arrow::array::{
    Array, AsArray, Int64Array, MapArray, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use bygone_replication::Lsn;
use bygone_replication::table::quote_literal;

use super::archive::Kept;
use super::file::{self, column, integer_bounds};
use super::{Archive, Cut, Flow};
use crate::error::{Error, Result};
use crate::fact_file::damaged;
use crate::fact_tables::actor_start;
use crate::log::Add;
use crate::log::path::TRANSACTIONS;
use crate::store::Store;
use crate::timestamp::Timestamp;

/// A transaction that changed something captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// The 64-bit transaction id.
    pub xid: i64,
    /// The end of its commit record.
    pub lsn: Lsn,
    /// Its commit time as the source recorded it.
    pub committed_at: Timestamp,
    /// Its commit time, made non-decreasing.
    pub valid_from: Timestamp,
    /// Who, as the application said.
    pub actor: Option<String>,
    /// What the application said, as a JSON object.
    pub context: Option<String>,
    /// The replication origin.
    pub origin: Option<String>,
    /// How many facts it left in each table.
    pub tables: Vec<(String, i64)>,
}

/// Which transactions are wanted.
#[derive(Clone, Debug, Default)]
pub struct TransactionFilter {
    /// Those with this id, or with these 32 low bits of it (as `xmin` shows them).
    pub xid: Option<i64>,
    /// The one that ends here.
    pub lsn: Option<Lsn>,
    /// Those of this actor.
    pub actor: Option<String>,
    /// Those at or before this moment.
    pub until: Option<Cut>,
    /// Those at or after this time.
    pub since: Option<Timestamp>,
}

const LOW: i64 = 0xFFFF_FFFF;

impl TransactionFilter {
    fn takes(&self, transaction: &Transaction) -> bool {
        let Transaction { xid, lsn, valid_from, actor, .. } = transaction;
        self.xid.is_none_or(|wanted| *xid == wanted || (wanted <= LOW && xid & LOW == wanted))
            && self.lsn.is_none_or(|wanted| *lsn == wanted)
            && self.actor.as_ref().is_none_or(|wanted| actor.as_ref() == Some(wanted))
            && self.until.is_none_or(|cut| cut.covers(lsn.as_i64(), valid_from.0))
            && self.since.is_none_or(|since| *valid_from >= since)
    }
}

impl TransactionFilter {
    /// The same for rows `h` of a table of transactions.
    pub(crate) fn sql(&self) -> String {
        let mut wanted = vec!["true".to_owned()];
        wanted.extend(self.xid.map(|xid| match xid {
            0..=LOW => format!("(h.xid = {xid} or h.xid & {LOW} = {xid})"),
            xid => format!("h.xid = {xid}"),
        }));
        wanted.extend(self.lsn.map(|lsn| format!("h.lsn = '{lsn}'")));
        wanted.extend(self.actor.as_ref().map(|actor| {
            let actor = quote_literal(actor);
            format!("h.actor = {actor} and {} = {}", actor_start("h.actor"), actor_start(&actor))
        }));
        wanted.extend(self.until.map(|cut| cut.sql("h.lsn", "h.valid_from")));
        wanted.extend(self.since.map(|since| format!("h.valid_from >= '{since}'")));
        wanted.join(" and ")
    }
}

impl Archive {
    /// Walks over transactions, newest first.
    ///
    /// # Errors
    /// Where a file cannot be read.
    pub async fn transactions(
        &self,
        filter: &TransactionFilter,
        visit: &mut dyn FnMut(Transaction) -> Flow,
    ) -> Result<()> {
        let store = match self.kept() {
            Kept::Files(store) => store,
            Kept::Rows(rows) => return rows.transactions(filter, visit).await,
        };
        let mut files = self.log().files_of(TRANSACTIONS);
        files.sort_by_key(|file| std::cmp::Reverse((file.add.lsn[1], file.add.lsn[0])));
        for file in files {
            let add = &file.add;
            let [first, last] = add.lsn;
            let [earliest, latest] = add.valid_from;
            let out = filter.lsn.is_some_and(|lsn| lsn < first || lsn > last)
                || filter.until.is_some_and(|cut| !cut.covers(first.as_i64(), earliest.0))
                || filter.since.is_some_and(|since| latest < since);
            if out {
                continue;
            }
            let builder = file::open(store, &add.path, add.bytes).await?;
            let groups: Vec<usize> = builder
                .metadata()
                .row_groups()
                .iter()
                .enumerate()
                .filter(|(_, group)| {
                    let bounds = filter.xid.and_then(|xid| Some((xid, integer_bounds(group, "xid")?)));
                    bounds.is_none_or(|(xid, bounds)| is_within(xid, bounds))
                })
                .map(|(at, _)| at)
                .collect();
            let mut batches = file::read(&add.path, builder.with_row_groups(groups))?;
            let mut found = Vec::new();
            while let Some(batch) = file::next(&add.path, &mut batches).await? {
                for at in 0..batch.num_rows() {
                    let transaction = transaction(&add.path, &batch, at)?;
                    if filter.takes(&transaction) {
                        found.push(transaction);
                    }
                }
            }
            for transaction in found.into_iter().rev() {
                if visit(transaction).is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// The number of a transaction, or that of one whose lower half it is, lies between two.
fn is_within(xid: i64, (min, max): (i64, i64)) -> bool {
    if xid > LOW {
        return (min..=max).contains(&xid);
    }
    let epoch = LOW + 1;
    let first = min.div_euclid(epoch) * epoch + xid;
    // Of the epoch in which the first one lies, or of the next.
    (min..=max).contains(&first) || first.checked_add(epoch).is_some_and(|next| next <= max)
}

/// Walks over the transactions of one file, in its order.
///
/// # Errors
/// Where it cannot be read.
pub(crate) async fn transactions_of(
    store: &Store,
    add: &Add,
    visit: &mut dyn FnMut(Transaction) -> Flow,
) -> Result<()> {
    let path = &add.path;
    let builder = file::open(store, path, add.bytes).await?;
    let mut batches = file::read(path, builder)?;
    while let Some(batch) = file::next(path, &mut batches).await? {
        for at in 0..batch.num_rows() {
            if visit(transaction(path, &batch, at)?).is_break() {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn transaction(path: &str, batch: &RecordBatch, at: usize) -> Result<Transaction> {
    let number = |name| Ok::<_, Error>(column::<Int64Array>(path, batch, name)?.value(at));
    let time =
        |name| Ok::<_, Error>(Timestamp(column::<TimestampMicrosecondArray>(path, batch, name)?.value(at)));
    let text = |name| {
        let array: &StringArray = column(path, batch, name)?;
        Ok::<_, Error>(array.is_valid(at).then(|| array.value(at).to_owned()))
    };
    let counts: &MapArray = column(path, batch, "tables")?;
    let counts = counts.value(at);
    let names = counts.column(0).as_string_opt::<i32>();
    let numbers = counts.column(1).as_any().downcast_ref::<Int64Array>();
    let (Some(names), Some(numbers)) = (names, numbers) else {
        return Err(damaged(path, "its counts per table have another type"));
    };
    let tables = names.iter().flatten().zip(numbers.values()).map(|(name, count)| (name.to_owned(), *count));
    Ok(Transaction {
        xid: number("xid")?,
        lsn: Lsn::from_i64(number("lsn")?),
        committed_at: time("committed_at")?,
        valid_from: time("valid_from")?,
        actor: text("actor")?,
        context: text("context")?,
        origin: text("origin")?,
        tables: tables.collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_of_32_bits_is_looked_for_in_each_epoch() {
        let epoch = LOW + 1;
        for (xid, bounds, held) in [
            (700, (600, 800), true),
            (700, (701, 800), false),
            (700, (600, 699), false),
            (700, (epoch + 600, epoch + 800), true),
            (700, (epoch + 701, epoch + 800), false),
            (700, (LOW - 5, epoch + 700), true),
            (700, (LOW - 5, epoch + 699), false),
            (700, (701, 3 * epoch), true),
            (epoch + 700, (600, 800), false),
            (epoch + 700, (600, epoch + 700), true),
        ] {
            assert_eq!(is_within(xid, bounds), held, "{xid} in {bounds:?}");
        }
    }
}
