//! systemd units: their state, starting, enabling, reloading; with an overlay when planning.
//!
//! Asks and tells the service manager through systemctl(1), whose `show` output is made for programs. Unit files
//! themselves are written as files; here is only what the manager makes of them. `overlay` projects planned unit files
//! and planned actions, so that a later query sees a unit that an earlier task would have written.

mod files;
mod overlay;

use super::process::{PROBE_TIMEOUT, execute, last_lines};
use super::{Command, Fs, Mode, Result, SystemError};
use overlay::Overlay;
use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The properties that make a [`Unit`], as org.freedesktop.systemd1(5) names them.
const PROPERTIES: &str = "Id,LoadState,ActiveState,SubState,UnitFileState,NeedDaemonReload,FragmentPath,DropInPaths,\
                          MainPID,Result,StatusText,Type,RemainAfterExit";

/// How long an answer of the manager is good for, if this process changes nothing meanwhile.
const KNOWN_FOR: Duration = Duration::from_secs(2);

/// The types of units; a name without one of them is a service, as systemctl has it.
const SUFFIXES: [&str; 11] =
    ["service", "socket", "device", "mount", "automount", "swap", "target", "path", "timer", "slice", "scope"];

/// A unit as the service manager sees it, in its own words (systemd(1), org.freedesktop.systemd1(5)).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Unit {
    /// Full name, also where an alias was asked for.
    pub name: String,
    /// `loaded`, `not-found`, `masked`, `error`, `bad-setting`.
    pub load_state: String,
    /// `active`, `reloading`, `inactive`, `failed`, `activating`, `deactivating`.
    pub active_state: String,
    /// `running`, `exited`, `dead`, `auto-restart`, …
    pub sub_state: String,
    /// `enabled`, `disabled`, `static`, `masked`, `generated`, …; empty where there is no unit file.
    pub unit_file_state: String,
    /// Whether files of the unit have changed since they were loaded.
    pub need_daemon_reload: bool,
    pub fragment_path: Option<PathBuf>,
    pub drop_in_paths: Vec<PathBuf>,
    pub main_pid: Option<u32>,
    /// How the last run went: `success`, `exit-code`, `timeout`, `oom-kill`, …
    pub result: String,
    /// What the service says about itself (sd_notify(3)).
    pub status_text: String,
    /// `simple`, `notify`, `oneshot`, …
    pub kind: String,
    pub remain_after_exit: bool,
    /// When planning: the manager has it in memory, or would have.
    pub is_loaded: bool,
}

impl Unit {
    /// Whether there is something to start. A masked unit exists and refuses to start.
    pub fn exists(&self) -> bool {
        !self.load_state.is_empty() && self.load_state != "not-found"
    }

    /// Whether it is up. A service that is between two attempts to start is not.
    pub fn is_active(&self) -> bool {
        matches!(self.active_state.as_str(), "active" | "reloading" | "refreshing")
    }

    /// Whether there is nothing left to stop.
    pub fn is_stopped(&self) -> bool {
        matches!(self.active_state.as_str(), "inactive" | "failed" | "")
    }

    /// `None` for units that can be neither enabled nor disabled (no `[Install]` section, generated, transient).
    pub fn enabled(&self) -> Option<bool> {
        match self.unit_file_state.as_str() {
            "enabled" | "enabled-runtime" => Some(true),
            "static" | "generated" | "transient" | "alias" => None,
            _ => Some(false),
        }
    }

    pub fn is_masked(&self) -> bool {
        self.load_state == "masked" || self.unit_file_state.starts_with("masked")
    }

