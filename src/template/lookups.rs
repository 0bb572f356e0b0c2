//! Functions of every template: `lookup`, `query` and `now`.
//!
//! Lookups read the controller: files beside the role or playbook, the environment, variables. Running commands
//! (`pipe`), fetching (`url`) and making passwords are not among them: a plan must not do that.

use super::call::{Call, Signature, Table, add_functions, row};
use super::scope::{Names, Place};
use super::session::{Outcome, Session, is_stop};
use super::{convert, time};
use crate::source::near_miss;
use crate::value::Value;
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Value as Jinja};
use std::sync::Arc;

static TABLE: &Table = &[
    row!("lookup", lookup, "plugin" * "default", "wantlist", "errors", "files", "paths", "skip", "rstrip", "lstrip"),
    row!("query", query, "plugin" * "default", "wantlist", "errors", "files", "paths", "skip", "rstrip", "lstrip"),
    row!("q", query, "plugin" * "default", "wantlist", "errors", "files", "paths", "skip", "rstrip", "lstrip"),
    row!("now", now, "utc", "fmt"),
];

const PLUGINS: [&str; 15] = [
    "dict",
    "env",
    "file",
    "fileglob",
    "first_found",
    "indexed_items",
    "items",
    "list",
    "nested",
    "sequence",
    "subelements",
    "template",
    "together",
    "varnames",
    "vars",
];

pub(super) fn add_to(env: &mut Environment<'static>) {
    add_functions(env, TABLE);
    env.add_function("dict", mapping);
}

/// Python's `dict`: of a mapping or of pairs, and of names.
fn mapping(of: Option<Jinja>, names: Kwargs) -> Result<Jinja, Error> {
    let bad = || Error::new(ErrorKind::InvalidOperation, "`dict` needs a mapping or a list of pairs");
    let mut pairs = Vec::new();
    match of.as_ref().map(|of| (of, of.kind())) {
        None => {}
        Some((of, ValueKind::Undefined)) => return Err(convert::undefined(of)),
        Some((of, ValueKind::Map)) => {
            for key in of.try_iter()?.checked() {
                let key = key?;
                pairs.push((key.clone(), of.get_item(&key)?));
            }
        }
        Some((of, _)) => {
            for pair in of.try_iter().map_err(|_| bad())?.checked() {
                let parts = pair?.try_iter().map_err(|_| bad())?.checked().collect::<Result<Vec<_>, _>>()?;
                let [key, value] = <[Jinja; 2]>::try_from(parts).map_err(|_| bad())?;
                pairs.push((key, value));
            }
        }
    }
    for name in names.args() {
        pairs.push((Jinja::from(name), names.get(name)?));
    }
    Ok(Jinja::from_pairs(pairs))
}

fn now(call: &Call) -> Result<Jinja, Error> {
    let utc = call.arg_bool("utc", false)?;
    match call.arg_text("fmt")? {
        Some(form) => call.give(time::format(&form, None, utc).map_err(|message| call.error(message))?),
        None => time::now(utc).map_err(|message| call.error(message)),
    }
}

/// All that a lookup finds.
fn query(call: &Call) -> Result<Jinja, Error> {
    call.give(find(call)?)
}

/// What a lookup finds: the one thing, texts joined by commas, or a list.
fn lookup(call: &Call) -> Result<Jinja, Error> {
    let mut found = find(call)?;
    if call.arg_bool("wantlist", false)? {
        return call.give(found);
    }
    if found.iter().all(|value| matches!(value, Value::String(_))) && found.len() != 1 {
        return call.give(found.iter().map(ToString::to_string).collect::<Vec<_>>().join(","));
    }
    match (found.len(), found.pop()) {
        (1, Some(only)) => call.give(only),
        (_, last) => {
            found.extend(last);
            call.give(found)
        }
    }
}

fn find(call: &Call) -> Result<Vec<Value>, Error> {
    let name = call.text()?;
    let name = name.strip_prefix("ansible.builtin.").unwrap_or(&name);
    let errors = call.arg_text("errors")?.unwrap_or_else(|| "strict".to_owned());
    let found = match name {
        "env" => env(call),
        "file" => files(call),
        "template" => templates(call),
        "first_found" => first_found(call),
        "fileglob" => Err(call.error("`fileglob` is not supported: name the files")),
        "vars" => vars(call),
        "varnames" => varnames(call),
        "dict" => dict(call),
        "list" => call.rest_known(),
        "items" => terms(call),
        "indexed_items" => {
            Ok(terms(call)?.into_iter().enumerate().map(|(i, item)| Value::List(vec![i.into(), item])).collect())
        }
        "sequence" => sequence(call),
        "nested" | "cartesian" => combine(call, true),
        "together" => combine(call, false),
        "subelements" => subelements(call),
        "pipe" | "url" | "password" | "lines" | "csvfile" | "ini" | "redis" | "unvault" => {
            Err(call.error(format!("the lookup `{name}` is not supported")))
        }
        other => {
            let near = near_miss(other, PLUGINS).map(|near| format!(", did you mean `{near}`?")).unwrap_or_default();
            return Err(call.error(format!("there is no lookup `{other}`{near}")));
        }
    };
    match found {
        Err(error) if errors == "strict" || is_stop(&error) => Err(error),
        Err(_) => Ok(Vec::new()),
        found => found,
    }
}

