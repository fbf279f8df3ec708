//! The payloads of a message in the clear: which may follow which, how long each can be, and what its bytes are.

/// Payloads of version 1 (RFC 2408, section 3.1; RFC 3947, section 3.2): association, key exchange, identification, hash, nonce,
/// notification, deletion, vendor, addresses before NAT.
pub(super) const SA1: u8 = 1;
pub(super) const KE1: u8 = 4;
pub(super) const ID1: u8 = 5;
pub(super) const HASH1: u8 = 8;
pub(super) const NONCE1: u8 = 10;
pub(super) const NOTIFY1: u8 = 11;
pub(super) const DELETE1: u8 = 12;
pub(super) const VENDOR1: u8 = 13;
const NAT1: u8 = 20;

/// Payloads of version 2 (RFC 7296, section 3.2): the same, a request for certificates, and what is ciphered.
pub(super) const SA2: u8 = 33;
pub(super) const KE2: u8 = 34;
const CERTREQ2: u8 = 38;
pub(super) const NONCE2: u8 = 40;
pub(super) const NOTIFY2: u8 = 41;
pub(super) const VENDOR2: u8 = 43;
pub(super) const SK: u8 = 46;
pub(super) const SKF: u8 = 53;

/// Exchanges (RFC 2408, section 3.1; RFC 2409, appendix A; RFC 7296, section 3.1).
pub(super) const MAIN: u8 = 2;
pub(super) const AGGRESSIVE: u8 = 4;
pub(super) const INFORMATION: u8 = 5;
pub(super) const TRANSACTION: u8 = 6;
pub(super) const QUICK: u8 = 32;
pub(super) const SA_INIT: u8 = 34;
pub(super) const AUTH: u8 = 35;
pub(super) const CHILD: u8 = 36;
pub(super) const INFORMATIONAL2: u8 = 37;

/// Bytes in front of a payload's value (RFC 2408, section 3.2).
pub(super) const GENERIC_LEN: u16 = 4;
/// Bytes of a proposal, and of a transform, before what is in them (RFC 2408, sections 3.5 and 3.6; RFC 7296, section 3.3.1).
pub(super) const PROPOSAL_LEN: u16 = 8;
pub(super) const TRANSFORM_LEN: u16 = 8;
/// Fewest transforms of a proposal of version 2: a cipher, a function for keys, a group.
pub(super) const TRANSFORMS_MIN: u16 = 3;
/// Bytes of a transform with one attribute.
pub(super) const ATTRIBUTED_LEN: u16 = 12;
/// Domain and situation in front of proposals, in version 1 (RFC 2407, section 4.6.1), which are also in front of other values.
pub(super) const DOMAIN: [u8; 8] = [0, 0, 0, 1, 0, 0, 0, 1];

/// Diffie-Hellman groups and bytes of their public values (RFC 7296, section 3.4; RFC 2409, 3526, 5903, 8031).
const GROUPS: [(u8, u16); 11] =
    [(1, 96), (2, 128), (5, 192), (14, 256), (15, 384), (16, 512), (19, 64), (20, 96), (21, 132), (31, 32), (32, 56)];
/// Bytes of hashes.
const HASHES: [u16; 5] = [16, 20, 32, 48, 64];
/// Bytes of a key's hash in a request for certificates (RFC 7296, section 3.7).
const AUTHORITY_LEN: u16 = 20;
/// Bytes of the pair of SPIs that names an association, of which one is deleted or told of.
const SPIS_LEN: u16 = 16;

/// Notifications of version 2 and the fewest and most bytes of their data (RFC 7296, section 3.10.1; RFC 4739, 5685, 6023, 7383,
/// 7427).
const NOTIFICATIONS: [(u16, u16, u16); 11] = [
    (7, 0, 0),       // INVALID_SYNTAX
    (14, 0, 0),      // NO_PROPOSAL_CHOSEN
    (17, 2, 2),      // INVALID_KE_PAYLOAD
    (16388, 20, 20), // NAT_DETECTION_SOURCE_IP
    (16389, 20, 20), // NAT_DETECTION_DESTINATION_IP
    (16390, 1, 64),  // COOKIE
    (16404, 0, 0),   // MULTIPLE_AUTH_SUPPORTED
    (16406, 0, 0),   // REDIRECT_SUPPORTED
    (16418, 0, 0),   // CHILDLESS_IKEV2_SUPPORTED
    (16430, 0, 0),   // IKEV2_FRAGMENTATION_SUPPORTED
    (16431, 2, 16),  // SIGNATURE_HASH_ALGORITHMS: two bytes each
];

/// Where a payload stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) exchange: u8,
    pub(super) is_response: bool,
    pub(super) is_first: bool,
}

