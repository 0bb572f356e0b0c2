//! `etcd_member`: this host's member of etcd's cluster: that it has joined, and the URLs at which other members reach it.
//!
//! etcd takes them from its configuration only when it makes its data; after that the members in its database count. They
//! are read there (the bucket `members`), so that they are known while etcd is down as well, and changed with `etcdctl(1)`.
//! <https://etcd.io/docs/v3.6/op-guide/runtime-configuration/>. A member that has yet to join does so when etcd starts, as
//! its configuration says: here it is only waited for.

use super::{Applied, Diff, Failure, Module, Needs, bolt};
use crate::system::{Command, View, Writer};
use crate::value::Map;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Below etcd's data directory.
const DATABASE: &str = "member/snap/db";
const BUCKET: &str = "members";
/// etcd writes to its database after a tenth of a second at the latest; a start takes longer.
const SETTLE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(100);
const UPDATE: Duration = Duration::from_secs(30);

/// A member to be there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EtcdMember {
    pub name: String,
    /// Sorted.
    pub peer_urls: Vec<String>,
    /// etcd's `data-dir`.
    pub data_dir: PathBuf,
    /// Path of `etcdctl`, and what it connects to etcd with.
    pub etcdctl: String,
    pub endpoint: String,
    pub ca_certificate: String,
    pub certificate: String,
    pub key: String,
}

/// As etcd keeps one.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Member {
    id: u64,
    /// Empty until it has started.
    name: String,
    #[serde(rename = "peerURLs")]
    peer_urls: Vec<String>,
}

#[cfg(feature = "controller")]
impl EtcdMember {
    pub fn from_args(mut args: super::args::Args<'_>) -> Result<Self, super::args::ArgError> {
        let mut peer_urls = args.list("peer_urls")?.ok_or_else(|| super::args::missing("peer_urls"))?;
        peer_urls.sort();
        let member = Self {
            name: args.str("name")?,
            peer_urls,
            data_dir: args.str("data_dir")?.into(),
            etcdctl: args.opt_str("etcdctl")?.unwrap_or_else(|| "/usr/local/bin/etcdctl".to_owned()),
            endpoint: args.opt_str("endpoint")?.unwrap_or_else(|| "https://127.0.0.1:2379".to_owned()),
            ca_certificate: args.str("ca_certificate")?,
            certificate: args.str("certificate")?,
            key: args.str("key")?,
        };
        args.finish()?;
        Ok(member)
    }
}

impl EtcdMember {
    /// The member as it is stored. One that etcd knows by another name is the one at these URLs.
    fn find(&self, view: View<'_>) -> Result<Option<Member>, Failure> {
        let database = self.data_dir.join(DATABASE);
        if !view.fs().exists(&database)? {
            return Ok(None);
        }
        let unreadable = || Failure::new(format!("{}: the members of etcd cannot be read", database.display()));
        let stored = bolt::values(view.fs(), &database, &[BUCKET])?.ok_or_else(unreadable)?;
        let members = stored.iter().map(|json| serde_json::from_slice(json).map_err(|_| unreadable()));
        let mut members = members.collect::<Result<Vec<Member>, _>>()?;
        members.iter_mut().for_each(|member| member.peer_urls.sort());
        let at = members.iter().position(|member| member.name == self.name);
        let at = at.or_else(|| members.iter().position(|member| member.peer_urls == self.peer_urls));
        Ok(at.map(|at| members.swap_remove(at)))
    }

    fn is_there(&self, member: Option<&Member>) -> bool {
        member.is_some_and(|member| !member.name.is_empty() && member.peer_urls == self.peer_urls)
    }

    fn update(&self, member: &Member) -> Command {
        let urls = format!("--peer-urls={}", self.peer_urls.join(","));
        let id = format!("{:x}", member.id);
        let connection = [
            ("--endpoints", &self.endpoint),
            ("--cacert", &self.ca_certificate),
            ("--cert", &self.certificate),
            ("--key", &self.key),
        ];
        let connection = connection.map(|(flag, value)| format!("{flag}={value}"));
        let argv = [self.etcdctl.clone()].into_iter().chain(connection);
        Command::new(argv.chain(["member".to_owned(), "update".to_owned(), id, urls])).timeout(UPDATE)
    }
}

impl Module for EtcdMember {
    /// The member, if there is one.
    type State = Option<Member>;
    type Change = ();

    fn query(&self, view: View<'_>) -> Result<Option<Member>, Failure> {
        self.find(view)
    }

    fn diff(&self, member: &Option<Member>) -> Option<()> {
        (!self.is_there(member.as_ref())).then_some(())
    }

    fn describe(&self, member: &Option<Member>, (): &()) -> Vec<Diff> {
        let urls = |urls: &[String]| urls.join(",");
        let mut fields = Vec::new();
        let before = member.as_ref().map_or("absent", |member| if member.name.is_empty() { "unstarted" } else { "started" });
        if before != "started" {
            fields.push(("state".to_owned(), Some(before.to_owned()), Some("started".to_owned())));
        }
        let old = member.as_ref().map(|member| urls(&member.peer_urls));
        let new = Some(urls(&self.peer_urls));
        if old != new {
            fields.push(("peerURLs".to_owned(), old, new));
        }
        vec![Diff::Fields { subject: format!("etcd member {}", self.name), fields }]
    }

