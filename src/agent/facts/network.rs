//! Interfaces, addresses, default routes and name servers.
//!
//! IPv4 addresses come from the kernel over rtnetlink(7): /proc does not tell which interface has them. The rest is read
//! from /sys/class/net and /proc/net. `ansible_default_ipv4` is the interface of the default route with the least metric.

use super::{Root, put, strings};
use crate::modules::Failure;
use crate::value::{Map, Value};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address on an interface.
#[derive(Clone, Debug, PartialEq)]
struct Address {
    interface: String,
    ip: IpAddr,
    prefix: u8,
    broadcast: Option<Ipv4Addr>,
    /// `host`, `link`, `site` or `global` (IPv6).
    scope: &'static str,
}

/// A default route.
#[derive(Debug, PartialEq)]
struct Default {
    interface: String,
    gateway: IpAddr,
    metric: u32,
}

pub(super) fn gather(root: &Root, facts: &mut Map) -> Result<(), Failure> {
    // Of this network namespace; a container may see the /sys of its host.
    let names = device_names(&root.read("proc/net/dev"));
    let v4 = ipv4_addresses().map_err(|error| Failure::new(format!("cannot list the IPv4 addresses: {error}")))?;
    let v6 = ipv6_addresses(&root.read("proc/net/if_inet6"));

    let outside = |address: &&Address| !address.ip.is_loopback();
    let texts = |addresses: &[Address]| strings(addresses.iter().filter(outside).map(|address| address.ip.to_string()));
    put(facts, "ansible_interfaces", strings(names.iter().cloned()));
    put(facts, "ansible_all_ipv4_addresses", texts(&v4));
    put(facts, "ansible_all_ipv6_addresses", texts(&v6));
    for name in &names {
        put(facts, &format!("ansible_{}", name.replace('-', "_")), interface(root, name, &v4, &v6));
    }
    let default4 = best(ipv4_defaults(&root.read("proc/net/route")));
    let default6 = best(ipv6_defaults(&root.read("proc/net/ipv6_route")));
    put(facts, "ansible_default_ipv4", default_facts(root, default4, &v4));
    put(facts, "ansible_default_ipv6", default_facts(root, default6, &v6));
    put(facts, "ansible_dns", dns(&root.read("etc/resolv.conf")));
    Ok(())
}

/// The names in /proc/net/dev, sorted: two lines of headings, then `name: counters`.
fn device_names(text: &str) -> Vec<String> {
    let mut names: Vec<String> =
        text.lines().skip(2).filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim().to_owned()).collect();
    names.sort();
    names
}

fn interface(root: &Root, name: &str, v4: &[Address], v6: &[Address]) -> Value {
    let mut facts = link(root, name);
    let up = root.line(&format!("sys/class/net/{name}/operstate")).is_some_and(|state| state != "down");
    put(&mut facts, "device", name);
    put(&mut facts, "active", up);
    let mine = |addresses: &[Address]| -> Vec<Address> {
        addresses.iter().filter(|address| address.interface == name).cloned().collect()
    };
    let mut v4 = mine(v4).into_iter().map(|address| address_facts(&address));
    if let Some(first) = v4.next() {
        put(&mut facts, "ipv4", first);
    }
    let others: Vec<Value> = v4.map(Value::from).collect();
    if !others.is_empty() {
        put(&mut facts, "ipv4_secondaries", others);
    }
    let v6: Vec<Value> = mine(v6).iter().map(address_facts).map(Value::from).collect();
    if !v6.is_empty() {
        put(&mut facts, "ipv6", v6);
    }
    facts.into()
}

