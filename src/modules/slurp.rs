//! `slurp`: the content of a file of the node, for a later task. Changes nothing.
//!
//! As in Ansible, `content` is base64 whatever the file holds.

use super::{Applied, Diff, Failure, Module, Needs};
use crate::system::{SystemError, View, Writer};
use crate::value::{Map, Value};
use base64::Engine;
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::path::PathBuf;

/// A file to be read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Slurp {
    pub src: PathBuf,
}

/// A result crosses the wire in one frame.
const LONGEST: u64 = 8 << 20;

#[cfg(feature = "controller")]
impl Slurp {
    pub fn from_args(mut args: super::args::Args<'_>) -> Result<Self, super::args::ArgError> {
        let src = args.required(&["src", "path"])?;
        args.finish()?;
        Ok(Self { src: src.into() })
    }
}

impl Module for Slurp {
    type State = Map;
    type Change = Infallible;

    fn query(&self, view: View<'_>) -> Result<Map, Failure> {
        let path = self.src.display();
        let fail = |what: &str| Err(Failure::new(format!("{path} {what}")));
        match view.fs().stat(&self.src)? {
            None => return fail("does not exist"),
            Some(meta) if meta.is_dir() => return fail("is a directory, expected a file"),
            Some(meta) if meta.size.is_some_and(|size| size > LONGEST) => return fail("is too long to be read (8 MiB)"),
            Some(_) => {}
        }
        let content = match view.fs().read(&self.src) {
            Err(SystemError::Unknown) => Value::later(),
            bytes => base64::engine::general_purpose::STANDARD.encode(bytes?).into(),
        };
        let result = [("content", content), ("encoding", "base64".into()), ("source", path.to_string().into())];
        Ok(result.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
    }

    fn diff(&self, _: &Map) -> Option<Infallible> {
        None
    }

    fn describe(&self, _: &Map, change: &Infallible) -> Vec<Diff> {
        match *change {}
    }

    fn apply(
        &self,
        _: Map,
        change: Infallible,
        _writer: &mut Writer<'_>,
        _needs: &mut dyn Needs,
    ) -> Result<Applied, Failure> {
        match change {}
    }

    fn result(&self, state: &Map) -> Map {
        state.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modules::testing::{check, check_fails, text_args};
    use crate::system::{Content, Mode, System};

    #[test]
    fn content_is_base64() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("file");
        let slurp = Slurp::from_args(text_args([("src", path.display().to_string())])).unwrap();
        assert!(check_fails(&slurp, root.path()).ends_with("file does not exist"));
        std::fs::write(&path, b"a\xff\n").unwrap();
        let outcome = check(&slurp, root.path());
        assert!(!outcome.changed);
        assert_eq!(outcome.result["content"], Value::from("Yf8K"));
        assert_eq!(outcome.result["source"], Value::from(path.display().to_string()));

        let mut plan = System::new(Mode::Plan);
        plan.writer().fs().write(&path, Content::later(), None, Default::default()).unwrap();
        assert_eq!(slurp.query(plan.view()).unwrap()["content"], Value::later());

        let directory = Slurp { src: root.path().to_owned() };
        assert!(check_fails(&directory, root.path()).ends_with("is a directory, expected a file"));
    }
}
