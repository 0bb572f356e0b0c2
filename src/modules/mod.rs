//! The modules: what a task can do to a node.
//!
//! A module is a type that holds the desired state with every value concrete (templates were rendered on the controller)
//! and three steps: [`Module::query`] and [`Module::diff`] see a read-only view, [`Module::apply`] alone gets a writer.
//! [`converge`] is the only caller of all three, for `plan` and `apply` alike. One file per module; each file also holds
//! what its arguments are (`args`, controller side: names, types, defaults as in Ansible's documentation of the module).

use crate::source::{InputError, digest_of};
use crate::system::{System, SystemError, UnitAction, View, Writer};
use crate::value::{After, Map};
use serde::{Deserialize, Serialize};

/// What a module does to a node. One type per module, in a file of its name.
pub trait Module {
    /// What was found.
    type State;
    /// What has to be done; there is no change that does nothing.
    type Change;

    /// Finds out how things are. Cannot change anything.
    fn query(&self, view: View<'_>) -> Result<Self::State, Failure>;

    /// Compares with what is desired; `None` when it is so already.
    fn diff(&self, state: &Self::State) -> Option<Self::Change>;

    /// Shows the change to a person. Must not show secrets (keys, tokens, passwords).
    fn describe(&self, state: &Self::State, change: &Self::Change) -> Vec<Diff>;

    /// Makes the change: on a planning system the writer only remembers it.
    fn apply(
        &self,
        state: Self::State,
        change: Self::Change,
        writer: &mut Writer<'_>,
        needs: &mut dyn Needs,
    ) -> Result<Applied, Failure>;

    /// What `register` sees beside `changed` and `diff` when nothing had to be done.
    fn result(&self, state: &Self::State) -> Map;

    /// The units that it looks after, and what becomes of them.
    fn units(&self, _: &Self::State, _: Option<&Self::Change>) -> Vec<UnitEffect> {
        Vec::new()
    }
}

/// What `apply` tells about the change that it made.
#[derive(Debug, Default)]
pub struct Applied {
    /// What `register` sees beside `changed` and `diff`; unknown values in a plan where they cannot be known.
    pub result: Map,
    pub grade: Grade,
    /// After which task it will be known, where that is not this one.
    pub after: Option<After>,
    /// `Some(false)` when it turned out that nothing was changed (a command with a `changed` verdict of its own).
    pub changed: Option<bool>,
}

impl Applied {
    /// A change that is known after that task, or exactly where there is none.
    pub fn known_after(after: Option<After>, result: Map) -> Self {
        let grade = if after.is_some() { Grade::KnownAfterApply } else { Grade::Exact };
        Self { result, grade, after, changed: None }
    }
}

/// How well a planned change is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Grade {
    /// What is shown is what will be.
    #[default]
    Exact,
    /// It will change, but a value in it comes from an earlier task.
    KnownAfterApply,
    /// A command: what it does cannot be known.
    Opaque,
}

impl Grade {
    /// As JSON lines and plan files spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::KnownAfterApply => "known_after_apply",
            Self::Opaque => "opaque",
        }
    }
}

/// One thing that a change replaces, as shown by `plan` and `--diff`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Diff {
    /// A text file; `None` is absent. Rendered as a unified diff by the controller.
    Text { path: String, before: Option<String>, after: Option<String> },
    /// Named fields: `("mode", "0644", "0600")`. An absent side is `None`.
    Fields { subject: String, fields: Vec<(String, Option<String>, Option<String>)> },
    /// Whatever has no fields: "run `systemctl restart kubelet`".
    Note(String),
}

