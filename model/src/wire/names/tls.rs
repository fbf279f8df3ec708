//! The name of the server in a TLS handshake.

use super::{Kind, NAME_MAX, Span};

/// The server name in a ClientHello (RFC 6066, section 3) that lies in the first record; as far as the segment has it.
pub(super) fn server_name(payload: &[u8]) -> Option<Span> {
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
            let end = (name + short(at + 7)?).min(payload.len());
            let text = payload.get(name..end)?;
            let is_name = !text.is_empty() && text.len() <= NAME_MAX && byte(at + 6)? == 0;
            return is_name.then(|| Span { at: name, end, name: text.to_vec(), kind: Kind::Text });
        }
        at += 4 + len;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_is_found_also_where_the_segment_ends_in_it() {
        // RFC 8446, section 4.1.2, with one cipher suite, and one extension (RFC 6066, section 3).
        let hello = [
            &b"\x16\x03\x01\0\x48\x01\0\0\x44\x03\x03"[..],
            &[7; 32],
            b"\0\0\x02\x13\x01\x01\0\0\x15\0\0\0\x11\0\x0f\0\0\x0cshop.example",
        ]
        .concat();
        let name = server_name(&hello).unwrap();
        assert_eq!((&name.name[..], name.end), (&b"shop.example"[..], hello.len()));
        let cut = server_name(&hello[..hello.len() - 5]).unwrap();
        assert_eq!((&cut.name[..], cut.end), (&b"shop.ex"[..], hello.len() - 5));
    }
}
