//! Arithmetic and time.

use crate::template::call::{Call, Signature, Table, row};
use crate::value::Value;
use minijinja::{Error, Value as Jinja};

pub(super) static TABLE: &Table = &[
    row!("pow", pow, "value", "exponent"),
    row!("log", log, "value", "base"),
    row!("root", root, "value", "base"),
    row!("strftime", strftime, "value", "second", "utc"),
];

fn number(call: &Call, value: &Value) -> Result<f64, Error> {
    match value {
        Value::Int(n) => Ok(*n as f64),
        Value::Float(x) => Ok(*x),
        other => Err(call.expected("a number", other)),
    }
}

fn input(call: &Call) -> Result<f64, Error> {
    number(call, &call.input()?)
}

fn argument(call: &Call, name: &str) -> Result<Option<f64>, Error> {
    call.arg(name)?.map(|value| number(call, &value)).transpose()
}

fn pow(call: &Call) -> Result<Jinja, Error> {
    let exponent = number(call, &call.required("exponent")?)?;
    call.give(input(call)?.powf(exponent))
}

fn log(call: &Call) -> Result<Jinja, Error> {
    let x = input(call)?;
    if x <= 0.0 {
        return Err(call.error("needs a positive number"));
    }
    call.give(match argument(call, "base")? {
        None => x.ln(),
        // The plain quotient misses exact results such as log10(1000).
        Some(10.0) => x.log10(),
        Some(2.0) => x.log2(),
        Some(base) => x.log(base),
    })
}

fn root(call: &Call) -> Result<Jinja, Error> {
    let x = input(call)?;
    call.give(match argument(call, "base")? {
        None | Some(2.0) => x.sqrt(),
        Some(3.0) => x.cbrt(),
        Some(base) => x.powf(1.0 / base),
    })
}

/// A time in the form that the value says (`'%Y-%m-%d' | strftime`): now, or seconds since 1970; local unless `utc`.
fn strftime(call: &Call) -> Result<Jinja, Error> {
    let second = match call.arg("second")? {
        None => None,
        Some(Value::String(text)) => Some(text.trim().parse().map_err(|_| call.error("`second` has to be a number"))?),
        Some(other) => Some(number(call, &other)?),
    };
    let utc = call.arg_bool("utc", false)?;
    call.give(crate::template::time::format(&call.text()?, second, utc).map_err(|message| call.error(message))?)
}