/// `type`, `mtu` and `macaddress`.
fn link(root: &Root, name: &str) -> Map {
    let read = |file: &str| root.line(&format!("sys/class/net/{name}/{file}"));
    let mut facts = Map::new();
    // ARPHRD_* of if_arp.h
    let kind = match read("type").as_deref() {
        _ if root.exists(&format!("sys/class/net/{name}/bridge")) => "bridge",
        _ if root.exists(&format!("sys/class/net/{name}/bonding")) => "bonding",
        Some("1") => "ether",
        Some("32") => "infiniband",
        Some("512") => "ppp",
        Some("772") => "loopback",
        Some("768" | "769" | "776") => "tunnel",
        _ => "unknown",
    };
    put(&mut facts, "type", kind);
    put(&mut facts, "mtu", read("mtu").and_then(|mtu| mtu.parse::<i64>().ok()));
    if let Some(mac) = read("address").filter(|mac| mac != "00:00:00:00:00:00") {
        put(&mut facts, "macaddress", mac);
    }
    facts
}

fn address_facts(address: &Address) -> Map {
    let mut facts = Map::new();
    put(&mut facts, "address", address.ip.to_string());
    put(&mut facts, "prefix", address.prefix.to_string());
    match address.ip {
        IpAddr::V4(ip) => {
            let mask = netmask(address.prefix);
            put(&mut facts, "netmask", mask.to_string());
            put(&mut facts, "network", (ip & mask).to_string());
            put(&mut facts, "broadcast", address.broadcast.map_or(String::new(), |ip| ip.to_string()));
        }
        IpAddr::V6(_) => put(&mut facts, "scope", address.scope),
    }
    facts
}

/// The address that packets for the gateway leave from, and the interface's own facts; empty without a route.
fn default_facts(root: &Root, route: Option<Default>, addresses: &[Address]) -> Map {
    let Some(route) = route else { return Map::new() };
    let mine = || addresses.iter().filter(|address| address.interface == route.interface);
    let near = mine().find(|address| same_network(address, route.gateway) && address.scope != "link");
    let address = near.or_else(|| mine().find(|address| address.scope == "global")).or_else(|| mine().next());
    let mut facts = link(root, &route.interface);
    put(&mut facts, "interface", route.interface.as_str());
    put(&mut facts, "gateway", route.gateway.to_string());
    facts.extend(address.map(address_facts).unwrap_or_default());
    facts
}

fn same_network(address: &Address, other: IpAddr) -> bool {
    match (address.ip, other) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (a & netmask(address.prefix)) == (b & netmask(address.prefix)),
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(address.prefix)).unwrap_or(0);
            (a.to_bits() & mask) == (b.to_bits() & mask)
        }
        _ => false,
    }
}

fn netmask(prefix: u8) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0))
}

fn best(routes: Vec<Default>) -> Option<Default> {
    routes.into_iter().min_by_key(|route| route.metric)
}

/// /proc/net/route: numbers in hex, addresses as the machine has them in memory.
fn ipv4_defaults(text: &str) -> Vec<Default> {
    let parse = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [interface, "00000000", gateway, flags, _, _, metric, "00000000", ..] = fields.as_slice() else {
            return None;
        };
        let flags = u32::from_str_radix(flags, 16).ok()?;
        // RTF_UP without RTF_REJECT
        (flags & 0x201 == 1).then_some(())?;
        let gateway = Ipv4Addr::from(u32::from_str_radix(gateway, 16).ok()?.to_ne_bytes());
        Some(Default { interface: (*interface).to_owned(), gateway: gateway.into(), metric: metric.parse().ok()? })
    };
    text.lines().filter_map(parse).collect()
}

/// /proc/net/ipv6_route: destination, prefix, source, prefix, next hop, metric, …, flags, interface.
fn ipv6_defaults(text: &str) -> Vec<Default> {
    let parse = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [destination, "00", _, _, gateway, metric, _, _, flags, interface] = fields.as_slice() else { return None };
        let flags = u32::from_str_radix(flags, 16).ok()?;
        let is_default = destination.bytes().all(|b| b == b'0') && flags & 0x201 == 1;
        let gateway = Ipv6Addr::from_bits(u128::from_str_radix(gateway, 16).ok()?);
        let metric = u32::from_str_radix(metric, 16).ok()?;
        is_default.then(|| Default { interface: (*interface).to_owned(), gateway: gateway.into(), metric })
    };
    text.lines().filter_map(parse).collect()
}

