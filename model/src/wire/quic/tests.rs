use proptest::prelude::*;
use rand::SeedableRng;

use super::*;

/// The server's place.
const SERVER: usize = 1;

/// Nothing is drawn.
const ALL_SAID: fn(usize) -> bool = |_| false;

fn rng(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

/// A long header as it could be said, `len` bytes of packet with what is drawn behind it.
fn said(kind: u8, version: u32, ids: [usize; 2], token: Option<usize>, len: usize) -> Vec<u8> {
    let mut ret = vec![LONG | FIXED | kind << 4];
    ret.extend_from_slice(&version.to_be_bytes());
    for id in ids {
        ret.push(id as u8);
        ret.resize(ret.len() + id, 7);
    }
    if let Some(token) = token {
        ret.extend(varint::bytes(token as u64));
        ret.resize(ret.len() + token, 9);
    }
    let left = len - ret.len() - 2;
    ret.extend(varint::wide(left as u64, 1));
    ret.resize(len, 0xcd);
    ret
}

/// What a packet with a long header says in clear.
#[derive(Debug, PartialEq)]
struct Seen {
    kind: u8,
    version: u32,
    ids: [Vec<u8>; 2],
    token: usize,
    /// Where its number begins, and where it ends.
    number_at: usize,
    end: usize,
}

/// Reads the packet with a long header that `bytes` begin with, as RFC 9000, section 17.2, says.
fn see(bytes: &[u8]) -> Seen {
    assert_eq!(bytes[0] & 0xc0, 0xc0);
    let mut at = 5;
    let mut id = || {
        let len = usize::from(bytes[at]);
        at += 1 + len;
        bytes[at - len..at].to_vec()
    };
    let ids = [id(), id()];
    let kind = bytes[0] >> 4 & 3;
    let version = u32::from_be_bytes(bytes[1..5].try_into().unwrap());
    let mut number = || {
        let (number, rest) = varint::read(&bytes[at..]).unwrap();
        at = bytes.len() - rest.len();
        number as usize
    };
    let token = if kind == Version::find(version).unwrap().kinds[0] { number() } else { 0 };
    at += token;
    let (len, rest) = varint::read(&bytes[at..]).unwrap();
    let number_at = bytes.len() - rest.len();
    Seen { kind, version, ids, token, number_at, end: number_at + len as usize }
}

/// Bytes of CRYPTO frames, and whether something was acknowledged.
fn read_frames(mut payload: &[u8]) -> (Vec<(u64, Vec<u8>)>, Option<u64>) {
    let (mut crypto, mut acknowledged) = (Vec::new(), None);
    let number = |payload: &mut &[u8]| {
        let (number, rest) = varint::read(payload).unwrap();
        *payload = rest;
        number
    };
    while let [kind, rest @ ..] = payload {
        payload = rest;
        match *kind {
            0 | PING => {}
            ACK => {
                let [largest, _, ranges, first] = [(); 4].map(|()| number(&mut payload));
                assert!(ranges == 0 && first <= largest);
                acknowledged = Some(largest);
            }
            CRYPTO => {
                let [offset, len] = [(); 2].map(|()| number(&mut payload));
                let (data, rest) = payload.split_at(len as usize);
                crypto.push((offset, data.to_vec()));
                payload = rest;
            }
            kind => panic!("frame {kind}"),
        }
    }
    (crypto, acknowledged)
}

#[test]
fn both_hellos_can_be_read_by_anybody_who_saw_the_first_packet() {
    for (seed, version) in [1, 0x6b33_43cf, 0xff00_001d, 0xface_b001, 0xface_b002].into_iter().enumerate() {
        let known = Version::find(version).unwrap();
        let mut rng = rng(seed as u64);
        let mut first = said(known.kinds[0], version, [8, 5], Some(30), 1200);
        let mut quic = Conversation::begin(&first, &ALL_SAID, 443, &mut rng).unwrap();
        quic.complete(false, &mut first, &ALL_SAID, &mut rng);
        let seen = see(&first);
        assert_eq!((seen.version, seen.token, seen.end), (version, 30, 1200));
        let keys = Keys::initial(known, &seen.ids[0]);
        let (crypto, acknowledged) = read_frames(&keys[CLIENT].open(&first, seen.number_at).unwrap());
        let [(0, hello)] = &crypto[..] else { panic!("{crypto:?}") };
        assert!(hello[0] == 1 && acknowledged.is_none());
        let name = hello.windows(8).position(|w| w == b".example").expect("a server's name");
        assert!(hello[..name].iter().rev().take_while(|b| b.is_ascii_lowercase()).count() >= 3);
        assert!(hello.windows(seen.ids[1].len()).any(|w| w == seen.ids[1]) || version == 0xface_b001);

        // The server answers with two packets in one datagram, and a name of its own.
        let mut answer = said(known.kinds[0], version, [5, 8], Some(0), 150);
        answer.extend(said(known.kinds[2], version, [5, 8], None, 1050));
        quic.complete(true, &mut answer, &ALL_SAID, &mut rng);
        let initial = see(&answer);
        assert_eq!((&initial.ids[0], initial.end), (&seen.ids[1], 150));
        let (crypto, acknowledged) = read_frames(&keys[SERVER].open(&answer[..150], initial.number_at).unwrap());
        assert!(crypto[0].1[0] == 2 && acknowledged == Some(0), "{crypto:?}");
        let handshake = see(&answer[150..]);
        assert_eq!((handshake.kind, handshake.end), (known.kinds[2], 1050));
        assert_eq!(handshake.ids, initial.ids);

        // From then on the client calls it by that, in both kinds of headers.
        let mut acknowledges = said(known.kinds[0], version, [0, 0], Some(0), 1200);
        quic.complete(false, &mut acknowledges, &ALL_SAID, &mut rng);
        let seen = see(&acknowledges);
        assert_eq!(seen.ids[0], initial.ids[1]);
        let (crypto, acknowledged) = read_frames(&keys[CLIENT].open(&acknowledges, seen.number_at).unwrap());
        assert!(crypto.is_empty() && acknowledged == Some(0));
        let mut data = vec![0x12; 40];
        quic.complete(false, &mut data, &ALL_SAID, &mut rng);
        assert!(data[0] & 0xc0 == FIXED && data[1..9] == initial.ids[1]);
    }
}

#[test]
fn a_hello_that_was_not_answered_is_sent_again_and_one_that_does_not_fit_goes_on() {
    let mut rng = rng(9);
    let mut first = said(0, 1, [8, 0], Some(0), 200);
    let mut quic = Conversation::begin(&first, &ALL_SAID, 853, &mut rng).unwrap();
    let mut sent = Vec::new();
    for i in 0..12 {
        if i > 0 {
            first = said(0, 1, [8, 0], Some(0), 200);
        }
        quic.complete(false, &mut first, &ALL_SAID, &mut rng);
        let seen = see(&first);
        let keys = Keys::initial(Version::find(1).unwrap(), &seen.ids[0]);
        sent.extend(read_frames(&keys[CLIENT].open(&first, seen.number_at).unwrap()).0);
    }
    let mut hello = Vec::new();
    let again = sent.iter().skip(1).position(|(offset, _)| *offset == 0).unwrap() + 1;
    for (offset, data) in &sent[..again] {
        assert_eq!(*offset, hello.len() as u64);
        hello.extend_from_slice(data);
    }
    assert_eq!(hello.len(), 4 + usize::from(u16::from_be_bytes([hello[2], hello[3]])));
    assert!(hello.windows(6).any(|w| w == b"\x00\x04\x03doq"));
    assert_eq!(sent[again].1, sent[0].1);
}

#[test]
fn what_is_no_first_datagram_begins_nothing() {
    let mut rng = rng(1);
    let first = said(0, 1, [8, 0], Some(0), 1200);
    assert!(Conversation::begin(&first, &ALL_SAID, 443, &mut rng).is_some());
    for (at, byte) in [(0, 0x40), (0, 0xe0), (4, 9), (0, 0x80)] {
        let mut other = first.clone();
        other[at] = byte;
        assert!(Conversation::begin(&other, &ALL_SAID, 443, &mut rng).is_none(), "{at} {byte:#x}");
    }
    assert!(Conversation::begin(&[], &ALL_SAID, 443, &mut rng).is_none());
    assert!(Conversation::begin(&first[..4], &ALL_SAID, 443, &mut rng).is_none());
}

#[test]
fn what_was_not_said_is_decided_by_its_place() {
    let (mut rng, all) = (rng(2), |_| true);
    assert!(Conversation::begin(&[0xc0; 1199], &all, 443, &mut rng).is_none());
    assert!(Conversation::begin(&[0xc0; 1200], &all, 4433, &mut rng).is_none());
    let mut first = [0x11; 1250];
    let mut quic = Conversation::begin(&first, &all, 443, &mut rng).unwrap();
    quic.complete(false, &mut first, &all, &mut rng);
    let seen = see(&first);
    assert_eq!((seen.kind, seen.version, seen.end), (0, 1, 1250));
    let mut kinds = |is_server, lens: &[usize]| {
        let datagrams = lens.iter().map(|len| {
            let mut datagram = vec![0xee; *len];
            quic.complete(is_server, &mut datagram, &all, &mut rng);
            let (mut kinds, mut rest) = (Vec::new(), &datagram[..]);
            while !rest.is_empty() && rest[0] & LONG > 0 {
                let seen = see(rest);
                kinds.push(seen.kind);
                rest = &rest[seen.end..];
            }
            kinds
        });
        datagrams.collect::<Vec<_>>()
    };
    assert_eq!(kinds(true, &[1250, 1250, 300, 1250]), [vec![0, 2], vec![2], vec![], vec![]]);
    assert_eq!(kinds(false, &[1250, 1250, 80]), [vec![0], vec![], vec![]]);
}

proptest! {
    /// Whatever is said, every byte belongs to a packet that is what it says, and every Initial packet opens.
    #[test]
    fn any_datagram_becomes_one_of_the_conversation(
        first in 20usize..1500,
        said in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 1..80), 0usize..1500, 0u8..4), 1..8),
        drawn_from in 5usize..100,
        seed: u64,
    ) {
        let mut rng = rng(seed);
        let mut datagram = vec![0xc3, 0, 0, 0, 1];
        datagram.resize(first, seed as u8 % 23);
        let is_drawn = |at| at >= drawn_from;
        let mut quic = Conversation::begin(&datagram, &is_drawn, 443, &mut rng).unwrap();
        quic.complete(false, &mut datagram, &is_drawn, &mut rng);
        let first_id = quic.first_id.clone();
        let keys = Keys::initial(quic.version, &first_id);
        let mut all = vec![(false, datagram)];
        for (is_server, head, more, kind) in said {
            let mut datagram = head.clone();
            if kind < 3 {
                datagram[0] |= 0xc0;
                datagram.splice(1.., [0, 0, 0, 1, kind]);
                datagram.extend_from_slice(&head);
            }
            datagram.resize(datagram.len() + more, kind);
            let len = datagram.len();
            let drawn_from = if kind == 3 { 0 } else { drawn_from };
            quic.complete(is_server, &mut datagram, &|at| at >= drawn_from, &mut rng);
            prop_assert_eq!(datagram.len(), len);
            all.push((is_server, datagram));
        }
        for (is_server, datagram) in all {
            let mut rest = &datagram[..];
            while let Some(first) = rest.first() {
                prop_assert_eq!(first & FIXED, FIXED);
                if first & LONG == 0 {
                    break;
                }
                let seen = see(rest);
                let (packet, behind) = rest.split_at(seen.end);
                if seen.kind == 0 {
                    let payload = keys[usize::from(is_server)].open(packet, seen.number_at);
                    prop_assert!(!read_frames(&payload.expect("it opens")).0.iter().any(|(_, data)| data.is_empty()));
                }
                rest = behind;
            }
        }
    }
}
