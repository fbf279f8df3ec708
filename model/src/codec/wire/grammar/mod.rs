//! Which tokens may come next, so that every frame is valid and every TCP flow consistent without repair.
//!
//! [`Walk`] takes whatever has a meaning; this allows only what a correct sender would do. Whatever was taken so far,
//! something is allowed, and a sample ends in time.

mod lengths;
mod mask;
mod outlook;
mod pieces;
mod system;
mod tcp;

use std::sync::Arc;

use self::mask::Mask;
use super::super::{Grammar, LabelId, Token};
use super::application::Application;
use super::exchange::Exchanges;
use super::habits::{self, Habits};
use super::handshake::Handshakes;
use super::http::{self, Heads};
use super::side::MESSAGE_MAX;
use super::steps::gap_parts;
use super::talk::{Departures, Talks};
use super::vocab::{HOSTS, PORTS, Proto, SLOTS, Tok};
use super::walk::{Operand, Slot, Stage, Walk, rank};
use super::{Plans, WireCodec};

/// Tokens that the longest packet header can take, and the payload that is said in the fewest: below this no packet is
/// begun.
const PACKET_TOKENS: usize = 112;
/// Below this a packet under way is brought to its end.
const CLOSING_TOKENS: usize = 32;
/// Longest gap between packets: an hour has 42 bits of nanoseconds.
const GAP_BITS: u8 = 42;

/// The grammar of generated samples.
pub(super) struct Strict {
    walk: Walk,
    talks: Talks,
    exchanges: Exchanges,
    handshakes: Handshakes,
    heads: Heads,
    plans: Plans,
    departures: Departures,
    all_habits: Habits,
    /// Those of the sample's label.
    habits: Option<Arc<habits::Label>>,
    /// No flow has more packets.
    packets_max: u32,
    mtu: u32,
    /// Whether a flow may be rendered in the other version of IP, so that its payload has to fit below the longer header.
    is_either: bool,
}

impl Grammar for Strict {
    fn push(&mut self, token: Token) {
        if let Some(Tok::Label(label)) = self.walk.vocab().tok(token) {
            self.heed(Some(label));
        }
        let step = self.walk.push(token);
        self.talks.follow(&self.walk, step);
        self.exchanges.follow(&self.walk, step);
        self.handshakes.follow(&self.walk, step);
        self.heads.follow(&self.walk, step, self.is_http());
    }

    fn packets(&self) -> u64 {
        self.walk.packets()
    }

    fn must_end(&self, tokens_left: usize) -> bool {
        tokens_left < PACKET_TOKENS
    }

    fn has_ended(&self) -> bool {
        self.walk.stage == Stage::Gap && self.is_at_its_end()
    }

    fn end_within(&mut self, packets: u64) {
        self.packets_max = u32::try_from(packets).unwrap_or(u32::MAX);
    }

    fn allowed(&self, tokens_left: usize, mask: &mut [u64]) {
        mask.fill(0);
        let mut mask = Mask { walk: &self.walk, bits: mask };
        self.fill(tokens_left, &mut mask);
        // Only tokens that were not allowed, as a prompt may have, lead where nothing is right.
        if mask.bits.iter().all(|w| *w == 0) {
            mask.allow(Tok::End);
        }
    }
}

impl Strict {
    /// The grammar of `codec` at the beginning of a sample.
    pub(super) fn new(codec: &WireCodec) -> Self {
        let mut ret = Self {
            walk: codec.blank.clone(),
            talks: Talks::default(),
            exchanges: Exchanges::new(codec.keep_names),
            handshakes: Handshakes::new(codec.keep_names),
            heads: Heads::default(),
            plans: codec.plans.clone(),
            departures: codec.departures.clone(),
            all_habits: codec.habits.clone(),
            habits: None,
            packets_max: u32::MAX,
            mtu: 0,
            is_either: false,
        };
        ret.heed(None);
        ret
    }

    /// Heeds what the plan of `label` asks for, what its ports promise and what its flows do. IP packets are as long as its plan allows.
    fn heed(&mut self, label: Option<LabelId>) {
        self.habits = self.all_habits.of(label).cloned();
        self.talks.heed(self.departures.of(label), self.habits.as_ref());
        self.exchanges.heed(self.departures.of(label), self.habits.as_ref());
        let plan = self.plans.of(label);
        (self.mtu, self.is_either) = (u32::from(plan.mtu).max(576), plan.ipv6_percent.is_some());
    }

