//! The head of a message of HTTP/1 (RFC 9112, sections 2 to 5), byte by byte: a line, fields, an empty line.
//!
//! A little stricter than the document: methods are known ones, a field's name is followed by a colon and a space, and its
//! value is printable. A request of version 1.1 says its host (section 3.2).

use super::super::exchange::Sym;
use crate::wire::http;

/// What a request ends with in its first line, and a response begins with.
const VERSION: &[u8; 7] = b"HTTP/1.";
/// A version, and the line's end.
const VERSION_LINE: u16 = VERSION.len() as u16 + 1 + 2;
/// Bytes of the shortest line with a field, `a: ` and the line's end.
const FIELD_MIN: u16 = 5;
/// Bytes of an empty line.
const EMPTY: u16 = 2;
/// Bytes from the beginning of a line on, where it has to say the host: `Host: ` and two lines' ends.
const HOST_MIN: u16 = 10;
const HOST: &[u8; 4] = b"host";
/// Bytes of a request's first line behind the method, and of the empty line: a space, what is asked for, a space, the version.
const BEHIND_METHOD: u16 = 1 + 1 + 1 + VERSION_LINE + EMPTY;
/// Methods with which a request can begin: those of [`application`](super::super::application).
pub(in super::super) static METHODS: [&str; 42] = [
    "GET",
    "POST",
    "HEAD",
    "PUT",
    "DELETE",
    "CONNECT",
    "OPTIONS",
    "TRACE",
    "PATCH",
    "ACL",
    "BASELINE-CONTROL",
    "BIND",
    "CHECKIN",
    "CHECKOUT",
    "COPY",
    "LABEL",
    "LINK",
    "LOCK",
    "MERGE",
    "MKACTIVITY",
    "MKCALENDAR",
    "MKCOL",
    "MKREDIRECTREF",
    "MKWORKSPACE",
    "MOVE",
    "ORDERPATCH",
    "PROPFIND",
    "PROPPATCH",
    "REBIND",
    "REPORT",
    "SEARCH",
    "UNBIND",
    "UNCHECKOUT",
    "UNLINK",
    "UNLOCK",
    "UPDATE",
    "UPDATEREDIRECTREF",
    "VERSION-CONTROL",
    "M-SEARCH",
    "NOTIFY",
    "SUBSCRIBE",
    "UNSUBSCRIBE",
];
const _: () = assert!(METHODS.len() <= 64);

/// What the next byte is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// A method of which so many letters are known, and which of [`METHODS`] it can still be, as bits.
    Method(u8, u64),
    /// What is asked for; whether any of it was said.
    Target(bool),
    /// The version behind it, and the line's end, of which so many bytes are known.
    Version(u8),
    /// A response's version, code and the space behind it, of which so many bytes are known.
    Status(u8),
    /// A reason, or a field's value.
    Value,
    /// The line's end, after its first byte.
    LineEnd,
    /// A line's beginning.
    Line,
    /// A field's name, and how much of `Host` it is.
    Name(Option<u8>),
    /// Behind the colon.
    Colon,
    /// The empty line, after its first byte.
    End,
    /// Behind it.
    Body,
}

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    state: State,
    /// Whether the host has still to be said.
    needs_host: bool,
    /// Of the method the first letter, or the code.
    begins: u16,
    /// Whether a tunnel is asked for.
    is_connect: bool,
}

impl Head {
    /// A request's, or a response's.
    pub(super) fn new(is_response: bool) -> Self {
        let state = if is_response { State::Status(0) } else { State::Method(0, u64::MAX >> (64 - METHODS.len())) };
        Self { state, needs_host: false, begins: 0, is_connect: false }
    }

    /// Whether it has been said to its end.
    pub(super) fn is_done(&self) -> bool {
        self.state == State::Body
    }

    /// Whether a body can follow it in its segment: behind a response's, and behind some requests'.
    pub(super) fn has_body(&self) -> bool {
        u8::try_from(self.begins).map_or(true, http::has_body)
    }

