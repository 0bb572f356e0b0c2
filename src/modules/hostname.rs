//! `hostname`: the name of the node, now and after the next boot.
//!
//! Argument as in Ansible's `hostname`. Sets the kernel's name and /etc/hostname (hostname(5)); /etc/hosts is another task's.

use super::{Applied, Diff, Failure, Module, Needs};
use crate::system::{Content, Owner, View, Writer};
use crate::value::Map;
use serde::{Deserialize, Serialize};
use std::path::Path;

const FILE: &str = "/etc/hostname";

/// The desired name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hostname {
    pub name: String,
}

#[derive(Debug)]
pub struct Found {
    live: String,
    in_file: Option<String>,
}

#[derive(Debug)]
pub struct Change {
    live: bool,
    file: bool,
}

#[cfg(feature = "controller")]
impl Hostname {
    pub fn from_args(mut args: super::args::Args<'_>) -> Result<Self, super::args::ArgError> {
        let name = args.str("name")?;
        args.finish()?;
        // HOST_NAME_MAX of Linux; letters as in hostname(7)
        let is_label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if name.len() > 64 || !name.split('.').all(is_label) {
            let mut error = super::args::ArgError::new("name", format!("`{name}` cannot be a host name"));
            error.help = Some("up to 64 letters, digits and hyphens, in labels that dots separate".to_owned());
            return Err(error);
        }
        Ok(Self { name })
    }
}

impl Module for Hostname {
    type State = Found;
    type Change = Change;

    fn query(&self, view: View<'_>) -> Result<Found, Failure> {
        let text = view.fs().read_opt(Path::new(FILE))?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let name = |text: String| {
            let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
            lines.next().map(str::to_owned)
        };
        Ok(Found { live: view.kernel().hostname(), in_file: text.and_then(name) })
    }

    fn diff(&self, found: &Found) -> Option<Change> {
        let change =
            Change { live: found.live != self.name, file: found.in_file.as_deref() != Some(self.name.as_str()) };
        (change.live || change.file).then_some(change)
    }

    fn describe(&self, found: &Found, change: &Change) -> Vec<Diff> {
        let after = Some(self.name.clone());
        let live = change.live.then(|| ("live".to_owned(), Some(found.live.clone()), after.clone()));
        let file = change.file.then(|| (FILE.to_owned(), found.in_file.clone(), after.clone()));
        vec![Diff::Fields { subject: "host name".to_owned(), fields: file.into_iter().chain(live).collect() }]
    }

    fn apply(
        &self,
        found: Found,
        change: Change,
        writer: &mut Writer<'_>,
        _: &mut dyn Needs,
    ) -> Result<Applied, Failure> {
        if change.file {
            let line = format!("{}\n", self.name);
            writer.fs().write(Path::new(FILE), Content::Bytes(line.into_bytes()), Some(0o644), Owner::default())?;
        }
        if change.live {
            writer.kernel().set_hostname(&self.name)?;
        }
        Ok(Applied { result: self.result(&found), ..Applied::default() })
    }

    fn result(&self, _: &Found) -> Map {
        [("name".to_owned(), self.name.as_str().into())].into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modules::converge;
    use crate::modules::testing::{TestNeeds, args};
    use crate::system::{Mode, System};

    #[test]
    fn plans_both_the_file_and_the_kernel() {
        let task = Hostname { name: "kprov-test-name".to_owned() };
        let mut system = System::new(Mode::Plan);
        let before = system.view().kernel().hostname();
        let outcome = converge(&task, &mut system, &mut TestNeeds::default()).unwrap();
        let [Diff::Fields { fields, .. }] = outcome.diff.as_slice() else { panic!("{:?}", outcome.diff) };
        assert_eq!(fields[1], ("live".to_owned(), Some(before.clone()), Some(task.name.clone())));
        assert!(!converge(&task, &mut system, &mut TestNeeds::default()).unwrap().changed);
        assert_eq!(System::new(Mode::Apply).view().kernel().hostname(), before);
    }

    #[test]
    fn names() {
        let parse = |name: &str| Hostname::from_args(args([("name", name.into())]));
        assert!(parse("node-1.example.org").is_ok());
        for bad in ["", "-a", "a_b", "a..b", "a b", &"a".repeat(65)] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
