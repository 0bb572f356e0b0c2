//! Planned changes of units, and what planned unit files make of a unit.
//!
//! The manager has loaded what was in the files at its last reload. So the overlay compares the planned files with that:
//! the disk, or the planned files as they were at the last planned reload. It reads of unit files only what decides about
//! enabling and about the state after a start.

use super::super::{Fs, Mode, Result, SystemError};
use super::files::{Files, OWN, is_wanted, own_files, unit_of};
use super::{Unit, UnitAction};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

#[derive(Default)]
pub(super) struct Overlay {
    units: HashMap<String, Planned>,
    /// The files in [`OWN`] as of the last planned reload.
    loaded: Option<BTreeMap<PathBuf, File>>,
}

/// What planned actions have made of a unit.
#[derive(Clone, Default)]
struct Planned {
    active: Option<bool>,
    enabled: Option<bool>,
    masked: Option<bool>,
    /// Its files as of the planned start that made the manager load it; `None`: see [`Overlay::loaded`].
    files: Option<BTreeMap<PathBuf, File>>,
}

/// A file as far as one differs from another.
#[derive(Clone, PartialEq)]
enum File {
    Absent,
    Known(Vec<u8>),
    /// Known after apply: the same as nothing else.
    Unknown,
}

impl File {
    fn planned(fs: &Fs, path: &Path) -> Result<Self> {
        match fs.read_opt(path) {
            Ok(None) => Ok(Self::Absent),
            Ok(Some(bytes)) => Ok(Self::Known(bytes)),
            Err(SystemError::Unknown) => Ok(Self::Unknown),
            Err(error) => Err(error),
        }
    }

    fn differs(&self, other: &Self) -> bool {
        matches!((self, other), (Self::Unknown, _) | (_, Self::Unknown)) || self != other
    }
}

impl Overlay {
    /// The unit after all that is planned. What it says of being loaded is how it is before that.
    pub(super) fn project(&self, mut unit: Unit, fs: &Fs) -> Result<Unit> {
        let planned = self.units.get(&unit.name);
        if let Some(planned) = planned {
            unit.is_loaded = planned.keeps_loaded(&unit);
        }
        let files = Files::find(&unit.name, fs)?;
        let mut paths: BTreeSet<&PathBuf> = files.fragment.iter().chain(&files.drop_ins).collect();
        paths.extend(unit.fragment_path.iter().chain(&unit.drop_in_paths));
        let mut changed = false;
        for path in paths {
            let loaded = match planned.and_then(|planned| planned.files.as_ref()) {
                Some(files) => files.get(path).cloned().unwrap_or(File::Absent),
                None => self.loaded(path),
            };
            changed |= File::planned(fs, path)?.differs(&loaded);
        }
        if self.loaded.is_some() {
            unit.need_daemon_reload = false;
        }
        // Of a unit that is not loaded the manager reads the files when it is asked: it cannot be behind.
        unit.need_daemon_reload |= changed && unit.is_loaded;

        match &files.fragment {
            Some(path) if !unit.exists() || changed_file(fs, path)? => {
                let definition = Definition::read(fs, path)?;
                if !unit.exists() {
                    unit.load_state = "loaded".to_owned();
                }
                if unit.enabled().is_none() || matches!(unit.unit_file_state.as_str(), "" | "bad") {
                    let state = match definition.installable {
                        true if is_wanted(&unit.name, fs)? => "enabled",
                        true => "disabled",
                        false => "static",
                    };
                    unit.unit_file_state = state.to_owned();
                }
                unit.kind = definition.kind;
                unit.remain_after_exit = definition.remain_after_exit;
                unit.fragment_path = Some(path.clone());
            }
            None if unit.fragment_path.is_some() && unit.need_daemon_reload => unit.unit_file_state = "bad".to_owned(),
            None if unit.fragment_path.is_some() => {
                unit.load_state = "not-found".to_owned();
                unit.unit_file_state.clear();
                unit.fragment_path = None;
            }
            _ => {}
        }
        if changed {
            unit.drop_in_paths = files.drop_ins;
        }
        if let Some(planned) = planned {
            planned.project(&mut unit);
        }
        Ok(unit)
    }

