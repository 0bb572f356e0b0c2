//! Pod and Service addresses: ranges that can work, apart from each other and from the nodes, with room for all.

use super::Finding;
use super::input::{Checked, Cluster, Node, Setting};
use crate::source::InputError;
use ipnet::Ipv4Net;
use std::net::{IpAddr, Ipv4Addr};

pub const RANGES: &str = "ranges";
pub const POD_RANGES: &str = "pod ranges";

/// The most addresses of Services that kube-apiserver takes: 20 bits (`--service-cluster-ip-range`).
const SHORTEST_SERVICE_PREFIX: u8 = 12;
/// The cluster's DNS gets the third address.
const LONGEST_SERVICE_PREFIX: u8 = 29;
/// The most bits between the range and a node's part of it that kube-controller-manager takes.
const MOST_NODE_BITS: i64 = 16;
/// Of a node's range: the network, the bridge, the broadcast address.
const NOT_FOR_PODS: i64 = 3;

struct Ranges {
    services: Setting<Ipv4Net>,
    pods: Setting<Ipv4Net>,
}

/// A variable that holds a network without host bits; a finding where it is something else.
fn read(cluster: &Cluster<'_>, name: &'static str) -> Result<Option<Result<Setting<Ipv4Net>, Finding>>, InputError> {
    let Some(setting) = cluster.shared(|node| node.text(name))? else { return Ok(None) };
    let required = "an IPv4 network, like 10.233.64.0/18";
    let wrong =
        |help: String| cluster.finding(RANGES, format!("`{}`", setting.value), required).limit(&setting).help(help);
    Ok(Some(match setting.value.parse::<Ipv4Net>() {
        Err(_) => Err(wrong("write address and prefix length".to_owned())),
        Ok(net) if net != net.trunc() => Err(wrong(format!("write {}", net.trunc()))),
        Ok(net) => Ok(Setting { name, value: net, origin: setting.origin.clone() }),
    }))
}

/// Both ranges, when both are valid.
fn both(cluster: &Cluster<'_>) -> Result<Option<Ranges>, InputError> {
    let (Some(Ok(services)), Some(Ok(pods))) =
        (read(cluster, "kube_service_addresses")?, read(cluster, "kube_pods_subnet")?)
    else {
        return Ok(None);
    };
    Ok(Some(Ranges { services, pods }))
}

/// The ranges are networks, fit what the components take, and do not overlap.
pub fn ranges(cluster: &Cluster<'_>) -> Checked {
    let mut findings = Vec::new();
    for name in ["kube_service_addresses", "kube_pods_subnet"] {
        findings.extend(read(cluster, name)?.and_then(Result::err));
    }
    let Some(Ranges { services, pods }) = both(cluster)? else { return Ok(findings) };
    let length = services.value.prefix_len();
    if !(SHORTEST_SERVICE_PREFIX..=LONGEST_SERVICE_PREFIX).contains(&length) {
        let required = format!("a prefix of {SHORTEST_SERVICE_PREFIX} to {LONGEST_SERVICE_PREFIX} bits");
        let finding = cluster.finding(RANGES, format!("{} for Services", services.value), required).limit(&services);
        findings.push(finding.help("kube-apiserver takes no more, and the cluster's own Services need a few"));
    }
    if overlap(services.value, pods.value) {
        let found = format!("Services in {} and pods in {}", services.value, pods.value);
        let finding = cluster.finding(RANGES, found, "two ranges that do not overlap").limit(&pods);
        findings.push(finding.help("move one of kube_service_addresses and kube_pods_subnet"));
    }
    Ok(findings)
}

