//! What an association's payload holds: proposals of transforms (RFC 2408, sections 3.4 to 3.6; RFC 7296, section 3.3).

use super::chain::{ATTRIBUTED_LEN, DOMAIN, PROPOSAL_LEN, TRANSFORM_LEN, TRANSFORMS_MIN};

/// What says that another proposal, or another transform, follows.
const ANOTHER_PROPOSAL: u8 = 2;
const ANOTHER_TRANSFORM: u8 = 3;
/// Most transforms of a proposal: their number has a byte.
const TRANSFORMS_MAX: u16 = 255;

/// Types of transforms of version 2 and those known of each (RFC 7296, section 3.3.2; RFC 8247): a cipher, with a length of keys or
/// without one, the function for keys, integrity, group.
const SIZED: (u8, &[u8]) = (1, &[12, 13, 18, 19, 20]);
const TRANSFORMS: [(u8, &[u8]); 4] = [
    (1, &[3, 28]),
    (2, &[1, 2, 4, 5, 6, 7, 8]),
    (3, &[1, 2, 5, 12, 13, 14]),
    (4, &[1, 2, 5, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32]),
];

/// An attribute with its value beside it, and how long keys are (RFC 2408, section 3.3; RFC 7296, section 3.3.5).
const SHORT: u8 = 0x80;
const KEY_LEN: u8 = 14;
/// How long an association lives; it alone can also have its value behind its length (RFC 2409, appendix A).
const LIFE: u8 = 12;
const LONG: [u8; 4] = [0, LIFE, 0, 4];
/// Other attributes of version 1 (RFC 2409, appendix A): cipher, hash, who one is, group, in what one lives; and their greatest values.
const ATTRIBUTES: [(u8, u8); 5] = [(1, 7), (2, 6), (3, 5), (4, 21), (11, 2)];

/// Where in it one is. Bytes of an attribute are counted in fours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Domain,
    Proposal,
    Transform,
    Attribute,
    /// The value of [`LONG`].
    Life,
}

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Association {
    is_v1: bool,
    part: Part,
    /// Bytes of the part that were heard.
    at: u16,
    /// Bytes to come: of the payload, the proposal, the transform.
    room: u16,
    proposal: u16,
    transform: u16,
    /// Another proposal follows; how many there were; transforms to come.
    is_followed: bool,
    number: u8,
    transforms: u16,
    /// Bytes that decide what follows them: the last one, and the transform's type or the attribute's.
    last: u8,
    kind: u8,
    is_long: bool,
}

impl Association {
    /// One whose value has `room` bytes.
    pub(super) fn new(is_v1: bool, room: u16) -> Self {
        let part = if is_v1 { Part::Domain } else { Part::Proposal };
        Self {
            is_v1,
            part,
            at: 0,
            room,
            proposal: 0,
            transform: 0,
            is_followed: false,
            number: 0,
            transforms: 0,
            last: 0,
            kind: 0,
            is_long: false,
        }
    }

    /// What hosts often have next; nothing where that is anything.
    pub(super) fn liked(&self, b: u8) -> bool {
        match (self.part, self.at) {
            // Room for one of each type beside ciphers.
            (Part::Proposal, 7) if !self.is_v1 => self.proposal + 11 <= ATTRIBUTED_LEN * u16::from(b),
            // Ciphers are in front, a group is last.
            (Part::Transform, 3) => u16::from(b) == ATTRIBUTED_LEN,
            (Part::Transform, 4) if !self.is_v1 => b == [4, 2, 1, 3][usize::from(self.transforms % 4)],
            _ => false,
        }
    }

    /// Fewest and most bytes of a transform.
    fn transform_range(&self) -> (u16, u16) {
        if self.is_v1 { (ATTRIBUTED_LEN, u16::MAX / TRANSFORMS_MAX) } else { (TRANSFORM_LEN, ATTRIBUTED_LEN) }
    }

    /// Whether so many transforms fill `len` bytes.
    fn transforms_fit(&self, count: u16, len: u16) -> bool {
        let (least, most) = self.transform_range();
        let most = if self.is_v1 && count > 0 { u16::MAX } else { most.saturating_mul(count) };
        len.is_multiple_of(4) && least * count <= len && len <= most
    }

    /// Whether a proposal can have `len` bytes of `room`.
    fn proposal_fits(&self, len: u16, room: u16) -> bool {
        let least = PROPOSAL_LEN + if self.is_v1 { ATTRIBUTED_LEN } else { TRANSFORMS_MIN * TRANSFORM_LEN };
        let rest = room.checked_sub(len);
        len >= least
            && len.is_multiple_of(4)
            && rest.is_some_and(|n| if self.is_followed { n >= least } else { n == 0 })
    }

    /// Whether a transform can have `len` bytes of the proposal's rest.
    fn transform_fits(&self, len: u16, rest: u16) -> bool {
        let (least, most) = self.transform_range();
        let most = if self.is_v1 { u16::MAX } else { most };
        (least..=most).contains(&len)
            && len.is_multiple_of(4)
            && rest.checked_sub(len).is_some_and(|n| self.transforms_fit(self.transforms, n))
    }