/// The arguments with lists among them taken apart.
fn terms(call: &Call) -> Result<Vec<Value>, Error> {
    let flat = |value| if let Value::List(items) = value { items } else { vec![value] };
    Ok(call.rest_known()?.into_iter().flat_map(flat).collect())
}

fn names(call: &Call) -> Result<Vec<String>, Error> {
    Ok(terms(call)?.iter().map(ToString::to_string).collect())
}

fn env(call: &Call) -> Result<Vec<Value>, Error> {
    let default = call.arg("default")?.unwrap_or_else(|| Value::from(""));
    let value = |name: String| std::env::var(name).map_or_else(|_| default.clone(), Value::String);
    Ok(names(call)?.into_iter().map(value).collect())
}

fn place(call: &Call) -> Result<Arc<Place>, Error> {
    Session::place_of(call.state)
}

fn files(call: &Call) -> Result<Vec<Value>, Error> {
    let place = place(call)?;
    let (rstrip, lstrip) = (call.arg_bool("rstrip", true)?, call.arg_bool("lstrip", false)?);
    let read = |name: String| {
        let source =
            place.scope.file("files", &name).ok_or_else(|| call.error(format!("there is no file `{name}`")))?;
        let text = if rstrip { source.text.trim_end() } else { &source.text };
        Ok(Value::from(if lstrip { text.trim_start() } else { text }))
    };
    names(call)?.into_iter().map(read).collect()
}

fn templates(call: &Call) -> Result<Vec<Value>, Error> {
    let (session, place) = (call.session()?, place(call)?);
    let mut out = Vec::new();
    for name in names(call)? {
        let source =
            place.scope.file("templates", &name).ok_or_else(|| call.error(format!("there is no template `{name}`")))?;
        let outcome = session.evaluate_file(&source, &place).map_err(|error| session.fail(error))?;
        match outcome {
            Outcome::Known(value) => out.push(convert::to_value(&value)?),
            Outcome::Unknown(after) => return Err(session.touch(&after)),
        }
    }
    Ok(out)
}

/// The first of some files that exists; nothing when there is none and `skip` is set.
fn first_found(call: &Call) -> Result<Vec<Value>, Error> {
    let place = place(call)?;
    let mut skip = call.arg_bool("skip", false)?;
    let list = |value: Option<Value>| match value {
        None => Vec::new(),
        Some(Value::List(items)) => items.iter().map(ToString::to_string).collect(),
        Some(one) => one.to_string().split([',', ';']).map(|part| part.trim().to_owned()).collect::<Vec<_>>(),
    };
    let (mut names, mut paths) = (list(call.arg("files")?), list(call.arg("paths")?));
    for term in terms(call)? {
        match term {
            Value::Map(mut options) => {
                names.extend(list(options.swap_remove("files")));
                paths.extend(list(options.swap_remove("paths")));
                skip = skip || options.swap_remove("skip").and_then(|skip| skip.to_bool()).unwrap_or(false);
            }
            other => names.push(other.to_string()),
        }
    }
    let candidates: Vec<String> = match paths.is_empty() {
        true => names,
        false => paths
            .iter()
            .flat_map(|path| names.iter().map(move |name| format!("{}/{name}", path.trim_end_matches('/'))))
            .collect(),
    };
    let found = candidates
        .iter()
        .find_map(|name| place.scope.file("files", name).or_else(|| place.scope.file("templates", name)));
    match found {
        Some(source) => Ok(vec![Value::from(source.path.display().to_string())]),
        None if skip => Ok(Vec::new()),
        None => Err(call.error(format!("there is none of the files {}", candidates.join(", ")))),
    }
}

/// Variables by a computed name.
fn vars(call: &Call) -> Result<Vec<Value>, Error> {
    let (session, place) = (call.session()?, place(call)?);
    let all = Jinja::from_object(Names { session, place: place.clone() });
    let mut out = Vec::new();
    for name in names(call)? {
        let value = all.get_attr(&name)?;
        match call.raw("default") {
            Some(default) if value.is_undefined() => out.push(call.known(default)?),
            None if value.is_undefined() => {
                let near = place.scope.names();
                let near = near_miss(&name, near.iter().map(String::as_str))
                    .map(|near| format!(", did you mean `{near}`?"))
                    .unwrap_or_default();
                return Err(call.error(format!("there is no variable `{name}`{near}")));
            }
            _ => out.push(call.known(&value)?),
        }
    }
    Ok(out)
}

