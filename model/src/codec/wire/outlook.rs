//! What is told of a flow where it opens: how it ends in its sample, and about how many packets it has.
//!
//! So what a network has to carry through a whole flow stands at one place, and the grammar can hold it to that.

use super::action::Action;
use super::habits::said::Said;
use super::side::{FIN, RST};

/// How a flow ends in its sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Ends {
    /// It goes on, or nobody says that it ends (all flows but TCP's).
    Open,
    /// Both sides finish.
    Fin,
    /// One side resets it before that.
    Rst,
}

/// All of them, in the order of their tokens.
pub(super) const ENDS: [Ends; 3] = [Ends::Open, Ends::Fin, Ends::Rst];
/// Classes of how many packets a flow has: 1, 2, 3, then two for each power of two.
pub(super) const SIZES: usize = 32;

impl Ends {
    /// As checkpoints and transcripts call it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Fin => "fin",
            Self::Rst => "rst",
        }
    }
}

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Outlook {
    /// How it ends.
    pub(super) ends: Ends,
    /// Class of its packets.
    pub(super) size: u8,
}

impl Outlook {
    /// Fewest packets of its class.
    pub(super) fn least(self) -> u32 {
        size_least(self.size)
    }

    /// Most packets of its class.
    pub(super) fn most(self) -> u32 {
        match usize::from(self.size) + 1 {
            SIZES.. => u32::MAX,
            next => size_least(next as u8) - 1,
        }
    }
}

/// The class of a flow of so many packets.
pub(super) fn size_class(packets: u32) -> u8 {
    match packets {
        0 | 1 => 0,
        n => {
            let octave = n.ilog2();
            (2 * octave + (n >> (octave - 1) & 1) - 1).min(SIZES as u32 - 1) as u8
        }
    }
}

fn size_least(size: u8) -> u32 {
    match u32::from(size) {
        0 => 1,
        size => (2 + (size + 1) % 2) << (size.div_ceil(2) - 1),
    }
}

/// What is seen of a flow, packet by packet.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Seen {
    packets: u32,
    said: [Said; 2],
    fins: [bool; 2],
    is_reset: bool,
}

impl Seen {
    /// Takes a packet of the flow into account.
    pub(super) fn see(&mut self, action: &Action) {
        self.packets = self.packets.saturating_add(1);
        self.said[usize::from(!action.from_orig)].see(action);
        let flags = action.tcp.as_ref().map_or(0, |segment| segment.flags);
        self.fins[usize::from(!action.from_orig)] |= flags & FIN != 0;
        self.is_reset |= flags & RST != 0 && self.fins != [true; 2];
    }

    /// Packets so far.
    pub(super) fn packets(self) -> u32 {
        self.packets
    }

    /// What the opener and the responder of a TCP connection have said.
    pub(super) fn said(self) -> [Said; 2] {
        self.said
    }

    /// What could have been told of it.
    pub(super) fn outlook(self) -> Outlook {
        let ends = match self {
            Self { is_reset: true, .. } => Ends::Rst,
            Self { fins: [true, true], .. } => Ends::Fin,
            _ => Ends::Open,
        };
        Outlook { ends, size: size_class(self.packets) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_lie_in_their_classes() {
        for packets in (1..5000).chain([65_535, 65_536, 98_304, u32::MAX]) {
            let outlook = Outlook { ends: Ends::Open, size: size_class(packets) };
            assert!((outlook.least()..=outlook.most()).contains(&packets), "{packets}: {outlook:?}");
            assert!(usize::from(outlook.size) < SIZES);
        }
        let firsts: Vec<u32> = (0..9).map(size_least).collect();
        assert_eq!(firsts, [1, 2, 3, 4, 6, 8, 12, 16, 24]);
    }
}
