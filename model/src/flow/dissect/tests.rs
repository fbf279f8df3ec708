//! Headers by hand, from the RFCs and the link types' descriptions; the counts over real captures are tested where
//! captures can be read.

use proptest::prelude::*;

use super::*;
use crate::packet::Timestamp;

/// 192.0.2.1:1000 > 198.51.100.2:53 UDP, 4 bytes of payload.
const UDP4: [u8; 32] = [
    0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 198, 51, 100, 2, //
    0x03, 0xe8, 0, 53, 0, 12, 0, 0, 1, 2, 3, 4,
];

fn ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
    let mut ret = vec![0x60, 0, 0, 0, 0, payload.len() as u8, next, 64];
    ret.extend([0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    ret.extend([0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    ret.extend(payload);
    ret
}

fn assert_is_udp4(linktype: u16, before: &[u8]) {
    let d = dissect(LinkType(linktype), &[before, &UDP4].concat())
        .unwrap_or_else(|e| panic!("linktype {linktype}, {before:02x?}: {e:?}"));
    assert_eq!(d.tuple.to_string(), "192.0.2.1:1000 > 198.51.100.2:53 UDP");
    assert_eq!((d.ip_offset, d.payload_offset), (before.len(), before.len() + 28));
    assert!(!d.headers_cut && !d.later_fragment && d.tcp_flags.is_none());
}

fn raw(data: &[u8]) -> Result<Dissected, NoFlow> {
    dissect(LinkType::RAW, data)
}

#[test]
fn finds_ip_below_every_supported_link_layer() {
    const MACS: [u8; 12] = [7; 12];
    let ethernet = |rest: &[u8]| [&MACS, rest].concat();
    for rest in [
        &[0x08, 0x00][..],
        &[0x81, 0x00, 0, 5, 0x08, 0x00],
        &[0x88, 0xa8, 0, 5, 0x81, 0x00, 0, 6, 0x08, 0x00],
        &[0x91, 0x00, 0, 5, 0x91, 0x00, 0, 6, 0x81, 0x00, 0, 7, 0x08, 0x00],
        &[0, 40, 0xaa, 0xaa, 3, 0, 0, 0, 0x08, 0x00], // 802.3 length, LLC, SNAP
        &[0, 35, 6, 6, 3],                            // 802.3 length, LLC with the SAP of IP
        &[0x88, 0x64, 0x11, 0, 0, 1, 0, 34, 0, 0x21], // PPPoE session
        &[0x81, 0, 0, 1, 0x88, 0x64, 0x11, 0, 0, 1, 0, 34, 0, 0x21],
        &[0x88, 0x47, 0, 1, 0, 64, 0, 2, 1, 64], // two MPLS labels
    ] {
        assert_is_udp4(1, &ethernet(rest));
    }
    assert_is_udp4(113, &[0, 0, 0, 1, 0, 6, 7, 7, 7, 7, 7, 7, 0, 0, 8, 0]);
    assert_is_udp4(276, &[8, 0, 0, 0, 0, 0, 0, 2, 0, 1, 0, 6, 7, 7, 7, 7, 7, 7, 0, 0]);
    for linktype in [12, 14, 101, 228] {
        assert_is_udp4(linktype, &[]);
    }
    assert_is_udp4(0, &[2, 0, 0, 0]);
    assert_is_udp4(0, &[0, 0, 0, 2]);
    assert_is_udp4(108, &[0, 0, 0, 2]);
    assert_is_udp4(9, &[0xff, 3, 0, 0x21]);
    assert_is_udp4(9, &[0x21]);
    assert_is_udp4(50, &[0xff, 3, 0, 0x21]);
    assert_is_udp4(51, &[0x11, 0, 0, 1, 0, 34, 0, 0x21]);
    assert_is_udp4(104, &[0x0f, 0, 8, 0]);
}

#[test]
fn finds_ip_in_802_11_data_frames_only() {
    const SNAP: [u8; 8] = [0xaa, 0xaa, 3, 0, 0, 0, 8, 0];
    let plain = [&[0x08, 0x01][..], &[0; 22], &SNAP].concat();
    let qos = [&[0x88, 0x01][..], &[0; 24], &SNAP].concat();
    let four_addresses = [&[0x08, 0x03][..], &[0; 28], &SNAP].concat();
    for frame in [&plain, &qos, &four_addresses] {
        assert_is_udp4(105, frame);
        assert_is_udp4(127, &[&[0, 0, 8, 0, 0, 0, 0, 0][..], frame].concat());
    }
    // Time stamp (8 bytes, aligned) and flags: the QoS header of 26 bytes is padded to 28.
    let radiotap = [0, 0, 17, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x20];
    assert_is_udp4(127, &[&radiotap[..], &[0x88, 0x01], &[0; 26], &SNAP].concat());

    for control in [[0x80, 0], [0x48, 1], [0x08, 0x41]] {
        // beacon, null data, encrypted data
        let frame = [&control[..], &[0; 22], &SNAP, &UDP4].concat();
        assert_eq!(dissect(LinkType(105), &frame), Err(NoFlow::NotIp));
    }
}

#[test]
fn tcp_flags_and_options_are_read() {
    let mut data = UDP4[..20].to_vec();
    (data[3], data[9]) = (20 + 24 + 1, 6);
    data.extend([0, 80, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x60, 0x12, 0, 0, 0, 0, 0, 0, 2, 4, 5, 0xb4, 99]);
    let d = raw(&data).unwrap();
    assert_eq!((d.tuple.orig_port, d.tuple.resp_port, d.tcp_flags), (80, 1024, Some(0x12)));
    assert_eq!((d.payload_offset, d.headers_cut), (44, false));
    // A snaplen inside the options, then before the flags, then inside the ports.
    assert_eq!(raw(&data[..42]).map(|d| (d.payload_offset, d.headers_cut)), Ok((42, true)));
    assert_eq!(raw(&data[..30]).map(|d| (d.tcp_flags, d.headers_cut)), Ok((None, true)));
    assert_eq!(raw(&data[..23]), Err(NoFlow::Truncated));
    assert_eq!(raw(&data[..19]), Err(NoFlow::Truncated));
}

#[test]
fn ipv4_options_are_skipped() {
    let mut data = [&UDP4[..20], &[1, 1, 1, 0], &UDP4[20..]].concat();
    (data[0], data[3]) = (0x46, 36);
    let d = raw(&data).unwrap();
    assert_eq!((d.tuple.resp_port, d.payload_offset), (53, 32));
}

#[test]
fn fragments_but_the_first_have_no_ports() {
    let mut data = UDP4;
    data[6] = 0x20; // more fragments, offset 0
    assert_eq!(raw(&data).map(|d| (d.tuple.resp_port, d.later_fragment)), Ok((53, false)));
    data[7] = 185; // offset 1480
    assert_eq!(raw(&data).map(|d| (d.tuple.resp_port, d.later_fragment, d.payload_offset)), Ok((0, true, 20)));
}

#[test]
fn padding_is_not_read_as_ports_and_offloaded_lengths_are_accepted() {
    let mut data = UDP4;
    data[3] = 22; // the IP packet ends after two bytes of UDP
    assert_eq!(raw(&data), Err(NoFlow::Malformed));
    data[3] = 0; // segmentation offload
    assert_eq!(raw(&data).map(|d| d.payload_offset), Ok(28));
}

#[test]
fn ipv6_extension_headers_are_walked_within_bounds() {
    let udp = &UDP4[20..];
    let options = |next: u8| [next, 0, 1, 4, 0, 0, 0, 0];
    let plain = raw(&ipv6(17, udp)).unwrap();
    assert_eq!(plain.tuple.to_string(), "2001:db8::1:1000 > 2001:db8::2:53 UDP");
    // Hop-by-hop, routing, atomic fragment, authentication (24 bytes), destination options.
    let auth = [&[60, 4][..], &[0; 22]].concat();
    let chain = [&options(43)[..], &options(44), &[51, 0, 0, 1, 0, 0, 0, 9], &auth, &options(17), udp].concat();
    let d = raw(&ipv6(0, &chain)).unwrap();
    assert_eq!((d.tuple, d.payload_offset), (plain.tuple, 40 + 8 + 8 + 8 + 24 + 8 + 8));
    let later = raw(&ipv6(44, &[&[17, 0, 0, 8, 0, 0, 0, 9][..], udp].concat())).unwrap();
    assert!(later.later_fragment && later.tuple.resp_port == 0 && later.tuple.protocol == 17);
    // 17 extension headers.
    let endless: Vec<u8> = std::iter::repeat_n(options(60), 17).flatten().chain(udp.to_vec()).collect();
    assert_eq!(raw(&ipv6(60, &endless)), Err(NoFlow::Malformed));
}

#[test]
fn other_protocols_have_ports_0() {
    let mut data = UDP4;
    for (protocol, payload_offset) in [(1, 28), (47, 20), (50, 20), (132, 32)] {
        data[9] = protocol;
        let d = raw(&data).unwrap();
        assert_eq!((d.tuple.protocol, d.payload_offset), (protocol, payload_offset));
        assert_eq!(d.tuple.resp_port, if protocol == 132 { 53 } else { 0 });
    }
}

#[test]
fn what_has_no_flow_says_why() {
    let ethernet = |ether_type: [u8; 2]| [&[7; 12][..], &ether_type, &UDP4].concat();
    assert_eq!(dissect(LinkType::ETHERNET, &ethernet([0x08, 0x06])), Err(NoFlow::NotIp));
    assert_eq!(dissect(LinkType::ETHERNET, &[0; 13]), Err(NoFlow::Truncated));
    assert_eq!(dissect(LinkType::ETHERNET, &ethernet([8, 0])[..14]), Err(NoFlow::Truncated));
    assert_eq!(dissect(LinkType(220), &UDP4), Err(NoFlow::UnsupportedLinkType)); // USB
    let tags: Vec<u8> = [7; 12].into_iter().chain([0x81, 0, 0, 1].repeat(9)).chain([8, 0]).chain(UDP4).collect();
    assert_eq!(dissect(LinkType::ETHERNET, &tags), Err(NoFlow::NotIp));
    for (at, value) in [(0, 0x44), (0, 0x75), (3, 19)] {
        let mut data = UDP4;
        data[at] = value;
        assert_eq!(raw(&data), Err(NoFlow::Malformed), "byte {at}");
    }
}

#[test]
fn to_ethernet_reframes_ip_and_drops_what_follows_it() {
    let packet = |linktype, data: Vec<u8>| Packet { ts: Timestamp(5), linktype, len: data.len() as u32, data };
    let sll = [&[0, 0, 0, 1, 0, 6, 7, 7, 7, 7, 7, 7, 0, 0, 8, 0][..], &UDP4, &[0xee; 4]].concat();
    let frame = to_ethernet(&packet(LinkType::LINUX_SLL, sll.clone())).unwrap();
    let expected = [&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0][..], &UDP4].concat();
    assert_eq!(frame, packet(LinkType::ETHERNET, expected));

    // Cut by the snaplen: the wire length is that of the whole frame.
    let cut = Packet { len: sll.len() as u32, data: sll[..40].to_vec(), ..packet(LinkType::LINUX_SLL, vec![]) };
    let frame = to_ethernet(&cut).unwrap();
    assert_eq!((frame.len, frame.data.len()), (14 + 32, 14 + 24));

    let v6 = to_ethernet(&packet(LinkType::RAW, ipv6(17, &UDP4[20..]))).unwrap();
    assert_eq!(v6.data[12..14], [0x86, 0xdd]);
    let arp = packet(LinkType::ETHERNET, vec![1; 60]);
    assert_eq!(to_ethernet(&arp), Some(arp));
    assert_eq!(to_ethernet(&packet(LinkType::NULL, vec![7; 60])), None);
    assert_eq!(to_ethernet(&packet(LinkType::LINUX_SLL2, vec![8, 0])), None);
}

proptest! {
    #[test]
    fn no_bytes_panic(linktype in prop::sample::select(vec![0_u16, 1, 9, 12, 50, 51, 101, 104, 105, 108, 113, 127, 228, 229, 276]),
                      start in prop::sample::select(vec![vec![], vec![0; 12], vec![0x60], vec![0x45, 0, 0, 0], vec![0x88, 1]]),
                      rest in prop::collection::vec(any::<u8>(), 0..120), len in any::<u32>()) {
        let data = [start, rest].concat();
        if let Ok(d) = dissect(LinkType(linktype), &data) {
            prop_assert!(d.ip_offset < d.payload_offset && d.payload_offset <= data.len());
        }
        to_ethernet(&Packet { ts: Timestamp(0), linktype: LinkType(linktype), len, data });
    }
}
