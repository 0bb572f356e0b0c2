//! Text: regular expressions, quoting, comments, sizes in words.

use crate::template::call::{Call, Signature, Table, row};
use crate::template::regex;
use crate::value::Value;
use minijinja::{Error, Value as Jinja};

pub(super) static TABLE: &Table = &[
    row!(
        "regex_replace",
        regex_replace,
        "value",
        "pattern",
        "replacement",
        "ignorecase",
        "multiline",
        "count",
        "mandatory_count"
    ),
    row!("regex_search", regex_search, "value" * "ignorecase", "multiline"),
    row!("regex_findall", regex_findall, "value", "regex", "multiline", "ignorecase"),
    row!("regex_escape", regex_escape, "value", "re_type"),
    row!("quote", quote, "value"),
    row!(
        "comment",
        comment,
        "value",
        "style",
        "newline",
        "beginning",
        "prefix",
        "prefix_count",
        "decoration",
        "postfix",
        "postfix_count",
        "end"
    ),
    row!("human_to_bytes", human_to_bytes, "value", "default_unit", "isbits"),
    row!("human_readable", human_readable, "value", "isbits", "unit"),
    row!("urlencode", urlencode, "value"),
    row!("center", center, "value", "width"),
    row!("truncate", truncate, "value", "length", "killwords", "end", "leeway"),
];

fn compile(call: &Call, pattern: &str) -> Result<fancy_regex::Regex, Error> {
    let (ignore_case, multi_line) = (call.arg_bool("ignorecase", false)?, call.arg_bool("multiline", false)?);
    regex::compile(pattern, ignore_case, multi_line).map_err(|message| call.error(message))
}

fn regex_replace(call: &Call) -> Result<Jinja, Error> {
    let text = call.text()?;
    let pattern = compile(call, &call.arg_text("pattern")?.unwrap_or_default())?;
    let replacement = call.arg_text("replacement")?.unwrap_or_default();
    let count = call.arg_int("count")?.unwrap_or(0);
    let (mut out, mut end, mut done) = (String::new(), 0, 0);
    for captures in pattern.captures_iter(text.as_str()) {
        let captures = captures.map_err(|error| call.error(error))?;
        let Some(found) = captures.get(0) else { continue };
        out.push_str(&text[end..found.start()]);
        out.push_str(&regex::expand(&replacement, &captures).map_err(|message| call.error(message))?);
        end = found.end();
        done += 1;
        if done == count {
            break;
        }
    }
    if call.arg_int("mandatory_count")?.is_some_and(|wanted| wanted != 0 && wanted != done) {
        return Err(call.error(format!("replaced {done} times, not as often as mandatory_count says")));
    }
    out.push_str(&text[end..]);
    call.give(out)
}

/// The match; with `'\\1'` or `'\\g<name>'` as arguments, a list of these groups; null when nothing matches.
fn regex_search(call: &Call) -> Result<Jinja, Error> {
    let text = call.text()?;
    let arguments = call.rest_known()?;
    let Some((pattern, groups)) = arguments.split_first() else { return Err(call.error("needs a pattern")) };
    let Some(captures) =
        compile(call, &pattern.to_string())?.captures(text.as_str()).map_err(|error| call.error(error))?
    else {
        return call.give(Value::Null);
    };
    if groups.is_empty() {
        return call.give(captures.get(0).map_or("", |found| found.as_str()));
    }
    let group = |argument: &Value| {
        let argument = argument.to_string();
        let name = argument
            .strip_prefix('\\')
            .map(|name| name.strip_prefix("g<").and_then(|name| name.strip_suffix('>')).unwrap_or(name));
        let name = name.ok_or_else(|| call.error("a group is written as '\\\\1' or '\\\\g<name>'"))?;
        regex::group(&captures, name).map(Value::from).map_err(|message| call.error(message))
    };
    call.give(groups.iter().map(group).collect::<Result<Vec<_>, _>>()?)
}

fn regex_findall(call: &Call) -> Result<Jinja, Error> {
    let text = call.text()?;
    let pattern = compile(call, &call.required("regex")?.to_string())?;
    let mut out = Vec::new();
    for captures in pattern.captures_iter(text.as_str()) {
        let captures = captures.map_err(|error| call.error(error))?;
        let group = |i: usize| Value::from(captures.get(i).map_or("", |found| found.as_str()));
        out.push(match captures.len() {
            1 => group(0),
            2 => group(1),
            groups => Value::List((1..groups).map(group).collect()),
        });
    }
    call.give(out)
}

