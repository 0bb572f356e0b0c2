//! One table of changes, each done on paper and then on disk: the plan must leave no trace and foretell the outcome.

use super::*;
use crate::system::testing::{assert_same, snapshot, tree};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

const NOBODY: Owner = Owner { uid: Some(65534), gid: Some(65534) };
const NO_OWNER: Owner = Owner { uid: None, gid: None };

fn bytes(text: &str) -> Content {
    Content::Bytes(text.into())
}

/// A tree with a bit of everything: `file` (0640), `dir/inner/deep`, links to a file, a directory, nothing, themselves.
fn fixture() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    fs::create_dir_all(at("dir/inner")).unwrap();
    fs::write(at("file"), "old\n").unwrap();
    fs::set_permissions(at("file"), fs::Permissions::from_mode(0o640)).unwrap();
    fs::write(at("dir/inner/deep"), "deep\n").unwrap();
    fs::create_dir(at("group")).unwrap();
    rustix::fs::chown(at("group"), None, Some(rustix::fs::Gid::from_raw(12))).unwrap();
    fs::set_permissions(at("group"), fs::Permissions::from_mode(0o2775)).unwrap();
    symlink("file", at("to-file")).unwrap();
    symlink(at("dir"), at("to-dir")).unwrap();
    symlink("nowhere", at("dangling")).unwrap();
    symlink("loop", at("loop")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, at("fifo"), rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
    root
}

type Change = fn(&mut Fs, &dyn Fn(&str) -> PathBuf) -> Result<()>;

