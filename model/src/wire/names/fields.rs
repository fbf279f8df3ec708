//! Fields of binary protocols that hold somebody's name, address or secret, as far as the literal part of a message reaches.

use super::{Kind, NAME_MAX, Span};
use crate::wire::dhcp;

/// Adds the fields of a datagram or segment of the protocol that a port is assigned to.
pub(super) fn find(payload: &[u8], port: u16, is_tcp: bool, ret: &mut Vec<Span>) {
    match (port, is_tcp) {
        (67 | 68, false) => dhcp(payload, ret),
        (546 | 547, false) => dhcpv6(payload, ret),
        (123, false) => ntp(payload, ret),
        (88 | 464 | 389 | 3268, true) | (88 | 161 | 162 | 389 | 464, false) => {
            // Kerberos over TCP has its length in front (RFC 4120, section 7.2.2).
            ber(payload, if is_tcp && payload.first() == Some(&0) { 4 } else { 0 }, payload.len(), 0, ret);
        }
        (1645 | 1646 | 1812 | 1813, false) => radius(payload, ret),
        (520, false) => routes(payload, ret),
        (1883, true) => counted(payload, ret),
        (5432, true) => postgres(payload, ret),
        (3306, true) => mysql(payload, ret),
        _ => {}
    }
    stun(payload, ret);
}

fn drawn(at: usize, end: usize, ret: &mut Vec<Span>) {
    if at < end {
        ret.push(Span { at, end, name: Vec::new(), kind: Kind::Address });
    }
}

/// Text as a name, other bytes as an address.
fn any(payload: &[u8], at: usize, end: usize, ret: &mut Vec<Span>) {
    let Some(bytes) = payload.get(at..end.min(payload.len())) else { return };
    if bytes.is_empty() || bytes.len() > NAME_MAX || !bytes.iter().all(|b| matches!(b, 0x20..0x7f)) {
        return drawn(at, at + bytes.len(), ret);
    }
    ret.push(Span { at, end: at + bytes.len(), name: bytes.to_vec(), kind: Kind::Text });
}

fn short(payload: &[u8], at: usize) -> Option<usize> {
    let bytes = payload.get(at..at + 2)?;
    Some(usize::from(u16::from_be_bytes([bytes[0], bytes[1]])))
}

/// The transaction's number, addresses of client, server and relay, the hardware's, names of server and file (RFC 2131, section 2),
/// then what options tell of hosts (RFC 2132).
fn dhcp(payload: &[u8], ret: &mut Vec<Span>) {
    let set = |at: usize| payload.get(at..at + 4).is_some_and(|bytes| bytes != [0; 4]);
    for at in [4, 12, 16, 20, 24] {
        if set(at) {
            drawn(at, at + 4, ret);
        }
    }
    let hardware = usize::from(*payload.get(2).unwrap_or(&0)).min(16);
    drawn(28, (28 + hardware).min(payload.len()), ret);
    let is_dhcp = payload.get(dhcp::COOKIE_AT..dhcp::OPTIONS_AT) == Some(&dhcp::COOKIE[..]);
    // Without options nothing says that what is drawn there becomes zeros.
    if is_dhcp || set(dhcp::NAMES_AT) {
        drawn(dhcp::NAMES_AT, payload.len().min(dhcp::COOKIE_AT), ret);
    }
    if is_dhcp {
        dhcp::options(payload).for_each(|(code, at, end)| dhcp_option(payload, code, at, end, ret));
    }
}

/// An option's value from `at` to `end`: addresses, names, whatever has no form that is known.
fn dhcp_option(payload: &[u8], code: u8, at: usize, end: usize, ret: &mut Vec<Span>) {
    match code {
        // A mask, times, numbers, what is asked for, and which program asks.
        1 | 2 | 13 | 19..=27 | 29..=31 | 34..=39 | 46 | 51..=53 | 55..=60 | 77 | 80 | 93 | 94 | 116 => {}
        // What kind of identifier it is stays, of RFC 4361 also what kind of unique one.
        dhcp::CLIENT_ID if payload[at..end].first() == Some(&0) => any(payload, at + 1, end, ret),
        dhcp::CLIENT_ID if payload[at..end].first() == Some(&255) && end - at > 7 => {
            drawn(at + 1, at + 5, ret);
            drawn(at + 7, end, ret);
        }
        dhcp::CLIENT_ID | 97 => drawn(at + 1, end, ret),
        // Flags and two bytes that are obsolete (RFC 4702, section 2).
        81 if payload[at] & 4 == 0 => any(payload, at + 3, end, ret),
        81 => drawn(at + 3, end, ret),
        12 | 14 | 15 | 17 | 40 | 47 | 62 | 64 | 66 | 67 | 100 | 101 | 114 | 160 | 252 if end - at > 1 => {
            any(payload, at, end, ret)
        }
        12 | 252 => {}
        _ => drawn(at, end, ret),
    }
}

