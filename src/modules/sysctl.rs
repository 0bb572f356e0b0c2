//! `sysctl`: a kernel setting, now and after the next boot.
//!
//! Arguments as in Ansible's `ansible.posix.sysctl`. Differs in this: with `reload` (the default) the running kernel's
//! value is part of the state, so a value that was changed by hand is set again, and just this setting is written instead of
//! the whole file being loaded.

use super::{Applied, Diff, Failure, Module, Needs};
use crate::system::{Content, Fs, Owner, View, Writer};
use crate::value::Map;
#[cfg(feature = "controller")]
use crate::value::Value;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The desired state of a setting.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sysctl {
    pub name: String,
    /// `None`: absent from the file. The running kernel keeps what it has.
    pub value: Option<String>,
    pub sysctl_file: PathBuf,
    /// Whether the running kernel gets the value too.
    pub live: bool,
    /// A setting that the kernel has not or refuses is no failure.
    pub ignoreerrors: bool,
}

#[derive(Debug)]
pub struct Found {
    /// The file, past links.
    path: PathBuf,
    text: Option<String>,
    in_file: Option<String>,
    live: Option<String>,
    /// The kernel has no such setting now, but a planned module can bring it.
    expected: bool,
}

#[derive(Debug)]
pub struct Change {
    /// The new text of the file.
    text: Option<String>,
    live: bool,
}

#[cfg(feature = "controller")]
impl Sysctl {
    pub fn from_args(mut args: super::args::Args<'_>) -> Result<Self, super::args::ArgError> {
        use super::args::{ArgError, missing};
        let name = args.required(&["name", "key"])?;
        // YAML makes booleans of these words, and so does Ansible here.
        let value = args.first_of(&["value", "val"])?.map(|text| match Value::from(text.as_str()).to_bool() {
            Some(truth) => i32::from(truth).to_string(),
            None => normal(&text),
        });
        let absent = args.choice("state", &["present", "absent"])? == Some("absent");
        let sysctl_file = args.opt_str("sysctl_file")?.unwrap_or_else(|| "/etc/sysctl.conf".to_owned()).into();
        let live = args.bool("sysctl_set", false)? | args.bool("reload", true)?;
        let ignoreerrors = args.bool("ignoreerrors", false)?;
        args.finish()?;
        // Two separators in a row would lead up and out of /proc/sys.
        let leads_out = ["..", "//", "./", "/."].iter().any(|pair| name.contains(pair));
        if name.is_empty() || name.contains(['=', ' ', '\n']) || leads_out {
            return Err(ArgError::new("name", format!("`{name}` is no name of a kernel setting")));
        }
        let value = match (absent, value) {
            (true, _) => None,
            (false, Some(value)) if !value.is_empty() => Some(value),
            (false, _) => return Err(missing("value")),
        };
        Ok(Self { name, live: live && value.is_some(), value, sysctl_file, ignoreerrors })
    }
}

impl Module for Sysctl {
    type State = Found;
    type Change = Change;

    fn query(&self, view: View<'_>) -> Result<Found, Failure> {
        let path = view.fs().resolve(&self.sysctl_file)?;
        let text = read(view.fs(), &path)?;
        let lines = text.as_deref().unwrap_or_default().lines().filter_map(parse);
        let in_file = lines.rev().find(|(name, _)| same(name, &self.name)).map(|(_, value)| value);
        let live = if self.live { view.kernel().sysctl(&self.name)?.map(|value| normal(&value)) } else { None };
        let unknown = self.live && live.is_none();
        let expected = unknown && (view.kernel().sysctls_may_appear() || view.anything_may_appear());
        if unknown && !expected && !self.ignoreerrors {
            let hint = "is a kernel module missing?";
            return Err(Failure::new(format!("this kernel has no setting {} ({hint})", self.name)));
        }
        Ok(Found { path, text, in_file, live, expected })
    }

    fn diff(&self, found: &Found) -> Option<Change> {
        let text = (found.in_file != self.value).then(|| self.edit(found.text.as_deref().unwrap_or_default()));
        let live = self.live && found.live != self.value && (found.live.is_some() || found.expected);
        (text.is_some() || live).then_some(Change { text, live })
    }

    fn describe(&self, found: &Found, change: &Change) -> Vec<Diff> {
        let mut fields = Vec::new();
        if change.text.is_some() {
            fields.push((found.path.display().to_string(), found.in_file.clone(), self.value.clone()));
        }
        if change.live {
            fields.push(("live".to_owned(), found.live.clone(), self.value.clone()));
        }
        vec![Diff::Fields { subject: format!("sysctl {}", self.name), fields }]
    }

    fn apply(
        &self,
        found: Found,
        change: Change,
        writer: &mut Writer<'_>,
        _: &mut dyn Needs,
    ) -> Result<Applied, Failure> {
        // The running kernel first: what it refuses does not get into the file.
        let mut changed = change.text.is_some();
        if let (true, Some(value)) = (change.live, &self.value) {
            match writer.kernel().set_sysctl(&self.name, value) {
                Ok(()) => changed = true,
                Err(_) if self.ignoreerrors => {}
                Err(error) => return Err(Failure::new(format!("cannot set {} to {value}: {error}", self.name))),
            }
        }
        if let Some(text) = change.text {
            let mode = found.text.is_none().then_some(0o644);
            writer.fs().write(&found.path, Content::Bytes(text.into_bytes()), mode, Owner::default())?;
        }
        let after = found.expected.then(|| writer.view().appears_after());
        Ok(Applied { changed: Some(changed), ..Applied::known_after(after, Map::new()) })
    }

    fn result(&self, _: &Found) -> Map {
        Map::new()
    }
}

