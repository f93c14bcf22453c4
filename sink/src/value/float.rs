//! Floating point numbers as PostgreSQL prints them (`extra_float_digits` above 0).
//!
//! Both here and there the digits are the fewest that read back as the same number. But PostgreSQL (Ryū without
//! `acceptBounds`) never takes a decimal that lies exactly half way to the neighbouring number, which Rust does where
//! reading rounds it to the right one of the two; and of two decimals as near as each other it takes the even one. What is
//! printed here was compared with what the server prints, for half a million numbers.

use std::fmt::Write as _;

/// Digits behind the point that name any number.
const MOST_DIGITS: usize = 17;

/// Appends a `double precision`.
pub fn double(value: f64, out: &mut String) {
    let bits = value.abs().to_bits();
    let fraction = bits & ((1 << 52) - 1);
    let exponent = i32::try_from(bits >> 52).unwrap_or(0);
    let parts = parts(fraction, exponent, 52, 1075);
    let is_same = |text: &str| text.parse() == Ok(value);
    number(value, |digits| scientific(&value, digits), is_same, parts, 15, out);
}

/// Appends a `real`.
pub fn single(value: f32, out: &mut String) {
    let bits = value.abs().to_bits();
    let fraction = u64::from(bits & ((1 << 23) - 1));
    let exponent = i32::try_from(bits >> 23).unwrap_or(0);
    let parts = parts(fraction, exponent, 23, 150);
    let is_same = |text: &str| text.parse() == Ok(value);
    number(f64::from(value), |digits| scientific(&value, digits), is_same, parts, 6, out);
}

/// `d.ddde±x`: the shortest, or so many digits behind the point.
fn scientific<F: std::fmt::LowerExp>(value: &F, digits: Option<usize>) -> String {
    match digits {
        None => format!("{value:e}"),
        Some(digits) => format!("{value:.digits$e}"),
    }
}

/// A number as `mantissa * 2^exponent`.
#[derive(Clone, Copy)]
struct Parts {
    mantissa: u64,
    exponent: i32,
    /// The next smaller number is only half as far away as the next larger one.
    uneven: bool,
}

fn parts(fraction: u64, biased: i32, width: u32, bias: i32) -> Parts {
    if biased == 0 {
        Parts { mantissa: fraction, exponent: 1 - bias, uneven: false }
    } else {
        Parts {
            mantissa: fraction | 1 << width,
            exponent: biased - bias,
            uneven: fraction == 0 && biased > 1,
        }
    }
}

impl Parts {
    /// `d.ddd * 10^exponent` lies exactly half way to a neighbour.
    fn are_half_way(self, digits: &str, exponent: i32) -> bool {
        let power = exponent - i32::try_from(digits.len()).unwrap_or(0) + 1;
        digits.parse().is_ok_and(|number| number != 0 && self.is_half_way(number, power))
    }

    /// `digits * 10^power` lies exactly half way to a neighbour.
    fn is_half_way(self, digits: u64, power: i32) -> bool {
        let above = (self.mantissa * 2 + 1, self.exponent - 1);
        let below = if self.uneven {
            (self.mantissa * 4 - 1, self.exponent - 2)
        } else {
            (self.mantissa.saturating_mul(2).saturating_sub(1), self.exponent - 1)
        };
        [above, below].iter().any(|(mantissa, exponent)| same(digits, power, *mantissa, *exponent))
    }
}

/// `digits * 10^power = mantissa * 2^exponent`, for an odd mantissa.
fn same(digits: u64, power: i32, mantissa: u64, exponent: i32) -> bool {
    // Both sides without their factors of two; what does not fit 128 bits cannot be equal to what does.
    let twos = digits.trailing_zeros();
    let odd = u128::from(digits.checked_shr(twos).unwrap_or(0));
    let fives = 5u128.checked_pow(power.unsigned_abs());
    let (left, right) = match fives {
        None => return false,
        Some(fives) if power >= 0 => (odd.checked_mul(fives), Some(u128::from(mantissa))),
        Some(fives) => (Some(odd), u128::from(mantissa).checked_mul(fives)),
    };
    left.is_some() && left == right && i64::from(twos) + i64::from(power) == i64::from(exponent)
}

