//! What has to differ from host to host (names, addresses, machine-ids), and what must not (clocks).

use super::Finding;
use super::input::{Checked, Cluster, Node};
use crate::value::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

/// The node's name in Kubernetes: an RFC 1123 subdomain in lower case, and nobody else's.
/// <https://kubernetes.io/docs/concepts/overview/working-with-objects/names/>
pub fn names(cluster: &Cluster<'_>) -> Checked {
    let mut findings = Vec::new();
    let mut names = Vec::new();
    for node in cluster.nodes() {
        let name = node.text("kube_override_hostname")?;
        let name = if name.value.is_empty() { node.name.to_owned() } else { name.value };
        if !is_rfc1123(&name) {
            findings.push(
                node.finding(
                    "name",
                    format!("`{name}`"),
                    "an RFC 1123 name: lower-case letters, digits, `-` and `.`, each part beginning and ending with a \
                     letter or digit, at most 63 characters a part and 253 in all",
                )
                .help("rename the host in the inventory, or set kube_override_hostname for it"),
            );
        }
        names.push((node, name));
    }
    findings.extend(twice("name", "a node name of its own", &names, "set another kube_override_hostname"));
    Ok(findings)
}

/// The machine's own host name, unless it is going to be set.
pub fn hostnames(cluster: &Cluster<'_>) -> Checked {
    let mut names = Vec::new();
    for node in cluster.nodes() {
        let set = node.optional("override_system_hostname", "true or false", Value::to_bool)?;
        if let Some(name) = node.text_fact(&["ansible_hostname"]).filter(|_| !set.is_some_and(|set| set.value)) {
            names.push((node, name.to_owned()));
        }
    }
    Ok(twice("hostname", "a host name of its own", &names, "run hostnamectl set-hostname on one of them"))
}

/// The machine-id is there.
pub fn machine_id(node: &Node<'_>) -> Checked {
    if node.text_fact(&["ansible_machine_id"]).is_some() {
        return Ok(Vec::new());
    }
    let finding = node.finding("machine-id", "none in /etc/machine-id", "a machine-id");
    Ok(vec![finding.help("run systemd-machine-id-setup")])
}

/// Cloned machines often share one: then logs, leases and network interfaces' addresses are mixed up.
pub fn machine_ids(cluster: &Cluster<'_>) -> Checked {
    let ids = cluster.nodes().filter_map(|node| Some((node, node.text_fact(&["ansible_machine_id"])?.to_owned())));
    let ids: Vec<_> = ids.collect();
    let help = "on a clone: empty /etc/machine-id, run systemd-machine-id-setup and reboot";
    Ok(twice("machine-id", "a machine-id of its own", &ids, help))
}

/// Two names in the inventory for one way in: known before any host is asked.
pub fn connections(cluster: &Cluster<'_>) -> Checked {
    let mut ways = Vec::new();
    for node in cluster.nodes() {
        let read = |name, text: fn(&Value) -> Option<String>| node.optional(name, "a string", text);
        let address = read("ansible_host", |value| value.as_str().map(str::to_owned))?;
        let port = read("ansible_port", |value| Some(value.to_string()))?;
        if let Some(address) = address {
            ways.push((node, format!("{}:{}", address.value, port.map_or("22".to_owned(), |port| port.value))));
        }
    }
    Ok(twice("address", "an ansible_host of its own", &ways, "correct ansible_host in the inventory"))
}

/// The addresses that others use, as the host itself and its variables tell.
pub fn addresses(cluster: &Cluster<'_>) -> Checked {
    let known = cluster.nodes().filter(Node::known);
    let addresses: Vec<_> = known.filter_map(|node| Some((node, node.main_address().ok()?.to_string()))).collect();
    Ok(twice("address", "an address of its own", &addresses, "set `ip` or `access_ip` for one of them"))
}

