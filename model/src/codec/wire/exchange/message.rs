//! The messages that are followed byte by byte, of whichever protocol: one door for all of them.
//!
//! Each says which byte may come next so that the message ends where its datagram does. Whatever was heard so far, some byte can follow,
//! down to the last.

use super::super::dns::message::{self as dns, Dialect, Names};
use super::super::vocab::RUN_MAX;
use super::{coap, dhcp, isakmp, netbios};
use crate::wire::isakmp::PORTS as ISAKMP;

/// A byte of a message as far as it is known before it is rendered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Sym {
    /// This one.
    Known(u8),
    /// Drawn: any.
    Drawn,
    /// A byte of a name that is drawn in text.
    Text,
    /// The first byte of the labels of a name that is drawn, without the end; so many follow.
    Name(u8),
    /// Another byte of them.
    InName,
}

/// Where a byte comes from: the packet's own tokens, or the last message of its sender or of the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Source {
    Said,
    Own,
    Peer,
}

/// Whose rules hold at a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Protocol {
    Dns(Dialect),
    /// Over TCP, each message behind its length.
    DnsOverTcp,
    Coap,
    Dhcp,
    NetBios,
    /// True behind NAT.
    Isakmp(bool),
}

impl Protocol {
    /// The rules that hold at a responder's port.
    pub(in super::super) fn at(port: u16) -> Option<Self> {
        match port {
            53 => Some(Self::Dns(Dialect::Unicast)),
            5353 => Some(Self::Dns(Dialect::Multicast)),
            5355 => Some(Self::Dns(Dialect::Link)),
            coap::PORT => Some(Self::Coap),
            dhcp::PORT => Some(Self::Dhcp),
            netbios::PORT => Some(Self::NetBios),
            port if ISAKMP.contains(&port) => Some(Self::Isakmp(port == ISAKMP[1])),
            _ => None,
        }
    }

    /// The rules that hold in connections of TCP to a port.
    pub(super) fn over_tcp(port: u16) -> Option<Self> {
        (port == 53).then_some(Self::DnsOverTcp)
    }

    /// Whether an answer repeats what the last message of the other side asked.
    pub(super) fn repeats(self) -> bool {
        !matches!(self, Self::Dns(Dialect::Multicast) | Self::Dhcp | Self::NetBios)
    }

    /// The port of the servers that send to a port of their clients, from whichever port they do.
    pub(super) fn server_of(port: u16) -> Option<u16> {
        (port == dhcp::CLIENT_PORT).then_some(dhcp::PORT)
    }

    /// A message of `len` bytes, of the flow's responder or its opener, that answers a question that ended at `echo`; 0 where that is
    /// not known.
    pub(super) fn message(self, names: Names, is_reply: bool, len: u16, echo: u16) -> Message {
        match self {
            Self::Dns(dialect) => Message::Dns(dns::Message::new(dialect, names, is_reply, len).answering(echo)),
            Self::DnsOverTcp => Message::Framed(Framed::new(names, is_reply, len, echo)),
            Self::Coap => Message::Coap(coap::Message::new(is_reply, len, echo)),
            Self::Dhcp => Message::Dhcp(dhcp::Message::new(is_reply, len)),
            Self::NetBios => Message::NetBios(netbios::Message::new(len)),
            Self::Isakmp(is_behind_nat) => Message::Isakmp(isakmp::Message::new(is_behind_nat, is_reply, len, echo)),
        }
    }

    /// Lengths that messages have, of which `told` bytes can be told in two tokens each, and `most` sent.
    pub(super) fn lengths(self, is_reply: bool, echo: u16, told: u32, most: u32) -> [(u32, u32); 2] {
        match self {
            Self::Dns(_) => dns::Message::lengths(is_reply, echo, told),
            Self::DnsOverTcp => {
                // Its own two bytes take two tokens.
                let lengths = dns::Message::lengths(is_reply, echo, told.saturating_sub(1));
                lengths.map(|(from, to)| (from + FRAME_LEN, to + FRAME_LEN))
            }
            Self::Coap => coap::Message::lengths(echo, told),
            Self::Dhcp => dhcp::Message::lengths(told, most),
            Self::NetBios => netbios::Message::lengths(is_reply, told),
            Self::Isakmp(is_behind_nat) => isakmp::Message::lengths(is_behind_nat, most),
        }
    }
}