impl Place {
    pub(super) fn later(self) -> Self {
        Self { is_first: false, ..self }
    }

    /// Payloads that can follow one, and whether the message can end behind it (RFC 2409, section 5; RFC 7296, section 1.2).
    pub(super) fn after(self, kind: u8) -> (&'static [u8], bool) {
        match (self.exchange, kind) {
            (SA_INIT, SA2) => (&[KE2], false),
            (SA_INIT, KE2) => (&[NONCE2], false),
            // What is refused, or asked for; a cookie that was asked for is in front of all else (section 2.6).
            (SA_INIT, NOTIFY2) if self.is_first && self.is_response => (&[], true),
            (SA_INIT, NOTIFY2) if self.is_first => (&[SA2], false),
            (SA_INIT, _) => (&[NOTIFY2, VENDOR2, CERTREQ2], true),
            (MAIN, SA1) => (&[VENDOR1], true),
            (MAIN | AGGRESSIVE, KE1) => (&[NONCE1], false),
            (AGGRESSIVE, SA1) => (&[KE1], false),
            (AGGRESSIVE, NONCE1) => (&[ID1], false),
            (AGGRESSIVE, ID1) => (&[HASH1, VENDOR1, NAT1], true),
            (MAIN | AGGRESSIVE, _) => (&[VENDOR1, NAT1], true),
            _ => (&[], true),
        }
    }

    /// Whether a payload of kind `next` can stand behind one, or the end, which is 0.
    pub(super) fn can_follow(self, kind: u8, next: u8) -> bool {
        let (others, can_end) = self.after(kind);
        if next == 0 { can_end } else { others.contains(&next) }
    }

    /// Whether a payload of this kind and those behind it can fill `room` bytes.
    ///
    /// The closed form of what [`after`](Self::after) and [`value_fits`] say, which the tests count out.
    pub(super) fn fits(self, kind: u8, room: u16) -> bool {
        match (self.exchange, kind) {
            (SA_INIT, SA2) => room >= 96,
            (SA_INIT, KE2) => room >= 60,
            (SA_INIT, NONCE2) => room >= 20,
            (SA_INIT, NOTIFY2) if self.is_first && self.is_response => (8..=72).contains(&room),
            (SA_INIT, NOTIFY2) if self.is_first => room >= 104,
            (SA_INIT, NOTIFY2) => room >= 8,
            (SA_INIT, VENDOR2) | (MAIN | AGGRESSIVE, VENDOR1) => room >= 12,
            (SA_INIT, CERTREQ2) => room == 25 || room >= 33,
            (MAIN, SA1) => room >= 44 || room >= 32 && room.is_multiple_of(4),
            (MAIN, KE1) => room >= 48,
            (MAIN, NONCE1) => room >= 12,
            (AGGRESSIVE, SA1) => room >= 89,
            (AGGRESSIVE, KE1) => room >= 57,
            (AGGRESSIVE, NONCE1) => room >= 21,
            (AGGRESSIVE, ID1) => room >= 9,
            (MAIN | AGGRESSIVE, HASH1 | NAT1) => room >= 32 || matches!(room, 20 | 24),
            (_, NOTIFY1 | DELETE1) => room.checked_sub(GENERIC_LEN).is_some_and(|len| value_fits(kind, len)),
            _ => false,
        }
    }

    /// Whether a payload can have `len` bytes of `room`, with `next` behind it.
    pub(super) fn length_fits(self, kind: u8, next: u8, len: u16, room: u16) -> bool {
        let Some((value, rest)) = len.checked_sub(GENERIC_LEN).zip(room.checked_sub(len)) else { return false };
        let is_followed = if next == 0 { rest == 0 } else { self.later().fits(next, rest) };
        self.can_follow(kind, next) && is_followed && value_fits(kind, value)
    }
}

/// Whether a value of this kind of payload can have `n` bytes.
pub(super) fn value_fits(kind: u8, n: u16) -> bool {
    match kind {
        SA1 => n >= DOMAIN.len() as u16 + PROPOSAL_LEN + ATTRIBUTED_LEN && n.is_multiple_of(4),
        SA2 => n >= PROPOSAL_LEN + TRANSFORMS_MIN * TRANSFORM_LEN && n.is_multiple_of(4),
        KE1 => GROUPS.iter().any(|(_, len)| *len == n),
        KE2 => GROUPS.iter().any(|(_, len)| *len + 4 == n),
        // RFC 2409, section 5; RFC 7296, section 3.9.
        NONCE1 => (8..=256).contains(&n),
        NONCE2 => (16..=256).contains(&n),
        VENDOR1 | VENDOR2 => (8..=128).contains(&n),
        HASH1 | NAT1 => HASHES.contains(&n),
        ID1 => (5..=68).contains(&n),
        NOTIFY1 => n >= 8,
        NOTIFY2 => (4..=68).contains(&n),
        DELETE1 => n > 8 && (n - 8).is_multiple_of(SPIS_LEN),
        CERTREQ2 => n > 1 && (n - 1).is_multiple_of(AUTHORITY_LEN),
        _ => false,
    }
}

