//! Statements in a text, told by the semicolons between them.

/// Takes lines, and gives back statements as they become whole.
#[derive(Debug, Default)]
pub(super) struct Statements {
    text: String,
}

impl Statements {
    /// All statements of a text; the last one needs no semicolon.
    pub(super) fn all(text: &str) -> Vec<String> {
        let mut statements = Self::default();
        let mut all = statements.take(text);
        let rest = statements.text.trim();
        if says_something(rest) {
            all.push(rest.to_owned());
        }
        all
    }

    /// A statement has begun and not ended.
    pub(super) fn is_open(&self) -> bool {
        says_something(&self.text)
    }

    /// Takes some lines.
    pub(super) fn take(&mut self, lines: &str) -> Vec<String> {
        self.text.push_str(lines);
        self.text.push('\n');
        let mut done = Vec::new();
        while let Some(end) = end_of_statement(&self.text) {
            let rest = self.text.split_off(end);
            let statement = std::mem::replace(&mut self.text, rest.get(1..).unwrap_or_default().to_owned());
            if says_something(&statement) {
                done.push(statement.trim().to_owned());
            }
        }
        done
    }
}

/// More than blanks and comments.
fn says_something(text: &str) -> bool {
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match comment(text, at) {
            Some(end) => while chars.next_if(|(at, _)| *at < end).is_some() {},
            None if c.is_whitespace() => {}
            None => return true,
        }
    }
    false
}

/// The byte of the first semicolon outside of quotes and comments.
fn end_of_statement(text: &str) -> Option<usize> {
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        if let Some(end) = comment(text, at) {
            while chars.next_if(|(at, _)| *at < end).is_some() {}
            continue;
        }
        if let Some(end) = in_dollars(text, at) {
            while chars.next_if(|(at, _)| *at < end).is_some() {}
            continue;
        }
        match c {
            ';' => return Some(at),
            // A doubled quote ends one string and begins the next.
            '\'' | '"' => while chars.next_if(|(_, inside)| *inside != c).is_some() {},
            _ => continue,
        }
        chars.next();
    }
    None
}

/// Where the string between `$$` and `$$`, or `$tag$` and `$tag$`, that begins at a byte ends.
fn in_dollars(text: &str, at: usize) -> Option<usize> {
    let of_name = |c: char| c.is_alphanumeric() || c == '_';
    let before = text.get(..at)?.chars().next_back();
    if before.is_some_and(|c| of_name(c) || c == '$') {
        return None;
    }
    let inside = text.get(at..)?.strip_prefix('$')?;
    let (tag, rest) = inside.split_once('$')?;
    if !tag.chars().all(of_name) || tag.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let mark = tag.len() + 2;
    let close = rest.find(&format!("${tag}$"));
    Some(close.map_or(text.len(), |close| at + mark + close + mark))
}

/// Where the comment that begins at a byte ends.
fn comment(text: &str, at: usize) -> Option<usize> {
    let rest = text.get(at..)?;
    let (end, close) = if rest.starts_with("--") {
        (rest.find('\n'), 1)
    } else if rest.starts_with("/*") {
        (rest.find("*/"), 2)
    } else {
        return None;
    };
    Some(end.map_or(text.len(), |end| at + end + close))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_semicolon_ends_a_statement_outside_of_quotes_and_comments() {
        assert_eq!(
            Statements::all("select ';', \"a;\"; -- not; here\n select /* ; */ 'it''s;' ;; \n-- the end"),
            ["select ';', \"a;\"", "-- not; here\n select /* ; */ 'it''s;'"]
        );
        assert_eq!(Statements::all("select 1"), ["select 1"]);
        assert_eq!(
            Statements::all("select $$a;'$$; select $q$b;$$;$q$, 'c$$;'; select a$b$;select $1"),
            ["select $$a;'$$", "select $q$b;$$;$q$, 'c$$;'", "select a$b$", "select $1"]
        );
        assert_eq!(Statements::all("select $$open;"), ["select $$open;"]);
        assert!(Statements::all(" ;\n-- nothing").is_empty());
        assert!(Statements::all("").is_empty());
        assert_eq!(Statements::all("select 'open; select 1"), ["select 'open; select 1"]);
    }

    #[test]
    fn lines_become_statements_as_they_come() {
        let mut statements = Statements::default();
        assert!(statements.take("select 1,").is_empty());
        assert!(statements.is_open());
        assert_eq!(statements.take("2; select 3; select"), ["select 1,\n2", "select 3"]);
        assert_eq!(statements.take("4;"), ["select\n4"]);
        assert!(!statements.is_open());
    }
}
