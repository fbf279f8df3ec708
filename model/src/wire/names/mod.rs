//! Where identifiers stand in a payload: names of hosts, domains and people, addresses, secrets. They are replaced, so that what was
//! captured does not come out again.
//!
//! Only what is literal in a message matters, which is its beginning (see the encoder). Each part knows where some protocols put
//! identifiers: [`dns`], [`netbios`], [`tls`], `text` any text, `fields` binary protocols. Everywhere else addresses of the packet's
//! own headers are found.

pub mod dns;
mod fields;
pub mod netbios;
mod text;
pub mod tls;

/// An identifier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Where it begins in the payload.
    pub at: usize,
    /// Where it ends.
    pub end: usize,
    /// The name, for one to be replaced.
    pub name: Vec<u8>,
    /// How it is written.
    pub kind: Kind,
}

/// How an identifier is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// As text.
    Text,
    /// DNS labels, without what ends them.
    Labels,
    /// An IPv4 address in text.
    Quad,
    /// Bytes that are an address, or as random as one: drawn anew.
    Address,
}

/// Longest name (RFC 1035, section 2.3.4).
const NAME_MAX: usize = 253;

/// What a payload is found in.
#[derive(Debug, Clone, Copy)]
pub enum Carrier {
    /// A segment between these ports, the sender's first.
    Tcp(u16, u16),
    /// A datagram.
    Udp(u16, u16),
    /// An ICMP message of this type; true for ICMPv6. The payload is what follows the checksum.
    Icmp(u8, bool),
}

/// What is found in a payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The identifiers in order, none overlapping.
    pub spans: Vec<Span>,
    /// From here on nothing of it is to be told literally.
    pub literal_end: usize,
}

/// Ports of DNS, mDNS and LLMNR.
pub fn is_dns(port: u16) -> bool {
    matches!(port, 53 | 5353 | 5355)
}

/// Ports of TLS (IANA's service names).
fn is_tls(port: u16) -> bool {
    matches!(port, 443 | 465 | 636 | 853 | 993 | 995 | 5061 | 8443 | 8883)
}

/// Ports of NetBIOS over TCP (RFC 1001, section 17).
pub fn is_netbios(port: u16) -> bool {
    matches!(port, 137..=139)
}

/// The identifiers of a payload that begins a message. `addresses` are those in the headers in front of it.
pub fn find(payload: &[u8], carrier: Carrier, addresses: &[&[u8]]) -> Found {
    let (ports, is_tcp) = match carrier {
        Carrier::Tcp(a, b) => ([a, b], true),
        Carrier::Udp(a, b) => ([a, b], false),
        Carrier::Icmp(..) => ([0; 2], false),
    };
    let mut found = if ports.into_iter().any(is_dns) {
        // Over TCP behind its length (RFC 1035, section 4.2.2).
        dns::find(payload, if is_tcp { 2 } else { 0 })
    } else {
        let mut spans = Vec::new();
        let literal_end = match carrier {
            // Who is a neighbour of whom, and which group he listens to (RFC 4861; RFC 3810); routers (RFC 1256).
            Carrier::Icmp(130..=137 | 143, true) | Carrier::Icmp(9 | 17 | 18, false) => payload.len().min(4),
            // The middle of a record, as where segments are missing: of certificates, if it can be read at all.
            Carrier::Tcp(a, b)
                if (is_tls(a) || is_tls(b)) && !matches!(payload, [20..=24, 3, ..]) && !is_text(payload) =>
            {
                0
            }
            _ => payload.len(),
        };
        others(payload, ports, is_tcp, &mut spans);
        Found { spans, literal_end }
    };
    for address in addresses {
        // A group's is nobody's.
        let of = payload.windows(address.len().max(1)).enumerate().filter(|(_, bytes)| bytes == address);
        found.spans.extend(of.map(|(at, bytes)| Span {
            at,
            end: at + bytes.len(),
            name: Vec::new(),
            kind: Kind::Address,
        }));
    }
    in_order(&mut found.spans);
    found
}

/// What is found in a TLS record of a handshake, with its header, wherever in a message it begins.
pub fn find_in_handshake(record: &[u8]) -> Vec<Span> {
    let mut ret = tls::hello(record).map_or_else(Vec::new, |hello| hello.spans);
    text::find_in_binary(record, &mut ret);
    in_order(&mut ret);
    ret
}

fn others(payload: &[u8], ports: [u16; 2], is_tcp: bool, ret: &mut Vec<Span>) {
    if is_tcp && payload.first() == Some(&22) {
        ret.extend(find_in_handshake(payload));
    } else if ports.into_iter().any(is_netbios) {
        netbios::find(payload, ports.contains(&138), ret);
        text::find_in_binary(payload, ret);
    } else {
        other(payload, ports, is_tcp, ret);
    }
    quads(payload, ret);
}

/// Any protocol: the fields that are known, then text.
fn other(payload: &[u8], ports: [u16; 2], is_tcp: bool, ret: &mut Vec<Span>) {
    ports.into_iter().for_each(|port| fields::find(payload, port, is_tcp, ret));
    if is_text(payload) {
        if is_tcp {
            ret.extend(host(payload));
        }
        let is_mail = ports.iter().any(|port| matches!(port, 25 | 110 | 143 | 587));
        return text::find(payload, is_tcp && is_mail, ret);
    }
    // DNS at another port, as resolvers that hide it have it.
    if !is_tcp && payload.get(4..6).is_some_and(|questions| questions == [0, 1]) {
        let found = dns::find(payload, 0);
        if found.literal_end == payload.len() {
            return ret.extend(found.spans);
        }
    }
    text::find_in_binary(payload, ret);
}

