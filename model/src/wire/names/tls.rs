//! What tells of hosts and connections in a TLS handshake.

use super::{Kind, NAME_MAX, Span};

/// Where a hello lies in the first record of `payload`, and what in it is an identifier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Where it ends, which may be beyond what the segment has.
    pub end: usize,
    /// The server's name, and what is as random as an address: random bytes, sessions, tickets, keys.
    pub spans: Vec<Span>,
}

/// The hello that a record begins with (RFC 8446, sections 4.1.2 and 4.1.3), if it does.
pub fn hello(record: &[u8]) -> Option<Hello> {
    let is_server = match record.get(5)? {
        1 => false,
        2 => true,
        _ => return None,
    };
    let number = |at: usize| record.get(at..at + 2).map(|b| usize::from(b[0]) << 8 | usize::from(b[1]));
    let end = 9 + (usize::from(*record.get(6)?) << 16 | number(7)?);
    let mut ret = Hello { end, spans: Vec::new() };
    // As far as it can be read; a segment may end anywhere in it.
    let _ = fields(record, is_server, end, &mut ret.spans);
    Some(ret)
}

/// Adds the identifiers; `None` where the fields are no more to be followed.
fn fields(record: &[u8], is_server: bool, end: usize, ret: &mut Vec<Span>) -> Option<()> {
    let visible = end.min(record.len());
    let byte = |at: usize| record.get(at).map(|b| usize::from(*b));
    let short = |at: usize| Some(byte(at)? << 8 | byte(at + 1)?);
    let mut drawn = |at: usize, to: usize| {
        let to = to.min(visible);
        if at < to {
            ret.push(Span { at, end: to, name: Vec::new(), kind: Kind::Address });
        }
    };
    drawn(11, 43);
    let session = byte(43)?;
    drawn(44, 44 + session);
    let mut at = 44 + session;
    at += if is_server { 3 } else { 2 + short(at)? };
    at += if is_server { 0 } else { 1 + byte(at)? };
    at += 2;
    let mut names = Vec::new();
    while at + 4 <= visible {
        let (kind, from, to) = (short(at)?, at + 4, at + 4 + short(at + 2)?);
        match kind {
            0 if !is_server && to > from => {
                let (name, name_end) = (from + 5, (from + 5 + short(from + 3)?).min(visible).min(to));
                let text = record.get(name..name_end)?;
                let is_name = !text.is_empty() && text.len() <= NAME_MAX && byte(from + 2)? == 0;
                if is_name {
                    names.push(Span { at: name, end: name_end, name: text.to_vec(), kind: Kind::Text });
                } else {
                    drawn(name, name_end);
                }
            }
            51 if is_server => drawn(from + 4, to),
            51 => {
                let mut key = from + 2;
                while key + 4 <= to.min(visible) {
                    let len = short(key + 2)?;
                    drawn(key + 4, key + 4 + len);
                    key += 4 + len;
                }
            }
            0
            | 5
            | 10
            | 11
            | 13
            | 16
            | 18
            | 21..=23
            | 27
            | 28
            | 42
            | 43
            | 45
            | 49
            | 50
            | 13172
            | 17513
            | 30032
            | 65281 => {}
            // Tickets, keys that are shared, whatever else there is.
            _ => drawn(from, to),
        }
        at = to;
    }
    ret.extend(names);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8446, section 4.1.2, with one cipher suite, and one extension (RFC 6066, section 3).
    fn client() -> Vec<u8> {
        let extension = b"\0\0\x02\x13\x01\x01\0\0\x15\0\0\0\x11\0\x0f\0\0\x0cshop.example";
        [&b"\x16\x03\x01\0\x44\x01\0\0\x40\x03\x03"[..], &[7; 32], extension].concat()
    }

    #[test]
    fn the_server_is_found_also_where_the_segment_ends_in_it() {
        let record = client();
        let found = hello(&record).unwrap();
        assert_eq!(found.end, record.len());
        let spans: Vec<_> = found.spans.iter().map(|s| (s.at, s.end, s.kind, &s.name[..])).collect();
        let len = record.len();
        assert_eq!(spans, [(11, 43, Kind::Address, &b""[..]), (len - 12, len, Kind::Text, b"shop.example")]);
        let cut = hello(&record[..len - 5]).unwrap();
        assert_eq!((cut.end, &cut.spans[1].name[..], cut.spans[1].end), (len, &b"shop.ex"[..], len - 5));
    }

    #[test]
    fn keys_sessions_and_tickets_are_found() {
        let extensions = b"\0\x1c\0\x2b\0\x02\x03\x04\0\x33\0\x06\0\x1d\0\x02kk\0\x23\0\x03ttt\0\x17\0\0";
        let body = [&b"\x03\x03"[..], &[7; 32], b"\x02ss\x13\x01\0", extensions].concat();
        let head = [0x16, 3, 3, 0, body.len() as u8 + 4, 2, 0, 0, body.len() as u8];
        let record = [&head[..], &body].concat();
        let found: Vec<_> = hello(&record).unwrap().spans.iter().map(|s| record[s.at..s.end].to_vec()).collect();
        assert_eq!(found, [vec![7; 32], b"ss".to_vec(), b"kk".to_vec(), b"ttt".to_vec()]);
        for len in 0..record.len() {
            hello(&record[..len]);
        }
    }
}
