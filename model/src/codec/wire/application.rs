//! How TCP applications begin: the first bytes of each side, who speaks first, and which ports promise which application.
//!
//! Only what a protocol's own document says, and only as far as every session has it. An application that is not here is not
//! worse off: nothing is asked of it.

use serde::{Deserialize, Serialize};

/// An application over TCP whose sessions can be told by their first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Application {
    /// Replies of three digits (RFC 959, section 5.4); a client logs in, or asks for security or features first
    /// (RFC 2228, section 3; RFC 2389, section 3).
    Ftp,
    /// HTTP/1 (RFC 9112, sections 3 and 4).
    Http,
    /// RFC 3501, section 7.1.
    Imap,
    /// Modbus over TCP: its header (messaging guide 1.0b, section 3.1.3) and the functions in common use (application protocol
    /// 1.1b3, section 6).
    Modbus,
    /// MQTT 3.1 and later (version 3.1.1, section 2.2).
    Mqtt,
    /// RFC 1939, section 3.
    Pop,
    /// TPKT (RFC 1006, section 6), under RDP.
    Rdp,
    /// Behind the session service's header (RFC 1002, section 4.3; MS-SMB2, section 2.1).
    Smb,
    /// RFC 5321, section 4.2; a client says who it is (section 3.2), or goes.
    Smtp,
    /// RFC 4253, section 4.2.
    Ssh,
    /// TLS records (RFC 8446, section 5.1).
    Tls,
}

use Application::{Ftp, Http, Imap, Modbus, Mqtt, Pop, Rdp, Smb, Smtp, Ssh, Tls};

/// What a port promises (IANA's service names): nobody else is expected to be called there.
pub(super) fn promised(port: u16) -> Option<Application> {
    Some(match port {
        21 => Ftp,
        22 => Ssh,
        25 | 587 => Smtp,
        80 | 8080 => Http,
        110 => Pop,
        139 | 445 => Smb,
        143 => Imap,
        443 | 465 | 636 | 853 | 993 | 995 | 5061 | 8443 | 8883 => Tls,
        502 => Modbus,
        1883 => Mqtt,
        3389 => Rdp,
        _ => return None,
    })
}

impl Application {
    /// Whether the opener's first bytes, or the responder's, are no other application's: then they tell it at any port.
    const fn is_plain(self) -> bool {
        matches!(self, Http | Smb | Ssh | Tls)
    }

    /// Bytes that the first segment of a side, 0 the opener, has: at least, at most. A TLS record's header is not cut, a Modbus message is one segment.
    pub(super) fn first_length(self, side: usize) -> (u32, u32) {
        match self {
            // A hello, or at least an alert instead of one.
            Tls => (if side == 0 { 50 } else { 7 }, u32::MAX),
            Modbus => (8, 260),
            _ => (1, u32::MAX),
        }
    }

    /// Whether TLS is no part of its sessions, be it that they need none (SSH; RFC 4253, section 4) or that it is around them from the first
    /// byte on, at another port. Others ask for it in mid-session.
    pub(super) fn is_never_secured(self) -> bool {
        matches!(self, Modbus | Mqtt | Smb | Ssh)
    }

    /// Whether the responder says nothing before the opener has.
    pub(super) fn opener_first(self) -> bool {
        matches!(self, Http | Modbus | Mqtt | Rdp | Smb | Tls)
    }
}

/// A way in which a side can begin; `?` is any byte, `#` how many bytes of the segment follow it.
struct Opening {
    application: Application,
    /// By the opener, by the responder.
    by: [bool; 2],
    bytes: &'static [u8],
    /// Bytes of the whole segment, where they are always as many; else 0.
    whole: usize,
}

const OPENER: [bool; 2] = [true, false];
const RESPONDER: [bool; 2] = [false, true];
const BOTH: [bool; 2] = [true, true];

const fn opening(application: Application, by: [bool; 2], bytes: &'static [u8]) -> Opening {
    Opening { application, by, bytes, whole: 0 }
}

/// The opening of a segment of `whole` bytes.
const fn segment(application: Application, by: [bool; 2], bytes: &'static [u8], whole: usize) -> Opening {
    Opening { application, by, bytes, whole }
}

/// Longest of them.
pub(super) const OPENING_MAX: usize = 17;

