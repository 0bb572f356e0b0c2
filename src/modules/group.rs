//! `group`: a group of users.
//!
//! Arguments as in Ansible's `group`.

use super::{Applied, Diff, Failure, Module, Needs};
use crate::system::{Group as Entry, GroupSpec, View, Writer};
use crate::value::{Map, Value};
use serde::{Deserialize, Serialize};

/// The desired state of a group.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Group {
    pub name: String,
    pub absent: bool,
    pub gid: Option<u32>,
    pub system: bool,
}

#[derive(Debug)]
pub enum Change {
    Remove,
    Set(GroupSpec),
}

#[cfg(feature = "controller")]
impl Group {
    pub fn from_args(mut args: super::args::Args<'_>) -> Result<Self, super::args::ArgError> {
        let name = args.str("name")?;
        let absent = args.choice("state", &["present", "absent"])? == Some("absent");
        let gid = id(&mut args, "gid")?;
        let system = args.bool("system", false)?;
        args.finish()?;
        check_name("name", &name)?;
        Ok(Self { name, absent, gid, system })
    }
}

/// The number of a user or group.
#[cfg(feature = "controller")]
pub(super) fn id(args: &mut super::args::Args<'_>, name: &'static str) -> Result<Option<u32>, super::args::ArgError> {
    let bad = |n: i64| super::args::ArgError::new(name, format!("`{name}` is {n}, expected a number from 0"));
    args.opt_int(name)?.map(|n| u32::try_from(n).map_err(|_| bad(n))).transpose()
}

/// Refuses names that would break the files; what else is good, useradd(8) knows.
#[cfg(feature = "controller")]
pub(super) fn check_name(argument: &str, name: &str) -> Result<(), super::args::ArgError> {
    let bad = |c: char| c == ':' || c == ',' || c == '/' || c.is_whitespace() || c.is_control();
    match name.is_empty() || name.starts_with('-') || name.contains(bad) {
        true => Err(super::args::ArgError::new(argument, format!("`{name}` is no name for a user or group"))),
        false => Ok(()),
    }
}

impl Module for Group {
    type State = Option<Entry>;
    type Change = Change;

    fn query(&self, view: View<'_>) -> Result<Option<Entry>, Failure> {
        Ok(view.accounts().group(&self.name)?)
    }

    fn diff(&self, found: &Option<Entry>) -> Option<Change> {
        match found {
            Some(_) if self.absent => Some(Change::Remove),
            None if self.absent => None,
            None => Some(Change::Set(GroupSpec { gid: self.gid, system: self.system })),
            Some(group) => {
                let gid = self.gid.filter(|gid| group.gid != Some(*gid))?;
                Some(Change::Set(GroupSpec { gid: Some(gid), system: false }))
            }
        }
    }

    fn describe(&self, found: &Option<Entry>, change: &Change) -> Vec<Diff> {
        let text = |present: bool| Some(if present { "present" } else { "absent" }.to_owned());
        let number = |gid: Option<u32>| gid.map(|gid| gid.to_string());
        let state = ("state".to_owned(), text(found.is_some()), text(matches!(change, Change::Set(_))));
        let gid = match change {
            Change::Set(GroupSpec { gid: Some(gid), .. }) => {
                Some(("gid".to_owned(), number(found.as_ref().and_then(|group| group.gid)), number(Some(*gid))))
            }
            _ => None,
        };
        let fields = [Some(state).filter(|(_, before, after)| before != after), gid].into_iter().flatten().collect();
        vec![Diff::Fields { subject: format!("group {}", self.name), fields }]
    }

    fn apply(
        &self,
        _: Option<Entry>,
        change: Change,
        writer: &mut Writer<'_>,
        _: &mut dyn Needs,
    ) -> Result<Applied, Failure> {
        match change {
            Change::Remove => writer.accounts().remove_group(&self.name)?,
            Change::Set(spec) => writer.accounts().set_group(&self.name, &spec)?,
        }
        Ok(Applied { result: self.result(&self.query(writer.view())?), ..Applied::default() })
    }

    fn result(&self, found: &Option<Entry>) -> Map {
        let mut result = Map::new();
        result.insert("name".into(), self.name.as_str().into());
        result.insert("state".into(), if found.is_some() { "present" } else { "absent" }.into());
        if let Some(group) = found {
            let gid = group.gid.map_or_else(Value::later, Value::from);
            result.insert("gid".into(), gid);
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modules::converge;
    use crate::modules::testing::{TestNeeds, args};
    use crate::system::{Mode, System};

    #[test]
    fn plans() {
        let mut system = System::new(Mode::Plan);
        let mut run = |task: &Group| converge(task, &mut system, &mut TestNeeds::default()).unwrap();
        let task = Group { name: "kprov-g".to_owned(), system: true, ..Group::default() };
        let outcome = run(&task);
        assert!(outcome.changed && outcome.result["gid"] == Value::later());
        assert!(!run(&task).changed);
        let numbered = Group { gid: Some(4711), ..task.clone() };
        let fields = vec![("gid".to_owned(), None, Some("4711".to_owned()))];
        assert_eq!(run(&numbered).diff, [Diff::Fields { subject: "group kprov-g".to_owned(), fields }]);
        assert_eq!(run(&numbered).result["gid"], Value::Int(4711));
        let gone = Group { absent: true, ..task };
        assert!(run(&gone).changed && !run(&gone).changed);
        let root = Group { name: "root".to_owned(), gid: Some(0), ..Group::default() };
        assert!(!run(&root).changed);
    }

    #[test]
    fn arguments() {
        let parsed = Group::from_args(args([("name", "kube-cert".into()), ("system", true.into())])).unwrap();
        assert_eq!(parsed, Group { name: "kube-cert".to_owned(), system: true, ..Group::default() });
        for bad in ["", "-g", "a b", "a:b"] {
            assert!(Group::from_args(args([("name", bad.into())])).is_err());
        }
    }
}
