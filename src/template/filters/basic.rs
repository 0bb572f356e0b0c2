//! What is there and of which type: `default`, `mandatory`, `bool`, `int`, `first`, `ternary`, `random` and the like.

use crate::template::call::{Call, Signature, Table, probe, row};
use crate::template::convert;
use crate::value::Value;
use minijinja::value::ValueKind;
use minijinja::{Error, Value as Jinja};

pub(super) static TABLE: &Table = &[
    row!("default", default, "value", "default_value", "boolean"),
    row!("d", default, "value", "default_value", "boolean"),
    row!("mandatory", mandatory, "value", "msg"),
    row!("bool", bool, "value"),
    row!("int", int, "value", "default", "base"),
    row!("float", float, "value", "default"),
    row!("first", first, "value"),
    row!("last", last, "value"),
    row!("ternary", ternary, "value", "true_val", "false_val", "none_val"),
    row!("type_debug", type_debug, "value"),
    row!("random", random, "value", "start", "step", "seed"),
];

/// Jinja's `default`. An undefined value anywhere on the way to it will do (`a.b.c | default(x)`).
fn default(call: &Call) -> Result<Jinja, Error> {
    let value = call.raw_input()?;
    let missing = match probe(value) {
        Some(probe) if probe.unknown => return Ok(value.clone()),
        Some(probe) => {
            probe.session.settle(probe);
            true
        }
        None => value.is_undefined(),
    };
    let boolean = match call.raw("boolean") {
        Some(boolean) => boolean.is_true(),
        None => false,
    };
    if missing || boolean && !value.is_true() {
        return Ok(call.raw("default_value").cloned().unwrap_or_else(|| Jinja::from("")));
    }
    Ok(value.clone())
}

fn mandatory(call: &Call) -> Result<Jinja, Error> {
    let value = call.raw_input()?;
    if !value.is_undefined() {
        return Ok(value.clone());
    }
    match call.arg_text("msg")? {
        Some(message) => Err(call.error(message)),
        None => Err(convert::undefined(value)),
    }
}

/// Ansible's `bool`: "yes", "on", "true" and 1 are true, everything else is false.
fn bool(call: &Call) -> Result<Jinja, Error> {
    call.give(match call.input()? {
        Value::Null => Value::Bool(false),
        Value::Bool(b) => Value::Bool(b),
        Value::String(text) => {
            Value::Bool(["yes", "on", "1", "true"].iter().any(|word| text.eq_ignore_ascii_case(word)))
        }
        Value::Int(n) => Value::Bool(n == 1),
        Value::Float(x) => Value::Bool(x == 1.0),
        other => return Err(call.expected("a scalar", &other)),
    })
}

/// Jinja's `int`: the default (0) for what is no number; text may have a base prefix.
fn int(call: &Call) -> Result<Jinja, Error> {
    let default = call.arg("default")?.unwrap_or(Value::Int(0));
    let base = match call.arg_int("base")?.unwrap_or(10) {
        base @ (2..=36) => base as u32,
        base => return Err(call.error(format!("base {base} is not between 2 and 36"))),
    };
    let number = match call.input()? {
        Value::Int(n) => Some(n),
        Value::Bool(b) => Some(b.into()),
        Value::Float(x) => float_to_int(x),
        Value::String(text) => parse_int(&text, base).or_else(|| float_to_int(parse_float(&text)?)),
        _ => None,
    };
    call.give(number.map_or(default, Value::Int))
}

fn float_to_int(x: f64) -> Option<i64> {
    // The largest float below 2^63.
    (x.is_finite() && x.abs() <= 9_223_372_036_854_774_784.0).then_some(x as i64)
}

fn parse_int(text: &str, base: u32) -> Option<i64> {
    let text = text.trim().replace('_', "");
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text.strip_prefix('+').unwrap_or(&text)),
    };
    let prefix = match base {
        16 => "0x",
        8 => "0o",
        2 => "0b",
        _ => "",
    };
    let digits = digits.strip_prefix(prefix).unwrap_or(digits);
    i64::from_str_radix(&format!("{sign}{digits}"), base).ok()
}

fn parse_float(text: &str) -> Option<f64> {
    text.trim().replace('_', "").parse().ok()
}

fn float(call: &Call) -> Result<Jinja, Error> {
    let default = call.arg("default")?.unwrap_or(Value::Float(0.0));
    let number = match call.input()? {
        Value::Int(n) => Some(n as f64),
        Value::Bool(b) => Some(f64::from(u8::from(b))),
        Value::Float(x) => Some(x),
        Value::String(text) => parse_float(&text),
        _ => None,
    };
    call.give(number.map_or(default, Value::Float))
}

/// The first item, character or key; undefined when there is none.
fn first(call: &Call) -> Result<Jinja, Error> {
    let value = call.raw_input()?;
    if let Some(text) = value.as_str() {
        return Ok(text.chars().next().map_or(Jinja::UNDEFINED, Jinja::from));
    }
    Ok(items(call, value)?.next().transpose()?.unwrap_or_default())
}

fn last(call: &Call) -> Result<Jinja, Error> {
    let value = call.raw_input()?;
    if let Some(text) = value.as_str() {
        return Ok(text.chars().next_back().map_or(Jinja::UNDEFINED, Jinja::from));
    }
    Ok(items(call, value)?.last().transpose()?.unwrap_or_default())
}

fn items(call: &Call, value: &Jinja) -> Result<impl Iterator<Item = Result<Jinja, Error>>, Error> {
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable | ValueKind::Map => Ok(value.try_iter()?.checked()),
        _ => Err(call.expected("a list", &call.input()?)),
    }
}

fn ternary(call: &Call) -> Result<Jinja, Error> {
    let value = call.input()?;
    let none = call.raw("none_val").filter(|none| !none.is_none());
    let chosen = match (&value, none) {
        (Value::Null, Some(_)) => "none_val",
        // Containers are true when they are not empty; the value itself knows.
        _ if call.raw_input()?.is_true() => "true_val",
        _ => "false_val",
    };
    match call.raw(chosen) {
        Some(value) => Ok(value.clone()),
        None => call.required(chosen).map(|_| Jinja::UNDEFINED),
    }
}

/// The name of Python's type.
fn type_debug(call: &Call) -> Result<Jinja, Error> {
    let value = call.input()?;
    call.give(match value {
        Value::Null => "NoneType",
        _ => value.type_name(),
    })
}

/// A random item of a list, or a number below one. The same seed gives the same choice, though not Python's.
fn random(call: &Call) -> Result<Jinja, Error> {
    use sha2::{Digest, Sha256};
    use std::hash::{BuildHasher, RandomState};
    let number = match call.arg("seed")? {
        Some(seed) => {
            let digest = Sha256::digest(seed.to_string());
            digest.iter().take(8).fold(0u64, |number, byte| number << 8 | u64::from(*byte))
        }
        None => RandomState::new().hash_one(0),
    };
    let start = call.arg_int("start")?.unwrap_or(0);
    let step = call.arg_int("step")?.unwrap_or(1);
    match call.input()? {
        Value::Int(end) if step > 0 && end > start => {
            let choices = (end - start - 1) / step + 1;
            call.give(start + (number % choices as u64) as i64 * step)
        }
        Value::List(items) if !items.is_empty() => call.give(items[(number % items.len() as u64) as usize].clone()),
        Value::Int(_) | Value::List(_) => Err(call.error("nothing to choose from")),
        other => Err(call.expected("a list or a number", &other)),
    }
}
