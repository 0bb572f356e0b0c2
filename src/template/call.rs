//! The arguments of a filter, test or function, bound to parameters as Python binds them.

use super::convert::{self, known};
use super::scope::Probe;
use super::session::Session;
use crate::source::near_miss;
use crate::value::Value;
use minijinja::value::{Kwargs, Rest, ValueOrKwargs, from_args};
use minijinja::{Environment, Error, ErrorKind, State, Value as Jinja};

/// The name and parameters of a filter, test or function.
pub(super) struct Signature {
    pub name: &'static str,
    pub parameters: &'static [&'static str],
    /// Python's `*args`: after so many parameters, positional arguments are collected, and what follows needs its name.
    pub collect_after: Option<usize>,
}

/// One call.
pub(super) struct Call<'a> {
    pub state: &'a State<'a, 'a>,
    name: &'static str,
    parameters: &'static [&'static str],
    values: Vec<Option<Jinja>>,
    rest: Vec<Jinja>,
}

impl<'a> Call<'a> {
    /// Binds arguments; for a filter or test the first one is the value that it is applied to.
    pub fn bind(signature: &Signature, state: &'a State<'a, 'a>, args: &[Jinja]) -> Result<Self, Error> {
        let (positional, keywords): (&[Jinja], Kwargs) = from_args(args)?;
        let fixed = signature.collect_after.unwrap_or(signature.parameters.len());
        if positional.len() > fixed && signature.collect_after.is_none() {
            return Err(error(format!(
                "`{}` takes at most {fixed} arguments, found {}",
                signature.name,
                positional.len()
            )));
        }
        let mut values: Vec<Option<Jinja>> = positional.iter().take(fixed).cloned().map(Some).collect();
        values.resize(signature.parameters.len(), None);
        for keyword in keywords.args() {
            let Some(i) = signature.parameters.iter().position(|parameter| *parameter == keyword) else {
                let near = near_miss(keyword, signature.parameters.iter().copied());
                let near = near.map(|near| format!(", did you mean `{near}`?")).unwrap_or_default();
                return Err(error(format!("`{}` has no argument `{keyword}`{near}", signature.name)));
            };
            if values[i].is_some() {
                return Err(error(format!("`{}` got its argument `{keyword}` twice", signature.name)));
            }
            values[i] = Some(keywords.get(keyword)?);
        }
        let rest = positional.get(fixed..).unwrap_or_default().to_vec();
        Ok(Self { state, name: signature.name, parameters: signature.parameters, values, rest })
    }

    fn index(&self, parameter: &str) -> usize {
        self.parameters.iter().position(|p| *p == parameter).unwrap_or(usize::MAX)
    }

    /// An argument as it is; nothing when it was not given.
    pub fn raw(&self, parameter: &str) -> Option<&Jinja> {
        self.values.get(self.index(parameter))?.as_ref()
    }

    /// The value that the filter is applied to, as it is.
    pub fn raw_input(&self) -> Result<&Jinja, Error> {
        match self.values.first() {
            Some(Some(value)) => Ok(value),
            _ => Err(error(format!("`{}` needs a value", self.name))),
        }
    }

    /// Further positional arguments as they are.
    pub fn rest(&self) -> &[Jinja] {
        &self.rest
    }

    /// The value that the filter is applied to, known and defined.
    pub fn input(&self) -> Result<Value, Error> {
        self.known(self.raw_input()?)
    }

    /// A known and defined value. A stand-in stops the evaluation like any other use.
    pub fn known(&self, value: &Jinja) -> Result<Value, Error> {
        known(self.state, value)
    }

    /// The value that the filter is applied to as text; numbers and the like are printed.
    pub fn text(&self) -> Result<String, Error> {
        self.printed(&self.input()?)
    }

    fn printed(&self, value: &Value) -> Result<String, Error> {
        match value {
            Value::List(_) | Value::Map(_) => Err(self.expected("text", value)),
            other => Ok(other.to_string()),
        }
    }

    pub fn list(&self) -> Result<Vec<Value>, Error> {
        self.as_list(self.input()?)
    }

    /// A list as it is, a mapping as the list of its keys.
    pub fn as_list(&self, value: Value) -> Result<Vec<Value>, Error> {
        match value {
            Value::List(items) => Ok(items),
            Value::Map(map) => Ok(map.into_keys().map(Value::String).collect()),
            other => Err(self.expected("a list", &other)),
        }
    }