/// All openings. HTTP's methods are those that IANA has registered and that can be met in practice, and UPnP's (its device
/// architecture 2.0, sections 1.3 and 4.1); some requests go on without the space that should follow.
static OPENINGS: [Opening; OPENINGS_LEN] = [
    opening(Http, OPENER, b"GET"),
    opening(Http, OPENER, b"POST"),
    opening(Http, OPENER, b"HEAD"),
    opening(Http, OPENER, b"PUT"),
    opening(Http, OPENER, b"DELETE"),
    opening(Http, OPENER, b"CONNECT"),
    opening(Http, OPENER, b"OPTIONS"),
    opening(Http, OPENER, b"TRACE"),
    opening(Http, OPENER, b"PATCH"),
    opening(Http, OPENER, b"ACL"),
    opening(Http, OPENER, b"BASELINE-CONTROL"),
    opening(Http, OPENER, b"BIND"),
    opening(Http, OPENER, b"CHECKIN"),
    opening(Http, OPENER, b"CHECKOUT"),
    opening(Http, OPENER, b"COPY"),
    opening(Http, OPENER, b"LABEL"),
    opening(Http, OPENER, b"LINK"),
    opening(Http, OPENER, b"LOCK"),
    opening(Http, OPENER, b"MERGE"),
    opening(Http, OPENER, b"MKACTIVITY"),
    opening(Http, OPENER, b"MKCALENDAR"),
    opening(Http, OPENER, b"MKCOL"),
    opening(Http, OPENER, b"MKREDIRECTREF"),
    opening(Http, OPENER, b"MKWORKSPACE"),
    opening(Http, OPENER, b"MOVE"),
    opening(Http, OPENER, b"ORDERPATCH"),
    opening(Http, OPENER, b"PROPFIND"),
    opening(Http, OPENER, b"PROPPATCH"),
    opening(Http, OPENER, b"REBIND"),
    opening(Http, OPENER, b"REPORT"),
    opening(Http, OPENER, b"SEARCH"),
    opening(Http, OPENER, b"UNBIND"),
    opening(Http, OPENER, b"UNCHECKOUT"),
    opening(Http, OPENER, b"UNLINK"),
    opening(Http, OPENER, b"UNLOCK"),
    opening(Http, OPENER, b"UPDATE"),
    opening(Http, OPENER, b"UPDATEREDIRECTREF"),
    opening(Http, OPENER, b"VERSION-CONTROL"),
    opening(Http, OPENER, b"M-SEARCH"),
    opening(Http, OPENER, b"NOTIFY"),
    opening(Http, OPENER, b"SUBSCRIBE"),
    opening(Http, OPENER, b"UNSUBSCRIBE"),
    opening(Http, RESPONDER, b"HTTP/1."),
    opening(Ssh, BOTH, b"SSH-"),
    opening(Tls, BOTH, b"\x16\x03\x00"),
    opening(Tls, BOTH, b"\x16\x03\x01"),
    opening(Tls, BOTH, b"\x16\x03\x02"),
    opening(Tls, BOTH, b"\x16\x03\x03"),
    opening(Tls, RESPONDER, b"\x15\x03\x00"),
    opening(Tls, RESPONDER, b"\x15\x03\x01"),
    opening(Tls, RESPONDER, b"\x15\x03\x02"),
    opening(Tls, RESPONDER, b"\x15\x03\x03"),
    opening(Smb, BOTH, b"\0\0??\xffSMB"),
    opening(Smb, BOTH, b"\0\0??\xfeSMB"),
    opening(Smb, OPENER, b"\x81\0"),
    opening(Smb, RESPONDER, b"\x82\0\0\0"),
    opening(Smb, RESPONDER, b"\x83\0\0\x01"),
    opening(Ftp, RESPONDER, b"120 "),
    opening(Ftp, RESPONDER, b"120-"),
    opening(Ftp, RESPONDER, b"220 "),
    opening(Ftp, RESPONDER, b"220-"),
    opening(Ftp, RESPONDER, b"421 "),
    opening(Ftp, RESPONDER, b"421-"),
    opening(Ftp, RESPONDER, b"500 "),
    opening(Ftp, RESPONDER, b"500-"),
    opening(Ftp, RESPONDER, b"530 "),
    opening(Ftp, RESPONDER, b"530-"),
    opening(Ftp, OPENER, b"AUTH "),
    opening(Ftp, OPENER, b"FEAT\r"),
    opening(Ftp, OPENER, b"USER "),
    opening(Smtp, RESPONDER, b"220 "),
    opening(Smtp, RESPONDER, b"220-"),
    opening(Smtp, RESPONDER, b"421 "),
    opening(Smtp, RESPONDER, b"421-"),
    opening(Smtp, RESPONDER, b"554 "),
    opening(Smtp, RESPONDER, b"554-"),
    opening(Smtp, OPENER, b"EHLO "),
    opening(Smtp, OPENER, b"ehlo "),
    opening(Smtp, OPENER, b"HELO "),
    opening(Smtp, OPENER, b"helo "),
    opening(Smtp, OPENER, b"QUIT\r"),
    opening(Pop, RESPONDER, b"+OK"),
    opening(Pop, RESPONDER, b"-ERR"),
    opening(Imap, RESPONDER, b"* "),
    segment(Modbus, OPENER, b"??\0\0\0#?\x01", 12),
    segment(Modbus, OPENER, b"??\0\0\0#?\x02", 12),
    segment(Modbus, OPENER, b"??\0\0\0#?\x03", 12),
    segment(Modbus, OPENER, b"??\0\0\0#?\x04", 12),
    segment(Modbus, OPENER, b"??\0\0\0#?\x05", 12),
    segment(Modbus, OPENER, b"??\0\0\0#?\x06", 12),
    segment(Modbus, BOTH, b"??\0\0\0#?\x16", 14),
    segment(Modbus, OPENER, b"??\0\0\0#?\x07", 8),
    segment(Modbus, OPENER, b"??\0\0\0#?\x11", 8),
    opening(Modbus, OPENER, b"??\0\0\0#?\x0f????#"),
    opening(Modbus, OPENER, b"??\0\0\0#?\x10????#"),
    opening(Modbus, OPENER, b"??\0\0\0#?\x17????????#"),
    opening(Modbus, BOTH, b"??\0\0\0#?\x2b"),
    opening(Modbus, RESPONDER, b"??\0\0\0#?\x01#"),
    opening(Modbus, RESPONDER, b"??\0\0\0#?\x02#"),
    opening(Modbus, RESPONDER, b"??\0\0\0#?\x03#"),
    opening(Modbus, RESPONDER, b"??\0\0\0#?\x04#"),
    opening(Modbus, RESPONDER, b"??\0\0\0#?\x11#"),
    opening(Modbus, RESPONDER, b"??\0\0\0#?\x17#"),
    segment(Modbus, RESPONDER, b"??\0\0\0#?\x05", 12),
    segment(Modbus, RESPONDER, b"??\0\0\0#?\x06", 12),
    segment(Modbus, RESPONDER, b"??\0\0\0#?\x0f", 12),
    segment(Modbus, RESPONDER, b"??\0\0\0#?\x10", 12),
    segment(Modbus, RESPONDER, b"??\0\0\0#?\x07", 9),
    segment(Modbus, RESPONDER, b"??\0\0\0#?\x81", 9),
    segment(Modbus, RESPONDER, b"??\0\0\0#?\x82", 9),
    segment(Modbus, RESPONDER, b"??\0\0\0#?\x83", 9),
    segment(Modbus, RESPONDER, b"??\0\0\0#?\x84", 9),
    segment(Modbus, RESPONDER, b"??\0\0\0#?\x85", 9),
    segment(Modbus, RESPONDER, b"??\0\0\0#?\x86", 9),
    segment(Modbus, RESPONDER, b"??\0\0\0#?\x8f", 9),
    segment(Modbus, RESPONDER, b"??\0\0\0#?\x90", 9),
    segment(Modbus, RESPONDER, b"??\0\0\0#?\x97", 9),
    opening(Rdp, BOTH, b"\x03\0"),
    opening(Mqtt, OPENER, b"\x10?\0\x04MQTT"),
    opening(Mqtt, OPENER, b"\x10??\0\x04MQTT"),
    opening(Mqtt, OPENER, b"\x10?\0\x06MQIsdp"),
    opening(Mqtt, OPENER, b"\x10??\0\x06MQIsdp"),
    opening(Mqtt, BOTH, b"\x30"),
    opening(Mqtt, OPENER, b"\x82"),
    opening(Mqtt, OPENER, b"\xc0"),
    opening(Mqtt, RESPONDER, b"\x20"),
    opening(Mqtt, RESPONDER, b"\xd0"),
];

