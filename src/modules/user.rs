//! `user`: an account.
//!
//! Arguments as in Ansible's `user`, without passwords and keys. What is not said stays as it is. Differs from Ansible: the
//! home directory is made together with the user only.

use super::{Applied, Diff, Failure, Module, Needs};
use crate::system::{Accounts, Owner, SystemError, User as Account, UserSpec, View, Writer};
use crate::value::{Map, Value};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The desired state of an account.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct User {
    pub name: String,
    pub absent: bool,
    pub uid: Option<u32>,
    pub group: Option<String>,
    pub groups: Option<Vec<String>>,
    /// Whether `groups` are added to those that the user has.
    pub append: bool,
    pub comment: Option<String>,
    pub home: Option<PathBuf>,
    pub shell: Option<String>,
    pub system: bool,
    pub create_home: bool,
    pub move_home: bool,
    /// For `absent`: removes the home directory too.
    pub remove: bool,
    /// For `absent`: also while the user is logged in.
    pub force: bool,
}

#[derive(Debug)]
pub struct Found {
    account: Option<Account>,
    /// Name of the primary group.
    group: Option<String>,
    groups: Vec<String>,
    /// Number of the desired primary group; `None` where it is only planned.
    gid: Option<u32>,
}

#[derive(Debug)]
pub enum Change {
    Remove,
    Set(UserSpec),
}

#[cfg(feature = "controller")]
impl User {
    pub fn from_args(mut args: super::args::Args<'_>) -> Result<Self, super::args::ArgError> {
        use super::args::ArgError;
        let user = Self {
            name: args.required(&["name", "user"])?,
            absent: args.choice("state", &["present", "absent"])? == Some("absent"),
            uid: super::group::id(&mut args, "uid")?,
            group: args.opt_str("group")?,
            groups: args.list("groups")?,
            append: args.bool("append", false)?,
            comment: args.opt_str("comment")?,
            home: args.opt_str("home")?.map(Into::into),
            shell: args.opt_str("shell")?,
            system: args.bool("system", false)?,
            create_home: {
                let old_name = args.opt_bool("createhome")?;
                args.opt_bool("create_home")?.or(old_name).unwrap_or(true)
            },
            move_home: args.bool("move_home", false)?,
            remove: args.bool("remove", false)?,
            force: args.bool("force", false)?,
        };
        args.finish()?;
        super::group::check_name("name", &user.name)?;
        if user.comment.iter().chain(&user.shell).any(|text| text.contains([':', '\n'])) {
            return Err(ArgError::new("comment", "no colon or newline can be in an entry of /etc/passwd"));
        }
        Ok(user)
    }
}

impl Module for User {
    type State = Found;
    type Change = Change;

    fn query(&self, view: View<'_>) -> Result<Found, Failure> {
        let accounts = view.accounts();
        let account = accounts.user(&self.name)?;
        let group = match account.as_ref().and_then(|account| account.gid) {
            Some(gid) => accounts.group_name(gid)?.or_else(|| Some(gid.to_string())),
            None => None,
        };
        let gid = match &self.group {
            Some(group) if !self.absent => known(accounts, group)?,
            _ => None,
        };
        for group in self.groups.iter().flatten() {
            known(accounts, group)?;
        }
        Ok(Found { account, group, groups: accounts.groups_of(&self.name)?, gid })
    }