/// The host has an address for others to use, and `ip` is on one of its interfaces.
pub fn address(node: &Node<'_>) -> Checked {
    if let Err(reason) = node.main_address() {
        let finding = node.finding("address", reason, "an IP address that other hosts can use");
        return Ok(vec![finding.help("set `ip` for the host, or give it a default route")]);
    }
    let Some(ip) = node.optional("ip", "an IP address", |value| value.as_str()?.parse::<IpAddr>().ok())? else {
        return Ok(Vec::new());
    };
    let all = |fact| node.fact(&[fact]).and_then(Value::as_list).unwrap_or_default();
    let mut own = all("ansible_all_ipv4_addresses")
        .iter()
        .chain(all("ansible_all_ipv6_addresses"))
        .filter_map(|address| address.as_str()?.parse::<IpAddr>().ok());
    if own.any(|address| address == ip.value) {
        return Ok(Vec::new());
    }
    let finding =
        node.finding("address", format!("no interface with {}", ip.value), "the address `ip` on an interface");
    Ok(vec![finding.limit(&ip).help("correct `ip`; where others reach the host under another address, use access_ip")])
}

/// Certificates and leases need clocks that agree. Offsets are from the controller's clock; the middle one is taken for
/// right.
pub fn clocks(cluster: &Cluster<'_>) -> Checked {
    let mut offsets: Vec<(i64, Node<'_>)> =
        cluster.nodes().filter_map(|node| Some((node.int_fact(&["kprov", "clock_offset_ms"])?, node))).collect();
    let Some(limit) = cluster.shared(|node| node.int("maximum_clock_difference_seconds"))? else {
        return Ok(Vec::new());
    };
    offsets.sort_by_key(|(offset, _)| *offset);
    let (Some((least, _)), Some((most, _))) = (offsets.first(), offsets.last()) else { return Ok(Vec::new()) };
    let allowed = limit.value.saturating_mul(1000);
    if most - least <= allowed {
        return Ok(Vec::new());
    }
    let middle = offsets[(offsets.len() - 1) / 2].0;
    let furthest = offsets.iter().map(|(offset, _)| (offset - middle).abs()).max().unwrap_or_default();
    Ok(offsets
        .iter()
        // Where nobody is too far from the middle, but the ends are from each other, the furthest is to blame.
        .filter(|(offset, _)| {
            (offset - middle).abs() > allowed || (furthest <= allowed && (offset - middle).abs() == furthest)
        })
        .map(|(offset, node)| {
            let seconds = (offset - middle) as f64 / 1000.0;
            let way = if seconds < 0.0 { "behind" } else { "ahead of" };
            let found = format!("a clock {:.1} s {way} the others", seconds.abs());
            node.finding("clock", found, format!("at most {} s between two hosts", limit.value))
                .limit(&limit)
                .help("let chrony or systemd-timesyncd set the clock")
        })
        .collect())
}

/// A finding for each host whose value another one has too.
fn twice(check: &'static str, required: &str, values: &[(Node<'_>, String)], help: &str) -> Vec<Finding> {
    let mut by_value: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (node, value) in values {
        by_value.entry(value).or_default().insert(node.name);
    }
    let mut told: HashMap<&str, usize> = HashMap::new();
    let mut findings = Vec::new();
    for (node, value) in values {
        let hosts = &by_value[value.as_str()];
        // The first one may keep it.
        let seen = told.entry(value).or_default();
        *seen += 1;
        if hosts.len() < 2 || *seen == 1 {
            continue;
        }
        let others: Vec<&str> = hosts.iter().copied().filter(|host| *host != node.name).collect();
        let found = format!("{value}, as on {}", others.join(", "));
        findings.push(node.finding(check, found, required).help(help));
    }
    findings
}

