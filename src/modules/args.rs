//! Arguments of a task, rendered, on their way to a typed module.
//!
//! A module takes what it knows out of [`Args`] and calls [`Args::finish`], which makes an error of whatever is left.
//! Types convert as Ansible converts them (a string "yes" is a boolean, "0644" an octal mode). Errors name the argument;
//! the caller adds the place in the playbook.

use crate::source::near_miss;
use crate::value::{After, Map, Value};
use std::path::PathBuf;

/// A mistake in the arguments: a lower-case fragment, and what to do about it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct ArgError {
    /// The argument at fault, to point at it.
    pub argument: Option<String>,
    pub message: String,
    pub help: Option<String>,
    /// The argument is known only after that task was applied, and this module cannot be planned without it.
    pub unknown_after: Option<Box<After>>,
}

impl ArgError {
    pub fn new(argument: &str, message: impl Into<String>) -> Self {
        Self { argument: Some(argument.to_owned()), message: message.into(), help: None, unknown_after: None }
    }
}

/// Where relative `src` files are looked for, and how they are read: the role's `files/` and the playbook's directory.
pub trait Files {
    /// The content of a file of the role, and the path it was found at. The error says where it was looked for.
    fn read(&self, name: &str) -> Result<(PathBuf, Vec<u8>), ArgError>;
}

/// Rendered arguments that have not been taken yet.
pub struct Args<'a> {
    map: Map,
    /// The text of a free-form module (`command: ls -l`).
    pub free_form: Option<String>,
    pub files: &'a dyn Files,
    /// The name under which the module was called: some have more than one (`command`, `shell`).
    pub module: String,
    taken: Vec<&'static str>,
}

impl<'a> Args<'a> {
    pub fn new(map: Map, free_form: Option<String>, files: &'a dyn Files) -> Self {
        Self { map, free_form, files, module: String::new(), taken: Vec::new() }
    }

    /// Adds an argument that was found in the text of a free-form module.
    pub fn insert(&mut self, name: &str, value: Value) -> Result<(), ArgError> {
        match self.map.insert(name.to_owned(), value) {
            None => Ok(()),
            Some(_) => Err(ArgError::new(name, format!("`{name}` is given twice"))),
        }
    }