    fn is_http(&self) -> bool {
        self.talks.application(&self.walk) == Some(Application::Http)
    }

    /// What is asked of the head of a message of HTTP, where one is under way.
    fn head_asked(&self, tokens_left: usize) -> Option<http::Asked<'_>> {
        if self.is_http() { self.heads.asked(&self.walk, tokens_left) } else { None }
    }

    fn fill(&self, tokens_left: usize, m: &mut Mask<'_>) {
        let closing = tokens_left < CLOSING_TOKENS;
        let c = &self.walk.current;
        match self.walk.stage {
            Stage::Gap => {
                let goes_on =
                    tokens_left >= PACKET_TOKENS && (self.may_open() || self.senders(tokens_left).next().is_some());
                if goes_on {
                    m.run(Tok::GapE(0), usize::from(self.longest_gap().0) + 1);
                }
                if !goes_on || self.may_end() {
                    m.allow(Tok::End);
                }
            }
            Stage::Skip | Stage::Bytes(..) | Stage::GapExponent => m.allow(Tok::End),
            Stage::Done => m.allow(Tok::End),
            Stage::Mantissa => {
                let (exponent, mantissa) = self.longest_gap();
                let is_longest = c.action.gap_ns == i64::from(exponent);
                m.run(Tok::GapM(0), if is_longest { usize::from(mantissa) + 1 } else { 64 });
            }
            Stage::Who => {
                for (slot, from_orig) in self.senders(tokens_left) {
                    m.allow(Tok::Flow(slot, from_orig));
                }
                if self.may_open() {
                    let speaks = |proto| self.habits.as_ref().is_none_or(|habits| habits.speaks(proto));
                    for proto in [Proto::Tcp, Proto::Udp, Proto::Icmp].into_iter().filter(|proto| speaks(*proto)) {
                        m.allow(Tok::Open(proto, false));
                        m.allow(Tok::Open(proto, true));
                    }
                }
            }
            Stage::Port => self.ports(m),
            Stage::Sport => {
                m.allow(Tok::SportEph);
                m.allow(Tok::SportSame);
                m.allow(Tok::SportNum);
            }
            Stage::Host => {
                m.allow(Tok::HostNew);
                m.run(Tok::HostRef(0), self.walk.hosts(c.action.v6).len().min(HOSTS));
                // TCP has no groups (RFC 9293, section 3.9.2.3), nor has an echo that is answered.
                if c.action.proto == Proto::Udp {
                    m.allow(Tok::HostGroup);
                    if !c.action.v6 {
                        m.allow(Tok::HostBcast);
                    }
                }
            }
            Stage::Ends => self.endings(m),
            Stage::Size => self.sizes(m),
            Stage::Head(at) => self.head(at, tokens_left, m),
            Stage::Operand(operand, left) => self.operand(operand, left, tokens_left, m),
            Stage::Record => {
                m.allow(Tok::RecRest);
                if !closing {
                    m.number(&self.handshakes.records(&self.walk, self.records()), 0, 2);
                }
            }
            Stage::Pieces => {
                let asked = self.talks.asked(&self.walk);
                let message = self.exchanges.asked(&self.walk).filter(|asked| tokens_left > asked.tokens_most());
                let content = self.handshakes.asked(&self.walk).filter(|content| tokens_left > content.tokens_most());
                let head = self.head_asked(tokens_left);
                // What is behind it the encoder never says.
                let is_told = usize::from(c.done) >= MESSAGE_MAX;
                if (closing || is_told) && head.as_ref().is_some_and(http::Asked::takes_rest) {
                    return m.allow(Tok::TextRest);
                }
                // An opening is short enough to be said to its end, and so was the message when it began.
                let can_close = message.as_ref().is_none_or(|message| message.can_close());
                let is_free = asked.is_none() && can_close && content.is_none() && head.is_none();
                self.pieces(closing && is_free, m);
                if let Some(asked) = asked {
                    m.retain(|tok| self.talks.permits(&self.walk, &asked, tok));
                }
                if let Some(asked) = message {
                    m.retain(|tok| asked.permits(&self.walk, tok));
                }
                let side = usize::from(!c.action.from_orig);
                let messages = self.habits.as_ref().and_then(|habits| habits.messages(side));
                if self.walk.current.record_left == 0 {
                    m.retain(|tok| self.handshakes.permits_record(&self.walk, tok, messages));
                }
                if let Some(content) = content {
                    m.retain(|tok| content.permits(&self.walk, tok));
                }
                if let Some(messages) = messages.filter(|_| self.handshakes.is_at_message(&self.walk)) {
                    // A record whose length is no such message's has another one.
                    m.prefer(|tok| match tok {
                        Tok::Byte(b) => messages.contains(&b),
                        Tok::Str(s) => {
                            self.walk.strings()[usize::from(s)].first().is_some_and(|b| messages.contains(b))
                        }
                        _ => false,
                    });
                }
                if let Some(head) = head {
                    m.retain(|tok| head.permits(&self.walk, tok));
                }
            }
        }
    }

    /// Exponent and mantissa of the longest gap between two packets.
    fn longest_gap(&self) -> (u8, u8) {
        let seen = self.habits.as_ref().and_then(|habits| habits.longest_gap_ns);
        seen.map_or((GAP_BITS, 63), gap_parts).min((GAP_BITS, 63))
    }

    /// Flows that may go on, and from which side.
    fn senders(&self, tokens_left: usize) -> impl Iterator<Item = (u8, bool)> {
        self.walk.slots.iter().enumerate().flat_map(move |(i, slot)| {
            let goes_on =
                move |from_orig: &bool| may_send(slot, *from_orig) && self.goes_on(slot, *from_orig, tokens_left);
            [true, false].into_iter().filter(goes_on).map(move |from_orig| (i as u8, from_orig))
        })
    }

    /// Ports to which a flow may open.
    fn ports(&self, m: &mut Mask<'_>) {
        let Some(habits) = &self.habits else {
            m.run(Tok::Port(0), PORTS.len());
            m.allow(Tok::PortEph);
            return m.allow(Tok::PortNum);
        };
        let proto = self.walk.current.action.proto;
        for (i, port) in PORTS.into_iter().enumerate() {
            if habits.calls(proto, Some(port)) {
                m.allow(Tok::Port(i as u8));
            }
        }
        if habits.calls(proto, None) {
            m.allow(Tok::PortEph);
        }
        if !habits.numbers(proto).is_empty() {
            m.allow(Tok::PortNum);
        }
    }

    fn operand(&self, operand: Operand, left: u8, tokens_left: usize, m: &mut Mask<'_>) {
        let c = &self.walk.current;
        let said = self.walk.number();
        match operand {
            Operand::Port => {
                let known = self.habits.as_ref().map(|habits| habits.numbers(c.action.proto));
                m.number(known.as_deref().unwrap_or(&[(1, 0xffff)]), said, left);
            }
            Operand::Sport => m.number(&source_ports(c.action.opens.and_then(|open| open.port)), said, left),
            Operand::Group if c.action.v6 => match left {
                16 => m.bytes(0xff, 0xff),
                // Flags and a scope that are not reserved (RFC 4291, section 2.7).
                15 => [0x01, 0x02, 0x05, 0x08, 0x0e, 0x12, 0x15].into_iter().for_each(|b| m.bytes(b, b)),
                _ => m.bytes(0, 255),
            },
            Operand::Group => match (left, self.walk.group()[0]) {
                (4, _) => {
                    m.bytes(224, 239);
                    m.bytes(255, 255);
                }
                (_, 255) => m.bytes(255, 255),
                _ => m.bytes(0, 255),
            },
            Operand::Ttl => self.ttl(m),
            Operand::Tos => self.tos(m),
            Operand::Window => self.window_bytes(m),
            Operand::Other | Operand::FixLen | Operand::RawLen => m.bytes(0, 255),
            Operand::Hole => {
                let side = self.walk.sides().0;
                let most = if side.framed { u32::from(side.record_left).saturating_sub(1) } else { 0x3fff };
                let most = most.min(self.room(side.next_for(0)).saturating_sub(1));
                m.number(&[(1, most.clamp(1, 0x3fff))], said, left);
            }
            Operand::Mss => m.number(&[(88, 65_495)], said, left),
            Operand::Ws => m.bytes(0, 14), // RFC 7323, section 2.3
            Operand::IcmpCode => match (c.action.v6, c.action.icmp[0]) {
                (false, 3) => m.bytes(0, 15),
                (true, 1) => m.bytes(0, 6),
                (false, 11) | (true, 3) => m.bytes(0, 1),
                _ => m.bytes(0, 0),
            },
            // As many as when its first token was said.
            Operand::LenLow | Operand::LenBig => m.number(&self.lengths(tokens_left + 1), said, left),
            Operand::TextName | Operand::DnsName => {
                let labels = u32::from(operand == Operand::DnsName);
                m.number(&[(1, (u32::from(self.walk.limit()) - labels).min(253))], said, left);
                m.retain(|tok| matches!(tok, Tok::Byte(len) if self.exchanges.permits_name(labels == 1, len)));
                m.retain(
                    |tok| matches!(tok, Tok::Byte(len) if labels == 1 || self.handshakes.permits_name(&self.walk, len)),
                );
                if let Some(head) = self.head_asked(tokens_left) {
                    m.retain(|tok| matches!(tok, Tok::Byte(len) if head.takes_name(len)));
                }
            }
            Operand::Record => m.number(&self.handshakes.records(&self.walk, self.records()), said, left),
        }
    }

    fn head(&self, at: u8, tokens_left: usize, m: &mut Mask<'_>) {
        let c = &self.walk.current;
        let closing = tokens_left < CLOSING_TOKENS;
        let proto = c.action.proto;
        if !closing && self.ip_fields(at, m) {
            return;
        }
        if at <= rank::ID && !closing && !c.action.v6 {
            if at <= rank::DF {
                m.allow(Tok::Df);
            }
            m.allow(Tok::IdMode);
        }
        match proto {
            Proto::Udp => self.length(tokens_left, m),
            Proto::Icmp if at <= rank::FLAGS => {
                let kinds: &[u8] = if c.action.v6 { &[1, 3, 128, 129] } else { &[0, 3, 8, 11] };
                kinds.iter().for_each(|k| m.bytes(*k, *k));
            }
            Proto::Icmp => self.length(tokens_left, m),
            Proto::Tcp => self.tcp(at, tokens_left, m),
        }
    }
}

