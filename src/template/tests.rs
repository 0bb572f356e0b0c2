//! Tests of every template (`x is changed`), as Ansible has them.

use super::call::{Call, Signature, Table, add_tests, probe, row};
use super::net::Ip;
use super::regex;
use super::versions;
use crate::value::{Map, Value};
use minijinja::{Environment, Error, Value as Jinja};
use std::path::PathBuf;

static TABLE: &Table = &[
    row!("defined", |call| give(defined(call)), "value"),
    row!("undefined", |call| give(defined(call).map(|defined| !defined)), "value"),
    row!("changed", |call| give(changed(call)), "value"),
    row!("change", |call| give(changed(call)), "value"),
    row!("failed", |call| give(said(call, "failed")), "value"),
    row!("failure", |call| give(said(call, "failed")), "value"),
    row!("succeeded", |call| give(said(call, "failed").map(|failed| !failed)), "value"),
    row!("success", |call| give(said(call, "failed").map(|failed| !failed)), "value"),
    row!("successful", |call| give(said(call, "failed").map(|failed| !failed)), "value"),
    row!("skipped", |call| give(said(call, "skipped")), "value"),
    row!("skip", |call| give(said(call, "skipped")), "value"),
    row!("unreachable", |call| give(said(call, "unreachable")), "value"),
    row!("reachable", |call| give(said(call, "unreachable").map(|unreachable| !unreachable)), "value"),
    row!("started", |call| give(said(call, "started")), "value"),
    row!("finished", |call| give(said(call, "finished")), "value"),
    row!("match", |call| give(matches(call, Some("match"))), "value", "pattern", "ignorecase", "multiline"),
    row!("search", |call| give(matches(call, Some("search"))), "value", "pattern", "ignorecase", "multiline"),
    row!("regex", |call| give(matches(call, None)), "value", "pattern", "ignorecase", "multiline", "match_type"),
    row!("version", version, "value", "version", "operator", "strict", "version_type"),
    row!("version_compare", version, "value", "version", "operator", "strict", "version_type"),
    row!("subset", |call| give(within(call, false)), "value", "superset"),
    row!("issubset", |call| give(within(call, false)), "value", "superset"),
    row!("superset", |call| give(within(call, true)), "value", "subset"),
    row!("issuperset", |call| give(within(call, true)), "value", "subset"),
    row!("sequence", |call| give(sequence(call)), "value"),
    row!("contains", |call| give(contains(call)), "value", "element"),
    row!("any", |call| give(truths(call).map(|truths| truths.contains(&true))), "value"),
    row!("all", |call| give(truths(call).map(|truths| !truths.contains(&false))), "value"),
    row!("truthy", |call| give(truthy(call)), "value", "convert_bool"),
    row!("falsy", |call| give(truthy(call).map(|truthy| !truthy)), "value", "convert_bool"),
    row!("file", |call| give(path(call).map(|path| path.is_file())), "value"),
    row!("is_file", |call| give(path(call).map(|path| path.is_file())), "value"),
    row!("directory", |call| give(path(call).map(|path| path.is_dir())), "value"),
    row!("is_dir", |call| give(path(call).map(|path| path.is_dir())), "value"),
    row!("link", |call| give(path(call).map(|path| path.is_symlink())), "value"),
    row!("exists", |call| give(path(call).map(|path| path.exists())), "value"),
    row!("link_exists", |call| give(path(call).map(|path| path.is_symlink() || path.exists())), "value"),
    row!("abs", |call| give(path(call).map(|path| path.is_absolute())), "value"),
    row!("ip", |call| give(ip(call).map(|ip| ip.is_some())), "value"),
    row!("ip_address", |call| give(ip(call).map(|ip| ip.is_some_and(|ip| ip.bare))), "value"),
    row!("ipv4", |call| give(ip(call).map(|ip| ip.is_some_and(|ip| ip.is_v4()))), "value"),
    row!("ipv6", |call| give(ip(call).map(|ip| ip.is_some_and(|ip| !ip.is_v4()))), "value"),
    row!("ipv4_address", |call| give(ip(call).map(|ip| ip.is_some_and(|ip| ip.bare && ip.is_v4()))), "value"),
    row!("ipv6_address", |call| give(ip(call).map(|ip| ip.is_some_and(|ip| ip.bare && !ip.is_v4()))), "value"),
    row!("private", |call| give(ip(call).map(|ip| ip.is_some_and(|ip| ip.is_private()))), "value"),
    row!("public", |call| give(ip(call).map(|ip| ip.is_some_and(|ip| ip.is_public()))), "value"),
    row!("loopback", |call| give(ip(call).map(|ip| ip.is_some_and(|ip| ip.address().is_loopback()))), "value"),
    row!("multicast", |call| give(ip(call).map(|ip| ip.is_some_and(|ip| ip.address().is_multicast()))), "value"),
    row!("in_network", |call| give(in_network(call)), "value", "network"),
    row!("subnet_of", |call| give(in_network(call)), "value", "network"),
];

/// What minijinja brings along, for near misses.
const BUILT_IN: [&str; 14] = [
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
    "string",
    "true",
];

pub(super) fn add_to(env: &mut Environment<'static>) {
    add_tests(env, TABLE);
}

