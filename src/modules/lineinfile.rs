//! `lineinfile`: one line that has to be in a text file, or lines that must not be.
//!
//! Arguments, defaults and which line is replaced or where one is added are those of Ansible's `lineinfile`. Regular
//! expressions are Python's, without look-around and back-references in the pattern.

use super::edit::{self, Edit, Edited, Place, bare, compiled, end_line, lines};
use super::replace::Change;
use super::{Applied, Diff, Failure, Module, Needs};
use crate::system::{View, Writer};
use crate::value::Map;
use regex_lite::{Captures, Regex};
use serde::{Deserialize, Serialize};

/// A line to be there, or not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lineinfile {
    pub edit: Edit,
    /// Which line is meant; `None`: the one that equals `line`.
    pub find: Option<Find>,
    /// `None` with `absent`.
    pub line: Option<String>,
    pub absent: bool,
    /// `\1` and `\g<name>` in `line` are groups of the match; without a match nothing is done.
    pub backrefs: bool,
    pub place: Place,
    /// The first line that matches is meant, rather than the last.
    pub firstmatch: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Find {
    Regexp(String),
    /// Text that the line contains.
    Text(String),
}

#[cfg(feature = "controller")]
impl Lineinfile {
    pub fn from_args(mut args: super::args::Args<'_>) -> Result<Self, super::args::ArgError> {
        use super::args::{ArgError, missing};
        let regexp = args.first_of(&["regexp", "regex"])?.map(|r| edit::checked("regexp", r)).transpose()?;
        let find = match (regexp, args.opt_str("search_string")?) {
            (Some(_), Some(_)) => {
                return Err(ArgError::new("search_string", "`regexp` and `search_string` exclude each other"));
            }
            (Some(regexp), None) => Some(Find::Regexp(regexp)),
            (None, text) => text.map(Find::Text),
        };
        let module = Self {
            edit: Edit::from_args(&mut args)?,
            find,
            line: args.first_of(&["line", "value"])?,
            absent: args.choice("state", &["absent", "present"])? == Some("absent"),
            backrefs: args.bool("backrefs", false)?,
            place: Place::from_args(&mut args)?,
            firstmatch: args.bool("firstmatch", false)?,
        };
        match &module {
            Self { absent: false, line: None, .. } => return Err(missing("line")),
            Self { absent: true, line: None, find: None, .. } => return Err(missing("regexp")),
            Self { backrefs: true, find: None | Some(Find::Text(_)), .. } => {
                return Err(ArgError::new("backrefs", "`backrefs` needs `regexp`"));
            }
            _ => {}
        }
        args.finish()?;
        Ok(module)
    }
}

#[derive(Debug)]
pub struct State {
    file: edit::State,
    find: Matcher,
    place: Option<Regex>,
}

#[derive(Debug)]
enum Matcher {
    Regexp(Regex),
    Text(String),
    Exact,
}

impl Lineinfile {
    fn edited(&self, state: &State, text: &str) -> Edited {
        let lines = lines(text);
        match self.absent {
            true => self.without(state, lines),
            false => self.with(state, lines),
        }
    }

    fn without(&self, state: &State, mut lines: Vec<String>) -> Edited {
        let before = lines.len();
        lines.retain(|line| match &state.find {
            Matcher::Regexp(regex) => !regex.is_match(bare(line)),
            Matcher::Text(text) => !line.contains(text.as_str()),
            Matcher::Exact => Some(bare(line)) != self.line.as_deref(),
        });
        let removed = before - lines.len();
        match removed {
            0 => Edited::default(),
            _ => Edited { text: Some(lines.concat()), message: format!("{removed} line(s) removed") },
        }
    }

    fn with(&self, state: &State, mut lines: Vec<String>) -> Edited {
        let line = self.line.as_deref().unwrap_or_default();
        let matches = |candidate: &String| match &state.find {
            Matcher::Regexp(regex) => regex.is_match(bare(candidate)),
            Matcher::Text(text) => candidate.contains(text.as_str()),
            Matcher::Exact => false,
        };
        let matched = if self.firstmatch { lines.iter().position(matches) } else { lines.iter().rposition(matches) };
        // Only where nothing matched is the line itself looked for.
        let there = matched.or_else(|| lines.iter().rposition(|candidate| bare(candidate) == line));

        if let Some(at) = there {
            let new = match (&state.find, self.backrefs && matched.is_some()) {
                (Matcher::Regexp(regex), true) => match regex.captures(bare(&lines[at])) {
                    Some(captures) => expand(line, &captures),
                    None => line.to_owned(),
                },
                _ => line.to_owned(),
            };
            let new = if new.ends_with('\n') { new } else { new + "\n" };
            if lines[at] == new {
                return Edited::default();
            }
            lines[at] = new;
            return Edited { text: Some(lines.concat()), message: "line replaced".to_owned() };
        }
        if self.backrefs {
            return Edited::default();
        }

        let at = match (&self.place, &state.place) {
            (Place::Start, _) => 0,
            (Place::After(_), Some(regex)) => self.place_of(regex, &lines).map_or(lines.len(), |at| at + 1),
            (Place::Before(_), Some(regex)) => self.place_of(regex, &lines).unwrap_or(lines.len()),
            _ => lines.len(),
        };
        if at == lines.len() {
            end_line(&mut lines);
        }
        lines.insert(at, format!("{line}\n"));
        Edited { text: Some(lines.concat()), message: "line added".to_owned() }
    }

