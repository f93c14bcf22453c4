//! `numeric`: text and binary form, as decimal digits or as exact text.

use std::fmt::Write as _;

/// What a numeric became.
pub(super) enum Parsed {
    /// The value times 10 to the power of the scale.
    Digits(i128),
    /// A numeric, but `NaN`, infinite or with more digits than the decimal has.
    NotHeld,
    /// Not the text of a numeric.
    NotNumeric,
}

/// Reads `-12.30` as the digits of a decimal(precision, scale).
pub(super) fn parse_decimal(bytes: &[u8], precision: u8, scale: u8) -> Parsed {
    if matches!(bytes, b"NaN" | b"Infinity" | b"-Infinity") {
        return Parsed::NotHeld;
    }
    let (digits, negative) = match bytes.strip_prefix(b"-") {
        Some(digits) => (digits, true),
        None => (bytes, false),
    };
    let mut value = 0i128;
    let mut after_point: Option<u8> = None;
    let mut seen = false;
    for byte in digits {
        match byte {
            b'0'..=b'9' => {
                let Some(next) =
                    value.checked_mul(10).and_then(|value| value.checked_add(i128::from(byte - b'0')))
                else {
                    return Parsed::NotHeld;
                };
                value = next;
                seen = true;
                if let Some(count) = &mut after_point {
                    *count = count.saturating_add(1);
                }
            }
            b'.' if after_point.is_none() => after_point = Some(0),
            _ => return Parsed::NotNumeric,
        }
    }
    if !seen {
        return Parsed::NotNumeric;
    }
    let Some(missing) = scale.checked_sub(after_point.unwrap_or(0)) else { return Parsed::NotHeld };
    hold(value, missing, precision, negative)
}

fn hold(value: i128, missing: u8, precision: u8, negative: bool) -> Parsed {
    let held = 10i128
        .checked_pow(u32::from(missing))
        .and_then(|power| value.checked_mul(power))
        .filter(|value| 10i128.checked_pow(u32::from(precision)).is_none_or(|limit| *value < limit));
    match held {
        Some(value) => Parsed::Digits(if negative { -value } else { value }),
        None => Parsed::NotHeld,
    }
}

/// The binary form: groups of four decimal digits.
pub(super) struct Binary<'a> {
    /// The groups, two bytes each.
    groups: &'a [[u8; 2]],
    /// Power of 10,000 of the first group.
    weight: i16,
    sign: u16,
    /// Digits to show after the point.
    shown: u16,
}

const NEGATIVE: u16 = 0x4000;

/// So many groups fit into 64 bits.
const SHORT_GROUPS: usize = 4;

/// The powers of ten that fit into 64 bits.
const POWERS: [u64; 20] = {
    let mut powers = [1; 20];
    let mut at = 1;
    #[expect(clippy::indexing_slicing, reason = "evaluated by the compiler")]
    while at < powers.len() {
        powers[at] = powers[at - 1] * 10;
        at += 1;
    }
    powers
};

