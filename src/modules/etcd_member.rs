//! `etcd_member`: this host's member of etcd's cluster: that it has joined, and the URLs at which other members reach it.
//!
//! etcd takes them from its configuration only when it makes its data; after that the members in its database count. They
//! are read there (the bucket `members`), so that they are known while etcd is down as well, and changed with `etcdctl(1)`.
//! <https://etcd.io/docs/v3.6/op-guide/runtime-configuration/>. A member that has yet to join does so when etcd starts, as
//! its configuration says: it is started here and waited for.

use super::{Applied, Diff, Failure, Module, Needs, UnitEffect, bolt};
use crate::system::{Command, Unit, UnitAction, View, Writer};
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
    /// etcd's unit, and its `data-dir`.
    pub unit: String,
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

pub struct Found {
    /// `None`: it has yet to join.
    member: Option<Member>,
    unit: Unit,
}

#[cfg(feature = "controller")]
impl EtcdMember {
    pub fn from_args(mut args: super::args::Args<'_>) -> Result<Self, super::args::ArgError> {
        let mut peer_urls = args.list("peer_urls")?.ok_or_else(|| super::args::missing("peer_urls"))?;
        peer_urls.sort();
        let member = Self {
            name: args.str("name")?,
            peer_urls,
            unit: args.opt_str("unit")?.unwrap_or_else(|| "etcd".to_owned()),
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
    type State = Found;
    type Change = ();

    fn query(&self, view: View<'_>) -> Result<Found, Failure> {
        Ok(Found { member: self.find(view)?, unit: view.units().show(&self.unit, view.fs())? })
    }

    fn diff(&self, found: &Found) -> Option<()> {
        (!self.is_there(found.member.as_ref())).then_some(())
    }

    fn describe(&self, Found { member, unit }: &Found, (): &()) -> Vec<Diff> {
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
        let runs = (!unit.is_active()).then(|| Diff::Fields {
            subject: unit.name.clone(),
            fields: vec![("state".to_owned(), Some(unit.active_state.clone()), Some("active".to_owned()))],
        });
        let member = Diff::Fields { subject: format!("etcd member {}", self.name), fields };
        runs.into_iter().chain([member]).collect()
    }

    fn apply(
        &self,
        Found { member, unit }: Found,
        (): (),
        writer: &mut Writer<'_>,
        needs: &mut dyn Needs,
    ) -> Result<Applied, Failure> {
        if !unit.is_active() {
            let (units, fs) = writer.units();
            units.act(UnitAction::Start, &self.unit, fs, &|| needs.cancelled())?;
        }
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

    fn result(&self, _: &Found) -> Map {
        Map::new()
    }

    fn units(&self, Found { unit, .. }: &Found, change: Option<&()>) -> Vec<UnitEffect> {
        let was_active = unit.is_active();
        let action = change.filter(|()| !was_active).map(|()| UnitAction::Start);
        vec![UnitEffect { unit: unit.name.clone(), action, was_active, host: None }]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modules::bolt::testing::write;
    use crate::modules::testing::{TestNeeds, args};
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

        fn module(&self) -> EtcdMember {
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
            EtcdMember::from_args(args(pairs)).unwrap()
        }

        /// As a query finds it where etcd's unit is in this state; it asks systemd for that.
        fn found(&self, active_state: &str) -> Found {
            let member = self.module().find(System::new(Mode::Plan).view()).unwrap();
            let unit = Unit { name: "etcd.service".into(), active_state: active_state.into(), ..Unit::default() };
            Found { member, unit }
        }

        /// What would change, as `subject field before after`.
        fn changes(&self, active_state: &str) -> Vec<String> {
            let (module, found) = (self.module(), self.found(active_state));
            let diffs = module.diff(&found).map(|()| module.describe(&found, &())).unwrap_or_default();
            let mut changes = Vec::new();
            for diff in diffs {
                let Diff::Fields { subject, fields } = diff else { panic!("{diff:?}") };
                changes.extend(fields.iter().map(|(name, before, after)| {
                    let side = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
                    format!("{subject} {name} {} {}", side(before), side(after))
                }));
            }
            changes
        }
    }

    #[test]
    fn a_member_that_is_to_join() {
        let node = Node::new();
        let starts = "etcd.service state inactive active";
        let joins = ["etcd member n1 state absent started", "etcd member n1 peerURLs - https://192.0.2.1:2380"];
        assert_eq!(node.changes("inactive"), [&[starts], &joins[..]].concat());
        node.database(&[r#"{"id":7,"peerURLs":["https://192.0.2.2:2380"],"name":"n2"}"#]);
        assert_eq!(node.changes("active"), joins, "another has");
        node.database(&[r#"{"id":7,"peerURLs":["https://192.0.2.1:2380"]}"#]);
        assert_eq!(node.changes("active"), ["etcd member n1 state unstarted started"], "it was added, and has not started");
        node.database(&[r#"{"id":7,"peerURLs":["https://192.0.2.1:2380"],"name":"n1","clientURLs":["x"]}"#]);
        assert!(node.changes("active").is_empty());
        assert!(node.changes("failed").is_empty(), "that it runs is for another task");
    }

    #[test]
    fn a_member_that_moves() {
        let node = Node::new();
        node.database(&[r#"{"id":255,"peerURLs":["https://192.0.2.9:2380"],"name":"n1"}"#]);
        let moves = "etcd member n1 peerURLs https://192.0.2.9:2380 https://192.0.2.1:2380";
        assert_eq!(node.changes("active"), [moves]);
        // The database as etcd leaves it.
        let moved = Node::new();
        moved.database(&[r#"{"id":255,"peerURLs":["https://192.0.2.1:2380"],"name":"n1"}"#]);
        let path = |node: &Node, name: &str| node.0.path().join(name).display().to_string();
        let (called, from, to) = (path(&node, "called"), path(&moved, DATABASE), path(&node, DATABASE));
        let script = format!("#!/bin/sh\necho \"$@\" > {called}\ncp {from} {to}\n");
        std::fs::write(path(&node, "etcdctl"), script).unwrap();
        std::fs::set_permissions(path(&node, "etcdctl"), std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut system = System::new(Mode::Apply);
        let found = node.found("active");
        node.module().apply(found, (), &mut system.writer(), &mut TestNeeds::default()).unwrap();
        let expected = "--endpoints=https://127.0.0.1:2379 --cacert=ca --cert=crt --key=key member update ff \
                        --peer-urls=https://192.0.2.1:2380\n";
        assert_eq!(std::fs::read_to_string(called).unwrap(), expected);
        assert!(node.changes("active").is_empty());
    }

    #[test]
    fn a_damaged_database_is_a_failure() {
        let node = Node::new();
        node.database(&["no json!"]);
        let failure = node.module().find(System::new(Mode::Plan).view()).unwrap_err();
        assert!(failure.message.ends_with("the members of etcd cannot be read"), "{failure}");
    }
}
