//! Lists and mappings: `combine`, `dict2items`, `flatten`, set theory, `extract`, `subelements`, `zip` and the like.
//!
//! `combine`, `dict2items` and `items2dict` only rearrange: an unknown part of what they are given stays unknown in its new
//! place. The others look at values, so one that is unknown makes the whole unknown.

use crate::source::near_miss;
use crate::template::call::{Call, Signature, Table, row};
use crate::template::convert;
use crate::value::{Map, Value};
use minijinja::{Error, Value as Jinja};
use std::cmp::Ordering;

pub(super) static TABLE: &Table = &[
    row!("combine", combine, "value" * "recursive", "list_merge"),
    row!("dict2items", dict2items, "value", "key_name", "value_name"),
    row!("items2dict", items2dict, "value", "key_name", "value_name"),
    row!("flatten", flatten, "value", "levels", "skip_nulls"),
    row!("union", union, "value", "other"),
    row!("intersect", intersect, "value", "other"),
    row!("difference", difference, "value", "other"),
    row!("symmetric_difference", symmetric_difference, "value", "other"),
    row!("unique", unique, "value", "case_sensitive", "attribute"),
    row!("min", |call| extreme(call, Ordering::Less), "value", "attribute", "case_sensitive"),
    row!("max", |call| extreme(call, Ordering::Greater), "value", "attribute", "case_sensitive"),
    row!("extract", extract, "value", "container", "morekeys"),
    row!(
        "subelements",
        |call| call.give(subelements(
            call,
            call.input()?,
            &call.required("subelements")?,
            call.arg_bool("skip_missing", false)?
        )?),
        "value",
        "subelements",
        "skip_missing"
    ),
    row!("zip", zip, "value" *),
    row!("zip_longest", zip_longest, "value" * "fillvalue"),
    row!("product", product, "value" *),
    row!("combinations", |call| arrangements(call, true), "value", "length"),
    row!("permutations", |call| arrangements(call, false), "value", "length"),
    row!("rekey_on_member", rekey_on_member, "value", "key", "duplicates"),
];

/// More results than this of `product`, `combinations` or `permutations` are a mistake.
const MAX_RESULTS: usize = 100_000;

#[derive(Clone, Copy, PartialEq)]
enum ListMerge {
    Replace,
    Keep,
    Append,
    Prepend,
    AppendRp,
    PrependRp,
}

impl ListMerge {
    const NAMES: [(&str, Self); 6] = [
        ("replace", Self::Replace),
        ("keep", Self::Keep),
        ("append", Self::Append),
        ("prepend", Self::Prepend),
        ("append_rp", Self::AppendRp),
        ("prepend_rp", Self::PrependRp),
    ];
}

fn combine(call: &Call) -> Result<Jinja, Error> {
    let recursive = call.arg_bool("recursive", false)?;
    let list_merge = match call.arg_text("list_merge")? {
        None => ListMerge::Replace,
        Some(name) => match ListMerge::NAMES.iter().find(|(known, _)| *known == name) {
            Some((_, merge)) => *merge,
            None => {
                let near = near_miss(&name, ListMerge::NAMES.iter().map(|(known, _)| *known));
                return Err(call.error(format!(
                    "list_merge has to be one of {}",
                    near.unwrap_or("replace, keep, append, prepend, append_rp, prepend_rp")
                )));
            }
        },
    };
    let mut result = Map::new();
    for (i, value) in std::iter::once(call.raw_input()?).chain(call.rest()).enumerate() {
        // Lists of mappings count as their items.
        let mut open = vec![convert::maybe_unknown(value)?];
        while let Some(value) = open.pop() {
            match value {
                Value::List(items) => open.extend(items.into_iter().rev()),
                Value::Map(map) if i == 0 && result.is_empty() => result = map,
                Value::Map(map) => merge(&mut result, map, recursive, list_merge),
                Value::Unknown(after) => return Err(call.session()?.touch(&after)),
                other => return Err(call.expected("mappings", &other)),
            }
        }
    }
    call.give(result)
}

