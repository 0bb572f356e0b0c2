//! What goes wrong in a template, with the place where it was written.

use crate::source::{InputError, Source, Span, near_miss};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// A template that could not be evaluated.
///
/// The message names variables and filters, never values. [`span`](Self::span) is set where the text came from a variable
/// with an origin or from a file; for text of a task, [`into_input`](Self::into_input) adds the place.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}{}", span.as_ref().map(|s| format!("{s}: ")).unwrap_or_default(), self.text())]
pub struct TemplateError {
    pub message: String,
    pub help: Option<String>,
    pub span: Option<Span>,
    /// The variables that led here, the innermost first.
    pub via: Vec<Via>,
    /// Whether a name or attribute is missing, which `default` would forgive.
    pub undefined: bool,
    /// The template and the range in it, until the place in a file is known.
    at: Option<Box<(Arc<str>, Range<usize>)>>,
    /// The message names the chain already.
    cycle: bool,
}

/// A variable whose value was being evaluated.
#[derive(Clone, Debug)]
pub struct Via {
    pub name: String,
    pub origin: Option<Span>,
}

impl TemplateError {
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            help: None,
            span: None,
            via: Vec::new(),
            undefined: false,
            at: None,
            cycle: false,
        }
    }

    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The same as an input error; `span` is where the rendered value was written.
    pub fn into_input(self, span: &Span) -> InputError {
        InputError::from(self.within(Some(span)))
    }

    pub(super) fn undefined(expression: &str, names: impl IntoIterator<Item = String>) -> Self {
        let names: Vec<String> = names.into_iter().collect();
        // `map.key`, `map['key']` or a name.
        let last = expression.rsplit(['.', '[']).next().unwrap_or(expression).trim_matches(['\'', '"', ']']);
        let mut error = Self::new(format!("`{expression}` is undefined"));
        error.help = near_miss(last, names.iter().map(String::as_str)).map(|near| format!("did you mean `{near}`?"));
        error.undefined = true;
        error
    }

    /// A variable that needs itself, written at `origin`.
    pub(super) fn cycle(message: String, origin: Option<&Span>) -> Self {
        Self { span: origin.cloned(), cycle: true, ..Self::new(message) }
    }

    /// Sets the place in the template, unless an inner one is known.
    pub(super) fn in_template(mut self, text: &Arc<str>, range: Option<Range<usize>>) -> Self {
        if self.at.is_none() && self.span.is_none() {
            self.at = Some(Box::new((text.clone(), range.unwrap_or(0..text.len()))));
        }
        self
    }

    /// The template is the text of a file.
    pub(super) fn in_file(mut self, path: &Path, text: &str) -> Self {
        if let (None, Some(at)) = (&self.span, self.at.take()) {
            self.span = Some(Source::new(path, text).span(at.1.start, at.1.end));
        }
        self
    }

    /// The template was written at `origin`: narrows the span to the expression where the file has the same text.
    pub(super) fn within(mut self, origin: Option<&Span>) -> Self {
        if let (None, Some(origin)) = (&self.span, origin) {
            let narrow = self.at.take().and_then(|at| {
                let (text, range) = *at;
                let written = origin.text();
                let start = match written.find(&*text) {
                    Some(start) => start + range.start,
                    None => {
                        let part = text.get(range.clone()).filter(|part| !part.is_empty())?;
                        written.find(part)?
                    }
                };
                Some(origin.source.span(origin.start + start, origin.start + start + range.len()))
            });
            self.span = Some(narrow.unwrap_or_else(|| origin.clone()));
        }
        self
    }

    /// Adds the variable whose value was being evaluated.
    pub(super) fn through(mut self, name: &str, origin: Option<&Span>) -> Self {
        if self.cycle {
            return self;
        }
        self = self.within(origin);
        // From here on the place would be one in another template.
        self.at = None;
        self.via.push(Via { name: name.to_owned(), origin: origin.cloned() });
        self
    }

    fn text(&self) -> String {
        let mut text = self.message.clone();
        for (i, via) in self.via.iter().enumerate() {
            text.push_str(if i == 0 { " (evaluating `" } else { ", read by `" });
            text.push_str(&via.name);
            text.push('`');
            if let Some(origin) = &via.origin {
                text.push_str(&format!(" at {origin}"));
            }
        }
        if !self.via.is_empty() {
            text.push(')');
        }
        text
    }
}

impl From<TemplateError> for InputError {
    fn from(error: TemplateError) -> Self {
        Self { message: error.text(), span: error.span, help: error.help }
    }
}
