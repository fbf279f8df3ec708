//! ISAKMP and IKE (RFC 2408, 2409, 7296): which messages are well formed, and what is filled in of those that are drawn.
//!
//! [`Message`] follows a message byte by byte. What a grammar leaves to be drawn of one is completed here, by the same rules: kinds
//! and lengths of payloads, proposals and transforms, so that they fill the datagram.

mod association;
mod chain;
mod message;

pub use self::message::{HEAD_AT, HEADER_LEN, ID_AT, LENGTH_AT, Message, SPI_LEN};

/// The port, and the one behind NAT (RFC 7296, section 2.23).
pub const PORTS: [u16; 2] = [500, 4500];
/// What is in front of a message there, where ESP has a number that is not zero (RFC 3948, section 2.2).
pub const MARKER: [u8; 4] = [0; 4];
/// What keeps a mapping alive (RFC 3948, section 2.3).
pub const KEEPALIVE: u8 = 0xff;

/// Whether datagrams to, or from, these ports are of ISAKMP, and whether they are behind NAT. The first port decides.
pub fn is_isakmp(ports: [u16; 2]) -> Option<bool> {
    ports.into_iter().find(|port| PORTS.contains(port)).map(|port| port == PORTS[1])
}

/// Fills in what is determined of a message, where it would be drawn.
pub fn complete(message: &mut [u8], is_behind_nat: bool, is_drawn: impl Fn(usize) -> bool) {
    let start = if is_behind_nat { MARKER.len() } else { 0 };
    // What was drawn of a number is not zero, so that it is one.
    let set = |message: &mut [u8], from: usize, to: usize| {
        for at in (from..to).filter(|at| is_drawn(*at)) {
            message[at] = message[at].max(1);
        }
    };
    let is_esp = message.get(..start) != Some(&MARKER[..start]) || (0..start).any(&is_drawn);
    if is_behind_nat && is_esp {
        match message {
            [b] if is_drawn(0) => *b = KEEPALIVE,
            [_, _, _, _, ..] => set(message, 0, start),
            _ => {}
        }
        return;
    }
    let Ok(len) = u16::try_from(message.len() - start) else { return };
    if len <= HEADER_LEN {
        return;
    }
    set(message, start, start + usize::from(HEAD_AT));
    set(message, start + usize::from(ID_AT), start + usize::from(LENGTH_AT));
    let mut reader = Message::new(false, len);
    for (at, byte) in message.iter_mut().enumerate().skip(start) {
        let is_in_header = reader.header_at().is_some();
        if is_drawn(at)
            && !is_in_header
            && reader.free() == 0
            && let Some(b) = reader.choice(*byte)
        {
            *byte = b;
        }
        // The header was said, and an answer has the number of what it answers, whatever it is.
        if !is_in_header && !reader.allows(*byte) {
            return;
        }
        reader.take(*byte);
    }
}
