//! Patterns of `like`.

use crate::error::{Error, Result};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// `%`
    Any,
    /// `_`
    One,
    Char(char),
}

/// A pattern of `like` or `ilike`.
#[derive(Debug)]
pub(crate) struct Pattern {
    parts: Vec<Part>,
    /// Upper and lower case are alike.
    folded: bool,
}

impl Pattern {
    /// Reads a pattern: `%` stands for any text, `_` for one character, a backslash takes either by its word.
    ///
    /// # Errors
    /// Where a backslash ends it.
    pub(crate) fn new(text: &str, folded: bool) -> Result<Self> {
        let mut parts = Vec::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            match c {
                '%' => parts.push(Part::Any),
                '_' => parts.push(Part::One),
                '\\' => match chars.next() {
                    Some(escaped) if folded => parts.extend(escaped.to_lowercase().map(Part::Char)),
                    Some(escaped) => parts.push(Part::Char(escaped)),
                    None => return Err(Error::usage(format!("the pattern {text:?} ends with a backslash"))),
                },
                c if folded => parts.extend(c.to_lowercase().map(Part::Char)),
                c => parts.push(Part::Char(c)),
            }
        }
        Ok(Self { parts, folded })
    }

    /// The whole text matches. Takes time in proportion to text and pattern, whatever both are.
    pub(crate) fn matches(&self, text: &str) -> bool {
        let text: Vec<char> =
            if self.folded { text.to_lowercase() } else { text.to_owned() }.chars().collect();
        let (mut at, mut part) = (0, 0);
        // Where to go on after the last `%`, which then takes one character more.
        let mut again: Option<(usize, usize)> = None;
        while let Some(c) = text.get(at) {
            match self.parts.get(part) {
                Some(Part::Any) => {
                    part += 1;
                    again = Some((at, part));
                }
                Some(Part::One) => (at, part) = (at + 1, part + 1),
                Some(Part::Char(wanted)) if wanted == c => (at, part) = (at + 1, part + 1),
                _ => match again {
                    Some((from, after)) => {
                        (at, part) = (from + 1, after);
                        again = Some((from + 1, after));
                    }
                    None => return false,
                },
            }
        }
        self.parts.iter().skip(part).all(|part| *part == Part::Any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_as_in_postgres() {
        for (text, pattern, expected) in [
            ("", "", true),
            ("", "%", true),
            ("", "_", false),
            ("abc", "a%", true),
            ("abc", "%b%", true),
            ("abc", "a_c", true),
            ("abc", "a_", false),
            ("aXbXc", "%X_", true),
            ("aXbX", "%X_", false),
            ("50%", "50\\%", true),
            ("500", "50\\%", false),
            ("é漢", "__", true),
            ("abc", "abc%%", true),
        ] {
            assert_eq!(Pattern::new(pattern, false).unwrap().matches(text), expected, "{text} {pattern}");
        }
        assert!(Pattern::new("ÄB%", true).unwrap().matches("äbC"));
        assert!(!Pattern::new("ÄB%", false).unwrap().matches("äbC"));
        assert!(Pattern::new("a\\", false).is_err());
        // No pattern takes for ever.
        let long = "a".repeat(10_000);
        assert!(!Pattern::new(&"%a".repeat(50), false).unwrap().matches(&format!("{long}b")));
    }
}
