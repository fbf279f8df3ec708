//! A complete packet: what later ones are relative to.

use super::super::action::{Host, Opt};
use super::super::side::{ACK, MESSAGE_MAX, PSH, RST, Side};
use super::super::vocab::HOSTS;
use super::{Slot, Stage, Step, Walk};

impl Walk {
    /// Takes the packet into the session's state.
    pub(super) fn complete(&mut self) -> Step {
        self.tick += 1;
        self.packets += 1;
        self.stage = Stage::Gap;
        self.can_fix = true;
        let c = &mut self.current;
        let a = &mut c.action;
        let version = usize::from(a.v6);
        if let Some(open) = a.opens {
            self.opened = self.opened.saturating_add(1);
            let slot = Slot {
                proto: a.proto,
                v6: a.v6,
                port: open.port,
                to_group: !matches!(open.host, Host::Known(_)),
                sides: [Side::blank(), Side::blank()],
                closed: false,
                outlook: c.outlook,
                packets: 0,
                used: 0,
                last_payload: None,
            };
            match self.slots.get_mut(usize::from(a.slot)) {
                Some(place) => *place = slot,
                None => self.slots.push(slot),
            }
            if let Host::Known(id) = open.host {
                self.next_host += u32::from(id == self.next_host);
                let hosts = &mut self.hosts[version];
                hosts.retain(|h| *h != id);
                hosts.insert(0, id);
                hosts.truncate(HOSTS);
            }
        }
        let slot = &mut self.slots[usize::from(a.slot)];
        slot.used = self.tick;
        slot.packets = slot.packets.saturating_add(1);
        let me = usize::from(!a.from_orig);
        let [orig, resp] = &mut slot.sides;
        let (side, peer) = if me == 0 { (orig, resp) } else { (resp, orig) };
        (side.ttl, side.tos, side.df, side.id_zero) = (a.ttl, a.tos, a.df, a.id_zero);
        self.fresh[version][me] = (a.ttl, a.tos, a.df, a.id_zero);
        (side.record_left, side.framed) = (c.record_left, c.framed);
        if let Some(segment) = &a.tcp {
            side.window = c.window;
            side.next = side.next_for(segment.flags);
            side.send(segment, a.len);
            side.open_window(segment, peer.scale);
            if segment.flags & RST == 0 {
                side.ts = segment.options.contains(&Opt::Ts);
            }
            if segment.flags & ACK != 0 {
                peer.acknowledge(segment.ack);
            }
            let fin_acked = |a: &Side, b: &Side| a.fin.is_some_and(|fin| b.acked > fin);
            slot.closed |= segment.flags & RST != 0 || fin_acked(side, peer) && fin_acked(peer, side);
        }
        side.has_sent = true;
        if a.len > 0 {
            side.len_max = side.len_max.max(a.len);
            side.len_last = a.len;
            side.pushed = c.flags & PSH != 0;
            slot.last_payload = Some(me as u8);
        }
        a.is_message &= a.len > a.len_known;
        if a.is_message {
            side.message_len = (a.len - a.len_known).min(MESSAGE_MAX as u16);
        }
        Step::Packet
    }
}
