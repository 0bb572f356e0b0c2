//! The operating system: distribution, systemd, control groups, kernel, swap.

use super::input::{CONTROL_PLANE, Checked, NODE, Node};
use crate::value::Value;

/// A distribution that the roles know.
pub fn distribution(node: &Node<'_>) -> Checked {
    if node.bool("allow_unsupported_distribution_setup")?.value {
        return Ok(Vec::new());
    }
    let supported = node.texts("supported_os_distributions")?;
    let required = supported.value.join(", ");
    let Some(found) = node.text_fact(&["ansible_distribution"]) else {
        return Ok(vec![node.unknown("distribution", "ansible_distribution", required)]);
    };
    if supported.value.iter().any(|name| name == found) {
        return Ok(Vec::new());
    }
    let version = node.text_fact(&["ansible_distribution_version"]).unwrap_or_default();
    Ok(vec![
        node.finding("distribution", format!("{found} {version}").trim_end(), required)
            .limit(&supported)
            .help("use a supported one, or go on at your own risk with -e allow_unsupported_distribution_setup=true"),
    ])
}

/// systemd as init, new enough for what the units say.
pub fn systemd(node: &Node<'_>) -> Checked {
    let limit = node.int("minimal_systemd_version")?;
    let required = format!("systemd {} or newer as init", limit.value);
    let mut help = "use a newer release of the distribution";
    let found = match (node.text_fact(&["ansible_service_mgr"]), node.int_fact(&["kprov", "systemd_version"])) {
        (Some("systemd"), Some(version)) if version >= limit.value => return Ok(Vec::new()),
        (Some("systemd"), Some(version)) => format!("systemd {version}"),
        (Some(other), _) if other != "systemd" => {
            help = "boot the host with systemd";
            format!("{other} as init")
        }
        _ => return Ok(vec![node.unknown("systemd", "kprov.systemd_version", required)]),
    };
    Ok(vec![node.finding("systemd", found, required).limit(&limit).help(help)])
}

/// Controllers that the kubelet and runc cannot do without, and the version that the kubelet accepts.
/// <https://kubernetes.io/docs/concepts/architecture/cgroups/>
pub fn cgroups(node: &Node<'_>) -> Checked {
    const V1: [&str; 7] = ["cpu", "cpuacct", "cpuset", "devices", "freezer", "memory", "pids"];
    const V2: [&str; 4] = ["cpu", "cpuset", "memory", "pids"];
    if !runs_pods(node) {
        return Ok(Vec::new());
    }
    let controllers = node.fact(&["kprov", "cgroup", "controllers"]).and_then(Value::as_list);
    let (Some(version), Some(controllers)) = (node.text_fact(&["kprov", "cgroup", "version"]), controllers) else {
        return Ok(vec![node.unknown("control groups", "kprov.cgroup", "control group controllers")]);
    };
    let needed: &[&str] = if version == "2" { &V2 } else { &V1 };
    let missing: Vec<&str> =
        needed.iter().filter(|name| !controllers.iter().any(|c| c.as_str() == Some(name))).copied().collect();
    let mut findings = Vec::new();
    if !missing.is_empty() {
        findings.push(
            node.finding(
                "control groups",
                format!("no controller {} (version {version})", missing.join(", ")),
                format!("the controllers {}", needed.join(", ")),
            )
            .help("enable them on the kernel's command line (cgroup_enable=memory), or for this container"),
        );
    }
    let fail_v1 = node.bool("kubelet_fail_cgroup_v1")?;
    if version != "2" && fail_v1.value && at_least(&node.text("kube_version")?.value, &[1, 35]) {
        findings.push(
            node.finding("control groups", format!("version {version}"), "version 2 for kubelet 1.35 and newer")
                .limit(&fail_v1)
                .help("boot with systemd.unified_cgroup_hierarchy=1, or set kubelet_fail_cgroup_v1: false"),
        );
    }
    Ok(findings)
}

