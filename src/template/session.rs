//! One evaluation from the outside: what it has read, what it could not know, what went wrong on the way.
//!
//! The template language has no notion of an unknown value and would happily compare or print a stand-in. So reading one
//! stops the evaluation: the name gives an *invalid* value, which minijinja turns into an error at once, and a note in
//! the [`Pass`] says why. Nothing can leak, but `unknown is defined` would stop as well, and so would `a.b.c |
//! default(x)` without `a.b`, which Ansible allows. Text that has such a test or filter gets a second pass in which each
//! value that is not there is a numbered [`Probe`]. `defined` and `default` settle the probe they see, every other use
//! that can be noticed marks the pass as leaky, and the result counts only if every probe handed out was settled. A
//! template that binds names could use a settled probe once more, so it gets no second pass (`Compiled::may_probe`).

use super::compiled::{Compiled, Kind, Syntax};
use super::error::TemplateError;
use super::scope::{Names, Place, Probe, expose};
use super::templar::Cache;
use crate::source::{Source, Span};
use crate::value::{After, Value};
use minijinja::value::{Object, ObjectRepr};
use minijinja::{ErrorKind, State, Value as Jinja};
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Variables within variables. Deeper is a cycle that goes through a different name each time, or bound for a stack overflow.
const MAX_DEPTH: usize = 40;

/// What evaluating a template gives.
pub(super) enum Outcome {
    Known(Jinja),
    /// Known after that task.
    Unknown(After),
}

#[derive(Default)]
struct Pass {
    /// Second pass: values that are not there are probes.
    probing: bool,
    probes: u32,
    settled: BTreeSet<u32>,
    leaked: bool,
    /// The label of an unknown value that was read.
    touched: Option<After>,
    /// Why a variable that was read could not be evaluated.
    failure: Option<TemplateError>,
    /// The value of the one expression.
    captured: Option<Jinja>,
}

impl Pass {
    /// Whether the result of a second pass counts.
    fn is_clean(&self) -> bool {
        !self.leaked && self.failure.is_none() && self.touched.is_none() && self.settled.len() == self.probes as usize
    }
}

#[derive(Default)]
struct Notes {
    pass: Pass,
    /// The variables being evaluated, the outermost first.
    reading: Vec<(String, Option<Span>)>,
    /// Variables that were evaluated already, by label.
    memo: HashMap<String, Jinja>,
    /// Why a variable counts as undefined: a name in its own template is.
    causes: HashMap<String, TemplateError>,
    secret: bool,
}

pub(super) struct Session {
    cache: Arc<Cache>,
    notes: Mutex<Notes>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("session")
    }
}

/// Templates reach their session through a name that no template can spell.
impl Object for Session {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }
}

impl Session {
    pub const KEY: &'static str = "\u{1}session";

    pub fn new(cache: Arc<Cache>) -> Arc<Self> {
        Arc::new(Self { cache, notes: Mutex::default() })
    }

    /// The session of a filter, test or function.
    pub fn of(state: &State) -> Result<Arc<Self>, minijinja::Error> {
        state
            .lookup(Self::KEY)
            .and_then(|value| value.downcast_object())
            .ok_or_else(|| minijinja::Error::new(ErrorKind::InvalidOperation, "not available here"))
    }

    /// The names that a filter or function sees.
    pub fn place_of(state: &State) -> Result<Arc<Place>, minijinja::Error> {
        state
            .lookup("vars")
            .and_then(|value| value.downcast_object::<Names>())
            .map(|names| names.place.clone())
            .ok_or_else(|| minijinja::Error::new(ErrorKind::InvalidOperation, "not available here"))
    }

    pub fn cache(&self) -> &Arc<Cache> {
        &self.cache
    }

    /// Whether a secret variable was read.
    pub fn saw_secret(&self) -> bool {
        self.notes().secret
    }

