//! `systemd`, `systemd_service`, `service`: whether a unit runs, is enabled or masked; reloading of unit files.
//!
//! Arguments as in Ansible's `systemd_service`. Differs from Ansible in this: `daemon_reload` reloads, and counts as a
//! change, only where files have changed since the manager loaded them; a unit that is between two attempts to start is
//! not `started`; a unit that fails as soon as it was started fails the task, with the end of its journal; units without
//! an `[Install]` section are neither enabled nor disabled, and stay as they are.

use super::{Applied, Diff, Failure, Module, Needs, UnitEffect};
use crate::system::{Unit, UnitAction, View, Writer};
use crate::value::{Map, Value};
use serde::{Deserialize, Serialize};

/// The desired state of a unit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Systemd {
    /// `None`: only `daemon_reload`.
    pub name: Option<String>,
    pub state: Option<State>,
    pub enabled: Option<bool>,
    pub masked: Option<bool>,
    pub daemon_reload: bool,
    /// Asks the manager, and does not wait until it is done.
    pub no_block: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    Started,
    Stopped,
    /// Always a change; starts what does not run.
    Restarted,
    /// Always a change; starts what does not run.
    Reloaded,
}

/// The unit and what the manager has not read yet.
#[derive(Debug)]
pub struct Found {
    unit: Option<Unit>,
    stale: bool,
    /// The unit is not there: a planned command or package has to bring it.
    expected: bool,
}

/// What to do, in this order.
#[derive(Debug, PartialEq)]
pub struct Change {
    daemon_reload: bool,
    actions: Vec<UnitAction>,
}

#[cfg(feature = "controller")]
impl Systemd {
    pub fn from_args(mut args: super::args::Args<'_>) -> Result<Self, super::args::ArgError> {
        use super::args::{ArgError, missing};
        let name = args.first_of(&["name", "service", "unit"])?;
        let state = args.choice("state", &["started", "stopped", "restarted", "reloaded"])?.map(|state| match state {
            "started" => State::Started,
            "stopped" => State::Stopped,
            "restarted" => State::Restarted,
            _ => State::Reloaded,
        });
        let (enabled, masked) = (args.opt_bool("enabled")?, args.opt_bool("masked")?);
        let daemon_reload = args.bool("daemon_reload", false)? | args.bool("daemon-reload", false)?;
        let no_block = args.bool("no_block", false)?;
        args.choice("scope", &["system"])?;
        args.finish()?;
        let about_unit = state.is_some() || enabled.is_some() || masked.is_some();
        match &name {
            None if about_unit => Err(missing("name")),
            _ if !about_unit && !daemon_reload => Err(ArgError {
                help: Some("say `state`, `enabled`, `masked` or `daemon_reload`".to_owned()),
                ..ArgError::new("name", "there is nothing to do to the unit")
            }),
            Some(name) if name.is_empty() || name.contains(['/', ' ', '*', '?']) => {
                Err(ArgError::new("name", format!("`{name}` is no name of a unit")))
            }
            _ => Ok(Self { name, state, enabled, masked, daemon_reload, no_block }),
        }
    }
}

impl Systemd {
    /// The unit that this task restarts.
    pub fn restarts(&self) -> Option<&str> {
        (self.state == Some(State::Restarted)).then_some(self.name.as_deref()?)
    }

    fn result_of(&self, found: Option<&Unit>) -> Map {
        let mut result = Map::new();
        let Some(unit) = found else { return result };
        result.insert("name".into(), self.name.as_deref().into());
        result.insert("enabled".into(), unit.enabled().into());
        result.insert("state".into(), if unit.is_active() { "started" } else { "stopped" }.into());
        result.insert("status".into(), status(unit));
        result
    }
}

/// The properties under the names that `systemctl show` gives them.
fn status(unit: &Unit) -> Value {
    let yes_no = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
    let path = unit.fragment_path.as_ref().map(|path| path.display().to_string());
    [
        ("Id", unit.name.clone()),
        ("LoadState", unit.load_state.clone()),
        ("ActiveState", unit.active_state.clone()),
        ("SubState", unit.sub_state.clone()),
        ("UnitFileState", unit.unit_file_state.clone()),
        ("NeedDaemonReload", yes_no(unit.need_daemon_reload)),
        ("FragmentPath", path.unwrap_or_default()),
        ("MainPID", unit.main_pid.unwrap_or_default().to_string()),
        ("Result", unit.result.clone()),
        ("StatusText", unit.status_text.clone()),
        ("Type", unit.kind.clone()),
    ]
    .into_iter()
    .collect()
}

impl Module for Systemd {
    type State = Found;
    type Change = Change;

