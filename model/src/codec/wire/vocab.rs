//! The numbering of tokens: ranges of consecutive ids, one for each kind of decision.

use super::super::{LabelId, Token};
use super::outlook::{ENDS, Ends, Outlook, SIZES};

/// Flows that a session can have open at once.
pub(super) const SLOTS: usize = 32;
/// Segment bounds that a retransmission or a late acknowledgement can point at.
pub(super) const BOUNDS: usize = 48;
/// Hosts and names of a session that later flows can refer to.
pub(super) const HOSTS: usize = 16;
/// Names of a session that can be referred to.
pub(super) const NAMES: usize = 8;
/// Longest run that one `same`, `peer` or `opaque` token covers; `rest` covers any.
pub(super) const RUN_MAX: usize = 32;
/// Classes of the TCP window: 0, then eight for each power of two.
pub(super) const WINDOWS: usize = 112;
/// Ports that have a token of their own (IANA's service names).
pub(super) const PORTS: [u16; 56] = [
    20, 21, 22, 23, 25, 53, 67, 68, 69, 80, 88, 110, 111, 119, 123, 135, 137, 138, 139, 143, 161, 162, 179, 389, 443,
    445, 465, 500, 502, 514, 546, 547, 554, 587, 636, 853, 993, 995, 1194, 1433, 1883, 1900, 3306, 3389, 3478, 4500,
    5060, 5061, 5222, 5353, 5355, 5683, 8080, 8443, 8801, 8883,
];
/// Types of TLS records (RFC 8446, section 5.1; 24 is RFC 6520's).
pub(super) const TLS_TYPES: [u8; 5] = [20, 21, 22, 23, 24];

/// What a flow is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proto {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP, or ICMPv6.
    Icmp,
}

/// A token, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tok {
    /// A byte: an operand, or literal payload.
    Byte(u8),
    /// Time since the packet before: 0, or the bit length of its nanoseconds.
    GapE(u8),
    /// The six bits after the leading one.
    GapM(u8),
    /// The gap is negative.
    Back,
    /// A packet of the flow in a slot; true when its opener sent it.
    Flow(u8, bool),
    /// The first packet of a flow.
    Open(Proto, bool),
    /// Responder's port, by index into [`PORTS`].
    Port(u8),
    /// Responder's port is ephemeral.
    PortEph,
    /// Responder's port follows in two bytes.
    PortNum,
    /// Opener's port is ephemeral.
    SportEph,
    /// Opener's port is the responder's.
    SportSame,
    /// Opener's port follows in two bytes.
    SportNum,
    /// A responder that the session has not seen.
    HostNew,
    /// A responder of an earlier flow, 0 the latest.
    HostRef(u8),
    /// A group address, which follows in 4 or 16 bytes.
    HostGroup,
    /// The client network's broadcast address.
    HostBcast,
    /// Time to live follows in a byte.
    Ttl,
    /// DSCP and ECN follow in a byte.
    Tos,
    /// Don't fragment changes.
    Df,
    /// The identification changes between zero and counting.
    IdMode,
    /// The segment lies beyond a hole, whose length follows in two bytes.
    SeqHole,
    /// One before the next sequence number: a keep-alive.
    SeqKeep,
    /// Begins at an earlier segment bound, 0 the latest.
    SeqRe(u8),
    /// The TCP flags.
    Flags(u8),
    /// Acknowledges what it did before.
    AckSame,
    /// Acknowledges up to an earlier segment bound of the other side.
    AckLag(u8),
    /// Window class.
    Win(u8),
    /// Maximum segment size, two bytes follow.
    Mss,
    /// Window scale, a byte follows.
    Ws,
    /// SACK permitted.
    SackOk,
    /// Timestamps.
    Ts,
    /// No operation.
    Nop,
    /// End of the option list.
    Eol,
    /// SACK with this many blocks.
    Sack(u8),
    /// Another option: kind and length follow in two bytes, its content is opaque.
    OptOther,
    /// No options at all.
    OptNone,
    /// No payload.
    Len0,
    /// The longest payload that this side has sent.
    LenMax,
    /// As long as this side's last payload.
    LenSame,
    /// This many times 256 and the byte that follows.
    LenHi(u8),
    /// Payload length in two bytes.
    LenBig,
    /// Bytes as in this side's last message at the same place.
    Same(u8),
    /// The same, up to the end.
    SameRest,
    /// Bytes as in the other side's last message at the same place.
    Peer(u8),
    /// The same, up to the end.
    PeerRest,
    /// The two bytes of this side's last message, as a number, plus one.
    Inc2,
    /// Bytes that nobody can foretell.
    Opaque(u8),
    /// The same, up to the end.
    OpaqueRest,
    /// Text, up to the end.
    TextRest,
    /// Zeros, up to the end.
    ZeroRest,
    /// An IPv4 address in text of 7 to 15 characters.
    Quad(u8),
    /// A name new to the session, in text; its length follows in a byte.
    TextName,
    /// A name of the session, in text; 0 the latest.
    TextRef(u8),
    /// A new name as DNS labels, without the final zero; the length of its text follows in a byte.
    DnsName,
    /// A name of the session as DNS labels.
    DnsRef(u8),
    /// The packet that an ICMP error is about, up to the end.
    Quote,
    /// A TLS record header: type by index into [`TLS_TYPES`], minor version 1 or 3; its length follows.
    Tls(u8, u8),
    /// The TLS record ends with the segment.
    RecRest,
    /// A string of the dictionary.
    Str(u16),
    /// How the flow that opens ends.
    Ends(Ends),
    /// Class of how many packets it has.
    Size(u8),
    /// Bytes that make the packet the captured one: a length in three bytes, then the patch.
    Fix,
    /// A packet without structure: a length in three bytes, then link type, length on the wire and bytes.
    Raw,
    /// End of the sample.
    End,
    /// Label of the sample.
    Label(LabelId),
}