    /// Further positional arguments, known and defined.
    pub fn rest_known(&self) -> Result<Vec<Value>, Error> {
        self.rest.iter().map(|value| self.known(value)).collect()
    }

    /// An argument, known and defined; nothing when it was not given or is null.
    pub fn arg(&self, parameter: &str) -> Result<Option<Value>, Error> {
        match self.raw(parameter) {
            None => Ok(None),
            Some(value) => Ok(Some(self.known(value)?).filter(|value| *value != Value::Null)),
        }
    }

    pub fn required(&self, parameter: &str) -> Result<Value, Error> {
        match self.raw(parameter) {
            Some(value) => self.known(value),
            None => Err(error(format!("`{}` needs the argument `{parameter}`", self.name))),
        }
    }

    pub fn arg_text(&self, parameter: &str) -> Result<Option<String>, Error> {
        self.arg(parameter)?.map(|value| self.printed(&value)).transpose()
    }

    pub fn arg_int(&self, parameter: &str) -> Result<Option<i64>, Error> {
        self.arg(parameter)?
            .map(|value| match &value {
                Value::Int(n) => Ok(*n),
                Value::String(text) => text.trim().parse().map_err(|_| self.expected("an integer", &value)),
                _ => Err(self.expected("an integer", &value)),
            })
            .transpose()
    }

    pub fn arg_bool(&self, parameter: &str, default: bool) -> Result<bool, Error> {
        match self.arg(parameter)? {
            None => Ok(default),
            Some(value) => value.to_bool().ok_or_else(|| self.expected("true or false", &value)),
        }
    }

    /// What the filter gives.
    pub fn give(&self, value: impl Into<Value>) -> Result<Jinja, Error> {
        convert::computed(self.state, value)
    }

    pub fn session(&self) -> Result<std::sync::Arc<Session>, Error> {
        Session::of(self.state)
    }

    /// The error for a value of the wrong type. It names the type only: values may be secret.
    pub fn expected(&self, what: &str, found: &Value) -> Error {
        error(format!("`{}` needs {what}, found {}", self.name, found.type_name()))
    }

    pub fn error(&self, message: impl std::fmt::Display) -> Error {
        error(format!("`{}`: {message}", self.name))
    }
}

/// The stand-in that a value is, in a second pass.
pub(super) fn probe(value: &Jinja) -> Option<&Probe> {
    value.downcast_object_ref()
}

fn error(message: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}

type Body = fn(&Call) -> Result<Jinja, Error>;

/// Collections under whose names Ansible's plug-ins go, too.
const PREFIXES: [&str; 3] = ["ansible.builtin.", "ansible.utils.", "ansible.netcommon."];

fn call(
    signature: &'static Signature,
    body: Body,
) -> impl Fn(&State, Rest<ValueOrKwargs>) -> Result<Jinja, Error> + Clone {
    move |state: &State, args: Rest<ValueOrKwargs>| body(&Call::bind(signature, state, &args.into_values())?)
}

/// Adds filters. The first parameter is what they are applied to.
pub(super) fn add_filters(env: &mut Environment<'static>, filters: &'static [(Signature, Body)]) {
    for (signature, body) in filters {
        for prefix in PREFIXES {
            env.add_filter(format!("{prefix}{}", signature.name), call(signature, *body));
        }
        env.add_filter(signature.name, call(signature, *body));
    }
}

pub(super) fn add_tests(env: &mut Environment<'static>, tests: &'static [(Signature, Body)]) {
    for (signature, body) in tests {
        for prefix in PREFIXES {
            env.add_test(format!("{prefix}{}", signature.name), call(signature, *body));
        }
        env.add_test(signature.name, call(signature, *body));
    }
}

pub(super) fn add_functions(env: &mut Environment<'static>, functions: &'static [(Signature, Body)]) {
    for (signature, body) in functions {
        env.add_function(signature.name, call(signature, *body));
    }
}

/// One row of a table of filters, tests or functions: `row!("name", body, "value", "parameter")`. `*` after a parameter
/// collects further positional arguments.
macro_rules! row {
    ($name:literal, $body:expr, $first:literal * $($keyword:literal),*) => {
        (Signature { name: $name, parameters: &[$first, $($keyword),*], collect_after: Some(1) }, $body)
    };
    ($name:literal, $body:expr $(, $parameter:literal)*) => {
        (Signature { name: $name, parameters: &[$($parameter),*], collect_after: None }, $body)
    };
}
pub(super) use row;

/// The rows of a table.
pub(super) type Table = [(Signature, Body)];
