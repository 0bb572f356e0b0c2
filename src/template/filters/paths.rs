//! Paths as text (Python's `os.path`) and URLs taken apart. Nothing here looks at a file system.

use crate::template::call::{Call, Signature, Table, row};
use crate::value::{Map, Value};
use minijinja::{Error, Value as Jinja};

pub(super) static TABLE: &Table = &[
    row!("basename", |call| call.give(split(&call.text()?).1), "value"),
    row!("dirname", |call| call.give(dirname(&call.text()?)), "value"),
    row!("splitext", splitext, "value"),
    row!("path_join", path_join, "value"),
    row!("normpath", |call| call.give(normalize(&call.text()?)), "value"),
    row!("relpath", relpath, "value", "start"),
    row!("commonpath", commonpath, "value"),
    row!("urlsplit", urlsplit, "value", "query"),
];

/// The directory part with its slash, and what comes after it.
fn split(path: &str) -> (&str, &str) {
    path.split_at(path.rfind('/').map_or(0, |at| at + 1))
}

fn dirname(path: &str) -> &str {
    let (head, _) = split(path);
    match head.trim_end_matches('/') {
        "" => head,
        trimmed => trimmed,
    }
}

fn splitext(call: &Call) -> Result<Jinja, Error> {
    let path = call.text()?;
    let (head, name) = split(&path);
    // Dots in front belong to the name.
    let start = name.len() - name.trim_start_matches('.').len();
    let dot = name[start..].rfind('.').map_or(path.len(), |at| head.len() + start + at);
    call.give(vec![Value::from(&path[..dot]), Value::from(&path[dot..])])
}

fn path_join(call: &Call) -> Result<Jinja, Error> {
    let parts = match call.input()? {
        Value::List(parts) => parts.iter().map(ToString::to_string).collect(),
        other => vec![other.to_string()],
    };
    let mut path = String::new();
    for part in parts {
        if part.starts_with('/') {
            path.clear();
        } else if !path.is_empty() && !path.ends_with('/') {
            path.push('/');
        }
        path.push_str(&part);
    }
    call.give(path)
}

fn normalize(path: &str) -> String {
    let root = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if root => {}
            part => parts.push(part),
        }
    }
    match (root, parts.is_empty()) {
        (true, _) => format!("/{}", parts.join("/")),
        (false, true) => ".".to_owned(),
        (false, false) => parts.join("/"),
    }
}

/// The way from one directory to a path. Both have to be absolute or both relative: the working directory has no say.
fn relpath(call: &Call) -> Result<Jinja, Error> {
    let (path, start) = (call.text()?, call.arg_text("start")?.unwrap_or_else(|| ".".to_owned()));
    if path.starts_with('/') != start.starts_with('/') {
        return Err(call.error("one path is absolute and the other is not"));
    }
    let (path, start) = (normalize(&path), normalize(&start));
    let parts = |path: &str| {
        path.split('/').filter(|part| !matches!(*part, "" | ".")).map(ToOwned::to_owned).collect::<Vec<_>>()
    };
    let (path, start) = (parts(&path), parts(&start));
    let common = path.iter().zip(&start).take_while(|(a, b)| a == b).count();
    let mut way = vec![".."; start.len() - common];
    way.extend(path[common..].iter().map(String::as_str));
    call.give(if way.is_empty() { ".".to_owned() } else { way.join("/") })
}

fn commonpath(call: &Call) -> Result<Jinja, Error> {
    let paths: Vec<String> = call.list()?.iter().map(ToString::to_string).collect();
    let Some(first) = paths.first() else { return Err(call.error("the list is empty")) };
    let root = first.starts_with('/');
    if paths.iter().any(|path| path.starts_with('/') != root) {
        return Err(call.error("some paths are absolute and others are not"));
    }
    let mut common: Vec<&str> = first.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    for path in &paths {
        let parts = path.split('/').filter(|part| !matches!(*part, "" | "."));
        let same = common.iter().zip(parts).take_while(|(a, b)| **a == *b).count();
        common.truncate(same);
    }
    call.give(format!("{}{}", if root { "/" } else { "" }, common.join("/")))
}

/// The parts of a URL, or one of them.
fn urlsplit(call: &Call) -> Result<Jinja, Error> {
    let url = call.text()?;
    let (rest, fragment) = url.split_once('#').unwrap_or((&url, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let scheme_end = rest.find(':').filter(|end| {
        let scheme = &rest[..*end];
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    });
    let (scheme, rest) = scheme_end.map_or(("", rest), |end| (&rest[..end], &rest[end + 1..]));
    let (netloc, path) = match rest.strip_prefix("//") {
        Some(rest) => rest.split_at(rest.find('/').unwrap_or(rest.len())),
        None => ("", rest),
    };
    let (user, host) = netloc.rsplit_once('@').map_or((None, netloc), |(user, host)| (Some(user), host));
    let (username, password) = match user.map(|user| user.split_once(':').ok_or(user)) {
        None => (None, None),
        Some(Ok((name, password))) => (Some(name), Some(password)),
        Some(Err(name)) => (Some(name), None),
    };
    let (hostname, port) = match host.strip_prefix('[').and_then(|host| host.split_once(']')) {
        Some((address, port)) => (address, port.strip_prefix(':')),
        None => host.split_once(':').map_or((host, None), |(host, port)| (host, Some(port))),
    };
    let port = match port.filter(|port| !port.is_empty()) {
        None => Value::Null,
        Some(port) => {
            Value::from(i64::from(port.parse::<u16>().map_err(|_| call.error("the port is no number below 65536"))?))
        }
    };
    let hostname = (!hostname.is_empty()).then(|| hostname.to_lowercase());
    let mut parts: Map = [
        ("fragment", Value::from(fragment)),
        ("hostname", hostname.into()),
        ("netloc", netloc.into()),
        ("password", password.into()),
        ("path", path.into()),
        ("port", port),
        ("query", query.into()),
        ("scheme", scheme.to_lowercase().into()),
        ("username", username.into()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect();
    match call.arg_text("query")? {
        None => call.give(parts),
        Some(name) => match parts.swap_remove(&name) {
            Some(part) => call.give(part),
            None => Err(call.error(format!("a URL has no part `{name}`"))),
        },
    }
}