macro_rules! ranges {
    ($($name:ident = $len:expr),+ $(,)?) => {
        #[allow(non_camel_case_types, clippy::upper_case_acronyms, missing_docs)]
        #[derive(Clone, Copy)]
        enum R { $($name),+ }
        const LENS: &[usize] = &[$($len),+];
        const ALL: &[R] = &[$(R::$name),+];
    };
}

ranges! {
    Byte = 256, GapE = 64, GapM = 64, Back = 1, Flow = 2 * SLOTS, Open = 6, Port = PORTS.len(), PortEph = 1,
    PortNum = 1, SportEph = 1, SportSame = 1, SportNum = 1, HostNew = 1, HostRef = HOSTS, HostGroup = 1, HostBcast = 1,
    Ttl = 1, Tos = 1, Df = 1, IdMode = 1, SeqHole = 1, SeqKeep = 1, SeqRe = BOUNDS, Flags = 256, AckSame = 1,
    AckLag = BOUNDS, Win = WINDOWS, Mss = 1, Ws = 1, SackOk = 1, Ts = 1, Nop = 1, Eol = 1, Sack = 4, OptOther = 1,
    OptNone = 1, Len0 = 1, LenMax = 1, LenSame = 1, LenHi = 8, LenBig = 1, Same = RUN_MAX, SameRest = 1,
    Peer = RUN_MAX, PeerRest = 1, Inc2 = 1, Opaque = RUN_MAX, OpaqueRest = 1, TextRest = 1, ZeroRest = 1, Quad = 9,
    TextName = 1, TextRef = NAMES, DnsName = 1, DnsRef = NAMES, Quote = 1, Tls = 2 * TLS_TYPES.len(), RecRest = 1,
    Fix = 1, Raw = 1, End = 1,
}

