//! What is known of a flow beside its decisions: who talks, where the numbers begin, what was said last.

use super::action::Action;
use super::side::{ACK, MESSAGE_MAX};
use crate::flow::FiveTuple;
use crate::wire::parse::{Frame, Transport};

/// Facts about the flow in a slot. Sides: 0 the opener.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    /// Who talks to whom, the opener first.
    pub(super) tuple: FiveTuple,
    /// Sequence number that stands for 0.
    pub(super) isn: [Option<u32>; 2],
    /// Beginning of the last message.
    pub(super) messages: [Vec<u8>; 2],
}

impl Facts {
    /// Nothing but the tuple.
    pub(super) fn new(tuple: FiveTuple) -> Self {
        Self { tuple, isn: [None; 2], messages: [Vec::new(), Vec::new()] }
    }

    /// Learns from the frame that `action` stands for.
    pub(super) fn learn(&mut self, action: &Action, frame: &Frame<'_>) {
        let me = usize::from(!action.from_orig);
        if let (Some(segment), Transport::Tcp(tcp)) = (&action.tcp, &frame.transport) {
            if segment.is_next {
                self.isn[me] = Some(tcp.seq.wrapping_sub(segment.seq as u32));
            }
            if segment.flags & ACK != 0 && self.isn[1 - me].is_none() {
                self.isn[1 - me] = Some(tcp.ack.wrapping_sub(segment.ack as u32));
            }
        }
        self.say(action, payload(frame));
    }

    /// Keeps the payload of a message.
    pub(super) fn say(&mut self, action: &Action, payload: &[u8]) {
        if action.is_message {
            let new = payload.get(usize::from(action.len_known)..).unwrap_or_default();
            let message = &mut self.messages[usize::from(!action.from_orig)];
            message.clear();
            message.extend_from_slice(&new[..new.len().min(MESSAGE_MAX)]);
            // The snaplen may have cut it.
            message.resize(usize::from(action.len - action.len_known).min(MESSAGE_MAX), 0);
        }
    }
}

/// The payload that pieces describe: for ICMP what follows the checksum.
pub(super) fn payload<'a>(frame: &Frame<'a>) -> &'a [u8] {
    match frame.transport {
        Transport::Icmp => &frame.payload[4..],
        _ => frame.payload,
    }
}
