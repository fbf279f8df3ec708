//! The payload of a packet: literal at the beginning of a message, repeated where an earlier one was alike, drawn elsewhere.

use super::super::super::Token;
use super::super::facts;
use super::super::vocab::{RUN_MAX, TLS_TYPES, Tok};
use super::super::walk::Stage;
use super::Encoder;
use crate::wire::dhcp;
use crate::wire::names::{self, Carrier, Kind, Span, dns, tls};
use crate::wire::parse::{Frame, Transport};

/// Bytes at the beginning of a message that are said literally: of text, of anything else, of a record with a hello of TLS. Of other
/// messages of a handshake the head is, as certificates tell who has them and tickets are secrets.
const LITERAL_TEXT: usize = 512;
const LITERAL_BINARY: usize = 64;
const LITERAL_HELLO: usize = 4096;
/// Shortest run that is worth a `same` or a `peer`.
const RUN_MIN: usize = 3;
/// Bytes that are looked at to tell whether they are random, how many of them have to differ, and how many can be
/// printable. Of 16 random bytes 15.5 differ and 6 are printable on average.
const RANDOM_WINDOW: usize = 16;
const RANDOM_DISTINCT: usize = 14;
const RANDOM_PRINTABLE: usize = 10;

impl Encoder<'_> {
    pub(super) fn payload(&mut self, frame: &Frame<'_>, ret: &mut Vec<Token>) {
        let (slot, me, is_message, known) = {
            let a = self.walk.action();
            (usize::from(a.slot), usize::from(!a.from_orig), a.is_message, usize::from(a.len_known))
        };
        let data = facts::payload(frame).get(known..).unwrap_or_default();
        let is_tcp = matches!(frame.transport, Transport::Tcp(_));
        if matches!(frame.transport, Transport::Icmp) && is_icmp_error(frame) {
            return self.say(Tok::Quote, ret);
        }
        let (carrier, ports) = match frame.transport {
            Transport::Tcp(tcp) => (Carrier::Tcp(tcp.src_port, tcp.dst_port), [tcp.src_port, tcp.dst_port]),
            Transport::Udp { src_port, dst_port } => (Carrier::Udp(src_port, dst_port), [src_port, dst_port]),
            Transport::Icmp => (Carrier::Icmp(frame.payload[0], frame.ip.src.is_ipv6()), [0; 2]),
        };
        let is_dhcp =
            !is_tcp && dhcp::is_dhcp(ports) && data.get(dhcp::COOKIE_AT..dhcp::OPTIONS_AT) == Some(&dhcp::COOKIE);
        let is_dns = ports.into_iter().any(names::is_dns);
        let is_new = self.walk.action().opens.is_some();
        // Taken out, so that they can be read while tokens are said; put back at the end.
        let messages = if is_new { <[Vec<u8>; 2]>::default() } else { std::mem::take(&mut self.facts[slot].messages) };
        let (own, other) = (&messages[me][..], &messages[1 - me][..]);
        let (mut spans, can_be_told) = match self.keep_names || !is_message {
            true => (Vec::new(), usize::MAX),
            false => {
                let addresses = self.addresses(frame);
                let found = names::find(data, carrier, &addresses.iter().map(Vec::as_slice).collect::<Vec<_>>());
                (found.spans, found.literal_end)
            }
        };
        spans.reverse();

        // The header, and in front of it over TCP the length.
        let question = if is_tcp { 14 } else { 12 };
        let question_end = if is_dns && is_message { dns::repeated_question(data, other, question - 12) } else { None };

        let is_text = names::is_text(data);
        let mut literal_end = match (is_message, is_dns, is_text) {
            (false, ..) => 0,
            (true, true, _) => can_be_told,
            (true, ..) if is_dhcp => can_be_told,
            (true, _, true) => LITERAL_TEXT.min(can_be_told),
            (true, _, false) => LITERAL_BINARY.min(can_be_told),
        };
        let (mut run, mut hello_end) = (Vec::new(), 0);
        while self.walk.stage == Stage::Pieces {
            let at = usize::from(self.walk.current.done);
            let limit = usize::from(self.walk.limit());
            spans.truncate(spans.iter().rposition(|s| s.end > at).map_or(0, |p| p + 1));
            // A question that was repeated is behind it.
            if let Some(span) = spans.last_mut().filter(|s| s.at < at) {
                (span.at, span.kind) = (at, Kind::Address);
            }
            let rest = &data[at.min(data.len())..];
            let record_left = usize::from(self.walk.current.record_left);
            if is_tcp
                && record_left == 0
                && (at == 0 || self.walk.current.framed)
                && let Some((tok, len)) = tls_header(rest)
            {
                self.flush(&mut run);
                self.say(tok, ret);
                if len == usize::from(self.walk.current.left) - 5 {
                    self.say(Tok::RecRest, ret);
                } else {
                    self.say_short(len as u16, ret);
                }
                let record = &rest[..rest.len().min(5 + len)];
                let is_plain = matches!(tok, Tok::Tls(2, _)) && is_handshake(&record[5..]);
                let hello = if is_plain { tls::hello(record) } else { None };
                let literal = match &hello {
                    Some(hello) => hello.end.min(LITERAL_HELLO),
                    None if is_plain => 5 + 4,
                    // An alert, or a change.
                    None => 5 + if len <= 2 { len } else { 0 },
                };
                literal_end = at + literal;
                hello_end = if hello.is_some() { literal_end } else { 0 };
                if is_plain && !self.keep_names {
                    spans = hello.map_or_else(|| names::find_in_handshake(record), |hello| hello.spans);
                    spans.iter_mut().for_each(|s| (s.at, s.end) = (s.at + at, s.end + at));
                    spans.reverse();
                }
                continue;
            }
            let visible = &rest[..rest.len().min(limit)];
            if visible.is_empty() || at >= literal_end {
                self.flush(&mut run);
                let tok = match visible {
                    [] => Tok::OpaqueRest,
                    v if v.iter().all(|b| *b == 0) => Tok::ZeroRest,
                    v if record_left == 0 && names::is_text(v) => Tok::TextRest,
                    _ => Tok::OpaqueRest,
                };
                self.say(tok, ret);
                continue;
            }
            if let Some(end) = question_end.filter(|end| at == question && end - at <= limit) {
                self.flush(&mut run);
                self.run(false, end - at, limit, ret);
                continue;
            }
            let span_at = spans.last().map_or(usize::MAX, |s| s.at - at);
            let same = common(visible, own.get(at..).unwrap_or_default());
            let peer = common(visible, other.get(at..).unwrap_or_default());
            // An identifier that stands where it stood before is the same one again.
            let is_again =
                span_at == 0 && spans.last().is_some_and(|s| s.kind == Kind::Address && s.end - at <= same.max(peer));
            if span_at == 0 && !is_again {
                let span = spans.last_mut().expect("just seen");
                self.flush(&mut run);
                // One that goes on behind the record, or the segment, cannot be said as what it is.
                if span.end - at > limit {
                    let part = Span { at, end: at + limit, name: Vec::new(), kind: Kind::Address };
                    self.identifier(&part, ret);
                } else {
                    let span = spans.pop().expect("just seen");
                    self.identifier(&span, ret);
                }
                continue;
            }
            // Of a hello nothing else is copied, as its fields have lengths of their own.
            let is_hello = at < hello_end;
            let reach = match spans.last() {
                Some(span) if is_again && is_hello => span.end - at,
                _ if is_again => visible.len(),
                // What is repeated of a question is said by itself.
                _ if question_end.is_some() && at < question => span_at.min(question - at),
                _ => span_at,
            };
            let visible = &visible[..visible.len().min(reach)];
            let (same, peer) = (same.min(visible.len()), peer.min(visible.len()));
            let longest = same.max(peer);
            // An answer of DNS begins with the number of its question, over TCP behind its length.
            let is_answer = is_dns && at == (if is_tcp { 2 } else { 0 }) && peer == 2 && same < peer;
            let is_run = !is_hello && (longest >= RUN_MIN || longest >= 1 && longest == limit);
            if is_run || is_again || is_answer {
                self.flush(&mut run);
                self.run(same >= peer, longest, limit, ret);
                continue;
            }
            // What is random in a hello, in a message of DNS or of DHCP was found with its names.
            let random = if is_hello || is_dhcp || is_dns && !self.keep_names { 0 } else { random_run(visible) };
            if random > 0 {
                self.flush(&mut run);
                if random == limit {
                    self.say(Tok::OpaqueRest, ret);
                } else {
                    self.say(Tok::Opaque(random.min(RUN_MAX) as u8), ret);
                }
                continue;
            }
            if !is_hello
                && let (Some(&[a, b]), [x, y, ..]) = (own.get(at..at + 2), visible)
                && u16::from_be_bytes([a, b]).wrapping_add(1) == u16::from_be_bytes([*x, *y])
            {
                self.flush(&mut run);
                self.say(Tok::Inc2, ret);
                continue;
            }
            let literal = &visible[..visible.len().min(literal_end - at)];
            let (tok, len) = match self.dictionary.longest(literal) {
                Some((i, len)) => (Tok::Str(i), len),
                None => (Tok::Byte(visible[0]), 1),
            };
            if self.runs.is_some() {
                run.extend_from_slice(&visible[..len]);
            }
            self.say(tok, ret);
        }
        self.flush(&mut run);
        if !is_new {
            self.facts[slot].messages = messages;
        }
    }

    fn flush(&mut self, run: &mut Vec<u8>) {
        if let Some(runs) = &mut self.runs
            && run.len() >= 2
        {
            runs.push(std::mem::take(run));
        }
        run.clear();
    }

    /// A run of `len` bytes as in this side's last message, or in the other's.
    fn run(&mut self, own: bool, len: usize, limit: usize, ret: &mut Vec<Token>) {
        if len == limit {
            return self.say(if own { Tok::SameRest } else { Tok::PeerRest }, ret);
        }
        let mut left = len;
        while left > 0 {
            let n = left.min(RUN_MAX) as u8;
            self.say(if own { Tok::Same(n) } else { Tok::Peer(n) }, ret);
            left -= usize::from(n);
        }
    }
}

