//! The paper's own measure of memory: the first packets of a trace against those of the trace that prompted it.

use serde::Serialize;
use wiremamba_model::packet::Packet;

/// Packets of each trace that are compared.
pub const PACKETS: usize = 100;

/// The first packets of pairs of traces, by position. A packet that only one trace has differs in all its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct FirstPackets {
    /// Positions that were compared.
    pub packets: u64,
    /// Those at which the frames are equal.
    pub identical: u64,
    /// Bytes, of the longer frame at each position.
    pub bytes: u64,
    /// Bytes that differ, or that only one frame has.
    pub differing_bytes: u64,
}

impl FirstPackets {
    /// Adds a pair, of which at most the first [`PACKETS`] packets count.
    pub fn add(&mut self, real: &[Packet], synthetic: &[Packet]) {
        let data = |packets: &[Packet], i: usize| packets.get(i).map_or(Vec::new(), |p| p.data.clone());
        for i in 0..real.len().max(synthetic.len()).min(PACKETS) {
            let (a, b) = (data(real, i), data(synthetic, i));
            let longer = a.len().max(b.len());
            let equal = a.iter().zip(&b).filter(|(a, b)| a == b).count();
            self.packets += 1;
            self.identical += u64::from(a == b);
            self.bytes += longer as u64;
            self.differing_bytes += (longer - equal) as u64;
        }
    }

    /// Identical packets in percent.
    pub fn identical_pct(&self) -> f64 {
        100.0 * self.identical as f64 / self.packets as f64
    }

    /// Differing bytes in percent.
    pub fn differing_bytes_pct(&self) -> f64 {
        100.0 * self.differing_bytes as f64 / self.bytes as f64
    }
}

#[cfg(test)]
mod tests {
    use wiremamba_model::packet::{LinkType, Timestamp};

    use super::*;

    fn packets(frames: &[&[u8]]) -> Vec<Packet> {
        let packet = |data: &&[u8]| Packet {
            ts: Timestamp(0),
            linktype: LinkType::ETHERNET,
            len: data.len() as u32,
            data: data.to_vec(),
        };
        frames.iter().map(packet).collect()
    }

    #[test]
    fn bytes_are_compared_in_place_and_what_is_missing_differs() {
        let mut first = FirstPackets::default();
        first.add(&packets(&[&[1, 2, 3], &[4], &[5, 6]]), &packets(&[&[1, 2, 3], &[9, 4]]));
        assert_eq!(first, FirstPackets { packets: 3, identical: 1, bytes: 7, differing_bytes: 4 });
        first.add(&vec![packets(&[&[1]])[0].clone(); 150], &[]);
        assert_eq!((first.packets, first.differing_bytes), (103, 104));
    }
}