    fn query(&self, view: View<'_>) -> Result<Found, Failure> {
        let (units, fs) = (view.units(), view.fs());
        let Some(name) = &self.name else {
            return Ok(Found { unit: None, stale: units.need_daemon_reload(fs)?, expected: false });
        };
        let unit = units.show(name, fs)?;
        let missing = !unit.exists() && self.masked != Some(true);
        let expected = missing && view.anything_may_appear();
        if missing && !expected {
            return Err(Failure::new(format!("there is no unit {} on this host", unit.name)));
        }
        let own = unit.fragment_path.as_ref().filter(|path| path.starts_with("/etc/systemd/system"));
        if let (Some(true), false, Some(path)) = (self.masked, unit.is_masked(), own) {
            // A mask is a link in its place.
            let path = path.display();
            return Err(Failure::new(format!("cannot mask {}: its file {path} has to be removed first", unit.name)));
        }
        Ok(Found { stale: unit.need_daemon_reload, unit: Some(unit), expected })
    }

    fn diff(&self, found: &Found) -> Option<Change> {
        let mut actions = Vec::new();
        if let Some(unit) = &found.unit {
            match self.masked {
                Some(true) if !unit.is_masked() => actions.push(UnitAction::Mask),
                Some(false) if unit.is_masked() => actions.push(UnitAction::Unmask),
                _ => {}
            }
            match (self.enabled, unit.enabled()) {
                (Some(true), Some(false)) => actions.push(UnitAction::Enable),
                (Some(false), Some(true)) => actions.push(UnitAction::Disable),
                _ => {}
            }
            match self.state {
                Some(State::Started) if !unit.is_active() => actions.push(UnitAction::Start),
                Some(State::Stopped) if !unit.is_stopped() => actions.push(UnitAction::Stop),
                Some(State::Restarted) => actions.push(UnitAction::Restart),
                Some(State::Reloaded) if unit.is_active() => actions.push(UnitAction::Reload),
                Some(State::Reloaded) => actions.push(UnitAction::Start),
                _ => {}
            }
        }
        let daemon_reload = self.daemon_reload && found.stale;
        (daemon_reload || !actions.is_empty()).then_some(Change { daemon_reload, actions })
    }

    fn describe(&self, found: &Found, change: &Change) -> Vec<Diff> {
        let mut fields = Vec::new();
        let mut field = |name: &str, before: &str, after: &str| {
            let before = (!before.is_empty()).then(|| before.to_owned());
            fields.push((name.to_owned(), before, Some(after.to_owned())));
        };
        if change.daemon_reload {
            field("unit files", "changed on disk", "loaded");
        }
        let unit = found.unit.clone().unwrap_or_default();
        let mut notes = Vec::new();
        for action in &change.actions {
            match action {
                UnitAction::Mask => field("masked", "no", "yes"),
                UnitAction::Unmask => field("masked", "yes", "no"),
                UnitAction::Enable => field("enabled", &unit.unit_file_state, "enabled"),
                UnitAction::Disable => field("enabled", &unit.unit_file_state, "disabled"),
                UnitAction::Start => field("state", &unit.active_state, "active"),
                UnitAction::Stop => field("state", &unit.active_state, "inactive"),
                UnitAction::Restart | UnitAction::Reload => {
                    notes.push(Diff::Note(format!("{} {}", action.verb(), unit.name)));
                }
            }
        }
        let subject = if unit.name.is_empty() { "systemd".to_owned() } else { unit.name };
        let fields = (!fields.is_empty()).then_some(Diff::Fields { subject, fields });
        fields.into_iter().chain(notes).collect()
    }

    fn apply(
        &self,
        found: Found,
        change: Change,
        writer: &mut Writer<'_>,
        needs: &mut dyn Needs,
    ) -> Result<Applied, Failure> {
        let (units, fs) = writer.units();
        if change.daemon_reload && !change.actions.iter().any(|action| action.reloads_files()) {
            units.daemon_reload(fs)?;
        }
        let name = self.name.as_deref().unwrap_or_default();
        for action in change.actions {
            if self.no_block {
                units.act_later(action, name, fs)?;
            } else {
                units.act(action, name, fs, &|| needs.cancelled())?;
            }
        }
        let unit = self.name.as_ref().map(|name| units.show(name, fs)).transpose()?;
        let after = found.expected.then(|| writer.view().appears_after());
        Ok(Applied::known_after(after, self.result_of(unit.as_ref())))
    }

    fn result(&self, found: &Found) -> Map {
        self.result_of(found.unit.as_ref())
    }

