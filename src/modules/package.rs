//! `package`, `apt`, `dnf`, `yum`: packages of the distribution.
//!
//! Arguments as in Ansible's modules, as far as all managers have them. Differs from Ansible: with packages to install,
//! `update_cache` fetches the lists only when something is missing, and then only if they are older than
//! `cache_valid_time`; a name may carry a version (`NAME=VERSION`, with `*` at its end) with apt.

use super::{Applied, Diff, Failure, Grade, Module, Needs};
use crate::system::{Manager, PackageOptions, View, Writer};
use crate::value::{Map, Value};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The desired state of packages.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Package {
    /// Empty: only the lists.
    pub names: Vec<String>,
    pub state: State,
    pub update_cache: bool,
    /// How old the lists may be.
    pub cache_valid_time: Duration,
    pub install_recommends: Option<bool>,
    pub purge: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    Present,
    Latest,
    Absent,
}

#[derive(Debug)]
pub struct Found {
    /// In the order of the names.
    installed: Vec<Option<String>>,
    /// Newer versions of what is installed, and those that would be installed, as far as the lists tell.
    newer: Vec<Option<String>>,
    stale: bool,
}

#[derive(Debug)]
pub struct Change {
    /// Indices of names.
    packages: Vec<usize>,
    update: bool,
}

#[cfg(feature = "controller")]
impl Package {
    pub fn from_args(mut args: super::args::Args<'_>) -> Result<Self, super::args::ArgError> {
        use super::args::{ArgError, missing};
        let mut names = Vec::new();
        for argument in ["name", "pkg", "package"] {
            names.extend(args.list(argument)?.unwrap_or_default());
        }
        let state = args.choice("state", &["present", "installed", "latest", "absent", "removed"])?;
        let state = match state.unwrap_or("present") {
            "latest" => State::Latest,
            "absent" | "removed" => State::Absent,
            _ => State::Present,
        };
        let cache_valid_time = args.opt_int("cache_valid_time")?;
        // As in Ansible, saying how old the lists may be is asking for them.
        let update_cache = args.bool("update_cache", false)? | args.bool("update-cache", false)? | cache_valid_time.is_some();
        let seconds = cache_valid_time.unwrap_or_default();
        let package = Self {
            names,
            state,
            update_cache,
            cache_valid_time: u64::try_from(seconds)
                .map(Duration::from_secs)
                .map_err(|_| ArgError::new("cache_valid_time", format!("`cache_valid_time` is {seconds}, expected seconds")))?,
            install_recommends: args.opt_bool("install_recommends")?,
            purge: args.bool("purge", false)?,
        };
        args.finish()?;
        if let Some(bad) = package.names.iter().find(|name| name.is_empty() || name.starts_with('-') || name.contains(' ')) {
            return Err(ArgError::new("name", format!("`{bad}` is no name of a package")));
        }
        if package.names.is_empty() && !package.update_cache {
            return Err(missing("name"));
        }
        Ok(package)
    }
}

/// Name and version of `NAME=VERSION`.
fn split(name: &str) -> (&str, Option<&str>) {
    name.split_once('=').map_or((name, None), |(name, version)| (name, Some(version)))
}

fn is_version(wanted: &str, found: &str) -> bool {
    match wanted.strip_suffix('*') {
        Some(start) => found.starts_with(start),
        // What was only planned has no version yet.
        None => found == wanted || found.is_empty(),
    }
}

impl Module for Package {
    type State = Found;
    type Change = Change;

    fn query(&self, view: View<'_>) -> Result<Found, Failure> {
        let packages = view.packages();
        let names: Vec<String> = self.names.iter().map(|name| split(name).0.to_owned()).collect();
        let installed = if names.is_empty() { Vec::new() } else { packages.installed(&names)? };
        let apt = packages.manager()? == Manager::Apt;
        let stale = match packages.lists_age()? {
            Some(age) => age >= self.cache_valid_time,
            None => apt,
        };
        let stale = self.update_cache && stale;
        let missing: Vec<String> =
            names.iter().zip(&installed).filter(|(_, found)| found.is_none()).map(|(name, _)| name.clone()).collect();
        let upgrades = match self.state {
            State::Latest => packages.upgrades(&names)?,
            // Lists that will be fetched anew say nothing of what will be installed.
            State::Present if apt && !stale => packages.upgrades(&missing)?,
            _ => Default::default(),
        };
        let newer = names.iter().map(|name| upgrades.get(name).cloned()).collect();
        Ok(Found { installed, newer, stale })
    }

    fn diff(&self, found: &Found) -> Option<Change> {
        let is_wrong = |at: &usize| {
            let installed = found.installed[*at].as_deref();
            match (self.state, split(&self.names[*at]).1) {
                (State::Absent, _) => installed.is_some(),
                (_, Some(version)) => !installed.is_some_and(|installed| is_version(version, installed)),
                (State::Present, None) => installed.is_none(),
                (State::Latest, None) => installed.is_none() || found.newer[*at].is_some(),
            }
        };
        let packages: Vec<usize> = (0..self.names.len()).filter(is_wrong).collect();
        // Which version is the latest, only fresh lists tell.
        let needed = match self.state {
            State::Absent => self.names.is_empty(),
            State::Present => self.names.is_empty() || !packages.is_empty(),
            State::Latest => true,
        };
        let update = found.stale && needed;
        (update || !packages.is_empty()).then_some(Change { packages, update })
    }

