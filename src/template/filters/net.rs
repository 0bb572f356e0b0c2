//! The `ipaddr` family of Ansible's `ansible.utils` collection.
//!
//! What is no address gives `false`, what a query does not select gives null; in a list both are left out. Numbers beyond
//! 64 bits (the size of an IPv6 network) are an error.

use crate::source::near_miss;
use crate::template::call::{Call, Signature, Table, row};
use crate::template::net::{Ip, from_number, to_number};
use crate::value::Value;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use minijinja::{Error, Value as Jinja};
use std::net::IpAddr;

pub(super) static TABLE: &Table = &[
    row!("ipaddr", |call| ipaddr(call, None), "value", "query", "version", "alias"),
    row!("ipv4", |call| ipaddr(call, Some(4)), "value", "query"),
    row!("ipv6", |call| ipaddr(call, Some(6)), "value", "query"),
    row!("ipwrap", ipwrap, "value", "query"),
    row!("ipsubnet", ipsubnet, "value", "query", "index"),
    row!("ipmath", ipmath, "value", "amount"),
    row!("nthhost", nthhost, "value", "query"),
    row!("next_nth_usable", |call| usable(call, 1), "value", "offset"),
    row!("previous_nth_usable", |call| usable(call, -1), "value", "offset"),
    row!("network_in_usable", |call| network_in(call, true), "value", "test"),
    row!("network_in_network", |call| network_in(call, false), "value", "test"),
    row!("cidr_merge", cidr_merge, "value", "action"),
];

fn read(value: &Value) -> Option<Ip> {
    match value {
        Value::Int(n) => u32::try_from(*n).ok().map(Ip::v4),
        Value::String(text) => Ip::parse(text),
        _ => None,
    }
}

fn need(call: &Call, value: &Value) -> Result<Ip, Error> {
    read(value).ok_or_else(|| call.error("the value is no IP address or network"))
}

fn number(call: &Call, number: u128) -> Result<Value, Error> {
    i64::try_from(number).map(Value::Int).map_err(|_| call.error("the number is beyond 64 bits"))
}

fn text(what: impl ToString) -> Value {
    Value::String(what.to_string())
}

fn ipaddr(call: &Call, version: Option<i64>) -> Result<Jinja, Error> {
    let version = match version {
        Some(version) => Some(version),
        None => call.arg_int("version")?,
    };
    let wanted = call.arg("query")?.unwrap_or_else(|| Value::from(""));
    let one = |value: &Value| -> Result<Value, Error> {
        match read(value).filter(|ip| version.is_none_or(|version| version == ip.version())) {
            Some(ip) => query(call, &ip, &wanted),
            None => Ok(Value::Bool(false)),
        }
    };
    match call.input()? {
        Value::List(items) => {
            let found = items.iter().map(one).collect::<Result<Vec<_>, _>>()?;
            call.give(
                found
                    .into_iter()
                    .filter(|value| !matches!(value, Value::Null | Value::Bool(false)))
                    .collect::<Vec<_>>(),
            )
        }
        value => call.give(one(&value)?),
    }
}

/// The words that `ipaddr` understands, for near misses.
const QUERIES: [&str; 41] = [
    "address",
    "bool",
    "broadcast",
    "cidr",
    "first_usable",
    "gateway",
    "gw",
    "host",
    "host/prefix",
    "hostmask",
    "hostnet",
    "int",
    "ip",
    "ip/prefix",
    "ip_netmask",
    "ip_wildcard",
    "ipv4",
    "ipv6",
    "last_usable",
    "link-local",
    "loopback",
    "multicast",
    "net",
    "netmask",
    "network",
    "network/prefix",
    "network_id",
    "network_netmask",
    "network_wildcard",
    "next_usable",
    "peer",
    "prefix",
    "previous_usable",
    "private",
    "public",
    "range_usable",
    "revdns",
    "size",
    "size_usable",
    "subnet",
    "type",
];