const fn starts() -> [u32; LENS.len() + 1] {
    let mut ret = [0; LENS.len() + 1];
    let mut i = 0;
    while i < LENS.len() {
        ret[i + 1] = ret[i] + LENS[i] as u32;
        i += 1;
    }
    ret
}

const STARTS: [u32; LENS.len() + 1] = starts();
/// Tokens before the dictionary and the labels.
pub(super) const FIXED: usize = STARTS[LENS.len()] as usize;

const fn range_of() -> [u8; FIXED] {
    let mut ret = [0; FIXED];
    let mut r = 0;
    while r < LENS.len() {
        let mut i = STARTS[r];
        while i < STARTS[r + 1] {
            ret[i as usize] = r as u8;
            i += 1;
        }
        r += 1;
    }
    ret
}

static RANGE_OF: [u8; FIXED] = range_of();

/// Ids: the fixed ranges, then `strings` strings of the dictionary, then what is told of flows, then `labels` labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Vocab {
    /// Strings of the dictionary.
    pub(super) strings: usize,
    /// Whether there are tokens for what is told of a flow where it opens.
    pub(super) foretells: bool,
    /// Labels.
    pub(super) labels: usize,
}

impl Vocab {
    /// Number of tokens.
    pub(super) fn size(self) -> usize {
        self.first_label() + self.labels
    }

    fn first_label(self) -> usize {
        FIXED + self.strings + if self.foretells { ENDS.len() + SIZES } else { 0 }
    }

    /// The id of a token.
    pub(super) fn id(self, tok: Tok) -> Token {
        let (range, at) = match tok {
            Tok::Byte(b) => (R::Byte, u32::from(b)),
            Tok::GapE(e) => (R::GapE, u32::from(e)),
            Tok::GapM(m) => (R::GapM, u32::from(m)),
            Tok::Back => (R::Back, 0),
            Tok::Flow(slot, from_orig) => (R::Flow, 2 * u32::from(slot) + u32::from(!from_orig)),
            Tok::Open(proto, v6) => (R::Open, 2 * proto as u32 + u32::from(v6)),
            Tok::Port(i) => (R::Port, u32::from(i)),
            Tok::PortEph => (R::PortEph, 0),
            Tok::PortNum => (R::PortNum, 0),
            Tok::SportEph => (R::SportEph, 0),
            Tok::SportSame => (R::SportSame, 0),
            Tok::SportNum => (R::SportNum, 0),
            Tok::HostNew => (R::HostNew, 0),
            Tok::HostRef(i) => (R::HostRef, u32::from(i)),
            Tok::HostGroup => (R::HostGroup, 0),
            Tok::HostBcast => (R::HostBcast, 0),
            Tok::Ttl => (R::Ttl, 0),
            Tok::Tos => (R::Tos, 0),
            Tok::Df => (R::Df, 0),
            Tok::IdMode => (R::IdMode, 0),
            Tok::SeqHole => (R::SeqHole, 0),
            Tok::SeqKeep => (R::SeqKeep, 0),
            Tok::SeqRe(k) => (R::SeqRe, u32::from(k)),
            Tok::Flags(f) => (R::Flags, u32::from(f)),
            Tok::AckSame => (R::AckSame, 0),
            Tok::AckLag(k) => (R::AckLag, u32::from(k)),
            Tok::Win(c) => (R::Win, u32::from(c)),
            Tok::Mss => (R::Mss, 0),
            Tok::Ws => (R::Ws, 0),
            Tok::SackOk => (R::SackOk, 0),
            Tok::Ts => (R::Ts, 0),
            Tok::Nop => (R::Nop, 0),
            Tok::Eol => (R::Eol, 0),
            Tok::Sack(n) => (R::Sack, u32::from(n) - 1),
            Tok::OptOther => (R::OptOther, 0),
            Tok::OptNone => (R::OptNone, 0),
            Tok::Len0 => (R::Len0, 0),
            Tok::LenMax => (R::LenMax, 0),
            Tok::LenSame => (R::LenSame, 0),
            Tok::LenHi(h) => (R::LenHi, u32::from(h)),
            Tok::LenBig => (R::LenBig, 0),
            Tok::Same(n) => (R::Same, u32::from(n) - 1),
            Tok::SameRest => (R::SameRest, 0),
            Tok::Peer(n) => (R::Peer, u32::from(n) - 1),
            Tok::PeerRest => (R::PeerRest, 0),
            Tok::Inc2 => (R::Inc2, 0),
            Tok::Opaque(n) => (R::Opaque, u32::from(n) - 1),
            Tok::OpaqueRest => (R::OpaqueRest, 0),
            Tok::TextRest => (R::TextRest, 0),
            Tok::ZeroRest => (R::ZeroRest, 0),
            Tok::Quad(n) => (R::Quad, u32::from(n) - 7),
            Tok::TextName => (R::TextName, 0),
            Tok::TextRef(i) => (R::TextRef, u32::from(i)),
            Tok::DnsName => (R::DnsName, 0),
            Tok::DnsRef(i) => (R::DnsRef, u32::from(i)),
            Tok::Quote => (R::Quote, 0),
            Tok::Tls(i, minor) => (R::Tls, 2 * u32::from(i) + u32::from(minor == 3)),
            Tok::RecRest => (R::RecRest, 0),
            Tok::Fix => (R::Fix, 0),
            Tok::Raw => (R::Raw, 0),
            Tok::End => (R::End, 0),
            Tok::Str(i) => return Token(FIXED as u32 + u32::from(i)),
            Tok::Ends(ends) => return Token((FIXED + self.strings) as u32 + ends as u32),
            Tok::Size(size) => return Token((FIXED + self.strings + ENDS.len()) as u32 + u32::from(size)),
            Tok::Label(l) => return Token(self.first_label() as u32 + u32::from(l.0)),
        };
        Token(STARTS[range as usize] + at)
    }

