//! Files and directories that are not complete yet: made under a name of their own beside the path that they are for.
//!
//! What an agent that was killed has left in a directory goes when the next one makes something there: the task that was
//! cut off runs again, and on the same paths. Of another agent that lives, nothing is touched: what was written to since
//! this agent began is not left.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};
use tempfile::{Builder, NamedTempFile, TempDir};

/// How their names begin; six random characters follow.
///
/// Hidden and without a suffix: directories such as /etc/sysctl.d and /etc/cni/net.d are read by pattern.
const PREFIX: &str = ".kprov-";
const RANDOM: usize = 6;

/// Clocks of file systems are coarser than the system's.
const TICK: Duration = Duration::from_secs(1);

/// A new, private file in a directory.
pub fn file_in(directory: &Path) -> io::Result<NamedTempFile> {
    sweep(directory);
    builder().tempfile_in(directory)
}

/// A new, private directory in a directory.
pub fn directory_in(directory: &Path) -> io::Result<TempDir> {
    sweep(directory);
    builder().permissions(Permissions::from_mode(0o700)).tempdir_in(directory)
}

/// Whatever `make` makes at the path that it is given.
pub fn make_in(directory: &Path, make: impl Fn(&Path) -> io::Result<()>) -> io::Result<NamedTempFile<()>> {
    sweep(directory);
    builder().make_in(directory, |path| make(path))
}

/// Whether a name is one that was given here.
pub fn is_temporary(name: &OsStr) -> bool {
    name.to_str().and_then(|name| name.strip_prefix(PREFIX)).is_some_and(|random| random.len() == RANDOM)
}

fn builder() -> Builder<'static, 'static> {
    let mut builder = Builder::new();
    builder.prefix(PREFIX).rand_bytes(RANDOM);
    builder
}

/// Removes what is left in a directory. What cannot be removed is in nobody's way.
fn sweep(directory: &Path) {
    static BEGUN: OnceLock<SystemTime> = OnceLock::new();
    let begun = *BEGUN.get_or_init(SystemTime::now) - TICK;
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let Ok(meta) = entry.metadata() else { continue };
        if !is_temporary(&entry.file_name()) || !meta.modified().is_ok_and(|time| time < begun) {
            continue;
        }
        let _ = if meta.is_dir() { fs::remove_dir(entry.path()) } else { fs::remove_file(entry.path()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_agent_has_left_goes() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        for name in [".kprov-a1B2c3", ".kprov-fresh1", ".kprov-artifact", "other"] {
            fs::write(at(name), "x").unwrap();
        }
        fs::create_dir(at(".kprov-dirdir")).unwrap();
        for name in [".kprov-a1B2c3", ".kprov-artifact", ".kprov-dirdir", "other"] {
            let file = fs::File::open(at(name)).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(60)).unwrap();
        }
        let made = file_in(root.path()).unwrap();
        let mut names: Vec<_> = fs::read_dir(root.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.sort();
        let mut expected = [at(".kprov-artifact"), at(".kprov-fresh1"), made.path().to_owned(), at("other")];
        expected.sort();
        assert_eq!(names, expected);
    }
}
