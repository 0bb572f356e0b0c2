//! The inventory's groups, and the version that is asked for.

use super::input::{CONTROL_PLANE, Checked, Cluster, ETCD, NODE};
use crate::source::near_miss;

pub const VERSION: &str = "version";

/// Groups without which there is no cluster.
pub fn required_groups(cluster: &Cluster<'_>) -> Checked {
    let mut findings = Vec::new();
    for group in [CONTROL_PLANE, ETCD, NODE] {
        if !cluster.inventory.hosts_of(group).is_empty() {
            continue;
        }
        let known = cluster.inventory.groups.get(group);
        let found = if known.is_some() { "a group without hosts" } else { "no such group" };
        let others = cluster.inventory.groups.keys().map(String::as_str).filter(|name| *name != group);
        let near = near_miss(group, others);
        let near = near.filter(|_| known.is_none()).map(|name| format!("; did you mean `{name}` to be `{group}`?"));
        let mut finding = cluster
            .finding("groups", format!("{found} {group}"), format!("at least one host in {group}"))
            .help(format!("list its hosts in the inventory under [{group}]{}", near.unwrap_or_default()));
        finding.origin = known.and_then(|group| group.origin.clone());
        findings.push(finding);
    }
    Ok(findings)
}

/// The check of [`single_control_plane`].
pub const SINGLE: &str = "control plane";

/// An even member adds no fault tolerance, and one more way to lose the quorum.
/// <https://etcd.io/docs/v3.6/faq/#why-an-odd-number-of-cluster-members>
pub fn etcd_members(cluster: &Cluster<'_>) -> Checked {
    let members = cluster.inventory.hosts_of(ETCD).len();
    if members == 0 || members % 2 == 1 {
        return Ok(Vec::new());
    }
    let finding = cluster
        .finding("etcd members", format!("{members} hosts in the group etcd"), "an odd number")
        .help(format!("use {} or {} of them", members - 1, members + 1));
    Ok(vec![finding])
}

/// Several control-plane nodes need one authority and one address for all, which the roles do not give them yet.
pub fn single_control_plane(cluster: &Cluster<'_>) -> Checked {
    let mut findings = Vec::new();
    for group in [CONTROL_PLANE, ETCD] {
        let hosts = cluster.inventory.hosts_of(group).len();
        if hosts > 1 {
            let finding = cluster.finding(SINGLE, format!("{hosts} hosts in the group {group}"), "one, for now");
            findings.push(finding.help("clusters with several are not supported yet; leave the others to kube_node"));
        }
    }
    Ok(findings)
}

/// A release line that kprov knows how to install.
pub fn kubernetes_version(cluster: &Cluster<'_>) -> Checked {
    let Some(version) = cluster.shared(|node| node.text("kube_version"))? else { return Ok(Vec::new()) };
    let Some(lines) = cluster.shared(|node| node.texts("kube_supported_lines"))? else { return Ok(Vec::new()) };
    let parts: Vec<&str> = version.value.split('.').collect();
    let numeric =
        parts.len() == 3 && parts.iter().all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()));
    if numeric && lines.value.contains(&parts[..2].join(".")) {
        return Ok(Vec::new());
    }
    let required = format!("a release of {}", lines.value.join(", "));
    let help = match version.value.strip_prefix('v') {
        Some(rest) => format!("write it without the v: {rest}"),
        None => "set kube_version to a release like 1.36.0".to_owned(),
    };
    Ok(vec![cluster.finding(VERSION, format!("Kubernetes {}", version.value), required).limit(&version).help(help)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preflight::testing::Fixture;

    #[test]
    fn groups_without_hosts() {
        let cluster = Fixture::three();
        assert_eq!(cluster.run_cluster(required_groups), []);
        let cluster = Fixture::new("[kube_nodes]\nn1\n[etcd]\n[kube_control_plane]\nn1\n");
        let origin = cluster.inventory.groups["etcd"].origin.clone().unwrap();
        assert_eq!(origin.line(), 3);
        assert_eq!(
            cluster.lines_of_cluster(required_groups),
            [
                &format!(
                    "cluster : groups : found a group without hosts etcd, required at least one host in etcd ({origin}) : \
             list its hosts in the inventory under [etcd]"
                ),
                "cluster : groups : found no such group kube_node, required at least one host in kube_node : \
             list its hosts in the inventory under [kube_node]; did you mean `kube_nodes` to be `kube_node`?",
            ]
        );
    }

    #[test]
    fn an_even_number_of_members() {
        assert_eq!(Fixture::three().run_cluster(etcd_members), []);
        let cluster = Fixture::new("[etcd]\nn1\nn2\n");
        assert!(
            cluster.lines_of_cluster(etcd_members)[0]
                .contains("found 2 hosts in the group etcd, required an odd number")
        );
    }

    #[test]
    fn several_control_planes_are_refused() {
        assert_eq!(Fixture::three().run_cluster(single_control_plane), []);
        let cluster = Fixture::new("[kube_control_plane]\nn1\nn2\n[etcd]\nn1\n");
        assert!(
            cluster.lines_of_cluster(single_control_plane)[0].contains("found 2 hosts in the group kube_control_plane")
        );
    }

    #[test]
    fn a_version_of_another_line() {
        let mut cluster = Fixture::three();
        assert_eq!(cluster.run_cluster(kubernetes_version), []);
        for version in ["1.30.1", "1.36", "1.36.x", "v1.36.0"] {
            cluster.var("kube_version", version);
            assert_eq!(cluster.run_cluster(kubernetes_version).len(), 1, "{version}");
        }
        assert!(cluster.lines_of_cluster(kubernetes_version)[0].ends_with("write it without the v: 1.36.0"));
    }
}
