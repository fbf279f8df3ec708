//! The Internet checksum (RFC 1071), for IP headers and for transports with their pseudo header.

use std::net::IpAddr;

/// Sum of 16-bit words in one's complement, an odd last byte padded with zero. `start` is a sum so far.
pub(super) fn sum(bytes: &[u8], start: u32) -> u32 {
    let (words, last) = bytes.as_chunks::<2>();
    // 32 bits hold 65,535 words, and an IP packet has no more than 32,768; what was summed before is folded first.
    let mut ret = u32::from(fold(start));
    for word in words {
        ret = ret.wrapping_add(u32::from(u16::from_be_bytes(*word)));
        ret = (ret & 0xffff) + (ret >> 16);
    }
    if let [byte] = last {
        ret += u32::from(*byte) << 8;
    }
    u32::from(fold(ret))
}

/// The sum in 16 bits. What a checksum is part of sums up to 0xffff.
pub(super) fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Sum of the pseudo header (RFC 9293, section 3.1; RFC 8200, section 8.1). `len` is that of the transport header and
/// what follows it, in bytes.
pub(super) fn pseudo_header(src: IpAddr, dst: IpAddr, protocol: u8, len: usize) -> u32 {
    let addresses = [src, dst].iter().fold(0, |so_far, address| match address {
        IpAddr::V4(a) => sum(&a.octets(), so_far),
        IpAddr::V6(a) => sum(&a.octets(), so_far),
    });
    let len = u32::try_from(len).unwrap_or(u32::MAX);
    addresses + u32::from(protocol) + (len & 0xffff) + (len >> 16)
}
