//! NTP (RFC 5905): what a message determines of the next one, and the time of day of both.

use rand::{Rng, RngExt};

use crate::packet::Timestamp;

/// Port of servers, and of clients that are servers.
const PORT: u16 = 123;
/// Bytes of the header (section 7.3).
const HEADER_LEN: usize = 48;
/// Lengths of whole messages, without a key and with a digest of MD5 or SHA-1 (section 7.5).
const USUAL: [usize; 3] = [HEADER_LEN, HEADER_LEN + 20, HEADER_LEN + 24];
/// Bytes of the shortest extension field (RFC 7822, section 3).
const EXTENSION_MIN: usize = 16;
/// An extension that anybody may send and that says nothing: unique identifier (RFC 8915, section 5.3).
const UNIQUE_IDENTIFIER: [u8; 2] = [0x01, 0x04];
/// Seconds from the beginning of NTP's first era to that of Unix (section 6).
const UNIX_ERA: i64 = 2_208_988_800;

/// Where fields begin: delay and dispersion to the root, who it is, and four times.
const ROOT_AT: usize = 4;
const REFERENCE_ID_AT: usize = 12;
const REFERENCE_AT: usize = 16;
const ORIGIN_AT: usize = 24;
const RECEIVE_AT: usize = 32;
const TRANSMIT_AT: usize = 40;

/// What a server of stratum 1 has its time from (section 7.3).
const SOURCES: [[u8; 4]; 3] = [*b"GPS\0", *b"PPS\0", *b"DCFa"];

/// Association modes (section 3): those whose messages have this header.
const SYMMETRIC: [u8; 2] = [1, 2];
const CLIENT: u8 = 3;
const SERVER: u8 = 4;
const BROADCAST: u8 = 5;

/// Whether a datagram between these ports is of NTP.
pub fn is_ntp(ports: [u16; 2]) -> bool {
    ports.contains(&PORT)
}

/// Two that tell each other the time.
#[derive(Debug, Clone, Copy, Default)]
pub struct Association {
    /// When the last message of each side was sent, as it says; the opener first.
    transmitted: [[u8; 8]; 2],
}

impl Association {
    /// Fills in what was drawn of a message that is sent `now`: its kind where that was drawn, and what servers say of theirs. Times are of now, also
    /// where others were said, unless they are zero, which says that there is none. What is no message with a header of this kind stays as it is.
    pub fn complete(
        &mut self,
        message: &mut [u8],
        is_reply: bool,
        now: Timestamp,
        is_drawn: impl Fn(usize) -> bool,
        rng: &mut impl Rng,
    ) {
        if message.len() < HEADER_LEN || is_drawn(0) && !USUAL.contains(&message.len()) {
            return;
        }
        if is_drawn(0) {
            message[0] = 4 << 3 | if is_reply { SERVER } else { CLIENT };
        }
        let (version, mode) = (message[0] >> 3 & 7, message[0] & 7);
        let is_known = SYMMETRIC.contains(&mode) || [CLIENT, SERVER, BROADCAST].contains(&mode);
        if !(1..=4).contains(&version) || !is_known {
            return;
        }
        let (me, peer) = (usize::from(is_reply), usize::from(!is_reply));
        let made = match mode {
            CLIENT => self.as_client(peer, now, rng),
            _ => {
                let stratum = if is_drawn(1) { rng.random_range(1..=3) } else { message[1] };
                self.as_server(mode, stratum, message, peer, now, rng)
            }
        };
        for at in (1..REFERENCE_AT).filter(|at| is_drawn(*at)) {
            message[at] = made[at];
        }
        for from in [REFERENCE_AT, ORIGIN_AT, RECEIVE_AT, TRANSMIT_AT] {
            let range = from..from + 8;
            let is_drawn = range.clone().any(&is_drawn);
            // What a client need not say (section 14) it does not where nothing was said.
            if is_drawn && mode == CLIENT && from != TRANSMIT_AT {
                message[range].fill(0);
            } else if is_drawn || message[range.clone()] != [0; 8] {
                message[range.clone()].copy_from_slice(&made[range]);
            }
        }
        self.transmitted[me].copy_from_slice(&message[TRANSMIT_AT..HEADER_LEN]);
        extend(message, is_drawn);
    }