/// Whether an ICMP message quotes the packet that it is about (RFC 792; RFC 4443, section 2.1).
fn is_icmp_error(frame: &Frame<'_>) -> bool {
    let kind = frame.payload[0];
    if frame.ip.src.is_ipv4() { matches!(kind, 3 | 4 | 5 | 11 | 12) } else { matches!(kind, 1..=4) }
}

/// A TLS record header (RFC 8446, section 5.1), whole, and the length of the record.
fn tls_header(bytes: &[u8]) -> Option<(Tok, usize)> {
    let &[kind, 3, minor @ (1 | 3), high, low, ..] = bytes else { return None };
    let i = TLS_TYPES.iter().position(|t| *t == kind)?;
    let len = usize::from(u16::from_be_bytes([high, low]));
    (1..=16_640).contains(&len).then_some((Tok::Tls(i as u8, minor), len))
}

/// Whether a record's body begins like a handshake message in the clear (RFC 8446, section 4).
fn is_handshake(body: &[u8]) -> bool {
    matches!(body, [0..=24, 0, ..] | [0..=24])
}

fn common(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// Bytes at the beginning that look random: none, or at least a window.
fn random_run(bytes: &[u8]) -> usize {
    let mut len = 0;
    let mut windows = bytes.chunks_exact(RANDOM_WINDOW).peekable();
    while let Some(window) = windows.next_if(|w| is_random(w)) {
        len += window.len();
    }
    // What is left of a message that is random throughout.
    if len >= RANDOM_WINDOW && bytes.len() - len < RANDOM_WINDOW && windows.peek().is_none() {
        bytes.len()
    } else {
        len
    }
}

fn is_random(window: &[u8]) -> bool {
    let mut seen = [0u64; 4];
    let mut printable = 0;
    for b in window {
        seen[usize::from(b >> 6)] |= 1 << (b & 63);
        printable += usize::from(matches!(b, 0x20..0x7f));
    }
    let distinct: u32 = seen.iter().map(|s| s.count_ones()).sum();
    distinct as usize >= RANDOM_DISTINCT && printable <= RANDOM_PRINTABLE
}
