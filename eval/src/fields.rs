//! Value distributions of header fields: those that say how hosts behave, and those that only say who they are.

use std::collections::HashMap;
use std::net::IpAddr;

use super::stats::Distances;
use super::view::View;
use wiremamba_model::flow::Direction;

/// Distinct values of a field that are kept apart; further ones are counted together.
const VALUES_MAX: usize = 1 << 20;
/// Stands for a field that a packet lacks.
const ABSENT: u64 = u64::MAX;
/// Stands for the values beyond [`VALUES_MAX`].
const OTHER: u64 = u64::MAX - 1;
/// Ports from here on are the clients' own choice on common systems, and name no service.
const SERVICE_PORTS_END: u16 = 32_768;

/// Fields that are no identity: what `structure` is the mean of.
pub const STRUCTURE: [&str; 16] = [
    "ip_version",
    "ip_header_len",
    "ip_total_len",
    "tos",
    "ip_flags_fragment",
    "ttl",
    "protocol",
    "tcp_flags",
    "tcp_data_offset",
    "tcp_window",
    "tcp_option_layout",
    "udp_len",
    "icmp_type_code",
    "payload_size_class",
    "service_port",
    "joint",
];

/// Fields that say who talks: what `identity` is the mean of. Sequence and acknowledgement numbers by their upper 16
/// bits, addresses by rank.
pub const IDENTITY: [&str; 9] = [
    "src_address",
    "dst_address",
    "src_port",
    "dst_port",
    "ip_id",
    "tcp_seq",
    "tcp_ack",
    "ip_checksum",
    "transport_checksum",
];

/// What earlier work compares, beside bits.
pub const ATTRIBUTES: [&str; 6] = ["src_address", "dst_address", "src_port", "dst_port", "protocol", "packet_size"];

const STRUCTURE_LEN: usize = STRUCTURE.len();
const NUMBERS_LEN: usize = IDENTITY.len() - 2;

/// The class of a payload's size: the number of bits that the size takes.
pub fn size_class(len: usize) -> u32 {
    usize::BITS - len.leading_zeros()
}

/// The port that names the service: the lower of the two, 0 where both are above the range of services.
pub fn service_port(view: &View<'_>) -> Option<u16> {
    let tuple = view.tuple.filter(|t| matches!(t.protocol, 6 | 17 | 132) && !view.later_fragment)?;
    let lower = tuple.orig_port.min(tuple.resp_port);
    Some(if lower < SERVICE_PORTS_END { lower } else { 0 })
}

/// Counts of values, bounded.
#[derive(Debug, Clone)]
struct Counts<K>(HashMap<K, u64>);

impl<K> Default for Counts<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: std::hash::Hash + Eq + Copy> Counts<K> {
    /// Counts a value `n` times; `other` stands for what is beyond the limit.
    fn add(&mut self, value: K, other: K, n: u64) {
        let is_full = self.0.len() >= VALUES_MAX;
        let value = if is_full && !self.0.contains_key(&value) { other } else { value };
        *self.0.entry(value).or_default() += n;
    }

    fn merge(&mut self, more: &Self, other: K) {
        more.0.iter().for_each(|(value, n)| self.add(*value, other, *n));
    }

    fn distances(&self, other: &Self) -> Distances {
        let total = |c: &Self| c.0.values().sum::<u64>() as f64;
        let (p_total, q_total) = (total(self), total(other));
        if p_total == 0.0 || q_total == 0.0 {
            return if p_total == q_total { Distances::ZERO } else { Distances::between([(1.0, 0.0), (0.0, 1.0)]) };
        }
        let of = |c: &Self, k: &K| c.0.get(k).copied().unwrap_or(0) as f64;
        // In an order of its own a hash table would give sums that differ in the last digit from run to run.
        let mut pairs: Vec<(f64, f64)> =
            self.0.keys().map(|k| (of(self, k) / p_total, of(other, k) / q_total)).collect();
        pairs.extend(other.0.iter().filter(|(k, _)| !self.0.contains_key(k)).map(|(_, n)| (0.0, *n as f64 / q_total)));
        pairs.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
        Distances::between(pairs)
    }

