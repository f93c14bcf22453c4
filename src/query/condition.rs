//! Conditions on rows: `total >= 10.5 and (customer = 'ann' or note like 'urgent%')`.
//!
//! They are SQL's, with its three values: a comparison with null, or with what is not known, is neither true nor false.

use bygone_sink::schema::{SchemaColumn, TableSchema};
use bygone_sink::value::{Field, Kind, Status};

use super::comparable::{Wanted, tell_of_hashes};
use super::lookup;
use super::pattern::Pattern;
use super::verdict::{Possible, Verdict};
use crate::error::{Error, Result};

const SUPPORTED: &str = "supported are columns compared with literals (=, <>, !=, <, <=, >, >=, is [not] null, [not] in (…), \
    [not] between … and …, [not] like, [not] ilike, is [not] distinct from), joined by and, or, not and parentheses, as in: \
    total >= 10.5 and (customer = 'ann' or note is not null)";

/// Parentheses and `not` within each other. Beyond that somebody plays tricks.
const DEPTH: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Debug)]
enum Test {
    Null,
    True,
    Compare(Operator, Wanted),
    Distinct(Option<Wanted>),
    /// One of these; a null among them makes "no" unknown.
    In(Vec<Wanted>, bool),
    Like(Pattern),
}

#[derive(Debug)]
enum Expression {
    Constant(Option<bool>),
    Not(Box<Expression>),
    And(Vec<Expression>),
    Or(Vec<Expression>),
    /// A test of the column at this position.
    Test(usize, Test),
}

/// A condition on the rows of a schema version.
#[derive(Debug)]
pub(crate) struct Condition(Expression);

impl Default for Condition {
    /// Holds for every row.
    fn default() -> Self {
        Self(Expression::Constant(Some(true)))
    }
}

impl Condition {
    /// Reads a condition on rows of a schema version.
    ///
    /// # Errors
    /// In a sentence that says what is supported.
    pub(crate) fn parse(schema: &TableSchema, text: &str) -> Result<Self> {
        let tokens = tokens(text)?;
        let mut parser = Parser { schema, text, rest: &tokens, depth: 0 };
        let expression = parser.any()?;
        if !parser.rest.is_empty() {
            return Err(unsupported(text));
        }
        Ok(Self(expression))
    }

    /// Positions of the columns that it reads.
    pub(crate) fn columns(&self) -> Vec<usize> {
        let mut columns = Vec::new();
        self.0.columns(&mut columns);
        columns
    }

    /// Whether it is true of a row.
    pub(crate) fn of(&self, fields: &[Field<'_>], kinds: &[Kind]) -> Verdict {
        self.0.of(fields, kinds).verdict()
    }
}

impl Expression {
    fn columns(&self, into: &mut Vec<usize>) {
        match self {
            Self::Constant(_) => {}
            Self::Not(inner) => inner.columns(into),
            Self::And(parts) | Self::Or(parts) => parts.iter().for_each(|part| part.columns(into)),
            Self::Test(at, _) => into.push(*at),
        }
    }

    fn of(&self, fields: &[Field<'_>], kinds: &[Kind]) -> Possible {
        let all = |parts: &[Self], negated: bool| {
            let values = parts.iter().map(|part| part.of(fields, kinds));
            let values = values.map(|value| if negated { value.negated() } else { value });
            values.fold(Possible::TRUE, Possible::and)
        };
        match self {
            Self::Constant(value) => (*value).into(),
            Self::Not(inner) => inner.of(fields, kinds).negated(),
            Self::And(parts) => all(parts, false),
            Self::Or(parts) => all(parts, true).negated(),
            Self::Test(at, test) => match (fields.get(*at), kinds.get(*at)) {
                (Some(field), Some(kind)) => test.of(*field, kind),
                _ => Possible::NULL,
            },
        }
    }
}

impl Test {
    fn of(&self, field: Field<'_>, kind: &Kind) -> Possible {
        match (field.status, self) {
            (Status::Unknown, Self::Null | Self::Distinct(_)) => Possible::NOT_NULL,
            (Status::Unknown, _) => Possible::ANY,
            _ => self.of_known(field, kind).into(),
        }
    }

