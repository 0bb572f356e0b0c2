//! A cluster of three healthy hosts for the tests of the checks; each test spoils one thing.

use super::input::{Checked, Cluster, Node, Vars};
use super::{Finding, render};
use crate::inventory::Inventory;
use crate::source::{InputError, Source, Span};
use crate::value::{Map, Value};
use crate::vars::Vault;
use crate::yaml;
use indexmap::IndexMap;

pub struct Fixture {
    pub inventory: Inventory,
    vars: Rendered,
    pub facts: IndexMap<String, Value>,
}

/// Variables of all hosts, and of single ones.
#[derive(Default)]
pub struct Rendered {
    all: Map,
    of_hosts: IndexMap<String, Map>,
}

impl Vars for Rendered {
    fn get(&self, host: &str, name: &str) -> Result<Option<(Value, Option<Span>)>, InputError> {
        let value = self.of_hosts.get(host).and_then(|vars| vars.get(name)).or_else(|| self.all.get(name));
        let value = match value {
            Some(Value::String(text)) if text == "{{ inventory_hostname }}" => Some(host.into()),
            Some(Value::String(text)) if text.starts_with("{{ ip |") => {
                let facts = self.of_hosts.get(host);
                Some(facts.and_then(|vars| vars.get("ansible_host")).cloned().unwrap_or_default())
            }
            Some(Value::String(text)) if text.starts_with("{{ access_ip |") => return self.get(host, "main_ip"),
            other => other.cloned(),
        };
        Ok(value.map(|value| (value, Some(Source::new("defaults.yml", "").span(0, 0)))))
    }
}

pub fn facts<const N: usize>(items: [(&str, Value); N]) -> Value {
    items.into_iter().collect()
}

impl Fixture {
    /// One control-plane node with etcd, two workers; kprov's own defaults; healthy facts.
    pub fn three() -> Self {
        let mut fixture = Self::new(
            "n1 ansible_host=10.0.0.11\nn2 ansible_host=10.0.0.12\nn3 ansible_host=10.0.0.13\n\
             [kube_control_plane]\nn1\n[etcd]\nn1\n[kube_node]\nn2\nn3\n",
        );
        for (host, address) in [("n1", "10.0.0.11"), ("n2", "10.0.0.12"), ("n3", "10.0.0.13")] {
            fixture.host_var(host, "ansible_host", address);
            fixture.facts.insert(host.to_owned(), healthy(host, address));
        }
        fixture
    }

    pub fn new(inventory: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hosts.ini");
        std::fs::write(&path, inventory).unwrap();
        let inventory = Inventory::load(&[path], &Vault::default()).unwrap();
        let mut vars = Rendered::default();
        for text in [
            include_str!("../../group_vars/all/artifacts.yml"),
            include_str!("../../group_vars/all/cluster.yml"),
            include_str!("../../group_vars/all/preconditions.yml"),
        ] {
            let node = yaml::load(&Source::new("defaults.yml", text)).unwrap();
            vars.all.extend(node.to_value().as_map().unwrap().clone());
        }
        Self { inventory, vars, facts: IndexMap::new() }
    }

    pub fn var(&mut self, name: &str, value: impl Into<Value>) {
        self.vars.all.insert(name.to_owned(), value.into());
    }

    pub fn host_var(&mut self, host: &str, name: &str, value: impl Into<Value>) {
        self.vars.of_hosts.entry(host.to_owned()).or_default().insert(name.to_owned(), value.into());
    }

    fn facts_of(&mut self, host: &str) -> &mut Map {
        match self.facts.get_mut(host) {
            Some(Value::Map(map)) => map,
            _ => panic!("no facts of {host}"),
        }
    }

    pub fn fact(&mut self, host: &str, name: &str, value: impl Into<Value>) {
        self.facts_of(host).insert(name.to_owned(), value.into());
    }

    pub fn remove_fact(&mut self, host: &str, name: &str) {
        self.facts_of(host).shift_remove(name);
    }

    /// Sets a fact below `kprov`.
    pub fn kprov(&mut self, host: &str, name: &str, value: impl Into<Value>) {
        match self.facts_of(host).get_mut("kprov") {
            Some(Value::Map(map)) => map.insert(name.to_owned(), value.into()),
            _ => panic!("no facts of kprov for {host}"),
        };
    }

    pub fn listen(&mut self, host: &str, address: &str, port: i64, unit: &str) {
        let entry = facts([
            ("proto", "tcp".into()),
            ("address", address.into()),
            ("port", port.into()),
            ("exe", Value::Null),
            ("unit", if unit.is_empty() { Value::Null } else { unit.into() }),
        ]);
        match self.facts_of(host).get_mut("kprov").and_then(|kprov| match kprov {
            Value::Map(map) => map.get_mut("listening"),
            _ => None,
        }) {
            Some(Value::List(list)) => list.push(entry),
            _ => panic!("no listeners of {host}"),
        }
    }

    pub fn cluster(&self) -> Cluster<'_> {
        Cluster { inventory: &self.inventory, vars: &self.vars, facts: &self.facts }
    }

    /// Findings of a check of hosts, in the order of the inventory.
    pub fn run(&self, check: fn(&Node<'_>) -> Checked) -> Vec<Finding> {
        self.cluster().nodes().flat_map(|node| check(&node).unwrap()).collect()
    }

    pub fn lines(&self, check: fn(&Node<'_>) -> Checked) -> Vec<String> {
        render(&self.run(check))
    }

    pub fn run_cluster(&self, check: fn(&Cluster<'_>) -> Checked) -> Vec<Finding> {
        check(&self.cluster()).unwrap()
    }

    pub fn lines_of_cluster(&self, check: fn(&Cluster<'_>) -> Checked) -> Vec<String> {
        render(&self.run_cluster(check))
    }
}

fn healthy(host: &str, address: &str) -> Value {
    let strings = |items: &[&str]| Value::List(items.iter().map(|item| (*item).into()).collect());
    let gib = |n: i64| Value::Int(n << 30);
    let modules = ["bridge", "br_netfilter", "veth", "overlay", "nf_conntrack", "nf_tables"];
    facts([
        ("ansible_distribution", "Debian".into()),
        ("ansible_distribution_version", "12.12".into()),
        ("ansible_service_mgr", "systemd".into()),
        ("ansible_memtotal_mb", 4096.into()),
        ("ansible_processor_vcpus", 2.into()),
        ("ansible_hostname", host.into()),
        ("ansible_machine_id", format!("id-of-{host}").into()),
        ("ansible_all_ipv4_addresses", strings(&[address])),
        (
            "ansible_default_ipv4",
            facts([("address", address.into()), ("network", "10.0.0.0".into()), ("prefix", "24".into())]),
        ),
        (
            "ansible_mounts",
            Value::List(vec![facts([("mount", "/".into()), ("size_total", gib(40)), ("size_available", gib(30))])]),
        ),
        (
            "kprov",
            facts([
                ("systemd_version", 252.into()),
                (
                    "cgroup",
                    facts([
                        ("version", "2".into()),
                        ("controllers", strings(&["cpu", "cpuset", "io", "memory", "pids"])),
                    ]),
                ),
                (
                    "kernel",
                    facts([
                        ("release", "6.1.0-40-amd64".into()),
                        ("has", modules.iter().map(|name| (*name, true)).collect()),
                    ]),
                ),
                ("listening", Value::List(vec![])),
                ("disks", Value::Map(Map::new())),
                ("swap_on", false.into()),
                ("clock_offset_ms", 12.into()),
            ]),
        ),
    ])
}