fn varnames(call: &Call) -> Result<Vec<Value>, Error> {
    let names_there = place(call)?.scope.names();
    let mut out = Vec::new();
    for pattern in names(call)? {
        let regex = super::regex::compile(&pattern, false, false).map_err(|message| call.error(message))?;
        out.extend(
            names_there
                .iter()
                .filter(|name| regex.is_match(name).unwrap_or(false))
                .map(|name| Value::from(name.as_str())),
        );
    }
    Ok(out)
}

fn dict(call: &Call) -> Result<Vec<Value>, Error> {
    let mut out = Vec::new();
    for term in terms(call)? {
        let Value::Map(map) = term else { return Err(call.expected("mappings", &term)) };
        out.extend(
            map.into_iter().map(|(key, value)| [("key", Value::String(key)), ("value", value)].into_iter().collect()),
        );
    }
    Ok(out)
}

/// Numbers as texts: `start=1 end=3 stride=1 format=x%02d` or `count=`.
fn sequence(call: &Call) -> Result<Vec<Value>, Error> {
    let mut out = Vec::new();
    for term in names(call)? {
        let (mut start, mut end, mut count, mut stride, mut form) = (1i64, None, None, 1i64, "%d");
        for option in term.split_whitespace() {
            let (key, value) =
                option.split_once('=').ok_or_else(|| call.error("a sequence is written as `start=1 end=3`"))?;
            let number = || value.parse::<i64>().map_err(|_| call.error(format!("`{key}` has to be a number")));
            match key {
                "start" => start = number()?,
                "end" => end = Some(number()?),
                "count" => count = Some(number()?),
                "stride" => stride = number()?,
                "format" => form = value,
                _ => return Err(call.error(format!("a sequence has no option `{key}`"))),
            }
        }
        let end = match (end, count) {
            (Some(end), None) => end,
            (None, Some(count)) => start + (count - 1) * stride,
            _ => return Err(call.error("a sequence needs `end` or `count`, and not both")),
        };
        if stride == 0 || (end - start) / stride > 100_000 {
            return Err(call.error("the sequence has no end"));
        }
        let mut n = start;
        while if stride > 0 { n <= end } else { n >= end } {
            out.push(Value::String(printf(form, n).ok_or_else(|| call.error("the format has to have one %d or %x"))?));
            n += stride;
        }
    }
    Ok(out)
}

/// One number in C's way: `%d`, `%05d`, `%x`.
fn printf(form: &str, n: i64) -> Option<String> {
    let (before, rest) = form.split_once('%')?;
    let at = rest.find(['d', 'x', 'o'])?;
    let (flags, after) = (&rest[..at], &rest[at + 1..]);
    let width: usize = if flags.is_empty() { 0 } else { flags.parse().ok().filter(|width| *width < 100)? };
    let digits = match rest.as_bytes()[at] {
        b'x' => format!("{n:x}"),
        b'o' => format!("{n:o}"),
        _ => n.to_string(),
    };
    Some(match flags.starts_with('0') {
        true => format!("{before}{digits:0>width$}{after}"),
        false => format!("{before}{digits:>width$}{after}"),
    })
}

/// Rows from several lists: every combination, or side by side.
fn combine(call: &Call, all: bool) -> Result<Vec<Value>, Error> {
    let mut lists = Vec::new();
    for value in call.rest_known()? {
        lists.push(call.as_list(value)?);
    }
    if !all {
        let length = lists.iter().map(Vec::len).max().unwrap_or(0);
        let row = |i: usize| Value::List(lists.iter().map(|list| list.get(i).cloned().unwrap_or_default()).collect());
        return Ok((0..length).map(row).collect());
    }
    let mut rows = vec![Vec::new()];
    for list in &lists {
        if rows.len().saturating_mul(list.len()) > 100_000 {
            return Err(call.error("more than 100000 results"));
        }
        rows = rows
            .iter()
            .flat_map(|row: &Vec<Value>| list.iter().map(|item| [row.as_slice(), std::slice::from_ref(item)].concat()))
            .collect();
    }
    Ok(rows.into_iter().map(Value::List).collect())
}

fn subelements(call: &Call) -> Result<Vec<Value>, Error> {
    let mut arguments = call.rest_known()?.into_iter();
    let (Some(items), Some(key)) = (arguments.next(), arguments.next()) else {
        return Err(call.error("needs a list and a key"));
    };
    let skip_missing =
        arguments.next().is_some_and(|options| options.get("skip_missing").and_then(Value::to_bool) == Some(true));
    super::filters::subelements(call, items, &key, skip_missing)
}