    /// What the manager has loaded of a file.
    fn loaded(&self, path: &Path) -> File {
        match &self.loaded {
            Some(files) if OWN.iter().any(|dir| path.starts_with(dir)) => {
                files.get(path).cloned().unwrap_or(File::Absent)
            }
            _ => std::fs::read(path).map_or(File::Absent, File::Known),
        }
    }

    /// The units of which files have changed since they were loaded.
    pub(super) fn changed_units(&self, fs: &Fs) -> Result<BTreeSet<String>> {
        let planned = own_contents(fs)?;
        let before: Vec<PathBuf> = match &self.loaded {
            Some(files) => files.keys().cloned().collect(),
            None => own_files(&Fs::new(Mode::Apply))?,
        };
        let paths: BTreeSet<&PathBuf> = planned.keys().chain(&before).collect();
        let is_changed = |path: &&PathBuf| planned.get(*path).unwrap_or(&File::Absent).differs(&self.loaded(path));
        Ok(paths.into_iter().filter(is_changed).filter_map(|path| unit_of(path)).collect())
    }

    pub(super) fn daemon_reload(&mut self, fs: &Fs) -> Result<()> {
        self.loaded = Some(own_contents(fs)?);
        self.units.values_mut().for_each(|planned| planned.files = None);
        Ok(())
    }

    pub(super) fn act(&mut self, action: UnitAction, unit: &Unit, fs: &Fs) -> Result<()> {
        let read = |path: PathBuf| File::planned(fs, &path).map(|file| (path, file));
        let Files { fragment, drop_ins } = Files::find(&unit.name, fs)?;
        let planned = self.units.entry(unit.name.clone()).or_default();
        match action {
            // What is started and ends by itself is down again afterwards.
            UnitAction::Start | UnitAction::Restart => {
                planned.active = Some(unit.kind != "oneshot" || unit.remain_after_exit);
                if !unit.is_loaded {
                    planned.files = Some(fragment.into_iter().chain(drop_ins).map(read).collect::<Result<_>>()?);
                }
            }
            UnitAction::Stop => planned.active = Some(false),
            UnitAction::Reload => {}
            UnitAction::Enable => planned.enabled = Some(true),
            UnitAction::Disable => planned.enabled = Some(false),
            UnitAction::Mask => planned.masked = Some(true),
            UnitAction::Unmask => planned.masked = Some(false),
        }
        Ok(())
    }
}

impl Planned {
    /// Whether the manager keeps the unit in memory: it is up, or the target that wants it is.
    fn keeps_loaded(&self, unit: &Unit) -> bool {
        let enabled = self.enabled.unwrap_or(unit.enabled() == Some(true));
        match self.active {
            Some(active) => active || enabled,
            None => unit.is_loaded || enabled,
        }
    }

    fn project(&self, unit: &mut Unit) {
        // It is not there now, and an action was planned all the same: something planned will bring it.
        if !unit.exists() {
            unit.load_state = "loaded".to_owned();
            unit.unit_file_state = "disabled".to_owned();
        }
        if let Some(active) = self.active {
            let (state, sub_state) = if active { ("active", "running") } else { ("inactive", "dead") };
            unit.active_state = state.to_owned();
            unit.sub_state = sub_state.to_owned();
            unit.main_pid = None;
            unit.result = "success".to_owned();
        }
        if let (Some(enabled), Some(_)) = (self.enabled, unit.enabled()) {
            unit.unit_file_state = if enabled { "enabled" } else { "disabled" }.to_owned();
        }
        match self.masked {
            Some(true) => {
                unit.load_state = "masked".to_owned();
                unit.unit_file_state = "masked".to_owned();
            }
            Some(false) if unit.is_masked() => {
                unit.load_state = "loaded".to_owned();
                unit.unit_file_state = "disabled".to_owned();
            }
            _ => {}
        }
    }
}

/// Whether a file is planned to be other than what is on the disk.
fn changed_file(fs: &Fs, path: &Path) -> Result<bool> {
    Ok(File::planned(fs, path)?.differs(&std::fs::read(path).map_or(File::Absent, File::Known)))
}

/// The files in [`OWN`], as planned.
fn own_contents(fs: &Fs) -> Result<BTreeMap<PathBuf, File>> {
    let read = |path: PathBuf| File::planned(fs, &path).map(|file| (path, file));
    own_files(fs)?.into_iter().map(read).collect()
}

