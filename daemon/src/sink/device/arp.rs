//! Answers to ARP requests (RFC 826): a router asks who has an address before it sends there, and everybody is here.

/// MAC of whoever is asked for; locally administered.
const OURS: [u8; 6] = [0x02, 0x77, 0x6d, 0x00, 0x00, 0x01];
/// Bytes of an Ethernet header and an ARP packet for IPv4.
const LEN: usize = 42;

/// The answer to `frame`, if it is a request that wants one.
pub(super) fn answer(frame: &[u8]) -> Option<[u8; LEN]> {
    let request: &[u8; LEN] = frame.get(..LEN)?.try_into().ok()?;
    // EtherType ARP, hardware Ethernet, protocol IPv4, their lengths, a request.
    if request[12..22] != [0x08, 0x06, 0, 1, 0x08, 0x00, 6, 4, 0, 1] {
        return None;
    }
    let (asker, asked) = (&request[22..32], &request[38..42]);
    // An announcement of one's own address, or a look whether somebody has it (RFC 5227), is no question to us.
    if asker[6..] == *asked || asker[6..] == [0; 4] {
        return None;
    }
    let mut answer = *request;
    answer[..6].copy_from_slice(&asker[..6]);
    answer[6..12].copy_from_slice(&OURS);
    answer[21] = 2;
    answer[22..28].copy_from_slice(&OURS);
    answer[28..32].copy_from_slice(asked);
    answer[32..42].copy_from_slice(asker);
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_answered_and_nothing_else_is() {
        let mut request = vec![0xff; 6];
        request.extend([2, 0, 0, 0, 0, 9]);
        request.extend([0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1]);
        request.extend([2, 0, 0, 0, 0, 9, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 7]);
        let said = answer(&request).unwrap();
        assert_eq!((&said[..6], &said[6..12]), (&[2, 0, 0, 0, 0, 9][..], &OURS[..]));
        assert_eq!((said[21], &said[28..32], &said[38..42]), (2, &[10, 0, 0, 7][..], &[10, 0, 0, 1][..]));
        assert_eq!(answer(&said), None, "an answer wants none");
        assert_eq!(answer(&request[..41]), None);
        // A probe has no address of its own, an announcement asks for its own.
        for sender in [[0, 0, 0, 0], [10, 0, 0, 7]] {
            let mut other = request.clone();
            other[28..32].copy_from_slice(&sender);
            assert_eq!(answer(&other), None);
        }
    }
}
