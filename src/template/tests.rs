//! Tests of every template (`x is changed`), as Ansible has them.

use super::call::{Call, Signature, Table, add_tests, probe, row};
use minijinja::{Environment, Error, Value as Jinja};

static TABLE: &Table = &[
    row!("defined", |call| defined(call).map(Jinja::from), "value"),
    row!("undefined", |call| Ok(Jinja::from(!defined(call)?)), "value"),
];

const BUILT_IN: [&str; 15] = [
    "boolean",
    "divisibleby",
    "even",
    "false",
    "float",
    "in",
    "integer",
    "iterable",
    "mapping",
    "none",
    "number",
    "odd",
    "sequence",
    "string",
    "true",
];

pub(super) fn add_to(env: &mut Environment<'static>) {
    add_tests(env, TABLE);
}

pub(super) fn names() -> Vec<&'static str> {
    TABLE.iter().map(|(signature, _)| signature.name).chain(BUILT_IN).collect()
}

/// Whether there is a value, even one that is known only later.
fn defined(call: &Call) -> Result<bool, Error> {
    let value = call.raw_input()?;
    Ok(match probe(value) {
        Some(probe) => {
            probe.session.settle(probe);
            probe.unknown
        }
        None => !value.is_undefined(),
    })
}
