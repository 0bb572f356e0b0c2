//! `blockinfile`: lines between two marker lines in a text file.
//!
//! Arguments and defaults are those of Ansible's `blockinfile`, the markers too: a block that Ansible wrote is found.

use super::edit::{self, Edit, Edited, Place, bare, end_line, lines};
use super::replace::Change;
use super::{Applied, Diff, Failure, Module, Needs};
use crate::system::{View, Writer};
use crate::value::Map;
use regex_lite::Regex;
use serde::{Deserialize, Serialize};

/// A block to be there, or not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Blockinfile {
    pub edit: Edit,
    /// Empty: there has to be no block.
    pub block: String,
    /// The lines around it.
    pub begin: String,
    pub end: String,
    pub place: Place,
    /// An empty line after (before) the block.
    pub append_newline: bool,
    pub prepend_newline: bool,
}

#[cfg(feature = "controller")]
impl Blockinfile {
    pub fn from_args(mut args: super::args::Args<'_>) -> Result<Self, super::args::ArgError> {
        let marker = args.opt_str("marker")?.unwrap_or_else(|| "# {mark} ANSIBLE MANAGED BLOCK".to_owned());
        let mut around = |name, default: &str| -> Result<String, super::args::ArgError> {
            let mark = args.opt_str(name)?;
            Ok(marker.replace("{mark}", mark.as_deref().unwrap_or(default)))
        };
        let (begin, end) = (around("marker_begin", "BEGIN")?, around("marker_end", "END")?);
        if begin == end {
            let message = format!("`marker` is `{marker}`, without a `{{mark}}` that tells the beginning from the end");
            return Err(super::args::ArgError::new("marker", message));
        }
        let block = args.first_of(&["block", "content"])?.unwrap_or_default();
        let absent = args.choice("state", &["absent", "present"])? == Some("absent");
        let module = Self {
            edit: Edit::from_args(&mut args)?,
            block: if absent { String::new() } else { block },
            begin,
            end,
            place: Place::from_args(&mut args)?,
            append_newline: args.bool("append_newline", false)?,
            prepend_newline: args.bool("prepend_newline", false)?,
        };
        args.finish()?;
        Ok(module)
    }
}

#[derive(Debug)]
pub struct State {
    file: edit::State,
    place: Option<Regex>,
}

impl Blockinfile {
    fn edited(&self, state: &State, text: &str) -> Edited {
        let mut lines = lines(text);
        let find = |lines: &[String], marker: &str| lines.iter().rposition(|line| bare(line) == marker);
        let at = match (find(&lines, &self.begin), find(&lines, &self.end)) {
            (Some(begin), Some(end)) => {
                let (first, last) = (begin.min(end), begin.max(end));
                lines.drain(first..=last);
                first
            }
            _ => self.place(state, &lines),
        };
        if !self.block.is_empty() {
            // A line before the block that has no newline would run into it.
            end_line(&mut lines[..at]);
            let mut block = format!("{}\n{}\n{}\n", self.begin, self.block.trim_end_matches('\n'), self.end);
            if self.block.trim_end_matches('\n').is_empty() {
                block = format!("{}\n{}{}\n", self.begin, self.block, self.end);
            }
            if self.prepend_newline && at > 0 && !bare(&lines[at - 1]).is_empty() {
                block.insert(0, '\n');
            }
            if self.append_newline && lines.get(at).is_some_and(|next| !bare(next).is_empty()) {
                block.push('\n');
            }
            lines.insert(at, block);
        }
        let new = lines.concat();
        let message = match (new == text, state.file.absent(), self.block.is_empty()) {
            (true, false, _) => return Edited::default(),
            (true, true, true) => return Edited::default(),
            (_, true, _) => "File created",
            (_, _, true) => "Block removed",
            _ => "Block inserted",
        };
        Edited { text: Some(new), message: message.to_owned() }
    }

    fn place(&self, state: &State, lines: &[String]) -> usize {
        let last = |regex: &Regex| lines.iter().rposition(|line| regex.is_match(bare(line)));
        match (&self.place, &state.place) {
            (Place::Start, _) => 0,
            (Place::After(_), Some(regex)) => last(regex).map_or(lines.len(), |at| at + 1),
            (Place::Before(_), Some(regex)) => last(regex).unwrap_or(lines.len()),
            _ => lines.len(),
        }
    }
}

