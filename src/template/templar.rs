//! The front of the template engine.

use super::compiled::{Compiled, Syntax, has_template, takes_in_others};
use super::convert;
use super::error::TemplateError;
use super::scope::{Place, Scope};
use super::session::{Outcome, Session};
use crate::value::{After, Map, Value};
use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock, Weak};

/// Compiled templates that are kept; more than the largest set of roles has.
const MAX_CACHED: usize = 20_000;

/// What a condition comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Truth {
    True,
    False,
    /// Known after that task.
    Unknown(After),
}

/// Evaluates templates. Compiles each text once; clones share what was compiled.
#[derive(Clone, Default)]
pub struct Templar {
    cache: Arc<Cache>,
}

impl Templar {
    pub fn new() -> Self {
        Self::default()
    }

    /// Evaluates every template in a value. Keys and items that come to `omit` are left out; a value that is `omit` as a
    /// whole is recognized by [`is_omit`](super::is_omit). What is unknown stays unknown in its place.
    pub fn render(&self, value: &Value, scope: &Arc<dyn Scope>) -> Result<Value, TemplateError> {
        self.render_noting(value, scope).map(|(value, _)| value)
    }

    /// The same; tells also whether a secret variable was read, so that the result is as secret.
    pub fn render_noting(&self, value: &Value, scope: &Arc<dyn Scope>) -> Result<(Value, bool), TemplateError> {
        self.with_session(scope, |session, place| {
            let value = render(session, place, value)?;
            Ok((value, session.saw_secret()))
        })
    }

    /// Evaluates one text: a value of any type if it is a whole expression, else a string; either may be unknown.
    pub fn render_str(&self, text: &str, scope: &Arc<dyn Scope>) -> Result<Value, TemplateError> {
        if !has_template(text) {
            return Ok(Value::String(text.to_owned()));
        }
        self.with_session(scope, |session, place| render_text(session, place, text))
    }

    /// Evaluates the text of a template file: a string, or unknown. `name` is its path, for messages.
    pub fn render_file(
        &self,
        text: &str,
        name: impl AsRef<Path>,
        scope: &Arc<dyn Scope>,
    ) -> Result<Value, TemplateError> {
        self.render_file_with(text, name, scope, &Syntax::default()).map(|(value, _)| value)
    }

    /// The same with other delimiters or white space rules; tells also whether a secret variable was read.
    pub fn render_file_with(
        &self,
        text: &str,
        name: impl AsRef<Path>,
        scope: &Arc<dyn Scope>,
        syntax: &Syntax,
    ) -> Result<(Value, bool), TemplateError> {
        self.with_session(scope, |session, place| {
            let value = self.cache.file(text, syntax, scope).and_then(|compiled| outcome(session, place, &compiled))?;
            Ok((value, session.saw_secret()))
        })
        .map_err(|error: TemplateError| error.in_file(name.as_ref(), text))
    }

    /// Evaluates a condition: an expression without braces, a boolean, or a list of which every item has to hold.
    ///
    /// Python's truth counts (`0`, empty and null are false). Text that says "no" (`"false"`, `"0"`) would be true by
    /// that rule and is an error instead. A false item decides a list even if another one is unknown.
    pub fn condition(&self, condition: &Value, scope: &Arc<dyn Scope>) -> Result<Truth, TemplateError> {
        match condition {
            Value::List(items) => {
                let mut unknown = None;
                for item in items {
                    match (self.condition(item, scope), &unknown) {
                        (Ok(Truth::True), _) => {}
                        (Ok(Truth::False), _) => return Ok(Truth::False),
                        (Ok(Truth::Unknown(after)), None) => unknown = Some(after),
                        // What an unknown condition may guard need not make sense.
                        (_, Some(_)) => {}
                        (Err(error), None) => return Err(error),
                    }
                }
                Ok(unknown.map_or(Truth::True, Truth::Unknown))
            }
            Value::String(text) if has_template(text) => match self.render_str(text, scope)? {
                Value::String(text) => match Value::String(text).to_bool() {
                    Some(b) => Ok(Truth::from(b)),
                    None => Err(TemplateError::new("the condition gave text, expected true or false")
                        .help("a condition is an expression already: write it without `{{ }}`")),
                },
                value => truth(&value),
            },
            Value::String(text) if text.trim().is_empty() => Ok(Truth::True),
            Value::String(text) => {
                let value = self.with_session(scope, |session, place| {
                    let compiled = session.cache().expression(text)?;
                    outcome(session, place, &compiled)
                })?;
                truth(&value)
            }
            value => truth(value),
        }
    }

    /// Checks the syntax of one text, as [`render_str`](Self::render_str) reads it.
    pub fn check(&self, text: &str) -> Result<(), TemplateError> {
        if has_template(text) { self.cache.inline(text).map(drop) } else { Ok(()) }
    }

    /// The same for a condition.
    pub fn check_condition(&self, text: &str) -> Result<(), TemplateError> {
        match text {
            text if has_template(text) => self.check(text),
            text if text.trim().is_empty() => Ok(()),
            text => self.cache.expression(text).map(drop),
        }
    }

    /// The same for the text of a template file; files that it takes in are not looked at.
    pub fn check_file(&self, text: &str, name: &Path) -> Result<(), TemplateError> {
        Compiled::file(text, &Syntax::default(), None).map(drop).map_err(|error| error.in_file(name, text))
    }

    fn with_session<T>(
        &self,
        scope: &Arc<dyn Scope>,
        f: impl FnOnce(&Arc<Session>, &Arc<Place>) -> Result<T, TemplateError>,
    ) -> Result<T, TemplateError> {
        let session = Session::new(self.cache.clone());
        let place = Arc::new(Place { scope: scope.clone(), host: None });
        let result = f(&session, &place);
        session.close();
        result
    }

