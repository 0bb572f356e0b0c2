//! An IP address or network in the text forms that the `ipaddr` family reads.

use ipnet::IpNet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address, and the prefix it came with. Host bits are kept: `10.0.0.5/24` is host 5 of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ip {
    pub net: IpNet,
    /// Written without a prefix.
    pub bare: bool,
}

impl Ip {
    /// Reads `10.0.0.1`, `10.0.0.0/8`, `10.0.0.0/255.0.0.0`, and the same of IPv6.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = match text.trim().split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text.trim(), None),
        };
        let address: IpAddr = address.parse().ok()?;
        let net = match prefix {
            None => IpNet::from(address),
            Some(prefix) => match prefix.parse::<u8>() {
                Ok(length) => IpNet::new(address, length).ok()?,
                Err(_) => IpNet::with_netmask(address, prefix.parse().ok()?).ok()?,
            },
        };
        Some(Self { net, bare: prefix.is_none() })
    }

    pub fn v4(number: u32) -> Self {
        Self { net: IpNet::from(IpAddr::V4(Ipv4Addr::from(number))), bare: true }
    }

    pub fn address(&self) -> IpAddr {
        self.net.addr()
    }

    pub fn is_v4(&self) -> bool {
        self.net.addr().is_ipv4()
    }

    pub fn version(&self) -> i64 {
        if self.is_v4() { 4 } else { 6 }
    }

    /// Bits of the host part.
    fn host_bits(&self) -> u32 {
        u32::from(self.net.max_prefix_len() - self.net.prefix_len())
    }

    /// The largest host number, which is one less than the number of addresses: that may be 2^128.
    pub fn last_number(&self) -> u128 {
        1u128.checked_shl(self.host_bits()).map_or(u128::MAX, |size| size - 1)
    }

    /// The number of the address within its network.
    pub fn number(&self) -> u128 {
        to_number(self.address()) - to_number(self.net.network())
    }

    /// The address with that number in the network; from the end when negative.
    pub fn nth(&self, index: i128) -> Option<IpAddr> {
        let last = self.last_number();
        let offset = match u128::try_from(index) {
            Ok(index) => index,
            Err(_) => last.checked_sub(index.unsigned_abs() - 1)?,
        };
        (offset <= last).then(|| from_number(to_number(self.net.network()) + offset, self.is_v4()))
    }

    /// The first and last number that a host may have: not the network, not the broadcast address.
    pub fn usable(&self) -> (u128, u128) {
        match self.last_number() {
            last @ (0 | 1) => (0, last),
            last => (1, last - 1),
        }
    }

    /// Whether a host has this address: it is not that of the network.
    pub fn is_host(&self) -> bool {
        self.last_number() == 0 || self.number() != 0
    }

    pub fn network(&self) -> IpNet {
        self.net.trunc()
    }

    pub fn broadcast(&self) -> Option<IpAddr> {
        (!self.is_v4() || self.last_number() > 1).then(|| self.net.broadcast())
    }

    pub fn contains(&self, other: &Self) -> bool {
        self.network().contains(&other.net)
    }

    pub fn is_private(&self) -> bool {
        match self.address() {
            IpAddr::V4(address) => address.is_private(),
            IpAddr::V6(address) => address.is_unique_local(),
        }
    }

    pub fn is_link_local(&self) -> bool {
        match self.address() {
            IpAddr::V4(address) => address.is_link_local(),
            IpAddr::V6(address) => address.is_unicast_link_local(),
        }
    }

    pub fn is_public(&self) -> bool {
        let address = self.address();
        let reserved = match address {
            IpAddr::V4(address) => address.octets()[0] >= 240 || address.is_documentation(),
            IpAddr::V6(_) => false,
        };
        !(self.is_private()
            || self.is_link_local()
            || address.is_loopback()
            || address.is_multicast()
            || address.is_unspecified()
            || reserved)
    }

    /// The name for a reverse lookup.
    pub fn reverse(&self) -> String {
        match self.address() {
            IpAddr::V4(address) => {
                let [a, b, c, d] = address.octets();
                format!("{d}.{c}.{b}.{a}.in-addr.arpa.")
            }
            IpAddr::V6(address) => {
                let nibbles =
                    address.octets().into_iter().rev().map(|byte| format!("{:x}.{:x}.", byte & 15, byte >> 4));
                format!("{}ip6.arpa.", nibbles.collect::<String>())
            }
        }
    }
}

/// As it was written, normalized.
impl fmt::Display for Ip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.bare { self.address().fmt(f) } else { self.net.fmt(f) }
    }
}

pub(super) fn to_number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

/// The address with that number; IPv4 wraps are for the caller to prevent.
pub(super) fn from_number(number: u128, v4: bool) -> IpAddr {
    if v4 { IpAddr::V4(Ipv4Addr::from(number as u32)) } else { IpAddr::V6(Ipv6Addr::from(number)) }
}