#[rustfmt::skip]
const CHANGES: &[(&str, Change)] = &[
    ("write a new file", |fs, at| fs.write(&at("new"), bytes("x"), None, NO_OWNER)),
    ("write with mode and owner", |fs, at| fs.write(&at("new"), bytes("x"), Some(0o4711), NOBODY)),
    ("keep mode when replacing", |fs, at| fs.write(&at("file"), bytes("x"), None, NO_OWNER)),
    ("keep owner when replacing", |fs, at| {
        fs.chown(&at("file"), NOBODY)?;
        fs.write(&at("file"), bytes("x"), Some(0o600), NO_OWNER)
    }),
    ("replace a link, not its target", |fs, at| fs.write(&at("to-file"), bytes("x"), None, NO_OWNER)),
    ("write through a link to a directory", |fs, at| fs.write(&at("to-dir/inner/deep"), bytes("x"), None, NO_OWNER)),
    ("write in a set-group-ID directory", |fs, at| fs.write(&at("group/new"), bytes("x"), None, NO_OWNER)),
    ("write over a directory", |fs, at| fs.write(&at("dir"), bytes("x"), None, NO_OWNER)),
    ("write over a fifo", |fs, at| fs.write(&at("fifo"), bytes("x"), None, NO_OWNER)),
    ("write where no directory is", |fs, at| fs.write(&at("no/such/file"), bytes("x"), None, NO_OWNER)),
    ("write below a file", |fs, at| fs.write(&at("file/x"), bytes("x"), None, NO_OWNER)),
    ("write below a loop of links", |fs, at| fs.write(&at("loop/x"), bytes("x"), None, NO_OWNER)),
    ("copy a file", |fs, at| fs.write(&at("copy"), Content::CopyOf(at("to-file")), Some(0o600), NO_OWNER)),
    ("copy a changed file", |fs, at| {
        fs.write(&at("file"), bytes("new"), None, NO_OWNER)?;
        fs.write(&at("copy"), Content::CopyOf(at("file")), None, NO_OWNER)?;
        fs.write(&at("file"), bytes("newer"), None, NO_OWNER)
    }),
    ("copy what is not there", |fs, at| fs.write(&at("copy"), Content::CopyOf(at("absent")), None, NO_OWNER)),
    ("make directories", |fs, at| fs.mkdir_all(&at("a/b/c"), Some(0o750), NOBODY)),
    ("make directories as they come", |fs, at| fs.mkdir_all(&at("a/b"), None, NO_OWNER)),
    ("make a directory in a set-group-ID directory", |fs, at| fs.mkdir_all(&at("group/a/b"), None, NO_OWNER)),
    ("make a directory that is there", |fs, at| fs.mkdir_all(&at("to-dir/inner"), Some(0o700), NOBODY)),
    ("make a directory over a file", |fs, at| fs.mkdir_all(&at("file"), None, NO_OWNER)),
    ("make a directory below a file", |fs, at| fs.mkdir_all(&at("file/a"), None, NO_OWNER)),
    ("make a directory over a dangling link", |fs, at| fs.mkdir_all(&at("dangling"), None, NO_OWNER)),
    ("fill a new directory", |fs, at| {
        fs.mkdir_all(&at("a/b"), None, NO_OWNER)?;
        fs.write(&at("a/b/c"), bytes("x"), None, NO_OWNER)?;
        fs.symlink(&at("a/link"), Path::new("b/../b"))?;
        fs.write(&at("a/link/d"), bytes("y"), None, NO_OWNER)
    }),
    ("link", |fs, at| fs.symlink(&at("link"), Path::new("dir/inner"))),
    ("link over a file", |fs, at| fs.symlink(&at("file"), Path::new("dir"))),
    ("link over a link", |fs, at| fs.symlink(&at("to-dir"), Path::new("/nowhere"))),
    ("link over a directory", |fs, at| fs.symlink(&at("dir"), Path::new("file"))),
    ("link where no directory is", |fs, at| fs.symlink(&at("no/link"), Path::new("file"))),
    ("hard link", |fs, at| fs.hard_link(&at("hard"), &at("file"))),
    ("hard link over itself", |fs, at| {
        fs.hard_link(&at("hard"), &at("file"))?;
        fs.hard_link(&at("hard"), &at("file"))
    }),
    ("hard links share their mode", |fs, at| {
        fs.hard_link(&at("hard"), &at("file"))?;
        fs.chmod(&at("file"), 0o604)
    }),
    ("replacing a file ends its hard link", |fs, at| {
        fs.hard_link(&at("hard"), &at("file"))?;
        fs.write(&at("file"), bytes("x"), None, NO_OWNER)?;
        fs.chmod(&at("file"), 0o604)
    }),
    ("hard link to nothing", |fs, at| fs.hard_link(&at("hard"), &at("absent"))),
    ("hard link to a directory", |fs, at| fs.hard_link(&at("hard"), &at("dir"))),
    ("remove a file", |fs, at| fs.remove(&at("file"))),
    ("remove a link, not its target", |fs, at| fs.remove(&at("to-dir"))),
    ("remove a tree", |fs, at| fs.remove(&at("dir"))),
    ("remove through a link", |fs, at| fs.remove(&at("to-dir/inner"))),
    ("remove what is not there", |fs, at| fs.remove(&at("absent/x"))),
    ("a tree made anew shows nothing of the old", |fs, at| {
        fs.remove(&at("dir"))?;
        fs.mkdir_all(&at("dir/inner"), None, NO_OWNER)?;
        fs.write(&at("dir/inner/other"), bytes("x"), None, NO_OWNER)
    }),
    ("remove what was just made", |fs, at| {
        fs.mkdir_all(&at("a/b"), None, NO_OWNER)?;
        fs.write(&at("a/b/c"), bytes("x"), None, NO_OWNER)?;
        fs.remove(&at("a/b"))
    }),
    ("write in a tree that was removed", |fs, at| {
        fs.remove(&at("dir"))?;
        fs.write(&at("dir/inner/deep"), bytes("x"), None, NO_OWNER)
    }),
    ("a directory instead of a link", |fs, at| {
        fs.remove(&at("to-dir"))?;
        fs.mkdir_all(&at("to-dir/other"), None, NO_OWNER)
    }),
    ("a link instead of a directory", |fs, at| {
        fs.remove(&at("dir"))?;
        fs.symlink(&at("dir"), &at("group"))?;
        fs.write(&at("dir/x"), bytes("x"), None, NO_OWNER)
    }),
    ("chmod a file", |fs, at| fs.chmod(&at("file"), 0o4755)),
    ("chmod a directory, then write in it", |fs, at| {
        fs.chmod(&at("dir"), 0o700)?;
        fs.write(&at("dir/new"), bytes("x"), None, NO_OWNER)
    }),
    ("chmod a link", |fs, at| fs.chmod(&at("to-file"), 0o600)),
    ("chmod nothing", |fs, at| fs.chmod(&at("absent"), 0o600)),
    ("chown a file", |fs, at| fs.chown(&at("file"), NOBODY)),
    ("chown a link", |fs, at| fs.chown(&at("to-file"), NOBODY)),
    ("chown clears set-ID bits", |fs, at| {
        fs.chmod(&at("file"), 0o6755)?;
        fs.chown(&at("file"), NOBODY)
    }),
    ("chown leaves a locking bit", |fs, at| {
        fs.chmod(&at("file"), 0o6644)?;
        fs.chown(&at("file"), NOBODY)
    }),
    ("chown to the same", |fs, at| {
        fs.chmod(&at("file"), 0o6755)?;
        fs.chown(&at("file"), Owner { uid: Some(rustix::process::geteuid().as_raw()), gid: None })
    }),
    ("chown a set-group-ID directory", |fs, at| fs.chown(&at("group"), NOBODY)),
    ("chown nothing", |fs, at| fs.chown(&at("absent"), NOBODY)),
    ("touch a new file", |fs, at| fs.touch(&at("new"), Touch { access: true, modification: true })),
    ("touch a file", |fs, at| fs.touch(&at("file"), Touch { access: true, modification: true })),
    ("read a directory", |fs, at| fs.read(&at("dir")).map(drop)),
    ("list a file", |fs, at| fs.list(&at("file")).map(drop)),
    ("read nothing", |fs, at| fs.read(&at("absent")).map(drop)),
    ("read nothing that was there", |fs, at| {
        fs.remove(&at("file"))?;
        fs.read(&at("to-file")).map(drop)
    }),
    ("list a directory that is no more", |fs, at| {
        fs.remove(&at("dir"))?;
        fs.list(&at("to-dir")).map(drop)
    }),
];

