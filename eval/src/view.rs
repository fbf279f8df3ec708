//! A captured packet as the measures see it: slices of its headers and payload, found once.

use wiremamba_model::flow::{Direction, FiveTuple, Flow, dissect};
use wiremamba_model::packet::{Packet, Timestamp};

/// ICMP's protocol number.
pub const ICMP: u8 = 1;
/// TCP's protocol number.
pub const TCP: u8 = 6;
/// UDP's protocol number.
pub const UDP: u8 = 17;

/// A packet taken apart as far as it goes, without judgement. Slices point into the captured bytes, and are as short
/// as the capture made them; a layer that is not there is empty.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// The packet.
    pub packet: &'a Packet,
    /// Who sent it to whom; `None` where the frame has no 5-tuple.
    pub tuple: Option<FiveTuple>,
    /// From the first byte of the IP header to the end of the IP packet, padding behind it left out.
    pub ip: &'a [u8],
    /// The IPv4 header with its options, or the 40 bytes of the IPv6 header.
    pub ip_header: &'a [u8],
    /// The TCP header with its options, the UDP header, or the first 8 bytes of ICMP. Empty for later fragments.
    pub transport: &'a [u8],
    /// What is behind the headers.
    pub payload: &'a [u8],
    /// Length of the payload on the wire in bytes; longer than `payload` where the snaplen cut it.
    pub payload_len: usize,
    /// Whether it is a fragment other than the first.
    pub later_fragment: bool,
}

impl<'a> View<'a> {
    /// Takes a packet apart.
    pub fn new(packet: &'a Packet) -> Self {
        let data = packet.data.as_slice();
        let Ok(found) = dissect(packet.linktype, data) else {
            let [ip, ip_header, transport, payload] = [&data[..0]; 4];
            return Self {
                packet,
                tuple: None,
                ip,
                ip_header,
                transport,
                payload,
                payload_len: 0,
                later_fragment: false,
            };
        };
        let ip = &data[found.ip_offset..found.ip_end.max(found.ip_offset)];
        let header_len = if ip[0] >> 4 == 4 { usize::from(ip[0] & 15) * 4 } else { 40 };
        let payload_offset = found.payload_offset.min(found.ip_end);
        let transport = match found.tuple.protocol {
            ICMP | TCP | UDP | 58 if !found.later_fragment => data.get(found.transport_offset..payload_offset),
            _ => None,
        };
        let payload = data.get(payload_offset..found.ip_end).unwrap_or_default();
        let missing = (packet.len as usize).saturating_sub(data.len());
        // What the snaplen cut belongs to the IP packet as far as its length field says.
        let ip_len = match ip {
            [first, _, a, b, ..] if first >> 4 == 4 => usize::from(u16::from_be_bytes([*a, *b])),
            [_, _, _, _, a, b, ..] => 40 + usize::from(u16::from_be_bytes([*a, *b])),
            _ => 0,
        };
        let beyond = if ip_len == 0 { missing } else { ip_len.saturating_sub(ip.len()).min(missing) };
        Self {
            packet,
            tuple: Some(found.tuple),
            ip,
            ip_header: &ip[..header_len.min(ip.len())],
            transport: transport.unwrap_or_default(),
            payload,
            payload_len: payload.len() + beyond,
            later_fragment: found.later_fragment,
        }
    }

    /// Time of the packet.
    pub fn ts(&self) -> Timestamp {
        self.packet.ts
    }

    /// 4, 6, or 0 where there is no IP.
    pub fn ip_version(&self) -> u8 {
        self.ip_header.first().map_or(0, |b| b >> 4)
    }

    /// IP protocol number, behind extension headers.
    pub fn protocol(&self) -> Option<u8> {
        self.tuple.map(|t| t.protocol)
    }

    /// The TCP header, when all of its fixed 20 bytes were captured.
    pub fn tcp(&self) -> Option<TcpView<'a>> {
        (self.protocol() == Some(TCP) && self.transport.len() >= 20).then_some(TcpView(self.transport))
    }

    /// The UDP header, when all of it was captured.
    pub fn udp(&self) -> Option<&'a [u8]> {
        (self.protocol() == Some(UDP) && self.transport.len() >= 8).then_some(self.transport)
    }
}

/// A TCP header (RFC 9293, section 3.1) of at least 20 captured bytes.
#[derive(Debug, Clone, Copy)]
pub struct TcpView<'a>(pub &'a [u8]);

impl<'a> TcpView<'a> {
    /// FIN.
    pub const FIN: u8 = 0x01;
    /// SYN.
    pub const SYN: u8 = 0x02;
    /// RST.
    pub const RST: u8 = 0x04;
    /// PSH.
    pub const PSH: u8 = 0x08;
    /// ACK.
    pub const ACK: u8 = 0x10;
    /// URG.
    pub const URG: u8 = 0x20;

    fn be32(self, at: usize) -> u32 {
        u32::from_be_bytes(*self.0[at..].first_chunk().expect("20 bytes are there"))
    }

    /// Sequence number.
    pub fn seq(self) -> u32 {
        self.be32(4)
    }

    /// Acknowledgement number.
    pub fn ack(self) -> u32 {
        self.be32(8)
    }

    /// Length of the header that its data offset claims, in bytes.
    pub fn header_len(self) -> usize {
        usize::from(self.0[12] >> 4) * 4
    }

    /// The flags byte.
    pub fn flags(self) -> u8 {
        self.0[13]
    }

    /// Window, as in the field.
    pub fn window(self) -> u16 {
        u16::from_be_bytes([self.0[14], self.0[15]])
    }

    /// The options with their padding, as captured.
    pub fn options(self) -> &'a [u8] {
        &self.0[20..self.header_len().clamp(20, self.0.len())]
    }

    /// Kind and value of each option until the end of the list (RFC 9293, section 3.2); padding is left out. `Err`
    /// where a length is below 2 or leads beyond the header.
    pub fn each_option(self) -> impl Iterator<Item = Result<(u8, &'a [u8]), BadOption>> {
        let mut rest = self.options();
        std::iter::from_fn(move || {
            loop {
                match *rest {
                    [] | [0, ..] => return None,
                    [1, ..] => rest = &rest[1..],
                    [kind, len, ..] if len >= 2 && usize::from(len) <= rest.len() => {
                        let value = &rest[2..usize::from(len)];
                        rest = &rest[usize::from(len)..];
                        return Some(Ok((kind, value)));
                    }
                    [..] => {
                        rest = &[];
                        return Some(Err(BadOption));
                    }
                }
            }
        })
    }
}

/// A TCP option whose length is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadOption;

/// The views of a flow's packets, in its order.
pub fn views(flow: &Flow) -> impl Iterator<Item = (Direction, View<'_>)> {
    flow.packets.iter().map(|(direction, packet)| (*direction, View::new(packet)))
}
