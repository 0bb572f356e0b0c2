//! Filters of every template, as Ansible has them.
//!
//! What minijinja has and does as Ansible does it is not repeated here. Each name also goes by `ansible.builtin.` and the
//! like in front.

mod basic;
mod collections;
mod crypto;
mod encoding;
mod net;
mod numbers;
mod paths;
mod text;

use super::call::{Table, add_filters};
use super::convert;
use minijinja::value::{Rest, ValueOrKwargs};
use minijinja::{Environment, Error, State, Value as Jinja, filters as theirs};

pub(super) use collections::subelements;

const TABLES: [&Table; 8] = [
    basic::TABLE,
    collections::TABLE,
    crypto::TABLE,
    encoding::TABLE,
    net::TABLE,
    numbers::TABLE,
    paths::TABLE,
    text::TABLE,
];

/// What minijinja brings along, for near misses.
const BUILT_IN: [&str; 42] = [
    "abs",
    "attr",
    "batch",
    "capitalize",
    "chain",
    "count",
    "dictsort",
    "escape",
    "format",
    "groupby",
    "indent",
    "items",
    "join",
    "length",
    "lines",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "pprint",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "safe",
    "select",
    "selectattr",
    "slice",
    "sort",
    "split",
    "string",
    "sum",
    "title",
    "tojson",
    "trim",
    "unique",
    "upper",
    "truncate",
    "wordcount",
    "wordwrap",
];

pub(super) fn add_to(env: &mut Environment<'static>) {
    refuse_undefined(env);
    for table in TABLES {
        add_filters(env, table);
    }
}

/// Wraps those of minijinja's filters that take in an undefined item or argument without a word; Ansible fails there.
///
/// Filters that only pass items on (`list`, `map`, `select`) stay as they are: a later `select('defined')` or
/// `default` may deal with what is undefined.
fn refuse_undefined(env: &mut Environment<'static>) {
    macro_rules! wrap {
        ($($name:ident),*) => {
            $(
                env.add_filter(concat!("\u{1}", stringify!($name)), theirs::$name);
                env.add_filter(stringify!($name), |state: &mut State, args: Rest<ValueOrKwargs>| {
                    defined_then(state, concat!("\u{1}", stringify!($name)), args.into_values())
                });
            )*
        };
    }
    wrap!(dictsort, format, groupby, indent, join, pprint, replace, round, sort, split, string, sum, tojson);
}

fn defined_then(state: &mut State, filter: &'static str, args: Vec<Jinja>) -> Result<Jinja, Error> {
    for arg in &args {
        convert::refuse_undefined(arg, true)?;
    }
    state.apply_filter(filter, &args)
}

pub(super) fn names() -> Vec<&'static str> {
    TABLES.iter().flat_map(|table| table.iter()).map(|(signature, _)| signature.name).chain(BUILT_IN).collect()
}
