//! DHCP (RFC 2131): where its fields are, and what of a message the frame around it determines.

use std::net::IpAddr;

/// Ports of server and client.
pub const PORTS: [u16; 2] = [67, 68];
/// Where the names of server and boot file are: behind the client's hardware address.
pub const NAMES_AT: usize = 44;
/// Where the cookie is that tells DHCP from BOOTP, behind them.
pub const COOKIE_AT: usize = 236;
/// It (RFC 2132, section 2).
pub const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// Where options begin.
pub const OPTIONS_AT: usize = 240;

/// Options: what an address is asked for, kind of message, server, client.
pub const REQUESTED: u8 = 50;
/// Kind of the message (section 9.6).
pub const KIND: u8 = 53;
/// Who the server is.
pub const SERVER_ID: u8 = 54;
/// Who the client is.
pub const CLIENT_ID: u8 = 61;
/// The last one.
pub const END: u8 = 255;

/// The hardware type of Ethernet (RFC 1700), and bytes of its addresses.
pub const ETHERNET: u8 = 1;
/// See [`ETHERNET`].
pub const MAC_LEN: usize = 6;

/// Whether a datagram between these ports is of DHCP.
pub fn is_dhcp(ports: [u16; 2]) -> bool {
    ports.iter().any(|port| PORTS.contains(port))
}

/// The options of a message: code, and where the value begins and ends. They stop where one does not fit.
pub fn options(message: &[u8]) -> impl Iterator<Item = (u8, usize, usize)> + use<'_> {
    let mut at = OPTIONS_AT;
    std::iter::from_fn(move || {
        while message.get(at) == Some(&0) {
            at += 1;
        }
        let (code, len) = (*message.get(at)?, usize::from(*message.get(at + 1)?));
        let (from, to) = (at + 2, at + 2 + len);
        at = to;
        (code != END && len > 0 && to <= message.len()).then_some((code, from, to))
    })
}

/// The frame around a message.
#[derive(Debug, Clone, Copy)]
pub struct Around<'a> {
    /// Its link header.
    pub link: &'a [u8],
    /// Who sends it.
    pub src: IpAddr,
    /// To whom.
    pub dst: IpAddr,
}

