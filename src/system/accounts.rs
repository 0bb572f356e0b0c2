//! Users and groups; with an overlay when planning.
//!
//! Local accounts are read from /etc/passwd and /etc/group, which costs nothing; those of a directory service are asked
//! for with getent(1). The C library is not asked: a static one cannot load the name services. Changes are made by
//! useradd(8), groupadd(8) and their kin, which see to locks, shadow files and subordinate ids. No passwords.

use super::process::{PROBE_TIMEOUT, execute};
use super::{Command, Mode, Result, SystemError};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// An entry of passwd(5).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    pub name: String,
    /// `None`: planned, and known only once the user has been made.
    pub uid: Option<u32>,
    /// The primary group; `None` as for `uid`.
    pub gid: Option<u32>,
    pub comment: String,
    pub home: PathBuf,
    pub shell: String,
}

/// An entry of group(5).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    pub name: String,
    /// `None`: planned, and known only once the group has been made.
    pub gid: Option<u32>,
    /// Users that have it as a supplementary group.
    pub members: Vec<String>,
}

/// What a user shall be like; `None` leaves it as it is, or to useradd's defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserSpec {
    pub uid: Option<u32>,
    /// Primary group, name or number.
    pub group: Option<String>,
    /// All supplementary groups.
    pub groups: Option<Vec<String>>,
    pub comment: Option<String>,
    pub home: Option<PathBuf>,
    pub shell: Option<String>,
    /// For a new user: takes a number of the range for services.
    pub system: bool,
    /// For a new user: makes the home directory.
    pub create_home: bool,
    /// For an existing user: moves what is in the old home directory.
    pub move_home: bool,
}

/// What a group shall be like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupSpec {
    pub gid: Option<u32>,
    /// For a new group: takes a number of the range for services.
    pub system: bool,
}

/// The node's users and groups.
pub struct Accounts {
    /// `None` where changes are real.
    overlay: Option<Overlay>,
}

/// Planned entries; `None` is removed.
#[derive(Default)]
struct Overlay {
    users: BTreeMap<String, Option<User>>,
    groups: BTreeMap<String, Option<Group>>,
}

impl Accounts {
    pub(super) fn new(mode: Mode) -> Self {
        Self { overlay: (mode == Mode::Plan).then(Overlay::default) }
    }

    pub fn user(&self, name: &str) -> Result<Option<User>> {
        if let Some(planned) = self.overlay.as_ref().and_then(|overlay| overlay.users.get(name)) {
            return Ok(planned.clone());
        }
        look_up("passwd", name, parse_user, |user| user.name == name)
    }

    pub fn group(&self, name: &str) -> Result<Option<Group>> {
        if let Some(planned) = self.overlay.as_ref().and_then(|overlay| overlay.groups.get(name)) {
            return Ok(planned.clone());
        }
        look_up("group", name, parse_group, |group| group.name == name)
    }

    /// The number of a user who is given by name or number. [`SystemError::Unknown`] for one who is only planned.
    pub fn uid(&self, user: &str) -> Result<u32> {
        if let Ok(uid) = user.parse() {
            return Ok(uid);
        }
        let found =
            self.user(user)?.ok_or_else(|| SystemError::Other(format!("there is no user `{user}` on this host")))?;
        found.uid.ok_or(SystemError::Unknown)
    }

    /// The number of a group that is given by name or number. [`SystemError::Unknown`] for one that is only planned.
    pub fn gid(&self, group: &str) -> Result<u32> {
        if let Ok(gid) = group.parse() {
            return Ok(gid);
        }
        let found = self
            .group(group)?
            .ok_or_else(|| SystemError::Other(format!("there is no group `{group}` on this host")))?;
        found.gid.ok_or(SystemError::Unknown)
    }

