//! `postgres://` URLs ("Connection URIs" in the PostgreSQL manual).
//!
//! `postgresql://[user[:password]@][host[:port][,…]][/database][?key=value[&…]]`, each part percent-encoded. Values are
//! never quoted in errors: a password with a stray `/` or `@` ends up in any part.

use super::ConnInfoError;

const SCHEMES: [&str; 2] = ["postgres://", "postgresql://"];

pub(super) fn is_url(text: &str) -> bool {
    SCHEMES.iter().any(|scheme| text.trim_start().starts_with(scheme))
}

/// The settings of a URL as pairs, in order: later ones win.
pub(super) fn parse(text: &str) -> Result<Vec<(String, String)>, ConnInfoError> {
    let text = text.trim();
    let rest = SCHEMES.iter().find_map(|scheme| text.strip_prefix(scheme)).unwrap_or(text);
    let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    let mut pairs = Vec::new();
    let mut put = |key: &str, value: String| {
        if !value.is_empty() {
            pairs.push((key.to_owned(), value));
        }
    };

    let hosts = match authority.split_once('@') {
        Some((credentials, hosts)) => {
            let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
            put("user", decode(user)?);
            put("password", decode(password)?);
            hosts
        }
        None => authority,
    };
    let (mut names, mut ports) = (Vec::new(), Vec::new());
    for host in hosts.split(',') {
        let (name, port) = host_and_port(host)?;
        names.push(decode(name)?);
        ports.push(decode(port)?);
    }
    if names.iter().any(|name| !name.is_empty()) {
        put("host", names.join(","));
    }
    if ports.iter().any(|port| !port.is_empty()) {
        put("port", ports.join(","));
    }
    put("dbname", decode(database)?);

    for parameter in query.into_iter().flat_map(|query| query.split('&')) {
        let pair = parameter.split_once('=').filter(|(key, value)| !key.is_empty() && !value.contains('='));
        let Some((key, value)) = pair else {
            return Err(ConnInfoError::new("after ? the URL must have key=value, separated by &"));
        };
        let (key, value) = (decode(key)?, decode(value)?);
        // JDBC's spelling, which libpq takes as well.
        if key == "ssl" && value == "true" {
            pairs.push(("sslmode".to_owned(), "require".to_owned()));
        } else {
            pairs.push((key, value));
        }
    }
    Ok(pairs)
}

fn host_and_port(host: &str) -> Result<(&str, &str), ConnInfoError> {
    match host.strip_prefix('[') {
        Some(rest) => {
            let (name, after) = rest
                .split_once(']')
                .filter(|(name, _)| !name.is_empty())
                .ok_or_else(|| ConnInfoError::new("an IPv6 address in the URL must stand in [ and ]"))?;
            match after.strip_prefix(':') {
                Some(port) => Ok((name, port)),
                None if after.is_empty() => Ok((name, "")),
                None => Err(ConnInfoError::new("after an IPv6 address in the URL only :port can follow")),
            }
        }
        None => Ok(host.split_once(':').unwrap_or((host, ""))),
    }
}

fn decode(text: &str) -> Result<String, ConnInfoError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
        let value = digit().zip(digit()).and_then(|(high, low)| u8::try_from(high << 4 | low).ok());
        match value {
            None => {
                return Err(ConnInfoError::new(
                    "a % in the URL is not followed by two hexadecimal digits (a % itself is written %25)",
                ));
            }
            Some(0) => return Err(ConnInfoError::new("the URL holds a %00")),
            Some(value) => bytes.push(value),
        }
    }
    String::from_utf8(bytes).map_err(|_| ConnInfoError::new("a part of the URL is not UTF-8 when decoded"))
}