    fn of_known(&self, field: Field<'_>, kind: &Kind) -> Option<bool> {
        let is_null = field.status == Status::Null;
        match self {
            Self::Null => Some(is_null),
            Self::True if is_null => None,
            Self::True => Some(field.array::<1>().is_ok_and(|[byte]| byte != 0)),
            Self::Compare(operator, wanted) => {
                let order = wanted.compare(kind, field)?;
                Some(match operator {
                    Operator::Equal => order.is_eq(),
                    Operator::NotEqual => order.is_ne(),
                    Operator::Less => order.is_lt(),
                    Operator::LessOrEqual => order.is_le(),
                    Operator::Greater => order.is_gt(),
                    Operator::GreaterOrEqual => order.is_ge(),
                })
            }
            Self::Distinct(None) => Some(!is_null),
            Self::Distinct(Some(_)) if is_null => Some(true),
            Self::Distinct(Some(wanted)) => wanted.compare(kind, field).map(std::cmp::Ordering::is_ne),
            Self::In(..) if is_null => None,
            Self::In(among, has_null) => {
                let found = among.iter().any(|wanted| wanted.is(kind, field));
                if !found && *has_null { None } else { Some(found) }
            }
            Self::Like(_) if is_null => None,
            Self::Like(pattern) => super::value::text(kind, field).ok().map(|text| pattern.matches(&text)),
        }
    }
}

struct Parser<'a> {
    schema: &'a TableSchema,
    text: &'a str,
    rest: &'a [Token],
    depth: usize,
}

impl<'a> Parser<'a> {
    /// Parts joined by `or`.
    fn any(&mut self) -> Result<Expression> {
        let mut parts = vec![self.all()?];
        while self.word("or") {
            parts.push(self.all()?);
        }
        Ok(joined(parts, Expression::Or))
    }

    /// Parts joined by `and`.
    fn all(&mut self) -> Result<Expression> {
        let mut parts = vec![self.one()?];
        while self.word("and") {
            parts.push(self.one()?);
        }
        Ok(joined(parts, Expression::And))
    }

    fn one(&mut self) -> Result<Expression> {
        self.depth += 1;
        if self.depth > DEPTH {
            return Err(Error::usage("--where goes too deep: leave out some parentheses"));
        }
        let expression = if self.word("not") {
            Expression::Not(Box::new(self.one()?))
        } else if self.take(&Token::Open) {
            let inner = self.any()?;
            self.expect(&Token::Close)?;
            inner
        } else {
            self.test()?
        };
        self.depth -= 1;
        Ok(expression)
    }