    /// The user who has this number.
    pub fn user_name(&self, uid: u32) -> Result<Option<String>> {
        let planned = self.overlay.iter().flat_map(|overlay| overlay.users.values().flatten());
        if let Some(user) = planned.into_iter().find(|user| user.uid == Some(uid)) {
            return Ok(Some(user.name.clone()));
        }
        let user = look_up("passwd", &uid.to_string(), parse_user, |user| user.uid == Some(uid))?;
        Ok(user.map(|user| user.name))
    }

    /// The group that has this number.
    pub fn group_name(&self, gid: u32) -> Result<Option<String>> {
        let planned = self.overlay.iter().flat_map(|overlay| overlay.groups.values().flatten());
        if let Some(group) = planned.into_iter().find(|group| group.gid == Some(gid)) {
            return Ok(Some(group.name.clone()));
        }
        let group = look_up("group", &gid.to_string(), parse_group, |group| group.gid == Some(gid))?;
        Ok(group.map(|group| group.name))
    }

    /// The supplementary groups of a user, sorted: local ones, and planned ones.
    pub fn groups_of(&self, user: &str) -> Result<Vec<String>> {
        let mut groups: BTreeMap<String, Group> =
            read("group")?.lines().filter_map(parse_group).map(|group| (group.name.clone(), group)).collect();
        for (name, planned) in self.overlay.iter().flat_map(|overlay| &overlay.groups) {
            match planned {
                Some(group) => groups.insert(name.clone(), group.clone()),
                None => groups.remove(name),
            };
        }
        let has = |group: &Group| group.members.iter().any(|member| member == user);
        Ok(groups.into_values().filter(has).map(|group| group.name).collect())
    }

    /// Makes a user, or changes what the specification says of one.
    pub fn set_user(&mut self, name: &str, spec: &UserSpec) -> Result<()> {
        let current = self.user(name)?;
        if self.overlay.is_some() {
            return self.plan_user(name, current, spec);
        }
        let mut argv: Vec<String> = Vec::new();
        let mut option = |flag: &str, value: Option<String>| {
            argv.extend(value.into_iter().flat_map(|value| [flag.to_owned(), value]));
        };
        option("--uid", spec.uid.map(|uid| uid.to_string()));
        option("--gid", spec.group.clone());
        option("--groups", spec.groups.as_ref().map(|groups| groups.join(",")));
        option("--comment", spec.comment.clone());
        option("--home-dir", spec.home.as_ref().filter(|_| current.is_none()).map(|home| home.display().to_string()));
        option("--home", spec.home.as_ref().filter(|_| current.is_some()).map(|home| home.display().to_string()));
        option("--shell", spec.shell.clone());
        let mut flag = |set: bool, flag: &str| argv.extend(set.then(|| flag.to_owned()));
        let program = if current.is_none() {
            flag(spec.system, "--system");
            flag(spec.create_home, "--create-home");
            flag(!spec.create_home, "--no-create-home");
            // useradd would make a group of the user's name, and fail where it exists.
            flag(spec.group.is_none() && self.group(name)?.is_some(), "--no-user-group");
            "useradd"
        } else {
            flag(spec.move_home && spec.home.is_some(), "--move-home");
            "usermod"
        };
        run([program.to_owned()].into_iter().chain(argv).chain(["--".to_owned(), name.to_owned()]))
    }