impl<'a> Binary<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (head, rest) = bytes.split_first_chunk::<8>()?;
        let [n1, n0, w1, w0, s1, s0, d1, d0] = *head;
        let (groups, []) = rest.as_chunks::<2>() else { return None };
        let sign = u16::from_be_bytes([s1, s0]);
        let shown = u16::from_be_bytes([d1, d0]);
        let known = matches!(sign, 0 | NEGATIVE | 0xC000 | 0xD000 | 0xF000) && shown <= 0x3FFF;
        let valid = groups.len() == usize::from(u16::from_be_bytes([n1, n0]))
            && groups.iter().all(|group| u16::from_be_bytes(*group) < 10_000);
        (known && valid).then_some(Self { groups, weight: i16::from_be_bytes([w1, w0]), sign, shown })
    }

    /// The group that stands for a power of 10,000.
    fn group(&self, power: i32) -> u16 {
        usize::try_from(i32::from(self.weight) - power)
            .ok()
            .and_then(|at| self.groups.get(at))
            .map_or(0, |group| u16::from_be_bytes(*group))
    }

    /// `NaN` and the infinities, by name.
    const fn special(&self) -> Option<&'static str> {
        match self.sign {
            0xC000 => Some("NaN"),
            0xD000 => Some("Infinity"),
            0xF000 => Some("-Infinity"),
            _ => None,
        }
    }

    /// Digits of a decimal(precision, scale).
    pub(super) fn decimal(&self, precision: u8, scale: u8) -> Parsed {
        if self.special().is_some() {
            return Parsed::NotHeld;
        }
        if let Some(value) = self.short(scale) {
            let held = POWERS.get(usize::from(precision)).is_none_or(|limit| value < *limit);
            let value = i128::from(value);
            return match held {
                true if self.sign == NEGATIVE => Parsed::Digits(-value),
                true => Parsed::Digits(value),
                false => Parsed::NotHeld,
            };
        }
        // Each group at its own place: the last one may hold zeros beyond the scale, for which there is no room.
        let mut value = 0i128;
        let mut exponent = i32::from(self.weight) * 4 + i32::from(scale);
        for group in self.groups {
            let group = i128::from(u16::from_be_bytes(*group));
            let power = 10i128.checked_pow(exponent.unsigned_abs());
            let placed = match power {
                _ if group == 0 => Some(0),
                Some(power) if exponent >= 0 => group.checked_mul(power),
                Some(power) if group % power == 0 => Some(group / power),
                _ => None,
            };
            let Some(sum) = placed.and_then(|placed| value.checked_add(placed)) else {
                return Parsed::NotHeld;
            };
            value = sum;
            exponent -= 4;
        }
        hold(value, 0, precision, self.sign == NEGATIVE)
    }

    /// The digits without their sign, where all of them fit into 64 bits on the way: nearly always, and several times as quick.
    fn short(&self, scale: u8) -> Option<u64> {
        if self.groups.len() > SHORT_GROUPS {
            return None;
        }
        let digits =
            self.groups.iter().fold(0, |value, group| value * 10_000 + u64::from(u16::from_be_bytes(*group)));
        let last = i32::from(self.weight) - i32::try_from(self.groups.len()).ok()? + 1;
        let exponent = last * 4 + i32::from(scale);
        let power = *POWERS.get(usize::try_from(exponent.unsigned_abs()).ok()?)?;
        if exponent >= 0 {
            return digits.checked_mul(power);
        }
        // The last group may hold zeros beyond the scale.
        (digits % power == 0).then_some(digits / power)
    }

    /// The text that Postgres prints.
    pub(super) fn text(&self) -> String {
        if let Some(name) = self.special() {
            return name.to_owned();
        }
        let mut out = String::new();
        if self.sign == NEGATIVE {
            out.push('-');
        }
        if self.weight < 0 {
            out.push('0');
        } else {
            for power in (0..=i32::from(self.weight)).rev() {
                let group = self.group(power);
                // Writing to a String does not fail.
                let _ = if power == i32::from(self.weight) {
                    write!(out, "{group}")
                } else {
                    write!(out, "{group:04}")
                };
            }
        }
        if self.shown > 0 {
            out.push('.');
            let end = out.len() + usize::from(self.shown);
            let mut power = -1;
            while out.len() < end {
                let _ = write!(out, "{:04}", self.group(power));
                power -= 1;
            }
            out.truncate(end);
        }
        out
    }
}

