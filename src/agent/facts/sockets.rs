//! Who listens on which port.
//!
//! /proc/net tells of the sockets, the descriptors of all processes tell whose they are, and a process's cgroup tells the
//! unit that it belongs to.

use super::{Root, put};
use crate::value::{Map, Value};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A socket that takes what comes from others.
#[derive(Debug, PartialEq)]
struct Listener {
    proto: &'static str,
    address: IpAddr,
    port: u16,
    inode: u64,
}

/// A list of `{proto, address, port, pid, exe, unit}`, by port. `proto` is `tcp` or `udp`; `pid`, `exe` and `unit` are
/// null where they cannot be known (the kernel's own sockets).
pub(super) fn listening(root: &Root) -> Value {
    let tables = [("tcp", "proc/net/tcp"), ("tcp", "proc/net/tcp6"), ("udp", "proc/net/udp"), ("udp", "proc/net/udp6")];
    let mut listeners: Vec<_> = tables.iter().flat_map(|(proto, path)| parse(proto, &root.read(path))).collect();
    listeners.sort_by_key(|listener| (listener.port, listener.proto, listener.address));
    let owners = owners(root, &listeners);
    let facts = listeners.iter().map(|listener| {
        let pid = owners.get(&listener.inode);
        let mut facts = Map::new();
        put(&mut facts, "proto", listener.proto);
        put(&mut facts, "address", listener.address.to_string());
        put(&mut facts, "port", i32::from(listener.port));
        put(&mut facts, "pid", pid.and_then(|pid| pid.parse::<i64>().ok()));
        put(&mut facts, "exe", pid.and_then(|pid| root.link(format!("proc/{pid}/exe"))));
        put(&mut facts, "unit", pid.and_then(|pid| unit(&root.read(&format!("proc/{pid}/cgroup")))));
        Value::from(facts)
    });
    Value::List(facts.collect())
}

/// /proc/net/tcp and its like, proc_net_tcp(5).
fn parse(proto: &'static str, table: &str) -> Vec<Listener> {
    // TCP_LISTEN; an unconnected UDP socket is in TCP_CLOSE.
    let state = if proto == "tcp" { "0A" } else { "07" };
    let line = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if *fields.get(3)? != state {
            return None;
        }
        let (address, port) = fields.get(1)?.split_once(':')?;
        let inode = fields.get(9)?.parse().ok()?;
        Some(Listener { proto, address: parse_ip(address)?, port: u16::from_str_radix(port, 16).ok()?, inode })
    };
    table.lines().skip(1).filter_map(line).collect()
}

/// Groups of 32 bits in hex, each as the machine has it in memory.
fn parse_ip(hex: &str) -> Option<IpAddr> {
    let words: Vec<[u8; 4]> = (0..hex.len() / 8)
        .map(|i| Some(u32::from_str_radix(hex.get(i * 8..i * 8 + 8)?, 16).ok()?.to_ne_bytes()))
        .collect::<Option<_>>()?;
    match words.as_slice() {
        [word] => Some(Ipv4Addr::from(*word).into()),
        [_, _, _, _] => Some(Ipv6Addr::from(<[u8; 16]>::try_from(words.concat()).ok()?).into()),
        _ => None,
    }
}

/// The process that has each socket open; of several the one with the lowest number, which is the parent as a rule.
fn owners(root: &Root, listeners: &[Listener]) -> HashMap<u64, String> {
    let mut owners = HashMap::new();
    let mut pids: Vec<u32> = root.list("proc").iter().filter_map(|name| name.parse().ok()).collect();
    pids.sort_unstable();
    let mut missing: Vec<u64> = listeners.iter().map(|listener| listener.inode).filter(|inode| *inode != 0).collect();
    let network = root.link("proc/self/ns/net");
    for pid in pids {
        if missing.is_empty() {
            break;
        }
        // Processes of pods have sockets of their own network, and there are many of them.
        if root.link(format!("proc/{pid}/ns/net")) != network {
            continue;
        }
        let dir = format!("proc/{pid}/fd");
        for fd in std::fs::read_dir(root.path(&dir)).into_iter().flatten().flatten() {
            let Some(target) = root.link(fd.path()) else { continue };
            let inode: Option<u64> =
                target.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')?.parse().ok());
            if let Some(at) = inode.and_then(|inode| missing.iter().position(|missing| *missing == inode)) {
                owners.insert(missing.swap_remove(at), pid.to_string());
            }
        }
    }
    owners
}

/// The service or scope of a process, from its place in systemd's hierarchy.
fn unit(cgroup: &str) -> Option<String> {
    let path_of = |hierarchy: &str| cgroup.lines().find_map(|line| line.split_once(hierarchy)).map(|(_, path)| path);
    let path = path_of(":name=systemd:").or_else(|| path_of("0::"))?;
    let is_unit = |part: &&str| part.ends_with(".service") || part.ends_with(".scope");
    path.split('/').rev().find(is_unit).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn reads_tables() {
        let tcp = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
                   0: 0100007F:18EB 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4242 1 0 100 0 0 10 0\n\
                   1: 0100007F:18EB 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 4243 1 0 100 0 0 10 0\n";
        let local = IpAddr::from(Ipv4Addr::LOCALHOST);
        assert_eq!(parse("tcp", tcp), [Listener { proto: "tcp", address: local, port: 6379, inode: 4242 }]);
        assert_eq!(parse_ip("0000000000000000FFFF00000100007F"), "::ffff:127.0.0.1".parse().ok());
        assert_eq!(parse_ip("00"), None);
    }

    #[test]
    fn units_of_processes() {
        let v1 = "4:memory:/\n1:name=systemd:/system.slice/etcd.service\n0::/system.slice/etcd.service\n";
        assert_eq!(unit(v1).as_deref(), Some("etcd.service"));
        assert_eq!(
            unit("0::/kubepods.slice/cri-containerd-1.scope/inner\n").as_deref(),
            Some("cri-containerd-1.scope")
        );
        assert_eq!(unit("0::/\n"), None);
    }

    #[test]
    fn finds_this_process() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let Value::List(found) = listening(&Root("/".into())) else { panic!() };
        let mine = found.iter().find(|one| one.get("port") == Some(&i32::from(port).into())).unwrap();
        assert_eq!(mine.get("address"), Some(&"127.0.0.1".into()));
        assert_eq!(mine.get("pid"), Some(&std::process::id().into()));
        let exe = std::env::current_exe().unwrap();
        assert_eq!(mine.get("exe").and_then(Value::as_str), exe.to_str());
    }
}