fn regex_escape(call: &Call) -> Result<Jinja, Error> {
    let special = match call.arg_text("re_type")?.as_deref() {
        None | Some("python") => "()[]{}?*+-|^$\\.&~# \t\n\r\x0b\x0c",
        Some("posix_basic") => "[].^$*\\",
        Some(_) => return Err(call.error("re_type has to be python or posix_basic")),
    };
    let escape = |c: char| special.contains(c).then_some('\\').into_iter().chain([c]);
    call.give(call.text()?.chars().flat_map(escape).collect::<String>())
}

/// A word for a POSIX shell.
fn quote(call: &Call) -> Result<Jinja, Error> {
    let text = match call.input()? {
        Value::Null => String::new(),
        _ => call.text()?,
    };
    let safe = |c: char| c.is_ascii_alphanumeric() || "@%+=:,./-_".contains(c);
    call.give(match !text.is_empty() && text.chars().all(safe) {
        true => text,
        false => format!("'{}'", text.replace('\'', "'\"'\"'")),
    })
}

fn comment(call: &Call) -> Result<Jinja, Error> {
    let (mut beginning, mut decoration, mut end) = match call.arg_text("style")?.as_deref() {
        None | Some("plain") => ("", "# ", ""),
        Some("erlang") => ("", "% ", ""),
        Some("c") => ("", "// ", ""),
        Some("cblock") => ("/*", " * ", " */"),
        Some("xml") => ("<!--", " - ", "-->"),
        Some(_) => return Err(call.error("style has to be plain, c, cblock, erlang or xml")),
    };
    let given = |name: &str| call.arg_text(name);
    let (begin_given, decoration_given, end_given) = (given("beginning")?, given("decoration")?, given("end")?);
    beginning = begin_given.as_deref().unwrap_or(beginning);
    decoration = decoration_given.as_deref().unwrap_or(decoration);
    end = end_given.as_deref().unwrap_or(end);
    let newline = given("newline")?.unwrap_or_else(|| "\n".to_owned());
    let bare = decoration.trim_end().to_owned();
    let prefix = given("prefix")?.unwrap_or_else(|| bare.clone());
    let postfix = given("postfix")?.unwrap_or_else(|| bare.clone());
    let times = |name: &str| Ok::<_, Error>(usize::try_from(call.arg_int(name)?.unwrap_or(1)).unwrap_or(0).min(1000));
    let mut out = String::new();
    if !beginning.is_empty() {
        out.push_str(&format!("{beginning}{newline}"));
    }
    if !prefix.is_empty() {
        let line = if prefix == newline { prefix } else { format!("{prefix}{newline}") };
        out.push_str(&line.repeat(times("prefix_count")?));
    }
    let text = call.text()?;
    let lines: Vec<&str> = text.split(newline.as_str()).collect();
    for (i, line) in lines.iter().enumerate() {
        let last = i + 1 == lines.len();
        // A line without text has no space behind its mark, except at the end.
        out.push_str(if line.is_empty() && !last { &bare } else { decoration });
        out.push_str(line);
        if !last {
            out.push_str(&newline);
        }
    }
    out.push_str(&format!("{newline}{postfix}").repeat(times("postfix_count")?));
    if !end.is_empty() {
        out.push_str(&format!("{newline}{end}"));
    }
    call.give(out)
}

/// Powers of 1024 from the largest down.
const UNITS: &str = "YZEPTGMK";

fn unit_factor(unit: char) -> Option<f64> {
    let unit = unit.to_ascii_uppercase();
    if unit == 'B' {
        return Some(1.0);
    }
    UNITS.find(unit).map(|at| 1024f64.powi((UNITS.len() - at) as i32))
}