/// What the kernel needs for the network plugin, the proxy and the snapshotter. A module that is built in counts, and one
/// that can be loaded.
pub fn kernel(node: &Node<'_>) -> Checked {
    if !runs_pods(node) {
        return Ok(Vec::new());
    }
    let Some(has) = node.fact(&["kprov", "kernel", "has"]) else {
        return Ok(vec![node.unknown("kernel", "kprov.kernel.has", "kernel features")]);
    };
    let has = |module: &str| has.get(module).and_then(Value::as_bool) == Some(true);
    let plugin = node.text("kube_network_plugin")?;
    let proxy = node.text("kube_proxy_mode")?;
    let snapshotter = node.text("containerd_snapshotter")?;
    let mut findings = Vec::new();
    let mut need = |modules: &[&str], setting| {
        for module in modules.iter().filter(|module| !has(module)) {
            findings.push(missing(node, module, setting));
        }
    };
    need(&["bridge", "br_netfilter", "veth"], &plugin);
    match proxy.value.as_str() {
        "nftables" => need(&["nf_tables", "nf_conntrack"], &proxy),
        _ => need(&["nf_conntrack"], &proxy),
    }
    if snapshotter.value == "overlayfs" {
        need(&["overlay"], &snapshotter);
    }
    // iptables works on either of the two.
    if !has("ip_tables") && !has("nf_tables") {
        findings.push(missing(node, "ip_tables or nf_tables", &proxy));
    }
    let release = node.text_fact(&["kprov", "kernel", "release"]).unwrap_or_default();
    // Kubespray's limit; kube-proxy's nftables mode relies on what came with 5.13.
    if proxy.value == "nftables" && !at_least(release, &[5, 13]) {
        findings.push(
            node.finding("kernel", format!("Linux {release}"), "Linux 5.13 or newer for nftables")
                .limit(&proxy)
                .help("use a newer kernel, or kube_proxy_mode: iptables"),
        );
    }
    Ok(findings)
}

