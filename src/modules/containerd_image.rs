//! `containerd_image`: an image in containerd, imported from an archive that the controller holds.
//!
//! The archive is asked for only where containerd has no image of that name in the namespace (`k8s.io` is kubelet's).
//! A name stands for one content: an image of the name is not compared with the archive.
//!
//! containerd is asked, and images are imported, with `ctr(8)`. Where containerd does not answer or there is no `ctr` (yet),
//! its database tells: it starts with what it has stored, so that a plan knows what is missing when it is stopped.

use super::{Applied, Blob, Diff, Failure, Module, Needs, bolt};
use crate::system::{Command, Output, SystemError, View, Writer};
use crate::value::{Map, Value};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// An image to be there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContainerdImage {
    /// With registry and tag: `registry.k8s.io/pause:3.10.1`.
    pub name: String,
    /// Of the archive (`docker save` or OCI layout), `sha256:HEX` or `sha512:HEX`.
    pub digest: String,
    /// Path of `ctr`.
    pub ctr: String,
    pub namespace: String,
    /// containerd's `root`.
    pub root: PathBuf,
}

/// A containerd that hangs must not hang a run.
const QUERY: Duration = Duration::from_secs(30);
/// How long `ctr` may try to connect: one that runs answers at once.
const CONNECT: &str = "2s";
/// Below containerd's root.
const DATABASE: &str = "io.containerd.metadata.v1.bolt/meta.db";
const IMPORT: Duration = Duration::from_secs(600);
/// Keeps the kubelet from removing an image that no pod uses yet: it could not be had again.
const PINNED: &str = "io.cri-containerd.pinned=pinned";
/// Where the archive is while it is imported: on disk, there on every system (file-hierarchy(7)).
const STAGING: &str = "/var/tmp";

#[cfg(feature = "controller")]
impl ContainerdImage {
    pub fn from_args(mut args: super::args::Args<'_>) -> Result<Self, super::args::ArgError> {
        use super::args::ArgError;
        let name = args.str("name")?;
        // It goes into a filter expression of containerd, and is looked up as containerd writes names.
        let known = |c: char| c.is_ascii_alphanumeric() || "./:-_@".contains(c);
        if !name.chars().all(known) || !name.contains('/') || !name.rsplit('/').next().is_some_and(|n| n.contains(':')) {
            let mut error = ArgError::new("name", format!("`name` is `{name}`, which is no full name of an image"));
            error.help = Some("write registry, path and tag: registry.k8s.io/pause:3.10.1".to_owned());
            return Err(error);
        }
        let module = Self {
            name,
            digest: args.str("digest")?,
            ctr: args.opt_str("ctr")?.unwrap_or_else(|| "/usr/local/bin/ctr".to_owned()),
            namespace: args.opt_str("namespace")?.unwrap_or_else(|| "k8s.io".to_owned()),
            root: args.opt_str("root")?.map_or_else(|| "/var/lib/containerd".into(), Into::into),
        };
        args.finish()?;
        Ok(module)
    }
}

impl ContainerdImage {
    fn command(&self, arguments: &[&str]) -> Command {
        Command::new([self.ctr.as_str(), "--namespace", &self.namespace, "images"].iter().chain(arguments).copied())
    }

    fn is_there(&self, view: View<'_>) -> Result<bool, Failure> {
        let database = self.root.join(DATABASE);
        if !view.fs().exists(&database)? {
            return Ok(false);
        }
        if let Some(images) = self.listed(view)? {
            return Ok(images.lines().any(|line| line == self.name));
        }
        Ok(bolt::has(view.fs(), &database, &["v1", &self.namespace, "images", &self.name])?.unwrap_or(false))
    }

    /// What containerd says that it has of this name; `None` where it does not answer. A `ctr` that is only planned cannot
    /// ask, but the one that it replaces can.
    fn listed(&self, view: View<'_>) -> Result<Option<String>, Failure> {
        let planned = view.fs().resolve(Path::new(&self.ctr))?;
        let on_disk = view.fs().lstat(&planned)?.is_some_and(|meta| meta.stamp.is_some());
        let ctr = if on_disk { planned.display().to_string() } else { self.ctr.clone() };
        let filter = format!("name=={}", self.name);
        let argv = [&ctr, "--connect-timeout", CONNECT, "--namespace", &self.namespace, "images", "ls", "-q", &filter];
        let said = view.processes().probe(&Command::new(argv).timeout(QUERY));
        Ok(said.ok().filter(Output::success).map(|said| said.stdout))
    }

    fn facts(&self) -> Map {
        let facts: [(&str, Value); 2] = [("name", self.name.as_str().into()), ("digest", self.digest.as_str().into())];
        facts.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }
}

impl Module for ContainerdImage {
    /// Whether the image is there.
    type State = bool;
    type Change = ();

    fn query(&self, view: View<'_>) -> Result<bool, Failure> {
        self.is_there(view)
    }

    fn diff(&self, there: &bool) -> Option<()> {
        (!there).then_some(())
    }

    fn describe(&self, _: &bool, (): &()) -> Vec<Diff> {
        vec![Diff::Fields {
            subject: format!("image {}", self.name),
            fields: vec![
                ("state".to_owned(), Some("absent".to_owned()), Some("imported".to_owned())),
                ("archive".to_owned(), None, Some(self.digest.clone())),
            ],
        }]
    }

