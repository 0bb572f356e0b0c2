//! The lab's network: a bridge, addresses, the way out. A node's own cable is made by `boot.sh` at each boot.
//!
//! Nodes reach the outside through the machine (masquerading). What is meant for a pod or Service is refused there: where
//! something outside answers for any address, a rule missing on a node would look like a wrong answer.

use super::{Lab, LabError, LabName, command::run};
use crate::source::InputError;
use ipnet::Ipv4Net;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

/// Kubespray's defaults of `kube_service_addresses` and `kube_pods_subnet`.
const CLUSTER_RANGES: [Ipv4Net; 2] =
    [Ipv4Net::new_assert(Ipv4Addr::new(10, 233, 0, 0), 18), Ipv4Net::new_assert(Ipv4Addr::new(10, 233, 64, 0), 18)];

/// Picks the subnet of a new lab: the one asked for, or the first free one of 10.77.0.0/24 to 10.77.255.0/24.
///
/// `taken` is what other labs and the machine's routes use, each with the words for the error.
pub fn pick_subnet(asked: Option<Ipv4Net>, taken: &[(Ipv4Net, String)]) -> Result<Ipv4Net, InputError> {
    let clash = |net: &Ipv4Net| taken.iter().find(|(other, _)| overlap(net, other)).map(|(_, who)| who.clone());
    let free = (0..=255).map(|i| Ipv4Net::new_assert(Ipv4Addr::new(10, 77, i, 0), 24)).find(|net| clash(net).is_none());
    let Some(asked) = asked else {
        return free.ok_or_else(|| InputError::new("no free subnet in 10.77.0.0/16").help("choose one with --subnet"));
    };
    if asked != asked.trunc() {
        return Err(
            InputError::new(format!("subnet {asked} has host bits set")).help(format!("write {}", asked.trunc()))
        );
    }
    let clash = clash(&asked).or_else(|| {
        CLUSTER_RANGES.iter().any(|range| overlap(&asked, range)).then(|| "the default pod and Service ranges".into())
    });
    match (clash, free) {
        (None, _) => Ok(asked),
        (Some(who), Some(free)) => {
            Err(InputError::new(format!("subnet {asked} is taken by {who}")).help(format!("{free} is free")))
        }
        (Some(who), None) => Err(InputError::new(format!("subnet {asked} is taken by {who}"))),
    }
}

fn overlap(a: &Ipv4Net, b: &Ipv4Net) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

/// The bridge's address, the nodes' default gateway.
pub fn gateway(subnet: Ipv4Net) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(subnet.network()) + 1)
}

/// The address of node `number` (from 1): the network's plus 10 plus the number.
pub fn address(subnet: Ipv4Net, number: u32) -> Result<Ipv4Addr, InputError> {
    let address = u32::from(subnet.network()).checked_add(10 + number).map(Ipv4Addr::from);
    address.filter(|address| subnet.contains(address) && *address < subnet.broadcast()).ok_or_else(|| {
        InputError::new(format!("subnet {subnet} has no address for node {number}"))
            .help("choose a larger one with --subnet")
    })
}

/// The networks that this machine already has a route to, but the default route.
pub fn machine_routes() -> Result<Vec<Ipv4Net>, LabError> {
    #[derive(serde::Deserialize)]
    struct Route {
        dst: String,
    }
    let text = run("ip", ["-4", "-json", "route", "show", "table", "main"])?;
    let routes: Vec<Route> = serde_json::from_str(&text).map_err(|error| LabError::io("ip route")(error.into()))?;
    let net = |dst: &str| dst.parse().ok().or_else(|| Some(Ipv4Net::from(dst.parse::<Ipv4Addr>().ok()?)));
    Ok(routes.iter().filter_map(|route| net(&route.dst)).collect())
}

/// Makes the bridge and the rules; what is there already stays.
pub fn ensure(lab: &Lab) -> Result<(), LabError> {
    let bridge = &lab.name.bridge();
    if !interface_exists(bridge) {
        run("ip", ["link", "add", bridge, "type", "bridge"])?;
    }
    let address = format!("{}/{}", gateway(lab.subnet), lab.subnet.prefix_len());
    run("ip", ["address", "replace", &address, "dev", bridge])?;
    run("ip", ["link", "set", bridge, "up"])?;
    let chain = &lab.name.chain();
    restore_rules(&rules(chain, bridge, lab.subnet))?;
    for (table, hook) in HOOKS {
        if run("iptables", ["-w", "-t", table, "-C", hook, "-j", chain]).is_err() {
            run("iptables", ["-w", "-t", table, "-I", hook, "-j", chain])?;
        }
    }
    Ok(())
}