/// Puts them in order and keeps of those that overlap the first, and the rest of the others.
fn in_order(spans: &mut Vec<Span>) {
    spans.sort_by_key(|s| (s.at, std::cmp::Reverse(s.end)));
    let mut end = 0;
    spans.retain_mut(|s| {
        if s.end <= end {
            return false;
        }
        if s.at < end {
            (s.at, s.kind) = (end, Kind::Address);
            s.name.clear();
        }
        end = s.end;
        true
    });
}

/// Whether bytes are mostly printable.
pub fn is_text(bytes: &[u8]) -> bool {
    let head = &bytes[..bytes.len().min(256)];
    let printable = head.iter().filter(|b| matches!(b, b'\t' | b'\r' | b'\n' | 0x20..0x7f)).count();
    !head.is_empty() && printable * 20 >= head.len() * 19
}

/// The host in an HTTP request (RFC 9112, section 3.2), without its port.
fn host(payload: &[u8]) -> Option<Span> {
    let at = payload.windows(8).take(2048).position(|w| w.eq_ignore_ascii_case(b"\r\nhost: "))? + 8;
    let len = payload[at..].iter().take(NAME_MAX).position(|b| matches!(b, b'\r' | b':'))?;
    let name = &payload[at..at + len];
    let is_address = name.iter().all(|b| b.is_ascii_digit() || *b == b'.');
    (len > 0 && !is_address).then(|| Span { at, end: at + len, name: name.to_vec(), kind: Kind::Text })
}

/// IPv4 addresses in text.
fn quads(payload: &[u8], ret: &mut Vec<Span>) {
    let is_part = |b: &u8| b.is_ascii_digit() || *b == b'.';
    let mut at = 0;
    while at < payload.len() {
        let Some(start) = payload[at..].iter().position(u8::is_ascii_digit).map(|p| at + p) else { return };
        let end = payload[start..].iter().position(|b| !is_part(b)).map_or(payload.len(), |p| start + p);
        at = end;
        let text = &payload[start..end];
        let parts = text.split(|b| *b == b'.');
        let is_number =
            |p: &[u8]| matches!(p.len(), 1..=3) && p.iter().fold(0, |n, b| n * 10 + u32::from(b - b'0')) < 256;
        if text.len() <= 15 && parts.clone().count() == 4 && parts.clone().all(is_number) {
            ret.push(Span { at: start, end, name: Vec::new(), kind: Kind::Quad });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEB: Carrier = Carrier::Tcp(50_000, 80);

    #[test]
    fn names_are_found_where_protocols_put_them() {
        // A query for www.example.com, and an answer by pointer.
        let mut message = b"\x12\x34\x81\x80\0\x01\0\x01\0\0\0\0\x03www\x07example\x03com\0\0\x01\0\x01".to_vec();
        message.extend_from_slice(b"\xc0\x0c\0\x01\0\x01\0\0\0\x05\0\x04\x5d\xb8\xd8\x22");
        let found = find(&message, Carrier::Udp(53, 50_000), &[]).spans;
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!((found[0].at, found[0].end, &found[0].name[..]), (12, 28, &b"www.example.com"[..]));
        assert_eq!((found[1].kind, found[1].end - found[1].at), (Kind::Address, 4));

        let request = b"GET / HTTP/1.1\r\nHost: shop.example:8080\r\nX-From: 192.0.2.17\r\n\r\n";
        let found = find(request, WEB, &[]).spans;
        assert_eq!(found.iter().map(|s| s.kind).collect::<Vec<_>>(), [Kind::Text, Kind::Quad]);
        assert_eq!(&request[found[0].at..found[0].end], b"shop.example");
    }

    #[test]
    fn addresses_of_the_headers_are_found_anywhere() {
        let payload = b"\x01\xff\xc0\0\x02\x07\x99\x02\x1b\x63\x84\x45\xe6";
        let found = find(payload, Carrier::Udp(5000, 5001), &[&[192, 0, 2, 7], &[2, 0x1b, 0x63, 0x84, 0x45, 0xe6]]);
        assert_eq!(found.spans.iter().map(|s| (s.at, s.end)).collect::<Vec<_>>(), [(2, 6), (7, 13)]);
    }

    #[test]
    fn nonsense_is_no_name() {
        for len in 0..64 {
            let bytes: Vec<u8> = (0..len).map(|i| (i * 37 % 251) as u8).collect();
            for port in [53, 67, 80, 88, 137, 138, 161, 389, 546, 1812, 1883, 5353] {
                for carrier in [Carrier::Udp(port, 9), Carrier::Tcp(9, port), Carrier::Icmp(port as u8, true)] {
                    let found = find(&bytes, carrier, &[&[37]]);
                    assert!(found.literal_end <= len && found.spans.iter().all(|s| s.at < s.end && s.end <= len));
                    assert!(found.spans.windows(2).all(|two| two[0].end <= two[1].at), "{found:?}");
                }
            }
        }
    }
}