/// No node has an address in a range, and no node's network overlaps one.
pub fn node_networks(cluster: &Cluster<'_>) -> Checked {
    let Some(Ranges { services, pods }) = both(cluster)? else { return Ok(Vec::new()) };
    let mut findings = Vec::new();
    for node in cluster.nodes() {
        for net in networks(&node)? {
            for (range, of) in [(&services, "Services"), (&pods, "pods")] {
                if overlap(net, range.value) {
                    let found = if net.prefix_len() == 32 {
                        format!("address {}", net.addr())
                    } else {
                        format!("network {net}")
                    };
                    let required = format!("nothing of the node in {} for {of}", range.value);
                    let finding = node.finding(RANGES, found, required).limit(range);
                    findings.push(finding.help(format!("choose a range for {} that is used nowhere", range.name)));
                }
            }
        }
    }
    Ok(findings)
}

/// The addresses by which the host is known, and the network of its default route. Other addresses are left out: those of
/// our own bridge are in the range of pods.
fn networks(node: &Node<'_>) -> Result<Vec<Ipv4Net>, InputError> {
    let mut found: Vec<Ipv4Net> = Vec::new();
    let fact = |name| node.text_fact(&["ansible_default_ipv4", name]);
    let net: Option<Ipv4Net> =
        fact("network").zip(fact("prefix")).and_then(|(net, prefix)| format!("{net}/{prefix}").parse().ok());
    found.extend(net);
    for name in ["ip", "access_ip", "ansible_host"] {
        let address = node.optional(name, "a string", |value| Some(value.as_str()?.parse::<Ipv4Addr>().ok()))?;
        found.extend(address.and_then(|address| address.value).map(Ipv4Net::from));
    }
    if node.known()
        && let Ok(IpAddr::V4(address)) = node.main_address()
    {
        found.push(address.into());
    }
    // An address inside the network says nothing more.
    let mut distinct: Vec<Ipv4Net> = Vec::new();
    for net in found {
        if !distinct.iter().any(|known| known.contains(&net)) {
            distinct.push(net);
        }
    }
    Ok(distinct)
}

/// Every node gets a part of the range of pods.
pub fn enough_ranges(cluster: &Cluster<'_>) -> Checked {
    let Some(Ok(pods)) = read(cluster, "kube_pods_subnet")? else { return Ok(Vec::new()) };
    let Some(prefix) = cluster.shared(|node| node.int("kube_network_node_prefix"))? else { return Ok(Vec::new()) };
    let length = i64::from(pods.value.prefix_len());
    let bits = prefix.value - length;
    if bits < 0 || prefix.value > 30 || bits > MOST_NODE_BITS {
        let most = (length + MOST_NODE_BITS).min(30);
        let finding =
            cluster.finding(POD_RANGES, format!("/{} for each node", prefix.value), format!("{length} to {most}"));
        return Ok(vec![finding.limit(&prefix).help(format!("it is a part of {} ({})", pods.value, pods.name))]);
    }
    let (nodes, room) = (cluster.kubelets().count() as i64, 1i64 << bits);
    if nodes <= room {
        return Ok(Vec::new());
    }
    let found = format!("{room} ranges of /{} in {}", prefix.value, pods.value);
    let finding = cluster.finding(POD_RANGES, found, format!("{nodes}, one for each node")).limit(&pods);
    Ok(vec![finding.help("make kube_pods_subnet larger or kube_network_node_prefix longer, before the cluster exists")])
}

/// The node's range has an address for each of its pods.
pub fn pods_of_node(node: &Node<'_>) -> Checked {
    let prefix = node.int("kube_network_node_prefix")?;
    let limit = node.int("kubelet_max_pods")?;
    if !(0..=30).contains(&prefix.value) {
        return Ok(Vec::new());
    }
    let room = (1i64 << (32 - prefix.value)) - NOT_FOR_PODS;
    if limit.value <= room {
        return Ok(Vec::new());
    }
    let finding =
        node.finding(POD_RANGES, format!("{} pods", limit.value), format!("at most {room} in a /{}", prefix.value));
    Ok(vec![finding.limit(&limit).help(format!("set kubelet_max_pods: {room}, or a shorter kube_network_node_prefix"))])
}

