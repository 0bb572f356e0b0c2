//! Where unit files and drop-ins are, and which belong to a unit.

use super::super::{Fs, Result};
use super::{Unit, unit_name};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// Where unit files are, first wins (systemd.unit(5)).
const DIRS: [&str; 5] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];
/// Those of them that belong to the host's administrator. Packages own the others.
pub(super) const OWN: [&str; 3] = [DIRS[0], DIRS[1], DIRS[2]];

/// The files that make a unit: its own, and the drop-ins for it alone.
pub(super) struct Files {
    pub(super) fragment: Option<PathBuf>,
    pub(super) drop_ins: Vec<PathBuf>,
}

impl Files {
    pub(super) fn find(name: &str, fs: &Fs) -> Result<Self> {
        let names: Vec<String> = std::iter::once(name.to_owned()).chain(template_of(name)).collect();
        let mut files = Self { fragment: None, drop_ins: Vec::new() };
        for dir in DIRS.map(Path::new) {
            for name in &names {
                let fragment = dir.join(name);
                if files.fragment.is_none() && fs.exists(&fragment)? {
                    files.fragment = Some(fragment);
                }
                let drop_ins = list(fs, &dir.join(format!("{name}.d")))?;
                files.drop_ins.extend(drop_ins.into_iter().filter(|path| path.extension() == Some(OsStr::new("conf"))));
            }
        }
        Ok(files)
    }
}

/// Whether there are drop-ins that the manager does not know of. It does not notice them by itself if their directory is
/// new since the last reload (seen with systemd 252).
pub(super) fn has_new_drop_ins(unit: &Unit, fs: &Fs) -> Result<bool> {
    let known: BTreeSet<_> = unit.drop_in_paths.iter().filter_map(|path| path.file_name()).collect();
    let files = Files::find(&unit.name, fs)?;
    Ok(unit.exists() && files.drop_ins.iter().filter_map(|path| path.file_name()).any(|name| !known.contains(name)))
}

/// The units that have files in [`OWN`].
pub(super) fn own_units(fs: &Fs) -> Result<BTreeSet<String>> {
    Ok(own_files(fs)?.iter().filter_map(|path| unit_of(path)).collect())
}

/// Unit files and drop-ins in [`OWN`]; not the links to others that enabling and masking leave there.
pub(super) fn own_files(fs: &Fs) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for dir in OWN.map(Path::new) {
        for path in list(fs, dir)? {
            let inner = if path.extension() == Some(OsStr::new("d")) { list(fs, &path)? } else { vec![path] };
            for path in inner {
                if fs.lstat(&path)?.is_some_and(|meta| meta.is_file()) {
                    files.push(path);
                }
            }
        }
    }
    Ok(files)
}

/// Whether links that enabling has made are there. They may outlive the unit's file.
pub(super) fn is_wanted(name: &str, fs: &Fs) -> Result<bool> {
    for dir in OWN.map(Path::new) {
        for path in list(fs, dir)? {
            let links = path.extension().is_some_and(|suffix| suffix == "wants" || suffix == "requires");
            if links && fs.lstat(&path.join(name))?.is_some() {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// The unit that a file in a unit directory belongs to; `None` for templates and whatever else is there.
pub(super) fn unit_of(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let parent = path.parent()?.file_name()?.to_str()?;
    let name = parent.strip_suffix(".d").unwrap_or(name);
    let is_unit = unit_name(name) == name && name.contains('.') && !name.contains("@.");
    is_unit.then(|| name.to_owned())
}

/// `getty@.service` for `getty@tty1.service`.
fn template_of(name: &str) -> Option<String> {
    let (prefix, instance) = name.split_once('@')?;
    let (_, suffix) = instance.rsplit_once('.')?;
    Some(format!("{prefix}@.{suffix}"))
}

/// The paths in a directory; none where there is no directory.
fn list(fs: &Fs, dir: &Path) -> Result<Vec<PathBuf>> {
    match fs.stat(dir)? {
        Some(meta) if meta.is_dir() => Ok(fs.list(dir)?.into_iter().map(|name| dir.join(name)).collect()),
        _ => Ok(Vec::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_their_units() {
        let unit = |path: &str| unit_of(Path::new(path));
        assert_eq!(unit("/etc/systemd/system/kubelet.service").as_deref(), Some("kubelet.service"));
        assert_eq!(unit("/etc/systemd/system/kubelet.service.d/10-kprov.conf").as_deref(), Some("kubelet.service"));
        assert_eq!(unit("/etc/systemd/system/getty@.service"), None);
        assert_eq!(unit("/etc/systemd/system/service.d/all.conf"), None);
        assert_eq!(unit("/etc/systemd/system/notes"), None);
        assert_eq!(template_of("getty@tty1.service").as_deref(), Some("getty@.service"));
        assert_eq!(template_of("ssh.service"), None);
    }
}