    /// A client that knows what time it was, and what it was told last; it says nothing of its clock.
    fn as_client(self, peer: usize, now: Timestamp, rng: &mut impl Rng) -> Vec<u8> {
        let mut made = vec![0; HEADER_LEN];
        let told = self.transmitted[peer];
        if told != [0; 8] {
            // It came within some milliseconds.
            let received = u64::from_be_bytes(told).wrapping_add(rng.random_range(1 << 20..1 << 24));
            made[ORIGIN_AT..RECEIVE_AT].copy_from_slice(&told);
            made[RECEIVE_AT..TRANSMIT_AT].copy_from_slice(&received.to_be_bytes());
        }
        made[REFERENCE_AT..ORIGIN_AT].copy_from_slice(&time(set_before(now, rng)));
        made[TRANSMIT_AT..].copy_from_slice(&time(now));
        made
    }

    fn as_server(
        self,
        mode: u8,
        stratum: u8,
        message: &[u8],
        peer: usize,
        now: Timestamp,
        rng: &mut impl Rng,
    ) -> Vec<u8> {
        let mut made = message[..HEADER_LEN].to_vec();
        // Polled each minute to half an hour, a clock of some millionths of a second down to some hundred millionths.
        made[1..ROOT_AT].copy_from_slice(&[stratum, rng.random_range(6..=11), rng.random_range(-25..=-18_i8) as u8]);
        // Below a tenth of a second.
        made[ROOT_AT..REFERENCE_ID_AT].copy_from_slice(&[
            0,
            0,
            rng.random_range(0..25),
            0,
            0,
            0,
            rng.random_range(0..25),
            0,
        ]);
        if stratum == 1 {
            made[REFERENCE_ID_AT..REFERENCE_AT].copy_from_slice(&SOURCES[rng.random_range(0..SOURCES.len())]);
        }
        let before = |ns: i64| time(Timestamp(now.0.saturating_sub(ns)));
        let was_asked = mode != BROADCAST;
        let received = if was_asked { before(rng.random_range(5_000..200_000)) } else { [0; 8] };
        made[REFERENCE_AT..ORIGIN_AT].copy_from_slice(&time(set_before(now, rng)));
        made[ORIGIN_AT..RECEIVE_AT].copy_from_slice(if was_asked { &self.transmitted[peer] } else { &[0; 8] });
        made[RECEIVE_AT..TRANSMIT_AT].copy_from_slice(&received);
        made[TRANSMIT_AT..].copy_from_slice(&time(now));
        made
    }
}

/// When a clock was last set that is set four times an hour.
fn set_before(now: Timestamp, rng: &mut impl Rng) -> Timestamp {
    Timestamp(now.0.saturating_sub(rng.random_range(1..1_024_i64) * 1_000_000_000))
}

/// Makes what is behind the header one extension field, where it is neither a digest nor said.
fn extend(message: &mut [u8], is_drawn: impl Fn(usize) -> bool) {
    let rest = message.len() - HEADER_LEN;
    let is_field = rest >= EXTENSION_MIN && rest.is_multiple_of(4) && !USUAL.contains(&message.len());
    if let (true, Ok(len)) = (is_field && (HEADER_LEN..HEADER_LEN + 4).all(is_drawn), u16::try_from(rest)) {
        message[HEADER_LEN..HEADER_LEN + 2].copy_from_slice(&UNIQUE_IDENTIFIER);
        message[HEADER_LEN + 2..HEADER_LEN + 4].copy_from_slice(&len.to_be_bytes());
    }
}

