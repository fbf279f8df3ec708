//! Options of EDNS (RFC 6891, section 6.1.2): those that are made, and how long their values are.

use super::fit::option_fits;

/// Numbers that are looked at: the client's network.
const SUBNET: u16 = 8;

/// Options, and the lengths that their values have.
fn lengths(code: u16) -> Option<&'static [(u16, u16)]> {
    Some(match code {
        // The server's name (RFC 5001), algorithms (RFC 6975), padding (RFC 7830).
        3 | 5 | 6 | 7 | 12 => &[(0, u16::MAX)],
        // Family, two lengths, an address (RFC 7871, section 6).
        SUBNET => &[(4, 20)],
        // Time to expiry (RFC 7314), a cookie of the client, perhaps with the server's (RFC 7873, section 4), how long a connection
        // stays (RFC 7828), what went wrong, and text (RFC 8914).
        9 => &[(0, 0), (4, 4)],
        10 => &[(8, 8), (16, 40)],
        11 => &[(0, 0), (2, 2)],
        15 => &[(2, u16::MAX)],
        _ => return None,
    })
}

/// Whether an option with a value of `n` bytes of `room` can come.
pub(super) fn value_fits(code: u16, room: u16, n: u16) -> bool {
    let is_right = lengths(code).is_some_and(|all| all.iter().any(|(least, most)| (*least..=*most).contains(&n)));
    is_right && option_fits(room, n)
}

/// Whether an option of this number can come, with `room` bytes behind its length.
pub(super) fn code_fits(code: u16, room: u16) -> bool {
    // Those of any length have none, or all that there is.
    let most = room.min(40);
    lengths(code).is_some() && ((0..=most).any(|n| value_fits(code, room, n)) || value_fits(code, room, room))
}

/// Whether the value of so many bytes begins with bytes that are looked at.
pub(super) fn is_subnet(code: u16) -> bool {
    code == SUBNET
}

/// Whether `b` can be at `at` in the head of a client's network of `octets` bytes, of this family where that is known: it has the
/// bytes that its prefix needs, and no bits behind.
pub(super) fn subnet_allows(at: u8, family: u8, octets: u16, b: u8) -> bool {
    match at {
        0 => b == 0,
        1 => b == 2 || b == 1 && octets <= 4,
        2 => u16::from(b) == 8 * octets,
        _ => b <= if family == 1 { 32 } else { 128 },
    }
}