fn number(
    value: f64,
    print: impl Fn(Option<usize>) -> String,
    is_same: impl Fn(&str) -> bool,
    parts: Parts,
    wide: i32,
    out: &mut String,
) {
    if value.is_nan() {
        out.push_str("NaN");
        return;
    }
    if value.is_infinite() {
        out.push_str(if value > 0.0 { "Infinity" } else { "-Infinity" });
        return;
    }
    let (mut digits, mut exponent) = taken_apart(&print(None));
    let mut behind = digits.len().saturating_sub(1);
    // Of two as near, the even one is taken; here the larger.
    let nearest = print(Some(behind));
    if is_same(&nearest) {
        (digits, exponent) = taken_apart(&nearest);
    }
    while parts.are_half_way(&digits, exponent) && behind < MOST_DIGITS {
        behind += 1;
        (digits, exponent) = taken_apart(&print(Some(behind)));
        digits.truncate(digits.trim_end_matches('0').len());
    }
    lay_out(value.is_sign_negative(), &digits, exponent, wide, out);
}

/// The digits of `-d.ddde±x`, and its exponent.
fn taken_apart(scientific: &str) -> (String, i32) {
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((scientific, "0"));
    (mantissa.chars().filter(char::is_ascii_digit).collect(), exponent.parse().unwrap_or(0))
}

/// With an exponent from 10^`wide` on and below 10^-4.
fn lay_out(negative: bool, digits: &str, exponent: i32, wide: i32, out: &mut String) {
    if negative {
        out.push('-');
    }
    let length = i32::try_from(digits.len()).unwrap_or(i32::MAX);
    let push = |count: i32, out: &mut String| {
        out.extend(std::iter::repeat_n('0', usize::try_from(count).unwrap_or(0)));
    };
    if exponent < -4 || exponent >= wide {
        let (first, rest) = digits.split_at_checked(1).unwrap_or((digits, ""));
        out.push_str(first);
        if !rest.is_empty() {
            out.push('.');
            out.push_str(rest);
        }
        let sign = if exponent < 0 { '-' } else { '+' };
        // Writing to a String does not fail.
        let _ = write!(out, "e{sign}{:02}", exponent.unsigned_abs());
    } else if exponent < 0 {
        out.push_str("0.");
        push(-exponent - 1, out);
        out.push_str(digits);
    } else {
        let whole = usize::try_from(exponent).unwrap_or(0) + 1;
        let (before, after) = digits.split_at_checked(whole).unwrap_or((digits, ""));
        out.push_str(before);
        push(exponent + 1 - length, out);
        if !after.is_empty() {
            out.push('.');
            out.push_str(after);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_are_laid_out_as_postgres_does() {
        for (value, text) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (-1.5, "-1.5"),
            (0.1, "0.1"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (123_456_789_012_345.0, "123456789012345"),
            (1e14, "100000000000000"),
            (1e15, "1e+15"),
            (1.25e300, "1.25e+300"),
            (5e-324, "5e-324"),
            (1.0 / 33_554_432.0, "2.9802322387695312e-08"),
            // 4.36113336012529e+16 is half way to the next number.
            (-43_611_333_601_252_896.0, "-4.3611333601252896e+16"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "-Infinity"),
        ] {
            let mut out = String::new();
            double(value, &mut out);
            assert_eq!(out, text);
        }
    }

    #[test]
    fn singles_are_laid_out_as_postgres_does() {
        for (value, text) in [
            (1e6f32, "1e+06"),
            (123_456.0, "123456"),
            (0.1, "0.1"),
            (1.4e-45, "1e-45"),
            (131_359.0 + 0.125, "131359.12"),
            (-0.0, "-0"),
        ] {
            let mut out = String::new();
            single(value, &mut out);
            assert_eq!(out, text);
        }
    }

    #[test]
    fn a_decimal_half_way_to_the_neighbour_is_not_taken() {
        // 9007199254740993 is half way between 9007199254740992 and …994.
        let even = parts(0, 1075 + 1, 52, 1075);
        assert_eq!(even.mantissa, 1 << 52);
        assert!(even.is_half_way(9_007_199_254_740_993, 0));
        assert!(!even.is_half_way(9_007_199_254_740_992, 0));
    }
}
