//! Data as text and back: base64, JSON, YAML.

use crate::source::Source;
use crate::template::call::{Call, Signature, Table, row};
use crate::value::{Map, Value};
use crate::yaml;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use minijinja::{Error, Value as Jinja};

pub(super) static TABLE: &Table = &[
    row!("b64encode", b64encode, "value", "encoding"),
    row!("b64decode", b64decode, "value", "encoding"),
    row!("to_json", |call| to_json(call, None, false), "value", "indent", "sort_keys", "ensure_ascii", "separators"),
    row!(
        "to_nice_json",
        |call| to_json(call, Some(4), true),
        "value",
        "indent",
        "sort_keys",
        "ensure_ascii",
        "separators"
    ),
    row!("from_json", from_json, "value"),
    row!(
        "to_yaml",
        |call| to_yaml(call, 2),
        "value",
        "indent",
        "sort_keys",
        "width",
        "default_flow_style",
        "explicit_start"
    ),
    row!(
        "to_nice_yaml",
        |call| to_yaml(call, 4),
        "value",
        "indent",
        "sort_keys",
        "width",
        "default_flow_style",
        "explicit_start"
    ),
    row!("from_yaml", from_yaml, "value"),
    row!("from_yaml_all", from_yaml_all, "value"),
];

/// The characters of an encoding other than UTF-8 are not for a configuration file.
fn check_encoding(call: &Call) -> Result<(), Error> {
    match call.arg_text("encoding")?.as_deref().map(str::to_ascii_lowercase).as_deref() {
        None | Some("utf-8" | "utf8" | "ascii" | "us-ascii") => Ok(()),
        Some(_) => Err(call.error("only UTF-8 is supported")),
    }
}

fn b64encode(call: &Call) -> Result<Jinja, Error> {
    check_encoding(call)?;
    call.give(STANDARD.encode(call.text()?))
}

fn b64decode(call: &Call) -> Result<Jinja, Error> {
    check_encoding(call)?;
    let text: String = call.text()?.split_whitespace().collect();
    let bytes = STANDARD.decode(text).map_err(|_| call.error("the text is no base64"))?;
    call.give(String::from_utf8(bytes).map_err(|_| call.error("the decoded bytes are no UTF-8 text"))?)
}

fn to_json(call: &Call, indent: Option<usize>, sort_keys: bool) -> Result<Jinja, Error> {
    let indent = match call.arg_int("indent")? {
        Some(indent) => Some(usize::try_from(indent).unwrap_or(0).min(100)),
        None => indent,
    };
    let writer = Json {
        indent,
        sort_keys: call.arg_bool("sort_keys", sort_keys)?,
        ascii: call.arg_bool("ensure_ascii", true)?,
        separators: match call.arg("separators")? {
            None if indent.is_some() => (",".to_owned(), ": ".to_owned()),
            None => (", ".to_owned(), ": ".to_owned()),
            Some(Value::List(pair)) if pair.len() == 2 => (pair[0].to_string(), pair[1].to_string()),
            Some(other) => return Err(call.expected("separators as a pair", &other)),
        },
    };
    let mut out = String::new();
    writer.write(&mut out, &call.input()?, 0);
    call.give(out)
}

/// JSON with the white space, escapes and numbers of Python's `json`.
struct Json {
    indent: Option<usize>,
    sort_keys: bool,
    ascii: bool,
    separators: (String, String),
}

impl Json {
    fn write(&self, out: &mut String, value: &Value, depth: usize) {
        match value {
            Value::Null => out.push_str("null"),
            Value::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
            Value::Int(n) => out.push_str(&n.to_string()),
            Value::Float(x) if x.is_nan() => out.push_str("NaN"),
            Value::Float(x) if x.is_infinite() => out.push_str(if *x > 0.0 { "Infinity" } else { "-Infinity" }),
            Value::Float(x) => out.push_str(&float(*x)),
            Value::String(text) => self.string(out, text),
            Value::List(items) => {
                self.container(out, '[', ']', items.len(), depth, |out, i| self.write(out, &items[i], depth + 1))
            }
            Value::Map(map) => {
                let mut pairs: Vec<_> = map.iter().collect();
                if self.sort_keys {
                    pairs.sort_by_key(|(key, _)| *key);
                }
                self.container(out, '{', '}', pairs.len(), depth, |out, i| {
                    self.string(out, pairs[i].0);
                    out.push_str(&self.separators.1);
                    self.write(out, pairs[i].1, depth + 1);
                });
            }
            // `known` stops the evaluation before it comes here.
            Value::Unknown(_) => out.push_str("null"),
        }
    }