fn human_to_bytes(call: &Call) -> Result<Jinja, Error> {
    let text = call.text()?;
    let bits = call.arg_bool("isbits", false)?;
    let text = text.trim();
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len()));
    let number: f64 = number.parse().map_err(|_| call.error("expected a number and a unit such as `10 MB`"))?;
    let mut unit = unit.trim().to_owned();
    if unit.is_empty() {
        unit = call.arg_text("default_unit")?.unwrap_or_default();
    }
    let mut chars = unit.chars();
    let factor = match (chars.next(), chars.as_str()) {
        (None, _) => Some(1.0),
        (Some(first), "") => unit_factor(first),
        (Some(first), "b" | "bit" | "bits") if bits => unit_factor(first),
        (Some(first), "B" | "yte" | "ytes") if !bits => unit_factor(first),
        _ => None,
    };
    let expected = if bits { "Kb, Mb, Gb" } else { "KB, MB, GB" };
    let factor = factor.ok_or_else(|| call.error(format!("unknown unit, expected one such as {expected}")))?;
    call.give((number * factor).round() as i64)
}

fn human_readable(call: &Call) -> Result<Jinja, Error> {
    let size = match call.input()? {
        Value::Int(n) => n as f64,
        Value::Float(x) => x,
        other => other.to_string().trim().parse().map_err(|_| call.expected("a number", &other))?,
    };
    let bits = call.arg_bool("isbits", false)?;
    let unit = match call.arg_text("unit")? {
        Some(unit) => unit.chars().next().map(|unit| unit.to_ascii_uppercase()),
        None => None,
    };
    let fits = |candidate: &char| match unit {
        Some(unit) => unit == *candidate,
        None => size >= unit_factor(*candidate).unwrap_or(1.0),
    };
    call.give(match (UNITS.chars().find(fits), bits) {
        (Some(unit), bits) => {
            format!("{:.2} {unit}{}", size / unit_factor(unit).unwrap_or(1.0), if bits { 'b' } else { 'B' })
        }
        (None, true) => format!("{size:.2} bits"),
        (None, false) => format!("{size:.2} Bytes"),
    })
}

/// Percent-encodes text (`/` stays), or makes a query string of a mapping or of pairs.
fn urlencode(call: &Call) -> Result<Jinja, Error> {
    fn encode(text: &str, query: bool) -> String {
        let mut out = String::with_capacity(text.len());
        for byte in text.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b'-' | b'~' => out.push(byte.into()),
                b'/' if !query => out.push('/'),
                b' ' if query => out.push('+'),
                other => out.push_str(&format!("%{other:02X}")),
            }
        }
        out
    }
    let pair = |key: &str, value: &Value| format!("{}={}", encode(key, true), encode(&value.to_string(), true));
    let pairs = match call.input()? {
        Value::Map(map) => map.iter().map(|(key, value)| pair(key, value)).collect(),
        Value::List(items) => {
            let of_item = |item: &Value| match item.as_list() {
                Some([key, value]) => Ok(pair(&key.to_string(), value)),
                _ => Err(call.expected("pairs", item)),
            };
            items.iter().map(of_item).collect::<Result<Vec<_>, _>>()?
        }
        other => return call.give(encode(&other.to_string(), false)),
    };
    call.give(pairs.join("&"))
}

fn center(call: &Call) -> Result<Jinja, Error> {
    let text = call.text()?;
    let width = usize::try_from(call.arg_int("width")?.unwrap_or(80)).unwrap_or(0).min(10_000);
    let spare = width.saturating_sub(text.chars().count());
    // Python puts the odd space to the left when the width is odd.
    let left = spare / 2 + (spare & width & 1);
    call.give(format!("{}{text}{}", " ".repeat(left), " ".repeat(spare - left)))
}

/// Text cut to a length, between words unless `killwords`; what is hardly longer (`leeway`) stays whole.
fn truncate(call: &Call) -> Result<Jinja, Error> {
    let count = |name: &str, default: usize| {
        Ok::<_, Error>(call.arg_int(name)?.map_or(default, |n| usize::try_from(n).unwrap_or(0)))
    };
    let (length, leeway) = (count("length", 255)?, count("leeway", 5)?);
    let end = call.arg_text("end")?.unwrap_or_else(|| "...".to_owned());
    let text = call.text()?;
    if text.chars().count() <= length.saturating_add(leeway) {
        return call.give(text);
    }
    let cut: String = text.chars().take(length.saturating_sub(end.chars().count())).collect();
    let kept = if call.arg_bool("killwords", false)? {
        &cut
    } else {
        cut.rsplit_once(' ').map_or(cut.as_str(), |(kept, _)| kept)
    };
    call.give(format!("{kept}{end}"))
}
