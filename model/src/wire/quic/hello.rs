//! The hellos of TLS 1.3 as QUIC carries them (RFC 8446, section 4.1; RFC 9001, section 8).

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::varint;
use super::version::Version;

/// AES-128-GCM, AES-256-GCM, ChaCha20-Poly1305, each with SHA-2 (RFC 8446, appendix B.4).
const SUITES: [u16; 3] = [0x1301, 0x1302, 0x1303];
/// X25519, P-256, P-384 (section 4.2.7).
const GROUPS: [u16; 3] = [0x001d, 0x0017, 0x0018];
/// ECDSA and RSA-PSS with SHA-256 and SHA-384, RSA with SHA-256 (section 4.2.3).
const SIGNATURES: [u16; 5] = [0x0403, 0x0804, 0x0503, 0x0805, 0x0401];
/// TLS 1.3, and the version that hellos name instead.
const TLS_13: [u8; 2] = [3, 4];
const TLS_12: [u8; 2] = [3, 3];
const KEY_LEN: usize = 32;

/// Numbers of extensions (section 4.2; RFC 7301).
const SERVER_NAME: u16 = 0;
const SUPPORTED_GROUPS: u16 = 10;
const SIGNATURE_ALGORITHMS: u16 = 13;
const ALPN: u16 = 16;
const SUPPORTED_VERSIONS: u16 = 43;
const KEY_EXCHANGE_MODES: u16 = 45;
const KEY_SHARE: u16 = 51;

/// QUIC's parameters (RFC 9000, section 18.2) as clients on the Web set them: idle for 30 s, datagrams of 1,472 bytes, 15 MB in all
/// and 6 MB a stream, 100 streams of one kind and 103 of the other.
const PARAMETERS: [(u64, u64); 8] =
    [(1, 30_000), (3, 1472), (4, 15 << 20), (5, 6 << 20), (6, 6 << 20), (7, 6 << 20), (8, 100), (9, 103)];
/// How the sender calls itself.
const SOURCE_ID: u64 = 15;

/// The client's: it calls the server `name` and itself `id`, and wants to talk `alpn`.
pub(super) fn client(version: &Version, name: &[u8], alpn: &[u8], id: &[u8], rng: &mut ChaCha8Rng) -> Vec<u8> {
    let mut extensions = Vec::new();
    let mut add = |number: u16, data: &[u8]| {
        extensions.extend_from_slice(&number.to_be_bytes());
        extensions.extend(sized(data, 2));
    };
    add(SERVER_NAME, &sized(&[&[0], &sized(name, 2)[..]].concat(), 2));
    add(SUPPORTED_GROUPS, &sized(&numbers(&GROUPS), 2));
    add(SIGNATURE_ALGORITHMS, &sized(&numbers(&SIGNATURES), 2));
    add(ALPN, &sized(&sized(alpn, 1), 2));
    add(SUPPORTED_VERSIONS, &sized(&TLS_13, 1));
    add(KEY_EXCHANGE_MODES, &sized(&[1], 1));
    add(KEY_SHARE, &sized(&share(rng), 2));
    add(version.parameters, &parameters(version, id));
    let suites = sized(&numbers(&SUITES), 2);
    // No session of before, no compression.
    let body = [&TLS_12, &drawn(rng)[..], &[0], &suites, &[1, 0], &sized(&extensions, 2)].concat();
    [&[1], &sized(&body, 3)[..]].concat()
}

/// The server's.
pub(super) fn server(rng: &mut ChaCha8Rng) -> Vec<u8> {
    let share = share(rng);
    let extensions =
        [&KEY_SHARE.to_be_bytes()[..], &sized(&share, 2), &SUPPORTED_VERSIONS.to_be_bytes(), &sized(&TLS_13, 2)]
            .concat();
    let body = [&TLS_12, &drawn(rng)[..], &[0], &SUITES[0].to_be_bytes(), &[0], &sized(&extensions, 2)].concat();
    [&[2], &sized(&body, 3)[..]].concat()
}

/// A public key of X25519: any 32 bytes are one.
fn share(rng: &mut ChaCha8Rng) -> Vec<u8> {
    [&GROUPS[0].to_be_bytes()[..], &sized(&drawn(rng), 2)].concat()
}

fn parameters(version: &Version, id: &[u8]) -> Vec<u8> {
    // Before draft 27 numbers and lengths had two bytes each, in a list with a length; one without any is the shortest.
    if !version.has_varints {
        return vec![0, 0];
    }
    let mut ret = Vec::new();
    for (number, value) in PARAMETERS {
        let value = varint::bytes(value);
        ret.extend([&varint::bytes(number)[..], &varint::bytes(value.len() as u64), &value].concat());
    }
    ret.extend([&varint::bytes(SOURCE_ID)[..], &varint::bytes(id.len() as u64), id].concat());
    ret
}

fn drawn(rng: &mut ChaCha8Rng) -> [u8; KEY_LEN] {
    let mut ret = [0; KEY_LEN];
    rng.fill_bytes(&mut ret);
    ret
}

fn numbers(numbers: &[u16]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_be_bytes()).collect()
}

/// `data` behind its length in so many bytes.
fn sized(data: &[u8], width: usize) -> Vec<u8> {
    let len = (data.len() as u32).to_be_bytes();
    [&len[len.len() - width..], data].concat()
}
