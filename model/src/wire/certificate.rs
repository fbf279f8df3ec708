//! Certificates that readers can read and nobody can rely on: X.509 (RFC 5280) in DER (X.690), of whatever length is asked for, with
//! drawn keys and signatures.

use rand::{Rng, RngExt};
use rand_chacha::ChaCha8Rng;

use super::plan;
use crate::packet::Timestamp;

/// Longest certificate that is made: longer chains have several.
const CERTIFICATE_MAX: usize = 1800;
/// Bytes of a length in front of a certificate, and of all.
const LENGTH: usize = 3;
/// The shortest certificate there is, about: what is left of a chain is no shorter.
const CERTIFICATE_MIN: usize = 420;
/// Letters of a name that fits into any certificate.
const NAME_LEN: usize = 16;
/// Days that a certificate has been valid for at most, and is.
const DAYS: i64 = 90;
const DAY_NS: i64 = 86_400_000_000_000;

/// ECDSA with SHA-256, an EC key on P-256, RSA with SHA-256, an RSA key (RFC 5758, 5480, 4055, 3279).
const ECDSA: &[u8] = b"\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02";
const EC_KEY: &[u8] = b"\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07";
const RSA: &[u8] = b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b\x05\x00";
const RSA_KEY: &[u8] = b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00";
/// Object identifiers: a common name, other names of the subject, a comment.
const COMMON_NAME: &[u8] = b"\x06\x03\x55\x04\x03";
const OTHER_NAMES: &[u8] = b"\x06\x03\x55\x1d\x11";
const COMMENT: &[u8] = b"\x06\x09\x60\x86\x48\x01\x86\xf8\x42\x01\x0d";
const RSA_BYTES: usize = 256;
/// Certificates with keys of RSA are as long at least.
const RSA_FROM: usize = 1000;
/// Tags, lengths and the identifier around a comment, and what lengths outside grow by.
const COMMENT_HEADS: usize = 40;

/// Bytes of the shortest chain.
pub const CHAIN_MIN: usize = 2 * LENGTH + CERTIFICATE_MIN;

/// The body of a Certificate message of TLS 1.2 and before (RFC 5246, section 7.4.2), `len` bytes long: a chain for the host `name`.
/// `None` where no certificate is as short.
pub fn chain(len: usize, name: &[u8], now: Timestamp, rng: &mut ChaCha8Rng) -> Option<Vec<u8>> {
    let mut left = len.checked_sub(LENGTH)?;
    let mut ret = Vec::with_capacity(len);
    ret.extend_from_slice(&(left as u32).to_be_bytes()[1..]);
    let mut name = name.to_vec();
    while left > 0 {
        let all = left.checked_sub(LENGTH)?;
        let is_last = all <= CERTIFICATE_MAX;
        let size = if is_last { all } else { (all / 2).clamp(CERTIFICATE_MIN, CERTIFICATE_MAX - CERTIFICATE_MIN) };
        let issuer = plan::name(rng.random_range(12..24), rng);
        // A name may be too long for it.
        let certificate = certificate(size, &name, &issuer, now, rng)
            .or_else(|| certificate(size, &plan::name(NAME_LEN, rng), &issuer, now, rng))?;
        ret.extend_from_slice(&(size as u32).to_be_bytes()[1..]);
        ret.extend_from_slice(&certificate);
        left = all - size;
        name = issuer;
    }
    Some(ret)
}

/// A certificate of `len` bytes; `None` where there is none.
fn certificate(len: usize, subject: &[u8], issuer: &[u8], now: Timestamp, rng: &mut ChaCha8Rng) -> Option<Vec<u8>> {
    let begin = now.plus_nanos(-rng.random_range(1..DAYS) * DAY_NS);
    let mut parts = Parts { is_rsa: len >= RSA_FROM, subject, issuer, begin, serial: 0, comment: 0 };
    // Longer comments fill what is left; where a length takes a byte more, a shorter serial number makes up for it.
    for serial in (8..=18).rev() {
        (parts.serial, parts.comment) = (serial, 0);
        let Some(more) = len.checked_sub(parts.len()) else { continue };
        for comment in more.saturating_sub(COMMENT_HEADS)..=more {
            parts.comment = comment;
            if parts.len() == len {
                return Some(parts.build(&mut |bytes| rng.fill_bytes(bytes)));
            }
        }
    }
    None
}

