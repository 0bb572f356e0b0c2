//! Compiled templates and the minijinja environment that they run in.

use super::convert;
use super::error::TemplateError;
use super::escapes::{Offsets, keep_backslashes};
use super::session::Session;
use super::{filters, lookups, methods, reads, tests};
use crate::source::near_miss;
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior, Value as Jinja};
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Arc, LazyLock, OnceLock};

/// The name of the one template of an environment.
const MAIN: &str = "template";

/// How a template file is read. The defaults are those of Ansible's `template` module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Syntax {
    pub trim_blocks: bool,
    pub lstrip_blocks: bool,
    pub keep_trailing_newline: bool,
    pub block: (String, String),
    pub variable: (String, String),
    pub comment: (String, String),
}

impl Default for Syntax {
    fn default() -> Self {
        let pair = |start: &str, end: &str| (start.to_owned(), end.to_owned());
        Self {
            trim_blocks: true,
            lstrip_blocks: false,
            keep_trailing_newline: true,
            block: pair("{%", "%}"),
            variable: pair("{{", "}}"),
            comment: pair("{#", "#}"),
        }
    }
}

impl Syntax {
    /// Reads a first line `#jinja2: lstrip_blocks: True, trim_blocks: False`; gives the length of that line.
    fn header(&mut self, text: &str) -> Result<usize, TemplateError> {
        let Some(rest) = text.strip_prefix("#jinja2:") else { return Ok(0) };
        let line = rest.split('\n').next().unwrap_or_default();
        let length = (text.len() - rest.len() + line.len() + 1).min(text.len());
        let place: Arc<str> = text.into();
        for option in line.split(',').map(str::trim).filter(|option| !option.is_empty()) {
            let at = |error: TemplateError| error.in_template(&place, Some(0..length));
            let (key, value) = option.split_once(':').ok_or_else(|| {
                at(TemplateError::new(format!("expected `key:value` after `#jinja2:`, found `{option}`")))
            })?;
            let (key, value) = (key.trim(), value.trim().trim_matches(['"', '\'']));
            let flag = || match value {
                "True" | "true" | "yes" => Ok(true),
                "False" | "false" | "no" => Ok(false),
                _ => Err(at(TemplateError::new(format!("`{key}` has to be True or False, found `{value}`")))),
            };
            let text = value.to_owned();
            match key {
                "trim_blocks" => self.trim_blocks = flag()?,
                "lstrip_blocks" => self.lstrip_blocks = flag()?,
                "keep_trailing_newline" => self.keep_trailing_newline = flag()?,
                "block_start_string" => self.block.0 = text,
                "block_end_string" => self.block.1 = text,
                "variable_start_string" => self.variable.0 = text,
                "variable_end_string" => self.variable.1 = text,
                "comment_start_string" => self.comment.0 = text,
                "comment_end_string" => self.comment.1 = text,
                _ => {
                    const KEYS: [&str; 9] = [
                        "trim_blocks",
                        "lstrip_blocks",
                        "keep_trailing_newline",
                        "block_start_string",
                        "block_end_string",
                        "variable_start_string",
                        "variable_end_string",
                        "comment_start_string",
                        "comment_end_string",
                    ];
                    let mut error = TemplateError::new(format!("unknown template option `{key}`"));
                    error.help = near_miss(key, KEYS).map(|near| format!("did you mean `{near}`?"));
                    return Err(at(error));
                }
            }
        }
        Ok(length)
    }

    fn config(&self) -> Result<SyntaxConfig, Error> {
        let mut builder = SyntaxConfig::builder();
        builder
            .block_delimiters(self.block.0.clone(), self.block.1.clone())
            .variable_delimiters(self.variable.0.clone(), self.variable.1.clone())
            .comment_delimiters(self.comment.0.clone(), self.comment.1.clone())
            .trim_blocks(self.trim_blocks)
            .lstrip_blocks(self.lstrip_blocks)
            .keep_trailing_newline(self.keep_trailing_newline)
            .build()
    }
}

/// What a template gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The value of its one expression.
    Expression,
    Text,
}

/// A template that was parsed. Each has an environment of its own, which is cheap: they share filters and tests.
pub(super) struct Compiled {
    env: Environment<'static>,
    pub kind: Kind,
    /// Whether a second pass is worth while and safe; see [`super::session`].
    pub may_probe: bool,
    /// What the user wrote, for messages.
    text: Arc<str>,
    /// Where in `text` a byte of the template is.
    offsets: Offsets,
    reads: OnceLock<BTreeSet<String>>,
}

/// Whether text needs evaluation at all.
pub(super) fn has_template(text: &str) -> bool {
    text.as_bytes().windows(2).any(|pair| pair[0] == b'{' && matches!(pair[1], b'{' | b'%' | b'#'))
}

