//! Moments: microseconds since 1970, as text RFC 3339 in UTC.

use std::fmt;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::civil::{civil_from_days, days_from_civil};

/// Microseconds between 1970-01-01 and 2000-01-01, the epoch of Postgres' timestamps.
const POSTGRES_EPOCH: i64 = 946_684_800_000_000;
const MICROS_PER_SECOND: i64 = 1_000_000;
const SECONDS_PER_DAY: i64 = 86_400;

/// A moment: microseconds since 1970-01-01T00:00:00Z, negative before it.
///
/// As text `2026-11-23T23:19:17.123456Z`, always UTC, always six decimals. Years outside 0000 to 9999 are written with a
/// sign and six digits (ISO 8601 "expanded representation"), so every value has a text that reads back as itself.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The clock of this machine.
    #[must_use]
    pub fn now() -> Self {
        SystemTime::now().into()
    }

    /// The moment of a Postgres `timestamptz` as it travels: microseconds since 2000-01-01. What lies beyond this
    /// type's range becomes its end.
    #[must_use]
    pub const fn from_postgres(micros: i64) -> Self {
        Self(micros.saturating_add(POSTGRES_EPOCH))
    }

    /// Microseconds since 1970-01-01T00:00:00Z.
    #[must_use]
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// The day in UTC as `2026-11-23`, which names a partition directory; clamped to the years 0000 to 9999.
    #[must_use]
    pub fn date(self) -> String {
        let (year, month, day) = civil_from_days(self.days());
        match year {
            ..0 => "0000-01-01".to_owned(),
            0..=9999 => format!("{year:04}-{month:02}-{day:02}"),
            _ => "9999-12-31".to_owned(),
        }
    }

    const fn days(self) -> i64 {
        self.0.div_euclid(MICROS_PER_SECOND * SECONDS_PER_DAY)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = civil_from_days(self.days());
        let micros = self.0.rem_euclid(MICROS_PER_SECOND * SECONDS_PER_DAY);
        let (second, fraction) = (micros / MICROS_PER_SECOND, micros % MICROS_PER_SECOND);
        match year {
            0..=9999 => write!(f, "{year:04}")?,
            _ => write!(f, "{year:+07}")?,
        }
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(f, "-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{fraction:06}Z")
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is no moment of the form `2026-11-23T23:19:17.123456Z`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a time: {0:?} (expected the form 2026-11-23T23:19:17.123456Z)")]
pub struct ParseTimestampError(String);

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        Self(match time.duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_micros()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_micros()).map_or(i64::MIN, i64::wrapping_neg),
        })
    }
}

impl FromStr for Timestamp {
    type Err = ParseTimestampError;

    /// Reads RFC 3339: one to nine decimals or none (what is finer than a microsecond is cut off), `Z` or an offset.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text.as_bytes()).map(Self).ok_or_else(|| ParseTimestampError(text.chars().take(64).collect()))
    }
}

fn parse(text: &[u8]) -> Option<i64> {
    let (negative, text) = match text.split_first()? {
        (b'-', rest) => (true, rest),
        (b'+', rest) => (false, rest),
        _ => (false, text),
    };
    let expanded = text.get(4) != Some(&b'-');
    let (year, text) = number(text, if expanded { 6 } else { 4 })?;
    if negative && (year == 0 || !expanded) {
        return None;
    }
    let year = if negative { -year } else { year };
    let (month, text) = number(after(text, b"-")?, 2)?;
    let (day, text) = number(after(text, b"-")?, 2)?;
    let (hour, text) = number(after(text, b"T ")?, 2)?;
    let (minute, text) = number(after(text, b":")?, 2)?;
    let (second, mut text) = number(after(text, b":")?, 2)?;
    let days = days_from_civil(year, u32::try_from(month).ok()?, u32::try_from(day).ok()?)?;
    if hour >= 24 || minute >= 60 || second >= 60 {
        return None;
    }
    let mut fraction = 0;
    if let Some(rest) = after(text, b".") {
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if !(1..=9).contains(&digits) {
            return None;
        }
        let (value, rest) = number(rest, digits)?;
        fraction = if digits <= 6 {
            value * 10_i64.pow(6 - u32::try_from(digits).ok()?)
        } else {
            value / 10_i64.pow(u32::try_from(digits).ok()? - 6)
        };
        text = rest;
    }
    let offset = match text.split_first()? {
        (b'Z', []) => 0,
        (sign @ (b'+' | b'-'), rest) => {
            let (hours, rest) = number(rest, 2)?;
            let (minutes, rest) = number(after(rest, b":")?, 2)?;
            if !rest.is_empty() || hours > 23 || minutes > 59 {
                return None;
            }
            let seconds = hours * 3600 + minutes * 60;
            if *sign == b'-' { -seconds } else { seconds }
        }
        _ => return None,
    };
    let seconds = days * SECONDS_PER_DAY + hour * 3600 + minute * 60 + second - offset;
    // The first representable second begins before the first representable microsecond.
    i64::try_from(i128::from(seconds) * i128::from(MICROS_PER_SECOND) + i128::from(fraction)).ok()
}