    pub(super) fn cache(&self) -> &Cache {
        &self.cache
    }
}

impl From<bool> for Truth {
    fn from(b: bool) -> Self {
        if b { Self::True } else { Self::False }
    }
}

fn truth(value: &Value) -> Result<Truth, TemplateError> {
    Ok(Truth::from(match value {
        Value::Unknown(after) => return Ok(Truth::Unknown(after.clone())),
        Value::Null => false,
        Value::Bool(b) => *b,
        Value::Int(n) => *n != 0,
        Value::Float(x) => *x != 0.0,
        Value::List(items) => !items.is_empty(),
        Value::Map(map) => !map.is_empty(),
        Value::String(text) if value.to_bool() == Some(false) => {
            // The words of `to_bool` are no secret.
            return Err(TemplateError::new(format!("the condition gave the text `{text}`, which counts as true"))
                .help("say what is meant: `| bool`, or a comparison"));
        }
        Value::String(text) => !text.is_empty(),
    }))
}

fn render(session: &Arc<Session>, place: &Arc<Place>, value: &Value) -> Result<Value, TemplateError> {
    Ok(match value {
        Value::String(text) if has_template(text) => render_text(session, place, text)?,
        Value::List(items) => {
            let items = items.iter().map(|item| render(session, place, item));
            Value::List(
                items.filter(|item| !matches!(item, Ok(value) if convert::is_omit(value))).collect::<Result<_, _>>()?,
            )
        }
        Value::Map(map) => {
            let mut out = Map::with_capacity(map.len());
            for (key, value) in map {
                let value = render(session, place, value)?;
                if convert::is_omit(&value) {
                    continue;
                }
                let key = match has_template(key) {
                    true => match render_text(session, place, key)? {
                        // A mapping of which a key is unknown is unknown.
                        Value::Unknown(after) => return Ok(Value::Unknown(after)),
                        key => key.to_string(),
                    },
                    false => key.clone(),
                };
                out.insert(key, value);
            }
            Value::Map(out)
        }
        other => other.clone(),
    })
}

fn render_text(session: &Arc<Session>, place: &Arc<Place>, text: &str) -> Result<Value, TemplateError> {
    let compiled = session.cache().inline(text)?;
    outcome(session, place, &compiled)
}

fn outcome(session: &Arc<Session>, place: &Arc<Place>, compiled: &Compiled) -> Result<Value, TemplateError> {
    Ok(match session.evaluate(compiled, place)? {
        Outcome::Unknown(after) => Value::Unknown(after),
        Outcome::Known(value) => match session.finish(|| convert::to_value(&value))? {
            Ok(value) => value,
            Err(after) => Value::Unknown(after),
        },
    })
}

/// What a text is compiled as.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Form {
    Inline,
    Expression,
    File(Syntax),
}

type Texts = HashMap<Box<str>, Arc<Compiled>>;
type Reads = (Weak<Value>, Arc<BTreeSet<String>>);

/// Compiled templates by their text.
#[derive(Default)]
pub(super) struct Cache {
    compiled: RwLock<HashMap<Form, Texts>>,
    /// What the templates in a variable read, by the address of its value, as long as it lives.
    reads: RwLock<HashMap<usize, Reads>>,
}

impl Cache {
    pub fn inline(&self, text: &str) -> Result<Arc<Compiled>, TemplateError> {
        self.get(&Form::Inline, text, || Compiled::inline(text))
    }

    pub fn expression(&self, text: &str) -> Result<Arc<Compiled>, TemplateError> {
        self.get(&Form::Expression, text, || Compiled::expression(text))
    }

    /// A file that takes in others is compiled each time: which ones depends on the scope.
    pub fn file(&self, text: &str, syntax: &Syntax, scope: &Arc<dyn Scope>) -> Result<Arc<Compiled>, TemplateError> {
        if takes_in_others(text, &syntax.block.0) {
            let scope = scope.clone();
            let loader = move |name: &str| scope.file("templates", name).map(|source| source.text.clone());
            return Compiled::file(text, syntax, Some(Box::new(loader))).map(Arc::new);
        }
        self.get(&Form::File(syntax.clone()), text, || Compiled::file(text, syntax, None))
    }

    /// The names that the templates in a variable read, which `find` tells once.
    pub fn reads(&self, value: &Arc<Value>, find: impl FnOnce() -> BTreeSet<String>) -> Arc<BTreeSet<String>> {
        let address = Arc::as_ptr(value) as usize;
        if let Some((of, names)) = self.reads.read().unwrap_or_else(PoisonError::into_inner).get(&address)
            && of.upgrade().is_some_and(|of| Arc::ptr_eq(&of, value))
        {
            return names.clone();
        }
        let names = Arc::new(find());
        let mut all = self.reads.write().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MAX_CACHED {
            all.clear();
        }
        all.insert(address, (Arc::downgrade(value), names.clone()));
        names
    }

    fn get(
        &self,
        form: &Form,
        text: &str,
        compile: impl FnOnce() -> Result<Compiled, TemplateError>,
    ) -> Result<Arc<Compiled>, TemplateError> {
        if let Some(found) =
            self.compiled.read().unwrap_or_else(PoisonError::into_inner).get(form).and_then(|texts| texts.get(text))
        {
            return Ok(found.clone());
        }
        let compiled = Arc::new(compile()?);
        let mut all = self.compiled.write().unwrap_or_else(PoisonError::into_inner);
        let texts = all.entry(form.clone()).or_default();
        if texts.len() >= MAX_CACHED {
            texts.clear();
        }
        texts.insert(text.into(), compiled.clone());
        Ok(compiled)
    }
}