    /// One block of `systemctl show`. Lines that are no properties belong to the value before (status texts).
    fn parse(block: &str) -> Self {
        let mut unit = Self::default();
        let mut path = |value: &str| (!value.is_empty()).then(|| PathBuf::from(value));
        for line in block.lines() {
            let Some((property, value)) = line.split_once('=') else { continue };
            match property {
                "Id" => unit.name = value.to_owned(),
                "LoadState" => unit.load_state = value.to_owned(),
                "ActiveState" => unit.active_state = value.to_owned(),
                "SubState" => unit.sub_state = value.to_owned(),
                "UnitFileState" => unit.unit_file_state = value.to_owned(),
                "NeedDaemonReload" => unit.need_daemon_reload = value == "yes",
                "FragmentPath" => unit.fragment_path = path(value),
                "DropInPaths" => unit.drop_in_paths = value.split_whitespace().filter_map(&mut path).collect(),
                "MainPID" => unit.main_pid = value.parse().ok().filter(|&pid| pid != 0),
                "Result" => unit.result = value.to_owned(),
                "StatusText" => unit.status_text = value.to_owned(),
                "Type" => unit.kind = value.to_owned(),
                "RemainAfterExit" => unit.remain_after_exit = value == "yes",
                _ => {}
            }
        }
        unit
    }
}

/// What can be done to a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum UnitAction {
    Start,
    Stop,
    Restart,
    Reload,
    Enable,
    Disable,
    Mask,
    Unmask,
}

impl UnitAction {
    /// The command of systemctl(1).
    pub fn verb(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::Reload => "reload",
            Self::Enable => "enable",
            Self::Disable => "disable",
            Self::Mask => "mask",
            Self::Unmask => "unmask",
        }
    }

    /// Whether systemctl has the manager load all unit files again afterwards.
    pub fn reloads_files(self) -> bool {
        matches!(self, Self::Enable | Self::Disable | Self::Mask | Self::Unmask)
    }
}

/// The full name of a unit: `kubelet` is `kubelet.service`.
pub fn unit_name(name: &str) -> String {
    match name.rsplit_once('.') {
        Some((_, suffix)) if SUFFIXES.contains(&suffix) => name.to_owned(),
        _ => format!("{name}.service"),
    }
}

/// The node's service manager.
pub struct Units {
    /// `None` where actions are real.
    overlay: Option<Overlay>,
    /// What was asked lately, and when that began.
    known: RefCell<Option<(Instant, HashMap<String, Unit>)>>,
}

impl Units {
    pub(super) fn new(mode: Mode) -> Self {
        Self { overlay: (mode == Mode::Plan).then(Overlay::default), known: RefCell::default() }
    }

    /// Forgets what the manager said: something on the node is about to change.
    pub(super) fn forget(&mut self) {
        if self.overlay.is_none() {
            self.known.take();
        }
    }

    /// The unit as it is, or as planned files in `fs` and planned actions would leave it.
    pub fn show(&self, name: &str, fs: &Fs) -> Result<Unit> {
        let mut units = self.show_all(&[name], fs)?;
        units.pop().ok_or_else(|| SystemError::Other(format!("systemctl said nothing about `{name}`")))
    }

    /// As [`Units::show`] for several at once, in the order of `names`.
    pub fn show_all(&self, names: &[&str], fs: &Fs) -> Result<Vec<Unit>> {
        let names: Vec<String> = names.iter().map(|name| unit_name(name)).collect();
        // Asking loads a unit for a moment, so ask first which are loaded.
        let loaded = match &self.overlay {
            Some(overlay) => loaded(&overlay.changed_units(fs)?)?,
            None => BTreeSet::new(),
        };
        let units = self.ask(&names, fs)?;
        let project = |mut unit: Unit| match &self.overlay {
            None => {
                unit.need_daemon_reload |= files::has_new_drop_ins(&unit, fs)?;
                Ok(unit)
            }
            Some(overlay) => {
                unit.is_loaded = loaded.contains(&unit.name);
                overlay.project(unit, fs)
            }
        };
        units.into_iter().map(project).collect()
    }

