//! Extensions of hellos: which there are, and how long their data may be (IANA's registry of TLS extensions).

/// How an extension's data is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// There is none.
    Nothing,
    /// These bytes.
    Exactly(&'static [u8]),
    /// Bytes of which nothing is asked: so many at least, and at most.
    Free(u16, u16),
    /// Zeros.
    Zeros,
    /// A length of one byte, then values of so many.
    Short(u16),
    /// A length of two bytes, then values of two.
    Long,
    /// A list of names behind their lengths (RFC 7301, section 3.1).
    Names,
    /// One name of a host (RFC 6066, section 3).
    ServerName,
    /// Keys behind their groups and lengths, in a list (RFC 8446, section 4.2.8).
    Shares,
    /// One of them.
    Share,
    /// A version (section 4.2.1).
    Version,
}

/// Those of a client.
const CLIENT: [(u16, Form); 23] = [
    (0, Form::ServerName),
    (5, Form::Exactly(&[1, 0, 0, 0, 0])), // status_request
    (10, Form::Long),                     // supported_groups
    (11, Form::Short(1)),                 // ec_point_formats
    (13, Form::Long),                     // signature_algorithms
    (16, Form::Names),                    // application_layer_protocol_negotiation
    (18, Form::Nothing),                  // signed_certificate_timestamp
    (PADDING, Form::Zeros),
    (22, Form::Nothing),           // encrypt_then_mac
    (23, Form::Nothing),           // extended_master_secret
    (27, Form::Short(2)),          // compress_certificate
    (28, Form::Free(2, 2)),        // record_size_limit
    (35, Form::Free(0, u16::MAX)), // session_ticket
    (42, Form::Nothing),           // early_data
    (43, Form::Short(2)),          // supported_versions
    (45, Form::Short(1)),          // psk_key_exchange_modes
    (49, Form::Nothing),           // post_handshake_auth
    (50, Form::Long),              // signature_algorithms_cert
    (KEY_SHARE, Form::Shares),
    (13172, Form::Nothing),       // next_protocol_negotiation, of a draft
    (17513, Form::Names),         // application_settings, of a draft
    (30032, Form::Nothing),       // channel_id, of a draft
    (65281, Form::Exactly(&[0])), // renegotiation_info
];

/// Those of a server.
const SERVER: [(u16, Form); 9] = [
    (0, Form::Nothing),
    (5, Form::Nothing),
    (11, Form::Short(1)),
    (16, Form::Names),
    (23, Form::Nothing),
    (35, Form::Nothing),
    (43, Form::Version),
    (KEY_SHARE, Form::Share),
    (65281, Form::Exactly(&[0])),
];

const PADDING: u16 = 21;
const KEY_SHARE: u16 = 51;
/// Bytes of an extension's type and length.
pub(super) const HEAD: u16 = 4;

/// Which of a side's extensions were said, as bits in the order of the table.
pub(super) type Said = u32;

/// Types that are nobody's, so that servers learn to pass over what they do not know (RFC 8701).
fn is_grease(kind: u16) -> bool {
    kind & 0x0f0f == 0x0a0a && kind >> 8 == kind & 0xff
}

fn table(is_server: bool) -> &'static [(u16, Form)] {
    if is_server { &SERVER } else { &CLIENT }
}

/// The form of an extension's data; `None` of those that are not made.
pub(super) fn form(is_server: bool, kind: u16) -> Option<Form> {
    let grease = (!is_server && is_grease(kind)).then_some(Form::Free(0, u16::MAX));
    table(is_server).iter().find(|e| e.0 == kind).map(|e| e.1).or(grease)
}

/// Marks an extension as said.
pub(super) fn say(is_server: bool, kind: u16, said: &mut Said) {
    if let Some(i) = table(is_server).iter().position(|e| e.0 == kind) {
        *said |= 1 << i;
    }
}