/// The number in exactly `digits` decimal digits at the front, and what follows.
fn number(text: &[u8], digits: usize) -> Option<(i64, &[u8])> {
    let (head, rest) = text.split_at_checked(digits)?;
    let value = head
        .iter()
        .try_fold(0_i64, |value, byte| byte.is_ascii_digit().then(|| value * 10 + i64::from(byte - b'0')))?;
    Some((value, rest))
}

/// What follows one of the bytes.
fn after<'a>(text: &'a [u8], any_of: &[u8]) -> Option<&'a [u8]> {
    text.split_first().filter(|(first, _)| any_of.contains(first)).map(|(_, rest)| rest)
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments_have_their_texts() {
        for (micros, text) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (-1, "1969-12-31T23:59:59.999999Z"),
            (951_782_400_000_000, "2000-02-29T00:00:00.000000Z"),
            (POSTGRES_EPOCH, "2000-01-01T00:00:00.000000Z"),
            (1_795_475_957_123_456, "2026-11-23T23:19:17.123456Z"),
            (253_402_300_799_999_999, "9999-12-31T23:59:59.999999Z"),
            (253_402_300_800_000_000, "+010000-01-01T00:00:00.000000Z"),
            (-62_167_219_200_000_001, "-000001-12-31T23:59:59.999999Z"),
            (i64::MAX, "+294247-01-10T04:00:54.775807Z"),
            (i64::MIN, "-290308-12-21T19:59:05.224192Z"),
        ] {
            assert_eq!(Timestamp(micros).to_string(), text);
            assert_eq!(text.parse(), Ok(Timestamp(micros)), "{text}");
        }
    }

    #[test]
    fn agrees_with_chrono_over_many_days() {
        for day in (-200_000..3_000_000).step_by(97) {
            let micros = day * 86_400_000_000 + 12_345_678_901;
            let theirs = chrono::DateTime::from_timestamp_micros(micros).unwrap();
            let ours = Timestamp(micros);
            if (0..=9999).contains(&chrono::Datelike::year(&theirs)) {
                assert_eq!(ours.to_string(), theirs.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string());
                assert_eq!(ours.date(), theirs.format("%Y-%m-%d").to_string());
            }
            assert_eq!(ours.to_string().parse(), Ok(ours));
        }
    }

    #[test]
    fn other_rfc_3339_forms_are_read() {
        for text in
            ["1970-01-01T01:00:00+01:00", "1969-12-31 23:00:00.0-01:00", "1970-01-01T00:00:00.000000999Z"]
        {
            assert_eq!(text.parse(), Ok(Timestamp(0)), "{text}");
        }
        assert_eq!("1970-01-01T00:00:00.5Z".parse(), Ok(Timestamp(500_000)));
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "Z",
            "-",
            "+",
            "2026",
            "2026-11-23",
            "2026-13-01T00:00:00Z",
            "2025-02-29T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-01-00T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:60:00Z",
            "2026-01-01T00:00:60Z",
            "2026-01-01T00:00:00",
            "2026-01-01T00:00:00.Z",
            "2026-01-01T00:00:00.1234567890Z",
            "2026-01-01T00:00:00ZZ",
            "-2026-01-01T00:00:00Z",
            "-000000-01-01T00:00:00Z",
            "+294247-01-10T04:00:54.775808Z",
            "-290308-12-21T19:59:05.224191Z",
            "+999999-01-01T00:00:00Z",
            "2026-01-01T00:00:00+24:00",
            "2026-01-01T00:00:00+0100",
            "２026-01-01T00:00:00Z",
        ] {
            assert!(text.parse::<Timestamp>().is_err(), "{text:?}");
        }
        let whole = "2026-11-23T23:19:17.123456Z";
        for cut in 0..whole.len() {
            assert!(whole.get(..cut).unwrap().parse::<Timestamp>().is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn a_partition_is_never_outside_four_digit_years() {
        assert_eq!(Timestamp(i64::MAX).date(), "9999-12-31");
        assert_eq!(Timestamp(i64::MIN).date(), "0000-01-01");
        assert_eq!(Timestamp::from_postgres(i64::MAX), Timestamp(i64::MAX));
        assert_eq!(Timestamp::from_postgres(0).date(), "2000-01-01");
    }
}
