//! The codec on the real captures beside the project, where they are.

use std::path::{Path, PathBuf};

use super::*;
use crate::flow::to_ethernet;

/// Packets of a capture that one test reads; they are all in memory with their tokens.
const PACKETS_MAX: usize = 2_000;

/// The packets of a classic pcap file (<https://www.tcpdump.org/manpages/pcap-savefile.5.html>), as far as it can be
/// read; none for any other file.
fn read_pcap(path: &Path) -> Vec<Packet> {
    let bytes = std::fs::read(path).expect("a readable file");
    let Some(magic) = bytes.first_chunk::<4>() else { return vec![] };
    let (big, nanos_per_unit) = match u32::from_le_bytes(*magic) {
        0xa1b2_c3d4 => (false, 1_000),
        0xa1b2_3c4d => (false, 1),
        0xd4c3_b2a1 => (true, 1_000),
        0x4d3c_b2a1 => (true, 1),
        _ => return vec![],
    };
    let word = |at: usize| {
        let raw: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
        Some(if big { u32::from_be_bytes(raw) } else { u32::from_le_bytes(raw) })
    };
    let linktype = LinkType(word(20).unwrap_or(0) as u16);
    let (mut packets, mut at) = (Vec::new(), 24);
    while let (Some(seconds), Some(fraction), Some(caplen), Some(len)) =
        (word(at), word(at + 4), word(at + 8), word(at + 12))
    {
        let Some(data) = bytes.get(at + 16..at + 16 + caplen as usize) else { break };
        let ts = Timestamp::from_parts(seconds.into(), i64::from(fraction) * nanos_per_unit);
        packets.push(Packet { ts, linktype, len, data: data.to_vec() });
        at += 16 + caplen as usize;
        if packets.len() == PACKETS_MAX {
            break;
        }
    }
    packets
}

fn captures() -> Vec<PathBuf> {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/traffic"));
    let Ok(folders) = std::fs::read_dir(root) else {
        eprintln!("skipped: there are no captures in {}", root.display());
        return vec![];
    };
    let mut files: Vec<_> = folders
        .filter_map(|folder| std::fs::read_dir(folder.ok()?.path()).ok())
        .flat_map(|files| files.filter_map(|file| Some(file.ok()?.path())))
        .collect();
    files.sort();
    files
}

#[test]
fn real_frames_come_back_byte_for_byte_and_malformed_ones_too() {
    let (mut files, mut packets, mut tokens_bpe, mut bytes) = (0, 0, 0, 0);
    for path in captures() {
        let session = session(read_pcap(&path));
        let expected: Vec<Vec<u8>> = session
            .packets
            .iter()
            .filter_map(|p| to_ethernet(&p.packet))
            .map(|p| p.data)
            .filter(|data| !data.is_empty())
            .collect();
        if expected.is_empty() {
            continue;
        }
        let samples = [(LabelId(1), session)];
        for vocab in [Vocab::Byte, Vocab::Bpe] {
            let codec = fit(vocab, 1000, Keep::Whole, &samples);
            let tokens = encode(&codec, LabelId(1), &samples[0].1);
            let decoded = codec.decode(&tokens, &mut render());
            assert_eq!((decoded.malformed_packets, decoded.malformed_tokens), (0, 0), "{}", path.display());
            assert!(decoded.packets.iter().map(|p| &p.data).eq(&expected), "{}", path.display());
            assert_eq!(
                codec.packets_left_out() as usize,
                samples[0].1.packets.len() - expected.len(),
                "{}",
                path.display()
            );
            if vocab == Vocab::Bpe {
                tokens_bpe += tokens.len();
            }
        }
        files += 1;
        packets += expected.len();
        bytes += expected.iter().map(Vec::len).sum::<usize>();
    }
    eprintln!("{files} captures, {packets} packets, {bytes} bytes, {tokens_bpe} BPE tokens");
}

#[test]
fn headers_of_real_packets_hold_nothing_beyond_the_transport_header() {
    for path in captures().into_iter().step_by(5) {
        let session = session(read_pcap(&path));
        let codec = fit(Vocab::Byte, 0, Keep::Headers, &[]);
        let mut tokens = Vec::new();
        codec.encode(LabelId(0), &session, &mut tokens);
        let decoded = codec.decode(&tokens, &mut render());
        let frames = session.packets.iter().filter_map(|p| to_ethernet(&p.packet));
        let mut readable = frames
            .filter_map(|frame| {
                Some((crate::flow::dissect(LinkType::ETHERNET, &frame.data).ok()?.payload_offset, frame))
            })
            .filter(|(end, frame)| *end.min(&frame.data.len()) > 0);
        for packet in &decoded.packets {
            let (end, frame) = readable.next().expect("as many as were readable");
            assert_eq!(packet.data, frame.data[..end.min(frame.data.len())], "{}", path.display());
        }
        assert!(readable.next().is_none());
    }
}