    fn container(
        &self,
        out: &mut String,
        open: char,
        close: char,
        length: usize,
        depth: usize,
        item: impl Fn(&mut String, usize),
    ) {
        let line = |out: &mut String, depth: usize| {
            if let (Some(indent), 1..) = (self.indent, length) {
                out.push('\n');
                out.push_str(&" ".repeat(indent * depth));
            }
        };
        out.push(open);
        for i in 0..length {
            if i > 0 {
                out.push_str(&self.separators.0);
            }
            line(out, depth + 1);
            item(out, i);
        }
        line(out, depth);
        out.push(close);
    }

    fn string(&self, out: &mut String, text: &str) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if (c as u32) < 0x20 || self.ascii && !c.is_ascii() => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}

/// A float as Python prints it: the shortest digits that read back, an exponent from 1e16 up and below 1e-4.
fn float(x: f64) -> String {
    let text = format!("{x:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    match exponent.parse::<i32>() {
        Ok(exponent) if x != 0.0 && !(-4..16).contains(&exponent) => {
            format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
        }
        _ if x.fract() == 0.0 => format!("{x:.1}"),
        _ => x.to_string(),
    }
}

fn from_json(call: &Call) -> Result<Jinja, Error> {
    let text = call.text()?;
    // The message has a place and no text.
    let json: serde_json::Value =
        serde_json::from_str(&text).map_err(|error| call.error(format!("the text is no JSON: {error}")))?;
    call.give(json)
}

/// Block style, keys sorted, as readable as PyYAML's and read back as the same value; not the same characters.
fn to_yaml(call: &Call, indent: usize) -> Result<Jinja, Error> {
    let indent = call.arg_int("indent")?.and_then(|indent| usize::try_from(indent).ok()).unwrap_or(indent).clamp(1, 20);
    let mut value = call.input()?;
    if call.arg_bool("sort_keys", true)? {
        sort(&mut value);
    }
    let options =
        serde_yaml::ser_options! { indent_step: indent, compact_list_indent: true, folded_wrap_chars: usize::MAX };
    let text = serde_yaml::to_string_with_options(&serde_json::Value::from(&value), options)
        .map_err(|error| call.error(error))?;
    let start = if call.arg_bool("explicit_start", false)? { "---\n" } else { "" };
    let end = if text.ends_with('\n') { "" } else { "\n" };
    call.give(format!("{start}{text}{end}"))
}

fn sort(value: &mut Value) {
    match value {
        Value::List(items) => items.iter_mut().for_each(sort),
        Value::Map(map) => {
            map.values_mut().for_each(sort);
            *map = std::mem::take::<Map>(map);
            map.sort_keys();
        }
        _ => {}
    }
}

fn from_yaml(call: &Call) -> Result<Jinja, Error> {
    let value = call.input()?;
    let Value::String(text) = &value else { return call.give(value) };
    let node = yaml::load(&Source::new("from_yaml", text.as_str())).map_err(|error| call.error(yaml_error(&error)))?;
    call.give(node.to_value())
}

fn from_yaml_all(call: &Call) -> Result<Jinja, Error> {
    let text = call.text()?;
    let nodes = yaml::load_all(&Source::new("from_yaml_all", text)).map_err(|error| call.error(yaml_error(&error)))?;
    call.give(nodes.iter().map(yaml::Node::to_value).collect::<Vec<_>>())
}

/// The place of a mistake in data. The message itself may quote the data, which may be secret.
fn yaml_error(error: &crate::source::InputError) -> String {
    let line = error.span.as_ref().map_or(1, crate::source::Span::line);
    format!("the text is no YAML, see its line {line}")
}