    /// Lets go of the values kept, which point back here.
    pub fn close(&self) {
        let memo = std::mem::take(&mut self.notes().memo);
        drop(memo);
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // What templates read.

    /// A variable, evaluated; nothing when there is none of that name.
    pub fn variable(self: &Arc<Self>, place: &Arc<Place>, name: &str) -> Option<Jinja> {
        let label = place.label(name);
        if let Some(value) = self.notes().memo.get(&label) {
            return Some(value.clone());
        }
        let Some(var) = place.scope.lookup(name) else {
            return if super::compiled::is_function(name) { None } else { self.missing() };
        };
        if var.secret {
            self.notes().secret = true;
        }
        let scalar =
            matches!(*var.value, Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Unknown(_));
        let value = expose(self, place, name, var);
        // An invalid value is one way to stop, not a value.
        if !scalar
            && !value.is_undefined()
            && !matches!(value.kind(), minijinja::value::ValueKind::Invalid | minijinja::value::ValueKind::Plain)
        {
            self.notes().memo.insert(label, value.clone());
        }
        Some(value)
    }

    /// Evaluates a template that is (part of) a variable's value, for a template that reads it.
    pub fn expose_template(
        self: &Arc<Self>,
        text: &str,
        place: &Arc<Place>,
        label: &str,
        origin: Option<&Span>,
    ) -> Jinja {
        match self.evaluate_nested(text, place, label, origin) {
            Ok(Outcome::Known(value)) => value,
            Ok(Outcome::Unknown(after)) => self.unknown(&after),
            Err(error) if error.undefined => {
                self.notes().causes.insert(label.to_owned(), error);
                self.missing().unwrap_or_default()
            }
            Err(error) => Jinja::from(self.fail(error)),
        }
    }

    pub fn evaluate_nested(
        self: &Arc<Self>,
        text: &str,
        place: &Arc<Place>,
        label: &str,
        origin: Option<&Span>,
    ) -> Result<Outcome, TemplateError> {
        let evaluate = || self.cache.inline(text).and_then(|compiled| self.evaluate(&compiled, place));
        self.within(label, origin, evaluate).map_err(|error| error.through(label, origin))
    }

    /// Evaluates a file that a template takes in by a lookup.
    pub fn evaluate_file(self: &Arc<Self>, source: &Arc<Source>, place: &Arc<Place>) -> Result<Outcome, TemplateError> {
        let evaluate = || {
            let compiled = self.cache.file(&source.text, &Syntax::default(), &place.scope)?;
            self.evaluate(&compiled, place).map_err(|error| error.in_file(&source.path, &source.text))
        };
        self.within(&source.path.display().to_string(), None, evaluate)
    }

    /// Evaluates one thing within others, unless it is within itself.
    fn within(
        &self,
        label: &str,
        origin: Option<&Span>,
        evaluate: impl FnOnce() -> Result<Outcome, TemplateError>,
    ) -> Result<Outcome, TemplateError> {
        {
            let mut notes = self.notes();
            let cycle = notes.reading.iter().position(|(name, _)| name == label);
            if cycle.is_some() || notes.reading.len() >= MAX_DEPTH {
                let chain = chain_text(&notes.reading[cycle.unwrap_or(0)..], label);
                let message = match cycle {
                    Some(_) => format!("`{label}` refers to itself: {chain}"),
                    None => format!("variables refer to each other more than {MAX_DEPTH} deep: {chain}"),
                };
                return Err(TemplateError::cycle(message, origin));
            }
            notes.reading.push((label.to_owned(), origin.cloned()));
        }
        let outcome = evaluate();
        self.notes().reading.pop();
        outcome
    }

    /// Stops the evaluation because of a value that is known only later; in a second pass, a probe.
    pub fn unknown(self: &Arc<Self>, after: &After) -> Jinja {
        let mut notes = self.notes();
        if notes.pass.probing {
            drop(notes);
            return self.probe(true);
        }
        notes.pass.touched.get_or_insert_with(|| after.clone());
        Jinja::from(stop())
    }

    /// The same for a filter that finds an unknown value in its arguments.
    pub fn touch(&self, after: &After) -> minijinja::Error {
        self.notes().pass.touched.get_or_insert_with(|| after.clone());
        stop()
    }

    /// What a name or key without a value gives.
    pub fn missing(self: &Arc<Self>) -> Option<Jinja> {
        let probing = self.notes().pass.probing;
        probing.then(|| self.probe(false))
    }

    /// Stops the evaluation with an error of our own.
    pub fn fail(&self, error: TemplateError) -> minijinja::Error {
        self.notes().pass.failure.get_or_insert(error);
        stop()
    }

    fn probe(self: &Arc<Self>, unknown: bool) -> Jinja {
        let id = {
            let mut notes = self.notes();
            notes.pass.probes += 1;
            notes.pass.probes
        };
        Jinja::from_object(Probe { session: self.clone(), id, unknown })
    }

    /// The probe was looked at by somebody who knows what it is.
    pub fn settle(&self, probe: &Probe) {
        self.notes().pass.settled.insert(probe.id);
    }

    /// A probe was used as if it were a value.
    pub fn leak(&self) {
        self.notes().pass.leaked = true;
    }

    /// Takes the value of the one expression of a template.
    pub fn capture(&self, value: Jinja) {
        self.notes().pass.captured = Some(value);
    }

    // Evaluation.

    /// Evaluates a template whose names come from `place`.
    pub fn evaluate(self: &Arc<Self>, compiled: &Compiled, place: &Arc<Place>) -> Result<Outcome, TemplateError> {
        let (result, pass) = self.run(compiled, place, false);
        if let Some(failure) = pass.failure {
            return Err(failure);
        }
        let error = match result {
            Ok(value) if pass.touched.is_none() => return Ok(Outcome::Known(value)),
            Ok(_) => None,
            Err(error) => Some(error),
        };
        if compiled.may_probe
            && let (Ok(value), pass) = self.run(compiled, place, true)
            && pass.is_clean()
        {
            return Ok(Outcome::Known(value));
        }
        match (pass.touched, error) {
            (Some(after), _) => Ok(Outcome::Unknown(after)),
            (None, Some(error)) => Err(self.explain(compiled, place, error)),
            // A result without a touch has been returned.
            (None, None) => Err(TemplateError::new("no result")),
        }
    }

    /// Gives what `f` makes of results, which may read more variables as it goes.
    pub fn finish<T>(
        &self,
        f: impl FnOnce() -> Result<T, minijinja::Error>,
    ) -> Result<Result<T, After>, TemplateError> {
        let outer = std::mem::take(&mut self.notes().pass);
        let result = f();
        let pass = std::mem::replace(&mut self.notes().pass, outer);
        match (pass.failure, pass.touched, result) {
            (Some(failure), _, _) => Err(failure),
            (None, Some(after), _) => Ok(Err(after)),
            (None, None, result) => result.map(Ok).map_err(|error| self.error_of(&error)),
        }
    }

    fn run(
        self: &Arc<Self>,
        compiled: &Compiled,
        place: &Arc<Place>,
        probing: bool,
    ) -> (Result<Jinja, minijinja::Error>, Pass) {
        let outer = std::mem::replace(&mut self.notes().pass, Pass { probing, ..Pass::default() });
        let names = Jinja::from_object(Names { session: self.clone(), place: place.clone() });
        let rendered = compiled.run(names);
        let mut pass = std::mem::replace(&mut self.notes().pass, outer);
        let result = match (rendered, compiled.kind, pass.captured.take()) {
            (Ok(_), Kind::Expression, Some(value)) => Ok(value),
            (Ok(text), _, _) => Ok(Jinja::from(text)),
            (Err(error), _, _) => Err(error),
        };
        (result, pass)
    }

    // Errors.

    /// What a minijinja error says, for one that comes without a template.
    pub fn error_of(&self, error: &minijinja::Error) -> TemplateError {
        if let Some(failure) = self.notes().pass.failure.take() {
            return failure;
        }
        TemplateError::new(message_of(error))
    }

    /// Says what was wrong, where, and what was probably meant.
    ///
    /// Only minijinja's debug mode tells which expression was undefined, and it looks at every variable in reach to do
    /// so; so the template runs once more, with it.
    fn explain(self: &Arc<Self>, compiled: &Compiled, place: &Arc<Place>, first: minijinja::Error) -> TemplateError {
        let outer = std::mem::take(&mut self.notes().pass);
        let names = Jinja::from_object(Names { session: self.clone(), place: place.clone() });
        let again = compiled.run_for_diagnosis(names).err();
        self.notes().pass = outer;
        let error = again.filter(|again| again.kind() == first.kind()).unwrap_or(first);
        let error = innermost(&error);
        let message = message_of(error);
        let explained = match undefined_expression(&message) {
            Some(expression) => self.undefined(expression, place),
            None => {
                let mut explained = TemplateError::new(message);
                explained.help = super::compiled::help(error);
                explained
            }
        };
        compiled.locate(explained, error)
    }

    fn undefined(self: &Arc<Self>, expression: &str, place: &Arc<Place>) -> TemplateError {
        if let Some(cause) = self.cause(expression) {
            return cause;
        }
        let names = match expression.rsplit_once('.') {
            None if expression.starts_with("hostvars[") => place.scope.hosts(),
            None => place.scope.names(),
            Some((base, _)) => keys_of(base, place),
        };
        TemplateError::undefined(expression, names)
    }

    /// Why a variable is undefined although it was written. minijinja prints an index that is computed as `[...]`.
    fn cause(&self, expression: &str) -> Option<TemplateError> {
        let notes = self.notes();
        let mut similar = notes.causes.iter().filter(|(label, _)| match expression.split_once("[...]") {
            Some((before, after)) => label.starts_with(before) && label.ends_with(after),
            None => *label == expression,
        });
        similar.next().map(|(_, cause)| cause.clone())
    }
}

/// The keys of a variable given by a dotted path.
fn keys_of(path: &str, place: &Place) -> Vec<String> {
    let mut parts = path.split('.');
    let Some(var) = parts.next().and_then(|name| place.scope.lookup(name)) else { return Vec::new() };
    let mut value = &*var.value;
    for part in parts {
        let Some(next) = value.get(part) else { return Vec::new() };
        value = next;
    }
    value.as_map().map(|map| map.keys().cloned().collect()).unwrap_or_default()
}

/// What an error says that stops an evaluation; the reason is in the session.
const STOP: &str = "the evaluation stops here";

fn stop() -> minijinja::Error {
    minijinja::Error::new(ErrorKind::InvalidOperation, STOP)
}

/// Whether an error only stops the evaluation, for those who forgive errors.
pub(super) fn is_stop(error: &minijinja::Error) -> bool {
    error.detail() == Some(STOP)
}

fn innermost(error: &minijinja::Error) -> &minijinja::Error {
    let mut error = error;
    while let Some(source) = std::error::Error::source(error).and_then(|source| source.downcast_ref()) {
        error = source;
    }
    error
}

fn message_of(error: &minijinja::Error) -> String {
    match error.detail() {
        Some(detail) if error.kind() == ErrorKind::SyntaxError => format!("template syntax: {detail}"),
        Some(detail) => detail.to_owned(),
        None => error.kind().to_string(),
    }
}

/// The expression in "… `expression` is undefined …".
fn undefined_expression(message: &str) -> Option<&str> {
    let end = message.find("` is undefined")?;
    let start = message[..end].rfind('`')? + 1;
    Some(&message[start..end])
}

fn chain_text(chain: &[(String, Option<Span>)], label: &str) -> String {
    let mut text = String::new();
    for (name, origin) in chain {
        text.push_str(&format!("`{name}`"));
        if let Some(origin) = origin {
            text.push_str(&format!(" ({origin})"));
        }
        text.push_str(" -> ");
    }
    text + &format!("`{label}`")
}