/// Removes the bridge, the rules, and every cable and namespace that bears the lab's name.
pub fn remove(name: &LabName, failed: &mut Vec<String>) {
    let mut keep = |result: Result<String, LabError>| {
        if let Err(error) = result {
            failed.push(error.to_string());
        }
    };
    let nodes = name.link("");
    for link in list("/sys/class/net").filter(|link| link.starts_with(&nodes) || *link == name.bridge()) {
        keep(run("ip", ["link", "delete", &link]));
    }
    for namespace in list("/run/netns").filter(|namespace| namespace.starts_with(&nodes)) {
        keep(run("ip", ["netns", "delete", &namespace]));
    }
    let chain = &name.chain();
    for (table, hook) in HOOKS {
        while run("iptables", ["-w", "-t", table, "-D", hook, "-j", chain]).is_ok() {}
        if run("iptables", ["-w", "-t", table, "-S", chain]).is_ok() {
            keep(run("iptables", ["-w", "-t", table, "-F", chain]));
            keep(run("iptables", ["-w", "-t", table, "-X", chain]));
        }
    }
}

/// Removes a node's cable and namespace, which a boot loop that was killed leaves.
pub fn unplug(link: &str) -> Result<(), LabError> {
    if interface_exists(link) {
        run("ip", ["link", "delete", link])?;
    }
    if std::path::Path::new("/run/netns").join(link).exists() {
        run("ip", ["netns", "delete", link])?;
    }
    Ok(())
}

pub fn interface_exists(name: &str) -> bool {
    std::path::Path::new("/sys/class/net").join(name).exists()
}

/// Where a lab's chain is entered, per table.
const HOOKS: [(&str, &str); 2] = [("filter", "FORWARD"), ("nat", "POSTROUTING")];

/// The lab's chains for iptables-restore(8), which makes or empties a chain that it declares.
fn rules(chain: &str, bridge: &str, subnet: Ipv4Net) -> String {
    let reject: String =
        CLUSTER_RANGES.iter().map(|net| format!("-A {chain} -i {bridge} -d {net} -j REJECT\n")).collect();
    // Bridged packets pass FORWARD too where net.bridge.bridge-nf-call-iptables is on.
    format!(
        "*filter\n:{chain} -\n-A {chain} -i {bridge} -o {bridge} -j ACCEPT\n{reject}-A {chain} -i {bridge} -j ACCEPT\n\
         -A {chain} -o {bridge} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\nCOMMIT\n\
         *nat\n:{chain} -\n-A {chain} -s {subnet} ! -d {subnet} ! -o {bridge} -j MASQUERADE\nCOMMIT\n"
    )
}

fn restore_rules(rules: &str) -> Result<(), LabError> {
    let failed = |reason: String| LabError::Command { command: "iptables-restore --noflush".into(), reason };
    let mut child = Command::new("iptables-restore")
        .args(["-w", "--noflush"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    let written = match child.stdin.take() {
        Some(mut stdin) => std::io::Write::write_all(&mut stdin, rules.as_bytes()),
        None => Ok(()),
    };
    let output = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    written.map_err(|error| failed(error.to_string()))
}

fn list(dir: &str) -> impl Iterator<Item = String> {
    std::fs::read_dir(dir).into_iter().flatten().flatten().filter_map(|entry| entry.file_name().into_string().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    #[test]
    fn the_first_free_subnet_is_picked() {
        assert_eq!(pick_subnet(None, &[]).unwrap(), net("10.77.0.0/24"));
        let taken = [(net("10.77.0.0/23"), "lab a".to_owned()), (net("10.77.2.7/32"), "a route".to_owned())];
        assert_eq!(pick_subnet(None, &taken).unwrap(), net("10.77.3.0/24"));
        assert!(pick_subnet(None, &[(net("10.0.0.0/8"), "a route".into())]).is_err());
    }

    #[test]
    fn a_subnet_that_is_taken_says_by_whom_and_what_is_free() {
        let error = pick_subnet(Some(net("10.77.0.0/16")), &[(net("10.77.0.0/24"), "lab a".into())]).unwrap_err();
        assert_eq!(error.to_string(), "subnet 10.77.0.0/16 is taken by lab a");
        assert_eq!(error.help.as_deref(), Some("10.77.1.0/24 is free"));
        assert!(pick_subnet(Some(net("10.233.70.0/24")), &[]).unwrap_err().to_string().contains("pod and Service"));
        assert!(pick_subnet(Some(net("10.5.0.1/24")), &[]).unwrap_err().help.unwrap().contains("10.5.0.0/24"));
        assert_eq!(pick_subnet(Some(net("192.168.9.0/24")), &[]).unwrap(), net("192.168.9.0/24"));
    }

    #[test]
    fn addresses() {
        assert_eq!(gateway(net("10.77.3.0/24")).to_string(), "10.77.3.1");
        assert_eq!(address(net("10.77.3.0/24"), 1).unwrap().to_string(), "10.77.3.11");
        assert_eq!(address(net("10.77.3.0/24"), 99).unwrap().to_string(), "10.77.3.109");
        assert!(address(net("10.77.3.0/28"), 5).is_err());
        assert!(address(net("255.255.255.240/28"), 99).is_err());
    }

    #[test]
    fn pods_and_services_never_leave_the_machine() {
        let rules = rules("C", "kl-lab", net("10.77.0.0/24"));
        let reject = rules.find("-d 10.233.64.0/18 -j REJECT").unwrap();
        assert!(
            rules.find("-i kl-lab -o kl-lab -j ACCEPT").unwrap() < reject
                && reject < rules.find("-i kl-lab -j ACCEPT").unwrap()
        );
    }
}
