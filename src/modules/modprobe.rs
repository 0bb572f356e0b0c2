//! `modprobe`: a kernel module, now and after the next boot.
//!
//! Arguments as in Ansible's `community.general.modprobe`. What is built into the kernel counts as loaded. A module that the
//! kernel has not is a failure that names it, in a plan too.

use super::{Applied, Diff, Failure, Module, Needs};
use crate::system::{Content, Fs, ModuleState, Owner, View, Writer};
use crate::value::Map;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Files that name modules to load at boot (modules-load.d(5)), and options for them (modprobe.d(5)).
const LOAD: &str = "/etc/modules-load.d";
const OPTIONS: &str = "/etc/modprobe.d";

/// The desired state of a kernel module.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Modprobe {
    pub name: String,
    pub loaded: bool,
    /// Parameters for loading, as for modprobe(8).
    pub params: String,
    /// Whether it is loaded at boot; `None` leaves that as it is.
    pub persistent: Option<bool>,
}

#[derive(Debug)]
pub struct Found {
    module: ModuleState,
    /// Files that are other than desired, with their text now.
    files: Vec<Edit>,
    expected: bool,
}

/// A file that has to be written, or removed where nothing is left in it.
#[derive(Clone, Debug)]
pub struct Edit {
    path: PathBuf,
    before: Option<String>,
    after: Option<String>,
}

#[derive(Debug)]
pub struct Change {
    load: Option<bool>,
    files: Vec<Edit>,
}

#[cfg(feature = "controller")]
impl Modprobe {
    pub fn from_args(mut args: super::args::Args<'_>) -> Result<Self, super::args::ArgError> {
        let name = args.str("name")?;
        let loaded = args.choice("state", &["present", "absent"])? != Some("absent");
        let params = args.opt_str("params")?.unwrap_or_default();
        let persistent = match args.choice("persistent", &["disabled", "present", "absent"])? {
            Some("present") => Some(true),
            Some("absent") => Some(false),
            _ => None,
        };
        args.finish()?;
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c)) {
            return Err(super::args::ArgError::new("name", format!("`{name}` is no name of a kernel module")));
        }
        Ok(Self { name, loaded, params, persistent })
    }
}

impl Modprobe {
    /// The files below a directory that have to change so that `line` is in one of them, or `is_line` in none.
    fn edits(&self, fs: &Fs, dir: &str, line: &str, is_line: impl Fn(&str) -> bool) -> Result<Vec<Edit>, Failure> {
        let Some(wanted) = self.persistent else { return Ok(Vec::new()) };
        let mut edits = Vec::new();
        let mut present = false;
        for path in conf_files(fs, Path::new(dir))? {
            let text = String::from_utf8_lossy(&fs.read(&path)?).into_owned();
            present |= text.lines().any(|other| other.trim() == line);
            if !wanted && text.lines().any(&is_line) {
                let rest: Vec<&str> = text.lines().filter(|line| !is_line(line)).collect();
                let after = (!rest.is_empty()).then(|| rest.join("\n") + "\n");
                edits.push(Edit { path, before: Some(text), after });
            }
        }
        if wanted && !present {
            let path = Path::new(dir).join(format!("{}.conf", self.name));
            let before = fs.read_opt(&path)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
            let kept = before.iter().flat_map(|text| text.lines()).filter(|line| !is_line(line));
            let after = kept.chain([line]).map(|line| format!("{line}\n")).collect();
            edits.push(Edit { path, before, after: Some(after) });
        }
        Ok(edits)
    }
}

fn conf_files(fs: &Fs, dir: &Path) -> Result<Vec<PathBuf>, Failure> {
    if !fs.stat(dir)?.is_some_and(|meta| meta.is_dir()) {
        return Ok(Vec::new());
    }
    let paths = fs.list(dir)?.into_iter().map(|name| dir.join(name));
    let mut files = Vec::new();
    for path in paths.filter(|path| path.extension().is_some_and(|extension| extension == "conf")) {
        if fs.stat(&path)?.is_some_and(|meta| meta.is_file()) {
            files.push(path);
        }
    }
    Ok(files)
}

impl Module for Modprobe {
    type State = Found;
    type Change = Change;

    fn query(&self, view: View<'_>) -> Result<Found, Failure> {
        let (kernel, name) = (view.kernel(), &self.name);
        let module = kernel.module(name);
        let missing = self.loaded && module == ModuleState::Absent;
        let expected = missing && view.anything_may_appear();
        if missing && !expected {
            let release = kernel.release();
            let reason = match kernel.loads_modules() {
                true => format!("it is neither built in nor in /lib/modules/{release}"),
                false => "it is not built in, and this kernel loads no modules".to_owned(),
            };
            return Err(Failure::new(format!("kernel {release} has no module {name}: {reason}")));
        }
        if !self.loaded && module == ModuleState::BuiltIn {
            return Err(Failure::new(format!("the module {name} is built into this kernel and cannot be unloaded")));
        }
        let is_load = |line: &str| line.trim().replace('-', "_") == name.replace('-', "_");
        let mut files = self.edits(view.fs(), LOAD, name, is_load)?;
        if !self.params.is_empty() || self.persistent == Some(false) {
            let line = format!("options {name} {}", self.params);
            let is_option = |line: &str| {
                let mut words = line.split_whitespace();
                words.next() == Some("options") && words.next() == Some(name)
            };
            files.extend(self.edits(view.fs(), OPTIONS, &line, is_option)?);
        }
        Ok(Found { module, files, expected })
    }