pub(super) fn names() -> Vec<&'static str> {
    TABLE.iter().map(|(signature, _)| signature.name).chain(BUILT_IN).collect()
}

fn give(answer: Result<bool, Error>) -> Result<Jinja, Error> {
    answer.map(Jinja::from)
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

/// One member of a task's result; others may still be unknown.
fn said_by(call: &Call, result: &Map, name: &str) -> Result<bool, Error> {
    Ok(match result.get(name) {
        None => false,
        Some(Value::Unknown(after)) => return Err(call.session()?.touch(after)),
        // `started` and `finished` of asynchronous tasks are 0 and 1.
        Some(value) => value.to_bool().unwrap_or(false),
    })
}

fn result(call: &Call) -> Result<Map, Error> {
    match super::convert::maybe_unknown(call.raw_input()?)? {
        Value::Map(map) => Ok(map),
        Value::Unknown(after) => Err(call.session()?.touch(&after)),
        other => Err(call.expected("the result of a task", &other)),
    }
}

fn said(call: &Call, name: &str) -> Result<bool, Error> {
    said_by(call, &result(call)?, name)
}

/// `changed` of the task, or of an item of its loop where the task says nothing.
fn changed(call: &Call) -> Result<bool, Error> {
    let result = result(call)?;
    match (result.contains_key("changed"), result.get("results")) {
        (false, Some(Value::List(items))) => {
            for item in items {
                if let Value::Map(item) = item
                    && said_by(call, item, "changed")?
                {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        _ => said_by(call, &result, "changed"),
    }
}

/// Python's `re.match`, `re.search` or `re.fullmatch`.
fn matches(call: &Call, kind: Option<&str>) -> Result<bool, Error> {
    let text = call.text()?;
    let given = call.arg_text("match_type")?;
    let pattern = call.arg_text("pattern")?.unwrap_or_default();
    let pattern = match kind.or(given.as_deref()).unwrap_or("search") {
        "match" => format!("\\A(?:{pattern})"),
        "fullmatch" => format!("\\A(?:{pattern})\\z"),
        "search" => pattern,
        _ => return Err(call.error("match_type has to be search, match or fullmatch")),
    };
    let (ignore_case, multi_line) = (call.arg_bool("ignorecase", false)?, call.arg_bool("multiline", false)?);
    let regex = regex::compile(&pattern, ignore_case, multi_line).map_err(|message| call.error(message))?;
    regex.is_match(&text).map_err(|error| call.error(error))
}

fn version(call: &Call) -> Result<Jinja, Error> {
    let left = call.text()?;
    let right = call.required("version")?.to_string();
    let strict = match call.arg("strict")? {
        Some(value) => value.to_bool().unwrap_or(false),
        None => false,
    };
    let kind = call.arg_text("version_type")?;
    let kind = match (strict, kind.as_deref()) {
        (true, Some(_)) => return Err(call.error("`strict` and `version_type` exclude each other")),
        (true, None) => "strict",
        (false, kind) => kind.unwrap_or("loose"),
    };
    let order = versions::compare(&left, &right, kind).map_err(|message| call.error(message))?;
    let operator = call.arg_text("operator")?;
    give(versions::holds(order, operator.as_deref().unwrap_or("eq")).map_err(|message| call.error(message)))
}

fn within(call: &Call, turned: bool) -> Result<bool, Error> {
    let mine = call.list()?;
    let other = call.as_list(call.required(if turned { "subset" } else { "superset" })?)?;
    let (small, large) = if turned { (other, mine) } else { (mine, other) };
    Ok(small.iter().all(|item| large.contains(item)))
}

/// What has a length and items: text and mappings as well.
fn sequence(call: &Call) -> Result<bool, Error> {
    Ok(matches!(call.input()?, Value::List(_) | Value::Map(_) | Value::String(_)))
}

fn contains(call: &Call) -> Result<bool, Error> {
    let element = call.required("element")?;
    Ok(match call.input()? {
        Value::List(items) => items.contains(&element),
        Value::Map(map) => map.contains_key(&element.to_string()),
        Value::String(text) => text.contains(&element.to_string()),
        other => return Err(call.expected("a list, a mapping or text", &other)),
    })
}

fn truths(call: &Call) -> Result<Vec<bool>, Error> {
    call.list()?.into_iter().map(|item| call.give(item).map(|item| item.is_true())).collect()
}

fn truthy(call: &Call) -> Result<bool, Error> {
    let value = call.input()?;
    let convert = call.arg_bool("convert_bool", false)?;
    Ok(match value.to_bool().filter(|_| convert) {
        Some(b) => b,
        None => call.give(value)?.is_true(),
    })
}

/// A path on the controller.
fn path(call: &Call) -> Result<PathBuf, Error> {
    Ok(PathBuf::from(call.text()?))
}

fn ip(call: &Call) -> Result<Option<Ip>, Error> {
    Ok(Ip::parse(&call.input()?.to_string()))
}

fn in_network(call: &Call) -> Result<bool, Error> {
    let network = Ip::parse(&call.required("network")?.to_string()).ok_or_else(|| call.error("needs a network"))?;
    Ok(ip(call)?.is_some_and(|ip| network.contains(&ip)))
}