/// Ansible's `merge_hash`: what is in `over` wins; how far that goes is for the options to say.
fn merge(into: &mut Map, over: Map, recursive: bool, list_merge: ListMerge) {
    for (key, new) in over {
        let merged = match (into.get_mut(&key), new) {
            (Some(Value::Map(old)), Value::Map(new)) if recursive => {
                merge(old, new, recursive, list_merge);
                continue;
            }
            (Some(Value::List(old)), Value::List(new)) => merge_lists(old, new, list_merge),
            // What is unknown may be something to merge with.
            (Some(Value::Unknown(_)), Value::Map(_)) if recursive => continue,
            (Some(Value::Unknown(_)), Value::List(_)) if list_merge != ListMerge::Replace => continue,
            (_, new) => new,
        };
        into.insert(key, merged);
    }
}

fn merge_lists(old: &[Value], new: Vec<Value>, list_merge: ListMerge) -> Value {
    let compares = matches!(list_merge, ListMerge::AppendRp | ListMerge::PrependRp);
    if let (true, Some(after)) = (compares, old.iter().chain(&new).find_map(Value::unknown)) {
        return Value::Unknown(after.clone());
    }
    let old_without = |new: &[Value]| old.iter().filter(|item| !new.contains(item)).cloned().collect::<Vec<_>>();
    Value::List(match list_merge {
        ListMerge::Replace => new,
        ListMerge::Keep => old.to_vec(),
        ListMerge::Append => [old, &new].concat(),
        ListMerge::Prepend => [&new, old].concat(),
        ListMerge::AppendRp => [old_without(&new), new].concat(),
        ListMerge::PrependRp => [new.clone(), old_without(&new)].concat(),
    })
}

fn dict2items(call: &Call) -> Result<Jinja, Error> {
    let key_name = call.arg_text("key_name")?.unwrap_or_else(|| "key".to_owned());
    let value_name = call.arg_text("value_name")?.unwrap_or_else(|| "value".to_owned());
    match convert::maybe_unknown(call.raw_input()?)? {
        Value::Map(map) => call.give(Value::List(
            map.into_iter()
                .map(|(key, value)| {
                    [(key_name.clone(), Value::String(key)), (value_name.clone(), value)].into_iter().collect()
                })
                .collect(),
        )),
        other => Err(call.expected("a mapping", &other)),
    }
}

fn items2dict(call: &Call) -> Result<Jinja, Error> {
    let key_name = call.arg_text("key_name")?.unwrap_or_else(|| "key".to_owned());
    let value_name = call.arg_text("value_name")?.unwrap_or_else(|| "value".to_owned());
    let items = match convert::maybe_unknown(call.raw_input()?)? {
        Value::List(items) => items,
        other => return Err(call.expected("a list", &other)),
    };
    let mut map = Map::with_capacity(items.len());
    for item in items {
        let mut item = match item {
            Value::Map(item) => item,
            Value::Unknown(after) => return Err(call.session()?.touch(&after)),
            other => return Err(call.expected("a list of mappings", &other)),
        };
        let missing = |name: &str| call.error(format!("an item has no `{name}`"));
        let value = item.shift_remove(&value_name).ok_or_else(|| missing(&value_name))?;
        match item.shift_remove(&key_name).ok_or_else(|| missing(&key_name))? {
            Value::Unknown(after) => return Err(call.session()?.touch(&after)),
            key => map.insert(key.to_string(), value),
        };
    }
    call.give(map)
}

fn flatten(call: &Call) -> Result<Jinja, Error> {
    fn into(out: &mut Vec<Value>, items: Vec<Value>, levels: Option<i64>, skip_nulls: bool) {
        for item in items {
            match item {
                Value::Null if skip_nulls => {}
                Value::List(inner) if levels != Some(0) => {
                    into(out, inner, levels.map(|levels| levels - 1), skip_nulls)
                }
                other => out.push(other),
            }
        }
    }
    let levels = call.arg_int("levels")?;
    let skip_nulls = call.arg_bool("skip_nulls", true)?;
    let items = call.list()?;
    let mut out = Vec::new();
    into(&mut out, items, levels, skip_nulls);
    call.give(out)
}

/// The items of both lists, each once.
fn sets(call: &Call) -> Result<(Vec<Value>, Vec<Value>), Error> {
    Ok((once(call.list()?), once(call.as_list(call.required("other")?)?)))
}

fn once(items: Vec<Value>) -> Vec<Value> {
    let mut out: Vec<Value> = Vec::with_capacity(items.len());
    for item in items {
        if !out.contains(&item) {
            out.push(item);
        }
    }
    out
}

fn union(call: &Call) -> Result<Jinja, Error> {
    let (a, b) = sets(call)?;
    call.give(once([a, b].concat()))
}