/// A message as far as it was heard.
// It is copied for every look ahead, where a box would be allocated; most are of DNS.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Clone, Copy)]
pub(super) enum Message {
    Dns(dns::Message),
    Framed(Framed),
    Coap(coap::Message),
    Dhcp(dhcp::Message),
    NetBios(netbios::Message),
    Isakmp(isakmp::Message),
}

/// Bytes of the length before a message of DNS over TCP (RFC 1035, section 4.2.2).
const FRAME_LEN: u32 = 2;

/// A message of DNS behind its length.
#[derive(Debug, Clone, Copy)]
pub(super) struct Framed {
    length: [u8; FRAME_LEN as usize],
    /// Bytes of the length that were heard.
    heard: usize,
    message: dns::Message,
}

impl Framed {
    /// One that fills `len` bytes with its length.
    fn new(names: Names, is_reply: bool, len: u16, echo: u16) -> Self {
        let len = len.saturating_sub(FRAME_LEN as u16);
        let message = dns::Message::new(Dialect::Unicast, names, is_reply, len).answering(echo);
        Self { length: len.to_be_bytes(), heard: 0, message }
    }

    /// Bytes of the length that are to come.
    fn length_left(&self) -> usize {
        self.length.len() - self.heard
    }

    fn hear(&mut self, sym: Sym, source: Source) -> bool {
        let Some(byte) = self.length.get(self.heard) else { return self.message.hear(sym, source) };
        self.heard += 1;
        sym == Sym::Known(*byte)
    }

    fn allows(&self, sym: Sym, source: Source) -> bool {
        match self.length.get(self.heard) {
            Some(byte) => sym == Sym::Known(*byte),
            None => self.message.allows(sym, source),
        }
    }

    fn is_done(&self) -> bool {
        self.length_left() == 0 && self.message.is_done()
    }

    fn free(&self) -> u16 {
        if self.length_left() > 0 { 0 } else { self.message.free() }
    }

    fn pass(&mut self, n: u16) {
        self.message.pass(n);
    }
}

/// Calls the same of whichever message it is.
macro_rules! each {
    ($self:ident, $message:ident => $call:expr) => {
        match $self {
            Message::Dns($message) => $call,
            Message::Framed($message) => $call,
            Message::Coap($message) => $call,
            Message::Dhcp($message) => $call,
            Message::NetBios($message) => $call,
            Message::Isakmp($message) => $call,
        }
    };
}

impl Message {
    /// Takes the next byte. False where it cannot come.
    pub(super) fn hear(&mut self, sym: Sym, source: Source) -> bool {
        each!(self, message => message.hear(sym, source))
    }

    /// Whether this can be the next byte.
    pub(super) fn allows(&self, sym: Sym, source: Source) -> bool {
        each!(self, message => message.allows(sym, source))
    }

    /// Whether the message is complete.
    pub(super) fn is_done(&self) -> bool {
        each!(self, message => message.is_done())
    }

    /// So many bytes come of which nothing is asked.
    pub(super) fn free(&self) -> u16 {
        each!(self, message => message.free())
    }

    /// Takes `n` of them, but not the last.
    pub(super) fn pass(&mut self, n: u16) {
        each!(self, message => message.pass(n));
    }

    /// Where the question ended that an answer repeats; 0 where there was none.
    pub(super) fn question_end(&self) -> u16 {
        match self {
            Self::Dns(message) | Self::Framed(Framed { message, .. }) => message.question_end(),
            Self::Coap(message) => message.question_end(),
            Self::Isakmp(message) => message.question_end(),
            Self::Dhcp(_) | Self::NetBios(_) => 0,
        }
    }