/// /proc/net/if_inet6: address, interface index, prefix, scope, flags (all in hex), name.
fn ipv6_addresses(text: &str) -> Vec<Address> {
    let parse = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [address, _, prefix, scope, _, interface] = fields.as_slice() else { return None };
        let scope = match *scope {
            "10" => "host",
            "20" => "link",
            "40" => "site",
            _ => "global",
        };
        Some(Address {
            interface: (*interface).to_owned(),
            ip: Ipv6Addr::from_bits(u128::from_str_radix(address, 16).ok()?).into(),
            prefix: u8::from_str_radix(prefix, 16).ok()?,
            broadcast: None,
            scope,
        })
    };
    text.lines().filter_map(parse).collect()
}

fn dns(resolv_conf: &str) -> Map {
    let mut facts = Map::new();
    let all = |keyword: &str| {
        let lines = resolv_conf.lines().map(|line| line.split(['#', ';']).next().unwrap_or_default());
        let words = lines.filter_map(|line| line.trim().strip_prefix(keyword)?.strip_prefix([' ', '\t']));
        words.flat_map(str::split_whitespace).map(str::to_owned).collect::<Vec<_>>()
    };
    put(&mut facts, "nameservers", strings(all("nameserver")));
    put(&mut facts, "search", strings(all("search")));
    facts
}

/// Asks the kernel for all IPv4 addresses, with the index of their interface. Primary addresses come before secondary ones.
fn ipv4_addresses() -> rustix::io::Result<Vec<Address>> {
    // NETLINK_ROUTE is protocol 0.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    // struct nlmsghdr (length, RTM_GETADDR, NLM_F_REQUEST | NLM_F_DUMP, sequence, port) and struct ifaddrmsg of AF_INET
    let mut request = Vec::new();
    request.extend(24u32.to_ne_bytes());
    request.extend(22u16.to_ne_bytes());
    request.extend(0x301u16.to_ne_bytes());
    request.extend([0; 8]);
    request.extend([2, 0, 0, 0, 0, 0, 0, 0]);
    rustix::io::write(&socket, &request)?;
    let mut addresses = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = rustix::io::read(&socket, &mut buffer[..])?;
        if read == 0 || parse_addresses(&buffer[..read], &mut addresses) {
            return Ok(addresses);
        }
    }
}