    /// Asks the manager, unless it was asked a moment ago.
    fn ask(&self, names: &[String], fs: &Fs) -> Result<Vec<Unit>> {
        let known = |names: &[String]| -> Option<Vec<Unit>> {
            let known = self.known.borrow();
            let (_, units) = known.as_ref().filter(|(since, _)| since.elapsed() < KNOWN_FOR)?;
            names.iter().map(|name| units.get(name).cloned()).collect()
        };
        if let Some(units) = known(names) {
            return Ok(units);
        }
        // Whoever asks about one of this host's own units will ask about the others, and each question has its price.
        let own = files::own_units(fs)?.into_iter().filter(|unit| !names.contains(unit));
        let asked: Vec<String> = names.iter().cloned().chain(own).collect();
        let argv = ["systemctl", "show", "--property", PROPERTIES, "--"].map(str::to_owned);
        let show = Command::new(argv.into_iter().chain(asked.iter().cloned())).timeout(PROBE_TIMEOUT);
        let output = execute(&show, None)?.checked()?;
        let units = parse_show(&output.stdout);
        if units.len() != asked.len() {
            let (asked, got) = (asked.len(), units.len());
            return Err(SystemError::Other(format!("systemctl told of {got} units when asked about {asked}")));
        }
        let answer = units[..names.len()].to_vec();
        self.known.replace(Some((Instant::now(), asked.into_iter().zip(units).collect())));
        Ok(answer)
    }

    /// Whether files of any unit have changed since they were loaded. Looks at the units that have files below
    /// /etc/systemd, /run/systemd and /usr/local; packages see to their own.
    pub fn need_daemon_reload(&self, fs: &Fs) -> Result<bool> {
        let mut names = files::own_units(fs)?;
        if let Some(overlay) = &self.overlay {
            names.extend(overlay.changed_units(fs)?);
        }
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        Ok(!names.is_empty() && self.show_all(&names, fs)?.iter().any(|unit| unit.need_daemon_reload))
    }

    /// Has the manager load all unit files again.
    pub fn daemon_reload(&mut self, fs: &Fs) -> Result<()> {
        match &mut self.overlay {
            Some(overlay) => overlay.daemon_reload(fs),
            None => {
                self.forget();
                execute(&Command::new(["systemctl", "daemon-reload"]), None)?.checked().map(drop)
            }
        }
    }

    /// Does it, and waits until it is done: a start ends when the unit is up (for `Type=notify`: has said so).
    ///
    /// A failure to start carries the unit's result and the last lines of its journal.
    pub fn act(&mut self, action: UnitAction, name: &str, fs: &Fs, stop: &dyn Fn() -> bool) -> Result<()> {
        self.request(action, name, fs, stop, &[])
    }

    /// As [`Units::act`], but only queues it.
    pub fn act_later(&mut self, action: UnitAction, name: &str, fs: &Fs) -> Result<()> {
        self.request(action, name, fs, &|| false, &["--no-block"])
    }

    fn request(
        &mut self,
        action: UnitAction,
        name: &str,
        fs: &Fs,
        stop: &dyn Fn() -> bool,
        options: &[&str],
    ) -> Result<()> {
        let name = unit_name(name);
        if self.overlay.is_some() {
            let unit = self.show(&name, fs)?;
            if let Some(overlay) = &mut self.overlay {
                overlay.act(action, &unit, fs)?;
                if action.reloads_files() {
                    overlay.daemon_reload(fs)?;
                }
            }
            return Ok(());
        }
        self.forget();
        let argv = [&["systemctl", action.verb()], options, &["--", &name]].concat();
        let output = execute(&Command::new(argv), Some(stop))?;
        let starts = matches!(action, UnitAction::Start | UnitAction::Restart) && options.is_empty();
        if !starts && !matches!(action, UnitAction::Stop | UnitAction::Reload) {
            return output.checked().map(drop);
        }
        let error = output.checked().err();
        let unit = self.show(&name, fs)?;
        // A service of `Type=simple` counts as started before it has done anything: look again.
        let is_down = starts && !unit.is_active() && !(unit.is_stopped() && unit.result == "success");
        match error {
            None if !is_down => Ok(()),
            None => Err(failed(action, &unit, None)),
            Some(error) => Err(failed(action, &unit, Some(error))),
        }
    }
}

