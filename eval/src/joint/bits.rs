//! The nPrint bits of a flow's first packets (Holland et al. 2021, "New Directions in Automated Traffic Analysis"),
//! with everything that names a host, a connection or a packet left out.

use crate::view::{ICMP, View};

/// How many packets of a flow are printed.
pub(super) const PACKETS: usize = 4;
/// Bits of a packet: IPv4 480, IPv6 320, TCP 480, UDP 64, ICMP 64.
pub(super) const BITS_PER_PACKET: usize = 1_408;
/// Columns of a flow.
pub const COLUMNS: usize = PACKETS * BITS_PER_PACKET;

const BYTES_PER_PACKET: usize = BITS_PER_PACKET / 8;
const BYTES: usize = PACKETS * BYTES_PER_PACKET;
const IPV4: usize = 0;
const IPV6: usize = IPV4 + 60;
const TCP: usize = IPV6 + 40;
const UDP: usize = TCP + 60;
const ICMP_AT: usize = UDP + 8;

/// nPrint's name of each field, its width in bits, and whether it is an identity and so stays blank.
const FIELDS: [(&str, usize, bool); 47] = [
    ("ipv4_ver", 4, false),
    ("ipv4_hl", 4, false),
    ("ipv4_tos", 8, false),
    ("ipv4_tl", 16, false),
    ("ipv4_id", 16, true),
    ("ipv4_rbit", 1, false),
    ("ipv4_dfbit", 1, false),
    ("ipv4_mfbit", 1, false),
    ("ipv4_foff", 13, false),
    ("ipv4_ttl", 8, false),
    ("ipv4_proto", 8, false),
    ("ipv4_cksum", 16, true),
    ("ipv4_src", 32, true),
    ("ipv4_dst", 32, true),
    ("ipv4_opt", 320, false),
    ("ipv6_ver", 4, false),
    ("ipv6_tc", 8, false),
    ("ipv6_fl", 20, false),
    ("ipv6_len", 16, false),
    ("ipv6_nh", 8, false),
    ("ipv6_hl", 8, false),
    ("ipv6_src", 128, true),
    ("ipv6_dst", 128, true),
    ("tcp_sprt", 16, true),
    ("tcp_dprt", 16, true),
    ("tcp_seq", 32, true),
    ("tcp_ackn", 32, true),
    ("tcp_doff", 4, false),
    ("tcp_res", 4, false),
    ("tcp_cwr", 1, false),
    ("tcp_ece", 1, false),
    ("tcp_urg", 1, false),
    ("tcp_ackf", 1, false),
    ("tcp_psh", 1, false),
    ("tcp_rst", 1, false),
    ("tcp_syn", 1, false),
    ("tcp_fin", 1, false),
    ("tcp_wsize", 16, false),
    ("tcp_cksum", 16, true),
    ("tcp_urp", 16, false),
    ("tcp_opt", 320, false),
    ("udp_ports", 32, true),
    ("udp_len", 16, false),
    ("udp_cksum", 16, true),
    ("icmp_type_code", 16, false),
    ("icmp_cksum", 16, true),
    ("icmp_roh", 32, false),
];

/// Which bytes of a packet stay blank. Every identity field begins and ends with a byte.
const BLANK: [bool; BYTES_PER_PACKET] = {
    let mut blank = [false; BYTES_PER_PACKET];
    let (mut field, mut bit) = (0, 0);
    while field < FIELDS.len() {
        let end = bit + FIELDS[field].1;
        while bit < end {
            blank[bit / 8] |= FIELDS[field].2;
            bit += 1;
        }
        field += 1;
    }
    assert!(bit == BITS_PER_PACKET);
    blank
};

/// The columns of one flow, each 1, 0 or -1 (absent), packed: headers as they are, with a mark per byte that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PacketBits {
    bytes: [u8; BYTES],
    present: [u64; BYTES / 64],
}

impl PacketBits {
    /// The bits of a flow without packets: all absent.
    pub fn absent() -> Self {
        Self { bytes: [0; BYTES], present: [0; BYTES / 64] }
    }

    /// Prints `view` as packet number `position`. Packets behind the first four are left out.
    pub fn print(&mut self, position: usize, view: &View<'_>) {
        if position >= PACKETS {
            return;
        }
        let mut put = |at: usize, room: usize, header: &[u8]| {
            for (byte, &value) in (at..).zip(header.iter().take(room)).filter(|(byte, _)| !BLANK[*byte]) {
                let byte = position * BYTES_PER_PACKET + byte;
                self.bytes[byte] = value;
                self.present[byte / 64] |= 1 << (byte % 64);
            }
        };
        match view.ip_version() {
            4 => put(IPV4, 60, view.ip_header),
            6 => put(IPV6, 40, view.ip_header),
            _ => {}
        }
        if view.tcp().is_some() {
            put(TCP, 60, view.transport);
        } else if let Some(udp) = view.udp() {
            put(UDP, 8, udp);
        } else if view.protocol() == Some(ICMP) {
            put(ICMP_AT, 8, view.transport);
        }
    }

    /// The value of a column: 1, 0, or -1 where there is no such bit.
    pub fn value(&self, column: usize) -> i8 {
        let byte = column / 8;
        if self.present[byte / 64] >> (byte % 64) & 1 == 0 {
            return -1;
        }
        (self.bytes[byte] >> (7 - column % 8) & 1) as i8
    }
}

/// The name of a column in nPrint's manner, with the number of the packet (from 1) before it: `1:ipv4_ttl_0`.
pub fn column_name(column: usize) -> String {
    let mut bit = column % BITS_PER_PACKET;
    for (name, width, _) in FIELDS {
        if bit < width {
            return format!("{}:{name}_{bit}", column / BITS_PER_PACKET + 1);
        }
        bit -= width;
    }
    unreachable!("the fields' widths add up to the bits of a packet")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_have_nprint_names() {
        // IPv4's TTL is byte 8 of the header; TCP's flags are byte 13.
        assert_eq!(column_name(8 * 8), "1:ipv4_ttl_0");
        assert_eq!(column_name(BITS_PER_PACKET + TCP * 8 + 13 * 8 + 6), "2:tcp_syn_0");
        assert_eq!(column_name(COLUMNS - 1), "4:icmp_roh_31");
    }

    #[test]
    fn addresses_ports_numbers_and_checksums_are_blank() {
        let blank = |at: usize, bytes: std::ops::Range<usize>| bytes.map(|b| at + b).all(|b| BLANK[b]);
        assert!(blank(IPV4, 4..6) && blank(IPV4, 10..20) && blank(IPV6, 8..40));
        assert!(
            blank(TCP, 0..12) && blank(TCP, 16..18) && blank(UDP, 0..4) && blank(UDP, 6..8) && blank(ICMP_AT, 2..4)
        );
        assert_eq!(BLANK.iter().filter(|b| **b).count(), 12 + 32 + 14 + 6 + 2);
    }
}