    fn diff(&self, found: &Found) -> Option<Change> {
        let Some(account) = &found.account else {
            let spec = UserSpec {
                uid: self.uid,
                group: self.group.clone(),
                groups: self.groups.clone(),
                comment: self.comment.clone(),
                home: self.home.clone(),
                shell: self.shell.clone(),
                system: self.system,
                create_home: self.create_home,
                move_home: false,
            };
            return (!self.absent).then_some(Change::Set(spec));
        };
        if self.absent {
            return Some(Change::Remove);
        }
        let spec = UserSpec {
            uid: self.uid.filter(|uid| account.uid != Some(*uid)),
            group: self.group.clone().filter(|_| found.gid.is_none() || account.gid != found.gid),
            groups: self.groups.as_ref().and_then(|groups| self.missing_groups(groups, &found.groups)),
            comment: self.comment.clone().filter(|comment| account.comment != *comment),
            home: self.home.clone().filter(|home| account.home != *home),
            shell: self.shell.clone().filter(|shell| account.shell != *shell),
            move_home: self.move_home,
            ..UserSpec::default()
        };
        let nothing = UserSpec { move_home: self.move_home, ..UserSpec::default() };
        (spec != nothing).then_some(Change::Set(spec))
    }

    fn describe(&self, found: &Found, change: &Change) -> Vec<Diff> {
        let subject = format!("user {}", self.name);
        let state = |before: Option<&str>, after: Option<&str>| {
            ("state".to_owned(), before.map(str::to_owned), after.map(str::to_owned))
        };
        let spec = match change {
            Change::Remove => return vec![Diff::Fields { subject, fields: vec![state(Some("present"), Some("absent"))] }],
            Change::Set(spec) => spec,
        };
        let mut fields = Vec::new();
        if found.account.is_none() {
            fields.push(state(Some("absent"), Some("present")));
        }
        let account = found.account.as_ref();
        let path = |path: &PathBuf| path.display().to_string();
        let groups = account.map(|_| found.groups.join(","));
        let rows = [
            ("uid", account.and_then(|a| a.uid).map(|n| n.to_string()), spec.uid.map(|n| n.to_string())),
            ("group", found.group.clone(), spec.group.clone()),
            ("groups", groups, spec.groups.as_ref().map(|groups| groups.join(","))),
            ("comment", account.map(|a| a.comment.clone()), spec.comment.clone()),
            ("home", account.map(|a| path(&a.home)), spec.home.as_ref().map(path)),
            ("shell", account.map(|a| a.shell.clone()), spec.shell.clone()),
        ];
        fields.extend(rows.into_iter().filter(|(.., after)| after.is_some()).map(|(name, before, after)| {
            (name.to_owned(), before, after)
        }));
        vec![Diff::Fields { subject, fields }]
    }

    fn apply(
        &self,
        found: Found,
        change: Change,
        writer: &mut Writer<'_>,
        _: &mut dyn Needs,
    ) -> Result<Applied, Failure> {
        match &change {
            Change::Remove => {
                writer.accounts().remove_user(&self.name, self.remove, self.force)?;
                return Ok(Applied { result: self.result(&Found { account: None, ..found }), ..Applied::default() });
            }
            Change::Set(spec) => writer.accounts().set_user(&self.name, spec)?,
        }
        let after = self.query(writer.view())?;
        if writer.planning() && found.account.is_none() && self.create_home {
            // useradd makes it; later tasks of the plan have to find it.
            let home = after.account.as_ref().map(|account| account.home.clone());
            if let Some(home) = home {
                writer.fs().mkdir_all(&home, Some(0o755), Owner::default())?;
            }
        }
        Ok(Applied { result: self.result(&after), ..Applied::default() })
    }

    fn result(&self, found: &Found) -> Map {
        let mut result = Map::new();
        result.insert("name".into(), self.name.as_str().into());
        result.insert("state".into(), if found.account.is_some() { "present" } else { "absent" }.into());
        if let Some(account) = &found.account {
            let number = |id: Option<u32>| id.map_or_else(Value::later, Value::from);
            result.insert("uid".into(), number(account.uid));
            result.insert("group".into(), number(account.gid));
            result.insert("groups".into(), found.groups.join(",").into());
            result.insert("comment".into(), account.comment.as_str().into());
            result.insert("home".into(), account.home.display().to_string().into());
            result.insert("shell".into(), account.shell.as_str().into());
        }
        result
    }
}