    /// Whether both sides say what they like behind it, or behind its answer: a tunnel, or another protocol (RFC 9110, section 15.2.2).
    pub(super) fn ends_http(&self) -> bool {
        self.is_connect || self.begins == 101
    }

    /// Whether drawn text can be all the rest of its segment, of `left` bytes: it is completed when it is rendered.
    pub(super) fn takes_rest(&self, left: u16) -> bool {
        self.state == State::Value && !self.needs_host && left >= 2 * EMPTY
    }

    /// In how many tokens it can be said to the end of the `left` bytes of its segment, if one token is one byte: with each of them,
    /// or on the shortest way to where all the rest may be drawn.
    pub(super) fn tokens_most(&self, left: u16) -> usize {
        // `a: `, or the host's line, behind which a value is.
        let line = if self.needs_host { HOST.len() + 2 } else { usize::from(FIELD_MIN) - 2 };
        let version = |n: u8| usize::from(VERSION_LINE) - usize::from(n) + HOST.len() + 2;
        let another = if self.needs_host { 2 + line } else { 0 };
        let before_value = match self.state {
            State::Body => return 0,
            State::End => return 1,
            State::Method(n, left) => {
                let shortest = methods(left).map(|method| method.len() - usize::from(n)).min();
                shortest.unwrap_or(0) + 3 + version(0)
            }
            State::Target(is_begun) => usize::from(!is_begun) + 1 + version(0),
            State::Version(n) => version(n),
            State::Status(n) => usize::from(STATUS_LEN) - usize::from(n),
            State::Value => another,
            State::LineEnd => 1 + line,
            State::Line => line,
            State::Name(Some(n)) if self.needs_host => HOST.len() - usize::from(n) + 2,
            State::Name(_) => 2 + another,
            State::Colon => 1 + another,
        };
        usize::from(left).min(before_value + 1)
    }

    /// Bytes that come at least.
    fn least(&self) -> u16 {
        let line = if self.needs_host { HOST_MIN } else { EMPTY };
        match self.state {
            State::Method(n, left) => {
                let shortest = methods(left).map(|method| method.len() as u16 - u16::from(n)).min();
                shortest.unwrap_or(u16::MAX - BEHIND_METHOD) + BEHIND_METHOD
            }
            State::Target(is_begun) => u16::from(!is_begun) + 1 + VERSION_LINE + EMPTY,
            State::Version(n) => VERSION_LINE - u16::from(n) + line,
            State::Status(n) => STATUS_LEN - u16::from(n) + 2 + EMPTY,
            State::Value => 2 + line,
            State::LineEnd => 1 + line,
            State::Line => line,
            State::Name(Some(n)) if self.needs_host => HOST_MIN - u16::from(n),
            State::Name(_) => FIELD_MIN - 1 + line,
            State::Colon => FIELD_MIN - 2 + if self.needs_host { HOST_MIN } else { EMPTY },
            State::End => 1,
            State::Body => 0,
        }
    }

    /// Whether it can end in the `left` bytes of its segment, with the last of them where nothing may follow it.
    pub(super) fn can_end(&self, left: u16) -> bool {
        if left < self.least() {
            return false;
        }
        let fills = !self.has_body();
        // Nothing is as long as some bytes more than an empty line.
        let is_line = |left: u16| !fills || left == EMPTY || left >= EMPTY + FIELD_MIN;
        match self.state {
            State::Body => !fills || left == 0,
            State::End => !fills || left == 1,
            State::Line if !self.needs_host => is_line(left),
            State::LineEnd if !self.needs_host => is_line(left - 1),
            State::Version(n) if !self.needs_host => is_line(left - (VERSION_LINE - u16::from(n))),
            // What is printable is as long as it likes.
            _ => true,
        }
    }