/// What a unit file says about itself.
#[derive(Debug, PartialEq)]
struct Definition {
    installable: bool,
    kind: String,
    remain_after_exit: bool,
}

impl Definition {
    fn read(fs: &Fs, path: &Path) -> Result<Self> {
        match File::planned(fs, path)? {
            File::Known(bytes) => Ok(Self::parse(&String::from_utf8_lossy(&bytes))),
            // What most unit files are like.
            _ => Ok(Self { installable: true, kind: "simple".to_owned(), remain_after_exit: false }),
        }
    }

    /// Reads the syntax of systemd.syntax(7), as far as these keys need it.
    fn parse(text: &str) -> Self {
        let mut definition = Self { installable: false, kind: "simple".to_owned(), remain_after_exit: false };
        let mut section = "";
        for line in text.lines().map(str::trim) {
            if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                section = name;
            }
            let Some((key, value)) = line.split_once('=') else { continue };
            match (section, key.trim(), value.trim()) {
                ("Install", "WantedBy" | "RequiredBy" | "Alias" | "Also", value) => {
                    definition.installable |= !value.is_empty();
                }
                ("Service", "Type", value) => definition.kind = value.to_owned(),
                ("Service", "RemainAfterExit", value) => {
                    definition.remain_after_exit = matches!(value, "yes" | "true" | "on" | "1");
                }
                _ => {}
            }
        }
        definition
    }
}

#[cfg(test)]
mod tests {
    use super::super::{parse_show, tests::SHOWN};
    use super::*;
    use crate::system::{Content, Owner};

    const NAME: &str = "kprov-test.service";
    const FILE: &str = "/etc/systemd/system/kprov-test.service";
    const SERVICE: &str = "[Service]\nType=notify\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n";

    /// What the manager says about a unit of which there is no file.
    fn missing() -> Unit {
        parse_show(SHOWN).into_iter().find(|unit| unit.name == NAME).unwrap()
    }

    fn write(fs: &mut Fs, path: &str, text: &str) {
        fs.mkdir_all(Path::new(path).parent().unwrap(), None, Owner::default()).unwrap();
        fs.write(Path::new(path), Content::Bytes(text.into()), Some(0o644), Owner::default()).unwrap();
    }

    fn planned(service: &str) -> (Overlay, Fs) {
        let mut fs = Fs::new(Mode::Plan);
        write(&mut fs, FILE, service);
        (Overlay::default(), fs)
    }

    #[test]
    fn a_planned_file_makes_a_unit_that_can_be_enabled_and_started() {
        let (mut overlay, fs) = planned(SERVICE);
        let unit = overlay.project(missing(), &fs).unwrap();
        assert!(unit.exists() && unit.is_stopped() && !unit.need_daemon_reload);
        assert_eq!((unit.enabled(), unit.kind.as_str()), (Some(false), "notify"));
        assert_eq!(unit.fragment_path.as_deref(), Some(Path::new(FILE)));

        overlay.act(UnitAction::Enable, &unit, &fs).unwrap();
        overlay.act(UnitAction::Start, &unit, &fs).unwrap();
        let unit = overlay.project(missing(), &fs).unwrap();
        assert!(unit.is_active() && unit.enabled() == Some(true));
        overlay.act(UnitAction::Stop, &unit, &fs).unwrap();
        overlay.act(UnitAction::Mask, &unit, &fs).unwrap();
        let unit = overlay.project(missing(), &fs).unwrap();
        assert!(unit.is_stopped() && unit.is_masked());
        overlay.act(UnitAction::Unmask, &unit, &fs).unwrap();
        assert!(!overlay.project(missing(), &fs).unwrap().is_masked());
    }

    #[test]
    fn a_file_that_comes_back_finds_the_links_of_its_enabling() {
        let (overlay, mut fs) = planned(SERVICE);
        let wants = Path::new("/etc/systemd/system/multi-user.target.wants");
        fs.mkdir_all(wants, None, Owner::default()).unwrap();
        fs.symlink(&wants.join(NAME), Path::new(FILE)).unwrap();
        // Whether the manager has noticed that the file was gone, or not even that there was one.
        for (load_state, unit_file_state) in [("loaded", "bad"), ("not-found", "")] {
            let unit = Unit { load_state: load_state.into(), unit_file_state: unit_file_state.into(), ..missing() };
            assert_eq!(overlay.project(unit, &fs).unwrap().enabled(), Some(true), "{load_state}");
        }
    }

