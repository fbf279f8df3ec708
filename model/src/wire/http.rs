//! HTTP/1 (RFC 9112): how a head ends that is not said to its end.

/// Ends a head: that of its last field's line, and an empty one.
const END: &[u8; 4] = b"\r\n\r\n";

/// Whether a request whose method begins with this letter can have a body: those by GET, HEAD, DELETE, OPTIONS, TRACE, and of UPnP
/// M-SEARCH, SUBSCRIBE and UNSUBSCRIBE, have none.
pub fn has_body(first: u8) -> bool {
    !b"GHDOTMSU".contains(&first)
}

/// Ends the head that is under way where, from `drawn_from` on, a payload is drawn text: at once where a body can follow, else with the
/// payload. What is no such head stays as it is.
pub fn end_head(payload: &mut [u8], drawn_from: usize) {
    let Some((said, drawn)) = payload.split_at_mut_checked(drawn_from) else { return };
    let line = said.split(|b| *b == b'\r').next().unwrap_or_default();
    let is_request = [b" HTTP/1.0", b" HTTP/1.1"].into_iter().any(|version| line.ends_with(version));
    let is_response = line.starts_with(b"HTTP/1.");
    let is_ended =
        said.windows(END.len()).any(|window| window == END) || said.ends_with(b"\n") || said.ends_with(b"\r");
    if is_ended || drawn.len() < END.len() || !(is_request || is_response) {
        return;
    }
    let at = if is_response || has_body(line[0]) { 0 } else { drawn.len() - END.len() };
    let (value, rest) = drawn.split_at_mut(at);
    value.iter_mut().filter(|b| b.is_ascii_control()).for_each(|b| *b = b' ');
    rest[..END.len()].copy_from_slice(END);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(said: &str, drawn: &str) -> String {
        let mut payload = [said, drawn].concat().into_bytes();
        end_head(&mut payload, said.len());
        String::from_utf8(payload).unwrap()
    }

    #[test]
    fn a_head_ends_where_it_can() {
        let said = "GET / HTTP/1.1\r\nCookie: a";
        assert_eq!(ended(said, "b\nc def"), format!("{said}b c\r\n\r\n"));
        let said = "POST / HTTP/1.1\r\nCookie: a";
        assert_eq!(ended(said, "b\nc def"), format!("{said}\r\n\r\ndef"));
        let said = "HTTP/1.1 200 OK\r\nServer: a";
        assert_eq!(ended(said, "b\nc\ndef"), format!("{said}\r\n\r\ndef"));
    }

    #[test]
    fn what_is_no_head_under_way_stays() {
        for said in
            ["HTTP/1.1 200 OK\r\n\r\nbody", "hello", "GET /", "GET / HTTP/1.1\r\n", "", "SIP/2.0 200 OK\r\nTo: "]
        {
            assert_eq!(ended(said, "drawn\ntext"), format!("{said}drawn\ntext"));
        }
        assert_eq!(ended("GET / HTTP/1.1\r\nA: ", "abc"), "GET / HTTP/1.1\r\nA: abc");
    }
}