/// All options but those that say what is asked, and for how long (RFC 8415, section 21): the others tell of hosts.
fn dhcpv6(payload: &[u8], ret: &mut Vec<Span>) {
    let mut at = if payload.first().is_some_and(|kind| matches!(kind, 12 | 13)) { 34 } else { 4 };
    if at == 34 {
        drawn(2, payload.len().min(34), ret);
    }
    while let (Some(kind), Some(len)) = (short(payload, at), short(payload, at + 2)) {
        if !matches!(kind, 6 | 7 | 8 | 14) {
            drawn(at + 4, payload.len().min(at + 4 + len), ret);
        }
        at += 4 + len;
    }
}

/// The server that a server has its time from (RFC 5905, section 7.3).
fn ntp(payload: &[u8], ret: &mut Vec<Span>) {
    if payload.len() >= 48 && payload[1] >= 2 {
        drawn(12, 16, ret);
    }
}

/// Attributes that tell who is meant, by whom, from where (RFC 2865, section 5).
fn radius(payload: &[u8], ret: &mut Vec<Span>) {
    let mut at = 20;
    while let Some(&[kind, len]) = payload.get(at..at + 2)
        && len >= 2
    {
        if !matches!(kind, 6 | 7 | 12 | 61) {
            any(payload, at + 2, at + usize::from(len), ret);
        }
        at += usize::from(len);
    }
}

/// Networks and next hops (RFC 2453, section 4).
fn routes(payload: &[u8], ret: &mut Vec<Span>) {
    for at in (4..payload.len().saturating_sub(19)).step_by(20) {
        for at in [at + 4, at + 12] {
            if payload[at..at + 4] != [0; 4] {
                drawn(at, at + 4, ret);
            }
        }
    }
}

/// Addresses and names in STUN (RFC 8489, section 14; RFC 8656, section 18), at any port.
fn stun(payload: &[u8], ret: &mut Vec<Span>) {
    if payload.len() < 20 || payload[0] & 0xc0 != 0 || payload[4..8] != [0x21, 0x12, 0xa4, 0x42] {
        return;
    }
    let mut at = 20;
    while let (Some(kind), Some(len)) = (short(payload, at), short(payload, at + 2)) {
        match kind {
            // The family stays.
            0x01 | 0x12 | 0x16 | 0x20 | 0x8023 | 0x802b | 0x802c => drawn(at + 6, payload.len().min(at + 4 + len), ret),
            0x06 | 0x08 | 0x14 | 0x15 => any(payload, at + 4, at + 4 + len, ret),
            _ => {}
        }
        at += 4 + len.next_multiple_of(4);
    }
}

/// What LDAP asks for whomever it asks (MS-ADTS, sections 3.1.1.3.2 and 6.3.3).
const ATTRIBUTES: [&str; 14] = [
    "objectclass",
    "Netlogon",
    "DnsDomain",
    "Host",
    "NtVer",
    "DomainSid",
    "DomainGuid",
    "User",
    "AAC",
    "krbtgt",
    "public",
    "supportedSASLMechanisms",
    "supportedLDAPVersion",
    "defaultNamingContext",
];

/// Strings, and addresses of SNMP (RFC 3416), in what is encoded by ASN.1's basic rules (X.690).
fn ber(payload: &[u8], mut at: usize, end: usize, depth: u8, ret: &mut Vec<Span>) {
    while at + 2 <= end && depth < 12 {
        let (tag, first) = (payload[at], usize::from(payload[at + 1]));
        let (len, body) = if first < 0x80 {
            (first, at + 2)
        } else {
            let count = first & 0x7f;
            let Some(bytes) = payload.get(at + 2..at + 2 + count).filter(|_| (1..=4).contains(&count)) else { return };
            (bytes.iter().fold(0, |n, b| n << 8 | usize::from(*b)), at + 2 + count)
        };
        // The segment may end before the string does.
        let next = body.saturating_add(len).min(end);
        let bytes = payload.get(body..next).unwrap_or_default();
        let is_text = bytes.len() >= 3 && bytes.iter().all(|b| matches!(b, 0x20..0x7f) || *b >= 0xc0);
        let is_public = bytes.iter().all(|b| b.is_ascii_digit() || *b == b'.')
            || ATTRIBUTES.iter().any(|a| a.as_bytes().eq_ignore_ascii_case(bytes));
        match tag {
            0x40 => drawn(body, next, ret),
            _ if tag & 0x20 != 0 => ber(payload, body, next, depth + 1, ret),
            0x04 | 0x0c | 0x13 | 0x16 | 0x1b | 0x80..=0x9f if is_text && !is_public => any(payload, body, next, ret),
            // A string in bytes: an engine's id, a hardware address.
            0x04 if bytes.len() >= 4 && !is_public => drawn(body, next, ret),
            _ => {}
        }
        at = next;
    }
}