    /// The raw value; `None` where it is absent or null. An unknown value is an error: [`Args::take_unknown`] first.
    pub fn take(&mut self, name: &'static str) -> Result<Option<Value>, ArgError> {
        self.taken.push(name);
        match self.map.shift_remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.unknown() {
                Some(after) => Err(ArgError {
                    unknown_after: Some(Box::new(after.clone())),
                    ..ArgError::new(name, format!("`{name}` is known only after {after}"))
                }),
                None => Ok(Some(value)),
            },
        }
    }

    /// Takes the argument if it is known only after apply, and returns after which task.
    pub fn take_unknown(&mut self, name: &'static str) -> Option<After> {
        let after = self.map.get(name)?.unknown()?.clone();
        self.taken.push(name);
        self.map.shift_remove(name);
        Some(after)
    }

    /// The first of several spellings that is there (`path`, `dest`, `name`).
    pub fn first_of(&mut self, names: &[&'static str]) -> Result<Option<String>, ArgError> {
        let mut found = None;
        for name in names {
            let value = self.opt_str(name)?;
            found = found.or(value);
        }
        Ok(found)
    }

    pub fn opt_str(&mut self, name: &'static str) -> Result<Option<String>, ArgError> {
        Ok(match self.take(name)? {
            None => None,
            Some(Value::String(s)) => Some(s),
            Some(v @ (Value::Bool(_) | Value::Int(_) | Value::Float(_))) => Some(v.to_string()),
            Some(other) => return Err(wrong_type(name, "a string", &other)),
        })
    }

    pub fn str(&mut self, name: &'static str) -> Result<String, ArgError> {
        self.required(&[name])
    }

    /// The same for one with several spellings. What is left may have been meant for it.
    pub fn required(&mut self, names: &[&'static str]) -> Result<String, ArgError> {
        self.first_of(names)?.ok_or_else(|| {
            let near = names.iter().find_map(|name| near_miss(name, self.map.keys().map(String::as_str)));
            ArgError { help: near.map(|near| format!("`{near}` is no argument of this module")), ..missing(names[0]) }
        })
    }

    pub fn opt_bool(&mut self, name: &'static str) -> Result<Option<bool>, ArgError> {
        self.take(name)?.map(|v| v.to_bool().ok_or_else(|| wrong_type(name, "yes or no", &v))).transpose()
    }

    pub fn bool(&mut self, name: &'static str, default: bool) -> Result<bool, ArgError> {
        Ok(self.opt_bool(name)?.unwrap_or(default))
    }

    pub fn opt_int(&mut self, name: &'static str) -> Result<Option<i64>, ArgError> {
        self.take(name)?
            .map(|v| match &v {
                Value::Int(n) => Ok(*n),
                Value::String(s) => s.trim().parse().map_err(|_| wrong_type(name, "a whole number", &v)),
                _ => Err(wrong_type(name, "a whole number", &v)),
            })
            .transpose()
    }

    /// One of `choices`.
    pub fn choice(&mut self, name: &'static str, choices: &[&'static str]) -> Result<Option<&'static str>, ArgError> {
        let Some(given) = self.opt_str(name)? else { return Ok(None) };
        choices.iter().copied().find(|c| *c == given).map(Some).ok_or_else(|| {
            let mut error =
                ArgError::new(name, format!("`{name}` is `{given}`, expected one of {}", choices.join(", ")));
            error.help = near_miss(&given, choices.iter().copied()).map(|c| format!("did you mean `{c}`?"));
            error
        })
    }

    /// A list of strings; a single string is split at commas, as Ansible does for `list` arguments.
    pub fn list(&mut self, name: &'static str) -> Result<Option<Vec<String>>, ArgError> {
        match self.take(name)? {
            None => Ok(None),
            Some(Value::List(items)) => items
                .into_iter()
                .map(|item| match item {
                    Value::String(s) => Ok(s),
                    v @ (Value::Bool(_) | Value::Int(_) | Value::Float(_)) => Ok(v.to_string()),
                    other => Err(wrong_type(name, "a list of strings", &other)),
                })
                .collect::<Result<_, _>>()
                .map(Some),
            Some(Value::String(s)) => {
                Ok(Some(s.split(',').map(|s| s.trim().to_owned()).filter(|s| !s.is_empty()).collect()))
            }
            Some(v @ (Value::Int(_) | Value::Float(_))) => Ok(Some(vec![v.to_string()])),
            Some(other) => Err(wrong_type(name, "a list of strings", &other)),
        }
    }

    pub fn opt_map(&mut self, name: &'static str) -> Result<Option<Map>, ArgError> {
        self.take(name)?
            .map(|v| match v {
                Value::Map(map) => Ok(map),
                other => Err(wrong_type(name, "a mapping", &other)),
            })
            .transpose()
    }

    /// Ends the reading of arguments: what is left is unknown to the module.
    pub fn finish(self) -> Result<(), ArgError> {
        let Some(name) = self.map.keys().next() else { return Ok(()) };
        let mut error = ArgError::new(name, format!("unknown argument `{name}`"));
        error.help = Some(match near_miss(name, self.taken.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("this module takes {}", self.taken.join(", ")),
        });
        Err(error)
    }
}

pub fn missing(name: &str) -> ArgError {
    ArgError { argument: None, ..ArgError::new(name, format!("missing argument `{name}`")) }
}

fn wrong_type(name: &str, expected: &str, found: &Value) -> ArgError {
    ArgError::new(name, format!("`{name}` is {} ({found}), expected {expected}", found.type_name()))
}