    fn plan_user(&mut self, name: &str, current: Option<User>, spec: &UserSpec) -> Result<()> {
        let gid = match &spec.group {
            Some(group) => Some(self.gid(group)),
            None if current.is_none() => self.group(name)?.map(|group| group.gid.ok_or(SystemError::Unknown)),
            None => None,
        };
        let gid = match gid {
            None => None,
            Some(Ok(gid)) => Some(gid),
            Some(Err(SystemError::Unknown)) => None,
            Some(Err(error)) => return Err(error),
        };
        let is_new = current.is_none();
        if is_new && spec.group.is_none() && self.group(name)?.is_none() {
            self.plan_group(Group { name: name.to_owned(), gid: None, members: Vec::new() });
        }
        let mut user = current.unwrap_or_else(|| User {
            name: name.to_owned(),
            home: PathBuf::from("/home").join(name),
            ..User::default()
        });
        user.uid = spec.uid.or(user.uid);
        if is_new || spec.group.is_some() {
            user.gid = gid;
        }
        user.comment = spec.comment.clone().unwrap_or(user.comment);
        user.home = spec.home.clone().unwrap_or(user.home);
        user.shell = spec.shell.clone().unwrap_or(user.shell);
        if let Some(groups) = &spec.groups {
            for group in groups {
                if self.group(group)?.is_none() {
                    return Err(SystemError::Other(format!("there is no group `{group}` on this host")));
                }
            }
            let touched: Vec<String> = self.groups_of(name)?.into_iter().chain(groups.iter().cloned()).collect();
            for group in touched {
                let Some(mut group) = self.group(&group)? else { continue };
                group.members.retain(|member| member != name);
                if groups.contains(&group.name) {
                    group.members.push(name.to_owned());
                }
                self.plan_group(group);
            }
        }
        if let Some(overlay) = &mut self.overlay {
            overlay.users.insert(name.to_owned(), Some(user));
        }
        Ok(())
    }

    fn plan_group(&mut self, group: Group) {
        if let Some(overlay) = &mut self.overlay {
            overlay.groups.insert(group.name.clone(), Some(group));
        }
    }

    /// Removes a user; with `home`, the home directory and mail spool too.
    pub fn remove_user(&mut self, name: &str, home: bool, force: bool) -> Result<()> {
        if let Some(overlay) = &mut self.overlay {
            overlay.users.insert(name.to_owned(), None);
            return Ok(());
        }
        let options =
            [(force, "--force"), (home, "--remove")].into_iter().filter(|(set, _)| *set).map(|(_, flag)| flag);
        run(["userdel"].into_iter().chain(options).chain(["--", name]))
    }

    /// Makes a group, or changes what the specification says of one.
    pub fn set_group(&mut self, name: &str, spec: &GroupSpec) -> Result<()> {
        let current = self.group(name)?;
        if self.overlay.is_some() {
            let mut group = current.unwrap_or_else(|| Group { name: name.to_owned(), ..Group::default() });
            group.gid = spec.gid.or(group.gid);
            self.plan_group(group);
            return Ok(());
        }
        let gid = spec.gid.map(|gid| ["--gid".to_owned(), gid.to_string()]);
        let system = (spec.system && current.is_none()).then(|| "--system".to_owned());
        let program = if current.is_none() { "groupadd" } else { "groupmod" };
        let options = gid.into_iter().flatten().chain(system);
        run([program.to_owned()].into_iter().chain(options).chain(["--".to_owned(), name.to_owned()]))
    }

    pub fn remove_group(&mut self, name: &str) -> Result<()> {
        if let Some(overlay) = &mut self.overlay {
            overlay.groups.insert(name.to_owned(), None);
            return Ok(());
        }
        run(["groupdel", "--", name])
    }
}

fn run<S: Into<String>>(argv: impl IntoIterator<Item = S>) -> Result<()> {
    execute(&Command::new(argv), None)?.checked().map(drop)
}

fn read(database: &str) -> Result<String> {
    let path = PathBuf::from("/etc").join(database);
    std::fs::read_to_string(&path).map_err(SystemError::file(path))
}

/// The entry in the local file, or the one that another name service has.
fn look_up<T>(
    database: &str,
    key: &str,
    parse: fn(&str) -> Option<T>,
    is_wanted: impl Fn(&T) -> bool,
) -> Result<Option<T>> {
    if let Some(found) = read(database)?.lines().filter_map(parse).find(&is_wanted) {
        return Ok(Some(found));
    }
    let output = execute(&Command::new(["getent", "--", database, key]).timeout(PROBE_TIMEOUT), None)?;
    match output.code {
        // getent(1): one or more supplied key could not be found
        2 => Ok(None),
        _ => Ok(output.checked()?.stdout.lines().filter_map(parse).find(is_wanted)),
    }
}

