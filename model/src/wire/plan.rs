//! Who the rendered hosts are: addresses, MACs, VLAN, ports, sequence numbers and names, drawn from a seeded plan.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// The networks and link addresses of rendered traffic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Plan {
    /// IPv4 network of the clients. Default 10.10.0.0/16.
    pub client_net: Net4,
    /// IPv4 network of the servers. Default 198.18.0.0/15, set aside for benchmarks by RFC 2544.
    pub server_net: Net4,
    /// IPv6 prefix (64 bits) of the clients. Default 2001:db8:10::, for documentation by RFC 3849.
    pub client_net6: Ipv6Addr,
    /// IPv6 prefix (64 bits) of the servers. Default 2001:db8:18::.
    pub server_net6: Ipv6Addr,
    /// MAC of the gateway, behind which all servers are. Default 02:00:00:00:00:01.
    pub gateway_mac: [u8; 6],
    /// VLAN id of every frame; none by default.
    pub vlan: Option<u16>,
    /// Longest IP packet in bytes, at least 576. Default 1,500.
    pub mtu: u16,
    /// How many of a hundred clients talk IPv6 to their servers over TCP and UDP, 0 to 100; ICMP, groups and broadcasts stay as
    /// they are. By default each flow is of the version that was decided for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv6_percent: Option<u8>,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            client_net: Net4 { address: Ipv4Addr::new(10, 10, 0, 0), prefix: 16 },
            server_net: Net4 { address: Ipv4Addr::new(198, 18, 0, 0), prefix: 15 },
            client_net6: Ipv6Addr::new(0x2001, 0xdb8, 0x10, 0, 0, 0, 0, 0),
            server_net6: Ipv6Addr::new(0x2001, 0xdb8, 0x18, 0, 0, 0, 0, 0),
            gateway_mac: [2, 0, 0, 0, 0, 1],
            vlan: None,
            mtu: 1500,
            ipv6_percent: None,
        }
    }
}

/// An IPv4 network, written as in 10.10.0.0/16.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Net4 {
    address: Ipv4Addr,
    prefix: u8,
}

impl std::fmt::Display for Net4 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl From<Net4> for String {
    fn from(net: Net4) -> Self {
        net.to_string()
    }
}

impl TryFrom<String> for Net4 {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl std::str::FromStr for Net4 {
    type Err = String;

    /// Reads `a.b.c.d/n` with n from 8 to 30, so that there are hosts to draw.
    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || format!("{text}: expected a network such as 10.10.0.0/16, with a prefix from 8 to 30");
        let (address, prefix) = text.split_once('/').ok_or_else(expected)?;
        let address: Ipv4Addr = address.parse().map_err(|_| expected())?;
        let prefix: u8 = prefix.parse().ok().filter(|p| (8..=30).contains(p)).ok_or_else(expected)?;
        let address = Ipv4Addr::from_bits(address.to_bits() & (u32::MAX << (32 - prefix)));
        if address.is_multicast() || address.is_loopback() || address.octets()[0] == 0 {
            return Err(format!("{text}: hosts need unicast addresses"));
        }
        Ok(Self { address, prefix })
    }
}

impl Net4 {
    fn overlaps(self, other: Self) -> bool {
        let shorter = self.prefix.min(other.prefix);
        (self.address.to_bits() ^ other.address.to_bits()) >> (32 - shorter) == 0
    }

    /// A host of the network: neither its first nor its last address.
    fn host(self, rng: &mut ChaCha8Rng) -> Ipv4Addr {
        let hosts = (1u32 << (32 - self.prefix)) - 2;
        Ipv4Addr::from_bits(self.address.to_bits() + 1 + (rng.next_u64() % u64::from(hosts)) as u32)
    }
}

