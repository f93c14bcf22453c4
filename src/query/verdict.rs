//! What a condition comes to of a row whose values are not all known.

use super::counted;

/// What is to be said of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is one of those that are asked for.
    Holds,
    /// It is not.
    Not,
    /// That lies with a value which is not known.
    NotKnown,
}

/// Says of how many rows a condition could not tell, where it could not.
pub(crate) fn tell_not_known(table: &str, rows: usize) {
    if rows > 0 {
        eprintln!(
            "bygone: --where cannot tell of {} of {table}, which {} left out: a value that it reads is not known there",
            counted(rows, "row"),
            if rows == 1 { "is" } else { "are" }
        );
    }
}

/// The values that an expression may have, as a set: what is not known may be anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Possible(u8);

impl Possible {
    pub(super) const TRUE: Self = Self(1);
    pub(super) const FALSE: Self = Self(2);
    pub(super) const NULL: Self = Self(4);
    pub(super) const NOT_NULL: Self = Self(3);
    pub(super) const ANY: Self = Self(7);

    pub(super) fn verdict(self) -> Verdict {
        match self {
            Self::TRUE => Verdict::Holds,
            _ if self.has(Self::TRUE) => Verdict::NotKnown,
            _ => Verdict::Not,
        }
    }

    const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    const fn with(self, other: Self, if_so: bool) -> Self {
        if if_so { Self(self.0 | other.0) } else { self }
    }

    pub(super) fn negated(self) -> Self {
        Self(self.0 & Self::NULL.0)
            .with(Self::TRUE, self.has(Self::FALSE))
            .with(Self::FALSE, self.has(Self::TRUE))
    }

    pub(super) fn and(self, other: Self) -> Self {
        let open = Self(Self::TRUE.0 | Self::NULL.0);
        let null = (self.has(Self::NULL) && other.has(open)) || (other.has(Self::NULL) && self.has(open));
        Self(0)
            .with(Self::TRUE, self.has(Self::TRUE) && other.has(Self::TRUE))
            .with(Self::FALSE, self.has(Self::FALSE) || other.has(Self::FALSE))
            .with(Self::NULL, null)
    }
}

impl From<Option<bool>> for Possible {
    fn from(value: Option<bool>) -> Self {
        match value {
            Some(true) => Self::TRUE,
            Some(false) => Self::FALSE,
            None => Self::NULL,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EACH: [Option<bool>; 3] = [Some(true), Some(false), None];

    fn and(a: Option<bool>, b: Option<bool>) -> Option<bool> {
        match (a, b) {
            (Some(false), _) | (_, Some(false)) => Some(false),
            (Some(true), Some(true)) => Some(true),
            _ => None,
        }
    }

    /// The values in a set.
    fn values(set: Possible) -> impl Iterator<Item = Option<bool>> {
        EACH.into_iter().filter(move |value| set.has((*value).into()))
    }

    #[test]
    fn a_set_holds_what_each_of_its_values_comes_to() {
        for (a, b) in (1..8).flat_map(|a| (1..8).map(move |b| (Possible(a), Possible(b)))) {
            let both = values(a).flat_map(|one| values(b).map(move |other| and(one, other)));
            let all = both.fold(Possible(0), |all, value| all.with(value.into(), true));
            assert_eq!(a.and(b), all, "{a:?} and {b:?}");
            let not = values(a).map(|value| value.map(|value| !value));
            let all = not.fold(Possible(0), |all, value| all.with(value.into(), true));
            assert_eq!(a.negated(), all, "not {a:?}");
        }
    }
}