/// A set of openings, as bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Openings([u64; WORDS]);

const WORDS: usize = OPENINGS_LEN.div_ceil(64);
const OPENINGS_LEN: usize = 127;

/// What becomes of a set of openings as bytes are said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    /// These are still possible.
    Possible(Openings),
    /// One is complete.
    Known(Application),
    /// None is.
    Other,
}

impl Openings {
    /// Those of one side (0 the opener) that tell an application at any port.
    pub(super) fn plain(side: usize) -> Self {
        Self::of(side, |a| a.is_plain())
    }

    /// Those of one side of an application; none where nothing is asked of that side.
    pub(super) fn of_application(side: usize, application: Application) -> Self {
        Self::of(side, |a| a == application)
    }

    fn of(side: usize, is_one: impl Fn(Application) -> bool) -> Self {
        let mut ret = Self::NONE;
        let ones = OPENINGS.iter().enumerate().filter(|(_, o)| o.by[side] && is_one(o.application));
        ones.for_each(|(i, _)| ret.0[i / 64] |= 1 << (i % 64));
        ret
    }

    /// No opening.
    pub(super) const NONE: Self = Self([0; WORDS]);

    pub(super) fn is_empty(self) -> bool {
        self == Self::NONE
    }

    /// Those that are in both sets.
    pub(super) fn and(self, other: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] & other.0[i]))
    }

    /// What is left after `byte` at place `at`, which `follow` bytes of its segment follow; `None` is a byte that is drawn when
    /// rendered.
    pub(super) fn hear(self, at: usize, byte: Option<u8>, follow: usize) -> Heard {
        let mut left = Self::NONE;
        for i in (0..OPENINGS_LEN).filter(|i| self.0[i / 64] >> (i % 64) & 1 == 1) {
            let Opening { application, bytes, whole, .. } = &OPENINGS[i];
            let is_right = bytes.get(at).is_some_and(|b| match b {
                b'?' => true,
                b'#' => byte.is_some_and(|byte| usize::from(byte) == follow),
                b => Some(*b) == byte,
            });
            if !is_right || *whole != 0 && *whole != at + 1 + follow {
                continue;
            }
            if at + 1 == bytes.len() {
                return Heard::Known(*application);
            }
            left.0[i / 64] |= 1 << (i % 64);
        }
        if left.is_empty() { Heard::Other } else { Heard::Possible(left) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a side is taken for by its first bytes.
    fn told(of: Openings, bytes: &[u8]) -> Heard {
        let mut left = of;
        for (at, byte) in bytes.iter().enumerate() {
            match left.hear(at, Some(*byte), bytes.len() - at - 1) {
                Heard::Possible(openings) => left = openings,
                end => return end,
            }
        }
        Heard::Possible(left)
    }

    #[test]
    fn the_methods_that_open_are_those_of_the_grammar_of_heads() {
        let opens = OPENINGS.iter().filter(|opening| opening.application == Http && opening.by == OPENER);
        let opens = opens.map(|opening| std::str::from_utf8(opening.bytes).unwrap());
        assert_eq!(opens.collect::<Vec<_>>(), super::super::http::METHODS);
    }

    #[test]
    fn applications_are_told_by_their_first_bytes() {
        let plain = |side, bytes: &[u8]| told(Openings::plain(side), bytes);
        assert_eq!(plain(0, b"GET / HTTP/1.1\r\n"), Heard::Known(Http));
        assert_eq!(plain(0, b"SUBSCRIBE /upnp HTTP/1.1\r\n"), Heard::Known(Http));
        assert_eq!(plain(1, b"HTTP/1.0 200 OK\r\n"), Heard::Known(Http));
        assert_eq!(plain(1, b"GET / HTTP/1.1\r\n"), Heard::Other);
        assert_eq!(plain(1, b"SSH-2.0-OpenSSH_9.2\r\n"), Heard::Known(Ssh));
        assert_eq!(plain(0, b"\x16\x03\x01\x02\x00\x01"), Heard::Known(Tls));
        assert_eq!(plain(0, b"\x15\x03\x01\x00\x02"), Heard::Other);
        // SMB 1 in one segment, SMB 2 whose first segment is the session service's header alone.
        assert_eq!(plain(0, b"\x00\x00\x00\x9b\xffSMBr"), Heard::Known(Smb));
        assert!(matches!(plain(1, b"\x00\x00\x00\xca"), Heard::Possible(_)));
        assert_eq!(plain(0, b"hello"), Heard::Other);
        let at = |port, side| Openings::of_application(side, promised(port).unwrap());
        assert_eq!(told(at(21, 1), b"220 (vsFTPd 3.0.3)\r\n"), Heard::Known(Ftp));
        assert_eq!(told(at(21, 0), b"USER anonymous\r\n"), Heard::Known(Ftp));
        assert_eq!(told(at(502, 0), b"\x00\x01\x00\x00\x00\x06\x01\x03\x00\x00\x00\x01"), Heard::Known(Modbus));
        assert_eq!(told(at(502, 0), b"\x00\x01\x00\x00\x00\x07\x01\x03\x00\x00\x00\x01"), Heard::Other);
        assert_eq!(told(at(502, 0), b"\x00\x01\x02\x00\x00\x06"), Heard::Other);
        assert_eq!(told(at(1883, 0), b"\x10\x25\x00\x06MQIsdp\x03"), Heard::Known(Mqtt));
        assert_eq!(told(at(25, 0), b"EHLO river.example\r\n"), Heard::Known(Smtp));
        assert_eq!(told(at(587, 0), b"HTTP/1.1 200 OK\r\n"), Heard::Other);
        // Nothing is asked of a client that reads its mail.
        assert!(at(110, 0).is_empty());
    }

    #[test]
    fn no_opening_is_empty_or_longer_than_the_longest() {
        assert!(OPENINGS.iter().all(|o| (1..=OPENING_MAX).contains(&o.bytes.len())));
        assert_eq!(OPENINGS.iter().map(|o| o.bytes.len()).max(), Some(OPENING_MAX));
    }
}