impl Plan {
    /// Checks every range; says what is wrong.
    ///
    /// # Errors
    /// What is outside its range.
    pub fn validate(&self) -> Result<(), String> {
        let fault = |name: &str, value: u16, range: &str| Err(format!("{name} is {value}, but must be {range}"));
        match *self {
            Self { vlan: Some(vlan), .. } if !(1..=4094).contains(&vlan) => fault("vlan", vlan, "1 to 4094"),
            Self { mtu, .. } if mtu < 576 => fault("mtu", mtu, "at least 576"),
            Self { ipv6_percent: Some(n), .. } if n > 100 => fault("ipv6_percent", n.into(), "0 to 100"),
            Self { gateway_mac: [first, ..], .. } if first & 1 != 0 => Err("gateway_mac is a group's".to_owned()),
            // A server could get the client's own address.
            Self { client_net, server_net, .. } if client_net.overlaps(server_net) => {
                Err(format!("client_net {client_net} and server_net {server_net} overlap"))
            }
            Self { client_net6, server_net6, .. } if prefix6(client_net6) == prefix6(server_net6) => {
                Err(format!("client_net6 and server_net6 are both {client_net6}"))
            }
            _ => [self.client_net6, self.server_net6].into_iter().try_for_each(|net| {
                // RFC 4291, section 2.4: these are no hosts' addresses, whatever follows.
                let is_host = prefix6(net) != 0 && !net.is_multicast();
                if is_host { Ok(()) } else { Err(format!("{net}: hosts need unicast addresses")) }
            }),
        }
    }

    /// A client's address.
    pub fn client(&self, v6: bool, rng: &mut ChaCha8Rng) -> IpAddr {
        if v6 { host6(self.client_net6, rng).into() } else { self.client_net.host(rng).into() }
    }

    /// A server's address.
    pub fn server(&self, v6: bool, rng: &mut ChaCha8Rng) -> IpAddr {
        if v6 { host6(self.server_net6, rng).into() } else { self.server_net.host(rng).into() }
    }

    /// The broadcast address of the clients' network; all nodes on the link (RFC 4291, section 2.7.1) for IPv6.
    pub fn client_broadcast(&self, v6: bool) -> IpAddr {
        if v6 {
            return Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).into();
        }
        let Net4 { address, prefix } = self.client_net;
        Ipv4Addr::from_bits(address.to_bits() | u32::MAX >> prefix).into()
    }

    /// The link header of a frame from `src` to `dst`; `from_client` tells which of them the gateway stands for.
    pub fn link(&self, src: IpAddr, dst: IpAddr, from_client: bool, ret: &mut Vec<u8>) {
        let (to, from) = if from_client {
            let broadcast = (dst == self.client_broadcast(false)).then_some([0xff; 6]);
            (broadcast.or(group_mac(dst)).unwrap_or(self.gateway_mac), host_mac(src))
        } else {
            (group_mac(dst).unwrap_or_else(|| host_mac(dst)), self.gateway_mac)
        };
        ret.extend_from_slice(&to);
        ret.extend_from_slice(&from);
        if let Some(vlan) = self.vlan {
            ret.extend_from_slice(&0x8100u16.to_be_bytes());
            ret.extend_from_slice(&(vlan & 0xfff).to_be_bytes());
        }
        ret.extend_from_slice(if src.is_ipv4() { &[0x08, 0x00] } else { &[0x86, 0xdd] });
    }
}

/// The network's 64 bits, in their place.
fn prefix6(net: Ipv6Addr) -> u128 {
    net.to_bits() & !u128::from(u64::MAX)
}

fn host6(net: Ipv6Addr, rng: &mut ChaCha8Rng) -> Ipv6Addr {
    Ipv6Addr::from_bits(prefix6(net) | u128::from(rng.next_u64() >> 16).max(1))
}

/// A port of the range that RFC 6335, section 6, leaves to clients.
pub fn ephemeral_port(rng: &mut ChaCha8Rng) -> u16 {
    49_152 + (rng.next_u32() >> 18) as u16
}

/// The MAC of a group address (RFC 1112, section 6.4; RFC 2464, section 7) or of a broadcast.
fn group_mac(address: IpAddr) -> Option<[u8; 6]> {
    match address {
        IpAddr::V4(a) if a.is_broadcast() => Some([0xff; 6]),
        IpAddr::V4(a) if a.is_multicast() => {
            let [_, b, c, d] = a.octets();
            Some([0x01, 0x00, 0x5e, b & 0x7f, c, d])
        }
        IpAddr::V6(a) if a.is_multicast() => {
            let o = a.octets();
            Some([0x33, 0x33, o[12], o[13], o[14], o[15]])
        }
        _ => None,
    }
}

