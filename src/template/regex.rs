//! Python's regular expressions on fancy-regex.
//!
//! Patterns are translated where the two read the same text differently; replacements are expanded here. Not covered:
//! Python's rule for empty matches next to others, and `{,n}`.

use fancy_regex::{Captures, Regex};
use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

/// Patterns that are kept compiled.
const MAX_CACHED: usize = 1000;

/// Compiles a pattern of Python's `re`. The message of an error may quote the pattern.
pub(super) fn compile(pattern: &str, ignore_case: bool, multi_line: bool) -> Result<Regex, String> {
    type Cache = Mutex<HashMap<(String, bool, bool), Regex>>;
    static CACHE: LazyLock<Cache> = LazyLock::new(Mutex::default);
    let mut cache = CACHE.lock().unwrap_or_else(PoisonError::into_inner);
    let key = (pattern.to_owned(), ignore_case, multi_line);
    if let Some(regex) = cache.get(&key) {
        return Ok(regex.clone());
    }
    let flags = match (ignore_case, multi_line) {
        (false, false) => "",
        (true, false) => "(?i)",
        (false, true) => "(?m)",
        (true, true) => "(?im)",
    };
    let regex = Regex::new(&format!("{flags}{}", translate(pattern, multi_line)))
        .map_err(|error| format!("bad regular expression: {error}"))?;
    if cache.len() >= MAX_CACHED {
        cache.clear();
    }
    cache.insert(key, regex.clone());
    Ok(regex)
}

/// Rewrites what means something else in Rust: `\Z`, a `$` before a final line feed, `\<`, and `[` or `&&` in a class.
fn translate(pattern: &str, multi_line: bool) -> String {
    let mut out = String::with_capacity(pattern.len() + 8);
    let mut chars = pattern.chars().peekable();
    // Characters since a class began.
    let mut class: Option<usize> = None;
    while let Some(c) = chars.next() {
        match (c, class) {
            ('\\', _) => match chars.next() {
                Some('Z') => out.push_str("\\z"),
                Some(bracket @ ('<' | '>')) => out.push(bracket),
                Some(other) => out.extend(['\\', other]),
                None => out.push('\\'),
            },
            ('$', None) if !multi_line => out.push_str("(?=\\n?\\z)"),
            ('[', None) => {
                out.push('[');
                if chars.peek() == Some(&'^') {
                    out.extend(chars.next());
                }
                class = Some(0);
                continue;
            }
            (']', Some(1..)) => {
                out.push(']');
                class = None;
                continue;
            }
            (']', Some(0)) => out.push_str("\\]"),
            ('[' | '&' | '~', Some(_)) => out.extend(['\\', c]),
            _ => out.push(c),
        }
        class = class.map(|length| length + 1);
    }
    out
}

/// Expands a replacement: `\1`, `\g<1>`, `\g<name>`, `\n`, `\t`, `\\`. A group that did not take part is empty.
pub(super) fn expand(replacement: &str, captures: &Captures<'_, str>) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = replacement;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let digits = rest.bytes().take(2).take_while(u8::is_ascii_digit).count();
        if digits > 0 && !rest.starts_with('0') {
            out.push_str(group(captures, &rest[..digits])?);
            rest = &rest[digits..];
        } else if let Some((name, after)) = rest.strip_prefix("g<").and_then(|rest| rest.split_once('>')) {
            out.push_str(group(captures, name)?);
            rest = after;
        } else {
            let escaped = rest.chars().next();
            match escaped {
                Some('n') => out.push('\n'),
                Some('t') => out.push('\t'),
                Some('r') => out.push('\r'),
                Some('\\') | None => out.push('\\'),
                Some(c) => out.extend(['\\', c]),
            }
            rest = &rest[escaped.map_or(0, char::len_utf8)..];
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// A group by number or name.
pub(super) fn group<'t>(captures: &Captures<'t, str>, name: &str) -> Result<&'t str, String> {
    let found = match name.parse::<usize>() {
        Ok(number) if number < captures.len() => captures.get(number),
        Ok(number) => return Err(format!("the pattern has no group {number}")),
        Err(_) => captures.name(name),
    };
    Ok(found.map_or("", |found| found.as_str()))
}