    /// Takes the next byte. False where it cannot come.
    pub(super) fn hear(&mut self, sym: Sym) -> bool {
        let next = match (self.state, sym) {
            (State::Body, _) => Some(State::Body),
            (State::Target(_), Sym::Text) => Some(State::Target(true)),
            (State::Value, Sym::Text) => Some(State::Value),
            (_, Sym::Known(b)) => self.after(b),
            _ => None,
        };
        self.state = next.unwrap_or(self.state);
        next.is_some()
    }

    fn after(&mut self, b: u8) -> Option<State> {
        let is_in_name = b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        let is_printable = (0x20..0x7f).contains(&b);
        Some(match self.state {
            State::Method(n, left) if b == b' ' => {
                let method = methods(left).find(|method| method.len() == usize::from(n))?;
                self.is_connect = method == "CONNECT";
                State::Target(false)
            }
            State::Method(n, left) => {
                let goes_on = |i: &usize| METHODS[*i].as_bytes().get(usize::from(n)) == Some(&b);
                let left = indices(left).filter(goes_on).fold(0, |set, i| set | 1 << i);
                if n == 0 {
                    self.begins = b.into();
                }
                (left > 0).then_some(State::Method(n + 1, left))?
            }
            State::Target(true) if b == b' ' => State::Version(0),
            State::Target(_) if is_printable && b != b' ' => State::Target(true),
            State::Version(n) => {
                match usize::from(n) {
                    n if n < VERSION.len() => (b == VERSION[n]).then_some(())?,
                    7 => {
                        self.needs_host = b == b'1';
                        matches!(b, b'0' | b'1').then_some(())?;
                    }
                    8 => (b == b'\r').then_some(())?,
                    _ => (b == b'\n').then_some(())?,
                }
                if n == 9 { State::Line } else { State::Version(n + 1) }
            }
            State::Status(n) => {
                match usize::from(n) {
                    n if n < VERSION.len() => (b == VERSION[n]).then_some(())?,
                    7 => matches!(b, b'0' | b'1').then_some(())?,
                    8 | 12 => (b == b' ').then_some(())?,
                    at => {
                        (b.is_ascii_digit() && (at > 9 || (b'1'..=b'5').contains(&b))).then_some(())?;
                        self.begins = self.begins * 10 + u16::from(b - b'0');
                    }
                }
                if u16::from(n) + 1 == STATUS_LEN { State::Value } else { State::Status(n + 1) }
            }
            State::Value if b == b'\r' => State::LineEnd,
            State::Value if is_printable || b == b'\t' => State::Value,
            State::LineEnd if b == b'\n' => State::Line,
            State::Line if b == b'\r' && !self.needs_host => State::End,
            State::Line if is_in_name => State::Name((b.to_ascii_lowercase() == HOST[0]).then_some(1)),
            State::Name(Some(n)) if b == b':' && usize::from(n) == HOST.len() => {
                self.needs_host = false;
                State::Colon
            }
            State::Name(_) if b == b':' => State::Colon,
            State::Name(n) if is_in_name => {
                let goes_on = |n: &u8| HOST.get(usize::from(*n)) == Some(&b.to_ascii_lowercase());
                State::Name(n.filter(goes_on).map(|n| n + 1))
            }
            State::Colon if b == b' ' => State::Value,
            State::End if b == b'\n' => State::Body,
            _ => return None,
        })
    }
}

/// The places whose bits are set.
fn indices(set: u64) -> impl Iterator<Item = usize> {
    (0..METHODS.len()).filter(move |i| set >> i & 1 == 1)
}

fn methods(set: u64) -> impl Iterator<Item = &'static str> {
    indices(set).map(|i| METHODS[i])
}