fn may_send(slot: &Slot, from_orig: bool) -> bool {
    let me = &slot.sides[usize::from(!from_orig)];
    match slot.proto {
        Proto::Tcp => !slot.closed && (me.has_sent || slot.sides[0].syn),
        // No packet comes from a group (RFC 1122, section 3.2.1.3; RFC 4291, section 2.7).
        Proto::Udp | Proto::Icmp => from_orig || !slot.to_group,
    }
}

const _: () = assert!(SLOTS <= 256 && CLOSING_TOKENS < PACKET_TOKENS);

/// Services whose two ports speak to each other: DHCP, SNMP and its traps, DHCPv6.
const PAIRS: [[u16; 2]; 3] = [[67, 68], [161, 162], [546, 547]];

/// Numbers of ports from which a flow to `port` may come, as ranges: to a service it comes from no other one's port, as whoever sees
/// it could not tell to which of both it belongs.
fn source_ports(port: Option<u16>) -> Vec<(u32, u32)> {
    let service = port.filter(|port| PORTS.binary_search(port).is_ok());
    let is_other = |other: u16| {
        service.is_some_and(|port| {
            port != other && !PAIRS.iter().any(|pair| pair.contains(&port) && pair.contains(&other))
        })
    };
    let (mut ret, mut from) = (Vec::new(), 1);
    for other in PORTS.into_iter().filter(|other| is_other(*other)).map(u32::from) {
        ret.push((from, other - 1));
        from = other + 1;
    }
    ret.push((from, 0xffff));
    ret
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_to_a_service_comes_from_no_other_one_s_port() {
        let holds = |port, from: u16| source_ports(port).iter().any(|range| (range.0..=range.1).contains(&from.into()));
        let all =
            |port, from: &[u16], is: bool| from.iter().for_each(|from| assert_eq!(holds(port, *from), is, "{from}"));
        all(Some(443), &[20, 21, 22, 53, 67, 68, 445, 8883], false);
        all(Some(443), &[1, 19, 24, 443, 600, 1023, 65_535], true);
        all(Some(67), &[67, 68], true);
        all(Some(67), &[53, 161], false);
        all(Some(5000), &[53, 68], true);
        all(None, &[1, 53, 443, 65_535], true);
    }
}
