//! What one segment says, read once for all rules that look at it.

use wiremamba_model::packet::Timestamp;

use crate::view::{TcpView, View};

/// TCP Fast Open's option (RFC 7413, section 4.1.1).
const FAST_OPEN: u8 = 34;

/// What a segment says about itself.
#[derive(Debug, Default, Clone, Copy)]
pub(in super::super) struct Segment {
    pub(super) ts: Timestamp,
    pub(in super::super) seq: u32,
    pub(in super::super) ack: u32,
    pub(in super::super) flags: u8,
    /// Payload on the wire in bytes.
    pub(in super::super) len: u32,
    /// TSval and TSecr.
    pub(super) clocks: Option<(u32, u32)>,
    pub(super) scale: Option<u8>,
    pub(in super::super) has_mss: bool,
    pub(in super::super) has_scale: bool,
    pub(in super::super) has_sack: bool,
    pub(super) sack_permitted: bool,
    pub(super) fast_open: bool,
    /// Whether the snaplen cut the options, so that those above may be missing.
    pub(super) is_cut: bool,
}

impl Segment {
    pub(in super::super) fn new(view: &View<'_>, tcp: TcpView<'_>) -> Self {
        // A header that was cut is missing from the captured bytes like payload is.
        let header_missing = tcp.header_len().saturating_sub(tcp.0.len());
        let mut ret = Self {
            ts: view.ts(),
            seq: tcp.seq(),
            ack: tcp.ack(),
            flags: tcp.flags(),
            len: u32::try_from(view.payload_len.saturating_sub(header_missing)).unwrap_or(u32::MAX),
            is_cut: header_missing > 0,
            ..Self::default()
        };
        for (kind, value) in tcp.each_option().map_while(Result::ok) {
            let number = |at: usize| value.get(at..).and_then(<[u8]>::first_chunk).map(|b| u32::from_be_bytes(*b));
            match kind {
                2 => ret.has_mss = true,
                3 => (ret.has_scale, ret.scale) = (true, value.first().copied()),
                4 => ret.sack_permitted = true,
                5 => ret.has_sack = true,
                8 => ret.clocks = number(0).zip(number(4)),
                FAST_OPEN => ret.fast_open = true,
                _ => {}
            }
        }
        ret
    }

    pub(in super::super) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Behind its last number.
    pub(super) fn end(&self) -> u32 {
        let controls = u32::from(self.has(TcpView::SYN)) + u32::from(self.has(TcpView::FIN));
        self.seq.wrapping_add(self.len).wrapping_add(controls)
    }
}
