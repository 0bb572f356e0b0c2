//! The mounts of this machine, as `/proc/self/mountinfo` has them (proc_pid_mountinfo(5)).

use super::LabError;
use rustix::mount::UnmountFlags;
use std::path::{Path, PathBuf};

/// One line of mountinfo.
#[derive(Debug, PartialEq, Eq)]
pub struct Mount {
    /// The directory of the file system that is mounted here.
    pub root: String,
    pub target: PathBuf,
    pub kind: String,
    /// The options of the file system (for cgroup v1: its controllers).
    pub options: String,
}

pub fn all() -> Result<Vec<Mount>, LabError> {
    let path = "/proc/self/mountinfo";
    Ok(parse(&std::fs::read_to_string(path).map_err(LabError::io(path))?))
}

pub fn is_mounted(target: &Path) -> Result<bool, LabError> {
    Ok(all()?.iter().any(|mount| mount.target == target))
}

/// Unmounts everything at and below `dir`, the latest first; a mount that is busy is detached.
pub fn unmount_below(dir: &Path) -> Result<(), LabError> {
    for mount in all()?.iter().rev().filter(|mount| mount.target.starts_with(dir)) {
        rustix::mount::unmount(&mount.target, UnmountFlags::NOFOLLOW)
            .or_else(|_| rustix::mount::unmount(&mount.target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW))
            .map_err(|error| LabError::io(&mount.target)(error.into()))?;
    }
    Ok(())
}

fn parse(text: &str) -> Vec<Mount> {
    text.lines()
        .filter_map(|line| {
            let (mount, file_system) = line.split_once(" - ")?;
            let mut mount = mount.split(' ').skip(3);
            let mut file_system = file_system.split(' ');
            Some(Mount {
                root: unescape(mount.next()?),
                target: unescape(mount.next()?).into(),
                kind: file_system.next()?.to_owned(),
                options: file_system.nth(1)?.to_owned(),
            })
        })
        .collect()
}

/// Blank, tab, newline and backslash are written in octal, `\040`.
fn unescape(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (code, plain)| text.replace(code, plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_with_and_without_optional_fields() {
        let text = "36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n\
                    29 24 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        let mounts = parse(text);
        assert_eq!(mounts[0].target, Path::new("/mnt 2"));
        assert_eq!((mounts[0].root.as_str(), mounts[0].kind.as_str()), ("/mnt1", "ext3"));
        assert_eq!((mounts[1].kind.as_str(), mounts[1].options.as_str()), ("cgroup", "rw,memory"));
    }
}
