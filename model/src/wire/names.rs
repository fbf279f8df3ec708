//! Where identifiers stand in a payload: DNS names, the SNI of a TLS handshake, the Host of an HTTP request, IPv4
//! addresses in text. They are replaced, so that captured names do not come out again.

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
    /// Bytes that are an address: drawn anew.
    Address,
}

/// Longest name (RFC 1035, section 2.3.4).
const NAME_MAX: usize = 253;

/// The identifiers of a payload that begins a message, in order, none overlapping.
pub fn find(payload: &[u8], is_dns: bool, is_tcp: bool) -> Vec<Span> {
    let mut ret = Vec::new();
    if is_dns {
        dns(payload, if is_tcp { 2 } else { 0 }, &mut ret);
    } else if is_tcp && payload.first() == Some(&22) {
        ret.extend(sni(payload));
    } else {
        if is_tcp && is_text(payload) {
            ret.extend(host(payload));
        }
        quads(payload, &mut ret);
    }
    ret.sort_by_key(|s| s.at);
    let mut end = 0;
    ret.retain(|s| {
        let keep = s.at >= end;
        if keep {
            end = s.end;
        }
        keep
    });
    ret
}

/// Whether bytes are mostly printable.
pub fn is_text(bytes: &[u8]) -> bool {
    let head = &bytes[..bytes.len().min(256)];
    let printable = head.iter().filter(|b| matches!(b, b'\t' | b'\r' | b'\n' | 0x20..0x7f)).count();
    !head.is_empty() && printable * 20 >= head.len() * 19
}

/// Names and addresses of a DNS message (RFC 1035, section 4).
fn dns(message: &[u8], start: usize, ret: &mut Vec<Span>) {
    let Some(header) = message.get(start..start + 12) else { return };
    let count = |i: usize| usize::from(u16::from_be_bytes([header[i], header[i + 1]]));
    let (questions, records) = (count(4), count(6) + count(8) + count(10));
    let mut at = start + 12;
    for i in 0..(questions + records).min(64) {
        let Some(after) = dns_name(message, at, ret) else { return };
        if i < questions {
            at = after + 4;
            continue;
        }
        let Some(fixed) = message.get(after..after + 10) else { return };
        let kind = u16::from_be_bytes([fixed[0], fixed[1]]);
        let len = usize::from(u16::from_be_bytes([fixed[8], fixed[9]]));
        let data = after + 10;
        match kind {
            1 | 28 => ret.extend((len >= 4 && data + len <= message.len()).then(|| Span {
                at: data,
                end: data + len,
                name: Vec::new(),
                kind: Kind::Address,
            })),
            2 | 5 | 12 => drop(dns_name(message, data, ret)),
            6 => drop(dns_name(message, data, ret).and_then(|at| dns_name(message, at, ret))),
            15 => drop(dns_name(message, data + 2, ret)),
            33 => drop(dns_name(message, data + 6, ret)),
            _ => {}
        }
        at = data + len;
    }
}

/// Adds the labels at `at`; returns where the name ends.
fn dns_name(message: &[u8], at: usize, ret: &mut Vec<Span>) -> Option<usize> {
    let mut p = at;
    let mut name = Vec::new();
    let mut is_service = false;
    loop {
        let len = usize::from(*message.get(p)?);
        if len == 0 || len >= 0xc0 {
            // Service types say what an application does; everything else says who it is.
            is_service |= name.is_empty() || name.len() > NAME_MAX || name == b"local";
            if !is_service {
                ret.push(Span { at, end: p, name, kind: Kind::Labels });
            }
            return Some(p + if len == 0 { 1 } else { 2 });
        }
        if len > 63 {
            return None;
        }
        let label = message.get(p + 1..p + 1 + len)?;
        is_service |= label[0] == b'_';
        if !name.is_empty() {
            name.push(b'.');
        }
        name.extend_from_slice(label);
        p += 1 + len;
    }
}

/// The server name in a ClientHello (RFC 6066, section 3) that lies in the first record.
fn sni(payload: &[u8]) -> Option<Span> {
    let byte = |at: usize| payload.get(at).map(|b| usize::from(*b));
    let short = |at: usize| Some(byte(at)? << 8 | byte(at + 1)?);
    if byte(5)? != 1 {
        return None;
    }
    let mut at = 43; // record header, handshake header, version, random
    at += 1 + byte(at)?;
    at += 2 + short(at)?;
    at += 1 + byte(at)?;
    at += 2;
    loop {
        let (kind, len) = (short(at)?, short(at + 2)?);
        if kind == 0 {
            let name = at + 9;
            let end = name + short(at + 7)?;
            let text = payload.get(name..end)?;
            let is_name = !text.is_empty() && text.len() <= NAME_MAX && byte(at + 6)? == 0;
            return is_name.then(|| Span { at: name, end, name: text.to_vec(), kind: Kind::Text });
        }
        at += 4 + len;
    }
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

    #[test]
    fn names_are_found_where_protocols_put_them() {
        // A query for www.example.com, and an answer by pointer.
        let mut message = b"\x12\x34\x81\x80\0\x01\0\x01\0\0\0\0\x03www\x07example\x03com\0\0\x01\0\x01".to_vec();
        message.extend_from_slice(b"\xc0\x0c\0\x01\0\x01\0\0\0\x05\0\x04\x5d\xb8\xd8\x22");
        let found = find(&message, true, false);
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!((found[0].at, found[0].end, &found[0].name[..]), (12, 28, &b"www.example.com"[..]));
        assert_eq!((found[1].kind, found[1].end - found[1].at), (Kind::Address, 4));

        let request = b"GET / HTTP/1.1\r\nHost: shop.example:8080\r\nX-From: 192.0.2.17\r\n\r\n";
        let found = find(request, false, true);
        assert_eq!(found.iter().map(|s| s.kind).collect::<Vec<_>>(), [Kind::Text, Kind::Quad]);
        assert_eq!(&request[found[0].at..found[0].end], b"shop.example");
    }

    #[test]
    fn nonsense_is_no_name() {
        for len in 0..64 {
            let bytes: Vec<u8> = (0..len).map(|i| (i * 37 % 251) as u8).collect();
            for (is_dns, is_tcp) in [(true, false), (true, true), (false, true), (false, false)] {
                find(&bytes, is_dns, is_tcp);
            }
        }
    }
}