/// What a certificate is made of.
struct Parts<'a> {
    is_rsa: bool,
    subject: &'a [u8],
    issuer: &'a [u8],
    begin: Timestamp,
    /// Bytes of the serial number, and of the comment.
    serial: usize,
    comment: usize,
}

impl Parts<'_> {
    /// Bytes of the certificate.
    fn len(&self) -> usize {
        let name = |text: &[u8]| tlv_len(tlv_len(tlv_len(COMMON_NAME.len() + tlv_len(text.len()))));
        let end = self.begin.plus_nanos(DAYS * DAY_NS);
        let validity = tlv_len(time(self.begin).len() + time(end).len());
        let (algorithm, key, signature) = if self.is_rsa {
            let key = tlv_len(tlv_len(RSA_BYTES) + 5);
            (RSA.len(), tlv_len(RSA_KEY.len() + tlv_len(1 + key)), RSA_BYTES)
        } else {
            (ECDSA.len(), tlv_len(EC_KEY.len() + tlv_len(2 + 64)), tlv_len(2 * tlv_len(32)))
        };
        let names = tlv_len(OTHER_NAMES.len() + tlv_len(tlv_len(tlv_len(self.subject.len()))));
        let comment = tlv_len(COMMENT.len() + tlv_len(tlv_len(self.comment)));
        let extensions = tlv_len(tlv_len(names + if self.comment > 0 { comment } else { 0 }));
        let hosts = name(self.issuer) + name(self.subject);
        let body = 5 + tlv_len(self.serial) + algorithm + hosts + validity + key + extensions;
        tlv_len(tlv_len(body) + algorithm + tlv_len(1 + signature))
    }

    /// The certificate, with what `draw` makes of its keys and numbers.
    fn build(&self, draw: &mut dyn FnMut(&mut [u8])) -> Vec<u8> {
        let mut drawn = |n: usize| {
            let mut bytes = vec![0; n];
            draw(&mut bytes);
            bytes
        };
        // Positive, and with no byte too many.
        let positive = |mut bytes: Vec<u8>| {
            bytes[0] = bytes[0] & 0x3f | 0x40;
            bytes
        };
        let algorithm = if self.is_rsa { RSA } else { ECDSA };
        let name = |text: &[u8]| tlv(0x30, &[&tlv(0x31, &[&tlv(0x30, &[COMMON_NAME, &tlv(0x0c, &[text])])])]);
        let validity = tlv(0x30, &[&time(self.begin), &time(self.begin.plus_nanos(DAYS * DAY_NS))]);
        let key = if self.is_rsa {
            let modulus = tlv(0x02, &[&positive(drawn(RSA_BYTES))]);
            let key = tlv(0x30, &[&modulus, b"\x02\x03\x01\x00\x01"]);
            tlv(0x30, &[RSA_KEY, &tlv(0x03, &[&[0], &key])])
        } else {
            tlv(0x30, &[EC_KEY, &tlv(0x03, &[&[0, 4], &drawn(64)])])
        };
        let names = tlv(0x30, &[&tlv(0x82, &[self.subject])]);
        let mut extensions = vec![tlv(0x30, &[OTHER_NAMES, &tlv(0x04, &[&names])])];
        if self.comment > 0 {
            let letters: Vec<u8> = drawn(self.comment).into_iter().map(|b| b'a' + b % 26).collect();
            extensions.push(tlv(0x30, &[COMMENT, &tlv(0x04, &[&tlv(0x16, &[&letters])])]));
        }
        let extensions = tlv(0xa3, &[&tlv(0x30, &[&extensions.concat()])]);
        let serial = tlv(0x02, &[&positive(drawn(self.serial))]);
        let head: &[u8] = b"\xa0\x03\x02\x01\x02";
        let body = [head, &serial, algorithm, &name(self.issuer), &validity, &name(self.subject), &key, &extensions];
        let signature = if self.is_rsa {
            drawn(RSA_BYTES)
        } else {
            let mut number = || tlv(0x02, &[&positive(drawn(32))]);
            tlv(0x30, &[&number(), &number()])
        };
        tlv(0x30, &[&tlv(0x30, &body), algorithm, &tlv(0x03, &[&[0], &signature])])
    }
}