/// The text of a decimal's digits.
pub(super) fn render_decimal(digits: i128, scale: u8, out: &mut String) {
    if digits < 0 {
        out.push('-');
    }
    let digits = digits.unsigned_abs();
    if scale == 0 {
        let _ = write!(out, "{digits}");
        return;
    }
    let width = usize::from(scale);
    // Nearly all are short, and dividing those takes a tenth of the time.
    if let (Ok(digits), 0..=19) = (u64::try_from(digits), scale) {
        let power = 10u64.pow(u32::from(scale));
        let _ = write!(out, "{}.{:0width$}", digits / power, digits % power);
        return;
    }
    let power = 10u128.pow(u32::from(scale.min(38)));
    let _ = write!(out, "{}.{:0width$}", digits / power, digits % power);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binary(weight: i16, sign: u16, shown: u16, groups: &[u16]) -> Vec<u8> {
        let mut made = (groups.len() as u16).to_be_bytes().to_vec();
        made.extend(weight.to_be_bytes());
        made.extend(sign.to_be_bytes());
        made.extend(shown.to_be_bytes());
        made.extend(groups.iter().flat_map(|group| group.to_be_bytes()));
        made
    }

    #[test]
    fn the_binary_form_is_shown_as_postgres_shows_it() {
        for (bytes, text) in [
            (binary(0, 0, 2, &[12, 3000]), "12.30"),
            (binary(0, NEGATIVE, 2, &[12, 3000]), "-12.30"),
            (binary(0, 0, 0, &[]), "0"),
            (binary(0, 0, 3, &[]), "0.000"),
            (binary(-2, 0, 8, &[42]), "0.00000042"),
            (binary(1, 0, 0, &[1]), "10000"),
            (binary(1, 0, 5, &[1, 5, 1200]), "10005.12000"),
            (binary(0, 0xC000, 0, &[]), "NaN"),
            (binary(0, 0xF000, 0, &[]), "-Infinity"),
        ] {
            assert_eq!(Binary::parse(&bytes).unwrap().text(), text);
        }
    }

    #[test]
    fn text_and_binary_give_the_same_digits() {
        for (bytes, text) in [
            (binary(0, 0, 2, &[12, 3000]), "12.30"),
            (binary(-1, NEGATIVE, 2, &[500]), "-0.05"),
            (binary(2, 0, 2, &[1]), "100000000.00"),
            (binary(0, 0, 2, &[]), "0.00"),
            (binary(0, 0, 2, &[1, 200]), "1.02"),
        ] {
            let Parsed::Digits(from_text) = parse_decimal(text.as_bytes(), 12, 2) else { panic!("{text}") };
            let Parsed::Digits(from_binary) = Binary::parse(&bytes).unwrap().decimal(12, 2) else {
                panic!("{text}")
            };
            assert_eq!(from_text, from_binary);
            let mut shown = String::new();
            render_decimal(from_text, 2, &mut shown);
            assert_eq!(shown, text);
        }
    }

    #[test]
    fn all_38_digits_are_held_though_the_groups_have_more() {
        let groups = [1234, 5678, 9012, 3456, 7890, 1234, 5678, 9012, 3456, 7800];
        let Parsed::Digits(digits) = Binary::parse(&binary(6, 0, 10, &groups)).unwrap().decimal(38, 10)
        else {
            panic!()
        };
        assert_eq!(digits, 12_345_678_901_234_567_890_123_456_789_012_345_678);
        assert!(matches!(Binary::parse(&binary(6, 0, 11, &groups)).unwrap().decimal(37, 9), Parsed::NotHeld));
    }

    #[test]
    fn damaged_binary_is_refused() {
        let whole = binary(0, 0, 2, &[12, 3000]);
        for cut in 0..whole.len() {
            assert!(Binary::parse(&whole[..cut]).is_none());
        }
        assert!(Binary::parse(&binary(0, 1, 0, &[])).is_none());
        assert!(Binary::parse(&binary(0, 0, 0, &[10_000])).is_none());
        let vast = binary(i16::MAX, 0, 0, &[1]);
        assert!(matches!(Binary::parse(&vast).unwrap().decimal(38, 0), Parsed::NotHeld));
        let tiny = binary(i16::MIN, 0, 0x3FFF, &[1]);
        assert!(matches!(Binary::parse(&tiny).unwrap().decimal(38, 0), Parsed::NotHeld));
        assert_eq!(Binary::parse(&tiny).unwrap().text().len(), 2 + 0x3FFF);
    }
}