fn missing<T>(node: &Node<'_>, module: &str, setting: &super::input::Setting<T>) -> super::Finding
where
    T: std::fmt::Display,
{
    node.finding("kernel", format!("no {module}"), format!("{module} for {}", setting.value))
        .limit(setting)
        .help("use a kernel that has it built in or as a module")
}

/// The kubelet does not start on a node that swaps, unless it is told to.
pub fn swap(node: &Node<'_>) -> Checked {
    let limit = node.bool("kubelet_fail_swap_on")?;
    if !runs_pods(node) || !limit.value {
        return Ok(Vec::new());
    }
    match node.fact(&["kprov", "swap_on"]).and_then(Value::as_bool) {
        Some(false) => Ok(Vec::new()),
        None => Ok(vec![node.unknown("swap", "kprov.swap_on", "no swap")]),
        Some(true) => {
            let size =
                node.int_fact(&["ansible_swaptotal_mb"]).map_or("swap".to_owned(), |mb| format!("{mb} MB of swap"));
            Ok(vec![
                node.finding("swap", size, "no swap")
                    .limit(&limit)
                    .help("run swapoff -a and remove swap from /etc/fstab, or set kubelet_fail_swap_on: false"),
            ])
        }
    }
}

fn runs_pods(node: &Node<'_>) -> bool {
    node.is_in(CONTROL_PLANE) || node.is_in(NODE)
}

/// Compares the leading numbers of a version.
pub fn at_least(version: &str, least: &[u64]) -> bool {
    let numbers: Vec<u64> = version
        .split(|c: char| !c.is_ascii_digit())
        .map_while(|number| number.parse().ok())
        .take(least.len())
        .collect();
    numbers.as_slice() >= least
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preflight::testing::{Fixture, facts};

    #[test]
    fn a_distribution_has_to_be_known_or_allowed() {
        let mut cluster = Fixture::three();
        assert_eq!(cluster.run(distribution), []);
        cluster.fact("n2", "ansible_distribution", "Alpine");
        cluster.fact("n2", "ansible_distribution_version", "3.22");
        assert!(
            cluster.lines(distribution)[0]
                .starts_with("n2 : distribution : found Alpine 3.22, required Debian, Ubuntu")
        );
        cluster.var("allow_unsupported_distribution_setup", true);
        assert_eq!(cluster.run(distribution), []);
    }

    #[test]
    fn init_has_to_be_a_recent_systemd() {
        let mut cluster = Fixture::three();
        assert_eq!(cluster.run(systemd), []);
        cluster.kprov("n1", "systemd_version", 232);
        cluster.fact("n2", "ansible_service_mgr", "openrc");
        cluster.kprov("n3", "systemd_version", Value::Null);
        let lines = cluster.lines(systemd);
        assert!(lines[0].contains("found systemd 232, required systemd 244 or newer"));
        assert!(lines[1].contains("found openrc as init"));
        assert!(lines[2].contains("found no fact `kprov.systemd_version`"));
    }

    #[test]
    fn control_groups() {
        let mut cluster = Fixture::three();
        assert_eq!(cluster.run(cgroups), []);
        let group = |version: &str, controllers: &[&str]| {
            let controllers: Vec<Value> = controllers.iter().map(|c| (*c).into()).collect();
            facts([("version", version.into()), ("controllers", Value::List(controllers))])
        };
        cluster.kprov("n2", "cgroup", group("2", &["cpu", "cpuset", "io", "pids"]));
        assert!(cluster.lines(cgroups)[0].contains("found no controller memory (version 2)"));
        let v1 = group("hybrid", &["cpu", "cpuacct", "cpuset", "devices", "freezer", "memory", "pids"]);
        cluster.kprov("n2", "cgroup", v1);
        assert!(cluster.lines(cgroups)[0].contains("found version hybrid, required version 2 for kubelet 1.35"));
        cluster.var("kubelet_fail_cgroup_v1", false);
        assert_eq!(cluster.run(cgroups), []);
        cluster.var("kubelet_fail_cgroup_v1", true);
        cluster.var("kube_version", "1.34.9");
        assert_eq!(cluster.run(cgroups), []);
    }

    #[test]
    fn kernel_features_of_the_chosen_options() {
        let mut cluster = Fixture::three();
        assert_eq!(cluster.run(kernel), []);
        cluster.var("kube_proxy_mode", "nftables");
        let bare = facts([("release", "5.10.0-1-amd64".into()), ("has", facts([("nf_tables", true.into())]))]);
        cluster.kprov("n3", "kernel", bare);
        let lines = cluster.lines(kernel);
        assert!(
            lines[0].starts_with("n3 : kernel : found no bridge, required bridge for bridge (kube_network_plugin, ")
        );
        let found: Vec<String> = cluster.run(kernel).into_iter().map(|finding| finding.found).collect();
        let expected =
            ["no bridge", "no br_netfilter", "no veth", "no nf_conntrack", "no overlay", "Linux 5.10.0-1-amd64"];
        assert_eq!(found, expected);
    }

    #[test]
    fn swap_is_a_finding_unless_it_is_wanted() {
        let mut cluster = Fixture::three();
        assert_eq!(cluster.run(swap), []);
        cluster.kprov("n1", "swap_on", true);
        cluster.fact("n1", "ansible_swaptotal_mb", 2048);
        assert!(cluster.lines(swap)[0].contains("found 2048 MB of swap, required no swap (kubelet_fail_swap_on, "));
        cluster.var("kubelet_fail_swap_on", "false");
        assert_eq!(cluster.run(swap), []);
    }

    #[test]
    fn versions() {
        assert!(at_least("1.35.0", &[1, 35]) && at_least("2", &[1, 35]) && at_least("6.18.44-fc", &[5, 13]));
        assert!(!at_least("1.34.9", &[1, 35]) && !at_least("", &[1, 35]));
    }
}