impl User {
    /// All supplementary groups that the user shall have, if that is not what there is.
    fn missing_groups(&self, wanted: &[String], now: &[String]) -> Option<Vec<String>> {
        let mut groups = if self.append { now.to_vec() } else { Vec::new() };
        groups.extend(wanted.iter().cloned());
        groups.sort_unstable();
        groups.dedup();
        (groups != now).then_some(groups)
    }
}

/// The number of a group; `None` where it is only planned.
fn known(accounts: &Accounts, group: &str) -> Result<Option<u32>, Failure> {
    match accounts.gid(group) {
        Ok(gid) => Ok(Some(gid)),
        Err(SystemError::Unknown) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modules::testing::{TestNeeds, args};
    use crate::modules::{Outcome, converge};
    use crate::system::{Mode, System};

    fn plan(task: &User, system: &mut System) -> Result<Outcome, Failure> {
        converge(task, system, &mut TestNeeds::default())
    }

    fn user(name: &str) -> User {
        User { name: name.to_owned(), ..User::default() }
    }

    #[test]
    fn a_planned_user_is_there_for_later_tasks() {
        let mut system = System::new(Mode::Plan);
        let task = User { system: true, create_home: true, shell: Some("/usr/sbin/nologin".into()), ..user("kprov-u") };
        let outcome = plan(&task, &mut system).unwrap();
        let fields = vec![
            ("state".to_owned(), Some("absent".to_owned()), Some("present".to_owned())),
            ("shell".to_owned(), None, Some("/usr/sbin/nologin".to_owned())),
        ];
        assert_eq!(outcome.diff, [Diff::Fields { subject: "user kprov-u".to_owned(), fields }]);
        assert_eq!(outcome.result["uid"], Value::later());
        assert!(!plan(&task, &mut system).unwrap().changed);
        assert!(system.view().fs().exists("/home/kprov-u".as_ref()).unwrap());
        // Its own group came with it.
        let second = User { group: Some("kprov-u".into()), uid: Some(4711), ..user("kprov-v") };
        assert!(plan(&second, &mut system).unwrap().changed);
        assert!(plan(&User { absent: true, ..user("kprov-u") }, &mut system).unwrap().changed);
        assert!(!plan(&User { absent: true, ..user("kprov-u") }, &mut system).unwrap().changed);
    }

    #[test]
    fn only_what_differs_is_changed() {
        let mut system = System::new(Mode::Plan);
        let same = User { uid: Some(0), group: Some("root".into()), home: Some("/root".into()), ..user("root") };
        assert!(!plan(&same, &mut system).unwrap().changed);
        let added = User { groups: Some(vec!["daemon".into()]), append: true, ..same.clone() };
        let outcome = plan(&added, &mut system).unwrap();
        let Diff::Fields { fields, .. } = &outcome.diff[0] else { panic!() };
        assert_eq!(fields.len(), 1);
        assert!(!plan(&added, &mut system).unwrap().changed);
        let exact = User { groups: Some(vec!["bin".into()]), ..same };
        assert!(plan(&exact, &mut system).unwrap().changed);
        assert_eq!(system.view().accounts().groups_of("root").unwrap(), ["bin"]);
    }

    #[test]
    fn a_missing_group_is_named() {
        let task = User { groups: Some(vec!["kprov-none".into()]), ..user("kprov-u") };
        let failure = plan(&task, &mut System::new(Mode::Plan)).unwrap_err();
        assert_eq!(failure.message, "there is no group `kprov-none` on this host");
    }

    #[test]
    fn arguments() {
        let parsed = User::from_args(args([("name", "kube".into()), ("groups", "a, b".into()), ("createhome", false.into())]));
        let groups = Some(vec!["a".to_owned(), "b".to_owned()]);
        assert_eq!(parsed.unwrap(), User { groups, ..user("kube") });
        assert!(User::from_args(args([("name", "a:b".into())])).is_err());
        assert!(User::from_args(args([("name", "kube".into()), ("uid", (-1).into())])).is_err());
        assert!(User::from_args(args([("name", "kube".into()), ("password", "x".into())])).is_err());
    }
}
