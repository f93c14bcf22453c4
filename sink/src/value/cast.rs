//! What a value reads as once its column has another type.
//!
//! PostgreSQL rewrites a table for most changes of a column's type, and then its rows are compared with the source. For some it
//! does not (`ATColumnChangeRequiresRewrite`): the types have one form on disk, and what is in the rows simply reads otherwise.
//! For nearly all of these the text stays; here are those whose text does not. A session in UTC changes `timestamp` into
//! `timestamptz` and back like that; in any other zone the table is rewritten.

use bygone_replication::table::{DataType, TypeKind};

/// A single host of a `cidr`, as a regular expression that PostgreSQL, DuckDB and Spark alike understand: its address is in the one or the
/// other group.
pub const HOST: &str = "^([0-9.]+)/32$|^(.*:.*)/128$";

/// How the text of a value of one type becomes that of the same value as another type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cast {
    /// It stays.
    Same,
    /// `timestamp` as `timestamptz`: the moment in UTC.
    IntoUtc,
    /// `timestamptz` as `timestamp`: the time of day in UTC.
    OutOfUtc,
    /// `integer` as `oid`: the same 32 bits, without a sign.
    Unsigned,
    /// `oid` as `integer`.
    Signed,
    /// `cidr` as `inet`: a single host goes without its netmask.
    Host,
    /// It may be another, and only the server can tell which.
    Unknown,
}

impl Cast {
    /// What a change of a column's type comes to.
    #[must_use]
    pub fn between(from: &DataType, to: &DataType) -> Self {
        let (from, to) = (from.base(), to.base());
        if from.oid == to.oid {
            return Self::Same;
        }
        if !is_built_in(from) || !is_built_in(to) {
            return if may_share_form(from, to) { Self::Unknown } else { Self::Same };
        }
        match (from.name.as_str(), to.name.as_str()) {
            ("timestamp", "timestamptz") => Self::IntoUtc,
            ("timestamptz", "timestamp") => Self::OutOfUtc,
            ("int4", "oid") => Self::Unsigned,
            ("oid", "int4") => Self::Signed,
            ("cidr", "inet") => Self::Host,
            // As text the declaration stays, which goes with the type.
            ("xml", "text" | "varchar" | "bpchar") => Self::Unknown,
            // Their text is the name of what has the number.
            (from, to) if from.starts_with("reg") || to.starts_with("reg") => Self::Unknown,
            _ => Self::Same,
        }
    }

    /// The text of a value of then as one of now.
    #[must_use]
    pub fn apply(self, text: String) -> String {
        let changed = match self {
            Self::Same | Self::Unknown => None,
            Self::IntoUtc => into_utc(&text),
            Self::OutOfUtc => text.contains("+00").then(|| text.replacen("+00", "", 1)),
            Self::Unsigned => text.parse::<i32>().ok().map(|number| number.cast_unsigned().to_string()),
            Self::Signed => text.parse::<u32>().ok().map(|number| number.cast_signed().to_string()),
            Self::Host => {
                let whole = if text.contains(':') { "/128" } else { "/32" };
                text.strip_suffix(whole).map(str::to_owned)
            }
        };
        changed.unwrap_or(text)
    }
}

fn into_utc(text: &str) -> Option<String> {
    let (moment, era) = match text.strip_suffix(" BC") {
        Some(moment) => (moment, " BC"),
        None => (text, ""),
    };
    // An infinity has no zone.
    moment.ends_with(|last: char| last.is_ascii_digit()).then(|| format!("{moment}+00{era}"))
}

fn is_built_in(data_type: &DataType) -> bool {
    data_type.schema == "pg_catalog"
}

/// A cast without a function may lead from one to the other. `citext` and its kin print what `text` does.
fn may_share_form(from: &DataType, to: &DataType) -> bool {
    let is_base = |data_type: &DataType| data_type.kind == TypeKind::Base;
    let is_text =
        |data_type: &DataType| matches!(data_type.name.as_str(), "text" | "varchar" | "bpchar" | "citext");
    is_base(from) && is_base(to) && !(is_text(from) && is_text(to))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(schema: &str, name: &str, oid: u32) -> DataType {
        let (schema, name) = (schema.to_owned(), name.to_owned());
        DataType { oid, schema, name, typmod: -1, kind: TypeKind::Base, binary: true }
    }

    #[test]
    fn a_value_reads_as_the_server_reads_its_bytes() {
        for (from, to, before, after) in [
            ("timestamp", "timestamptz", "2026-01-01 10:00:00.5", "2026-01-01 10:00:00.5+00"),
            ("timestamp", "timestamptz", "0044-03-15 12:00:00 BC", "0044-03-15 12:00:00+00 BC"),
            ("timestamp", "timestamptz", "-infinity", "-infinity"),
            ("timestamptz", "timestamp", "0044-03-15 12:00:00+00 BC", "0044-03-15 12:00:00 BC"),
            ("timestamptz", "timestamp", "infinity", "infinity"),
            ("int4", "oid", "-1", "4294967295"),
            ("oid", "int4", "4294967295", "-1"),
            ("cidr", "inet", "10.1.2.3/32", "10.1.2.3"),
            ("cidr", "inet", "10.1.2.0/24", "10.1.2.0/24"),
            ("cidr", "inet", "2001:db8::/32", "2001:db8::/32"),
            ("cidr", "inet", "::1/128", "::1"),
            ("varchar", "text", "a", "a"),
        ] {
            let cast = Cast::between(&named("pg_catalog", from, 1), &named("pg_catalog", to, 2));
            assert_eq!(cast.apply(before.to_owned()), after, "{from} to {to}");
        }
    }

    #[test]
    fn what_only_the_server_can_tell_is_told_from_what_stays() {
        let cast = |from: &DataType, to: &DataType| Cast::between(from, to);
        let built_in = |name: &str, oid: u32| named("pg_catalog", name, oid);
        let citext = named("public", "citext", 20_000);
        assert_eq!(cast(&built_in("xml", 1), &built_in("text", 2)), Cast::Unknown);
        assert_eq!(cast(&built_in("oid", 1), &built_in("regclass", 2)), Cast::Unknown);
        assert_eq!(cast(&named("public", "own", 20_001), &built_in("bytea", 2)), Cast::Unknown);
        assert_eq!(cast(&citext, &built_in("text", 2)), Cast::Same);
        assert_eq!(cast(&built_in("varchar", 1), &citext), Cast::Same);
        assert_eq!(cast(&citext, &citext), Cast::Same);
    }
}
