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
use minijinja::Environment;

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
    for table in TABLES {
        add_filters(env, table);
    }
}

pub(super) fn names() -> Vec<&'static str> {
    TABLES.iter().flat_map(|table| table.iter()).map(|(signature, _)| signature.name).chain(BUILT_IN).collect()
}
