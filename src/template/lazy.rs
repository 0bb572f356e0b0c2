//! A variable's value as a template sees it: parts are converted and evaluated when they are read.

use super::compiled::has_template;
use super::convert;
use super::error::TemplateError;
use super::scope::Place;
use super::session::{Outcome, Session};
use crate::source::Span;
use crate::value::Value;
use crate::vars::Var;
use minijinja::Value as Jinja;
use minijinja::value::{Enumerator, Object, ObjectRepr};
use std::fmt;
use std::sync::Arc;

/// A value, or a part of one that shares the whole.
pub(super) struct Lazy {
    session: Arc<Session>,
    whole: Whole,
}

enum Whole {
    Variable { value: Arc<Value>, name: String, origin: Option<Span>, place: Option<Arc<Place>> },
    Part { of: Arc<Lazy>, index: usize },
}

impl Lazy {
    pub fn variable(session: Arc<Session>, place: Arc<Place>, name: &str, var: Var) -> Arc<Self> {
        // Without a place text is not evaluated: data is data.
        let place = (!var.literal).then_some(place);
        Arc::new(Self {
            session,
            whole: Whole::Variable { value: var.value, name: name.to_owned(), origin: var.origin, place },
        })
    }

    /// What a filter computed: no template any more.
    pub fn computed(session: Arc<Session>, value: Value) -> Arc<Self> {
        let whole = Whole::Variable { value: Arc::new(value), name: String::new(), origin: None, place: None };
        Arc::new(Self { session, whole })
    }

    pub fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// The value as the template language has it.
    pub fn expose(self: &Arc<Self>) -> Jinja {
        match self.value() {
            Value::Null => Jinja::from(()),
            Value::Bool(b) => Jinja::from(*b),
            Value::Int(n) => Jinja::from(*n),
            Value::Float(x) => Jinja::from(*x),
            Value::String(text) if text == convert::OMIT => convert::omit(),
            Value::String(text) => match self.place() {
                Some(place) if has_template(text) => {
                    let (label, origin) = self.whereabouts(place);
                    self.session.expose_template(text, place, &label, origin.as_ref())
                }
                _ => Jinja::from(text.as_str()),
            },
            Value::List(_) | Value::Map(_) => Jinja::from_dyn_object(self.clone()),
            Value::Unknown(after) => self.session.unknown(after),
        }
    }

    /// The value with every template in it evaluated; what is unknown stays in its place.
    pub fn resolve(self: &Arc<Self>) -> Result<Value, TemplateError> {
        let Some(place) = self.place() else { return Ok(self.value().clone()) };
        Ok(match self.value() {
            Value::String(text) if has_template(text) => {
                let (label, origin) = self.whereabouts(place);
                match self.session.evaluate_nested(text, place, &label, origin.as_ref())? {
                    Outcome::Known(value) => {
                        convert::to_value(&value).map_err(|error| self.session.error_of(&error))?
                    }
                    Outcome::Unknown(after) => Value::Unknown(after),
                }
            }
            Value::List(items) => {
                let items = (0..items.len())
                    .map(|i| self.part(i).resolve())
                    .filter(|item| !matches!(item, Ok(v) if convert::is_omit(v)));
                Value::List(items.collect::<Result<_, _>>()?)
            }
            Value::Map(map) => {
                let mut out = crate::value::Map::with_capacity(map.len());
                for (i, key) in map.keys().enumerate() {
                    let value = self.part(i).resolve()?;
                    if !convert::is_omit(&value) {
                        out.insert(key.clone(), value);
                    }
                }
                Value::Map(out)
            }
            other => other.clone(),
        })
    }

    fn part(self: &Arc<Self>, index: usize) -> Arc<Self> {
        Arc::new(Self { session: self.session.clone(), whole: Whole::Part { of: self.clone(), index } })
    }

    /// A part as a template sees it. Leaving an undefined one to minijinja lets it note where that happened.
    fn member(self: &Arc<Self>, index: Option<usize>) -> Option<Jinja> {
        match index {
            Some(index) => Some(self.part(index).expose()).filter(|value| !value.is_undefined()),
            None => self.session.missing(),
        }
    }

    fn value(&self) -> &Value {
        match &self.whole {
            Whole::Variable { value, .. } => value,
            Whole::Part { of, index } => match of.value() {
                Value::List(items) => &items[*index],
                Value::Map(map) => &map[*index],
                // Parts are only made of containers.
                other => other,
            },
        }
    }

    fn place(&self) -> Option<&Arc<Place>> {
        match &self.whole {
            Whole::Variable { place, .. } => place.as_ref(),
            Whole::Part { of, .. } => of.place(),
        }
    }

    fn whereabouts(&self, place: &Place) -> (String, Option<Span>) {
        match &self.whole {
            Whole::Variable { name, origin, .. } => (place.label(name), origin.clone()),
            Whole::Part { of, index } => {
                let (mut label, origin) = of.whereabouts(place);
                match of.value() {
                    Value::Map(map) => {
                        label.push_str(&format!(".{}", map.get_index(*index).map_or("", |(key, _)| key)))
                    }
                    _ => label.push_str(&format!("[{index}]")),
                }
                (label, origin)
            }
        }
    }
}

impl fmt::Debug for Lazy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("variable")
    }
}

impl Object for Lazy {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        if matches!(self.value(), Value::List(_)) { ObjectRepr::Seq } else { ObjectRepr::Map }
    }

    fn get_value(self: &Arc<Self>, key: &Jinja) -> Option<Jinja> {
        let index = match self.value() {
            Value::List(items) => key.as_usize().filter(|i| *i < items.len()),
            Value::Map(map) => map.get_index_of(convert::key_text(key)?.as_ref()),
            _ => None,
        };
        self.member(index)
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Jinja> {
        let index = self.value().as_map().and_then(|map| map.get_index_of(key));
        self.member(index)
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        match self.value() {
            Value::List(items) => Enumerator::Seq(items.len()),
            Value::Map(map) => Enumerator::Values(map.keys().map(|key| Jinja::from(key.as_str())).collect()),
            _ => Enumerator::Empty,
        }
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        match self.value() {
            Value::List(items) => Some(items.len()),
            Value::Map(map) => Some(map.len()),
            _ => None,
        }
    }
}