    fn place_of(&self, regex: &Regex, lines: &[String]) -> Option<usize> {
        let matches = |line: &String| regex.is_match(bare(line));
        if self.firstmatch { lines.iter().position(matches) } else { lines.iter().rposition(matches) }
    }
}

/// Fills groups into a template, in the spelling of Python's `Match.expand`: `\1`, `\g<1>`, `\g<name>`, `\n`, `\t`, `\\`.
fn expand(template: &str, captures: &Captures<'_>) -> String {
    let mut out = String::new();
    let mut rest = template;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let number = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        if number > 0 {
            let digits = number.min(2);
            if let Some(group) = rest[..digits].parse().ok().and_then(|group| captures.get(group)) {
                out.push_str(group.as_str());
            }
            rest = &rest[digits..];
        } else if let Some((name, after)) = rest.strip_prefix("g<").and_then(|rest| rest.split_once('>')) {
            let group = match name.parse() {
                Ok(number) => captures.get(number),
                Err(_) => captures.name(name),
            };
            out.push_str(group.map_or("", |group| group.as_str()));
            rest = after;
        } else {
            let mut chars = rest.chars();
            match chars.next() {
                Some('n') => out.push('\n'),
                Some('t') => out.push('\t'),
                Some('\\') => out.push('\\'),
                Some(other) => out.extend(['\\', other]),
                None => out.push('\\'),
            }
            rest = chars.as_str();
        }
    }
    out + rest
}

impl Module for Lineinfile {
    type State = State;
    type Change = Change;

    fn query(&self, view: View<'_>) -> Result<State, Failure> {
        let file = self.edit.query(view)?;
        if file.absent() && !self.absent {
            self.edit.missing()?;
        }
        let find = match &self.find {
            Some(Find::Regexp(pattern)) => Matcher::Regexp(compiled(pattern)?),
            Some(Find::Text(text)) => Matcher::Text(text.clone()),
            None => Matcher::Exact,
        };
        Ok(State { file, find, place: self.place.regex()? })
    }

    fn diff(&self, state: &State) -> Option<Change> {
        self.edit.diff(&state.file, |text| self.edited(state, text))
    }

    fn describe(&self, state: &State, change: &Change) -> Vec<Diff> {
        self.edit.describe(&state.file, change)
    }

    fn apply(
        &self,
        state: State,
        change: Change,
        writer: &mut Writer<'_>,
        _needs: &mut dyn Needs,
    ) -> Result<Applied, Failure> {
        self.edit.apply(&state.file, change, writer, |text| self.edited(&state, text))
    }

