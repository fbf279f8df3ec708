//! Names of NetBIOS over TCP: in first-level encoding (RFC 1001, section 14.1), two letters from A to P for each character.

use super::{Kind, Span};

/// Letters of a name without its last character, which says what kind of name it is.
pub const NAME_LEN: usize = 30;

/// Names that identify nobody: the one that asks for any, the browsers', and the groups that hosts come with.
const PUBLIC: [&[u8]; 4] =
    [b"*\0\0\0\0\0\0\0\0\0\0\0\0\0\0", b"\x01\x02__MSBROWSE__\x02", b"WORKGROUP      ", b"MSHOME         "];

/// Adds the names of a message, and what it tells of addresses beside the headers.
pub(super) fn find(payload: &[u8], is_datagram: bool, ret: &mut Vec<Span>) {
    let drawn = |at: usize, end: usize| Span { at, end, name: Vec::new(), kind: Kind::Address };
    if is_datagram && payload.len() >= 14 {
        ret.push(drawn(4, 8)); // RFC 1002, section 4.4.1
    }
    let mut at = 0;
    while let Some(encoded) = payload.get(at + 1..at + 33) {
        if payload[at] != 0x20 || !encoded.iter().all(|b| matches!(b, b'A'..=b'P')) {
            at += 1;
            continue;
        }
        if !PUBLIC.contains(&&decoded(&encoded[..NAME_LEN])[..]) {
            let name = encoded[..NAME_LEN].to_vec();
            ret.push(Span { at: at + 1, end: at + 1 + NAME_LEN, name, kind: Kind::Text });
        }
        at += 34;
        // A record of addresses, or of a host's names (RFC 1002, sections 4.2.13 and 4.2.18).
        if let Some(&[0, kind @ (0x20 | 0x21), 0, 1, _, _, _, _, high, low]) = payload.get(at..at + 10) {
            let end = payload.len().min(at + 10 + usize::from(u16::from_be_bytes([high, low])));
            if kind == 0x20 {
                ret.extend((at + 12..end.saturating_sub(3)).step_by(6).map(|at| drawn(at, at + 4)));
            } else {
                let names = usize::from(*payload.get(at + 10).unwrap_or(&0));
                for at in (at + 11..end).step_by(18).take(names) {
                    ret.push(drawn(at, end.min(at + 15)));
                }
                let unit = at + 11 + 18 * names;
                ret.extend((unit < end).then(|| drawn(unit, end.min(unit + 6))));
            }
        }
    }
}

/// The characters of a name.
fn decoded(encoded: &[u8]) -> Vec<u8> {
    encoded.chunks_exact(2).map(|two| (two[0] - b'A') << 4 | (two[1] - b'A')).collect()
}

/// The same in two letters each.
pub fn encoded(name: &[u8]) -> impl Iterator<Item = u8> {
    name.iter().flat_map(|b| [b'A' + (b >> 4), b'A' + (b & 15)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_hosts_are_found_and_those_of_nobody_are_not() {
        // RFC 1001, section 14.1: "FRED", with spaces to its end.
        let fred: Vec<u8> = encoded(b"FRED            ").collect();
        assert_eq!(fred, b"EGFCEFEECACACACACACACACACACACACA");
        assert_eq!(decoded(&fred), b"FRED            ");
        let query = |name: &[u8]| [b"\x12\x34\x01\x10\0\x01\0\0\0\0\0\0\x20", name, b"\0\0\x20\0\x01"].concat();
        let mut spans = Vec::new();
        find(&query(&fred), false, &mut spans);
        assert_eq!(spans, [Span { at: 13, end: 43, name: fred[..30].to_vec(), kind: Kind::Text }]);
        spans.clear();
        for name in [b"*\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", b"WORKGROUP      \x1d", b"\x01\x02__MSBROWSE__\x02\x01"] {
            find(&query(&encoded(name).collect::<Vec<_>>()), false, &mut spans);
        }
        assert_eq!(spans, []);
        // An answer with an address.
        let answer = b"\0\0\x20\0\x01\0\0\0\x05\0\x06\0\0\xc0\0\x02\x07";
        find(&[b"\x12\x34\x85\0\0\0\0\x01\0\0\0\0\x20", &fred[..], answer].concat(), false, &mut spans);
        assert_eq!((spans.len(), spans[1].at, spans[1].end), (2, 58, 62));
    }
}
