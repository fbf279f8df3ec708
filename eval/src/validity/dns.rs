//! Whether bytes are a DNS message, to the last one (RFC 1035, section 4). Multicast DNS and LLMNR have the same format.

/// Longest name with its length bytes (RFC 1035, section 2.3.4).
const NAME_MAX: usize = 255;
/// Length of the header in bytes; no name is in it.
const HEADER_LEN: usize = 12;

/// Whether all of `message` is a header and the questions and records that it counts, and nothing else.
///
/// The time is bounded by the message: each record takes at least 11 bytes, and pointers only lead back.
pub(super) fn is_message(message: &[u8]) -> bool {
    walk(message) == Some(message.len())
}

/// Where the last record ends.
fn walk(message: &[u8]) -> Option<usize> {
    let header = message.first_chunk::<HEADER_LEN>()?;
    let count = |at: usize| usize::from(u16::from_be_bytes([header[at], header[at + 1]]));
    let mut at = HEADER_LEN;
    for _ in 0..count(4) {
        at = name(message, at)? + 4;
    }
    for _ in 0..count(6) + count(8) + count(10) {
        at = record(message, at)?;
    }
    Some(at)
}

/// Where the record at `at` ends.
fn record(message: &[u8], at: usize) -> Option<usize> {
    let after = name(message, at)?;
    let fixed = message.get(after..after + 10)?;
    let start = after + 10;
    let end = start + usize::from(u16::from_be_bytes([fixed[8], fixed[9]]));
    let data = message.get(start..end)?;
    let is_right = match u16::from_be_bytes([fixed[0], fixed[1]]) {
        // An update deletes by records without data (RFC 2136, section 2.5).
        _ if data.is_empty() => true,
        1 => data.len() == 4,
        28 => data.len() == 16,
        2 | 5 | 12 | 39 => name(message, start)? == end, // NS, CNAME, PTR, DNAME
        6 => name(message, name(message, start)?)? + 20 == end, // SOA
        15 => name(message, start + 2)? == end,          // MX
        33 => name(message, start + 6)? == end,          // SRV
        16 => strings(data),                             // TXT
        _ => true,
    };
    is_right.then_some(end)
}

/// Where the name at `at` ends. Labels have at most 63 bytes; a pointer leads to before the part of the name that it is
/// in (RFC 1035, section 4.1.4), so that there are no loops.
fn name(message: &[u8], at: usize) -> Option<usize> {
    let (mut part, mut p, mut len) = (at, at, 1);
    let mut end = None;
    loop {
        match usize::from(*message.get(p)?) {
            0 => return Some(end.unwrap_or(p + 1)),
            label @ 1..=63 => {
                message.get(p + 1..p + 1 + label)?;
                len += 1 + label;
                p += 1 + label;
            }
            pointer @ 0xc0.. => {
                let target = (pointer & 0x3f) << 8 | usize::from(*message.get(p + 1)?);
                end = end.or(Some(p + 2));
                if target < HEADER_LEN || target >= part {
                    return None;
                }
                (part, p) = (target, target);
            }
            _ => return None,
        }
        if len > NAME_MAX {
            return None;
        }
    }
}

/// Whether strings with their lengths in front fill the data (RFC 1035, section 3.3.14).
fn strings(mut data: &[u8]) -> bool {
    while let [len, rest @ ..] = data {
        let Some(behind) = rest.get(usize::from(*len)..) else { return false };
        data = behind;
    }
    true
}