    /// Distances of the counts by rank, whatever they are counts of.
    fn rank_distances(&self, other: &Self) -> Distances {
        let ranks = |c: &Self| {
            let mut counts: Vec<u64> = c.0.values().copied().collect();
            counts.sort_unstable_by(|a, b| b.cmp(a));
            let total = counts.iter().sum::<u64>() as f64;
            counts.into_iter().map(|n| n as f64 / total).collect::<Vec<f64>>()
        };
        let (p, q) = (ranks(self), ranks(other));
        match (p.is_empty(), q.is_empty()) {
            (false, false) => {}
            (true, true) => return Distances::ZERO,
            _ => return Distances::between([(1.0, 0.0), (0.0, 1.0)]),
        }
        let at = |v: &[f64], i: usize| v.get(i).copied().unwrap_or(0.0);
        Distances::between((0..p.len().max(q.len())).map(|i| (at(&p, i), at(&q, i))))
    }
}

/// Value distributions of one side.
#[derive(Debug, Clone, Default)]
pub struct FieldCounts {
    structure: [Counts<u64>; STRUCTURE_LEN],
    addresses: [Counts<Option<IpAddr>>; 2],
    numbers: [Counts<u64>; NUMBERS_LEN],
    sizes: Counts<u64>,
}

impl FieldCounts {
    /// Counts a packet; one without IP is left out.
    pub fn add(&mut self, direction: Direction, view: &View<'_>) {
        let Some(tuple) = view.tuple else { return };
        self.sizes.add(u64::from(view.packet.len), OTHER, 1);
        let ip = view.ip_header;
        let (tcp, udp) = (view.tcp(), view.udp());
        let be16 = |at: usize| u64::from(u16::from_be_bytes([ip[at], ip[at + 1]]));
        let is_v4 = view.ip_version() == 4;
        let traffic_class = || u64::from(ip[0] & 15) << 4 | u64::from(ip[1] >> 4);
        let flags = tcp.map_or(ABSENT, |t| u64::from(t.flags()));
        let class = u64::from(size_class(view.payload_len));
        let service = service_port(view).map_or(ABSENT, u64::from);
        let icmp = match (tuple.protocol, view.transport) {
            (1 | 58, [kind, code, ..]) => u64::from(*kind) << 8 | u64::from(*code),
            _ => ABSENT,
        };
        // Each part has room for its value and for "absent".
        let joint = u64::from(tuple.protocol)
            | flags.min(0x100) << 8
            | class << 17
            | u64::from(direction == Direction::Resp) << 24
            | service.min(0x1_0000) << 25;
        let values: [u64; STRUCTURE_LEN] = [
            u64::from(view.ip_version()),
            if is_v4 { u64::from(ip[0] & 15) * 4 } else { 40 },
            if is_v4 { be16(2) } else { be16(4) + 40 },
            if is_v4 { u64::from(ip[1]) } else { traffic_class() },
            if is_v4 { be16(6) } else { ABSENT },
            u64::from(if is_v4 { ip[8] } else { ip[7] }),
            u64::from(tuple.protocol),
            flags,
            tcp.map_or(ABSENT, |t| t.header_len() as u64),
            tcp.map_or(ABSENT, |t| u64::from(t.window())),
            tcp.map_or(ABSENT, |t| option_layout(t.options())),
            udp.map_or(ABSENT, |u| u64::from(u16::from_be_bytes([u[4], u[5]]))),
            icmp,
            class,
            service,
            joint,
        ];
        for (counts, value) in self.structure.iter_mut().zip(values) {
            counts.add(value, OTHER, 1);
        }

        self.addresses[0].add(Some(tuple.orig), None, 1);
        self.addresses[1].add(Some(tuple.resp), None, 1);
        let [src_port, dst_port, id, seq, ack, ip_checksum, checksum] = &mut self.numbers;
        if service != ABSENT {
            src_port.add(u64::from(tuple.orig_port), OTHER, 1);
            dst_port.add(u64::from(tuple.resp_port), OTHER, 1);
        }
        if is_v4 {
            id.add(be16(4), OTHER, 1);
            ip_checksum.add(be16(10), OTHER, 1);
        }
        if let Some(tcp) = tcp {
            seq.add(u64::from(tcp.seq() >> 16), OTHER, 1);
            ack.add(u64::from(tcp.ack() >> 16), OTHER, 1);
        }
        let at = if tcp.is_some() { 16 } else { 6 };
        if (tcp.is_some() || udp.is_some())
            && let [a, b, ..] = view.transport[at..]
        {
            checksum.add(u64::from(u16::from_be_bytes([a, b])), OTHER, 1);
        }
    }