impl Module for Blockinfile {
    type State = State;
    type Change = Change;

    fn query(&self, view: View<'_>) -> Result<State, Failure> {
        let file = self.edit.query(view)?;
        if file.absent() {
            self.edit.missing()?;
        }
        Ok(State { file, place: self.place.regex()? })
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
    use crate::modules::edit::check_edit;
    use crate::modules::testing::{text_args, check, check_fails};
    use crate::value::Value;

    type Pairs<'a> = &'a [(&'a str, &'a str)];

    fn module(path: &std::path::Path, pairs: Pairs<'_>) -> Blockinfile {
        let path = path.display().to_string();
        Blockinfile::from_args(text_args(pairs.iter().copied().chain([("path", path.as_str())]))).unwrap()
    }

    #[test]
    fn blocks_are_found_and_placed_as_ansible_does() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let (begin, end) = ("# BEGIN ANSIBLE MANAGED BLOCK\n", "# END ANSIBLE MANAGED BLOCK\n");
        let with = |before: &str, block: &str, after: &str| format!("{before}{begin}{block}{end}{after}");
        #[rustfmt::skip]
        let cases: &[(Pairs<'_>, String, String)] = &[
            (&[("block", "x\ny")], "a\n".into(), with("a\n", "x\ny\n", "")),
            (&[("block", "x\n")], "a".into(), with("a\n", "x\n", "")),
            (&[("block", "x")], String::new(), with("", "x\n", "")),
            (&[("block", "x")], with("a\n", "x\n", "b\n"), with("a\n", "x\n", "b\n")),
            (&[("block", "x"), ("insertafter", "^a")], with("a\n", "old\nolder\n", "b\n"), with("a\n", "x\n", "b\n")),
            (&[("block", "x"), ("insertafter", "^a")], "a\nb\n".into(), with("a\n", "x\n", "b\n")),
            (&[("block", "x"), ("insertafter", "^a")], "a\na".into(), with("a\na\n", "x\n", "")),
            (&[("block", "x"), ("insertbefore", "^b")], "a\nb\n".into(), with("a\n", "x\n", "b\n")),
            (&[("block", "x"), ("insertbefore", "BOF")], "a\n".into(), with("", "x\n", "a\n")),
            (&[("block", "x"), ("insertbefore", "^z")], "a\n".into(), with("a\n", "x\n", "")),
            (&[("block", "")], with("a\n", "x\n", "b\n"), "a\nb\n".into()),
            (&[("block", "x"), ("state", "absent")], with("a\n", "x\n", "b\n"), "a\nb\n".into()),
            (&[("state", "absent")], "a".into(), "a".into()),
            (&[("block", "x"), ("prepend_newline", "yes"), ("append_newline", "yes"), ("insertafter", "a")],
                "a\nb\n".into(), with("a\n\n", "x\n", "\nb\n")),
            // Half a block, as somebody left it who edited by hand, is not a block.
            (&[("block", "x")], format!("{begin}a\n"), with(&format!("{begin}a\n"), "x\n", "")),
            (&[("block", "x"), ("marker", "<!-- {mark} k -->"), ("marker_begin", "from"), ("marker_end", "to")],
                "a\n<!-- from k -->\n<!-- to k -->\n".into(), "a\n<!-- from k -->\nx\n<!-- to k -->\n".into()),
        ];
        for (pairs, before, after) in cases {
            check_edit(&module(&path, pairs), &path, before, after);
        }
    }

    #[test]
    fn a_missing_file_is_made_only_where_that_is_asked_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let message = check_fails(&module(&path, &[("block", "a")]), directory.path());
        assert!(message.ends_with("does not exist; `create: true` makes it"), "{message}");
        let outcome = check(&module(&path, &[("block", "a"), ("create", "yes"), ("mode", "0600")]), directory.path());
        assert_eq!(outcome.result["msg"], Value::from("File created"));
    }

    #[test]
    fn markers_have_to_differ() {
        let error = Blockinfile::from_args(text_args([("path", "/x"), ("marker", "# here")])).unwrap_err();
        assert_eq!(error.argument.as_deref(), Some("marker"));
    }
}
