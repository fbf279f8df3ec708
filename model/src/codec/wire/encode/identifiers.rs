//! Identifiers, said without saying what they are, and the addresses that a payload may repeat.

use std::net::IpAddr;

use super::super::super::Token;
use super::super::vocab::{NAMES, RUN_MAX, Tok};
use super::Encoder;
use crate::wire::names::{Kind, Span};
use crate::wire::parse::Frame;

impl Encoder<'_> {
    /// Says an identifier without saying what it is.
    pub(super) fn identifier(&mut self, span: &Span, ret: &mut Vec<Token>) {
        let len = span.end - span.at;
        let as_labels = span.kind == Kind::Labels;
        match span.kind {
            Kind::Quad if (7..=15).contains(&len) => self.say(Tok::Quad(len as u8), ret),
            Kind::Text | Kind::Labels if span.name.len() + usize::from(as_labels) == len => {
                let known = self.names.iter().position(|n| n.1.eq_ignore_ascii_case(&span.name));
                let at = known.and_then(|i| self.walk.names.iter().position(|n| n.0 == self.names[i].0));
                match at {
                    Some(i) => self.say(if as_labels { Tok::DnsRef(i as u8) } else { Tok::TextRef(i as u8) }, ret),
                    None => {
                        self.say(if as_labels { Tok::DnsName } else { Tok::TextName }, ret);
                        self.say(Tok::Byte(span.name.len() as u8), ret);
                        self.names.insert(0, (self.walk.names[0].0, span.name.clone()));
                        self.names.truncate(NAMES);
                    }
                }
            }
            _ => {
                let mut left = len;
                while left > 0 {
                    let n = left.min(RUN_MAX);
                    self.say(Tok::Opaque(n as u8), ret);
                    left -= n;
                }
            }
        }
    }

    /// Addresses that a payload may repeat: those in front of it, and those of other hosts of the session.
    pub(super) fn addresses(&self, frame: &Frame<'_>) -> Vec<Vec<u8>> {
        let hosts = self.hosts.iter().flatten().map(|host| host.1);
        let octets = |address: IpAddr| match address {
            // These are nobody's.
            _ if address.is_multicast() || address.is_unspecified() || address.is_loopback() => None,
            IpAddr::V4(a) if a.is_broadcast() => None,
            IpAddr::V4(a) => Some(a.octets().to_vec()),
            IpAddr::V6(a) => Some(a.octets().to_vec()),
        };
        let mut ret: Vec<Vec<u8>> = hosts.chain([frame.ip.src, frame.ip.dst]).filter_map(octets).collect();
        let macs = frame.link.chunks_exact(6).take(2).filter(|mac| mac[0] & 1 == 0 && **mac != [0; 6]);
        ret.extend(macs.map(<[u8]>::to_vec));
        ret
    }
}