#[test]
fn a_plan_touches_nothing_and_foretells_what_is_done() {
    for (what, change) in CHANGES {
        let root = fixture();
        let at = |name: &str| root.path().join(name);
        let before = snapshot(root.path());

        let mut plan = Fs::new(Mode::Plan);
        let planned = change(&mut plan, &at).map_err(|error| error.to_string());
        assert_eq!(snapshot(root.path()), before, "{what}: the plan has changed something");

        let (foretold, seen) = (tree(&plan, root.path()), look(&plan, &at));
        let mut real = Fs::new(Mode::Apply);
        let done = change(&mut real, &at).map_err(|error| error.to_string());
        assert_eq!(planned, done, "{what}");
        assert_same(foretold, &tree(&real, root.path()), what);
        let left: Vec<_> = real
            .list(root.path())
            .unwrap()
            .into_iter()
            .filter(|name| name.to_string_lossy().starts_with('.'))
            .collect();
        assert!(left.is_empty(), "{what}: temporary files are left: {left:?}");

        assert_eq!(seen, look(&real, &at), "{what}");
    }
}

/// What reading through links and parents says, errors included.
fn look(fs: &Fs, at: &dyn Fn(&str) -> PathBuf) -> Vec<String> {
    ["file", "to-file", "dir/inner/deep", "to-dir/inner/deep", "dangling", "loop", "a/link/d", "hard", "new", "dir/.."]
        .map(|name| {
            let stat = fs.stat(&at(name)).map(|meta| meta.map(|meta| (meta.kind, meta.mode, meta.uid, meta.gid)));
            format!("{name}: {:?} {stat:?} {:?}", fs.read_opt(&at(name)), fs.resolve(&at(name)))
        })
        .into()
}

#[test]
fn hard_links_are_one_file() {
    let root = fixture();
    let at = |name: &str| root.path().join(name);
    for mode in [Mode::Plan, Mode::Apply] {
        let mut fs = Fs::new(mode);
        assert!(!fs.same_file(&at("file"), &at("hard")).unwrap());
        fs.hard_link(&at("hard"), &at("file")).unwrap();
        assert!(fs.same_file(&at("file"), &at("hard")).unwrap(), "{mode:?}");
        assert!(!fs.same_file(&at("file"), &at("dir/inner/deep")).unwrap(), "{mode:?}");
        fs.write(&at("file"), bytes("x"), None, NO_OWNER).unwrap();
        assert!(!fs.same_file(&at("file"), &at("hard")).unwrap(), "{mode:?}");
    }
}

#[test]
fn what_is_not_known_is_not_guessed() {
    let root = fixture();
    let path = root.path().join("file");
    let mut plan = Fs::new(Mode::Plan);
    plan.write(&path, Content::later(), None, NO_OWNER).unwrap();
    assert!(matches!(plan.read(&path), Err(SystemError::Unknown)));
    assert!(matches!(plan.read_opt(&root.path().join("to-file")), Err(SystemError::Unknown)));
    assert!(matches!(plan.sha256(&path), Err(SystemError::Unknown)));
    assert_eq!(plan.stat(&path).unwrap().unwrap().size, None);
    assert_eq!(plan.stat(&path).unwrap().unwrap().stamp, None);

    plan.write(&path, Content::Blob { sha256: "abc".into() }, None, NO_OWNER).unwrap();
    assert_eq!(plan.sha256(&path).unwrap(), "abc");
    assert!(matches!(plan.read(&path), Err(SystemError::Unknown)));
}

