//! The one data type for variables, module results and facts.
//!
//! Everything that comes out of YAML, an INI value, a template or a module result is a [`Value`]. It crosses the wire to
//! the agent as it is, so it is a plain enum that a non-self-describing format can read back. A plan may not know a
//! value before the run: that is [`Value::Unknown`], never a guess. Where a value was written is not kept here but by
//! `vars` (origins) and `yaml` (spans).

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A mapping in the order in which it was written.
pub type Map = IndexMap<String, Value>;

/// A YAML or JSON value, or one that a plan cannot know yet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Value {
    #[default]
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    String(String),
    List(Vec<Value>),
    Map(Map),
    /// Known after apply.
    Unknown(After),
}

/// The task after which something will be known. One without a name is the task at hand: modules do not know which that is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct After {
    pub task_id: String,
    /// With its role: "etcd : Create the certificate authority".
    pub task: String,
    pub host: String,
}

impl After {
    pub fn is_at_hand(&self) -> bool {
        self.task.is_empty()
    }
}

impl From<&str> for After {
    fn from(task: &str) -> Self {
        Self { task: task.to_owned(), ..Self::default() }
    }
}

/// "etcd : Create the certificate authority on n1"
impl fmt::Display for After {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.task)?;
        if self.host.is_empty() { Ok(()) } else { write!(f, " on {}", self.host) }
    }
}

impl Value {
    /// Known after the task at hand.
    pub fn later() -> Self {
        Self::Unknown(After::default())
    }

    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(s) => Some(s),
            _ => None,
        }
    }

    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(b) => Some(*b),
            _ => None,
        }
    }

    pub fn as_int(&self) -> Option<i64> {
        match self {
            Self::Int(n) => Some(*n),
            _ => None,
        }
    }

    pub fn as_list(&self) -> Option<&[Value]> {
        match self {
            Self::List(items) => Some(items),
            _ => None,
        }
    }

    pub fn as_map(&self) -> Option<&Map> {
        match self {
            Self::Map(map) => Some(map),
            _ => None,
        }
    }

    /// Member of a mapping; `None` also where this is no mapping.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.as_map().and_then(|map| map.get(key))
    }

    /// After which task the first unknown in this value will be known, however deep it is.
    pub fn unknown(&self) -> Option<&After> {
        match self {
            Self::Unknown(after) => Some(after),
            Self::List(items) => items.iter().find_map(Self::unknown),
            Self::Map(map) => map.values().find_map(Self::unknown),
            _ => None,
        }
    }

    /// The name of the type as Ansible's argument specs write it.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float",
            Self::String(_) => "str",
            Self::List(_) => "list",
            Self::Map(_) => "dict",
            Self::Unknown(_) => "unknown",
        }
    }

    /// Truth as Ansible's `bool` conversion reads it: booleans, 0 and 1, and the YAML 1.1 words; `None` for the rest.
    pub fn to_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(b) => Some(*b),
            Self::Int(0) => Some(false),
            Self::Int(1) => Some(true),
            Self::String(s) => match s.to_ascii_lowercase().as_str() {
                "yes" | "on" | "true" | "1" | "y" | "t" => Some(true),
                "no" | "off" | "false" | "0" | "n" | "f" => Some(false),
                _ => None,
            },
            _ => None,
        }
    }
}

