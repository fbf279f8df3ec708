//! TLS, DNS, HTTP and QUIC: what parses and what does not.

use wiremamba_model::flow::Direction::{Orig, Resp};

use super::super::{Messages, TlsStreams, dns, http, quic};
use super::make::{ACK, FIN, SYN, Seg, flow, judge, seg, tcp_flow, udp};

/// A client that sends `parts` one after another, each a segment, with numbers from 1 on.
fn up(parts: &[&[u8]]) -> Vec<Seg> {
    let mut ret = vec![seg(Orig, SYN, 0, 0, b""), seg(Resp, SYN | ACK, 0, 1, b""), seg(Orig, ACK, 1, 1, b"")];
    let mut seq = 1;
    for part in parts {
        ret.push(seg(Orig, ACK, seq, 1, part));
        seq += part.len() as u32;
    }
    ret
}

/// A ClientHello record of 20 bytes, a ChangeCipherSpec and 300 bytes of data.
fn records() -> Vec<u8> {
    let mut ret = vec![22, 3, 1, 0, 20];
    ret.extend([7; 20]);
    ret.extend([20, 3, 3, 0, 1, 1, 23, 3, 3, 1, 44]);
    ret.extend([9; 300]);
    ret
}

fn tls(segments: &[Seg]) -> TlsStreams {
    judge(&tcp_flow(segments, 443)).tls
}

#[test]
fn tls_records_are_followed_over_segments_in_any_order() {
    let stream = records();
    let whole = TlsStreams { streams: 1, whole: 1, cut: 0, bad: 0, records: 3 };
    assert_eq!(tls(&up(&[&stream])), whole);
    let bytes: Vec<&[u8]> = stream.chunks(1).collect();
    assert_eq!(tls(&up(&bytes)), whole);
    let mut segments = up(&stream.chunks(50).collect::<Vec<_>>());
    segments[3..].reverse();
    segments.push(segments[4].clone());
    assert_eq!(tls(&segments), whole);
}

#[test]
fn a_record_cut_by_the_end_of_the_capture_is_no_fault_but_one_cut_by_its_sender_is() {
    let stream = records();
    let mut segments = up(&[&stream[..200]]);
    assert_eq!(tls(&segments), TlsStreams { streams: 1, whole: 0, cut: 1, bad: 0, records: 3 });
    segments.push(seg(Orig, FIN | ACK, 201, 1, b""));
    let report = judge(&tcp_flow(&segments, 443));
    assert_eq!((report.tls.cut, report.tls.bad), (0, 1));
    assert_eq!(report.flow_faults.into_keys().collect::<Vec<_>>(), ["TLS records"]);
}

#[test]
fn what_is_no_record_makes_a_stream_bad() {
    for (at, value) in [(25, 25), (26, 2), (28, 0xff), (31, 99)] {
        let mut stream = records();
        stream[at] = value;
        assert_eq!(tls(&up(&[&stream])).bad, 1, "byte {at}");
    }
}

#[test]
fn a_gap_stops_the_walk_and_what_is_held_back_has_a_limit() {
    let stream = records();
    let mut segments = up(&stream.chunks(50).collect::<Vec<_>>());
    segments.remove(4);
    assert_eq!(tls(&segments).cut, 1);
    let mut segments = up(&[&stream[..10]]);
    segments.extend((0..600).map(|i| seg(Orig, ACK, 500 + 100 * i, 1, &[0; 100])));
    let report = judge(&tcp_flow(&segments, 443));
    assert_eq!((report.streams_over_limit, report.tls.cut), (1, 1));
}

/// A query for www.example.com, and its answer with a pointer and an EDNS record (RFC 1035, 4.1; RFC 6891).
const QUERY: &[u8] = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x03www\x07example\x03com\0\0\x01\0\x01";
const ANSWER: &[u8] = b"\x12\x34\x81\x80\0\x01\0\x02\0\0\0\x01\x03www\x07example\x03com\0\0\x01\0\x01\
    \xc0\x0c\0\x05\0\x01\0\0\0\x05\0\x04\x01a\xc0\x10\xc0\x2d\0\x01\0\x01\0\0\0\x05\0\x04\x5d\xb8\xd8\x22\
    \0\0\x29\x10\0\0\0\0\0\0\0";

#[test]
fn dns_messages_parse_to_the_last_byte() {
    assert!(dns::is_message(QUERY) && dns::is_message(ANSWER));
    for len in 0..ANSWER.len() {
        assert!(!dns::is_message(&ANSWER[..len]), "{len} bytes");
    }
    assert!(!dns::is_message(&[QUERY, &[0]].concat()), "a byte is left over");
    // A label of 64, a pointer to itself, a pointer forward, one record too many, an address of 5 bytes.
    for (at, value) in [(12, 64), (34, 33), (34, 60), (7, 3), (50, 4), (60, 5)] {
        let mut message = ANSWER.to_vec();
        message[at] = value;
        assert!(!dns::is_message(&message), "byte {at}");
    }
}

