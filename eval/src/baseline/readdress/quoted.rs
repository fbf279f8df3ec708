//! Hosts that are named inside ICMP messages, and the checksums that speak of them.

use std::net::IpAddr;

use wiremamba_model::wire::parse::{ICMP, ICMPV6};

use crate::view::{TCP, UDP};

/// Where the packet that an error quotes begins in its message (RFC 792, RFC 4443).
const QUOTE_AT: usize = 8;

/// Moves the hosts that an ICMP message of `protocol` names: those of the packet that an error quotes, the gateway of a
/// redirect, the targets of neighbour discovery (RFC 4861, section 4). The checksum of the message is left to others.
///
/// A message that the capture cut is changed as far as it goes.
pub(super) fn move_hosts(protocol: u8, message: &mut [u8], mut moved: impl FnMut(IpAddr) -> IpAddr) {
    match (protocol, message.first()) {
        (ICMP, Some(kind @ (3 | 4 | 5 | 11 | 12))) => {
            if *kind == 5 {
                move_address::<4>(message, 4, &mut moved);
            }
            let Some(quote) = message.get_mut(QUOTE_AT..).filter(|q| q.len() >= 20) else { return };
            let change = move_address::<4>(quote, 12, &mut moved) + move_address::<4>(quote, 16, &mut moved);
            let header_len = usize::from(quote[0] & 15) * 4;
            let (protocol, is_first) = (quote[9], quote[6] & 0x1f == 0 && quote[7] == 0);
            let Some((header, above)) = quote.split_at_mut_checked(header_len.max(20)) else { return };
            seal_ipv4(header);
            if is_first {
                adjust_checksum(protocol, above, change);
            }
        }
        (ICMPV6, Some(1..=4)) => {
            let Some(quote) = message.get_mut(QUOTE_AT..).filter(|q| q.len() >= 40) else { return };
            let change = move_address::<16>(quote, 8, &mut moved) + move_address::<16>(quote, 24, &mut moved);
            adjust_checksum(quote[6], &mut quote[40..], change);
        }
        (ICMPV6, Some(kind @ 135..=137)) => {
            let is_redirect = *kind == 137;
            move_address::<16>(message, 8, &mut moved);
            if is_redirect {
                move_address::<16>(message, 24, &mut moved);
            }
        }
        _ => {}
    }
}

/// Writes the checksum of an IPv4 header (RFC 791, section 3.1) of at least 20 bytes.
pub(super) fn seal_ipv4(header: &mut [u8]) {
    header[10..12].fill(0);
    let sum = !fold(sum(header));
    header[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// Moves the address at `at`. Returns what this adds to a sum of 16-bit words in one's complement: the new words and the
/// complements of the old ones.
fn move_address<const N: usize>(message: &mut [u8], at: usize, moved: &mut impl FnMut(IpAddr) -> IpAddr) -> u32
where
    IpAddr: From<[u8; N]>,
{
    let Some(field) = message.get_mut(at..at + N) else { return 0 };
    let real: [u8; N] = (&*field).try_into().expect("the slice has N bytes");
    match moved(IpAddr::from(real)) {
        IpAddr::V4(a) => field.copy_from_slice(&a.octets()),
        IpAddr::V6(a) => field.copy_from_slice(&a.octets()),
    }
    sum(field) + sum(&real.map(|byte| !byte))
}

/// Keeps the checksum of a quoted TCP, UDP or ICMPv6 header as right or wrong as it was (RFC 1624, equation 3).
fn adjust_checksum(protocol: u8, header: &mut [u8], change: u32) {
    let at = match protocol {
        TCP => 16,
        UDP => 6,
        ICMPV6 => 2,
        _ => return,
    };
    let Some(field) = header.get_mut(at..at + 2) else { return };
    let old = u16::from_be_bytes([field[0], field[1]]);
    if protocol == UDP && old == 0 {
        return; // there is none
    }
    let new = !fold(u32::from(!old) + change);
    let new = if protocol == UDP && new == 0 { 0xffff } else { new };
    field.copy_from_slice(&new.to_be_bytes());
}

/// The sum of the 16-bit words.
fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum()
}

/// A sum with its carries added in (RFC 1071, section 1).
fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}