    fn result(&self, state: &State) -> Map {
        self.edit.result(&state.file, |text| self.edited(state, text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modules::testing::{text_args, check, check_fails};
    use crate::modules::edit::check_edit;
    use crate::value::Value;

    type Pairs<'a> = &'a [(&'a str, &'a str)];

    fn module(path: &std::path::Path, pairs: Pairs<'_>) -> Lineinfile {
        let path = path.display().to_string();
        Lineinfile::from_args(text_args(pairs.iter().copied().chain([("path", path.as_str())]))).unwrap()
    }

    #[test]
    fn lines_are_found_and_placed_as_ansible_does() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        #[rustfmt::skip]
        let cases: &[(Pairs<'_>, &str, &str)] = &[
            // At the end, also where the last line has no newline.
            (&[("line", "c")], "a\nb\n", "a\nb\nc\n"),
            (&[("line", "c")], "a\nb", "a\nb\nc\n"),
            (&[("line", "c")], "", "c\n"),
            (&[("line", "b")], "a\nb\nc\n", "a\nb\nc\n"),
            (&[("line", "b")], "a\nb", "a\nb\n"),
            (&[("line", "b"), ("insertafter", "EOF")], "a\n", "a\nb\n"),
            (&[("line", "b"), ("insertbefore", "BOF")], "a\n", "b\na\n"),
            // The last match is replaced, the first with firstmatch.
            (&[("line", "x=2"), ("regexp", "^x=")], "x=0\ny\nx=1\n", "x=0\ny\nx=2\n"),
            (&[("line", "x=2"), ("regexp", "^x="), ("firstmatch", "yes")], "x=0\ny\nx=1\n", "x=2\ny\nx=1\n"),
            (&[("line", "x=2"), ("regexp", "^x=")], "y\n", "y\nx=2\n"),
            (&[("line", "x=2"), ("regexp", "^x=\\d$")], "x=1\ny\n", "x=2\ny\n"),
            // The line is there already, although the expression does not match it.
            (&[("line", "x=2"), ("regexp", "^z=")], "x=2\ny\n", "x=2\ny\n"),
            (&[("line", "b"), ("search_string", "x.")], "ax.y\naxzy\n", "b\naxzy\n"),
            // insertafter and insertbefore count only where nothing matched.
            (&[("line", "n"), ("insertafter", "^a")], "a1\na2\nb\n", "a1\na2\nn\nb\n"),
            (&[("line", "n"), ("insertafter", "^a"), ("firstmatch", "yes")], "a1\na2\nb\n", "a1\nn\na2\nb\n"),
            (&[("line", "n"), ("insertafter", "^b")], "a\nb", "a\nb\nn\n"),
            (&[("line", "n"), ("insertafter", "^z")], "a\n", "a\nn\n"),
            (&[("line", "n"), ("insertbefore", "^b")], "a\nb\n", "a\nn\nb\n"),
            (&[("line", "n"), ("insertbefore", "^z")], "a\n", "a\nn\n"),
            (&[("line", "n=1"), ("regexp", "^n="), ("insertbefore", "^a")], "a\nn=0\n", "a\nn=1\n"),
            // Back-references; without a match nothing happens.
            (&[("line", "\\1=\\g<v>0"), ("regexp", "^(\\w+) (?P<v>\\d)"), ("backrefs", "yes")], "k 1\n", "k=10\n"),
            (&[("line", "\\1"), ("regexp", "^z(.)"), ("backrefs", "yes")], "a\n", "a\n"),
            (&[("line", "\\1"), ("regexp", "^a(.)")], "ab\n", "\\1\n"),
            // Removal.
            (&[("regexp", "^#"), ("state", "absent")], "#a\nb\n#c\n", "b\n"),
            (&[("line", "b"), ("state", "absent")], "a\nb\nbb\nb", "a\nbb\n"),
            (&[("search_string", "b"), ("state", "absent")], "a\nb\nbb\n", "a\n"),
            (&[("regexp", "z"), ("state", "absent")], "a\n", "a\n"),
        ];
        for (pairs, before, after) in cases {
            // Back-references that change what they match are not idempotent in Ansible either; these are.
            check_edit(&module(&path, pairs), &path, before, after);
        }
    }

    #[test]
    fn a_missing_file_is_made_only_where_that_is_asked_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sub/file");
        let message = check_fails(&module(&path, &[("line", "a")]), directory.path());
        assert!(message.ends_with("does not exist; `create: true` makes it"), "{message}");
        let outcome = check(&module(&path, &[("regexp", "a"), ("state", "absent")]), directory.path());
        assert!(!outcome.changed);
        let outcome = check(&module(&path, &[("line", "a"), ("create", "yes"), ("mode", "0600")]), directory.path());
        assert_eq!(outcome.result["msg"], Value::from("line added"));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "a\n");
        let outcome = check(&module(&path, &[("line", "a"), ("mode", "u=rw,go=r")]), directory.path());
        assert!(outcome.changed);
    }

    #[test]
    fn a_link_is_edited_where_it_leads() {
        let directory = tempfile::tempdir().unwrap();
        let (file, link) = (directory.path().join("file"), directory.path().join("link"));
        std::fs::write(&file, "a\n").unwrap();
        std::os::unix::fs::symlink("file", &link).unwrap();
        assert!(check(&module(&link, &[("line", "b")]), directory.path()).changed);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "a\nb\n");
        assert!(link.is_symlink());
    }

    #[test]
    fn mistakes_in_the_arguments_are_said() {
        let fails = |pairs: &[(&str, &str)]| {
            Lineinfile::from_args(text_args(pairs.iter().copied().chain([("path", "/x")]))).unwrap_err()
        };
        assert_eq!(fails(&[]).message, "missing argument `line`");
        assert_eq!(fails(&[("state", "absent")]).message, "missing argument `regexp`");
        assert!(fails(&[("line", "a"), ("regexp", "a(?=b)")]).message.starts_with("`regexp` is no regular expression"));
        assert!(fails(&[("line", "a"), ("insertafter", "[")]).message.starts_with("`insertafter` is no regular"));
        assert_eq!(fails(&[("line", "a"), ("backrefs", "yes")]).message, "`backrefs` needs `regexp`");
        let error = fails(&[("line", "a"), ("insertafer", "b")]);
        assert_eq!(error.help.as_deref(), Some("did you mean `insertafter`?"));
    }
}