fn query(call: &Call, ip: &Ip, wanted: &Value) -> Result<Value, Error> {
    let word = match wanted {
        Value::Int(index) => return Ok(nth(ip, *index)),
        other => other.to_string(),
    };
    let net = &ip.net;
    let (first, last) = ip.usable();
    let when = |condition: bool, value: Value| if condition { value } else { Value::Null };
    let at = |number: u128| ip.nth(number as i128).map_or(Value::Null, text);
    Ok(match word.as_str() {
        "" | "bool" if word.is_empty() => text(ip),
        "bool" => Value::Bool(true),
        "address" | "ip" => when(ip.is_host(), text(ip.address())),
        "network" | "network_id" => text(net.network()),
        "netmask" => text(net.netmask()),
        "hostmask" | "wildcard" => text(net.hostmask()),
        "prefix" => Value::Int(net.prefix_len().into()),
        "net" => when(!ip.is_host(), text(net)),
        "subnet" | "network/prefix" => text(ip.network()),
        "broadcast" => ip.broadcast().map_or(Value::Null, text),
        "size" => number(call, ip.last_number().saturating_add(1))?,
        "size_usable" => number(call, (last - first).saturating_add(1))?,
        "host" | "host/prefix" | "hostnet" | "gateway" | "gw" => {
            if ip.is_host() {
                text(net)
            } else {
                Value::Bool(false)
            }
        }
        "ip/prefix" | "cidr" => text(net),
        "ip_netmask" => text(format!("{} {}", ip.address(), net.netmask())),
        "ip_wildcard" => text(format!("{} {}", ip.address(), net.hostmask())),
        "network_netmask" => text(format!("{} {}", net.network(), net.netmask())),
        "network_wildcard" => text(format!("{} {}", net.network(), net.hostmask())),
        "int" => number(call, to_number(ip.address()))?,
        "revdns" => text(ip.reverse()),
        "type" => text(if ip.bare || ip.last_number() == 0 || ip.is_host() { "address" } else { "network" }),
        "version" => Value::Int(ip.version()),
        "ipv4" => when(ip.is_v4(), text(ip)),
        "ipv6" => when(!ip.is_v4(), text(ip)),
        "private" => when(ip.is_private(), text(ip)),
        "public" => when(ip.is_public(), text(ip)),
        "loopback" | "lo" => when(ip.address().is_loopback(), text(ip)),
        "multicast" => when(ip.address().is_multicast(), text(ip)),
        "unicast" => when(!ip.address().is_multicast(), text(ip)),
        "link-local" | "lladdr" => when(ip.is_link_local(), text(ip)),
        "first_usable" => when(!ip.bare, at(first)),
        "last_usable" => when(!ip.bare, at(last)),
        "range_usable" => when(!ip.bare, text(format!("{}-{}", at(first), at(last)))),
        "next_usable" => when(!ip.bare && (first..last).contains(&ip.number()), at(ip.number().saturating_add(1))),
        "previous_usable" => {
            when(!ip.bare && ip.number() > first && ip.number() <= last, at(ip.number().saturating_sub(1)))
        }
        "peer" => match (ip.last_number(), ip.number()) {
            (1, number) => at(1 - number),
            (3, number @ (1 | 2)) => at(3 - number),
            _ => return Err(call.error("only a /30 or /31 has a peer")),
        },
        other => {
            if let Ok(index) = other.parse() {
                return Ok(nth(ip, index));
            }
            let Some(within) = Ip::parse(other) else {
                let near =
                    near_miss(other, QUERIES).map(|near| format!(", did you mean `{near}`?")).unwrap_or_default();
                return Err(call.error(format!("unknown query `{other}`{near}")));
            };
            when(within.contains(ip), text(ip))
        }
    })
}

/// The address with that number, with the prefix of the network.
fn nth(ip: &Ip, index: i64) -> Value {
    let with_prefix = |address: IpAddr| IpNet::new(address, ip.net.prefix_len()).ok();
    ip.nth(index.into()).and_then(with_prefix).map_or(Value::Bool(false), text)
}

/// Brackets around an IPv6 address, as URLs want it; anything else stays.
fn ipwrap(call: &Call) -> Result<Jinja, Error> {
    let one = |value: &Value| match read(value).filter(|ip| !ip.is_v4()) {
        Some(ip) if ip.bare => text(format!("[{}]", ip.address())),
        Some(ip) => text(format!("[{}]/{}", ip.address(), ip.net.prefix_len())),
        None => value.clone(),
    };
    match call.input()? {
        Value::List(items) => call.give(items.iter().map(one).collect::<Vec<_>>()),
        value => call.give(one(&value)),
    }
}