/// Text as a template prints it (Python's spelling of booleans and none); containers in Python's repr form.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn repr(value: &Value, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            match value {
                Value::String(s) => write!(f, "'{}'", s.replace('\\', "\\\\").replace('\'', "\\'")),
                other => write!(f, "{other}"),
            }
        }
        match self {
            Self::Null => f.write_str("None"),
            Self::Bool(true) => f.write_str("True"),
            Self::Bool(false) => f.write_str("False"),
            Self::Int(n) => write!(f, "{n}"),
            Self::Float(x) if x.fract() == 0.0 && x.abs() < 1e16 => write!(f, "{x:.1}"),
            Self::Float(x) => write!(f, "{x}"),
            Self::String(s) => f.write_str(s),
            Self::List(items) => {
                f.write_str("[")?;
                for (i, item) in items.iter().enumerate() {
                    if i > 0 {
                        f.write_str(", ")?;
                    }
                    repr(item, f)?;
                }
                f.write_str("]")
            }
            Self::Map(map) => {
                f.write_str("{")?;
                for (i, (key, value)) in map.iter().enumerate() {
                    if i > 0 {
                        f.write_str(", ")?;
                    }
                    write!(f, "'{key}': ")?;
                    repr(value, f)?;
                }
                f.write_str("}")
            }
            Self::Unknown(after) => write!(f, "(known after {after})"),
        }
    }
}

macro_rules! from {
    ($($from:ty => |$x:ident| $to:expr;)*) => {
        $(impl From<$from> for Value { fn from($x: $from) -> Self { $to } })*
    };
}

from! {
    bool => |x| Self::Bool(x);
    i64 => |x| Self::Int(x);
    i32 => |x| Self::Int(x.into());
    u32 => |x| Self::Int(x.into());
    u64 => |x| i64::try_from(x).map_or(Self::Float(x as f64), Self::Int);
    usize => |x| (x as u64).into();
    f64 => |x| Self::Float(x);
    &str => |x| Self::String(x.to_owned());
    String => |x| Self::String(x);
    Vec<Value> => |x| Self::List(x);
    Map => |x| Self::Map(x);
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(x: Option<T>) -> Self {
        x.map_or(Self::Null, Into::into)
    }
}

impl<K: Into<String>, V: Into<Value>> FromIterator<(K, V)> for Value {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(iter: I) -> Self {
        Self::Map(iter.into_iter().map(|(k, v)| (k.into(), v.into())).collect())
    }
}

#[cfg(feature = "controller")]
mod json {
    use super::Value;
    use serde_json::Value as Json;

    impl From<Json> for Value {
        fn from(json: Json) -> Self {
            match json {
                Json::Null => Self::Null,
                Json::Bool(b) => Self::Bool(b),
                Json::Number(n) => match n.as_i64() {
                    Some(n) => Self::Int(n),
                    None => Self::Float(n.as_f64().unwrap_or(f64::NAN)),
                },
                Json::String(s) => Self::String(s),
                Json::Array(items) => Self::List(items.into_iter().map(Self::from).collect()),
                Json::Object(map) => Self::Map(map.into_iter().map(|(k, v)| (k, v.into())).collect()),
            }
        }
    }

    /// An unknown becomes the text that says so; a float that JSON cannot hold becomes null.
    impl From<&Value> for Json {
        fn from(value: &Value) -> Self {
            match value {
                Value::Null => Self::Null,
                Value::Bool(b) => Self::Bool(*b),
                Value::Int(n) => (*n).into(),
                Value::Float(x) => serde_json::Number::from_f64(*x).map_or(Self::Null, Self::Number),
                Value::String(s) => Self::String(s.clone()),
                Value::List(items) => Self::Array(items.iter().map(Self::from).collect()),
                Value::Map(map) => Self::Object(map.iter().map(|(k, v)| (k.clone(), v.into())).collect()),
                Value::Unknown(_) => Self::String(value.to_string()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_as_python_does() {
        let value: Value =
            [("a", Value::List(vec![1i64.into(), "x".into(), true.into()])), ("b", Value::Null)].into_iter().collect();
        assert_eq!(value.to_string(), "{'a': [1, 'x', True], 'b': None}");
        assert_eq!(Value::Float(2.0).to_string(), "2.0");
    }

    #[test]
    fn finds_the_unknown_inside() {
        let value: Value = [("a", Value::List(vec![Value::Unknown("pki : CA".into())]))].into_iter().collect();
        assert_eq!(value.unknown(), Some(&"pki : CA".into()));
    }
}