#[test]
fn touch_sets_the_times_that_were_asked_for() {
    let root = fixture();
    let path = root.path().join("file");
    let mut fs = Fs::new(Mode::Apply);
    let stamp = |fs: &Fs| fs.lstat(&path).unwrap().unwrap().stamp.unwrap();
    fs::File::open(&path).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    let before = stamp(&fs);
    fs.touch(&path, Touch { access: true, modification: false }).unwrap();
    assert_eq!(stamp(&fs).mtime, before.mtime);
    fs.touch(&path, Touch { access: false, modification: true }).unwrap();
    assert!(stamp(&fs).mtime > before.mtime);
}

#[test]
fn a_staged_file_is_moved_into_place() {
    let root = fixture();
    let (staged, path) = (root.path().join("staged"), root.path().join("file"));
    fs::write(&staged, "fetched").unwrap();
    let content = Content::Staged { path: staged.clone(), sha256: "of no interest here".into() };
    Fs::new(Mode::Apply).write(&path, content, Some(0o755), NO_OWNER).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"fetched");
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o755);
    assert!(!staged.exists());
}

/// A small tmpfs of its own; gone when dropped.
struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        rustix::mount::mount("tmpfs", directory.path(), "tmpfs", rustix::mount::MountFlags::empty(), Some(c"size=64k"))
            .expect("this test mounts a tmpfs, so it has to run as root");
        Self(directory)
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH);
    }
}

#[test]
fn a_full_disk_is_said_and_leaves_the_old_file() {
    let tmpfs = Tmpfs::new();
    let path = tmpfs.0.path().join("file");
    let mut fs = Fs::new(Mode::Apply);
    fs.write(&path, bytes("old"), None, NO_OWNER).unwrap();
    let error = fs.write(&path, Content::Bytes(vec![b'x'; 1 << 20]), None, NO_OWNER).unwrap_err();
    assert!(error.to_string().ends_with("no space left on its file system; free some and run again"), "{error}");
    assert_eq!(fs.read(&path).unwrap(), b"old");
    assert_eq!(fs.list(tmpfs.0.path()).unwrap(), ["file"], "a temporary file is left");
}

#[test]
fn a_read_only_file_system_is_said() {
    let tmpfs = Tmpfs::new();
    let path = tmpfs.0.path().join("file");
    let mut fs = Fs::new(Mode::Apply);
    fs.write(&path, bytes("old"), None, NO_OWNER).unwrap();
    rustix::mount::mount_remount(tmpfs.0.path(), rustix::mount::MountFlags::RDONLY, c"").unwrap();
    for error in [
        fs.write(&path, bytes("new"), None, NO_OWNER).unwrap_err(),
        fs.mkdir_all(&tmpfs.0.path().join("dir"), None, NO_OWNER).unwrap_err(),
        fs.symlink(&path, Path::new("x")).unwrap_err(),
        fs.remove(&path).unwrap_err(),
        fs.chmod(&path, 0o600).unwrap_err(),
    ] {
        assert!(error.to_string().ends_with("its file system is mounted read-only"), "{error}");
    }
}

#[test]
fn a_tree_with_a_mount_in_it_is_not_removed() {
    let tmpfs = Tmpfs::new();
    let mut fs = Fs::new(Mode::Apply);
    let file = tmpfs.0.path().join("file");
    fs.write(&file, bytes("precious"), None, NO_OWNER).unwrap();
    let error = fs.remove(tmpfs.0.path()).unwrap_err().to_string();
    assert!(error.contains("something is mounted at"), "{error}");
    assert!(file.exists());
}

#[test]
fn who_has_the_file_open_keeps_the_old_content() {
    let root = fixture();
    let path = root.path().join("file");
    let mut reader = fs::File::open(&path).unwrap();
    Fs::new(Mode::Apply).write(&path, bytes("new"), None, NO_OWNER).unwrap();
    assert_eq!(io::read_to_string(&mut reader).unwrap(), "old\n");
}