    /// In how many tokens the rest of the message can be said at most: a name in text of one byte takes two.
    pub(super) fn tokens_most(&self) -> usize {
        match self {
            Self::Dns(message) | Self::Framed(Framed { message, .. }) => {
                let (said, repeated) = message.still_to_come();
                let length = if let Self::Framed(framed) = self { framed.length_left() } else { 0 };
                length + 2 * usize::from(said) + usize::from(repeated).div_ceil(RUN_MAX)
            }
            Self::Coap(message) => 2 * usize::from(message.left()),
            Self::Dhcp(message) => message.tokens_most(),
            Self::NetBios(message) => message.tokens_most(),
            Self::Isakmp(message) => message.tokens_most(),
        }
    }

    /// Bytes of the question that come next without a break.
    pub(super) fn still_to_repeat(&self) -> u16 {
        match self {
            Self::Dns(message) => message.still_to_repeat(),
            Self::Framed(framed) if framed.length_left() > 0 => 0,
            Self::Framed(framed) => framed.message.still_to_repeat(),
            Self::Coap(message) => message.still_to_repeat(),
            Self::Isakmp(message) => message.still_to_repeat(),
            Self::Dhcp(_) | Self::NetBios(_) => 0,
        }
    }

    /// Bytes that come next and are drawn, or copied, in as few tokens as there can be.
    pub(super) fn at_once(&self) -> u16 {
        if let Self::Dhcp(message) = self { message.at_once() } else { 0 }
    }

    /// Whether its rest may be drawn as a whole wherever that is allowed, so that few tokens are enough to end it.
    pub(super) fn ends_at_will(&self) -> bool {
        matches!(self, Self::Isakmp(_))
    }

    /// Whether the next byte comes from inside a drawn name: then a token may end here only where another goes on alike.
    pub(super) fn is_inside_name(&self) -> bool {
        match self {
            Self::Dns(message) | Self::Framed(Framed { message, .. }) => message.is_inside_name(),
            Self::Coap(_) | Self::Dhcp(_) | Self::Isakmp(_) => false,
            Self::NetBios(message) => message.is_inside_name(),
        }
    }

    /// Bytes of a name in text that may come next, at least and at most, where the place decides that.
    pub(super) fn text(&self) -> Option<(u16, u16)> {
        match self {
            Self::Dns(message) | Self::Framed(Framed { message, .. }) => message.label_of_text().map(|most| (1, most)),
            Self::Coap(_) => None,
            Self::Dhcp(message) => message.text().map(|len| (len, len)),
            Self::NetBios(message) => message.text().map(|len| (len, len)),
            Self::Isakmp(message) => Some((1, message.free())),
        }
    }
}

/// The port that promises messages which a datagram goes to or comes from, and whether it is one of the form that generated ones have.
pub(in super::super) fn judge(src_port: u16, dst_port: u16, payload: &[u8]) -> Option<(u16, bool)> {
    let at_server = [dst_port, src_port].into_iter().find(|port| Protocol::at(*port).is_some());
    let server = Protocol::server_of(dst_port);
    let port = at_server.or(server)?;
    let can_be = |is_reply| is_message(port, is_reply, payload);
    // Servers that talk to each other do so between these ports.
    let is_message = dst_port == port && can_be(false) || (src_port == port || server == Some(port)) && can_be(true);
    Some((port, is_message))
}

/// Whether a payload is a message of the responder, or the opener, of a flow to `port`.
pub(in super::super) fn is_message(port: u16, is_reply: bool, payload: &[u8]) -> bool {
    let (Some(protocol), Ok(len)) = (Protocol::at(port), u16::try_from(payload.len())) else { return false };
    let mut message = protocol.message(Names::Literal, is_reply, len, 0);
    message = match message {
        Message::Dns(dns) => Message::Dns(dns.with_any_option()),
        Message::Coap(coap) => Message::Coap(coap.with_any_option()),
        Message::Dhcp(dhcp) => Message::Dhcp(dhcp.with_any_option()),
        Message::Isakmp(isakmp) => Message::Isakmp(isakmp.with_any_payload()),
        message => message,
    };
    payload.iter().all(|b| message.hear(Sym::Known(*b), Source::Said)) && message.is_done()
}
