//! What a plain scalar means: the implicit resolvers of YAML 1.1 as PyYAML has them.
//!
//! Source: <https://yaml.org/type/> (bool, int, float, null) with PyYAML's deviations (`y` and `n` are strings, an
//! exponent needs a sign, a float needs a dot).

use super::Kind;

/// Resolves the text of a plain scalar.
pub fn resolve(text: &str) -> Kind {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Kind::Null,
        "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => Kind::Bool(true),
        "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => Kind::Bool(false),
        _ if text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) => float(text)
            .map(Kind::Float)
            .or_else(|| int(text).map(Kind::Int))
            .unwrap_or_else(|| Kind::String(text.into())),
        _ => Kind::String(text.into()),
    }
}

/// Splits a sign off: the factor and the rest.
fn sign(text: &str) -> (i64, &str) {
    match text.as_bytes().first() {
        Some(b'-') => (-1, &text[1..]),
        Some(b'+') => (1, &text[1..]),
        _ => (1, text),
    }
}

/// `[0-9][0-9_]*`, the form of a decimal number's leading part.
fn digits(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit()) && text.bytes().all(|b| b.is_ascii_digit() || b == b'_')
}

/// The parts after the first of a base-60 number: one or two digits below 60.
fn sexagesimal(part: &str) -> Option<u8> {
    let shape = matches!(part.as_bytes(), [b'0'..=b'9'] | [b'0'..=b'5', b'0'..=b'9']);
    shape.then(|| part.parse().ok()).flatten()
}

pub(super) fn int(text: &str) -> Option<i64> {
    let (factor, body) = sign(text);
    let in_base = |digits: &str, base: u32| {
        let clean = digits.replace('_', "");
        // from_str_radix would take a second sign.
        let shape = !clean.is_empty() && clean.chars().all(|c| c.is_digit(base));
        shape
            .then(|| i128::from_str_radix(&clean, base).ok())
            .flatten()
            .and_then(|n| i64::try_from(n * i128::from(factor)).ok())
    };
    if let Some(bits) = body.strip_prefix("0b") {
        return in_base(bits, 2);
    }
    if let Some(hex) = body.strip_prefix("0x") {
        return in_base(hex, 16);
    }
    if body.starts_with('0') {
        return in_base(body, 8);
    }
    let mut parts = body.split(':');
    let first = parts.next().filter(|part| digits(part))?;
    let mut value = first.replace('_', "").parse::<i128>().ok()?;
    for part in parts {
        value = value.checked_mul(60)?.checked_add(sexagesimal(part)?.into())?;
    }
    i64::try_from(value * i128::from(factor)).ok()
}

pub(super) fn float(text: &str) -> Option<f64> {
    match text {
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => return Some(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => return Some(f64::NEG_INFINITY),
        ".nan" | ".NaN" | ".NAN" => return Some(f64::NAN),
        _ => {}
    }
    let (factor, body) = sign(text);
    let (whole, rest) = body.split_once('.')?;
    if whole.is_empty() && body.len() != text.len() {
        return None;
    }
    let (fraction, exponent) = match rest.find(['e', 'E']) {
        Some(i) => (&rest[..i], Some(&rest[i + 1..])),
        None => (rest, None),
    };
    let exponent_fits = exponent.is_none_or(|e| {
        e.strip_prefix(['+', '-']).is_some_and(|d| !d.is_empty() && d.bytes().all(|b| b.is_ascii_digit()))
    });
    let fraction_fits =
        if whole.is_empty() { digits(fraction) } else { fraction.bytes().all(|b| b.is_ascii_digit() || b == b'_') };
    if !exponent_fits || !fraction_fits {
        return None;
    }
    let mut parts = whole.split(':');
    let first = parts.next().unwrap_or_default();
    if !whole.is_empty() && !digits(first) {
        return None;
    }
    let rest: Vec<u8> = parts.map(sexagesimal).collect::<Option<_>>()?;
    let tail = format!("0.{}", fraction.replace('_', ""));
    if rest.is_empty() {
        return body.replace('_', "").parse::<f64>().ok().map(|x| x * factor as f64);
    }
    if exponent.is_some() {
        return None;
    }
    let start = first.replace('_', "").parse::<f64>().ok()?;
    let whole = rest.iter().fold(start, |value, &part| value * 60.0 + f64::from(part));
    Some((whole + tail.parse::<f64>().ok()?) * factor as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_resolve_as_in_pyyaml() {
        let string = |s: &str| Kind::String(s.into());
        // Checked against PyYAML 6.0's safe loader.
        let cases = [
            ("yes", Kind::Bool(true)),
            ("OFF", Kind::Bool(false)),
            ("y", string("y")),
            ("n", string("n")),
            ("yEs", string("yEs")),
            ("~", Kind::Null),
            ("NULL", Kind::Null),
            ("0644", Kind::Int(420)),
            ("0o644", string("0o644")),
            ("0", Kind::Int(0)),
            ("00", Kind::Int(0)),
            ("08", string("08")),
            ("-0x1F", Kind::Int(-31)),
            ("0b10_10", Kind::Int(10)),
            ("1_000", Kind::Int(1000)),
            ("+12", Kind::Int(12)),
            ("1:30", Kind::Int(90)),
            ("-1:30:00", Kind::Int(-5400)),
            ("1:60", string("1:60")),
            ("1:99", string("1:99")),
            ("1e3", string("1e3")),
            ("1.0e3", string("1.0e3")),
            ("1.5e+3", Kind::Float(1500.0)),
            ("1.", Kind::Float(1.0)),
            (".5", Kind::Float(0.5)),
            ("-.5", string("-.5")),
            ("1.2.3", string("1.2.3")),
            ("1.36", Kind::Float(1.36)),
            ("1:30.5", Kind::Float(90.5)),
            ("-.inf", Kind::Float(f64::NEG_INFINITY)),
            ("2026-11-20", string("2026-11-20")),
            ("10.233.0.0/18", string("10.233.0.0/18")),
            ("9223372036854775807", Kind::Int(i64::MAX)),
            ("9223372036854775808", string("9223372036854775808")),
            ("-", string("-")),
            ("+", string("+")),
            (".", string(".")),
            ("--1", string("--1")),
        ];
        for (text, expected) in cases {
            assert_eq!(resolve(text), expected, "{text}");
        }
        assert!(matches!(resolve(".NaN"), Kind::Float(x) if x.is_nan()));
    }
}
