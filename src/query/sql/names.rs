//! The names of table functions, as SQL knows names.
//!
//! DataFusion looks for a table function by the first part of its name, as it was written: a schema before it, quotes
//! and capitals lead nowhere. So each name is put as the one that the function was registered under.

use std::ops::ControlFlow;

use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    Ident, ObjectName, ObjectNamePart, TableFactor, VisitMut as _, VisitorMut,
};

use super::catalog::SCHEMA;

/// What a function over the table `name` in `schema` is registered under, for who names the schema.
pub(super) fn qualified(schema: &str, name: &str) -> String {
    // A NUL is in no name, so that `a.b` in `c` and `b` in `c.a` are two.
    format!("{schema}\0{name}")
}

/// Puts the names of table functions in `statement` as they are registered.
pub(super) fn resolve(statement: &mut Statement) {
    match statement {
        Statement::Statement(statement) => {
            let _ = statement.visit(&mut Functions);
        }
        Statement::Explain(explain) => resolve(&mut explain.statement),
        _ => {}
    }
}

struct Functions;

impl VisitorMut for Functions {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        if let TableFactor::Table { name, args: Some(_), .. } = factor
            && let Some(parts) = name.0.iter().map(ObjectNamePart::as_ident).collect::<Option<Vec<_>>>()
        {
            let registered = match parts.as_slice() {
                [] => return ControlFlow::Continue(()),
                [function] => qualified(SCHEMA, &folded(function)),
                // The catalog before a schema can only be the one there is.
                [.., schema, function] => qualified(&folded(schema), &folded(function)),
            };
            *name = ObjectName::from(vec![Ident::new(registered)]);
        }
        ControlFlow::Continue(())
    }
}

/// A name as it is known: in lower case, unless it is quoted.
fn folded(name: &Ident) -> String {
    if name.quote_style.is_some() { name.value.clone() } else { name.value.to_lowercase() }
}