    /// Whether `b` can be the next byte.
    pub(super) fn allows(&self, b: u8) -> bool {
        let with = |low: u8| u16::from_be_bytes([self.last, low]);
        let high = |low: u8| u16::from_be_bytes([b, low]);
        match (self.part, self.at) {
            (Part::Domain, at) => b == DOMAIN[usize::from(at)],
            (Part::Proposal, 0) => {
                let least = 2 * (PROPOSAL_LEN + TRANSFORMS_MIN * TRANSFORM_LEN);
                b == 0 || b == ANOTHER_PROPOSAL && !self.is_v1 && self.room >= least && self.number < u8::MAX - 1
            }
            (Part::Proposal, 2) => (0..=255).any(|low| self.proposal_fits(high(low), self.room + 2)),
            (Part::Proposal, 3) => self.proposal_fits(with(b), self.room + 3),
            (Part::Proposal, 4) => b == self.number + 1,
            // It is the protocol that is proposed; there are no numbers yet (RFC 7296, section 3.3.1).
            (Part::Proposal, 5) => b == 1,
            (Part::Proposal, 7) => {
                let least = if self.is_v1 { 1 } else { TRANSFORMS_MIN };
                u16::from(b) >= least && self.transforms_fit(b.into(), self.proposal - 1)
            }
            (Part::Transform, 0) => b == if self.transforms > 0 { ANOTHER_TRANSFORM } else { 0 },
            (Part::Transform, 2) => (0..=255).any(|low| self.transform_fits(high(low), self.proposal + 2)),
            (Part::Transform, 3) => self.transform_fits(with(b), self.proposal + 3),
            // Its number, and that it is of this protocol (RFC 2407, section 4.4.1).
            (Part::Transform, 4) if self.is_v1 => b > 0,
            (Part::Transform, 5) if self.is_v1 => b == 1,
            (Part::Transform, 4) if self.transform > 4 => b == SIZED.0,
            (Part::Transform, 4) => TRANSFORMS.iter().any(|(kind, _)| *kind == b),
            (Part::Transform, 7) if self.is_v1 => b == 0,
            (Part::Transform, 7) if self.transform > 1 => SIZED.1.contains(&b),
            (Part::Transform, 7) => TRANSFORMS.iter().any(|(kind, ids)| *kind == self.kind && ids.contains(&b)),
            (Part::Attribute, 0) => b == SHORT || self.is_v1 && b == LONG[0] && self.transform >= 8,
            (Part::Attribute, at @ 1..4) if self.is_long => b == LONG[usize::from(at)],
            (Part::Attribute, 1) => {
                b == KEY_LEN || self.is_v1 && (b == LIFE || ATTRIBUTES.iter().any(|(kind, _)| *kind == b))
            }
            // 128, 192 or 256 bits.
            (Part::Attribute, 2) if self.kind == KEY_LEN => b <= 1,
            (Part::Attribute, 3) if self.kind == KEY_LEN => matches!(with(b), 128 | 192 | 256),
            (Part::Attribute, 2 | 3) if self.kind == LIFE => true,
            (Part::Attribute, 3) => {
                ATTRIBUTES.iter().any(|(kind, most)| *kind == self.kind && (1..=*most).contains(&b))
            }
            (Part::Life, _) => true,
            _ => b == 0,
        }
    }

    /// Takes a byte that is allowed.
    pub(super) fn hear(&mut self, b: u8) {
        let at = self.at;
        self.room -= 1;
        self.at += 1;
        if self.part != Part::Domain {
            self.proposal = self.proposal.saturating_sub(1);
        }
        if matches!(self.part, Part::Transform | Part::Attribute | Part::Life) {
            self.transform = self.transform.saturating_sub(1);
        }
        match (self.part, at) {
            (Part::Domain, 7) => self.begin(Part::Proposal),
            (Part::Proposal, 0) => self.is_followed = b == ANOTHER_PROPOSAL,
            (Part::Proposal, 3) => self.proposal = u16::from_be_bytes([self.last, b]) - 4,
            (Part::Proposal, 4) => self.number = b,
            (Part::Proposal, 7) => {
                self.transforms = u16::from(b);
                self.begin(Part::Transform);
            }
            (Part::Transform, 3) => self.transform = u16::from_be_bytes([self.last, b]) - 4,
            (Part::Transform, 4) => self.kind = b,
            (Part::Transform, 7) => self.end_of_part(),
            (Part::Attribute, 0) => self.is_long = b == LONG[0],
            (Part::Attribute, 1) => self.kind = b,
            (Part::Attribute, 3) if self.is_long => self.begin(Part::Life),
            (Part::Attribute | Part::Life, 3) => self.end_of_part(),
            _ => {}
        }
        self.last = b;
    }

    fn begin(&mut self, part: Part) {
        (self.part, self.at) = (part, 0);
        if part == Part::Transform {
            // This one is not to come any more.
            self.transforms -= 1;
        }
    }

    fn end_of_part(&mut self) {
        self.begin(match (self.transform, self.transforms) {
            (1.., _) => Part::Attribute,
            (0, 1..) => Part::Transform,
            (0, 0) => Part::Proposal,
        });
    }
}
