//! The keys that libpq knows, the environment variables behind them, and which of them are supported.

use super::ConnInfoError;

pub(super) const DEFAULT_PORT: u16 = 5432;

/// One key of libpq ("Parameter Key Words" in the PostgreSQL manual).
pub(super) struct Key {
    pub(super) name: &'static str,
    variable: Option<&'static str>,
    pub(super) support: Support,
}

/// How far a key is supported.
#[derive(Clone, Copy)]
pub(super) enum Support {
    /// Honoured, or without any meaning here.
    Full,
    /// Only these values, and why no other.
    Only(&'static [&'static str], &'static str),
}

const fn full(name: &'static str, variable: &'static str) -> Key {
    Key { name, variable: Some(variable), support: Support::Full }
}

const fn unset(name: &'static str) -> Key {
    Key { name, variable: None, support: Support::Full }
}

const fn only(
    name: &'static str,
    variable: Option<&'static str>,
    values: &'static [&'static str],
    why: &'static str,
) -> Key {
    Key { name, variable, support: Support::Only(values, why) }
}

pub(super) const KEYS: &[Key] = &[
    full("host", "PGHOST"),
    full("hostaddr", "PGHOSTADDR"),
    full("port", "PGPORT"),
    full("user", "PGUSER"),
    full("password", "PGPASSWORD"),
    full("dbname", "PGDATABASE"),
    full("passfile", "PGPASSFILE"),
    full("application_name", "PGAPPNAME"),
    unset("fallback_application_name"),
    full("connect_timeout", "PGCONNECT_TIMEOUT"),
    full("options", "PGOPTIONS"),
    full("sslmode", "PGSSLMODE"),
    full("sslrootcert", "PGSSLROOTCERT"),
    full("sslcert", "PGSSLCERT"),
    full("sslkey", "PGSSLKEY"),
    full("sslsni", "PGSSLSNI"),
    full("channel_binding", "PGCHANNELBINDING"),
    full("target_session_attrs", "PGTARGETSESSIONATTRS"),
    unset("keepalives"),
    unset("keepalives_idle"),
    unset("keepalives_interval"),
    unset("keepalives_count"),
    unset("tcp_user_timeout"),
    // Without a meaning here: the encoding is always UTF-8, the mode of the connection is the caller's, TLS compression
    // does not exist any more, and GSSAPI is never used (so its details do not matter).
    full("client_encoding", "PGCLIENTENCODING"),
    unset("replication"),
    unset("sslcompression"),
    full("krbsrvname", "PGKRBSRVNAME"),
    full("gsslib", "PGGSSLIB"),
    full("gssdelegation", "PGGSSDELEGATION"),
    // Each of these narrows what libpq accepts: passing over one would weaken what the user asked for.
    only(
        "gssencmode",
        Some("PGGSSENCMODE"),
        &["disable", "prefer"],
        "there is no GSSAPI encryption; use sslmode",
    ),
    only("requirepeer", Some("PGREQUIREPEER"), &[], "peer checks are not made"),
    only("require_auth", Some("PGREQUIREAUTH"), &[], "use channel_binding=require with sslmode=verify-full"),
    only("sslcrl", Some("PGSSLCRL"), &[], "revocation lists are not read"),
    only("sslcrldir", Some("PGSSLCRLDIR"), &[], "revocation lists are not read"),
    only("sslpassword", None, &[], "remove the passphrase from the key: openssl pkey -in KEY -out NEWKEY"),
    only("sslcertmode", Some("PGSSLCERTMODE"), &["allow"], "leave sslcert unset where none is to be sent"),
    only(
        "sslnegotiation",
        Some("PGSSLNEGOTIATION"),
        &["postgres"],
        "every server takes sslnegotiation=postgres",
    ),
    only(
        "ssl_min_protocol_version",
        Some("PGSSLMINPROTOCOLVERSION"),
        &["TLSv1", "TLSv1.1", "TLSv1.2"],
        "TLS 1.2 and 1.3 are spoken",
    ),
    only(
        "ssl_max_protocol_version",
        Some("PGSSLMAXPROTOCOLVERSION"),
        &["TLSv1.3"],
        "TLS 1.2 and 1.3 are spoken",
    ),
    only("load_balance_hosts", Some("PGLOADBALANCEHOSTS"), &["disable"], "hosts are tried in order"),
    only("service", None, &[], "write the settings of the service out"),
];

/// The environment variable of a key.
pub(super) fn variable(name: &str) -> Option<&'static str> {
    KEYS.iter().find(|key| key.name == name)?.variable
}

/// The key of a name, or an error that names the nearest.
pub(super) fn find(name: &str) -> Result<&'static Key, ConnInfoError> {
    if let Some(key) = KEYS.iter().find(|key| key.name == name) {
        return Ok(key);
    }
    let nearest = KEYS.iter().map(|key| (distance(name, key.name), key.name)).min();
    Err(match nearest {
        Some((edits, nearest)) if edits <= 2 + name.len() / 4 => {
            ConnInfoError::new(format_args!("unknown connection setting {name:?}: did you mean {nearest:?}?"))
        }
        _ => ConnInfoError::new(format_args!("unknown connection setting {name:?}")),
    })
}

/// How many characters have to be put in, taken out or changed (Levenshtein's distance).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, y) in row.iter_mut().skip(1).zip(b.chars()) {
            let here = (diagonal + usize::from(x != y)).min(left + 1).min(*cell + 1);
            diagonal = std::mem::replace(cell, here);
            left = here;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_count_edits() {
        for (a, b, edits) in
            [("", "abc", 3), ("abc", "", 3), ("host", "hots", 2), ("user", "user", 0), ("a", "b", 1)]
        {
            assert_eq!(distance(a, b), edits, "{a} {b}");
        }
    }

    #[test]
    fn a_misspelt_key_names_the_nearest() {
        let text = find("ssl_mode").err().unwrap().to_string();
        assert!(text.contains("\"sslmode\""), "{text}");
        let text = find("hots").err().unwrap().to_string();
        assert!(text.contains("\"host\""), "{text}");
        let text = find("xyzzyxyzzy").err().unwrap().to_string();
        assert!(!text.contains("did you mean"), "{text}");
    }
}