/// Names a change: the same in plan and apply where the same is done to the same. Digest of what is shown of it, in hex:
/// texts before and after, what fields become (a unit that has failed by itself since it was planned is started all the
/// same), notes. Of a `no_log` task it must not leave the process: what it hides may be guessable.
pub fn digest(diffs: &[Diff]) -> String {
    let mut parts = Vec::new();
    let mut part = |text: Option<&str>| {
        // Lengths keep parts apart; an absent one is no empty one.
        parts.extend(text.map_or(u64::MAX, |text| text.len() as u64).to_be_bytes());
        parts.extend(text.unwrap_or_default().as_bytes());
    };
    for diff in diffs {
        match diff {
            Diff::Text { path, before, after } => {
                [Some("text"), Some(path), before.as_deref(), after.as_deref()].into_iter().for_each(&mut part);
            }
            Diff::Fields { subject, fields } => {
                [Some("fields"), Some(subject)].into_iter().for_each(&mut part);
                fields.iter().flat_map(|(name, _, after)| [Some(name.as_str()), after.as_deref()]).for_each(&mut part);
            }
            Diff::Note(note) => [Some("note"), Some(note)].into_iter().for_each(&mut part),
        }
    }
    digest_of(&parts)
}

/// Holds a change against those that were planned for its task; `None` is any. What shows nothing changes nothing.
pub fn as_planned(expected: Option<&[String]>, diffs: &[Diff]) -> Result<(), Failure> {
    match expected {
        Some(expected) if !diffs.is_empty() && !expected.contains(&digest(diffs)) => {
            let what =
                if expected.is_empty() { "nothing was to change here" } else { "another change was planned here" };
            Err(Failure::new(format!("not as planned: {what}, so nothing was done; make a new plan")))
        }
        _ => Ok(()),
    }
}

/// A unit that a task looks after.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitEffect {
    /// `kubelet.service`
    pub unit: String,
    /// What is done to it, if anything is.
    pub action: Option<UnitAction>,
    /// Whether it ran before.
    pub was_active: bool,
    /// Where, if not on the host that the task is for. Only the controller knows.
    pub host: Option<String>,
}

/// Why a task failed. One line, without secrets, saying what to do where that is known.
#[derive(Clone, Debug, PartialEq, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct Failure {
    pub message: String,
    /// What `register` and `rescue` see of a failed task (rc, stdout, stderr of a command).
    pub result: Map,
}

impl Failure {
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), result: Map::new() }
    }
}

impl From<InputError> for Failure {
    fn from(error: InputError) -> Self {
        Self::new(error.in_one_line())
    }
}

impl From<SystemError> for Failure {
    fn from(error: SystemError) -> Self {
        Self::new(error.to_string())
    }
}

/// What a running task can ask the controller for. Only `apply` on a real system asks.
pub trait Needs {
    /// Is told that the task is about to change something, before it does; may refuse.
    fn changing(&mut self, _: &[Diff]) -> Result<(), Failure> {
        Ok(())
    }

    /// Has the blob written to a new, private file in the directory `near` (so that it can be renamed into place) and
    /// returns its path and SHA-256 in hex. What arrived has been verified when this returns.
    fn blob(&mut self, blob: &Blob, near: &std::path::Path) -> Result<(std::path::PathBuf, String), Failure>;

    /// Has a certificate signing request signed by a CA whose key is on the host `signer`; returns the certificate in PEM.
    fn sign(&mut self, signer: &str, request: &crate::pki::SigningRequest) -> Result<String, Failure>;

    /// Whether the run is being stopped; long waits look at it.
    fn cancelled(&self) -> bool;

    /// Whether nobody wants what the task waits for: it was cancelled, or another run has replaced this one.
    fn abandoned(&self) -> bool {
        self.cancelled()
    }
}

/// Names bytes that the controller holds, and sends only to the nodes that ask.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Blob {
    /// Digest of the file as it is published, `sha256:HEX` or `sha512:HEX`.
    pub digest: String,
    /// Which member of that file, where it is a tar archive.
    pub member: Option<String>,
}

/// What came of one task (or one item of its loop) on one host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    pub changed: bool,
    pub result: Map,
    pub diff: Vec<Diff>,
    pub grade: Grade,
    /// Of what is known after apply, after which task; `None`: after this one.
    pub after: Option<After>,
    pub units: Vec<UnitEffect>,
}

impl Outcome {
    /// Nothing had to be done.
    pub fn unchanged(result: Map) -> Self {
        Self { changed: false, result, diff: Vec::new(), grade: Grade::Exact, after: None, units: Vec::new() }
    }
}