    fn apply(
        &self,
        member: Option<Member>,
        (): (),
        writer: &mut Writer<'_>,
        needs: &mut dyn Needs,
    ) -> Result<Applied, Failure> {
        if writer.planning() {
            return Ok(Applied::default());
        }
        if let Some(member) = member.filter(|member| member.peer_urls != self.peer_urls)
            && let Some(output) = writer.processes().run_unless(&self.update(&member), &|| needs.cancelled())?
        {
            output.checked()?;
        }
        let deadline = Instant::now() + SETTLE;
        while !self.is_there(self.find(writer.view())?.as_ref()) {
            if needs.cancelled() || Instant::now() > deadline {
                let message = format!("the member {} has not joined within {} s: see `journalctl -u etcd`", self.name, SETTLE.as_secs());
                return Err(Failure::new(message));
            }
            std::thread::sleep(PAUSE);
        }
        Ok(Applied::default())
    }

    fn result(&self, _: &Option<Member>) -> Map {
        Map::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modules::bolt::testing::write;
    use crate::modules::testing::{TestNeeds, args};
    use crate::modules::{Outcome, converge};
    use crate::system::{Mode, System};
    use crate::value::Value;
    use std::os::unix::fs::PermissionsExt;

    struct Node(tempfile::TempDir);

    impl Node {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn database(&self, members: &[&str]) {
            let database = self.0.path().join(DATABASE);
            std::fs::create_dir_all(database.parent().unwrap()).unwrap();
            let members: Vec<_> = members.iter().map(|json| (&json[..8], *json)).collect();
            write(&database, BUCKET, &members);
        }

        fn run(&self, mode: Mode) -> Result<Outcome, Failure> {
            let path = |name: &str| Value::from(self.0.path().join(name).display().to_string());
            let pairs = [
                ("name", "n1".into()),
                ("peer_urls", Value::List(vec!["https://192.0.2.1:2380".into()])),
                ("data_dir", path("")),
                ("etcdctl", path("etcdctl")),
                ("ca_certificate", "ca".into()),
                ("certificate", "crt".into()),
                ("key", "key".into()),
            ];
            let member = EtcdMember::from_args(args(pairs)).unwrap();
            converge(&member, &mut System::new(mode), &mut TestNeeds::default())
        }
    }

    fn fields(outcome: &Outcome) -> Vec<(&str, Option<&str>, Option<&str>)> {
        let [Diff::Fields { subject, fields }] = &outcome.diff[..] else { panic!("{outcome:?}") };
        assert_eq!(subject, "etcd member n1");
        fields.iter().map(|(name, before, after)| (name.as_str(), before.as_deref(), after.as_deref())).collect()
    }

    #[test]
    fn a_member_that_is_to_join() {
        let node = Node::new();
        let joins = [("state", Some("absent"), Some("started")), ("peerURLs", None, Some("https://192.0.2.1:2380"))];
        assert_eq!(fields(&node.run(Mode::Plan).unwrap()), joins);
        node.database(&[r#"{"id":7,"peerURLs":["https://192.0.2.2:2380"],"name":"n2"}"#]);
        assert_eq!(fields(&node.run(Mode::Plan).unwrap()), joins, "another has");
        node.database(&[r#"{"id":7,"peerURLs":["https://192.0.2.1:2380"]}"#]);
        let starts = [("state", Some("unstarted"), Some("started"))];
        assert_eq!(fields(&node.run(Mode::Plan).unwrap()), starts, "it was added, and has not started");
        node.database(&[r#"{"id":7,"peerURLs":["https://192.0.2.1:2380"],"name":"n1","clientURLs":["x"]}"#]);
        assert!(!node.run(Mode::Plan).unwrap().changed);
        assert!(!node.run(Mode::Apply).unwrap().changed);
    }

    #[test]
    fn a_member_that_moves() {
        let node = Node::new();
        node.database(&[r#"{"id":255,"peerURLs":["https://192.0.2.9:2380"],"name":"n1"}"#]);
        let planned = node.run(Mode::Plan).unwrap();
        assert_eq!(fields(&planned), [("peerURLs", Some("https://192.0.2.9:2380"), Some("https://192.0.2.1:2380"))]);
        // The database as etcd leaves it.
        let moved = Node::new();
        moved.database(&[r#"{"id":255,"peerURLs":["https://192.0.2.1:2380"],"name":"n1"}"#]);
        let etcdctl = node.0.path().join("etcdctl");
        let script = format!(
            "#!/bin/sh\necho \"$@\" > {}\ncp {} {}\n",
            node.0.path().join("called").display(),
            moved.0.path().join(DATABASE).display(),
            node.0.path().join(DATABASE).display()
        );
        std::fs::write(&etcdctl, script).unwrap();
        std::fs::set_permissions(&etcdctl, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(node.run(Mode::Apply).unwrap().diff, planned.diff);
        let called = std::fs::read_to_string(node.0.path().join("called")).unwrap();
        let expected = "--endpoints=https://127.0.0.1:2379 --cacert=ca --cert=crt --key=key member update ff \
                        --peer-urls=https://192.0.2.1:2380\n";
        assert_eq!(called, expected);
    }

    #[test]
    fn a_damaged_database_is_a_failure() {
        let node = Node::new();
        node.database(&["no json!"]);
        assert!(node.run(Mode::Plan).unwrap_err().message.ends_with("the members of etcd cannot be read"));
    }
}
