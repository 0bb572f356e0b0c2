//! Editing a text file: what `lineinfile` and `blockinfile` have in common.
//!
//! Reads the file (through links: a link is not replaced by an edit), and hands the edited text on to `replace`.

use super::replace::{Change, Found, Replace, Wanted};
use super::{Applied, Diff, Failure};
use crate::system::{SystemError, View, Writer};
use crate::value::{After, Map, Value};
use regex_lite::Regex;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Which file is edited.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Edit {
    pub path: PathBuf,
    /// Make the file, and the directories above it, if it is missing.
    pub create: bool,
    pub replace: Replace,
}

/// Where something new goes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Place {
    Start,
    End,
    /// After (or before) a line that this regular expression matches; at the end if none does.
    After(String),
    Before(String),
}

impl Place {
    /// The expression, where the place has one.
    pub fn regex(&self) -> Result<Option<Regex>, Failure> {
        match self {
            Self::After(pattern) | Self::Before(pattern) => compiled(pattern).map(Some),
            Self::Start | Self::End => Ok(None),
        }
    }
}

#[derive(Debug)]
pub struct State {
    found: Found,
    text: Text,
}

/// What is in the file before the edit.
#[derive(Debug, PartialEq)]
pub enum Text {
    Absent,
    Known(String),
    /// Plan: known after that task.
    Unknown(After),
}

/// What an edit comes to: the new text if it is another one, and what Ansible says about it.
#[derive(Debug, Default)]
pub struct Edited {
    pub text: Option<String>,
    pub message: String,
}

impl Edit {
    #[cfg(feature = "controller")]
    pub fn from_args(args: &mut super::args::Args<'_>) -> Result<Self, super::args::ArgError> {
        use super::args::ArgError;
        let path = args.required(&["path", "dest", "destfile", "name"])?;
        if !path.starts_with('/') {
            return Err(ArgError::new("path", format!("`path` is `{path}`, expected an absolute path")));
        }
        Ok(Self { path: path.into(), create: args.bool("create", false)?, replace: Replace::from_args(args)? })
    }

    pub fn query(&self, view: View<'_>) -> Result<State, Failure> {
        let found = self.replace.query(view, &self.path, true)?;
        let text = match view.fs().read_to_string(&found.path) {
            _ if found.meta.is_none() => Text::Absent,
            Err(SystemError::Unknown) => Text::Unknown(view.fs().after(&found.path)?.unwrap_or_default()),
            read => Text::Known(read?),
        };
        Ok(State { found, text })
    }

    /// What to do when there is no file: nothing is wrong with making it, or it is a failure.
    pub fn missing(&self) -> Result<(), Failure> {
        if self.create {
            return Ok(());
        }
        let message = format!("{} does not exist; `create: true` makes it", self.path.display());
        Err(Failure { message, result: [("rc".to_owned(), Value::Int(257))].into_iter().collect() })
    }

    pub fn diff(&self, state: &State, edit: impl Fn(&str) -> Edited) -> Option<Change> {
        let wanted = match &state.text {
            Text::Unknown(after) => Some(Wanted::Unknown(after.clone())),
            Text::Absent => edit("").text.map(|text| Wanted::Bytes(text.into_bytes())),
            Text::Known(text) => edit(text).text.map(|text| Wanted::Bytes(text.into_bytes())),
        };
        self.replace.diff(&state.found, wanted.as_ref())
    }

    pub fn describe(&self, state: &State, change: &Change) -> Vec<Diff> {
        self.replace.describe(&state.found, change)
    }