    fn test(&mut self) -> Result<Expression> {
        let (name, quoted) = match self.next() {
            Some(Token::Word(name)) => (name.clone(), false),
            Some(Token::Quoted(name)) => (name.clone(), true),
            _ => return Err(unsupported(self.text)),
        };
        // A column may be called so.
        let found = lookup::column(self.schema, &name);
        if found.is_err() && !quoted {
            match name.to_ascii_lowercase().as_str() {
                "true" => return Ok(Expression::Constant(Some(true))),
                "false" => return Ok(Expression::Constant(Some(false))),
                "null" => return Ok(Expression::Constant(None)),
                _ => {}
            }
        }
        let (at, column) = found?;
        if self.word("is") {
            let negated = self.word("not");
            let test = if self.word("null") {
                Test::Null
            } else if self.word("distinct") {
                self.expect_word("from")?;
                Test::Distinct(self.literal(column)?)
            } else {
                let wanted =
                    if self.word("true") { true } else { self.expect_word("false").map(|()| false)? };
                let test = Test::Distinct(Some(Wanted::new(column, if wanted { "true" } else { "false" })?));
                return Ok(negation(Expression::Test(at, test), !negated));
            };
            return Ok(negation(Expression::Test(at, test), negated));
        }
        let negated = self.word("not");
        let expression = if self.word("in") {
            self.list(at, column)?
        } else if self.word("between") {
            let low = self.compared(at, column, Operator::GreaterOrEqual)?;
            self.expect_word("and")?;
            Expression::And(vec![low, self.compared(at, column, Operator::LessOrEqual)?])
        } else if self.word("like") {
            Expression::Test(at, Test::Like(self.pattern(column, false)?))
        } else if self.word("ilike") {
            Expression::Test(at, Test::Like(self.pattern(column, true)?))
        } else if negated {
            return Err(unsupported(self.text));
        } else if let Some(Token::Operator(operator)) = self.rest.first() {
            let operator = *operator;
            self.next();
            self.compared(at, column, operator)?
        } else if column.kind == Kind::Bool {
            Expression::Test(at, Test::True)
        } else {
            return Err(unsupported(self.text));
        };
        Ok(negation(expression, negated))
    }

    fn compared(&mut self, at: usize, column: &SchemaColumn, operator: Operator) -> Result<Expression> {
        let Some(wanted) = self.literal(column)? else { return Ok(Expression::Constant(None)) };
        if !wanted.has_order() && !matches!(operator, Operator::Equal | Operator::NotEqual) {
            return Err(Error::usage(format!("{} can be compared by = and <> only", column.column.name)));
        }
        Ok(Expression::Test(at, Test::Compare(operator, wanted)))
    }

    fn list(&mut self, at: usize, column: &SchemaColumn) -> Result<Expression> {
        self.expect(&Token::Open)?;
        let (mut among, mut has_null) = (Vec::new(), false);
        loop {
            match self.literal(column)? {
                Some(wanted) => among.push(wanted),
                None => has_null = true,
            }
            if self.take(&Token::Close) {
                return Ok(Expression::Test(at, Test::In(among, has_null)));
            }
            self.expect(&Token::Comma)?;
        }
    }

    fn pattern(&mut self, column: &SchemaColumn, folded: bool) -> Result<Pattern> {
        let base = column.column.data_type.base();
        let of_text = column.kind == Kind::Text && (base.schema == "pg_catalog" || base.name == "citext");
        if !of_text {
            let (name, data_type) = (&column.column.name, &base.name);
            return Err(Error::usage(format!("{name} is of type {data_type}: like is for text")));
        }
        match self.next() {
            Some(Token::Literal(text)) => {
                tell_of_hashes(column, text);
                Pattern::new(text, folded || base.name == "citext")
            }
            _ => Err(unsupported(self.text)),
        }
    }

    /// A literal; none for null.
    fn literal(&mut self, column: &SchemaColumn) -> Result<Option<Wanted>> {
        match self.next() {
            Some(Token::Literal(value)) => {
                tell_of_hashes(column, value);
                Wanted::new(column, value).map(Some)
            }
            Some(Token::Word(word)) if is_word(word, "null") => Ok(None),
            Some(Token::Word(word)) if is_word(word, "true") || is_word(word, "false") => {
                Wanted::new(column, word).map(Some)
            }
            Some(Token::Word(word)) => Err(Error::usage(format!(
                "--where compares columns with literals: if {word} is text, write '{word}'"
            ))),
            _ => Err(unsupported(self.text)),
        }
    }

    fn next(&mut self) -> Option<&'a Token> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(first)
    }

    fn take(&mut self, token: &Token) -> bool {
        let found = self.rest.first() == Some(token);
        if found {
            self.next();
        }
        found
    }

    fn word(&mut self, word: &str) -> bool {
        let found = matches!(self.rest.first(), Some(Token::Word(first)) if is_word(first, word));
        if found {
            self.next();
        }
        found
    }