fn is_rfc1123(name: &str) -> bool {
    let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let label = |label: &str| {
        let bytes = label.as_bytes();
        matches!((bytes.first(), bytes.last()), (Some(&first), Some(&last)) if letter(first) && letter(last))
            && bytes.len() <= 63
            && bytes.iter().all(|&b| letter(b) || b == b'-')
    };
    name.len() <= 253 && name.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preflight::testing::Fixture;

    #[test]
    fn names_are_rfc_1123_and_unique() {
        let mut cluster = Fixture::three();
        assert_eq!(cluster.run_cluster(names), []);
        for name in ["N1", "n_1", "-n", "n.", "", &"a".repeat(64)] {
            assert!(!is_rfc1123(name), "{name}");
        }
        cluster.host_var("n2", "kube_override_hostname", "Node_2");
        cluster.host_var("n3", "kube_override_hostname", "n1");
        let lines = cluster.lines_of_cluster(names);
        assert!(lines[0].starts_with("n2 : name : found `Node_2`, required an RFC 1123 name"));
        assert!(lines[1].starts_with("n3 : name : found n1, as on n1, required a node name of its own"));
    }

    #[test]
    fn machines_are_no_clones() {
        let mut cluster = Fixture::three();
        assert_eq!(cluster.run_cluster(hostnames), []);
        assert_eq!(cluster.run_cluster(machine_ids), []);
        assert_eq!(cluster.run(machine_id), []);
        for fact in ["ansible_hostname", "ansible_machine_id"] {
            cluster.fact("n3", fact, "same");
            cluster.fact("n2", fact, "same");
        }
        assert!(cluster.lines_of_cluster(hostnames)[0].starts_with("n3 : hostname : found same, as on n2"));
        assert!(cluster.lines_of_cluster(machine_ids)[0].starts_with("n3 : machine-id : found same, as on n2"));
        cluster.var("override_system_hostname", true);
        assert_eq!(cluster.run_cluster(hostnames), []);
        cluster.fact("n3", "ansible_machine_id", "");
        assert_eq!(cluster.run(machine_id).len(), 1);
    }

    #[test]
    fn addresses_are_unique_and_on_the_host() {
        let mut cluster = Fixture::three();
        assert_eq!(cluster.run_cluster(connections), []);
        assert_eq!(cluster.run_cluster(addresses), []);
        assert_eq!(cluster.run(address), []);
        cluster.host_var("n3", "ansible_host", "10.0.0.12");
        cluster.host_var("n3", "main_access_ip", "10.0.0.12");
        assert!(cluster.lines_of_cluster(connections)[0].starts_with("n3 : address : found 10.0.0.12:22, as on n2"));
        assert!(cluster.lines_of_cluster(addresses)[0].starts_with("n3 : address : found 10.0.0.12, as on n2"));
        cluster.host_var("n3", "ansible_port", 2222);
        assert_eq!(cluster.run_cluster(connections), [], "one address with two ports is two machines behind it");
        cluster.host_var("n2", "main_access_ip", "n2.example.org");
        assert!(
            cluster.lines(address)[0].starts_with("n2 : address : found `n2.example.org` in main_access_ip, required")
        );
        cluster.host_var("n2", "main_access_ip", "10.0.0.22");
        cluster.host_var("n3", "ip", "10.0.0.99");
        assert!(cluster.lines(address)[0].contains("found no interface with 10.0.0.99"));
        cluster.host_var("n3", "ip", "10.0.0.13");
        assert_eq!(cluster.run(address), []);
    }

    #[test]
    fn clocks_agree() {
        let mut cluster = Fixture::three();
        assert_eq!(cluster.run_cluster(clocks), []);
        cluster.kprov("n2", "clock_offset_ms", -61_500);
        let lines = cluster.lines_of_cluster(clocks);
        assert_eq!(lines.len(), 1);
        assert!(
            lines[0].starts_with("n2 : clock : found a clock 61.5 s behind the others, required at most 5 s between")
        );
        // The controller's own clock is of no importance.
        for host in ["n1", "n2", "n3"] {
            cluster.kprov(host, "clock_offset_ms", 3_600_000);
        }
        assert_eq!(cluster.run_cluster(clocks), []);
        cluster.kprov("n1", "clock_offset_ms", -3000);
        cluster.kprov("n2", "clock_offset_ms", 0);
        cluster.kprov("n3", "clock_offset_ms", 3000);
        assert_eq!(cluster.run_cluster(clocks).len(), 2);
        cluster.var("maximum_clock_difference_seconds", 6);
        assert_eq!(cluster.run_cluster(clocks), []);
    }
}