    /// Takes the counts of another in.
    pub fn merge(&mut self, other: &Self) {
        self.structure.iter_mut().zip(&other.structure).for_each(|(a, b)| a.merge(b, OTHER));
        self.addresses.iter_mut().zip(&other.addresses).for_each(|(a, b)| a.merge(b, None));
        self.numbers.iter_mut().zip(&other.numbers).for_each(|(a, b)| a.merge(b, OTHER));
        self.sizes.merge(&other.sizes, OTHER);
    }

    /// Distances of the fields in [`STRUCTURE`].
    pub fn structure(&self, other: &Self) -> [Distances; STRUCTURE_LEN] {
        std::array::from_fn(|i| self.structure[i].distances(&other.structure[i]))
    }

    /// Distances of the fields in [`IDENTITY`].
    pub fn identity(&self, other: &Self) -> [Distances; IDENTITY.len()] {
        std::array::from_fn(|i| match i {
            0 | 1 => self.addresses[i].rank_distances(&other.addresses[i]),
            _ => self.numbers[i - 2].distances(&other.numbers[i - 2]),
        })
    }

    /// Distances of the fields in [`ATTRIBUTES`].
    pub fn attributes(&self, other: &Self) -> [Distances; ATTRIBUTES.len()] {
        let identity = self.identity(other);
        let protocol = STRUCTURE.iter().position(|name| *name == "protocol").expect("it is one of them");
        let protocol = self.structure[protocol].distances(&other.structure[protocol]);
        let [src, dst, src_port, dst_port, ..] = identity;
        [src, dst, src_port, dst_port, protocol, self.sizes.distances(&other.sizes)]
    }
}

/// The kinds of the options in their order, padding among them, up to the end of the list: as a number (FNV-1a).
fn option_layout(mut options: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    while let [kind, rest @ ..] = options
        && *kind != 0
    {
        hash = (hash ^ u64::from(*kind)).wrapping_mul(0x0100_0000_01b3);
        let len = if *kind == 1 { 0 } else { rest.first().map_or(rest.len(), |len| usize::from(*len).max(2) - 1) };
        options = &rest[len.min(rest.len())..];
    }
    hash & (u64::MAX >> 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_classes() {
        assert_eq!([0, 1, 2, 3, 4, 1460].map(size_class), [0, 1, 2, 2, 3, 11]);
    }

    #[test]
    fn layouts_differ_by_kind_and_order_not_by_value() {
        let syn = [2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7];
        let mut other = syn;
        other[3] = 0;
        assert_eq!(option_layout(&syn), option_layout(&other));
        assert_ne!(option_layout(&syn), option_layout(&syn[4..]));
        for hostile in [&[8_u8, 255][..], &[8, 0, 8, 1], &[2], &[0, 2, 4], &[1; 40]] {
            option_layout(hostile);
        }
    }

    #[test]
    fn ranks_forget_what_they_rank() {
        let counts = |names: &[u64]| {
            let mut ret = Counts::default();
            names.iter().for_each(|n| ret.add(*n, OTHER, 1));
            ret
        };
        let (a, b) = (counts(&[1, 1, 2]), counts(&[9, 8, 8]));
        assert!(a.rank_distances(&b).tvd.abs() < 1e-12);
        assert!((a.distances(&b).tvd - 1.0).abs() < 1e-12);
    }
}