impl Sysctl {
    /// The file with one line for this setting, where its first one was, or without any.
    fn edit(&self, text: &str) -> String {
        let mut value = self.value.as_ref();
        let mut edited = String::new();
        let mut add = |line: &str| {
            edited.push_str(line);
            edited.push('\n');
        };
        for line in text.lines() {
            match parse(line) {
                Some((name, _)) if same(&name, &self.name) => {
                    if let Some(value) = value.take() {
                        add(&format!("{}={value}", self.name));
                    }
                }
                _ => add(line),
            }
        }
        if let Some(value) = value {
            add(&format!("{}={value}", self.name));
        }
        edited
    }
}

/// Name and value of a line of sysctl.conf(5).
fn parse(line: &str) -> Option<(String, String)> {
    let line = line.trim();
    if line.starts_with(['#', ';']) {
        return None;
    }
    let (name, value) = line.split_once('=')?;
    Some((name.trim().trim_start_matches('-').to_owned(), normal(value)))
}

fn same(a: &str, b: &str) -> bool {
    a == b || a.replace('/', ".") == b.replace('/', ".")
}

/// The kernel separates numbers by tabs, people by spaces.
fn normal(value: &str) -> String {
    value.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn read(fs: &Fs, path: &Path) -> Result<Option<String>, Failure> {
    let bytes = fs.read_opt(path)?;
    Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modules::testing::{TestNeeds, args, check, check_fails};
    use crate::modules::{Resource, converge};
    use crate::system::{Mode, System};

    /// A setting of this network namespace that nothing depends on, with the value that it has.
    const NAME: &str = "net.ipv4.igmp_max_memberships";

    fn sysctl(file: &Path, name: &str, value: Option<&str>) -> Sysctl {
        let value = value.map(str::to_owned);
        Sysctl { name: name.to_owned(), live: value.is_some(), value, sysctl_file: file.to_owned(), ignoreerrors: false }
    }

    fn live() -> String {
        std::fs::read_to_string("/proc/sys/net/ipv4/igmp_max_memberships").unwrap().trim().to_owned()
    }

    #[test]
    fn the_file_keeps_what_else_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("99-kprov.conf");
        std::fs::write(&file, format!("# mine\nkernel.panic = 10\n-{NAME} = 3\n;x\n{}=4\n", NAME.replace('.', "/"))).unwrap();
        let now = live();
        let outcome = check(&sysctl(&file, NAME, Some(&now)), dir.path());
        let fields = vec![(file.display().to_string(), Some("4".to_owned()), Some(now.clone()))];
        assert_eq!(outcome.diff, [Diff::Fields { subject: format!("sysctl {NAME}"), fields }]);
        let expected = format!("# mine\nkernel.panic = 10\n{NAME}={now}\n;x\n");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), expected);

        check(&sysctl(&file, NAME, None), dir.path());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "# mine\nkernel.panic = 10\n;x\n");
    }

    #[test]
    fn a_link_stays_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("99-sysctl.conf");
        std::os::unix::fs::symlink("../sysctl.conf", &link).unwrap();
        std::fs::create_dir(dir.path().join("d")).unwrap();
        let inner = dir.path().join("d/99-sysctl.conf");
        std::os::unix::fs::symlink("../sysctl.conf", &inner).unwrap();
        check(&sysctl(&inner, NAME, Some(&live())), dir.path());
        assert_eq!(std::fs::read_to_string(dir.path().join("sysctl.conf")).unwrap(), format!("{NAME}={}\n", live()));
        assert!(inner.is_symlink());
    }

    #[test]
    fn the_running_value_is_part_of_the_state() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("conf");
        let now = live();
        std::fs::write(&file, format!("{NAME}=77\n")).unwrap();
        let task = sysctl(&file, NAME, Some("77"));
        let outcome = converge(&task, &mut System::new(Mode::Plan), &mut TestNeeds::default()).unwrap();
        let fields = vec![("live".to_owned(), Some(now.clone()), Some("77".to_owned()))];
        assert_eq!(outcome.diff, [Diff::Fields { subject: format!("sysctl {NAME}"), fields }]);
        assert_eq!(live(), now);
    }

    #[test]
    fn settings_that_the_kernel_has_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("conf");
        let task = sysctl(&file, "net.kprov.no_such_setting", Some("1"));
        assert!(check_fails(&task, dir.path()).starts_with("this kernel has no setting net.kprov.no_such_setting"));
        let lenient = Sysctl { ignoreerrors: true, ..task.clone() };
        assert!(check(&lenient, dir.path()).changed);

        let mut plan = System::new(Mode::Plan);
        plan.writer().kernel().load_module("kprov_module", "").unwrap();
        let outcome = converge(&task, &mut plan, &mut TestNeeds::default()).unwrap();
        assert!(outcome.changed && outcome.grade == crate::modules::Grade::KnownAfterApply);
    }

    #[test]
    fn arguments() {
        let parse = |pairs| Sysctl::from_args(args(pairs));
        let parsed = parse([("name", "net.ipv4.ip_forward".into()), ("value", true.into())]).unwrap();
        assert_eq!((parsed.value.as_deref(), parsed.live), (Some("1"), true));
        let parsed = parse([("key", "a.b".into()), ("val", "1\t2".into())]).unwrap();
        assert_eq!(parsed.value.as_deref(), Some("1 2"));
        assert!(Sysctl::from_args(args([("name", "a.b".into())])).is_err());
        assert!(parse([("name", "a/../b".into()), ("value", 1.into())]).is_err());
        assert!(Resource::Sysctl(parsed) != Resource::Sysctl(sysctl(Path::new("/x"), "a", None)));
    }
}