    pub fn apply(
        &self,
        state: &State,
        change: Change,
        writer: &mut Writer<'_>,
        edit: impl Fn(&str) -> Edited,
    ) -> Result<Applied, Failure> {
        if state.text == Text::Absent
            && let Some(parent) = state.found.path.parent()
        {
            writer.fs().mkdir_all(parent, None, Default::default())?;
        }
        let mut message = match state.text {
            Text::Unknown(_) => Value::later(),
            _ => self.message(state, &edit).into(),
        };
        if let (Value::String(text), Change::Attributes(_)) = (&mut message, &change) {
            "ownership, perms or SE linux context changed".clone_into(text);
        }
        let mut applied = self.replace.apply(&state.found, change, writer)?;
        let backup = applied.result.shift_remove("backup_file").unwrap_or_else(|| "".into());
        applied.result = result(message, backup);
        Ok(applied)
    }

    /// The result where nothing had to be done.
    pub fn result(&self, state: &State, edit: impl Fn(&str) -> Edited) -> Map {
        result(self.message(state, &edit).into(), "".into())
    }

    fn message(&self, state: &State, edit: &dyn Fn(&str) -> Edited) -> String {
        match &state.text {
            Text::Known(text) => edit(text).message,
            Text::Absent | Text::Unknown(_) => edit("").message,
        }
    }
}

impl State {
    pub fn absent(&self) -> bool {
        self.text == Text::Absent
    }
}

fn result(message: Value, backup: Value) -> Map {
    [("msg".to_owned(), message), ("backup".to_owned(), backup)].into_iter().collect()
}

impl Place {
    /// `insertafter` and `insertbefore`; at the end where neither is given.
    #[cfg(feature = "controller")]
    pub fn from_args(args: &mut super::args::Args<'_>) -> Result<Self, super::args::ArgError> {
        use super::args::ArgError;
        match (args.opt_str("insertafter")?, args.opt_str("insertbefore")?) {
            (Some(_), Some(_)) => {
                Err(ArgError::new("insertbefore", "`insertafter` and `insertbefore` exclude each other"))
            }
            (None, None) => Ok(Self::End),
            (Some(at), None) | (None, Some(at)) if at == "BOF" => Ok(Self::Start),
            (Some(at), None) | (None, Some(at)) if at == "EOF" => Ok(Self::End),
            (Some(after), None) => checked("insertafter", after).map(Self::After),
            (None, Some(before)) => checked("insertbefore", before).map(Self::Before),
        }
    }
}

/// A regular expression that the node will be able to read.
#[cfg(feature = "controller")]
pub fn checked(name: &'static str, pattern: String) -> Result<String, super::args::ArgError> {
    match regex(&pattern) {
        Ok(_) => Ok(pattern),
        Err(error) => {
            let mut error = super::args::ArgError::new(name, format!("`{name}` is no regular expression: {error}"));
            error.help = Some("Python's syntax, without look-ahead, look-behind and back-references".to_owned());
            Err(error)
        }
    }
}

/// Compiles a pattern in Python's spelling.
pub fn regex(pattern: &str) -> Result<Regex, regex_lite::Error> {
    Regex::new(&pattern.replace("\\Z", "\\z"))
}

/// As [`regex`], on the node. The controller has compiled it before.
pub fn compiled(pattern: &str) -> Result<Regex, Failure> {
    regex(pattern).map_err(|error| Failure::new(format!("`{pattern}` is no regular expression: {error}")))
}

/// The text in lines, each with its newline (the last may have none).
pub fn lines(text: &str) -> Vec<String> {
    text.split_inclusive('\n').map(str::to_owned).collect()
}

pub fn bare(line: &str) -> &str {
    line.trim_end_matches(['\r', '\n'])
}

/// Gives the last line a newline, if it lacks one.
pub fn end_line(lines: &mut [String]) {
    if let Some(last) = lines.last_mut().filter(|last| !last.ends_with(['\n', '\r'])) {
        last.push('\n');
    }
}

#[cfg(test)]
pub fn check_edit<M: super::Module>(module: &M, path: &std::path::Path, before: &str, after: &str) {
    std::fs::write(path, before).unwrap();
    let directory = path.parent().unwrap();
    let outcome = super::testing::check(module, directory);
    assert_eq!(std::fs::read_to_string(path).unwrap(), after);
    assert_eq!(outcome.changed, before != after);
}