/// A locally administered MAC that depends on the address alone.
fn host_mac(address: IpAddr) -> [u8; 6] {
    let low = match address {
        IpAddr::V4(a) => a.to_bits(),
        IpAddr::V6(a) => (a.to_bits() ^ (a.to_bits() >> 16)) as u32,
    };
    let [a, b, c, d] = low.to_be_bytes();
    [0x02, 0x57, a, b, c, d]
}

/// A name of exactly `len` characters below a top-level domain that RFC 2606 sets aside.
///
/// Labels have at most 63 characters (RFC 1035, section 2.3.4). Names too short for a domain are one label.
pub fn name(len: usize, rng: &mut ChaCha8Rng) -> Vec<u8> {
    const LETTERS: &[u8; 32] = b"aeiouaeiouaeibcdfghklmnprstvwxyz";
    let suffix = name_suffix(len);
    let host = len - suffix.len();
    let mut ret = Vec::with_capacity(len);
    for i in 0..host {
        // A dot every 20 characters, but never first, last or doubled.
        let dot = i % 20 == 19 && i + 1 < host;
        ret.push(if dot { b'.' } else { LETTERS[(rng.next_u32() >> 27) as usize] });
    }
    ret.extend_from_slice(suffix);
    ret
}

fn name_suffix(len: usize) -> &'static [u8] {
    match len {
        0..6 => b"",
        6..12 => b".test",
        _ => b".example",
    }
}

/// Characters of each label of such a name, in order: its length alone decides them.
pub fn name_labels(len: usize) -> impl Iterator<Item = usize> {
    let suffix = name_suffix(len).len();
    let mut host = len - suffix;
    let hosts = std::iter::from_fn(move || {
        let label = if host > 20 { 19 } else { host };
        host = host.saturating_sub(label + 1);
        (label > 0).then_some(label)
    });
    hosts.chain((suffix > 0).then(|| suffix - 1))
}

/// An IPv4 address in text of exactly `len` characters (7 to 15), of the documentation range where it fits.
pub fn quad(len: usize, rng: &mut ChaCha8Rng) -> Vec<u8> {
    let digits = len.clamp(7, 15) - 3;
    let mut ret = Vec::with_capacity(len);
    for i in 0..4 {
        let width = (digits + 3 - i) / 4; // shares the digits out evenly: each 1 to 3
        let value = match width {
            1 => 1 + rng.next_u32() % 9,
            2 => 10 + rng.next_u32() % 90,
            _ => 100 + rng.next_u32() % 120,
        };
        if i > 0 {
            ret.push(b'.');
        }
        ret.extend_from_slice(value.to_string().as_bytes());
    }
    ret
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn names_and_quads_have_the_asked_length() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for len in 0..=253 {
            let name = name(len, &mut rng);
            assert_eq!(name.len(), len);
            assert!(name.split(|b| *b == b'.').all(|l| l.len() <= 63 && (!l.is_empty() || len == 0)), "{len}");
            let labels: Vec<usize> = name.split(|b| *b == b'.').map(<[u8]>::len).filter(|len| *len > 0).collect();
            assert_eq!(labels, name_labels(len).collect::<Vec<_>>());
        }
        for len in 7..=15 {
            let text = String::from_utf8(quad(len, &mut rng)).unwrap();
            assert_eq!(text.len(), len);
            text.parse::<Ipv4Addr>().unwrap();
        }
    }

    #[test]
    fn hosts_lie_inside_their_networks() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let net: Net4 = "192.0.2.77/30".parse().unwrap();
        assert_eq!(net.to_string(), "192.0.2.76/30");
        for _ in 0..50 {
            assert!([77, 78].contains(&net.host(&mut rng).octets()[3]));
        }
        for bad in ["10.0.0.0", "10.0.0.0/31", "224.0.0.0/8", "127.0.0.0/8", "x/8", "10.0.0.0/7"] {
            assert!(bad.parse::<Net4>().is_err(), "{bad}");
        }
    }
}