fn intersect(call: &Call) -> Result<Jinja, Error> {
    let (a, b) = sets(call)?;
    call.give(a.into_iter().filter(|item| b.contains(item)).collect::<Vec<_>>())
}

fn difference(call: &Call) -> Result<Jinja, Error> {
    let (a, b) = sets(call)?;
    call.give(a.into_iter().filter(|item| !b.contains(item)).collect::<Vec<_>>())
}

fn symmetric_difference(call: &Call) -> Result<Jinja, Error> {
    let (a, b) = sets(call)?;
    let only_b = b.iter().filter(|item| !a.contains(item)).cloned();
    call.give(a.iter().filter(|item| !b.contains(item)).cloned().chain(only_b).collect::<Vec<_>>())
}

/// What items are compared by: themselves or an attribute (a dotted path), without regard to case unless asked for.
fn sort_keys(call: &Call, items: &[Value]) -> Result<Vec<Value>, Error> {
    let attribute = call.arg_text("attribute")?;
    let case_sensitive = call.arg_bool("case_sensitive", false)?;
    let key = |item: &Value| -> Result<Value, Error> {
        let value = match &attribute {
            None => item.clone(),
            Some(path) => member(item, path).cloned().ok_or_else(|| call.error(format!("an item has no `{path}`")))?,
        };
        Ok(match value {
            Value::String(text) if !case_sensitive => Value::String(text.to_lowercase()),
            other => other,
        })
    };
    items.iter().map(key).collect()
}

fn member<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(value, |value, part| match value {
        Value::List(items) => items.get(part.parse::<usize>().ok()?),
        other => other.get(part),
    })
}

fn unique(call: &Call) -> Result<Jinja, Error> {
    let items = call.list()?;
    let keys = sort_keys(call, &items)?;
    let first = |i: &usize| !keys[..*i].contains(&keys[*i]);
    call.give((0..items.len()).filter(first).map(|i| items[i].clone()).collect::<Vec<_>>())
}

/// The least or greatest item; undefined when there is none.
fn extreme(call: &Call, wanted: Ordering) -> Result<Jinja, Error> {
    let items = call.list()?;
    let keys = sort_keys(call, &items)?;
    let mut best = 0;
    for i in 1..items.len() {
        if compare(&keys[i], &keys[best]).ok_or_else(|| {
            call.error(format!("{} and {} have no order", keys[i].type_name(), keys[best].type_name()))
        })? == wanted
        {
            best = i;
        }
    }
    match items.into_iter().nth(best) {
        Some(item) => call.give(item),
        None => Ok(Jinja::UNDEFINED),
    }
}

/// Python's order: numbers with numbers, text with text, lists item by item.
fn compare(a: &Value, b: &Value) -> Option<Ordering> {
    let number = |value: &Value| match value {
        Value::Int(n) => Some(*n as f64),
        Value::Float(x) => Some(*x),
        Value::Bool(b) => Some(f64::from(u8::from(*b))),
        _ => None,
    };
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => Some(a.cmp(b)),
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (Value::List(a), Value::List(b)) => {
            for (a, b) in a.iter().zip(b) {
                match compare(a, b)? {
                    Ordering::Equal => {}
                    other => return Some(other),
                }
            }
            Some(a.len().cmp(&b.len()))
        }
        _ => number(a)?.partial_cmp(&number(b)?),
    }
}

/// Looks a key up in a container, as in `groups.all | map('extract', hostvars, 'address')`.
fn extract(call: &Call) -> Result<Jinja, Error> {
    let Some(container) = call.raw("container") else { return call.required("container").map(|_| Jinja::UNDEFINED) };
    call.input()?;
    let mut value = container.get_item(call.raw_input()?)?;
    let keys = match call.arg("morekeys")? {
        None => Vec::new(),
        Some(Value::List(keys)) => keys,
        Some(key) => vec![key],
    };
    for key in keys {
        value = value.get_item(&call.give(key)?)?;
    }
    // What is invalid has to stop the evaluation here: a list of results would hide it.
    match value.kind() {
        minijinja::value::ValueKind::Invalid => convert::known(call.state, &value).map(|_| Jinja::UNDEFINED),
        _ => Ok(value),
    }
}

