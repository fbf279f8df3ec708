//! Whether a stream is TLS records from its first byte to its last (RFC 8446, section 5.1).

/// Longest record body: 2^14 and what encryption may add (RFC 5246, section 6.2.3).
const RECORD_MAX: usize = 16_384 + 2_048;
/// Length of a record header in bytes.
const HEADER_LEN: usize = 5;

/// Whether bytes look like the beginning of a record; `None` while there are too few.
pub(super) fn begins_like(bytes: &[u8]) -> Option<bool> {
    match *bytes {
        [20..=23, 3, minor, ..] => Some(minor <= 4),
        [20..=23, 3] | [20..=23] | [] => None,
        _ => Some(false),
    }
}

/// A walk over records. It keeps a header at most.
#[derive(Debug, Default)]
pub(super) struct Records {
    header: [u8; HEADER_LEN],
    /// Bytes of the header that are there.
    have: usize,
    /// Bytes of the body that are still to come.
    body: usize,
    /// Records begun.
    pub(super) records: u64,
    /// Whether a header was none.
    pub(super) is_bad: bool,
}

impl Records {
    /// Takes in the next bytes of the stream.
    pub(super) fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.is_bad {
            let skip = self.body.min(bytes.len());
            self.body -= skip;
            bytes = &bytes[skip..];
            let Some((first, rest)) = bytes.split_first() else { return };
            self.header[self.have] = *first;
            self.have += 1;
            bytes = rest;
            if self.have == HEADER_LEN {
                self.have = 0;
                self.begin();
            }
        }
    }

    fn begin(&mut self) {
        let [kind, major, minor, a, b] = self.header;
        self.body = usize::from(u16::from_be_bytes([a, b]));
        // 24 is the heartbeat of RFC 6520. Only application data may be empty.
        let is_right = matches!(kind, 20..=24) && major == 3 && minor <= 4 && self.body <= RECORD_MAX;
        self.is_bad = !is_right || (self.body == 0 && kind != 23);
        self.records += 1;
    }

    /// Whether the last record is complete.
    pub(super) fn is_whole(&self) -> bool {
        self.have == 0 && self.body == 0
    }
}
