//! Numbers of variable length (RFC 9000, section 16).

/// Such a number, and what is behind it.
pub(super) fn read(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let first = *bytes.first()?;
    let (number, rest) = bytes.split_at_checked(1 << (first >> 6))?;
    Some((number[1..].iter().fold(u64::from(first & 0x3f), |number, byte| number << 8 | u64::from(*byte)), rest))
}

/// The shortest form of a number below 2^62.
pub(super) fn bytes(number: u64) -> Vec<u8> {
    let width = (0..3).find(|width| number >> (8 * (1u32 << width) - 2) == 0).unwrap_or(3);
    wide(number, width)
}

/// A number in 1, 2, 4 or 8 bytes: 2 to the power of `width`.
pub(super) fn wide(number: u64, width: u8) -> Vec<u8> {
    let mut ret = number.to_be_bytes()[8 - (1 << width)..].to_vec();
    ret[0] |= width << 6;
    ret
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 9000, appendix A.1.
    #[test]
    fn numbers_are_read_and_written_in_their_shortest_form() {
        let numbers: [(u64, &[u8]); 4] = [
            (37, &[0x25]),
            (15_293, &[0x7b, 0xbd]),
            (494_878_333, &[0x9d, 0x7f, 0x3e, 0x7d]),
            (151_288_809_941_952_652, &[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c]),
        ];
        for (number, form) in numbers {
            assert_eq!(bytes(number), form);
            assert_eq!(read(&[form, &[7]].concat()), Some((number, &[7][..])));
            assert_eq!(read(&form[..form.len() - 1]), None);
        }
        assert_eq!(read(&[0x40, 0x25]), Some((37, &[][..])));
        assert_eq!(wide(37, 1), [0x40, 0x25]);
        assert_eq!([0, 63, 64, 16_383, 16_384].map(|n| bytes(n).len()), [1, 1, 2, 2, 4]);
    }
}
