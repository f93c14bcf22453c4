//! What of a condition can be told by the facts' own columns, so that files and pages need not be read.
//!
//! DataFusion looks at the rows again: nothing here has to be exact, but nothing that matches may be left out.

use std::collections::HashSet;

use datafusion::logical_expr::expr::InList;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};
use datafusion::scalar::ScalarValue;

use bygone_replication::Lsn;
use bygone_sink::read::{Cut, FactFilter, TableHistory};
use bygone_sink::schema::SYSTEM_COLUMNS;
use bygone_sink::timestamp::Timestamp;
use bygone_sink::value::Kind;

use super::super::lookup::canonical;
use super::relation::VALID_TO;

/// The conditions that can be told, over a table.
#[derive(Debug)]
pub(super) struct Pushdown {
    /// The one column of the key, where the table always had that one.
    key: Option<(String, Kind)>,
    /// The relation has bygone's own columns: elsewhere one of these names is the user's.
    of_facts: bool,
}

/// One condition as facts have it.
enum Told {
    Entities(HashSet<String>),
    Actor(String),
    Lsn(i64),
    Until(Cut),
    Since(Cut),
}

impl Pushdown {
    /// Those over the facts of a table, or over its rows.
    pub(super) fn of(table: &TableHistory, of_facts: bool) -> Self {
        let newest = table.newest();
        let key = |at: &[usize]| match at {
            [one] => Some(*one),
            _ => None,
        };
        let column = key(&newest.key).and_then(|at| newest.columns.get(at));
        let always = table.versions.iter().all(|version| {
            let schema = &version.schema;
            let own = key(&schema.key).and_then(|at| schema.columns.get(at));
            schema.oid == newest.oid
                && own.zip(column).is_some_and(|(own, column)| {
                    own.column.attnum == column.column.attnum && own.kind == column.kind
                })
        });
        let kinds =
            |kind: &Kind| matches!(kind, Kind::Int16 | Kind::Int32 | Kind::Int64 | Kind::Text | Kind::Uuid);
        let column = column.filter(|column| always && kinds(&column.kind));
        // Blanks at the end, or upper and lower case, make no difference to some types.
        let column = column.filter(|column| {
            let base = column.column.data_type.base();
            column.kind != Kind::Text || matches!(base.name.as_str(), "text" | "varchar" | "name")
        });
        let is_ours = |name: &str| of_facts && (SYSTEM_COLUMNS.contains(&name) || name == VALID_TO);
        let column = column.filter(|column| !is_ours(&column.column.name));
        Self { key: column.map(|column| (column.column.name.clone(), column.kind.clone())), of_facts }
    }

    /// The condition narrows what is read.
    pub(super) fn takes(&self, condition: &Expr) -> bool {
        self.told(condition).is_some()
    }

    /// What all of the conditions together say of facts.
    pub(super) fn filter(&self, conditions: &[Expr]) -> FactFilter {
        let mut filter = FactFilter::default();
        for told in conditions.iter().filter_map(|condition| self.told(condition)) {
            match told {
                Told::Entities(wanted) => {
                    filter.entities = Some(match filter.entities.take() {
                        Some(before) => before.intersection(&wanted).cloned().collect(),
                        None => wanted,
                    });
                }
                Told::Actor(actor) => filter.actor = Some(actor),
                Told::Lsn(lsn) => filter.lsn = Some(Lsn::from_i64(lsn)),
                Told::Until(cut) => filter.until = filter.until.or(Some(cut)),
                Told::Since(Cut::Lsn(lsn)) => {
                    filter.within = filter.within.or(Some([lsn, Lsn(u64::MAX >> 1)]))
                }
                Told::Since(Cut::Time(time)) => filter.since = filter.since.or(Some(time)),
            }
        }
        filter
    }

    fn told(&self, condition: &Expr) -> Option<Told> {
        match condition {
            Expr::BinaryExpr(BinaryExpr { left, op, right }) => match (&**left, &**right) {
                (Expr::Column(column), Expr::Literal(value, _)) => self.compared(&column.name, *op, value),
                (Expr::Literal(value, _), Expr::Column(column)) => {
                    self.compared(&column.name, op.swap()?, value)
                }
                _ => None,
            },
            Expr::InList(InList { expr, list, negated: false }) => {
                let Expr::Column(column) = &**expr else { return None };
                let ids = list.iter().map(|item| match item {
                    Expr::Literal(value, _) => self.entity(&column.name, value),
                    _ => None,
                });
                ids.collect::<Option<HashSet<String>>>().map(Told::Entities)
            }
            _ => None,
        }
    }

    fn compared(&self, column: &str, operator: Operator, value: &ScalarValue) -> Option<Told> {
        let bound: fn(Cut) -> Told = match operator {
            Operator::Lt | Operator::LtEq | Operator::Eq => Told::Until,
            Operator::Gt | Operator::GtEq => Told::Since,
            _ => return None,
        };
        match (column, operator) {
            (_, Operator::Eq) if !self.of_facts => {
                self.entity(column, value).map(|id| Told::Entities(HashSet::from([id])))
            }
            _ if !self.of_facts => None,
            ("_lsn", Operator::Eq) => whole(value).map(Told::Lsn),
            ("_actor", Operator::Eq) => text(value).map(|actor| Told::Actor(actor.to_owned())),
            (_, Operator::Eq) => self.entity(column, value).map(|id| Told::Entities(HashSet::from([id]))),
            ("_lsn", _) => {
                whole(value).filter(|lsn| *lsn >= 0).map(|lsn| bound(Cut::Lsn(Lsn::from_i64(lsn))))
            }
            ("_valid_from", _) => match value {
                ScalarValue::TimestampMicrosecond(Some(us), _) => Some(bound(Cut::Time(Timestamp(*us)))),
                _ => None,
            },
            _ => None,
        }
    }

    /// The entity that a column's value names.
    fn entity(&self, column: &str, value: &ScalarValue) -> Option<String> {
        if self.of_facts && column == "_entity_id" {
            return text(value).map(str::to_owned);
        }
        let (name, kind) = self.key.as_ref()?;
        if name != column {
            return None;
        }
        match kind {
            Kind::Text | Kind::Uuid => text(value).map(|text| canonical(kind, text)),
            _ => whole(value).map(|number| number.to_string()),
        }
    }
}

fn text(value: &ScalarValue) -> Option<&str> {
    match value {
        ScalarValue::Utf8(text) | ScalarValue::Utf8View(text) | ScalarValue::LargeUtf8(text) => {
            text.as_deref()
        }
        _ => None,
    }
}

fn whole(value: &ScalarValue) -> Option<i64> {
    match value {
        ScalarValue::Int16(number) => number.map(i64::from),
        ScalarValue::Int32(number) => number.map(i64::from),
        ScalarValue::Int64(number) => *number,
        _ => None,
    }
}