    fn expect(&mut self, token: &Token) -> Result<()> {
        if self.take(token) { Ok(()) } else { Err(unsupported(self.text)) }
    }

    fn expect_word(&mut self, word: &str) -> Result<()> {
        if self.word(word) { Ok(()) } else { Err(unsupported(self.text)) }
    }
}

fn joined(mut parts: Vec<Expression>, join: fn(Vec<Expression>) -> Expression) -> Expression {
    match parts.len() {
        1 => parts.swap_remove(0),
        _ => join(parts),
    }
}

fn negation(expression: Expression, negated: bool) -> Expression {
    if negated { Expression::Not(Box::new(expression)) } else { expression }
}

fn is_word(token: &str, word: &str) -> bool {
    token.eq_ignore_ascii_case(word)
}

fn unsupported(text: &str) -> Error {
    Error::usage(format!("--where {text:?} is not understood: {SUPPORTED}"))
}

#[derive(Debug, PartialEq)]
enum Token {
    Word(String),
    Quoted(String),
    Literal(String),
    Operator(Operator),
    Open,
    Close,
    Comma,
}

fn tokens(text: &str) -> Result<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            c if c.is_whitespace() => {}
            '\'' | '"' => {
                let mut inside = String::new();
                loop {
                    match chars.next() {
                        Some(next) if next == c && chars.peek() == Some(&c) => {
                            chars.next();
                            inside.push(c);
                        }
                        Some(next) if next == c => break,
                        Some(next) => inside.push(next),
                        None => return Err(unsupported(text)),
                    }
                }
                tokens.push(if c == '"' { Token::Quoted(inside) } else { Token::Literal(inside) });
            }
            '(' => tokens.push(Token::Open),
            ')' => tokens.push(Token::Close),
            ',' => tokens.push(Token::Comma),
            '=' => tokens.push(Token::Operator(Operator::Equal)),
            '!' if chars.next_if_eq(&'=').is_some() => tokens.push(Token::Operator(Operator::NotEqual)),
            '<' if chars.next_if_eq(&'>').is_some() => tokens.push(Token::Operator(Operator::NotEqual)),
            '<' if chars.next_if_eq(&'=').is_some() => tokens.push(Token::Operator(Operator::LessOrEqual)),
            '<' => tokens.push(Token::Operator(Operator::Less)),
            '>' if chars.next_if_eq(&'=').is_some() => tokens.push(Token::Operator(Operator::GreaterOrEqual)),
            '>' => tokens.push(Token::Operator(Operator::Greater)),
            c if c.is_ascii_digit() || matches!(c, '-' | '+' | '.') => {
                let mut number = String::from(c);
                while let Some(next) =
                    chars.next_if(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+'))
                {
                    number.push(next);
                }
                tokens.push(Token::Literal(number));
            }
            c if c.is_alphabetic() || c == '_' => {
                let mut word = String::from(c);
                while let Some(next) = chars.next_if(|c| c.is_alphanumeric() || matches!(c, '_' | '$')) {
                    word.push(next);
                }
                tokens.push(Token::Word(word));
            }
            _ => return Err(unsupported(text)),
        }
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_comes_apart_into_words() {
        let word = |text: &str| Token::Word(text.to_owned());
        let literal = |text: &str| Token::Literal(text.to_owned());
        assert_eq!(
            tokens("a>=-1.5 and \"B \"\"x\"<>'it''s'").unwrap(),
            [
                word("a"),
                Token::Operator(Operator::GreaterOrEqual),
                literal("-1.5"),
                word("and"),
                Token::Quoted("B \"x".to_owned()),
                Token::Operator(Operator::NotEqual),
                literal("it's"),
            ]
        );
        for wrong in ["a = 'open", "a ~ 'x'", "a = 1; drop", "a::int"] {
            assert!(tokens(wrong).is_err(), "{wrong}");
        }
    }
}