/// Whether a template takes in other files (`include`, `import`, `extends`).
pub(super) fn takes_in_others(text: &str, block_start: &str) -> bool {
    text.split(block_start).skip(1).any(|block| {
        let block = block.trim_start_matches(['-', '+']).trim_start();
        ["include", "import", "from", "extends"].iter().any(|word| block.starts_with(word))
    })
}

/// The template as a loader knows it: an `include` finds its file here.
pub(super) type Loader = dyn Fn(&str) -> Option<String> + Send + Sync;

impl Compiled {
    /// Text of a variable, an argument or a name.
    pub fn inline(text: &str) -> Result<Self, TemplateError> {
        let (source, mut offsets) = keep_backslashes(text);
        let kind = if is_whole_expression(&source) { Kind::Expression } else { Kind::Text };
        if kind == Kind::Text {
            return Self::new(text, source, offsets, kind, &Syntax::default(), None);
        }
        // White space around a whole expression is not part of it.
        offsets.shift = (text.len() - text.trim_start().len()) as isize;
        Self::new(text, source.trim().to_owned(), offsets, kind, &Syntax::default(), None)
    }

    /// A bare expression, as in `when`.
    pub fn expression(text: &str) -> Result<Self, TemplateError> {
        // Without this a stray `}}` could end the expression early.
        if let Err(error) = BASE.compile_expression_owned(text.to_owned()) {
            return Err(syntax_error(&error, text, &Offsets::default()));
        }
        Self::new(text, format!("{{{{{text}}}}}"), Offsets::shifted(-2), Kind::Expression, &Syntax::default(), None)
    }

    /// The text of a template file. Its `include`s are found by `loader`.
    pub fn file(text: &str, syntax: &Syntax, loader: Option<Box<Loader>>) -> Result<Self, TemplateError> {
        let mut syntax = syntax.clone();
        let header = syntax.header(text)?;
        Self::new(text, text[header..].to_owned(), Offsets::shifted(header as isize), Kind::Text, &syntax, loader)
    }

    fn new(
        text: &str,
        source: String,
        offsets: Offsets,
        kind: Kind,
        syntax: &Syntax,
        loader: Option<Box<Loader>>,
    ) -> Result<Self, TemplateError> {
        let mut env = BASE.clone();
        env.set_syntax(syntax.config().map_err(|error| TemplateError::new(error.to_string()))?);
        if let Some(loader) = loader {
            env.set_loader(move |name| Ok(loader(name)));
        }
        match kind {
            Kind::Expression => env.set_formatter(|_, state, value| {
                if value.is_undefined() {
                    return Err(no_else());
                }
                convert::refuse_undefined(value, false)?;
                Session::of(state)?.capture(value.clone());
                Ok(())
            }),
            Kind::Text => env.set_formatter(|out, _, value| {
                if value.is_undefined() {
                    return Err(no_else());
                }
                if convert::is_jinja_omit(value) {
                    return Err(Error::new(
                        ErrorKind::InvalidOperation,
                        "`omit` has to be the whole value, found it within text",
                    ));
                }
                match value.as_str() {
                    Some(text) => out.write_str(text)?,
                    None if value.is_none() => {}
                    None => {
                        convert::refuse_undefined(value, true)?;
                        write!(out, "{value}")?
                    }
                }
                Ok(())
            }),
        }
        let may_probe = may_probe(&source);
        env.add_template_owned(MAIN, source).map_err(|error| syntax_error(&error, text, &offsets))?;
        Ok(Self { env, kind, may_probe, text: text.into(), offsets, reads: OnceLock::new() })
    }

    /// Evaluates with the names of `root`; an expression's value goes to the session.
    pub fn run(&self, root: Jinja) -> Result<String, Error> {
        self.env.get_template(MAIN)?.render(root)
    }

    /// Evaluates again so that an error tells which expression was undefined.
    pub fn run_for_diagnosis(&self, root: Jinja) -> Result<String, Error> {
        let mut env = self.env.clone();
        env.set_debug(true);
        env.get_template(MAIN)?.render(root)
    }

    /// Adds the place in the template to what was wrong.
    pub fn locate(&self, explained: TemplateError, error: &Error) -> TemplateError {
        match error.name() {
            // In an included file: its name and line are in the message, not in this text.
            Some(name) if name != MAIN => {
                let line = error.line().unwrap_or(0);
                let mut explained = explained;
                explained.message = format!("{name}:{line}: {}", explained.message);
                explained.in_template(&self.text, None)
            }
            _ => explained.in_template(&self.text, range_of(error, &self.text, &self.offsets)),
        }
    }

    /// The names that the template reads from outside; see [`Templar::reads`](super::Templar::reads).
    pub fn reads(&self) -> &BTreeSet<String> {
        self.reads.get_or_init(|| match self.env.get_template(MAIN) {
            Ok(template) => reads::outside_names(template.undeclared_variables(false), &self.text),
            Err(_) => BTreeSet::new(),
        })
    }
}