/// Pairs of an item and each part of a list in it.
pub(in crate::template) fn subelements(
    call: &Call,
    value: Value,
    key: &Value,
    skip_missing: bool,
) -> Result<Vec<Value>, Error> {
    let items = match value {
        Value::List(items) => items,
        Value::Map(map) => map.into_values().collect(),
        other => return Err(call.expected("a list or a mapping", &other)),
    };
    let path = match key {
        Value::List(keys) => keys.iter().map(ToString::to_string).collect::<Vec<_>>().join("."),
        key => key.to_string(),
    };
    let mut out = Vec::new();
    for item in items {
        match member(&item, &path) {
            Some(Value::List(parts)) => {
                out.extend(parts.iter().map(|part| Value::List(vec![item.clone(), part.clone()])))
            }
            Some(other) => return Err(call.expected(&format!("a list in `{path}`"), other)),
            None if skip_missing => {}
            None => return Err(call.error(format!("an item has no `{path}`"))),
        }
    }
    Ok(out)
}

/// The list that the filter is applied to and those in its arguments.
fn lists(call: &Call) -> Result<Vec<Vec<Value>>, Error> {
    let mut lists = vec![call.list()?];
    for other in call.rest_known()? {
        lists.push(call.as_list(other)?);
    }
    Ok(lists)
}

fn zip(call: &Call) -> Result<Jinja, Error> {
    let lists = lists(call)?;
    let length = lists.iter().map(Vec::len).min().unwrap_or(0);
    call.give((0..length).map(|i| Value::List(lists.iter().map(|list| list[i].clone()).collect())).collect::<Vec<_>>())
}

fn zip_longest(call: &Call) -> Result<Jinja, Error> {
    let fill = call.arg("fillvalue")?.unwrap_or(Value::Null);
    let lists = lists(call)?;
    let length = lists.iter().map(Vec::len).max().unwrap_or(0);
    let row = |i: usize| Value::List(lists.iter().map(|list| list.get(i).unwrap_or(&fill).clone()).collect());
    call.give((0..length).map(row).collect::<Vec<_>>())
}

fn product(call: &Call) -> Result<Jinja, Error> {
    let mut rows = vec![Vec::new()];
    for list in lists(call)? {
        if rows.len().saturating_mul(list.len()) > MAX_RESULTS {
            return Err(call.error(format!("more than {MAX_RESULTS} results")));
        }
        rows = rows
            .iter()
            .flat_map(|row: &Vec<Value>| list.iter().map(|item| [row.as_slice(), std::slice::from_ref(item)].concat()))
            .collect();
    }
    call.give(rows.into_iter().map(Value::List).collect::<Vec<_>>())
}

/// Choices of `length` items, in order of position; each set once, or in every order.
fn arrangements(call: &Call, sets: bool) -> Result<Jinja, Error> {
    let items = call.list()?;
    let length = match call.arg_int("length")? {
        None if sets => return call.required("length").map(|_| Jinja::UNDEFINED),
        None => items.len(),
        Some(length) => usize::try_from(length).map_err(|_| call.error("the length is negative"))?,
    };
    let mut rows: Vec<Vec<usize>> = vec![Vec::new()];
    for _ in 0..length {
        let next = |row: &Vec<usize>| {
            let row = row.clone();
            let from = if sets { row.last().map_or(0, |last| last + 1) } else { 0 };
            (from..items.len()).filter(move |i| sets || !row.contains(i))
        };
        let mut longer = Vec::new();
        for row in &rows {
            longer.extend(next(row).map(|i| [row.as_slice(), &[i]].concat()));
            if longer.len() > MAX_RESULTS {
                return Err(call.error(format!("more than {MAX_RESULTS} results")));
            }
        }
        rows = longer;
    }
    call.give(rows.iter().map(|row| Value::List(row.iter().map(|i| items[*i].clone()).collect())).collect::<Vec<_>>())
}

fn rekey_on_member(call: &Call) -> Result<Jinja, Error> {
    let items = match call.input()? {
        Value::List(items) => items,
        Value::Map(map) => map.into_values().collect(),
        other => return Err(call.expected("a list or a mapping", &other)),
    };
    let key = call.required("key")?.to_string();
    let overwrite = call.arg_text("duplicates")?.as_deref() == Some("overwrite");
    let mut map = Map::new();
    for item in items {
        let name = item.get(&key).ok_or_else(|| call.error(format!("an item has no `{key}`")))?.to_string();
        if map.insert(name, item).is_some() && !overwrite {
            return Err(call.error(format!("two items have the same `{key}`")));
        }
    }
    call.give(map)
}
