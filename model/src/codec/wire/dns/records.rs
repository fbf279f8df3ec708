//! What DNS records hold, as far as it decides where one field ends and the next begins.

/// A part of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    /// So many bytes of which nothing is asked.
    Bytes(u16),
    /// Two bytes that decide something.
    Number(Number),
    /// A domain name, which may end in a pointer (RFC 1035, section 4.1.4).
    Name,
    /// A string behind its length (RFC 1035, section 3.3).
    Text,
    /// Such strings to the end.
    Texts,
    /// Numbered options, each behind its length, to the end (RFC 6891, section 6.1.2; RFC 9460, section 2.2).
    Options,
    /// Blocks of a map of types to the end (RFC 4034, section 4.1.2).
    Bitmaps,
    /// Everything to the end.
    Rest,
}

/// What two bytes decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Number {
    /// Query or response, and what kind of it.
    Flags,
    /// Entries of a section.
    Count(u8),
    /// The type that a question asks for.
    Asked,
    /// The type of a record.
    Type,
    /// The class of a question or a record.
    Class,
    /// Bytes of a record's data.
    Length,
}

use Field::{Bitmaps, Bytes, Name, Options, Rest, Text, Texts};

impl Field {
    /// Bytes that it has at least.
    pub(super) fn least(self) -> u16 {
        match self {
            Self::Bytes(n) => n,
            Self::Number(_) => 2,
            Self::Name | Self::Text => 1,
            Self::Texts | Self::Options | Self::Bitmaps | Self::Rest => 0,
        }
    }

    /// Bytes that it has at most, where that is limited.
    pub(super) fn most(self) -> Option<u16> {
        match self {
            Self::Bytes(n) => Some(n),
            Self::Number(_) => Some(2),
            Self::Name => Some(255),
            Self::Text => Some(256),
            Self::Texts | Self::Options | Self::Bitmaps | Self::Rest => None,
        }
    }
}

/// A message's header (RFC 1035, section 4.1.1).
pub(super) static HEADER: [Field; 6] = [
    Bytes(2),
    Field::Number(Number::Flags),
    Field::Number(Number::Count(0)),
    Field::Number(Number::Count(1)),
    Field::Number(Number::Count(2)),
    Field::Number(Number::Count(3)),
];

/// A question (RFC 1035, section 4.1.2).
pub(super) static QUESTION: [Field; 3] = [Name, Field::Number(Number::Asked), Field::Number(Number::Class)];

/// A record up to its data (RFC 1035, section 4.1.3).
pub(super) static RECORD: [Field; 5] =
    [Name, Field::Number(Number::Type), Field::Number(Number::Class), Bytes(4), Field::Number(Number::Length)];

/// The pseudo-record of EDNS (RFC 6891, section 6.1).
pub(super) const OPT: u16 = 41;

/// The types of records and what their data are made of. TXT takes data of any length, so that no message is without an end.
pub(super) static TYPES: [(u16, &[Field]); 28] = [
    (1, &[Bytes(4)]),                          // A, RFC 1035
    (2, &[Name]),                              // NS
    (5, &[Name]),                              // CNAME
    (6, &[Name, Name, Bytes(20)]),             // SOA
    (12, &[Name]),                             // PTR
    (13, &[Text, Text]),                       // HINFO
    (15, &[Bytes(2), Name]),                   // MX
    (16, &[Text, Texts]),                      // TXT
    (17, &[Name, Name]),                       // RP, RFC 1183
    (28, &[Bytes(16)]),                        // AAAA, RFC 3596
    (29, &[Bytes(16)]),                        // LOC, RFC 1876
    (33, &[Bytes(6), Name]),                   // SRV, RFC 2782
    (35, &[Bytes(4), Text, Text, Text, Name]), // NAPTR, RFC 3403
    (39, &[Name]),                             // DNAME, RFC 6672
    (OPT, &[Options]),                         // RFC 6891
    (43, &[Bytes(4), Rest]),                   // DS, RFC 4034
    (44, &[Bytes(2), Rest]),                   // SSHFP, RFC 4255
    (46, &[Bytes(18), Name, Rest]),            // RRSIG, RFC 4034
    (47, &[Name, Bitmaps]),                    // NSEC
    (48, &[Bytes(4), Rest]),                   // DNSKEY
    (50, &[Bytes(4), Text, Text, Bitmaps]),    // NSEC3, RFC 5155
    (51, &[Bytes(4), Text]),                   // NSEC3PARAM
    (52, &[Bytes(3), Rest]),                   // TLSA, RFC 6698
    (61, &[Rest]),                             // OPENPGPKEY, RFC 7929
    (64, &[Bytes(2), Name, Options]),          // SVCB, RFC 9460
    (65, &[Bytes(2), Name, Options]),          // HTTPS
    (99, &[Text, Texts]),                      // SPF, RFC 7208
    (257, &[Bytes(1), Text, Rest]),            // CAA, RFC 8659
];

/// Classes of records: Internet, Chaos.
pub(super) const RECORD_CLASSES: [u16; 2] = [1, 3];

/// Classes that are asked for (RFC 6895, section 3.2), also Hesiod, none, any.
pub(super) const CLASSES: [u16; 5] = [1, 3, 4, 254, 255];

/// What the data of a record of this type are made of.
pub(super) fn data_of(kind: u16) -> Option<&'static [Field]> {
    TYPES.iter().find(|t| t.0 == kind).map(|t| t.1)
}
