//! Which pieces a payload may go on with, before anything is asked of its bytes.

use super::super::application::Application;
use super::super::side::FIN;
use super::super::vocab::{NAMES, Proto, RUN_MAX, TLS_TYPES, Tok};
use super::Strict;
use super::mask::Mask;

impl Strict {
    pub(super) fn pieces(&self, closing: bool, m: &mut Mask<'_>) {
        let c = &self.walk.current;
        let is_icmp = c.action.proto == Proto::Icmp;
        if is_icmp && !matches!((c.action.v6, c.action.icmp[0]), (false, 0 | 8) | (true, 128 | 129)) {
            return m.allow(Tok::Quote);
        }
        let can_frame = c.action.proto == Proto::Tcp && c.record_left == 0 && c.left >= 6 && c.flags & FIN == 0;
        if c.framed && c.record_left == 0 && can_frame {
            return m.run(Tok::Tls(0, 1), 2 * TLS_TYPES.len());
        }
        m.allow(Tok::OpaqueRest);
        if closing {
            return;
        }
        if can_frame && c.done == 0 && !self.talks.application(&self.walk).is_some_and(Application::is_never_secured) {
            m.run(Tok::Tls(0, 1), 2 * TLS_TYPES.len());
        }
        let limit = usize::from(self.walk.limit());
        m.allow(Tok::TextRest);
        m.allow(Tok::ZeroRest);
        m.bytes(0, 255);
        // The shortest strings are the first.
        let strings = self.walk.strings().partition_point(|s| s.len() <= limit);
        m.run(Tok::Str(0), strings);
        let (side, peer) = self.walk.sides();
        let at = usize::from(c.done);
        for (side, run, rest) in [(side, Tok::Same(1), Tok::SameRest), (peer, Tok::Peer(1), Tok::PeerRest)] {
            let reach = usize::from(side.message_len).saturating_sub(at);
            m.run(run, reach.min(limit).min(RUN_MAX));
            if reach >= limit {
                m.allow(rest);
            }
        }
        if limit >= 2 && at + 2 <= usize::from(side.message_len) {
            m.allow(Tok::Inc2);
        }
        m.run(Tok::Opaque(1), limit.min(RUN_MAX));
        m.run(Tok::Quad(7), limit.saturating_sub(6).min(9));
        m.allow(Tok::TextName);
        if limit >= 2 {
            m.allow(Tok::DnsName);
        }
        for (i, (_, len)) in self.walk.names.iter().enumerate().take(NAMES) {
            if usize::from(*len) <= limit {
                m.allow(Tok::TextRef(i as u8));
            }
            if usize::from(*len) < limit {
                m.allow(Tok::DnsRef(i as u8));
            }
        }
    }
}