/// Subnets of a network and networks of an address.
///
/// With a length only: how many subnets of it a network has, or the network of that length that an address is in. With an
/// index as well: which one. With a network: the place (from 1) of the value among its subnets of that size.
fn ipsubnet(call: &Call) -> Result<Jinja, Error> {
    let Some(ip) = read(&call.input()?) else { return call.give(false) };
    let index = call.arg_int("index")?;
    let length = match call.arg("query")? {
        None => return call.give(text(ip.net)),
        Some(Value::String(query)) if query.is_empty() => return call.give(text(ip.net)),
        Some(Value::Int(length)) => length,
        Some(query) => match (query.to_string().parse::<i64>(), read(&query)) {
            (Ok(length), _) => length,
            (Err(_), Some(within)) if within.contains(&ip) => {
                let place = (to_number(ip.net.network()) - to_number(within.net.network()))
                    >> (ip.net.max_prefix_len() - ip.net.prefix_len());
                return call.give(text(place + 1));
            }
            (Err(_), Some(_)) => return Err(call.error("the value is not within that network")),
            (Err(_), None) => return Err(call.expected("a prefix length or a network", &query)),
        },
    };
    let length = u8::try_from(length)
        .ok()
        .filter(|length| *length <= ip.net.max_prefix_len())
        .ok_or_else(|| call.error("the prefix length is out of range"))?;
    if ip.bare || ip.last_number() == 0 {
        // Networks around an address, from the given length down to single addresses.
        let length = u8::try_from(i64::from(length) + index.unwrap_or(0)).ok();
        let around = length.and_then(|length| IpNet::new(ip.address(), length).ok());
        return call.give(around.map_or(Value::Bool(false), |net| text(net.trunc())));
    }
    let Some(more) = length.checked_sub(ip.net.prefix_len()) else { return call.give(false) };
    let count = 1u128.checked_shl(more.into()).unwrap_or(u128::MAX);
    let Some(index) = index else { return call.give(text(count)) };
    let index = u128::try_from(index)
        .ok()
        .or_else(|| count.checked_sub(index.unsigned_abs().into()))
        .filter(|index| *index < count);
    let Some(index) = index else { return call.give(false) };
    let start = to_number(ip.net.network()) + (index << (ip.net.max_prefix_len() - length));
    call.give(IpNet::new(from_number(start, ip.is_v4()), length).map_or(Value::Bool(false), text))
}

fn ipmath(call: &Call) -> Result<Jinja, Error> {
    let ip = need(call, &call.input()?)?;
    let amount = call.arg_int("amount")?.ok_or_else(|| call.error("needs an amount"))?;
    let number = to_number(ip.address());
    let sum = match u128::try_from(amount) {
        Ok(amount) => number.checked_add(amount),
        Err(_) => number.checked_sub(amount.unsigned_abs().into()),
    };
    match sum.filter(|sum| !ip.is_v4() || *sum <= u32::MAX.into()) {
        Some(sum) => call.give(text(from_number(sum, ip.is_v4()))),
        None => Err(call.error("there is no such address")),
    }
}

fn nthhost(call: &Call) -> Result<Jinja, Error> {
    let Some(ip) = read(&call.input()?) else { return call.give(false) };
    let index = call.arg_int("query")?.ok_or_else(|| call.error("needs a number"))?;
    call.give(ip.nth(index.into()).map_or(Value::Bool(false), text))
}

fn usable(call: &Call, direction: i128) -> Result<Jinja, Error> {
    let ip = need(call, &call.input()?)?;
    let offset = call.arg_int("offset")?.ok_or_else(|| call.error("needs a number"))?;
    let (first, last) = ip.usable();
    let number = i128::try_from(ip.number()).ok().and_then(|number| number.checked_add(i128::from(offset) * direction));
    let number = number.and_then(|number| u128::try_from(number).ok()).filter(|number| (first..=last).contains(number));
    call.give(number.and_then(|number| ip.nth(number as i128)).map_or(Value::Null, text))
}

fn network_in(call: &Call, only_usable: bool) -> Result<Jinja, Error> {
    let ip = need(call, &call.input()?)?;
    let test = need(call, &call.required("test")?)?;
    if !ip.contains(&test) {
        return call.give(false);
    }
    let (first, last) = ip.usable();
    let base = to_number(ip.net.network());
    let inside = to_number(test.net.network()) - base >= first && to_number(test.net.broadcast()) - base <= last;
    call.give(!only_usable || inside)
}

/// The fewest networks that hold just these, or (`span`) the one that holds them all.
fn cidr_merge(call: &Call) -> Result<Jinja, Error> {
    let items = call.list()?;
    let nets = items.iter().map(|item| need(call, item).map(|ip| ip.network())).collect::<Result<Vec<_>, _>>()?;
    match call.arg_text("action")?.as_deref() {
        None | Some("merge") => {
            let v4: Vec<Ipv4Net> =
                nets.iter().filter_map(|net| if let IpNet::V4(net) = *net { Some(net) } else { None }).collect();
            let v6: Vec<Ipv6Net> =
                nets.iter().filter_map(|net| if let IpNet::V6(net) = *net { Some(net) } else { None }).collect();
            let merged =
                Ipv4Net::aggregate(&v4).into_iter().map(text).chain(Ipv6Net::aggregate(&v6).into_iter().map(text));
            call.give(merged.collect::<Vec<_>>())
        }
        Some("span") => {
            let Some(mut span) = nets.first().copied() else { return call.give(Value::Null) };
            while !nets.iter().all(|net| span.contains(net)) {
                span = span.supernet().ok_or_else(|| call.error("the list mixes IPv4 and IPv6"))?;
            }
            call.give(text(span))
        }
        Some(_) => Err(call.error("action has to be merge or span")),
    }
}