/// Brings the node to the desired state, or on a planning system finds out what that would take.
pub fn converge<M: Module>(module: &M, system: &mut System, needs: &mut dyn Needs) -> Result<Outcome, Failure> {
    let state = module.query(system.view())?;
    let Some(change) = module.diff(&state) else {
        return Ok(Outcome { units: module.units(&state, None), ..Outcome::unchanged(module.result(&state)) });
    };
    let mut diff = module.describe(&state, &change);
    attributes::name_owners(system.view(), &mut diff);
    let units = module.units(&state, Some(&change));
    needs.changing(&diff)?;
    let applied = module.apply(state, change, &mut system.writer(), needs)?;
    let Applied { result, grade, after, changed } = applied;
    Ok(Outcome { changed: changed.unwrap_or(true), result, diff, grade, after, units })
}

/// Declares the modules: the wire enum, its dispatch on the node and the look-up by name on the controller.
macro_rules! modules {
    ($($(#[$doc:meta])* $variant:ident = $file:ident: $($name:literal)|+;)*) => {
        $(pub mod $file;)*

        /// A module with its arguments, as it is sent to a node.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        pub enum Resource {
            $($(#[$doc])* $variant($file::$variant),)*
        }

        impl Resource {
            /// Runs query, diff and, where something has to change, apply.
            pub fn converge(&self, system: &mut System, needs: &mut dyn Needs) -> Result<Outcome, Failure> {
                match self {
                    $(Self::$variant(module) => converge(module, system, needs),)*
                }
            }
        }

        /// Every name under which a module can be called, without its `ansible.builtin.` prefix.
        pub const NAMES: &[&str] = &[$($($name),+),*];

        /// Builds the module `name` from its rendered arguments. `None`: there is no such module.
        #[cfg(feature = "controller")]
        pub fn from_args(name: &str, mut args: args::Args<'_>) -> Option<Result<Resource, args::ArgError>> {
            args.module = name.to_owned();
            match name {
                $($($name)|+ => Some($file::$variant::from_args(args).map(Resource::$variant)),)*
                _ => None,
            }
        }
    };
}

#[cfg(feature = "controller")]
pub mod args;
pub mod attributes;
mod bolt;
mod edit;
mod replace;
#[cfg(test)]
pub mod testing;

modules! {
    /// Files of a published release.
    Artifact = artifact: "artifact";
    /// Lines between two markers in a text file.
    Blockinfile = blockinfile: "blockinfile";
    /// A key on this node and a certificate for it.
    Certificate = certificate: "certificate";
    /// A CA on this node.
    CertificateAuthority = certificate_authority: "certificate_authority";
    /// A program, with or without a shell.
    Command = command: "command" | "shell";
    /// An image in containerd.
    ContainerdImage = containerd_image: "containerd_image";
    /// A file with given content.
    Copy = copy: "copy";
    /// A host's member of etcd's cluster.
    EtcdMember = etcd_member: "etcd_member";
    /// Permissions, owner and kind of a path.
    File = file: "file";
    /// A group of users.
    Group = group: "group";
    /// The name of the node.
    Hostname = hostname: "hostname";
    /// A file with which a component reaches the API server.
    Kubeconfig = kubeconfig: "kubeconfig";
    /// One line of a text file.
    Lineinfile = lineinfile: "lineinfile";
    /// A kernel module.
    Modprobe = modprobe: "modprobe";
    /// Packages of the distribution.
    Package = package: "package" | "apt" | "dnf" | "yum";
    /// The key pair of service account tokens.
    ServiceAccountKey = service_account_key: "service_account_key";
    /// The content of a file, for a later task.
    Slurp = slurp: "slurp";
    /// What is at a path, for a later task.
    Stat = stat: "stat";
    /// A kernel setting.
    Sysctl = sysctl: "sysctl";
    /// Running and enabling of a systemd unit, and reloading of unit files.
    Systemd = systemd: "systemd" | "systemd_service" | "service";
    /// An account.
    User = user: "user";
    /// Waiting until a port or path is there, or is not.
    WaitFor = wait_for: "wait_for";
}