/// Says why a unit did not do as told, in one line.
fn failed(action: UnitAction, unit: &Unit, error: Option<SystemError>) -> SystemError {
    let Unit { name, active_state, sub_state, result, .. } = unit;
    let verb = action.verb();
    let mut message = match error {
        Some(SystemError::Program { stderr, .. }) if !unit.exists() || unit.is_masked() => stderr,
        _ => format!("cannot {verb} {name}: it is {active_state} ({sub_state}), result {result}"),
    };
    let journal = Command::new(["journalctl", "--unit", name, "--lines=5", "--output=cat", "--no-pager", "--quiet"]);
    let said =
        execute(&journal.timeout(PROBE_TIMEOUT), None).map(|output| last_lines(&output.stdout, 5)).unwrap_or_default();
    if !said.is_empty() {
        message.push_str(&format!("; its journal ends with: {said}"));
    }
    SystemError::Other(message)
}

/// Which of these units the manager has loaded. It loads others when asked about them, and forgets them again.
fn loaded(names: &BTreeSet<String>) -> Result<BTreeSet<String>> {
    if names.is_empty() {
        return Ok(BTreeSet::new());
    }
    let list = ["systemctl", "list-units", "--all", "--full", "--plain", "--no-legend", "--"].map(str::to_owned);
    let list = Command::new(list.into_iter().chain(names.iter().cloned())).timeout(PROBE_TIMEOUT);
    let output = execute(&list, None)?.checked()?;
    Ok(output.stdout.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect())
}

/// Blocks are separated by an empty line, in the order of the names that were given.
fn parse_show(text: &str) -> Vec<Unit> {
    text.split("\n\n").filter(|block| !block.trim().is_empty()).map(Unit::parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What systemd 252 prints.
    pub(super) const SHOWN: &str = "Type=notify\nRemainAfterExit=no\nMainPID=63\nStatusText=Processing requests...\n\
        Result=success\nId=ssh.service\nLoadState=loaded\nActiveState=active\nSubState=running\n\
        FragmentPath=/lib/systemd/system/ssh.service\n\
        DropInPaths=/etc/systemd/system/ssh.service.d/1.conf /etc/systemd/system/ssh.service.d/2.conf\n\
        UnitFileState=enabled\nNeedDaemonReload=yes\n\n\
        Type=\nRemainAfterExit=no\nMainPID=0\nStatusText=\nResult=success\nId=kprov-test.service\nLoadState=not-found\n\
        ActiveState=inactive\nSubState=dead\nFragmentPath=\nDropInPaths=\nUnitFileState=\nNeedDaemonReload=no\n";

    #[test]
    fn reads_what_systemctl_shows() {
        let [ssh, missing] = parse_show(SHOWN).try_into().unwrap();
        assert!(ssh.exists() && ssh.is_active() && ssh.need_daemon_reload && !ssh.is_masked());
        assert_eq!((ssh.enabled(), ssh.main_pid, ssh.drop_in_paths.len()), (Some(true), Some(63), 2));
        assert_eq!(ssh.status_text, "Processing requests...");
        assert!(!missing.exists() && missing.is_stopped() && missing.fragment_path.is_none());
        assert_eq!(missing.name, "kprov-test.service");
    }

    #[test]
    fn a_service_between_two_starts_is_not_active() {
        let unit = Unit { active_state: "activating".into(), sub_state: "auto-restart".into(), ..Unit::default() };
        assert!(!unit.is_active() && !unit.is_stopped());
    }

    #[test]
    fn names_without_a_type_are_services() {
        assert_eq!(unit_name("kubelet"), "kubelet.service");
        assert_eq!(unit_name("docker.socket"), "docker.socket");
        assert_eq!(unit_name("org.example.app"), "org.example.app.service");
    }

    #[test]
    fn says_what_is_wrong_without_a_service_manager() {
        if std::path::Path::new("/run/systemd/system").exists() {
            return;
        }
        let units = Units::new(Mode::Plan);
        let error = units.show("ssh", &Fs::new(Mode::Plan)).unwrap_err().to_string();
        assert!(error.contains("systemctl"), "{error}");
    }
}