/// From where on nothing is asked of a value of these kinds, which are all but associations.
pub(super) fn free_from(kind: u8) -> u16 {
    match kind {
        KE2 | ID1 | NOTIFY2 => 4,
        NOTIFY1 | DELETE1 => 8,
        CERTREQ2 => 1,
        _ => 0,
    }
}

/// Whether `b` can be at `at` in a value of `n` bytes, before that, where `last` is in front of it.
pub(super) fn value_allows(kind: u8, at: u16, n: u16, last: u8, b: u8) -> bool {
    match (kind, at) {
        (KE2, 1) => GROUPS.iter().any(|group| *group == (b, n - 4)),
        (NOTIFY2, 2) => NOTIFICATIONS.iter().any(|of| is_notification(*of, n - 4) && (of.0 >> 8) as u8 == b),
        (NOTIFY2, 3) => {
            let code = u16::from_be_bytes([last, b]);
            NOTIFICATIONS.iter().any(|of| of.0 == code && is_notification(*of, n - 4))
        }
        // An IPv4 address, or the number of a key (RFC 2407, section 4.6.2.1), of no port.
        (ID1, 0) => b == if n == 8 { 1 } else { 11 },
        // Of hashes of keys (RFC 7296, section 3.6: X.509, signature).
        (CERTREQ2, 0) => b == 4,
        (NOTIFY1 | DELETE1, 0..4) => b == DOMAIN[usize::from(at)],
        // The protocol is this one's.
        (NOTIFY1 | DELETE1, 4) => b == 1,
        (DELETE1, 5) => u16::from(b) == SPIS_LEN,
        (DELETE1, 6) => u16::from(b) == ((n - 8) / SPIS_LEN) >> 8,
        (DELETE1, 7) => u16::from(b) == ((n - 8) / SPIS_LEN) & 255,
        (NOTIFY1, 5) => b == 0 || u16::from(b) == SPIS_LEN && n >= 8 + SPIS_LEN,
        // Errors (RFC 2408, section 3.14.1).
        (NOTIFY1, 7) => (1..=30).contains(&b),
        _ => b == 0,
    }
}

fn is_notification((code, least, most): (u16, u16, u16), n: u16) -> bool {
    (least..=most).contains(&n) && (code != 16431 || n.is_multiple_of(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a chain can fill `room`, tried out: `known` has what is so for less room.
    fn counted(place: Place, kind: u8, room: u16, known: &dyn Fn(u8, u16) -> bool) -> bool {
        let (others, can_end) = place.after(kind);
        (GENERIC_LEN..=room).filter(|len| value_fits(kind, len - GENERIC_LEN)).any(|len| {
            let rest = room - len;
            can_end && rest == 0 || others.iter().any(|next| known(*next, rest))
        })
    }

    #[test]
    fn payloads_fit_where_one_of_all_their_lengths_does() {
        let kinds = [
            (SA_INIT, &[SA2, KE2, NONCE2, NOTIFY2, VENDOR2, CERTREQ2][..]),
            (MAIN, &[SA1, KE1, NONCE1, VENDOR1, NAT1]),
            (AGGRESSIVE, &[SA1, KE1, NONCE1, ID1, HASH1, VENDOR1, NAT1]),
            (INFORMATION, &[NOTIFY1, DELETE1]),
        ];
        for (exchange, kinds) in kinds {
            let later = Place { exchange, is_response: false, is_first: false };
            let mut known = vec![vec![false; 1500]; 64];
            for room in 0..1500 {
                for kind in kinds {
                    let fits = counted(later, *kind, room, &|kind, room| known[usize::from(kind)][usize::from(room)]);
                    known[usize::from(*kind)][usize::from(room)] = fits;
                    assert_eq!(later.fits(*kind, room), fits, "{exchange} {kind} {room}");
                }
                for is_response in [false, true] {
                    let first = Place { exchange, is_response, is_first: true };
                    let kind = kinds[0..].iter().copied().find(|kind| *kind == NOTIFY2).unwrap_or(kinds[0]);
                    let fits = counted(first, kind, room, &|kind, room| known[usize::from(kind)][usize::from(room)]);
                    assert_eq!(first.fits(kind, room), fits, "{exchange} {kind} {room} {is_response}");
                }
            }
        }
    }
}