fn overlap(a: Ipv4Net, b: Ipv4Net) -> bool {
    a.contains(&b) || b.contains(&a)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preflight::testing::{Fixture, facts};
    use crate::value::Value;

    #[test]
    fn ranges_are_networks_that_do_not_overlap() {
        let mut cluster = Fixture::three();
        assert_eq!(cluster.run_cluster(ranges), []);
        cluster.var("kube_pods_subnet", "10.233.0.0/16");
        assert!(
            cluster.lines_of_cluster(ranges)[0].contains("found Services in 10.233.0.0/18 and pods in 10.233.0.0/16")
        );
        cluster.var("kube_pods_subnet", "10.233.65.0/18");
        cluster.var("kube_service_addresses", "10.233.0.0");
        let lines = cluster.lines_of_cluster(ranges);
        assert!(lines[0].contains("found `10.233.0.0`, required an IPv4 network"));
        assert!(lines[1].ends_with("write 10.233.64.0/18"));
        cluster.var("kube_pods_subnet", "10.233.64.0/18");
        cluster.var("kube_service_addresses", "11.0.0.0/8");
        assert!(cluster.lines_of_cluster(ranges)[0].contains("required a prefix of 12 to 29 bits"));
    }

    #[test]
    fn nodes_are_outside_the_ranges() {
        let mut cluster = Fixture::three();
        assert_eq!(cluster.run_cluster(node_networks), []);
        cluster.var("kube_pods_subnet", "10.0.0.128/25");
        let lines = cluster.lines_of_cluster(node_networks);
        assert!(
            lines[0]
                .starts_with("n1 : ranges : found network 10.0.0.0/24, required nothing of the node in 10.0.0.128/25")
        );
        assert_eq!(lines.len(), 3);
        cluster.var("kube_pods_subnet", "10.233.64.0/18");
        cluster.host_var("n2", "access_ip", "10.233.70.1");
        assert!(cluster.lines_of_cluster(node_networks)[0].starts_with("n2 : ranges : found address 10.233.70.1"));
        cluster.host_var("n2", "access_ip", "2001:db8::1");
        cluster.fact("n3", "ansible_default_ipv4", facts([("network", "10.233.0.0".into()), ("prefix", "16".into())]));
        assert_eq!(cluster.run_cluster(node_networks).len(), 2);
    }

    #[test]
    fn every_node_gets_a_range() {
        let mut cluster = Fixture::three();
        assert_eq!(cluster.run_cluster(enough_ranges), []);
        cluster.var("kube_pods_subnet", "10.233.64.0/23");
        assert!(
            cluster.lines_of_cluster(enough_ranges)[0]
                .contains("found 2 ranges of /24 in 10.233.64.0/23, required 3, one")
        );
        cluster.var("kube_network_node_prefix", 22);
        assert!(cluster.lines_of_cluster(enough_ranges)[0].contains("found /22 for each node, required 23 to 30"));
        cluster.var("kube_network_node_prefix", 25);
        assert_eq!(cluster.run_cluster(enough_ranges), []);
    }

    #[test]
    fn every_pod_gets_an_address() {
        let mut cluster = Fixture::three();
        assert_eq!(cluster.run(pods_of_node), []);
        cluster.host_var("n2", "kubelet_max_pods", 254);
        assert!(
            cluster.lines(pods_of_node)[0]
                .starts_with("n2 : pod ranges : found 254 pods, required at most 253 in a /24")
        );
        cluster.var("kube_network_node_prefix", 23);
        assert_eq!(cluster.run(pods_of_node), []);
    }

    #[test]
    fn a_range_is_the_clusters_and_not_a_hosts() {
        let mut cluster = Fixture::three();
        cluster.host_var("n3", "kube_pods_subnet", "10.50.0.0/16");
        let error = ranges(&cluster.cluster()).unwrap_err();
        assert_eq!(error.message, "`kube_pods_subnet` differs between n1 and n3");
    }

    #[test]
    fn facts_of_another_shape_do_no_harm() {
        let mut cluster = Fixture::three();
        cluster.fact("n1", "ansible_default_ipv4", Value::List(vec![]));
        assert_eq!(cluster.run_cluster(node_networks), []);
    }
}