    /// The token of an id; `None` beyond the vocabulary.
    pub(super) fn tok(self, token: Token) -> Option<Tok> {
        let id = token.0 as usize;
        if id >= FIXED {
            let at = id - FIXED;
            let Some(told) = at.checked_sub(self.strings) else { return Some(Tok::Str(at as u16)) };
            return match id.checked_sub(self.first_label()) {
                None => {
                    Some(ENDS.get(told).map_or_else(|| Tok::Size((told - ENDS.len()) as u8), |ends| Tok::Ends(*ends)))
                }
                Some(label) => (label < self.labels).then_some(Tok::Label(LabelId(label as u16))),
            };
        }
        let range = ALL[usize::from(RANGE_OF[id])];
        let at = (token.0 - STARTS[range as usize]) as u8;
        Some(match range {
            R::Byte => Tok::Byte(at),
            R::GapE => Tok::GapE(at),
            R::GapM => Tok::GapM(at),
            R::Back => Tok::Back,
            R::Flow => Tok::Flow(at / 2, at.is_multiple_of(2)),
            R::Open => Tok::Open([Proto::Tcp, Proto::Udp, Proto::Icmp][usize::from(at / 2)], at % 2 == 1),
            R::Port => Tok::Port(at),
            R::PortEph => Tok::PortEph,
            R::PortNum => Tok::PortNum,
            R::SportEph => Tok::SportEph,
            R::SportSame => Tok::SportSame,
            R::SportNum => Tok::SportNum,
            R::HostNew => Tok::HostNew,
            R::HostRef => Tok::HostRef(at),
            R::HostGroup => Tok::HostGroup,
            R::HostBcast => Tok::HostBcast,
            R::Ttl => Tok::Ttl,
            R::Tos => Tok::Tos,
            R::Df => Tok::Df,
            R::IdMode => Tok::IdMode,
            R::SeqHole => Tok::SeqHole,
            R::SeqKeep => Tok::SeqKeep,
            R::SeqRe => Tok::SeqRe(at),
            R::Flags => Tok::Flags(at),
            R::AckSame => Tok::AckSame,
            R::AckLag => Tok::AckLag(at),
            R::Win => Tok::Win(at),
            R::Mss => Tok::Mss,
            R::Ws => Tok::Ws,
            R::SackOk => Tok::SackOk,
            R::Ts => Tok::Ts,
            R::Nop => Tok::Nop,
            R::Eol => Tok::Eol,
            R::Sack => Tok::Sack(at + 1),
            R::OptOther => Tok::OptOther,
            R::OptNone => Tok::OptNone,
            R::Len0 => Tok::Len0,
            R::LenMax => Tok::LenMax,
            R::LenSame => Tok::LenSame,
            R::LenHi => Tok::LenHi(at),
            R::LenBig => Tok::LenBig,
            R::Same => Tok::Same(at + 1),
            R::SameRest => Tok::SameRest,
            R::Peer => Tok::Peer(at + 1),
            R::PeerRest => Tok::PeerRest,
            R::Inc2 => Tok::Inc2,
            R::Opaque => Tok::Opaque(at + 1),
            R::OpaqueRest => Tok::OpaqueRest,
            R::TextRest => Tok::TextRest,
            R::ZeroRest => Tok::ZeroRest,
            R::Quad => Tok::Quad(at + 7),
            R::TextName => Tok::TextName,
            R::TextRef => Tok::TextRef(at),
            R::DnsName => Tok::DnsName,
            R::DnsRef => Tok::DnsRef(at),
            R::Quote => Tok::Quote,
            R::Tls => Tok::Tls(at / 2, if at % 2 == 1 { 3 } else { 1 }),
            R::RecRest => Tok::RecRest,
            R::Fix => Tok::Fix,
            R::Raw => Tok::Raw,
            R::End => Tok::End,
        })
    }
}

