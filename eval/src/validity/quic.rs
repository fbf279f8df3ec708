//! Whether a datagram begins with a QUIC packet that has a long header (RFC 8999, section 5.1; RFC 9000, section 17.2).

/// Longest connection ID (RFC 9000, section 17.2).
const CONNECTION_ID_MAX: usize = 20;
/// Length of the tag at the end of a Retry packet (RFC 9001, section 5.8).
const RETRY_TAG_LEN: usize = 16;
/// Packets in one datagram that are walked at most; each packet number space has one.
const COALESCED_MAX: usize = 8;

/// Shortest datagram with which a client begins (RFC 9000, section 14.1).
const FIRST_DATAGRAM_MIN: usize = 1200;

/// Whether a datagram on QUIC's port claims to be one with a long header. Others use the port as well (DNSCrypt begins
/// with random bytes): what has neither a known version nor the length of a client's first datagram is theirs.
pub(super) fn claims_to_be(datagram: &[u8]) -> bool {
    let version = datagram.get(1..5).and_then(<[u8]>::first_chunk).map(|b| u32::from_be_bytes(*b));
    let is_likely = datagram.len() >= FIRST_DATAGRAM_MIN || version.and_then(Layout::of).is_some();
    has_long_header(datagram) && is_likely
}

fn has_long_header(datagram: &[u8]) -> bool {
    datagram.first().is_some_and(|first| first & 0x80 != 0)
}

/// Whether the long headers of a datagram are right, and what they give lengths of lies inside. What follows a packet
/// without a long header bit (a short header, or padding) is not looked at.
pub(super) fn is_first_datagram(datagram: &[u8]) -> bool {
    let mut rest = datagram;
    for _ in 0..COALESCED_MAX {
        match long_header(rest) {
            None => return false,
            Some(after) if !has_long_header(after) => return true,
            Some(after) => rest = after,
        }
    }
    true
}

/// What comes behind the first packet.
fn long_header(datagram: &[u8]) -> Option<&[u8]> {
    let [first, a, b, c, d, rest @ ..] = datagram else { return None };
    let version = u32::from_be_bytes([*a, *b, *c, *d]);
    let layout = Layout::of(version)?;
    if layout == Layout::Google46 {
        // Connection ID lengths in a nibble each; no lengths behind (draft-ietf-quic-invariants-03).
        let (lengths, rest) = rest.split_first()?;
        let len = |nibble: u8| if nibble == 0 { 0 } else { usize::from(nibble) + 3 };
        rest.get(len(lengths >> 4) + len(lengths & 15)..)?;
        return Some(&[]);
    }
    let (_, rest) = connection_id(rest)?;
    let (_, rest) = connection_id(rest)?;
    if layout == Layout::Negotiation {
        return (!rest.is_empty() && rest.len().is_multiple_of(4)).then_some(&[]);
    }
    if first & 0x40 == 0 {
        return None; // the fixed bit
    }
    // Version 2 counts the types from one further on (RFC 9369, section 3.2).
    let kind = match layout {
        Layout::Version2 => ((first >> 4) & 3).wrapping_sub(1) & 3,
        _ => (first >> 4) & 3,
    };
    let rest = match kind {
        3 => return (rest.len() >= RETRY_TAG_LEN).then_some(&[]),
        0 => {
            let (token_len, rest) = variable_len(rest)?;
            rest.get(usize::try_from(token_len).ok()?..)?
        }
        _ => rest,
    };
    let (len, rest) = variable_len(rest)?;
    rest.get(usize::try_from(len).ok()?..)
}

/// How the bytes behind the version are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    Negotiation,
    Version1,
    Version2,
    Google46,
}

impl Layout {
    /// The layout of a version, `None` for numbers that no QUIC is known to use.
    fn of(version: u32) -> Option<Self> {
        match version {
            0 => Some(Self::Negotiation),
            1 => Some(Self::Version1),
            0x6b33_43cf | 0x709a_50c4 => Some(Self::Version2),
            // Drafts, and what is kept free to exercise negotiation (RFC 9000, section 15).
            0xff00_0000..=0xff00_00ff => Some(Self::Version1),
            _ if version & 0x0f0f_0f0f == 0x0a0a_0a0a => Some(Self::Version1),
            // Q046 to Q050 and T050 and T051 of Google; 0xfaceb0.. of Facebook.
            0x5130_3436..=0x5130_3439 => Some(Self::Google46),
            0x5130_3530..=0x5130_3539 | 0x5430_3530..=0x5430_3539 => Some(Self::Version1),
            0xface_b000..=0xface_b0ff => Some(Self::Version1),
            _ => None,
        }
    }
}

fn connection_id(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first()?;
    let len = usize::from(*len);
    if len > CONNECTION_ID_MAX { None } else { rest.split_at_checked(len) }
}

/// A number whose first two bits tell its length (RFC 9000, section 16).
fn variable_len(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let len = 1 << (bytes.first()? >> 6);
    let (number, rest) = bytes.split_at_checked(len)?;
    let value = number.iter().fold(0, |n, b| n << 8 | u64::from(*b));
    Some((value & (u64::MAX >> (64 - 8 * len + 2)), rest))
}