/// Bytes of a response's version and code, with the spaces behind them.
const STATUS_LEN: u16 = VERSION.len() as u16 + 1 + 1 + 3 + 1;

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(is_response: bool, text: &str) -> Option<Head> {
        let mut head = Head::new(is_response);
        text.bytes().all(|b| head.hear(Sym::Known(b))).then_some(head)
    }

    #[test]
    fn real_heads_are_taken_to_their_ends() {
        for (is_response, text, has_body) in [
            (false, "GET / HTTP/1.1\r\nHost: a\r\n\r\n", false),
            (false, "GET /a?b=%20 HTTP/1.0\r\n\r\n", false),
            (false, "POST /x HTTP/1.1\r\nAccept: */*\r\nHOST: a.example:8080\r\n\r\n", true),
            (false, "M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: \"ssdp:discover\"\r\n\r\n", false),
            (true, "HTTP/1.1 200 OK\r\nX_a: \t1\r\n\r\n", true),
            (true, "HTTP/1.0 404 \r\n\r\n", true),
        ] {
            let head = heard(is_response, text).unwrap_or_else(|| panic!("{text}"));
            assert!(head.is_done() && head.has_body() == has_body, "{text}");
        }
        for (is_response, text) in [
            (false, "GE "),
            (false, "GETS"),
            (false, "get"),
            (false, "GET  "),
            (false, "GET / HTTP/2"),
            (false, "GET / HTTP/1.1\r\n\r"),
            (false, "GET / HTTP/1.0\r\nno name"),
            (false, "GET / HTTP/1.0\r\nA:b"),
            (false, "GET / HTTP/1.0\r\nA: \x01"),
            (true, "HTTP/1.1 600"),
            (true, "HTTP/1.1 20x"),
        ] {
            assert_eq!(heard(is_response, text), None, "{text}");
        }
    }

    #[test]
    fn a_tunnel_and_another_protocol_end_http() {
        assert!(heard(false, "CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n").unwrap().ends_http());
        assert!(heard(true, "HTTP/1.1 101 Switching\r\n\r\n").unwrap().ends_http());
        assert!(!heard(true, "HTTP/1.1 200 OK\r\n\r\n").unwrap().ends_http());
    }

    #[test]
    fn whatever_can_end_in_its_segment_has_a_byte_that_leaves_it_so() {
        let known: Vec<u8> = (0..=255).collect();
        // By any way of bytes through all the states that are met, for all lengths.
        let mut met = vec![(Head::new(false), 60_u16), (Head::new(true), 60)];
        let mut seen = std::collections::BTreeSet::new();
        while let Some((head, left)) = met.pop() {
            assert!(head.can_end(left));
            if left == 0 || head.is_done() {
                assert!(head.is_done(), "{head:?}");
                continue;
            }
            let next: Vec<Head> = known
                .iter()
                .filter_map(|b| {
                    let mut next = head;
                    (next.hear(Sym::Known(*b)) && next.can_end(left - 1)).then_some(next)
                })
                .collect();
            assert!(!next.is_empty(), "{head:?} with {left} bytes left");
            // One of them, or drawn text, brings it nearer to its end.
            let is_nearer = next.iter().any(|next| next.tokens_most(left - 1) < head.tokens_most(left));
            assert!(is_nearer || head.takes_rest(left), "{head:?} with {left} bytes left");
            for next in next {
                // From long segments to short ones: a value can be as long as it likes.
                for left in [left - 1, (left - 1).min(24)] {
                    if next.can_end(left) && seen.insert(format!("{next:?} {left}")) {
                        met.push((next, left));
                    }
                }
            }
        }
        assert!(seen.len() > 1000, "{}", seen.len());
    }

    #[test]
    fn a_request_fills_its_segment() {
        let head = heard(false, "GET / HTTP/1.0\r\n").unwrap();
        assert_eq!((0..10).filter(|left| head.can_end(*left)).collect::<Vec<_>>(), [2, 7, 8, 9]);
        let head = heard(false, "PUT / HTTP/1.0\r\n").unwrap();
        assert_eq!((0..5).filter(|left| head.can_end(*left)).collect::<Vec<_>>(), [2, 3, 4]);
        let head = heard(false, "GET / HTTP/1.1\r\n").unwrap();
        assert_eq!((8..13).filter(|left| head.can_end(*left)).collect::<Vec<_>>(), [10, 11, 12]);
    }
}