fn parse_user(line: &str) -> Option<User> {
    let [name, _, uid, gid, comment, home, shell] = line.split(':').collect::<Vec<_>>().try_into().ok()?;
    Some(User {
        name: name.to_owned(),
        uid: Some(uid.parse().ok()?),
        gid: Some(gid.parse().ok()?),
        comment: comment.to_owned(),
        home: home.into(),
        shell: shell.to_owned(),
    })
}

fn parse_group(line: &str) -> Option<Group> {
    let [name, _, gid, members] = line.split(':').collect::<Vec<_>>().try_into().ok()?;
    let members = members.split(',').filter(|member| !member.is_empty()).map(str::to_owned).collect();
    Some(Group { name: name.to_owned(), gid: Some(gid.parse().ok()?), members })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_the_accounts_of_this_machine() {
        let accounts = Accounts::new(Mode::Apply);
        let root = accounts.user("root").unwrap().unwrap();
        assert_eq!((root.uid, root.gid), (Some(0), Some(0)));
        assert_eq!(accounts.user_name(0).unwrap().as_deref(), Some("root"));
        assert_eq!(accounts.group_name(0).unwrap().as_deref(), Some("root"));
        assert_eq!((accounts.uid("root").unwrap(), accounts.uid("4711").unwrap()), (0, 4711));
        assert_eq!(accounts.user("kprov-no-such-user").unwrap(), None);
        assert_eq!(accounts.user_name(3_999_999_999).unwrap(), None);
        let error = accounts.gid("kprov-no-such-group").unwrap_err().to_string();
        assert_eq!(error, "there is no group `kprov-no-such-group` on this host");
    }

    #[test]
    fn planned_accounts() {
        let mut accounts = Accounts::new(Mode::Plan);
        let spec = UserSpec { system: true, shell: Some("/usr/sbin/nologin".to_owned()), ..UserSpec::default() };
        accounts.set_user("kprov-etcd", &spec).unwrap();
        assert!(matches!(accounts.uid("kprov-etcd"), Err(SystemError::Unknown)));
        assert!(matches!(accounts.gid("kprov-etcd"), Err(SystemError::Unknown)));
        accounts.set_group("kprov-cert", &GroupSpec { gid: Some(4711), system: true }).unwrap();
        assert_eq!(accounts.group_name(4711).unwrap().as_deref(), Some("kprov-cert"));
        let groups = UserSpec { groups: Some(vec!["kprov-cert".to_owned()]), uid: Some(4712), ..UserSpec::default() };
        accounts.set_user("kprov-etcd", &groups).unwrap();
        assert_eq!(accounts.groups_of("kprov-etcd").unwrap(), ["kprov-cert"]);
        let user = accounts.user("kprov-etcd").unwrap().unwrap();
        assert_eq!((user.uid, user.shell.as_str()), (Some(4712), "/usr/sbin/nologin"));
        let missing = UserSpec { groups: Some(vec!["kprov-no-such-group".to_owned()]), ..UserSpec::default() };
        assert!(accounts.set_user("kprov-etcd", &missing).is_err());
        accounts.set_user("kprov-etcd", &UserSpec { groups: Some(Vec::new()), ..UserSpec::default() }).unwrap();
        assert!(accounts.groups_of("kprov-etcd").unwrap().is_empty());
        accounts.remove_user("kprov-etcd", false, false).unwrap();
        accounts.remove_group("kprov-cert").unwrap();
        assert_eq!((accounts.user("kprov-etcd").unwrap(), accounts.group("kprov-cert").unwrap()), (None, None));
        assert_eq!(Accounts::new(Mode::Apply).user("kprov-etcd").unwrap(), None);
    }

    #[test]
    fn broken_lines_are_no_entries() {
        assert_eq!(parse_user("root:x:0"), None);
        assert_eq!(parse_group("+::::"), None);
        assert_eq!(parse_group("adm:x:4:a,b").unwrap().members, ["a", "b"]);
    }
}
