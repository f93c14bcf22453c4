//! The password file ("The Password File" in the PostgreSQL manual).

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// One line: host, port, database, user, password.
#[derive(PartialEq, Eq)]
pub(crate) struct Entry {
    fields: [Field; 4],
    password: String,
}

#[derive(PartialEq, Eq)]
enum Field {
    Any,
    Is(String),
}

impl Field {
    fn matches(&self, text: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Is(wanted) => wanted == text,
        }
    }
}

/// The entries of a file, in order; `None` where it does not exist or must not be used.
///
/// As in libpq, a file that others can read is not used: a warning says so.
pub(crate) fn read(file: &Path) -> Option<Vec<Entry>> {
    let metadata = fs::metadata(file).ok()?;
    if !metadata.is_file() {
        tracing::warn!(file = %file.display(), "password file is not used: it is not a plain file");
        return None;
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        tracing::warn!(file = %file.display(), "password file is not used: others can read it; run chmod 600 on it");
        return None;
    }
    match fs::read(file) {
        Ok(bytes) => Some(parse(&String::from_utf8_lossy(&bytes))),
        Err(err) => {
            tracing::warn!(file = %file.display(), error = %err, "password file is not used");
            None
        }
    }
}

/// The password of the first entry that matches.
pub(crate) fn find(entries: &[Entry], host: &str, port: u16, database: &str, user: &str) -> Option<String> {
    let port = port.to_string();
    let wanted = [host, &port, database, user];
    let entry = entries
        .iter()
        .find(|entry| entry.fields.iter().zip(wanted).all(|(field, text)| field.matches(text)))?;
    Some(entry.password.clone()).filter(|password| !password.is_empty())
}

fn parse(text: &str) -> Vec<Entry> {
    text.lines().filter(|line| !line.starts_with('#')).filter_map(parse_line).collect()
}

/// Fields are separated by `:`; `\:` and `\\` stand for the character; a field that is `*` matches all.
fn parse_line(line: &str) -> Option<Entry> {
    let mut fields = [(); 5].map(|()| String::new());
    let mut current = fields.iter_mut();
    let mut field = current.next()?;
    let mut chars = line.trim_end_matches('\r').chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => field.push(chars.next()?),
            ':' => match current.next() {
                Some(next) => field = next,
                // The password is the last field: what follows a further colon is not part of it, as in libpq.
                None => break,
            },
            c => field.push(c),
        }
    }
    if current.next().is_some() {
        return None;
    }
    let [host, port, database, user, password] = fields;
    let field = |text: String| if text == "*" { Field::Any } else { Field::Is(text) };
    Some(Entry { fields: [field(host), field(port), field(database), field(user)], password })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# comment\n\
        broken line\n\
        db:5432:shop:app:first\n\
        db:*:*:app:second\n\
        *:5433:*:*:p\\:w\\\\d\r\n\
        host\\:1:*:*:*:escaped\n\
        *:*:empty:*:\n\
        *:*:*:*:last";

    fn lookup(host: &str, port: u16, database: &str, user: &str) -> Option<String> {
        find(&parse(FILE), host, port, database, user)
    }

    #[test]
    fn the_first_line_that_matches_wins() {
        assert_eq!(lookup("db", 5432, "shop", "app").as_deref(), Some("first"));
        assert_eq!(lookup("db", 5432, "other", "app").as_deref(), Some("second"));
        assert_eq!(lookup("db", 5433, "shop", "root").as_deref(), Some("p:w\\d"));
        assert_eq!(lookup("host:1", 1, "x", "y").as_deref(), Some("escaped"));
        assert_eq!(lookup("x", 1, "empty", "y"), None);
        assert_eq!(lookup("x", 1, "y", "z").as_deref(), Some("last"));
    }

    #[test]
    fn a_file_that_others_can_read_is_not_used() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("pgpass");
        assert!(read(&file).is_none());
        fs::write(&file, FILE).unwrap();
        for (mode, used) in [(0o644, false), (0o640, false), (0o600, true), (0o400, true)] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(read(&file).is_some(), used, "{mode:o}");
        }
        assert!(read(directory.path()).is_none());
    }
}