    #[test]
    fn nothing_is_there_without_a_file() {
        let unit = Overlay::default().project(missing(), &Fs::new(Mode::Plan)).unwrap();
        assert_eq!(unit, missing());
    }

    #[test]
    fn a_unit_without_install_section_is_static() {
        let (overlay, fs) = planned("[Service]\nType=oneshot\nExecStart=/bin/true\n");
        let unit = overlay.project(missing(), &fs).unwrap();
        assert_eq!((unit.unit_file_state.as_str(), unit.enabled()), ("static", None));
    }

    #[test]
    fn a_oneshot_is_down_again_after_its_start() {
        for (remain, active) in [("no", false), ("yes", true)] {
            let text = format!("[Service]\nType=oneshot\nRemainAfterExit={remain}\nExecStart=/bin/true\n");
            let (mut overlay, fs) = planned(&text);
            let unit = overlay.project(missing(), &fs).unwrap();
            overlay.act(UnitAction::Start, &unit, &fs).unwrap();
            assert_eq!(overlay.project(missing(), &fs).unwrap().is_active(), active);
        }
    }

    #[test]
    fn a_change_makes_a_loaded_unit_stale_until_the_planned_reload() {
        let (mut overlay, mut fs) = planned(SERVICE);
        overlay.daemon_reload(&fs).unwrap();
        assert!(overlay.changed_units(&fs).unwrap().is_empty());
        let stale = |overlay: &Overlay, fs: &Fs, is_loaded| {
            overlay.project(Unit { is_loaded, ..missing() }, fs).unwrap().need_daemon_reload
        };
        assert!(!stale(&overlay, &fs, true));

        write(&mut fs, FILE, &SERVICE.replace("true", "false"));
        assert!(stale(&overlay, &fs, true));
        assert!(!stale(&overlay, &fs, false));
        assert_eq!(overlay.changed_units(&fs).unwrap(), BTreeSet::from([NAME.to_owned()]));
        overlay.daemon_reload(&fs).unwrap();
        assert!(!stale(&overlay, &fs, true));

        write(&mut fs, "/etc/systemd/system/kprov-test.service.d/10-kprov.conf", "[Service]\n");
        assert!(stale(&overlay, &fs, true));
        overlay.daemon_reload(&fs).unwrap();
        fs.write(Path::new(FILE), Content::later(), None, Owner::default()).unwrap();
        assert!(stale(&overlay, &fs, true));
    }

    #[test]
    fn what_a_planned_start_has_loaded_becomes_stale_too() {
        let (mut overlay, mut fs) = planned(SERVICE);
        let unit = overlay.project(missing(), &fs).unwrap();
        overlay.act(UnitAction::Start, &unit, &fs).unwrap();
        assert!(!overlay.project(missing(), &fs).unwrap().need_daemon_reload);
        write(&mut fs, FILE, &SERVICE.replace("true", "false"));
        assert!(overlay.project(missing(), &fs).unwrap().need_daemon_reload);
        overlay.daemon_reload(&fs).unwrap();
        assert!(!overlay.project(missing(), &fs).unwrap().need_daemon_reload);
    }

    #[test]
    fn a_removed_file_leaves_a_loaded_unit_until_the_planned_reload() {
        let (mut overlay, mut fs) = planned(SERVICE);
        overlay.daemon_reload(&fs).unwrap();
        let loaded =
            Unit { fragment_path: Some(FILE.into()), load_state: "loaded".into(), is_loaded: true, ..missing() };
        fs.remove(Path::new(FILE)).unwrap();
        let unit = overlay.project(loaded.clone(), &fs).unwrap();
        assert!(unit.exists() && unit.need_daemon_reload);
        overlay.daemon_reload(&fs).unwrap();
        assert!(!overlay.project(loaded, &fs).unwrap().exists());
    }

    #[test]
    fn definitions() {
        let text = "# [Install]\n[Install]\nWantedBy=\n[Service]\n Type = oneshot \nRemainAfterExit=true\n";
        let expected = Definition { installable: false, kind: "oneshot".to_owned(), remain_after_exit: true };
        assert_eq!(Definition::parse(text), expected);
    }
}
