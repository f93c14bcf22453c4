//! `key=value` strings ("Keyword/Value Connection Strings" in the PostgreSQL manual).

use super::ConnInfoError;

/// The pairs in order. Values are plain up to the next blank, or in single quotes; a backslash escapes.
pub(super) fn parse(text: &str) -> Result<Vec<(String, String)>, ConnInfoError> {
    let mut pairs = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let end = rest.find(|c: char| c == '=' || c.is_ascii_whitespace()).unwrap_or(rest.len());
        let (key, after) = rest.split_at_checked(end).unwrap_or((rest, ""));
        let Some(after) = after.trim_start().strip_prefix('=') else {
            // What stands here may be a part of a password with a blank in it: it is not quoted.
            return Err(ConnInfoError::new(
                "expected key=value pairs or a postgres:// URL (values with blanks stand in single quotes)",
            ));
        };
        let (value, after) = value(after.trim_start())?;
        if key.is_empty() {
            return Err(ConnInfoError::new("a connection setting has no name before its ="));
        }
        pairs.push((key.to_owned(), value));
        rest = after.trim_start();
    }
    Ok(pairs)
}

/// One value, and what follows it.
fn value(text: &str) -> Result<(String, &str), ConnInfoError> {
    let mut value = String::new();
    let quoted = text.strip_prefix('\'');
    let body = quoted.unwrap_or(text);
    let mut chars = body.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some((_, escaped)) => value.push(escaped),
                None => break,
            },
            '\'' if quoted.is_some() => return Ok((value, chars.as_str())),
            c if quoted.is_none() && c.is_ascii_whitespace() => {
                return Ok((value, body.get(at..).unwrap_or_default()));
            }
            c => value.push(c),
        }
    }
    match quoted {
        Some(_) => Err(ConnInfoError::new("a quoted value in the connection settings has no closing quote")),
        None => Ok((value, "")),
    }
}