    fn describe(&self, found: &Found, change: &Change) -> Vec<Diff> {
        let lists = change.update.then(|| Diff::Note("fetch the package lists".to_owned()));
        let field = |at: &usize| {
            let (name, version) = split(&self.names[*at]);
            let before = found.installed[*at].clone().unwrap_or_else(|| "not installed".to_owned());
            let after = match self.state {
                State::Absent => "not installed",
                _ => version.or(found.newer[*at].as_deref()).unwrap_or("installed"),
            };
            (name.to_owned(), Some(before), Some(after.to_owned()))
        };
        let fields: Vec<_> = change.packages.iter().map(field).collect();
        let packages = (!fields.is_empty()).then(|| Diff::Fields { subject: "packages".to_owned(), fields });
        lists.into_iter().chain(packages).collect()
    }

    fn apply(
        &self,
        found: Found,
        change: Change,
        writer: &mut Writer<'_>,
        _: &mut dyn Needs,
    ) -> Result<Applied, Failure> {
        let mut wrong = change.packages;
        if change.update {
            writer.packages().update()?;
        }
        if change.update && self.state == State::Latest && !writer.planning() {
            let after = self.query(writer.view())?;
            wrong = self.diff(&Found { stale: false, ..after }).map(|change| change.packages).unwrap_or_default();
        }
        let names: Vec<String> = wrong.iter().map(|at| self.names[*at].clone()).collect();
        let options = PackageOptions { install_recommends: self.install_recommends, purge: self.purge };
        if names.is_empty() {
            // Fresh lists by themselves are a change only where they were all that was asked for. What the latest versions
            // are, a plan with old lists does not know.
            let unknown = writer.planning() && !self.names.is_empty();
            let grade = if unknown { Grade::KnownAfterApply } else { Grade::Exact };
            let changed = Some(unknown || self.names.is_empty());
            return Ok(Applied { result: self.result(&found), changed, grade, after: None });
        }
        let plain: Vec<String> = names.iter().map(|name| split(name).0.to_owned()).collect();
        match self.state {
            State::Absent => writer.packages().remove(&plain, &options)?,
            // A plan knows packages by their name.
            _ if writer.planning() => writer.packages().install(&plain, &options)?,
            _ => writer.packages().install(&names, &options)?,
        }
        let exact = self.state == State::Absent;
        let grade = if exact { Grade::Exact } else { Grade::KnownAfterApply };
        let mut result = self.result(&found);
        result.insert("cache_updated".into(), change.update.into());
        Ok(Applied { result, grade, ..Applied::default() })
    }

    fn result(&self, _: &Found) -> Map {
        [("cache_updated".to_owned(), Value::Bool(false))].into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modules::converge;
    use crate::modules::testing::{TestNeeds, args};
    use crate::system::{Mode, System};

    fn package(names: &[&str], state: State) -> Package {
        Package {
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            state,
            update_cache: false,
            cache_valid_time: Duration::ZERO,
            install_recommends: None,
            purge: false,
        }
    }

    fn found(installed: &[Option<&str>], newer: &[Option<&str>], stale: bool) -> Found {
        let owned = |texts: &[Option<&str>]| texts.iter().map(|text| text.map(str::to_owned)).collect();
        Found { installed: owned(installed), newer: owned(newer), stale }
    }

    #[test]
    fn only_what_is_wrong_is_changed() {
        let two = package(&["curl", "socat"], State::Present);
        let change = two.diff(&found(&[Some("7"), None], &[None, None], true)).unwrap();
        assert_eq!((change.packages.as_slice(), change.update), (&[1][..], true));
        assert!(two.diff(&found(&[Some("7"), Some("1")], &[None, None], true)).is_none());
        let latest = package(&["curl"], State::Latest);
        assert!(latest.diff(&found(&[Some("7")], &[Some("8")], false)).is_some());
        assert!(latest.diff(&found(&[Some("7")], &[None], false)).is_none());
        let absent = package(&["curl"], State::Absent);
        assert!(absent.diff(&found(&[Some("7")], &[None], true)).is_some_and(|change| !change.update));
        let pinned = package(&["curl=7.88*"], State::Present);
        assert!(pinned.diff(&found(&[Some("7.88.1-10")], &[None], false)).is_none());
        assert!(pinned.diff(&found(&[Some("7.81")], &[None], false)).is_some());
    }

    #[test]
    fn what_is_planned_is_there_for_later_tasks() {
        let mut system = System::new(Mode::Plan);
        if system.view().packages().manager().is_err() {
            return;
        }
        let mut run = |task: &Package| converge(task, &mut system, &mut TestNeeds::default()).unwrap();
        let task = package(&["kprov-no-such-package=1.0"], State::Present);
        let outcome = run(&task);
        let fields =
            vec![("kprov-no-such-package".to_owned(), Some("not installed".to_owned()), Some("1.0".to_owned()))];
        assert_eq!(outcome.diff, [Diff::Fields { subject: "packages".to_owned(), fields }]);
        assert!(!run(&task).changed);
        let gone = package(&["kprov-no-such-package"], State::Absent);
        assert!(run(&gone).changed && !run(&gone).changed);
        assert!(!run(&package(&["base-files", "dpkg"], State::Present)).changed);
    }

    #[test]
    fn arguments() {
        let parsed = Package::from_args(args([("pkg", "curl, socat".into()), ("cache_valid_time", 3600.into())])).unwrap();
        assert_eq!((parsed.names.as_slice(), parsed.update_cache), (&["curl".to_owned(), "socat".to_owned()][..], true));
        assert!(Package::from_args(args([("update_cache", true.into())])).is_ok());
        for bad in ["--allow-unauthenticated", "a b"] {
            assert!(Package::from_args(args([("name", Value::List(vec![bad.into()]))])).is_err());
        }
        assert!(Package::from_args(args([("state", "latest".into())])).is_err());
    }
}