    fn apply(&self, _: bool, (): (), writer: &mut Writer<'_>, needs: &mut dyn Needs) -> Result<Applied, Failure> {
        let applied = Applied { result: self.facts(), ..Applied::default() };
        if writer.planning() {
            return Ok(applied);
        }
        let blob = Blob { digest: self.digest.clone(), member: None };
        let (path, _) = needs.blob(&blob, Path::new(STAGING))?;
        // Without a name from here on, so that nothing is left of it when this process is killed.
        let archive = File::open(&path).map_err(SystemError::file(&path))?;
        writer.fs().remove(&path)?;
        let path = format!("/proc/{}/fd/{}", std::process::id(), archive.as_raw_fd());
        let command = self.command(&["import", "--label", PINNED, &path]).timeout(IMPORT);
        if let Some(output) = writer.processes().run_unless(&command, &|| needs.cancelled())? {
            let held = output.checked()?.stdout;
            if !self.is_there(writer.view())? {
                let message = format!("the archive {} was imported, but it holds no image {}", self.digest, self.name);
                let result = Map::from_iter([("stdout".to_owned(), held.into())]);
                return Err(Failure { message, result });
            }
        }
        Ok(applied)
    }

    fn result(&self, _: &bool) -> Map {
        self.facts()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modules::testing::{TestNeeds, text_args};
    use crate::modules::{Outcome, converge};
    use crate::system::{Mode, System};
    use std::os::unix::fs::PermissionsExt;

    /// Stands in for `ctr`: keeps names of images in a file, and takes an archive to hold just its name.
    const CTR: &str = r#"#!/bin/sh
store="${0%/*}/images"
[ "$1 $2" != "--connect-timeout 2s" ] || shift 2
[ "$1 $2 $3" = "--namespace k8s.io images" ] || exit 64
case "$4" in
    ls) [ -e "$store" ] || { echo 'ctr: failed to dial "/run/containerd/containerd.sock"' >&2; exit 1; }
        grep -Fx -- "${6#name==}" "$store" || true ;;
    import) [ -e "$store" ] || { echo 'ctr: failed to dial "/run/containerd/containerd.sock"' >&2; exit 1; }
        [ "$5" = "--label" ] || exit 64; cat "$7" >> "$store" ;;
    *) exit 64 ;;
esac
"#;

    struct Node {
        root: tempfile::TempDir,
        needs: TestNeeds,
    }

    impl Node {
        fn new(archive: &str) -> Self {
            let blob = Blob { digest: "sha256:aa".to_owned(), member: None };
            let needs = TestNeeds { blobs: [(blob, archive.as_bytes().to_vec())].into_iter().collect(), asked: Vec::new() };
            Self { root: tempfile::tempdir().unwrap(), needs }
        }

        fn install_ctr(&self) {
            let ctr = self.root.path().join("ctr");
            std::fs::write(&ctr, CTR).unwrap();
            std::fs::set_permissions(&ctr, std::fs::Permissions::from_mode(0o755)).unwrap();
        }

        fn start_containerd(&self) {
            std::fs::write(self.root.path().join("images"), "registry.k8s.io/other:1\n").unwrap();
            let database = self.root.path().join(DATABASE);
            std::fs::create_dir_all(database.parent().unwrap()).unwrap();
            std::fs::write(database, "").unwrap();
        }

        fn run(&mut self, mode: Mode) -> Result<Outcome, Failure> {
            let ctr = self.root.path().join("ctr").display().to_string();
            let root = self.root.path().display().to_string();
            let name = "registry.k8s.io/pause:3.10.1".to_owned();
            let pairs = [("name", name), ("digest", "sha256:aa".to_owned()), ("ctr", ctr), ("root", root)];
            let image = ContainerdImage::from_args(text_args(pairs)).unwrap();
            converge(&image, &mut System::new(mode), &mut self.needs)
        }
    }

    #[test]
    fn an_image_is_imported_once() {
        let mut node = Node::new("registry.k8s.io/pause:3.10.1\n");
        assert!(node.run(Mode::Plan).unwrap().changed, "no ctr yet");
        node.install_ctr();
        assert!(node.run(Mode::Plan).unwrap().changed, "no containerd yet");
        let error = node.run(Mode::Apply).unwrap_err();
        assert!(error.message.contains("failed to dial"), "{error}");
        node.start_containerd();
        let planned = node.run(Mode::Plan).unwrap();
        node.needs.asked.clear();
        let applied = node.run(Mode::Apply).unwrap();
        assert!(applied.changed);
        assert_eq!(applied.diff, planned.diff);
        assert_eq!(node.needs.asked.len(), 1);
        assert!(!node.run(Mode::Apply).unwrap().changed);
        assert!(!node.run(Mode::Plan).unwrap().changed);
        assert_eq!(node.needs.asked.len(), 1);
    }

    #[test]
    fn an_archive_without_the_image_is_a_failure() {
        let mut node = Node::new("registry.k8s.io/pause:3.9\n");
        node.install_ctr();
        node.start_containerd();
        let error = node.run(Mode::Apply).unwrap_err();
        assert!(error.message.ends_with("holds no image registry.k8s.io/pause:3.10.1"), "{error}");
    }

    #[test]
    fn a_name_has_to_be_a_full_one() {
        for bad in ["pause", "pause:3", "registry.k8s.io/pause", "registry.k8s.io/pause:3,labels.x"] {
            let error = ContainerdImage::from_args(text_args([("name", bad), ("digest", "d")])).unwrap_err();
            assert_eq!(error.argument.as_deref(), Some("name"), "{bad}");
        }
    }
}