    fn diff(&self, found: &Found) -> Option<Change> {
        let usable = found.module.is_usable();
        let load = (usable != self.loaded).then_some(self.loaded);
        let files = found.files.clone();
        (load.is_some() || !files.is_empty()).then_some(Change { load, files })
    }

    fn describe(&self, _: &Found, change: &Change) -> Vec<Diff> {
        let word = |loaded: bool| Some(if loaded { "loaded" } else { "not loaded" }.to_owned());
        let module = change.load.map(|load| Diff::Fields {
            subject: format!("kernel module {}", self.name),
            fields: vec![("state".to_owned(), word(!load), word(load))],
        });
        let text = |edit: &Edit| Diff::Text {
            path: edit.path.display().to_string(),
            before: edit.before.clone(),
            after: edit.after.clone(),
        };
        module.into_iter().chain(change.files.iter().map(text)).collect()
    }

    fn apply(
        &self,
        found: Found,
        change: Change,
        writer: &mut Writer<'_>,
        _: &mut dyn Needs,
    ) -> Result<Applied, Failure> {
        match change.load {
            Some(true) => writer.kernel().load_module(&self.name, &self.params)?,
            Some(false) => writer.kernel().unload_module(&self.name)?,
            None => {}
        }
        for Edit { path, after, .. } in change.files {
            match after {
                Some(text) => {
                    let dir = path.parent().unwrap_or(Path::new("/"));
                    writer.fs().mkdir_all(dir, Some(0o755), Owner::default())?;
                    writer.fs().write(&path, Content::Bytes(text.into_bytes()), Some(0o644), Owner::default())?;
                }
                None => writer.fs().remove(&path)?,
            }
        }
        let after = found.expected.then(|| writer.view().appears_after());
        Ok(Applied::known_after(after, self.result(&found)))
    }

    fn result(&self, _: &Found) -> Map {
        [("name", self.name.as_str().into()), ("params", self.params.as_str().into())]
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modules::testing::{TestNeeds, args};
    use crate::modules::{Outcome, converge};
    use crate::system::{Mode, System};

    fn modprobe(name: &str) -> Modprobe {
        Modprobe { name: name.to_owned(), loaded: true, params: String::new(), persistent: None }
    }

    fn plan(task: &Modprobe, system: &mut System) -> Result<Outcome, Failure> {
        converge(task, system, &mut TestNeeds::default())
    }

    #[test]
    fn a_module_that_the_kernel_has_not_is_named() {
        let failure = plan(&modprobe("kprov-no-such"), &mut System::new(Mode::Apply)).unwrap_err();
        assert!(failure.message.contains("has no module kprov-no-such"), "{failure}");
        let mut system = System::new(Mode::Plan);
        system.writer().processes().run(&crate::system::Command::new(["apt-get"])).unwrap();
        let outcome = plan(&modprobe("kprov-no-such"), &mut system).unwrap();
        assert!(outcome.changed && outcome.grade == crate::modules::Grade::KnownAfterApply);
    }

    #[test]
    fn persistence_is_one_line_in_one_file() {
        let mut system = System::new(Mode::Plan);
        system.writer().kernel().load_module("kprov_dummy", "").unwrap();
        let task = Modprobe { persistent: Some(true), params: "numdummies=2".into(), ..modprobe("kprov_dummy") };
        let outcome = plan(&task, &mut system).unwrap();
        let text = |path: &str, before: Option<&str>, after: Option<&str>| Diff::Text {
            path: path.to_owned(),
            before: before.map(str::to_owned),
            after: after.map(str::to_owned),
        };
        let (load, options) = ("/etc/modules-load.d/kprov_dummy.conf", "/etc/modprobe.d/kprov_dummy.conf");
        let option_line = "options kprov_dummy numdummies=2\n";
        assert_eq!(outcome.diff, [text(load, None, Some("kprov_dummy\n")), text(options, None, Some(option_line))]);
        assert!(!plan(&task, &mut system).unwrap().changed);

        let other = Modprobe { params: "numdummies=3".into(), ..task.clone() };
        let outcome = plan(&other, &mut system).unwrap();
        assert_eq!(outcome.diff, [text(options, Some(option_line), Some("options kprov_dummy numdummies=3\n"))]);

        let gone = Modprobe { persistent: Some(false), loaded: false, ..modprobe("kprov_dummy") };
        assert_eq!(plan(&gone, &mut system).unwrap().diff.len(), 3);
        assert!(!plan(&gone, &mut system).unwrap().changed);
        assert!(!Path::new(load).exists());
    }

    #[test]
    fn arguments() {
        let parsed = Modprobe::from_args(args([("name", "br_netfilter".into()), ("persistent", "present".into())])).unwrap();
        assert_eq!(parsed, Modprobe { persistent: Some(true), ..modprobe("br_netfilter") });
        assert!(Modprobe::from_args(args([("name", "a b".into())])).is_err());
        assert!(Modprobe::from_args(args([("state", "present".into())])).is_err());
    }
}