    fn units(&self, found: &Found, change: Option<&Change>) -> Vec<UnitEffect> {
        let Some(unit) = &found.unit else { return Vec::new() };
        let effect = |action| UnitEffect { unit: unit.name.clone(), action, was_active: unit.is_active(), host: None };
        let actions = change.iter().flat_map(|change| &change.actions);
        // What concerns only how it is started is none of its running.
        let runs = |action: &&UnitAction| !action.reloads_files();
        let mut effects: Vec<_> = actions.filter(runs).map(|action| effect(Some(*action))).collect();
        if effects.is_empty() {
            effects.push(effect(None));
        }
        effects
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modules::testing::args;

    fn task(state: Option<State>, enabled: Option<bool>) -> Systemd {
        let name = Some("kubelet".to_owned());
        Systemd { name, state, enabled, masked: None, daemon_reload: true, no_block: false }
    }

    fn unit(active_state: &str, unit_file_state: &str) -> Unit {
        Unit {
            name: "kubelet.service".to_owned(),
            load_state: "loaded".to_owned(),
            active_state: active_state.to_owned(),
            unit_file_state: unit_file_state.to_owned(),
            ..Unit::default()
        }
    }

    fn actions(task: &Systemd, unit: &Unit) -> Vec<UnitAction> {
        let found = Found { unit: Some(unit.clone()), stale: false, expected: false };
        task.diff(&found).map(|change| change.actions).unwrap_or_default()
    }

    #[test]
    fn does_what_is_missing() {
        use UnitAction::*;
        let started = task(Some(State::Started), Some(true));
        assert_eq!(actions(&started, &unit("inactive", "disabled")), [Enable, Start]);
        assert_eq!(actions(&started, &unit("active", "enabled")), []);
        assert_eq!(actions(&started, &unit("activating", "enabled")), [Start]);
        assert_eq!(actions(&started, &unit("failed", "static")), [Start]);
        let stopped = task(Some(State::Stopped), Some(false));
        assert_eq!(actions(&stopped, &unit("active", "enabled")), [Disable, Stop]);
        assert_eq!(actions(&stopped, &unit("failed", "disabled")), []);
        assert_eq!(actions(&stopped, &unit("inactive", "static")), []);
        let restarted = task(Some(State::Restarted), None);
        assert_eq!(actions(&restarted, &unit("active", "enabled")), [Restart]);
        let reloaded = task(Some(State::Reloaded), None);
        assert_eq!(actions(&reloaded, &unit("active", "enabled")), [Reload]);
        assert_eq!(actions(&reloaded, &unit("inactive", "enabled")), [Start]);
        let masked = Systemd { masked: Some(true), ..task(Some(State::Stopped), None) };
        assert_eq!(actions(&masked, &unit("active", "enabled")), [Mask, Stop]);
    }

    #[test]
    fn says_what_becomes_of_its_unit() {
        let effects = |task: &Systemd, state| {
            let found = Found { unit: Some(unit(state, "disabled")), stale: false, expected: false };
            let effects = task.units(&found, task.diff(&found).as_ref());
            effects.into_iter().map(|effect| (effect.action, effect.was_active)).collect::<Vec<_>>()
        };
        let restarted = task(Some(State::Restarted), Some(true));
        assert_eq!(effects(&restarted, "active"), [(Some(UnitAction::Restart), true)]);
        assert_eq!(effects(&restarted, "failed"), [(Some(UnitAction::Restart), false)]);
        let started = task(Some(State::Started), Some(true));
        assert_eq!(effects(&started, "inactive"), [(Some(UnitAction::Start), false)]);
        assert_eq!(effects(&started, "active"), [(None, true)], "enabling leaves it running");
    }

    #[test]
    fn reloads_only_what_is_stale() {
        let found = |stale| Found { unit: Some(unit("active", "enabled")), stale, expected: false };
        let started = task(Some(State::Started), None);
        assert_eq!(started.diff(&found(false)), None);
        let change = started.diff(&found(true)).unwrap();
        assert!(change.daemon_reload && change.actions.is_empty());
        let diff = started.describe(&found(true), &change);
        let fields = vec![("unit files".to_owned(), Some("changed on disk".to_owned()), Some("loaded".to_owned()))];
        assert_eq!(diff, [Diff::Fields { subject: "kubelet.service".to_owned(), fields }]);
        let unasked = Systemd { daemon_reload: false, ..started };
        assert_eq!(unasked.diff(&found(true)), None);
    }

    #[test]
    fn arguments() {
        let parsed = Systemd::from_args(args([("service", "ssh".into()), ("enabled", "yes".into())])).unwrap();
        assert_eq!((parsed.name.as_deref(), parsed.enabled, parsed.state), (Some("ssh"), Some(true), None));
        assert!(Systemd::from_args(args([("daemon_reload", true.into())])).is_ok());
        let error = |pairs| Systemd::from_args(pairs).unwrap_err().message;
        assert_eq!(error(args([("state", "started".into())])), "missing argument `name`");
        assert!(error(args([("name", "ssh".into()), ("state", "start".into())])).contains("expected one of started"));
        assert!(error(args([("name", "a b".into()), ("state", "started".into())])).contains("no name of a unit"));
        assert!(error(args([("name", "ssh".into())])).contains("nothing to do"));
    }
}