/// Reads one datagram of RTM_NEWADDR messages; true when the list is complete.
fn parse_addresses(mut datagram: &[u8], addresses: &mut Vec<Address>) -> bool {
    const DONE: u16 = 3;
    const ERROR: u16 = 2;
    const NEW_ADDRESS: u16 = 20;
    while let Some(length) = u32_at(datagram, 0).map(|length| length as usize) {
        let Some(message) = datagram.get(..length).filter(|_| length >= 16) else { return true };
        match u16::from_ne_bytes([message[4], message[5]]) {
            DONE | ERROR => return true,
            NEW_ADDRESS => addresses.extend(parse_address(&message[16..])),
            _ => {}
        }
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    false
}

/// struct ifaddrmsg (family, prefix, flags, scope, index), then attributes.
fn parse_address(message: &[u8]) -> Option<Address> {
    const ADDRESS: u16 = 1;
    const LOCAL: u16 = 2;
    const LABEL: u16 = 3;
    const BROADCAST: u16 = 4;
    let prefix = *message.get(1)?;
    let scope = if *message.get(3)? == 254 { "host" } else { "global" };
    let (mut peer, mut local, mut broadcast, mut label) = (None, None, None, None);
    let mut attributes = message.get(8..)?;
    while let [a, b, c, d, ..] = *attributes {
        let (length, kind) = (u16::from_ne_bytes([a, b]) as usize, u16::from_ne_bytes([c, d]));
        let ip =
            attributes.get(4..8).and_then(|bytes| bytes.try_into().ok()).map(|bytes: [u8; 4]| Ipv4Addr::from(bytes));
        match kind {
            ADDRESS => peer = ip,
            LOCAL => local = ip,
            BROADCAST => broadcast = ip,
            // The interface, and perhaps `:` and a name of the address's own.
            LABEL => label = attributes.get(4..length).map(String::from_utf8_lossy),
            _ => {}
        }
        attributes = attributes.get(length.max(4).next_multiple_of(4)..).unwrap_or_default();
    }
    let ip = local.or(peer)?.into();
    let label = label?;
    let interface = label.trim_end_matches('\0').split(':').next()?.to_owned();
    Some(Address { interface, ip, prefix, broadcast, scope })
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::super::tests::root;
    use super::*;

    #[test]
    fn the_default_route_with_the_least_metric() {
        let text = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
                    eth1\t00000000\t0100A8C0\t0003\t0\t0\t200\t00000000\t0\t0\t0\n\
                    eth0\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
                    eth0\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        let route = best(ipv4_defaults(text)).unwrap();
        let gateway = Ipv4Addr::new(192, 168, 1, 1);
        assert_eq!(route, Default { interface: "eth0".into(), gateway: gateway.into(), metric: 100 });

        let address = |ip: [u8; 4], prefix| Address {
            interface: "eth0".into(),
            ip: Ipv4Addr::from(ip).into(),
            prefix,
            broadcast: None,
            scope: "global",
        };
        let addresses = [address([10, 0, 0, 7], 24), address([192, 168, 1, 20], 16)];
        let (_dir, root) = root(&[("sys/class/net/eth0/type", "1\n"), ("sys/class/net/eth0/mtu", "1500\n")]);
        let facts = default_facts(&root, Some(route), &addresses);
        let names = ["address", "netmask", "network", "prefix", "interface", "gateway", "type", "mtu"];
        let values = names.map(|name| facts[name].to_string());
        assert_eq!(
            values,
            ["192.168.1.20", "255.255.0.0", "192.168.0.0", "16", "eth0", "192.168.1.1", "ether", "1500"]
        );
        assert!(default_facts(&root, None, &addresses).is_empty());
    }

    #[test]
    fn ipv6_from_proc() {
        let addresses = "00000000000000000000000000000001 01 80 10 80       lo\n\
                         fe800000000000000042acfffe110002 02 40 20 80     eth0\n\
                         20010db8000000000000000000000005 02 40 00 80     eth0\n";
        let found = ipv6_addresses(addresses);
        let texts: Vec<_> = found.iter().map(|a| format!("{}/{} {}", a.ip, a.prefix, a.scope)).collect();
        assert_eq!(texts, ["::1/128 host", "fe80::42:acff:fe11:2/64 link", "2001:db8::5/64 global"]);
        let route = "00000000000000000000000000000000 00 00000000000000000000000000000000 00 \
                     20010db8000000000000000000000001 00000400 00000001 00000000 00000003     eth0\n\
                     00000000000000000000000000000000 00 00000000000000000000000000000000 00 \
                     00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo\n";
        let found = ipv6_defaults(route);
        assert_eq!((found.len(), found[0].gateway.to_string().as_str()), (1, "2001:db8::1"));
        assert!(same_network(&ipv6_addresses(addresses)[2], found[0].gateway));
    }

    #[test]
    fn broken_netlink_messages_are_no_addresses() {
        let mut found = Vec::new();
        assert!(parse_addresses(&[200, 0, 0, 0, 20, 0], &mut found));
        assert!(parse_addresses(&[2, 0, 0, 0, 20, 0, 0, 0], &mut found));
        assert!(!parse_addresses(&[], &mut found) && found.is_empty());
        assert_eq!(parse_address(&[2, 8]), None);
    }

    #[test]
    fn the_kernel_tells_of_the_loopback_address() {
        let found = ipv4_addresses().unwrap();
        assert!(found.iter().any(|address| address.ip == IpAddr::from(Ipv4Addr::LOCALHOST) && address.prefix == 8));
    }

    #[test]
    fn name_servers() {
        let facts =
            dns("# x\nnameserver 10.0.0.2\nnameserver\t10.0.0.3 # y\nsearch a.example b.example\noptions ndots:2\n");
        assert_eq!(facts["nameservers"], strings(["10.0.0.2", "10.0.0.3"]));
        assert_eq!(facts["search"], strings(["a.example", "b.example"]));
    }
}
