//! Preconditions: what has to be true before anything is changed on any host.
//!
//! Pure functions from the inventory, variables and facts to [`Finding`]s; all hosts are checked and everything is
//! reported at once. Limits are variables (`group_vars/all/preconditions.yml`), so that a finding can say which line to
//! change. Who runs the checks, prints the findings and fails the hosts is the engine's business.

mod groups;
mod identity;
mod input;
mod platform;
mod ports;
mod ranges;
mod report;
mod resources;
#[cfg(test)]
mod testing;

pub use input::{Cluster, Vars};
pub use report::render;

use crate::artifacts::Unreachable;
use crate::source::{InputErrors, Span};
use input::{Checked, Node};

/// Something that is not as it has to be.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// `None` where it is the cluster as a whole.
    pub host: Option<String>,
    /// One or two words: "memory", "ports".
    pub check: &'static str,
    pub found: String,
    pub required: String,
    /// The variable that sets the limit.
    pub variable: Option<String>,
    /// Where the value of that variable was written, or what the finding is about.
    pub origin: Option<Span>,
    /// How to go on.
    pub help: String,
    pub severity: Severity,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// `ignore_assert_errors` is set.
    Warning,
    Error,
}

/// Checks of one host; they run for the hosts whose facts are known.
const OF_HOSTS: &[fn(&Node<'_>) -> Checked] = &[
    platform::distribution,
    platform::systemd,
    platform::cgroups,
    platform::kernel,
    platform::swap,
    resources::memory,
    resources::cpus,
    resources::disk,
    ports::ports,
    identity::address,
    identity::machine_id,
    ranges::pods_of_node,
];

/// Checks of the inventory, and of hosts against each other; they make do with the facts that there are.
const OF_CLUSTER: &[fn(&Cluster<'_>) -> Checked] = &[
    groups::required_groups,
    groups::etcd_members,
    groups::single_control_plane,
    groups::kubernetes_version,
    identity::names,
    identity::hostnames,
    identity::machine_ids,
    identity::connections,
    identity::addresses,
    identity::clocks,
    ranges::ranges,
    ranges::node_networks,
    ranges::enough_ranges,
];

/// Checks that `ignore_assert_errors` does not turn into warnings, as in Kubespray: nothing could run on such a cluster.
const NEVER_IGNORED: &[&str] = &[ranges::RANGES, ranges::POD_RANGES, groups::VERSION, groups::SINGLE, SOURCES];
const SOURCES: &str = "artifacts";

/// Checks everything that can be known. Without facts that is the inventory and the variables.
///
/// An error is a variable that cannot be read; then nothing can be said about its limit.
pub fn check(cluster: &Cluster<'_>) -> Result<Vec<Finding>, InputErrors> {
    let mut findings = Vec::new();
    let mut errors = Vec::new();
    let mut take = |checked: Checked| match checked {
        Ok(more) => findings.extend(more),
        // A variable of the whole cluster is read for each host: one mistake is told once.
        Err(e) if errors.iter().any(|known: &crate::source::InputError| known.to_string() == e.to_string()) => {}
        Err(e) => errors.push(e),
    };
    for check in OF_CLUSTER {
        take(check(cluster));
    }
    for node in cluster.nodes().filter(Node::known) {
        for check in OF_HOSTS {
            take(check(&node));
        }
    }
    for finding in &mut findings {
        match cluster.ignored(finding) {
            Ok(true) => finding.severity = Severity::Warning,
            Ok(false) => {}
            Err(e) => errors.push(e),
        }
    }
    if !errors.is_empty() {
        return Err(InputErrors(errors));
    }
    let order = |f: &Finding| f.host.as_ref().and_then(|host| cluster.inventory.hosts.get_index_of(host));
    findings.sort_by_key(order);
    Ok(findings)
}

/// Findings of [`Store::check_reachable`](crate::artifacts::Store::check_reachable); `origin` is that of
/// `artifact_sources`.
pub fn unreachable(artifacts: &[Unreachable], origin: Option<&Span>) -> Vec<Finding> {
    let finding = |u: &Unreachable| Finding {
        host: None,
        check: SOURCES,
        found: u.error.to_string(),
        required: format!("{} from one of the sources", u.artifact),
        variable: Some("artifact_sources".to_owned()),
        origin: origin.cloned(),
        help: u.error.help(),
        severity: Severity::Error,
    };
    artifacts.iter().map(finding).collect()
}

#[cfg(test)]
mod tests {
    use super::testing::Fixture;
    use super::*;

    fn lines(cluster: &Fixture) -> Vec<String> {
        render(&check(&cluster.cluster()).unwrap())
    }

    #[test]
    fn three_healthy_hosts_pass_with_the_defaults() {
        assert_eq!(lines(&Fixture::three()), Vec::<String>::new());
    }

    #[test]
    fn the_small_host_is_the_only_one_that_fails_and_a_lower_limit_lets_it_pass() {
        let mut cluster = Fixture::three();
        cluster.fact("n3", "ansible_memtotal_mb", 512);
        let findings = check(&cluster.cluster()).unwrap();
        assert_eq!(findings.len(), 1);
        assert_eq!((findings[0].host.as_deref(), findings[0].severity), (Some("n3"), Severity::Error));
        cluster.var("minimal_node_memory_mb", "400");
        assert_eq!(lines(&cluster), Vec::<String>::new());
    }

    /// The names of facts here and in the agent are the same: this machine lacks none that a check reads.
    #[test]
    fn the_agent_tells_every_fact_that_is_read() {
        let system = crate::system::System::new(crate::system::Mode::Plan);
        let facts = crate::agent::facts::gather(system.view()).unwrap();
        let mut cluster = Fixture::three();
        for host in ["n1", "n2"] {
            let mut all = facts.as_map().unwrap().clone();
            // What init is, a test cannot choose.
            all.insert("ansible_service_mgr".to_owned(), "systemd".into());
            cluster.facts.insert(host.to_owned(), all.into());
            cluster.kprov(host, "systemd_version", 252);
        }
        let lines = lines(&cluster);
        assert!(lines.iter().all(|line| !line.contains("no fact")), "{lines:#?}");
    }

    #[test]
    fn ignored_assertions_become_warnings_on_that_host_and_ranges_never_do() {
        let mut cluster = Fixture::three();
        for host in ["n2", "n3"] {
            cluster.fact(host, "ansible_memtotal_mb", 512);
        }
        cluster.host_var("n3", "ignore_assert_errors", true);
        let severities = |cluster: &Fixture| -> Vec<_> {
            check(&cluster.cluster()).unwrap().into_iter().map(|f| (f.host, f.severity)).collect()
        };
        let found = severities(&cluster);
        assert_eq!(found, [(Some("n2".into()), Severity::Error), (Some("n3".into()), Severity::Warning)]);
        assert!(lines(&cluster)[1].starts_with("n3 : memory : warning: found 512 MB"));
        cluster.var("ignore_assert_errors", "yes");
        cluster.var("kube_service_addresses", "10.233.64.0/24");
        let found = severities(&cluster);
        assert_eq!(found[0], (None, Severity::Error), "overlapping ranges");
        assert!(found[1..].iter().all(|(_, severity)| *severity == Severity::Warning));
    }

    #[test]
    fn everything_is_told_at_once_in_the_order_of_the_inventory() {
        let mut cluster = Fixture::three();
        cluster.fact("n3", "ansible_memtotal_mb", 1);
        cluster.fact("n1", "ansible_distribution", "Plan 9");
        cluster.var("kube_version", "1.2.3");
        cluster.listen("n1", "0.0.0.0", 2379, "nginx.service");
        let checks: Vec<_> = check(&cluster.cluster()).unwrap().into_iter().map(|f| (f.host, f.check)).collect();
        let host = |name: &str| Some(name.to_owned());
        let expected = [(None, "version"), (host("n1"), "distribution"), (host("n1"), "ports"), (host("n3"), "memory")];
        assert_eq!(checks, expected);
    }

    #[test]
    fn without_facts_the_inventory_alone_is_checked() {
        let mut cluster = Fixture::three();
        cluster.facts.clear();
        assert_eq!(lines(&cluster), Vec::<String>::new());
        cluster.host_var("n3", "ansible_host", "10.0.0.11");
        assert!(lines(&cluster)[0].starts_with("n3 : address : found 10.0.0.11:22, as on n1"));
    }

    #[test]
    fn a_limit_that_is_no_number_is_an_error_with_its_place() {
        let mut cluster = Fixture::three();
        cluster.var("minimal_node_memory_mb", "much");
        let errors = check(&cluster.cluster()).unwrap_err().0;
        assert_eq!(errors.len(), 1, "told once, not for each host");
        assert_eq!(errors[0].message, "`minimal_node_memory_mb` is str (much), expected a whole number");
        assert_eq!(errors[0].span.as_ref().unwrap().to_string(), "defaults.yml:1");
    }
}