/// Fills in what the frame determines of a message, where it would be drawn: the client's hardware address and its own one, the
/// server's, and no names of a server and a file.
pub fn complete(message: &mut [u8], is_drawn: impl Fn(usize) -> bool, around: Around<'_>) {
    if message.get(COOKIE_AT..OPTIONS_AT) != Some(&COOKIE) {
        return;
    }
    let is_client = message[0] == 1;
    let macs = (around.link.len() >= 2 * MAC_LEN).then(|| around.link.split_at(MAC_LEN));
    let client_mac = macs.map(|(to, from)| if is_client { &from[..MAC_LEN] } else { to }).filter(|mac| mac[0] & 1 == 0);
    let octets = |address: IpAddr| match address {
        IpAddr::V4(a) if !a.is_broadcast() && !a.is_unspecified() => Some(a.octets()),
        _ => None,
    };
    let (client, server) = if is_client { (around.src, around.dst) } else { (around.dst, around.src) };
    // What is sent to a network's broadcast has no server's address.
    let is_to_all = macs.is_some_and(|(to, _)| to[0] & 1 == 1);
    let server = octets(server).filter(|_| !(is_client && is_to_all));
    let client = octets(client).filter(|_| is_client || !is_to_all);
    let mut put = |at: usize, bytes: &[u8]| {
        if (at..at + bytes.len()).all(&is_drawn) {
            message[at..at + bytes.len()].copy_from_slice(bytes);
        }
    };
    if let Some(client) = client {
        put(if is_client { 12 } else { 16 }, &client);
    }
    if let Some(server) = server.filter(|_| !is_client) {
        put(20, &server);
    }
    match client_mac {
        Some(mac) => put(28, mac),
        // Nobody's, but one host's.
        None if is_drawn(28) => message[28] = message[28] & !1 | 2,
        None => {}
    }
    for at in (NAMES_AT..COOKIE_AT).filter(|at| is_drawn(*at)) {
        message[at] = 0;
    }
    let values: Vec<_> =
        options(message).filter(|(code, ..)| matches!(*code, REQUESTED | SERVER_ID | CLIENT_ID)).collect();
    let hardware: [u8; MAC_LEN] = message[28..28 + MAC_LEN].try_into().expect("six bytes");
    for (code, at, end) in values {
        let value: Option<&[u8]> = match (code, end - at) {
            (REQUESTED, 4) => client.as_ref().map(|octets| &octets[..]),
            (SERVER_ID, 4) => server.as_ref().map(|octets| &octets[..]),
            (CLIENT_ID, 7) if message[at] == ETHERNET => Some(&hardware),
            _ => None,
        };
        let at = end - value.map_or(0, <[u8]>::len);
        if let Some(value) = value
            && (at..end).all(&is_drawn)
        {
            message[at..end].copy_from_slice(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(op: u8, options: &[u8]) -> Vec<u8> {
        let mut ret = vec![0xaa; COOKIE_AT];
        ret[..4].copy_from_slice(&[op, 1, 6, 0]);
        ret.extend_from_slice(&COOKIE);
        ret.extend_from_slice(options);
        ret
    }

    #[test]
    fn what_the_frame_determines_is_filled_in_where_it_would_be_drawn() {
        let link = [&[0xff; 6][..], &[2, 0, 0, 0, 0, 7], &[8, 0]].concat();
        let all = |_| true;
        let mut asks = message(1, &[53, 1, 3, 61, 7, 1, 9, 9, 9, 9, 9, 9, 50, 4, 9, 9, 9, 9, 54, 4, 9, 9, 9, 9, 255]);
        let around = Around { link: &link, src: [10, 0, 0, 5].into(), dst: [10, 0, 0, 255].into() };
        complete(&mut asks, all, around);
        assert_eq!(asks[12..16], [10, 0, 0, 5]);
        assert_eq!(asks[28..34], [2, 0, 0, 0, 0, 7]);
        assert!(asks[NAMES_AT..COOKIE_AT].iter().all(|b| *b == 0));
        let options = [53, 1, 3, 61, 7, 1, 2, 0, 0, 0, 0, 7, 50, 4, 10, 0, 0, 5, 54, 4, 9, 9, 9, 9, 255];
        assert_eq!(asks[OPTIONS_AT..], options, "the server's is not known");

        let link = [&[2, 0, 0, 0, 0, 7][..], &[2, 0, 0, 0, 0, 1], &[8, 0]].concat();
        let around = Around { link: &link, src: [10, 0, 0, 1].into(), dst: [10, 0, 0, 5].into() };
        let mut answers = message(2, &[53, 1, 5, 54, 4, 9, 9, 9, 9, 3, 4, 9, 9, 9, 9, 255]);
        let literal = answers.clone();
        complete(&mut answers, |_| false, around);
        assert_eq!(answers, literal, "what is said stays");
        complete(&mut answers, all, around);
        assert_eq!(answers[16..24], [10, 0, 0, 5, 10, 0, 0, 1]);
        assert_eq!(answers[28..34], [2, 0, 0, 0, 0, 7]);
        assert_eq!(answers[OPTIONS_AT..], [53, 1, 5, 54, 4, 10, 0, 0, 1, 3, 4, 9, 9, 9, 9, 255]);
        let mut none = vec![0xaa; 300];
        complete(&mut none, all, around);
        assert_eq!(none, [0xaa; 300], "BOOTP has no cookie");
    }

    #[test]
    fn options_stop_where_one_does_not_fit() {
        let all = |options: &[u8]| {
            super::options(&message(1, options)).map(|(code, at, end)| (code, end - at)).collect::<Vec<_>>()
        };
        assert_eq!(all(&[53, 1, 1, 0, 0, 12, 2, b'a', b'b', 255, 12, 1, b'c']), [(53, 1), (12, 2)]);
        assert_eq!(all(&[53, 1, 1, 12, 9, b'a']), [(53, 1)]);
        assert_eq!(all(&[53]), []);
        assert!(is_dhcp([68, 67]) && is_dhcp([67, 67]) && is_dhcp([9, 68]) && !is_dhcp([53, 69]));
    }
}