/// A value with its tag and length (X.690, section 8.1.3).
fn tlv(tag: u8, value: &[&[u8]]) -> Vec<u8> {
    let len: usize = value.iter().map(|part| part.len()).sum();
    let mut ret = vec![tag];
    match len {
        0..128 => ret.push(len as u8),
        128..256 => ret.extend([0x81, len as u8]),
        _ => ret.extend([0x82, (len >> 8) as u8, len as u8]),
    }
    value.iter().for_each(|part| ret.extend_from_slice(part));
    ret
}

/// Bytes of a value with its tag and length.
fn tlv_len(len: usize) -> usize {
    len + match len {
        0..128 => 2,
        128..256 => 3,
        _ => 4,
    }
}

/// A time, to the second (RFC 5280, section 4.1.2.5): with two digits of the year before 2050.
fn time(at: Timestamp) -> Vec<u8> {
    let seconds = at.0.div_euclid(1_000_000_000);
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // The calendar in years that begin with March, in eras of 400 years.
    let day = days + 719_468;
    let (era, of_era) = (day.div_euclid(146_097), day.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let (month, day) = ((shifted + 2) % 12 + 1, of_year - (153 * shifted + 2) / 5 + 1);
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    let rest = format!("{month:02}{day:02}{:02}{:02}{:02}Z", second / 3600, second / 60 % 60, second % 60);
    match year {
        1950..2050 => tlv(0x17, &[format!("{:02}{rest}", year % 100).as_bytes()]),
        _ => tlv(0x18, &[format!("{year:04}{rest}").as_bytes()]),
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    /// Whether values within values fill `bytes` exactly, to the leaves.
    fn is_der(mut bytes: &[u8]) -> bool {
        while let [tag, first, rest @ ..] = bytes {
            let (len, rest) = match (first, rest) {
                (0x81, [a, rest @ ..]) => (usize::from(*a), rest),
                (0x82, [a, b, rest @ ..]) => (usize::from(*a) << 8 | usize::from(*b), rest),
                (n, rest) => (usize::from(*n), rest),
            };
            let Some((value, rest)) = rest.split_at_checked(len) else { return false };
            // Sequences, sets, and what is tagged by its place.
            if tag & 0x20 != 0 && !is_der(value) {
                return false;
            }
            bytes = rest;
        }
        bytes.is_empty()
    }

    #[test]
    fn a_chain_is_as_long_as_asked_for() {
        let now = Timestamp::from_parts(1_700_000_000, 0);
        let mut made = 0;
        for len in (4..2600).chain((2600..17_000).step_by(97)) {
            let mut rng = ChaCha8Rng::seed_from_u64(len as u64);
            let Some(body) = chain(len, b"shop.example.org", now, &mut rng) else {
                assert!(len < CERTIFICATE_MIN + 6, "{len}");
                continue;
            };
            made += 1;
            assert_eq!(body.len(), len);
            let number =
                |at: usize| usize::from(body[at]) << 16 | usize::from(body[at + 1]) << 8 | usize::from(body[at + 2]);
            assert_eq!(number(0), len - 3);
            let mut at = 3;
            while at < len {
                let size = number(at);
                let certificate = &body[at + 3..at + 3 + size];
                assert!(certificate[0] == 0x30 && is_der(certificate), "{len}: {certificate:02x?}");
                at += 3 + size;
            }
            assert_eq!(at, len);
            assert!(body.windows(16).any(|w| w == b"shop.example.org"));
        }
        assert!(made > 2200, "{made}");
    }

    #[test]
    fn any_name_has_a_chain_of_any_length_from_the_shortest() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for len in (CHAIN_MIN..CHAIN_MIN + 700).chain((2000..6000).step_by(31)) {
            for name in [1, 40, 253] {
                let body = chain(len, &vec![b'a'; name], Timestamp::from_parts(2_600_000_000, 0), &mut rng);
                assert_eq!(body.map(|body| body.len()), Some(len), "{name}");
            }
        }
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        let at = |seconds| String::from_utf8(time(Timestamp::from_parts(seconds, 0))[2..].to_vec()).unwrap();
        assert_eq!(at(1_700_000_000), "231114221320Z");
        assert_eq!(at(1_709_164_800), "240229000000Z");
        assert_eq!(at(0), "700101000000Z");
        assert_eq!(at(2_524_607_999), "491231235959Z");
        assert_eq!(at(2_524_608_000), "20500101000000Z");
    }
}