/// A time as NTP has it (section 6): seconds of the era, and parts of 2^32 of one.
fn time(at: Timestamp) -> [u8; 8] {
    let (seconds, ns) = (at.0.div_euclid(1_000_000_000), at.0.rem_euclid(1_000_000_000));
    let fraction = ((ns as u64) << 32) / 1_000_000_000;
    let mut ret = [0; 8];
    // An era is 2^32 seconds long, and which one is not said.
    ret[..4].copy_from_slice(&((seconds + UNIX_ERA) as u32).to_be_bytes());
    ret[4..].copy_from_slice(&(fraction as u32).to_be_bytes());
    ret
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// 2024-01-01 00:00:00.5.
    const NOW: Timestamp = Timestamp(1_704_067_200_500_000_000);

    fn at(message: &[u8], from: usize) -> u64 {
        u64::from_be_bytes(message[from..from + 8].try_into().unwrap())
    }

    #[test]
    fn a_time_is_seconds_and_parts_since_1900() {
        // RFC 5905, figure 4: the Unix era begins at 2,208,988,800.
        assert_eq!(time(Timestamp(0)), [0x83, 0xaa, 0x7e, 0x80, 0, 0, 0, 0]);
        assert_eq!(time(Timestamp(500_000_000))[4..], [0x80, 0, 0, 0]);
        // 2036-02-07 06:28:16 begins the second era.
        assert_eq!(time(Timestamp(2_085_978_496_000_000_000)), [0; 8]);
    }

    #[test]
    fn an_answer_repeats_when_the_question_was_sent_and_says_when_it_came() {
        for seed in 0..20 {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let (mut question, mut answer) = ([0xAA; HEADER_LEN], [0xBB; HEADER_LEN]);
            let mut association = Association::default();
            association.complete(&mut question, false, NOW, |_| true, &mut rng);
            assert_eq!((question[0], at(&question, TRANSMIT_AT)), (0x23, at(&time(NOW), 0)));
            assert!(question[1..TRANSMIT_AT].iter().all(|b| *b == 0));

            let later = Timestamp(NOW.0 + 30_000_000);
            association.complete(&mut answer, true, later, |_| true, &mut rng);
            assert_eq!((answer[0], at(&answer, ORIGIN_AT)), (0x24, at(&question, TRANSMIT_AT)));
            assert!((1..=3).contains(&answer[1]) && (answer[1] == 1) == answer[REFERENCE_ID_AT].is_ascii_uppercase());
            let times = [ORIGIN_AT, RECEIVE_AT, TRANSMIT_AT].map(|from| at(&answer, from));
            assert!(times.is_sorted() && at(&answer, REFERENCE_AT) < times[1], "{answer:?}");
        }
    }

    #[test]
    fn what_was_said_stays_and_other_messages_too() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut association = Association::default();
        // A client's first four bytes.
        let mut message = [0xAA; HEADER_LEN];
        message[..4].copy_from_slice(&[0xe3, 0, 3, 0x20]);
        association.complete(&mut message, false, NOW, |at| at >= 4, &mut rng);
        assert_eq!((&message[..4], at(&message, ORIGIN_AT)), (&[0xe3, 0, 3, 0x20][..], 0));
        // Times that were said are told anew, but not that there is none.
        let mut message = [0; HEADER_LEN];
        (message[0], message[TRANSMIT_AT]) = (0x1b, 0x99);
        association.complete(&mut message, false, NOW, |_| false, &mut rng);
        assert_eq!((at(&message, REFERENCE_AT), at(&message, TRANSMIT_AT)), (0, at(&time(NOW), 0)));
        // Of the control protocol, of another version, too short, and another protocol's.
        for (first, len) in [(0x16, 48), (0x3b, 48), (0x23, 47), (0x64, 40)] {
            let mut other = vec![0xAA; len];
            other[0] = first;
            let before = other.clone();
            association.complete(&mut other, false, NOW, |at| at > 0, &mut rng);
            assert_eq!(other, before);
        }
        let mut odd = [0xAA; 802];
        association.complete(&mut odd, false, NOW, |_| true, &mut rng);
        assert_eq!(odd, [0xAA; 802]);
    }

    #[test]
    fn what_is_behind_the_header_is_a_digest_or_a_field() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        for (len, field) in [(68, None), (72, None), (80, Some(32)), (62, None), (60, None)] {
            let mut message = vec![0xAA; len];
            message[0] = 0x23;
            Association::default().complete(&mut message, false, NOW, |at| at > 0, &mut rng);
            let told = (message.get(48..50) == Some(&UNIQUE_IDENTIFIER))
                .then(|| u16::from_be_bytes([message[50], message[51]]));
            assert_eq!(told, field, "{len}");
        }
    }
}