/// Strings behind their length in two bytes, as MQTT has them (version 3.1.1, section 1.5.3): clients, users, topics.
fn counted(payload: &[u8], ret: &mut Vec<Span>) {
    let mut at = 2;
    while let Some(len) = short(payload, at) {
        let bytes = payload.get(at + 2..at + 2 + len).filter(|_| len >= 2);
        let Some(bytes) = bytes.filter(|bytes| bytes.iter().all(|b| matches!(b, 0x20..0x7f))) else {
            at += 1;
            continue;
        };
        if !matches!(bytes, b"MQTT" | b"MQIsdp") {
            any(payload, at + 2, at + 2 + len, ret);
        }
        at += 2 + len;
    }
}

/// The values of a startup message (PostgreSQL 16, section 55.7).
fn postgres(payload: &[u8], ret: &mut Vec<Span>) {
    if payload.get(4..8) != Some(&[0, 3, 0, 0]) {
        return;
    }
    let mut at = 8;
    for (i, text) in payload[8..].split(|b| *b == 0).enumerate() {
        if i % 2 == 1 {
            any(payload, at, at + text.len(), ret);
        }
        at += text.len() + 1;
    }
}

/// The user of a login (MySQL's protocol, HandshakeResponse41).
fn mysql(payload: &[u8], ret: &mut Vec<Span>) {
    if payload.get(3) == Some(&1) && payload.len() > 36 {
        let len = payload[36..].iter().take_while(|b| matches!(b, 0x20..0x7f)).count();
        any(payload, 36, 36 + len, ret);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(payload: &[u8], port: u16, is_tcp: bool) -> Vec<(usize, usize)> {
        let mut spans = Vec::new();
        find(payload, port, is_tcp, &mut spans);
        spans.iter().map(|s| (s.at, s.end)).collect()
    }

    #[test]
    fn fields_that_tell_who_somebody_is_are_found() {
        // A bind of a directory (RFC 4511, section 4.2): version, name, password.
        let bind = b"\x30\x1d\x02\x01\x01\x60\x18\x02\x01\x03\x04\x0bcn=anna,o=x\x80\x06secret";
        assert_eq!(found(bind, 389, true), [(12, 23), (25, 31)]);
        // A community (RFC 3416); the one that hosts come with stays.
        assert_eq!(found(b"\x30\x0c\x02\x01\x01\x04\x04corp\xa0\x01\0", 161, false), [(7, 11)]);
        assert_eq!(found(b"\x30\x0e\x02\x01\x01\x04\x06public\xa0\x01\0", 161, false), []);
        // A client that connects (MQTT 3.1.1, section 3.1).
        assert_eq!(found(b"\x10\x12\0\x04MQTT\x04\x02\0\x3c\0\x06device", 1883, true), [(14, 20)]);
        // A lease for a card.
        let mut lease = vec![0; 240];
        lease[..4].copy_from_slice(&[2, 1, 6, 0]);
        lease[16..20].copy_from_slice(&[192, 0, 2, 7]);
        assert_eq!(found(&lease, 67, false), [(16, 20), (28, 34)]);
        let stun = b"\x01\x01\0\x0c\x21\x12\xa4\x42aaaaaaaaaaaa\0\x20\0\x08\0\x01\x11\x22\x33\x44\x55\x66";
        assert_eq!(found(stun, 50_000, false), [(26, 32)]);
    }

    #[test]
    fn nonsense_is_read_to_its_end() {
        for len in 0..100 {
            let bytes: Vec<u8> = (0..len).map(|i| (i * 37 % 251) as u8).collect();
            for port in [67, 88, 123, 161, 389, 520, 547, 1812, 1883, 3306, 5432] {
                for is_tcp in [false, true] {
                    let spans = found(&bytes, port, is_tcp);
                    assert!(spans.iter().all(|s| s.0 < s.1 && s.1 <= bytes.len()), "{spans:?}");
                }
            }
        }
    }
}