/// Whether an extension can begin whose type begins with `high`, and goes on with `low` if that is given, where `room` bytes follow
/// its head. None comes twice (RFC 8446, section 4.2), if another can come.
pub(super) fn can_begin(is_server: bool, said: Said, (high, low): (u8, Option<u8>), room: u16) -> bool {
    let is_it = |kind: u16| kind >> 8 == u16::from(high) && low.is_none_or(|low| kind as u8 == low);
    let fits = |form: Form| form.lengths().any(room);
    let table = table(is_server);
    let is_new = |i: usize| said >> i & 1 == 0;
    let has_new = !is_server || table.iter().enumerate().any(|(i, e)| is_new(i) && fits(e.1));
    let grease = !is_server && high & 15 == 10 && low.is_none_or(|low| low == high);
    grease || table.iter().enumerate().any(|(i, e)| is_it(e.0) && (is_new(i) || !has_new) && fits(e.1))
}

/// Lengths: from one on, in steps, to another.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lengths {
    least: u16,
    step: u16,
    most: u16,
}

impl Lengths {
    /// Whether one of them leaves nothing of `room`, or room for another extension.
    fn any(self, room: u16) -> bool {
        self.holds(room) || self.least <= self.most && room >= self.least.saturating_add(HEAD)
    }

    fn holds(self, n: u16) -> bool {
        (self.least..=self.most).contains(&n) && (n - self.least).is_multiple_of(self.step)
    }

    /// Whether `n` is one that leaves nothing of `room`, or room for another extension.
    pub(super) fn fits(self, n: u16, room: u16) -> bool {
        self.holds(n) && (n == room || n.saturating_add(HEAD) <= room)
    }

    /// Whether there is such a one whose high byte is this.
    pub(super) fn fits_high(self, high: u8, room: u16) -> bool {
        let (from, to) = (u16::from(high) << 8, u16::from(high) << 8 | 255);
        if room >> 8 == u16::from(high) && self.holds(room) {
            return true;
        }
        let Some(most) = room.checked_sub(HEAD).map(|most| most.min(self.most).min(to)) else { return false };
        let first = if from <= self.least {
            self.least
        } else {
            self.least + (from - self.least).div_ceil(self.step) * self.step
        };
        first <= most
    }
}

impl Form {
    /// How long the data may be.
    pub(super) fn lengths(self) -> Lengths {
        let (least, step, most) = match self {
            Self::Nothing => (0, 1, 0),
            Self::Exactly(bytes) => (bytes.len() as u16, 1, bytes.len() as u16),
            Self::Free(least, most) => (least, 1, most),
            Self::Zeros => (0, 1, u16::MAX),
            Self::Short(step) => (1 + step, step, 1 + 255 / step * step),
            Self::Long => (4, 2, u16::MAX - 1),
            Self::Names => (4, 1, u16::MAX),
            Self::ServerName => (6, 1, 5 + 253),
            Self::Shares => (7, 1, u16::MAX),
            Self::Share => (5, 1, u16::MAX),
            Self::Version => (2, 1, 2),
        };
        Lengths { least, step, most }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_room_there_is_some_extension_fills_it() {
        for is_server in [false, true] {
            for room in 0..2000 {
                let fits = |high: u8| can_begin(is_server, 0, (high, None), room);
                assert!((0..=255).any(fits), "{is_server} {room}");
                // Said all, one comes again.
                let again = |high: u8| can_begin(is_server, Said::MAX, (high, None), room);
                assert!((0..=255).any(again), "{is_server} {room}");
            }
        }
    }

    #[test]
    fn the_high_byte_of_a_length_leads_to_a_low_one() {
        for (_, form) in CLIENT.iter().chain(&SERVER) {
            for room in [0u16, 1, 4, 5, 9, 255, 256, 261, 700, 1400] {
                let lengths = form.lengths();
                for high in 0..=255u8 {
                    let low = (0..=255).any(|low| lengths.fits(u16::from(high) << 8 | low, room));
                    assert_eq!(lengths.fits_high(high, room), low, "{form:?} {room} {high}");
                }
                assert_eq!(lengths.any(room), (0..=255).any(|high| lengths.fits_high(high, room)), "{form:?} {room}");
            }
        }
    }
}
