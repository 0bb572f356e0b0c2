//! Between kprov's values and minijinja's.

use super::lazy::Lazy;
use super::scope::Probe;
use super::session::Session;
use crate::value::{Map, Value};
use minijinja::value::{Object, ObjectRepr, ValueKind};
use minijinja::{Error, ErrorKind, State, Value as Jinja};
use std::borrow::Cow;
use std::sync::Arc;

/// What `omit` is outside of templates: no text that anybody writes.
pub(super) const OMIT: &str = "\u{1}omit";

/// Whether a rendered value stands for "leave this out" (the variable `omit`).
pub fn is_omit(value: &Value) -> bool {
    matches!(value, Value::String(text) if text == OMIT)
}

/// `omit` inside templates.
#[derive(Debug)]
struct Omit;

impl Object for Omit {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }
}

pub(super) fn omit() -> Jinja {
    Jinja::from_object(Omit)
}

pub(super) fn is_jinja_omit(value: &Jinja) -> bool {
    value.downcast_object_ref::<Omit>().is_some()
}

/// The value of an expression as our own; what is unknown inside of a variable that was not looked into stays so.
pub(super) fn to_value(value: &Jinja) -> Result<Value, Error> {
    if let Some(lazy) = value.downcast_object::<Lazy>() {
        return lazy.resolve().map_err(|error| lazy.session().fail(error));
    }
    Ok(match value.kind() {
        ValueKind::None => Value::Null,
        ValueKind::Bool => Value::Bool(value.is_true()),
        ValueKind::Number if value.is_integer() => match value.as_i64() {
            Some(n) => Value::Int(n),
            None => return Err(Error::new(ErrorKind::InvalidOperation, "an integer is beyond 64 bits")),
        },
        ValueKind::Number => Value::Float(f64::try_from(value.clone())?),
        ValueKind::String => Value::String(value.as_str().unwrap_or_default().to_owned()),
        ValueKind::Bytes => match value.as_str() {
            Some(text) => Value::String(text.to_owned()),
            None => return Err(Error::new(ErrorKind::InvalidOperation, "bytes that are no UTF-8 text")),
        },
        ValueKind::Seq | ValueKind::Iterable => {
            let items = value
                .try_iter()?
                .checked()
                .map(|item| to_value(&item?))
                .filter(|item| !matches!(item, Ok(v) if is_omit(v)));
            Value::List(items.collect::<Result<_, _>>()?)
        }
        ValueKind::Map => {
            let mut map = Map::new();
            for key in value.try_iter()?.checked() {
                let key = key?;
                let item = to_value(&value.get_item(&key)?)?;
                if !is_omit(&item) {
                    map.insert(key_text(&key).unwrap_or_else(|| Cow::Owned(key.to_string())).into_owned(), item);
                }
            }
            Value::Map(map)
        }
        ValueKind::Undefined => return Err(undefined(value)),
        _ if is_jinja_omit(value) => Value::String(OMIT.to_owned()),
        _ => {
            if let Some(probe) = value.downcast_object_ref::<Probe>() {
                probe.session.leak();
            }
            return Err(Error::new(ErrorKind::InvalidOperation, "the result is a function or macro, expected a value"));
        }
    })
}

/// The text under which a value is a key, spelled as JSON spells it; containers are no keys.
pub(super) fn key_text(key: &Jinja) -> Option<Cow<'_, str>> {
    Some(match key.kind() {
        ValueKind::String => Cow::Borrowed(key.as_str()?),
        ValueKind::Bool => Cow::Borrowed(if key.is_true() { "true" } else { "false" }),
        ValueKind::None => Cow::Borrowed("null"),
        ValueKind::Number => Cow::Owned(key.to_string()),
        _ => return None,
    })
}

/// The error of using an undefined value, which minijinja completes with the expression.
pub(super) fn undefined(value: &Jinja) -> Error {
    value.get_attr("").err().unwrap_or_else(|| Error::from(ErrorKind::UndefinedError))
}

/// Refuses what is undefined, however deep in a container. With `read`, variables in it are evaluated; without, they are
/// left as they are.
pub(super) fn refuse_undefined(value: &Jinja, read: bool) -> Result<(), Error> {
    match value.kind() {
        ValueKind::Undefined => Err(undefined(value)),
        ValueKind::Seq | ValueKind::Iterable | ValueKind::Map => {
            if let Some(lazy) = value.downcast_object::<Lazy>() {
                return match read {
                    true => lazy.resolve().map(drop).map_err(|error| lazy.session().fail(error)),
                    false => Ok(()),
                };
            }
            let is_map = value.kind() == ValueKind::Map;
            for item in value.try_iter()?.checked() {
                let item = item?;
                refuse_undefined(&if is_map { value.get_item(&item)? } else { item }, read)?;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// An argument of a filter. What is unknown inside stops the evaluation.
pub(super) fn known(state: &State, value: &Jinja) -> Result<Value, Error> {
    let value = maybe_unknown(value)?;
    match value.unknown() {
        Some(after) => Err(Session::of(state)?.touch(after)),
        None => Ok(value),
    }
}

/// An argument of a filter that only rearranges: what is unknown inside stays in its place.
pub(super) fn maybe_unknown(value: &Jinja) -> Result<Value, Error> {
    to_value(value)
}

/// What a filter computed.
pub(super) fn computed(state: &State, value: impl Into<Value>) -> Result<Jinja, Error> {
    Ok(match value.into() {
        Value::Null => Jinja::from(()),
        Value::Bool(b) => Jinja::from(b),
        Value::Int(n) => Jinja::from(n),
        Value::Float(x) => Jinja::from(x),
        Value::String(text) => Jinja::from(text),
        value => Lazy::computed(Session::of(state)?, value).expose(),
    })
}