/// What a token of the fixed part is called in `tokenizer.json` and in transcripts. No white space, no two alike.
pub(super) fn name(tok: Tok) -> String {
    match tok {
        Tok::Byte(b) => format!("{b:02x}"),
        Tok::GapE(e) => format!("gap:{e}"),
        Tok::GapM(m) => format!("gap:/{m}"),
        Tok::Back => "back".into(),
        Tok::Flow(slot, from_orig) => format!("flow:{slot}{}", if from_orig { '>' } else { '<' }),
        Tok::Open(proto, v6) => {
            let proto = match proto {
                Proto::Tcp => "tcp",
                Proto::Udp => "udp",
                Proto::Icmp => "icmp",
            };
            format!("open:{proto}{}", if v6 { 6 } else { 4 })
        }
        Tok::Port(i) => format!("port:{}", PORTS[usize::from(i)]),
        Tok::PortEph => "port:eph".into(),
        Tok::PortNum => "port:num".into(),
        Tok::SportEph => "sport:eph".into(),
        Tok::SportSame => "sport:same".into(),
        Tok::SportNum => "sport:num".into(),
        Tok::HostNew => "host:new".into(),
        Tok::HostRef(i) => format!("host:{i}"),
        Tok::HostGroup => "host:group".into(),
        Tok::HostBcast => "host:bcast".into(),
        Tok::Ttl => "ttl".into(),
        Tok::Tos => "tos".into(),
        Tok::Df => "df:flip".into(),
        Tok::IdMode => "id:flip".into(),
        Tok::SeqHole => "seq:hole".into(),
        Tok::SeqKeep => "seq:keepalive".into(),
        Tok::SeqRe(k) => format!("seq:re{k}"),
        Tok::Flags(f) => {
            let letters = "FSRPAUEW".chars().enumerate().filter(|(i, _)| f >> i & 1 == 1).map(|(_, c)| c);
            format!("flags:{}", letters.collect::<String>())
        }
        Tok::AckSame => "ack:same".into(),
        Tok::AckLag(k) => format!("ack:lag{k}"),
        Tok::Win(c) => format!("win:{}", window(c)),
        Tok::Mss => "mss".into(),
        Tok::Ws => "ws".into(),
        Tok::SackOk => "sackok".into(),
        Tok::Ts => "ts".into(),
        Tok::Nop => "nop".into(),
        Tok::Eol => "eol".into(),
        Tok::Sack(n) => format!("sack{n}"),
        Tok::OptOther => "opt:other".into(),
        Tok::OptNone => "opt:none".into(),
        Tok::Len0 => "len:0".into(),
        Tok::LenMax => "len:max".into(),
        Tok::LenSame => "len:same".into(),
        Tok::LenHi(h) => format!("len:{h}*256"),
        Tok::LenBig => "len:num".into(),
        Tok::Same(n) => format!("same:{n}"),
        Tok::SameRest => "same:rest".into(),
        Tok::Peer(n) => format!("peer:{n}"),
        Tok::PeerRest => "peer:rest".into(),
        Tok::Inc2 => "inc2".into(),
        Tok::Opaque(n) => format!("opaque:{n}"),
        Tok::OpaqueRest => "opaque:rest".into(),
        Tok::TextRest => "text:rest".into(),
        Tok::ZeroRest => "zero:rest".into(),
        Tok::Quad(n) => format!("quad:{n}"),
        Tok::TextName => "name:new".into(),
        Tok::TextRef(i) => format!("name:{i}"),
        Tok::DnsName => "dns:new".into(),
        Tok::DnsRef(i) => format!("dns:{i}"),
        Tok::Quote => "quote".into(),
        Tok::Tls(i, minor) => format!("tls:{}:03{minor:02}", TLS_TYPES[usize::from(i)]),
        Tok::RecRest => "record:rest".into(),
        Tok::Fix => "fix".into(),
        Tok::Raw => "raw".into(),
        Tok::End => "<|endoftext|>".into(),
        Tok::Str(i) => format!("str:{i}"),
        Tok::Ends(ends) => format!("ends:{}", ends.name()),
        Tok::Size(size) => format!("packets:{}", Outlook { ends: Ends::Open, size }.least()),
        Tok::Label(l) => format!("label:{}", l.0),
    }
}

