//! Ports that the components need, and who holds them.

use super::input::{CONTROL_PLANE, Checked, ETCD, NODE, Node};
use crate::value::Value;
use std::net::IpAddr;

/// A socket that listens, and who has it.
pub struct Listener<'a> {
    pub proto: &'a str,
    pub address: Option<IpAddr>,
    pub port: i64,
    /// Path of the program; empty where it is not known.
    pub exe: &'a str,
    /// The systemd unit; empty where it is not known.
    pub unit: &'a str,
}

impl Listener<'_> {
    /// Whether it belongs to our unit of that name.
    pub fn is(&self, unit: &str) -> bool {
        self.unit.strip_suffix(".service").unwrap_or(self.unit) == unit
    }

    /// Whether a socket on `local` (this machine only) or on all addresses could not be opened beside it.
    fn blocks(&self, local: bool) -> bool {
        self.address.is_none_or(|address| !local || address.is_unspecified() || address.is_loopback())
    }
}

/// The listening sockets, where the host has told them.
pub fn listeners<'a>(node: &Node<'a>) -> Option<Vec<Listener<'a>>> {
    let text = |item: &'a Value, key| item.get(key).and_then(Value::as_str).unwrap_or_default();
    let list = node.fact(&["kprov", "listening"])?.as_list()?;
    Some(
        list.iter()
            .filter_map(|item| {
                Some(Listener {
                    proto: text(item, "proto"),
                    address: text(item, "address").parse().ok(),
                    port: item.get("port")?.as_int()?,
                    exe: text(item, "exe"),
                    unit: text(item, "unit"),
                })
            })
            .collect(),
    )
}

/// A TCP port of a component: unit, port, whether it listens for this machine only.
type Port = (&'static str, i64, bool);

/// Every port that the host's groups need is free, or held by the component itself.
pub fn ports(node: &Node<'_>) -> Checked {
    let apiserver = node.int("kube_apiserver_port")?;
    let mut needed: Vec<Port> = Vec::new();
    if node.is_in(ETCD) {
        needed.extend([("etcd", 2379, false), ("etcd", 2380, false), ("etcd", 2381, true)]);
    }
    if node.is_in(CONTROL_PLANE) {
        needed.extend([
            ("kube-apiserver", apiserver.value, false),
            ("kube-controller-manager", 10257, false),
            ("kube-scheduler", 10259, false),
        ]);
    }
    if node.is_in(CONTROL_PLANE) || node.is_in(NODE) {
        needed.extend([
            ("kubelet", 10250, false),
            ("kubelet", 10248, true),
            ("kube-proxy", 10256, false),
            ("kube-proxy", 10249, true),
        ]);
    }
    let Some(listeners) = listeners(node) else {
        return Ok(vec![node.unknown("ports", "kprov.listening", "free ports")]);
    };
    let mut findings = Vec::new();
    for (unit, port, local) in needed {
        let holder =
            listeners.iter().find(|l| l.port == port && !l.proto.starts_with("udp") && l.blocks(local) && !l.is(unit));
        let Some(holder) = holder else { continue };
        let who = [holder.unit, holder.exe].into_iter().find(|who| !who.is_empty()).unwrap_or("an unknown process");
        let finding = node
            .finding("ports", format!("port {port} held by {who}"), format!("port {port}/tcp free for {unit}"))
            .help(format!("stop {who}{}", if unit == "kube-apiserver" { ", or choose another port" } else { "" }));
        findings.push(if unit == "kube-apiserver" { finding.limit(&apiserver) } else { finding });
    }
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preflight::testing::Fixture;

    #[test]
    fn a_port_in_other_hands_is_a_finding() {
        let mut cluster = Fixture::three();
        assert_eq!(cluster.run(ports), []);
        cluster.listen("n1", "::", 6443, "nginx.service");
        cluster.listen("n3", "127.0.0.1", 10250, "");
        assert_eq!(
            cluster.lines(ports),
            [
                "n1 : ports : found port 6443 held by nginx.service, required port 6443/tcp free for kube-apiserver \
             (kube_apiserver_port, defaults.yml:1) : stop nginx.service, or choose another port",
                "n3 : ports : found port 10250 held by an unknown process, required port 10250/tcp free for kubelet : \
             stop an unknown process",
            ]
        );
        cluster.var("kube_apiserver_port", 8443);
        assert_eq!(cluster.lines(ports).len(), 1);
    }

    #[test]
    fn our_own_components_and_other_peoples_ports_are_none() {
        let mut cluster = Fixture::three();
        cluster.listen("n1", "0.0.0.0", 6443, "kube-apiserver.service");
        cluster.listen("n1", "10.0.0.11", 2379, "etcd.service");
        // A worker needs no port of the control plane.
        cluster.listen("n2", "0.0.0.0", 6443, "nginx.service");
        // The health port of the kubelet is on 127.0.0.1: another address may have it.
        cluster.listen("n2", "10.0.0.12", 10248, "nginx.service");
        assert_eq!(cluster.run(ports), []);
        cluster.listen("n2", "0.0.0.0", 10248, "nginx.service");
        assert_eq!(cluster.run(ports).len(), 1);
        cluster.remove_fact("n3", "kprov");
        assert_eq!(cluster.run(ports).len(), 2);
    }
}
