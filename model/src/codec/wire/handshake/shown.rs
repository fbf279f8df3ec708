//! What messages of a handshake hold whose bodies are drawn: certificates, and the lengths that lead through keys and signatures.

use std::collections::VecDeque;

use super::super::action::Piece;
use super::content::CERTIFICATE;
use super::{APPLICATION_DATA, CHANGE_CIPHER_SPEC, HANDSHAKE};

/// Types of messages (RFC 5246, section 7.4; RFC 5077, section 3.3).
const SERVER_HELLO: u8 = 2;
const NEW_SESSION_TICKET: u8 = 4;
const SERVER_KEY_EXCHANGE: u8 = 12;
const CERTIFICATE_VERIFY: u8 = 15;
const CLIENT_KEY_EXCHANGE: u8 = 16;
/// A point on P-256 behind what says so (RFC 8422, section 5.4), and bytes of it.
const CURVE: [u8; 5] = [3, 0, 23, 65, 4];
const POINT: usize = 65;
/// The longest point there is, on P-521: longer keys are those of RSA.
const POINT_MAX: usize = 133;
/// RSA with SHA-256 signs.
const SIGNED: [u8; 2] = [4, 1];
/// Bytes of a message's type and length.
const HEAD: usize = 4;

/// A side's handshake as it is rendered.
#[derive(Debug, Default)]
pub(in super::super) struct Handshake {
    is_sealed: bool,
    /// What stands in the bytes of the record to come; `None` where nothing is known better than what was said.
    pub(in super::super) shown: VecDeque<Option<u8>>,
}

impl Handshake {
    /// Writes it into `payload`, whose new bytes `pieces` say. `chain` makes the body of a message of that length.
    pub(in super::super) fn complete(
        &mut self,
        pieces: &[Piece],
        strings: &[Box<[u8]>],
        payload: &mut [u8],
        mut chain: impl FnMut(usize) -> Option<Vec<u8>>,
    ) {
        let mut at = 0;
        for piece in pieces {
            let len = usize::from(piece.len(strings));
            match piece {
                Piece::Tls(kind, _, record) => {
                    self.is_sealed |= matches!(*kind, CHANGE_CIPHER_SPEC | APPLICATION_DATA);
                    self.shown.clear();
                    if *kind == HANDSHAKE && !self.is_sealed {
                        self.begin(payload.get(at + len..).unwrap_or_default(), (*record).into(), &mut chain);
                    }
                }
                _ => {
                    let shown = self.shown.drain(..len.min(self.shown.len()));
                    let places = payload[at..at + len].iter_mut().zip(shown);
                    places.for_each(|(byte, shown)| *byte = shown.unwrap_or(*byte));
                }
            }
            at += len;
        }
    }

    /// A record of `len` bytes begins, of which the segment has `record` at most.
    fn begin(&mut self, record: &[u8], len: usize, chain: &mut impl FnMut(usize) -> Option<Vec<u8>>) {
        let &[kind, 0, high, low, ..] = record else { return };
        let end = HEAD + usize::from(u16::from_be_bytes([high, low]));
        let (place, body) = match kind {
            CERTIFICATE if end == len => (HEAD, len - HEAD),
            // What follows the hello in its record is one message.
            SERVER_HELLO if end + HEAD < len => (end, len - end - HEAD),
            kind if end == len => return self.lead(kind, len - HEAD),
            _ => return,
        };
        let Some(body_bytes) = chain(body) else { return };
        self.shown.extend(std::iter::repeat_n(None, place));
        if kind == SERVER_HELLO {
            let [_, high, middle, low] = (body as u32).to_be_bytes();
            self.shown.extend([CERTIFICATE, high, middle, low].map(Some));
        }
        self.shown.extend(body_bytes.into_iter().map(Some));
    }

    /// The body of a message of `len` bytes, as far as it has lengths.
    fn lead(&mut self, kind: u8, len: usize) {
        let short = |n: usize| (n as u16).to_be_bytes().map(Some);
        self.shown.extend([None; HEAD]);
        match kind {
            NEW_SESSION_TICKET if len > 6 => {
                self.shown.extend([Some(0), Some(0), None, None]);
                self.shown.extend(short(len - 6));
            }
            SERVER_KEY_EXCHANGE if len > CURVE.len() + POINT + 3 => {
                self.shown.extend(CURVE.map(Some));
                self.shown.extend([None; POINT - 1]);
                self.shown.extend(SIGNED.map(Some));
                self.shown.extend(short(len - (CURVE.len() + POINT - 1) - 4));
            }
            CERTIFICATE_VERIFY if len > 4 => {
                self.shown.extend(SIGNED.map(Some));
                self.shown.extend(short(len - 4));
            }
            CLIENT_KEY_EXCHANGE if (1..=1 + POINT_MAX).contains(&len) => self.shown.push_back(Some((len - 1) as u8)),
            CLIENT_KEY_EXCHANGE if len > 1 => self.shown.extend(short(len - 2)),
            _ => {}
        }
    }
}