/// The class of a window: 0 alone, then an eighth of an octave each.
pub(super) fn window_class(window: u16) -> u8 {
    match u32::from(window) {
        0 => 0,
        w @ 1..8 => w as u8,
        w => {
            let octave = w.ilog2(); // 3 to 15
            (8 * (octave - 2) + (w >> (octave - 3) & 7)) as u8
        }
    }
}

/// The smallest window of a class.
pub(super) fn window(class: u8) -> u16 {
    match u32::from(class) {
        c @ 0..8 => c as u16,
        c => ((8 + c % 8) << (c / 8 - 1)).min(0xffff) as u16,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn ids_and_tokens_are_one_to_one_and_names_differ() {
        for foretells in [false, true] {
            let vocab = Vocab { strings: 3, foretells, labels: 2 };
            let mut names = HashSet::new();
            for id in 0..vocab.size() as u32 {
                let tok = vocab.tok(Token(id)).expect("in the vocabulary");
                assert_eq!(vocab.id(tok), Token(id), "{tok:?}");
                assert!(names.insert(name(tok)), "{tok:?}");
                assert!(!name(tok).contains(char::is_whitespace));
            }
            assert_eq!(vocab.tok(Token(vocab.size() as u32)), None);
        }
    }

    #[test]
    fn a_window_lies_in_its_class() {
        for w in 0..=u16::MAX {
            let class = window_class(w);
            assert!(window(class) <= w && usize::from(class) < WINDOWS, "{w}");
            assert!(f64::from(w - window(class)) <= f64::from(w) / 8.0, "{w}");
        }
    }
}
