//! Patches: what has to change in a rendered frame to make it the captured one; and packets without structure.

use crate::packet::{LinkType, Packet};

/// Largest packet that a patch can make, as libpcap's largest snaplen.
const PACKET_MAX: usize = 262_144;
/// Equal bytes between two changes that are cheaper to repeat than to skip.
const SKIP_MIN: usize = 3;

/// A packet without structure as bytes: link type, length on the wire, data.
pub(super) fn raw(packet: &Packet) -> Vec<u8> {
    let mut ret = Vec::with_capacity(6 + packet.data.len());
    ret.extend_from_slice(&packet.linktype.0.to_be_bytes());
    ret.extend_from_slice(&packet.len.to_be_bytes());
    ret.extend_from_slice(&packet.data);
    ret
}

/// The packet that [`raw`] made bytes of; its time is the caller's.
pub(super) fn from_raw(bytes: &[u8]) -> Option<Packet> {
    let (head, data) = bytes.split_at_checked(6)?;
    if data.len() > PACKET_MAX {
        return None;
    }
    let linktype = LinkType(u16::from_be_bytes([head[0], head[1]]));
    let len = u32::from_be_bytes([head[2], head[3], head[4], head[5]]);
    Some(Packet { ts: Default::default(), linktype, len, data: data.to_vec() })
}

/// What turns `rendered` into `captured`; `None` when nothing has to.
///
/// Link type, length on the wire and captured length where they differ, then changes: bytes to skip, bytes to
/// replace (both as LEB128), the bytes.
pub(super) fn diff(rendered: &Packet, captured: &Packet) -> Option<Vec<u8>> {
    let has_shape = rendered.linktype != captured.linktype
        || rendered.len != captured.len
        || rendered.data.len() != captured.data.len();
    let mut ret = vec![u8::from(has_shape)];
    if has_shape {
        ret.extend_from_slice(&captured.linktype.0.to_be_bytes());
        ret.extend_from_slice(&captured.len.to_be_bytes());
        leb128(captured.data.len(), &mut ret);
    }
    let differs = |i: usize| rendered.data.get(i).copied().unwrap_or(0) != captured.data[i];
    let (len, mut at, mut i) = (captured.data.len(), 0, 0);
    while i < len {
        if !differs(i) {
            i += 1;
            continue;
        }
        let start = i;
        let (mut end, mut equal) = (i + 1, 0);
        i += 1;
        while i < len && equal < SKIP_MIN {
            equal = if differs(i) { 0 } else { equal + 1 };
            i += 1;
            if equal == 0 {
                end = i;
            }
        }
        leb128(start - at, &mut ret);
        leb128(end - start, &mut ret);
        ret.extend_from_slice(&captured.data[start..end]);
        at = end;
    }
    (ret.len() > 1).then_some(ret)
}

/// Applies a patch of [`diff`]; `None` when it is none, and then the packet is in no useful state.
pub(super) fn apply(mut patch: &[u8], packet: &mut Packet) -> Option<()> {
    if take(&mut patch, 1)?[0] & 1 == 1 {
        let head = take(&mut patch, 6)?;
        packet.linktype = LinkType(u16::from_be_bytes([head[0], head[1]]));
        packet.len = u32::from_be_bytes([head[2], head[3], head[4], head[5]]);
        let len = read_leb128(&mut patch).filter(|l| *l <= PACKET_MAX)?;
        packet.data.resize(len, 0);
    }
    let mut at = 0usize;
    while !patch.is_empty() {
        at = at.checked_add(read_leb128(&mut patch)?)?;
        let count = read_leb128(&mut patch)?;
        let bytes = take(&mut patch, count)?;
        let end = at.checked_add(count)?;
        packet.data.get_mut(at..end)?.copy_from_slice(bytes);
        at = end;
    }
    Some(())
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (head, rest) = bytes.split_at_checked(count)?;
    *bytes = rest;
    Some(head)
}

fn leb128(mut n: usize, ret: &mut Vec<u8>) {
    while n >= 128 {
        ret.push(n as u8 | 128);
        n >>= 7;
    }
    ret.push(n as u8);
}

fn read_leb128(bytes: &mut &[u8]) -> Option<usize> {
    let mut n = 0;
    for i in 0..3 {
        let b = take(bytes, 1)?[0];
        n |= usize::from(b & 127) << (7 * i);
        if b < 128 {
            return Some(n);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packet(linktype: u16, len: u32, data: Vec<u8>) -> Packet {
        Packet { ts: Default::default(), linktype: LinkType(linktype), len, data }
    }

    proptest! {
        #[test]
        fn a_patch_turns_any_packet_into_any_other(
            a in prop::collection::vec(0u8..4, 0..300),
            b in prop::collection::vec(0u8..4, 0..300),
            len: u32,
            linktype in 0u16..3,
        ) {
            let (mut from, to) = (packet(1, 60, a), packet(linktype, len, b));
            match diff(&from, &to) {
                Some(patch) => prop_assert_eq!(apply(&patch, &mut from), Some(())),
                None => prop_assert_eq!(&from, &to),
            }
            prop_assert_eq!(&from, &to);
            prop_assert_eq!(from_raw(&raw(&to)), Some(to));
        }

        #[test]
        fn a_hostile_patch_does_no_harm(patch in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut p = packet(1, 60, vec![0; 60]);
            apply(&patch, &mut p);
            prop_assert!(p.data.len() <= PACKET_MAX);
        }
    }
}