fn no_else() -> Error {
    Error::new(ErrorKind::InvalidOperation, "`if` without `else` gave no value")
}

fn syntax_error(error: &Error, text: &str, offsets: &Offsets) -> TemplateError {
    let detail = error.detail().map_or_else(|| error.kind().to_string(), ToOwned::to_owned);
    TemplateError::new(format!("template syntax: {detail}")).in_template(&text.into(), range_of(error, text, offsets))
}

/// The range of an error in what the user wrote.
fn range_of(error: &Error, text: &str, offsets: &Offsets) -> Option<Range<usize>> {
    error.range().map(|range| offsets.range(range, text))
}

/// Whether text is one `{{ expression }}` and white space.
fn is_whole_expression(text: &str) -> bool {
    let Some(inner) = text.trim().strip_prefix("{{").and_then(|rest| rest.strip_suffix("}}")) else { return false };
    let inner = inner.strip_prefix(['-', '+']).unwrap_or(inner);
    let inner = inner.strip_suffix('-').unwrap_or(inner);
    BASE.compile_expression_owned(inner.to_owned()).is_ok()
}

/// Whether a second pass may help (something in the text forgives what is not there) and cannot lie (no name is bound to
/// a value that was already looked at, no list of values is filtered by being defined).
fn may_probe(source: &str) -> bool {
    let forgives = source.contains("defined") || source.contains("default") || source.contains("mandatory") || {
        let mut rest = source;
        loop {
            let Some((_, after)) = rest.split_once('|') else { break false };
            let word = after.trim_start();
            if word.strip_prefix('d').is_some_and(|end| !end.starts_with(|c: char| c.is_alphanumeric() || c == '_')) {
                break true;
            }
            rest = after;
        }
    };
    if !forgives || source.contains("'defined'") || source.contains("\"defined\"") {
        return false;
    }
    source.split("{%").skip(1).all(|block| {
        let block = block.trim_start_matches(['-', '+']).trim_start();
        let word: &str = block.split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default();
        match word {
            "if" | "elif" | "else" | "endif" | "endfor" | "raw" | "endraw" => true,
            "for" => {
                let end = block.find("%}").unwrap_or(block.len());
                no_literals(block[..end].split_once(" in ").map_or("", |(_, items)| items))
            }
            _ => false,
        }
    })
}

/// Whether what a loop goes over has no list, tuple or call in it, in which a stand-in could hide.
fn no_literals(items: &str) -> bool {
    let mut before = ' ';
    items.chars().all(|c| {
        let fine = match c {
            '[' => before.is_alphanumeric() || matches!(before, '_' | ']' | ')'),
            '(' | '{' => false,
            _ => true,
        };
        before = c;
        fine
    })
}

/// Whether a name is a function of every template rather than a variable.
pub(super) fn is_function(name: &str) -> bool {
    name == "loop" || FUNCTIONS.iter().any(|function| function == name)
}

static FUNCTIONS: LazyLock<Vec<String>> = LazyLock::new(|| BASE.globals().map(|(name, _)| name.to_owned()).collect());

/// What was probably meant: the nearest filter, test or function, or another way to the same end.
pub(super) fn help(error: &Error) -> Option<String> {
    let detail = error.detail()?;
    if detail.starts_with("tried to use % operator on unsupported types string") {
        return Some("write `'...' | format(...)`".to_owned());
    }
    if error.kind() == ErrorKind::UnknownMethod
        && ["append", "extend", "insert", "update", "pop"].iter().any(|method| detail.ends_with(method))
    {
        return Some("values do not change: use `+`, `combine` or `namespace`".to_owned());
    }
    let (name, known): (&str, Vec<&str>) = match error.kind() {
        ErrorKind::UnknownFilter => (detail.strip_prefix("filter ")?.strip_suffix(" is unknown")?, filters::names()),
        ErrorKind::UnknownTest => (detail.strip_prefix("test ")?.strip_suffix(" is unknown")?, tests::names()),
        ErrorKind::UnknownFunction => {
            (detail.strip_suffix(" is unknown")?, FUNCTIONS.iter().map(String::as_str).collect())
        }
        _ => return None,
    };
    near_miss(name, known).map(|near| format!("did you mean `{near}`?"))
}

/// Filters, tests and functions; made once.
static BASE: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut env = Environment::new();
    env.set_undefined_behavior(UndefinedBehavior::Strict);
    env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    env.set_debug(false);
    env.set_unknown_method_callback(methods::call);
    env.remove_global("debug");
    minijinja_contrib::add_to_environment(&mut env);
    filters::add_to(&mut env);
    tests::add_to(&mut env);
    lookups::add_to(&mut env);
    env
});
