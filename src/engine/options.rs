//! What a run was asked to do, after flags and files have been made sense of.

use crate::system::Mode;
use crate::transport::ConnectionFlags;
use std::path::PathBuf;
use std::time::Duration;

/// The settings of a run.
#[derive(Clone, Debug)]
pub struct Options {
    pub mode: Mode,
    /// Inventory files or directories, merged in this order.
    pub inventories: Vec<PathBuf>,
    /// `-l`: a host pattern.
    pub limit: Option<String>,
    pub tags: Vec<String>,
    pub skip_tags: Vec<String>,
    /// `-e`, as given.
    pub extra_vars: Vec<String>,
    /// `--vault-password-file`
    pub vault_password_files: Vec<PathBuf>,
    /// The name of a built-in playbook, or a file.
    pub playbook: String,
    /// How many hosts are connected to at the same time.
    pub forks: usize,
    pub connection: ConnectionFlags,
    /// How long a run waits for another one that has the cluster.
    pub lock_timeout: Duration,
    /// How long a run that changes hosts tries to reach one again whose link dropped.
    pub reconnect_timeout: Duration,
    /// Stops after the preconditions (`kprov validate`).
    pub only_preconditions: bool,
    /// The verb and its flags as typed, for the record of the run; without values of variables.
    pub command: String,
    /// SHA-256 of the saved plan that is applied.
    pub plan: Option<String>,
    /// The id of the run that this one goes on with.
    pub resumes: Option<String>,
}

impl Options {
    /// Whether a task with these tags is selected, as Ansible selects.
    pub fn selects(&self, tags: &[String]) -> bool {
        let has = |name: &str| tags.iter().any(|tag| tag == name);
        let named = |list: &[String]| {
            list.iter().any(|wanted| match wanted.as_str() {
                "all" => !has("never"),
                "tagged" => !tags.is_empty() && !has("never"),
                "untagged" => tags.is_empty(),
                name => has(name),
            })
        };
        let wanted = if self.tags.is_empty() {
            !has("never")
        } else {
            named(&self.tags) || (has("always") && !self.skip_tags.iter().any(|t| t == "always"))
        };
        let skip_all = self.skip_tags.iter().any(|tag| tag == "all") && !has("always");
        wanted && !skip_all && !self.skip_tags.iter().any(|tag| has(tag))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selects(tags: &[&str], skip: &[&str], task: &[&str]) -> bool {
        let own = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let options = Options {
            mode: Mode::Plan,
            inventories: Vec::new(),
            limit: None,
            tags: own(tags),
            skip_tags: own(skip),
            extra_vars: Vec::new(),
            vault_password_files: Vec::new(),
            playbook: "cluster".to_owned(),
            forks: 1,
            connection: ConnectionFlags::default(),
            lock_timeout: Duration::ZERO,
            reconnect_timeout: Duration::ZERO,
            only_preconditions: false,
            command: String::new(),
            plan: None,
            resumes: None,
        };
        options.selects(&own(task))
    }

    #[test]
    fn tags_select_as_in_ansible() {
        assert!(selects(&[], &[], &["etcd"]));
        assert!(!selects(&[], &[], &["never"]));
        assert!(selects(&["etcd"], &[], &["etcd"]));
        assert!(!selects(&["etcd"], &[], &["node"]));
        assert!(selects(&["etcd"], &[], &["always"]));
        assert!(!selects(&["etcd"], &["always"], &["always"]));
        assert!(!selects(&[], &["etcd"], &["etcd", "master"]));
        assert!(selects(&["never"], &[], &["never"]));
        assert!(selects(&["untagged"], &[], &[]));
    }
}
