//! Versions of QUIC whose Initial packets anybody can read, and in what they differ.

/// The Initial salt of RFC 9001, section 5.2, of RFC 9369, section 3.3.1, and of drafts 29 to 32, 23 to 28 and 22 before them
/// (draft-ietf-quic-tls, section 5.2).
const SALT_1: [u8; 20] = *b"\x38\x76\x2c\xf7\xf5\x59\x34\xb3\x4d\x17\x9a\xe6\xa4\xc8\x0c\xad\xcc\xbb\x7f\x0a";
const SALT_2: [u8; 20] = *b"\x0d\xed\xe3\xde\xf7\x00\xa6\xdb\x81\x93\x81\xbe\x6e\x26\x9d\xcb\xf9\xbd\x2e\xd9";
const SALT_29: [u8; 20] = *b"\xaf\xbf\xec\x28\x99\x93\xd2\x4c\x9e\x97\x86\xf1\x9c\x61\x11\xe0\x43\x90\xa8\x99";
const SALT_23: [u8; 20] = *b"\xc3\xee\xf7\x12\xc7\x2e\xbb\x5a\x11\xa7\xd2\x43\x2b\xb4\x63\x65\xbe\xf9\xf5\x02";
const SALT_22: [u8; 20] = *b"\x7f\xbc\xdb\x0e\x7c\x66\xbb\xe9\x19\x3a\x96\xcd\x21\x51\x9e\xbd\x7a\x02\x64\x4a";

/// Labels of key, vector and header's key (RFC 9001, section 5.1), and those of version 2 (RFC 9369, section 3.3.2).
const LABELS: [&[u8]; 3] = [b"quic key", b"quic iv", b"quic hp"];
const LABELS_2: [&[u8]; 3] = [b"quicv2 key", b"quicv2 iv", b"quicv2 hp"];

/// The extension of TLS with QUIC's parameters (RFC 9001, section 8.2), and that of the drafts.
const PARAMETERS: u16 = 0x39;
const PARAMETERS_DRAFT: u16 = 0xffa5;

/// A version: what its Initial packets are protected with, and what they say of it.
#[derive(Debug, PartialEq, Eq)]
pub struct Version {
    /// As in a long header.
    pub number: u32,
    pub(super) salt: [u8; 20],
    pub(super) key_labels: [&'static [u8]; 3],
    /// Number of the extension with QUIC's parameters, and whether those have numbers and lengths of variable length.
    pub(super) parameters: u16,
    pub(super) has_varints: bool,
    /// What clients say that they want to talk over it.
    pub(super) alpn: &'static [u8],
    /// Bits of the kinds of long headers: Initial, 0-RTT, Handshake.
    pub(super) kinds: [u8; 3],
}

const VERSION_1: Version = Version {
    number: 1,
    salt: SALT_1,
    key_labels: LABELS,
    parameters: PARAMETERS,
    has_varints: true,
    alpn: b"h3",
    kinds: [0, 1, 2],
};
const VERSION_2: Version =
    Version { number: 0x6b33_43cf, salt: SALT_2, key_labels: LABELS_2, kinds: [1, 2, 3], ..VERSION_1 };

const fn draft(number: u32, salt: [u8; 20], has_varints: bool, alpn: &'static [u8]) -> Version {
    Version { number, salt, has_varints, alpn, parameters: PARAMETERS_DRAFT, ..VERSION_1 }
}

/// Both RFCs, drafts, and Facebook's own two, which are drafts 22 and 27 by another name.
static VERSIONS: [Version; 10] = [
    VERSION_1,
    VERSION_2,
    draft(0xff00_0020, SALT_29, true, b"h3-32"),
    draft(0xff00_001f, SALT_29, true, b"h3-31"),
    draft(0xff00_001e, SALT_29, true, b"h3-30"),
    draft(0xff00_001d, SALT_29, true, b"h3-29"),
    draft(0xff00_001c, SALT_23, true, b"h3-28"),
    draft(0xff00_001b, SALT_23, true, b"h3-27"),
    draft(0xface_b002, SALT_23, true, b"h3-fb-05"),
    draft(0xface_b001, SALT_22, false, b"h1q-fb"),
];

impl Version {
    /// The version with this number, if it is one of them.
    pub fn find(number: u32) -> Option<&'static Self> {
        VERSIONS.iter().find(|version| version.number == number)
    }
}
