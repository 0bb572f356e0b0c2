//! Source files and places in them.
//!
//! Everything read from a file keeps a [`Span`]: which file, which bytes, which line. Errors show it with a caret, and
//! `kprov vars explain` and precondition findings print it as `file:line`. Parsing is done elsewhere.
//!
//! Whatever the user wrote is read by [`read`], which remembers its digest: a saved plan holds them, so that it can tell
//! when a file has changed. The memory is the process's, which loads one run.

use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Absolute path and SHA-256 of what was read.
static INPUTS: Mutex<BTreeMap<PathBuf, String>> = Mutex::new(BTreeMap::new());

/// Reads a file that the user wrote. What it held the first time is remembered.
pub fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let bytes = std::fs::read(path)?;
    let absolute = std::path::absolute(path)?;
    let mut inputs = INPUTS.lock().unwrap_or_else(PoisonError::into_inner);
    inputs.entry(absolute).or_insert_with(|| digest_of(&bytes));
    Ok(bytes)
}

/// The files that were read so far, by absolute path, with their [`digest_of`].
pub fn inputs() -> BTreeMap<PathBuf, String> {
    INPUTS.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// SHA-256 in hex.
pub fn digest_of(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// A file that was read, or text that has a name of its own ("-e", "built-in defaults").
#[derive(Debug, PartialEq, Eq)]
pub struct Source {
    /// As the user wrote it, so that what we print can be opened from where they stand.
    pub path: PathBuf,
    pub text: String,
}

impl Source {
    pub fn new(path: impl Into<PathBuf>, text: impl Into<String>) -> Arc<Self> {
        Arc::new(Self { path: path.into(), text: text.into() })
    }

    /// Reads a file.
    pub fn read(path: &Path) -> std::io::Result<Arc<Self>> {
        let text = String::from_utf8(read(path)?)
            .map_err(|error| std::io::Error::new(std::io::ErrorKind::InvalidData, error))?;
        Ok(Self::new(path, text))
    }

    /// Reads a file that the user named or that belongs to what the user named.
    pub fn open(path: &Path) -> Result<Arc<Self>, InputError> {
        Self::read(path).map_err(|error| {
            let why = match error.kind() {
                std::io::ErrorKind::NotFound => "no such file".into(),
                std::io::ErrorKind::InvalidData => "not UTF-8 text".into(),
                _ => error.to_string(),
            };
            InputError::new(format!("cannot read {}: {why}", path.display()))
        })
    }

    /// The span of the bytes `start..end`; both are clamped to the text.
    pub fn span(self: &Arc<Self>, start: usize, end: usize) -> Span {
        let start = start.min(self.text.len());
        Span { source: self.clone(), start, end: end.clamp(start, self.text.len()) }
    }
}

/// A range of bytes in a [`Source`].
#[derive(Clone, PartialEq, Eq)]
pub struct Span {
    pub source: Arc<Source>,
    pub start: usize,
    pub end: usize,
}

impl Span {
    /// Line of the start, from 1.
    pub fn line(&self) -> usize {
        self.source.text.as_bytes()[..self.start].iter().filter(|&&b| b == b'\n').count() + 1
    }

    /// Column of the start in characters, from 1.
    pub fn column(&self) -> usize {
        let text = &self.source.text;
        let line_start = text.as_bytes()[..self.start].iter().rposition(|&b| b == b'\n').map_or(0, |i| i + 1);
        String::from_utf8_lossy(&text.as_bytes()[line_start..self.start]).chars().count() + 1
    }

    /// The text that the span covers.
    pub fn text(&self) -> &str {
        self.source.text.get(self.start..self.end).unwrap_or_default()
    }
}

/// `file:line`, the form that editors and terminals open.
impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.source.path.display(), self.line())
    }
}

/// Not the whole text of the file.
impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}:{}", self.column())
    }
}

/// A value and where it was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Spanned<T> {
    pub value: T,
    pub span: Span,
}

/// A mistake in something that the user wrote.
///
/// The message is a lower-case fragment that says what is wrong and what was expected; `help` says what to do.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}{message}", span.as_ref().map(|s| format!("{s}: ")).unwrap_or_default())]
pub struct InputError {
    pub message: String,
    pub span: Option<Span>,
    pub help: Option<String>,
}

impl InputError {
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), span: None, help: None }
    }

    pub fn at(span: &Span, message: impl Into<String>) -> Self {
        Self { message: message.into(), span: Some(span.clone()), help: None }
    }

    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Place, message and help.
    pub fn in_one_line(&self) -> String {
        let help = self.help.as_ref().map(|help| format!(" ({help})")).unwrap_or_default();
        format!("{self}{help}")
    }
}

/// All the mistakes found in one pass: the user mends them in one go.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct InputErrors(pub Vec<InputError>);

impl From<InputError> for InputErrors {
    fn from(error: InputError) -> Self {
        Self(vec![error])
    }
}

/// The candidate nearest to `word`, when it is near enough to be what was meant.
pub fn near_miss<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = 1 + word.chars().count() / 4;
    candidates
        .into_iter()
        .map(|candidate| (edit_distance(word, candidate), candidate))
        .filter(|&(distance, _)| distance <= limit)
        .min()
        .map(|(_, candidate)| candidate)
}

fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substitute = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_knows_its_line_and_column() {
        let source = Source::new("hosts.ini", "[all]\nn1 ansible_host=ä b\n");
        let span = source.span(source.text.find(" b").unwrap() + 1, usize::MAX);
        assert_eq!((span.line(), span.column()), (2, 19));
        assert_eq!(span.to_string(), "hosts.ini:2");
    }

    #[test]
    fn near_misses() {
        assert_eq!(near_miss("templat", ["template", "copy"]), Some("template"));
        assert_eq!(near_miss("kube_versoin", ["kube_version", "bin_dir"]), Some("kube_version"));
        assert_eq!(near_miss("zzz", ["template"]), None);
    }
}