#[test]
fn dns_is_read_over_udp_and_over_tcp() {
    let packets = vec![(Orig, udp(Orig, 53, QUERY)), (Resp, udp(Resp, 53, &ANSWER[1..]))];
    let report = judge(&flow(17, 53, packets));
    assert_eq!(report.dns, Messages { messages: 2, valid: 1, bad: 1 });
    assert_eq!(report.flow_faults.into_keys().collect::<Vec<_>>(), ["DNS message"]);

    let with_len = [&[0, QUERY.len() as u8], QUERY].concat();
    let two = [&with_len[..], &with_len[..]].concat();
    assert_eq!(judge(&tcp_flow(&up(&[&with_len])[3..], 53)).dns.messages, 0, "joined in the middle");
    for size in [1, 2, 7, 100] {
        let report = judge(&tcp_flow(&up(&two.chunks(size).collect::<Vec<_>>()), 53));
        assert_eq!((report.dns.valid, report.dns.bad, report.flows_valid), (2, 0, 1), "segments of {size}");
    }
}

#[test]
fn http_first_lines_are_request_or_status_lines() {
    use http::FirstLine::{Bad, NotHttp, Valid};
    let lines: [(&[u8], http::FirstLine); 11] = [
        (b"GET / HTTP/1.1\r", Valid),
        (b"POST /a?b=c HTTP/1.0", Valid),
        (b"HTTP/1.1 200 OK\r", Valid),
        (b"HTTP/1.1 404", Valid),
        (b"HTTP/1.1 2x0 OK", Bad),
        (b"HTTP/1.7 200 OK", Bad),
        (b"GET /HTTP/1.1", Bad),
        (b"GET /a b HTTP/1.1", Bad),
        (b"GET / HTTP/1.", Bad),
        (b"GET /\x01 HTTP/1.1", Bad),
        (b"OPTIONS rtsp://example.com RTSP/1.0\r", NotHttp),
    ];
    for (line, expected) in lines {
        assert_eq!(http::first_line(line), expected, "{}", line.escape_ascii());
    }
    let request: &[u8] = b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n";
    for size in [1, 3, 17, 100] {
        let report = judge(&tcp_flow(&up(&request.chunks(size).collect::<Vec<_>>()), 80));
        assert_eq!((report.http.messages, report.http.valid), (1, 1), "segments of {size}");
    }
    let report = judge(&tcp_flow(&up(&[b"GET / HTTQ/1.1\r\n"]), 80));
    assert_eq!(report.flow_faults.into_keys().collect::<Vec<_>>(), ["HTTP first line"]);
}

/// The Initial of RFC 9000, section 17.2.2: connection IDs of 8 and 0 bytes, no token, `len` bytes behind.
fn initial(version: [u8; 4], len: u16) -> Vec<u8> {
    let [a, b] = (len | 0x4000).to_be_bytes();
    let mut ret = vec![0xc0];
    ret.extend(version);
    ret.extend([8, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, a, b]);
    ret.extend(vec![0x55; usize::from(len)]);
    ret
}

#[test]
fn quic_first_datagrams_hold_what_they_announce() {
    let whole = initial([0, 0, 0, 1], 1182);
    assert_eq!(whole.len(), 1200);
    let coalesced = [&initial([0, 0, 0, 1], 500)[..], &initial([0, 0, 0, 1], 500)[..], &[0; 50]].concat();
    let negotiation = [&[0x80, 0, 0, 0, 0, 1, 9, 1, 9][..], &[0, 0, 0, 1]].concat();
    for valid in [&whole, &coalesced, &negotiation] {
        assert!(quic::claims_to_be(valid) && quic::is_first_datagram(valid));
    }
    assert!(!quic::is_first_datagram(&whole[..1199]), "shorter than its length field says");
    for (at, value) in [(0, 0x80), (1, 99), (5, 21), (14, 60), (15, 0xff)] {
        let mut damaged = whole.clone();
        damaged[at] = value;
        assert!(!quic::is_first_datagram(&damaged), "byte {at}");
    }
    let report = judge(&flow(17, 443, vec![(Orig, udp(Orig, 443, &whole)), (Resp, udp(Resp, 443, &whole[..99]))]));
    assert_eq!((report.quic.first_datagrams, report.quic.valid, report.flows_valid), (1, 1, 1));
    let report = judge(&flow(17, 443, vec![(Orig, udp(Orig, 443, &whole[..99]))]));
    assert_eq!(report.flow_faults.into_keys().collect::<Vec<_>>(), ["QUIC first datagram"]);
    let other = [&[0xa1, 0x9c, 0x11, 0x22, 0x33][..], &[0x77; 300]].concat();
    assert_eq!(judge(&flow(17, 443, vec![(Orig, udp(Orig, 443, &other))])).quic.first_datagrams, 0);
}
