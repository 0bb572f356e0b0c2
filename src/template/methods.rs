//! Python's methods of text and lists that templates call and minijinja's collection of them lacks.
//!
//! Methods that change a value in place (`list.append`, `dict.update`) are not there: values do not change.

use minijinja::value::{ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat;

/// What a method call on a value means.
pub(super) fn call(state: &mut State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    if let (ValueKind::Seq | ValueKind::Iterable, "index") = (value.kind(), method) {
        let (wanted,): (&Value,) = from_args(args)?;
        for (i, item) in value.try_iter()?.checked().enumerate() {
            if item? == *wanted {
                return Ok(Value::from(i));
            }
        }
        return Err(Error::new(ErrorKind::InvalidOperation, "the value is not in the list"));
    }
    let Some(text) = value.as_str() else { return pycompat::unknown_method_callback(state, value, method, args) };
    Ok(match method {
        "rsplit" => {
            let (separator, limit): (Option<&str>, Option<i64>) = from_args(args)?;
            let limit =
                limit.and_then(|limit| usize::try_from(limit).ok()).map_or(usize::MAX, |limit| limit.saturating_add(1));
            let mut parts: Vec<&str> = match separator {
                Some("") => return Err(Error::new(ErrorKind::InvalidOperation, "the separator is empty")),
                Some(separator) => text.rsplitn(limit, separator).collect(),
                None => text.trim().rsplitn(limit, char::is_whitespace).filter(|part| !part.is_empty()).collect(),
            };
            parts.reverse();
            texts(parts)
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Value::from(text.strip_prefix(prefix).unwrap_or(text))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Value::from(text.strip_suffix(suffix).unwrap_or(text))
        }
        "partition" => {
            let (separator,): (&str,) = from_args(args)?;
            texts(text.split_once(separator).map_or([text, "", ""], |(before, after)| [before, separator, after]))
        }
        "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            texts(text.rsplit_once(separator).map_or(["", "", text], |(before, after)| [before, separator, after]))
        }
        "ljust" | "rjust" | "zfill" => {
            let (width, fill): (usize, Option<char>) = from_args(args)?;
            let fill = if method == "zfill" { '0' } else { fill.unwrap_or(' ') };
            let padding: String =
                std::iter::repeat_n(fill, width.min(10_000).saturating_sub(text.chars().count())).collect();
            Value::from(match (method, text.strip_prefix('-')) {
                ("ljust", _) => format!("{text}{padding}"),
                ("zfill", Some(digits)) => format!("-{padding}{digits}"),
                _ => format!("{padding}{text}"),
            })
        }
        "index" => {
            let (wanted,): (&str,) = from_args(args)?;
            let at = text
                .find(wanted)
                .ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "the text has no such part"))?;
            Value::from(text[..at].chars().count())
        }
        _ => return pycompat::unknown_method_callback(state, value, method, args),
    })
}

fn texts<'a>(parts: impl IntoIterator<Item = &'a str>) -> Value {
    parts.into_iter().map(Value::from).collect()
}
