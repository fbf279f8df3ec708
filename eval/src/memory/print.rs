//! The print of a packet: its first bytes without those that only say who sent it.

use crate::view::{ICMP, TCP, UDP, View};

/// Bytes of a print.
pub(super) const PRINT_BYTES: usize = 96;
/// Words of a print.
const WORDS: usize = PRINT_BYTES / 8;

/// The first 96 bytes of an IP packet with 0 in place of addresses, ports, identification, sequence and acknowledgement
/// numbers and checksums; bytes that are not there are 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Print(pub(super) [u64; WORDS]);

impl Print {
    /// The print of a packet with an IP header; `None` of others.
    pub(super) fn of(view: &View<'_>) -> Option<Self> {
        let len = view.ip.len().min(PRINT_BYTES);
        if len == 0 {
            return None;
        }
        let mut bytes = [0; PRINT_BYTES];
        bytes[..len].copy_from_slice(&view.ip[..len]);
        mask(view, &mut bytes);
        let (words, _) = bytes.as_chunks::<8>();
        Some(Self(std::array::from_fn(|i| u64::from_be_bytes(words[i]))))
    }

    /// Bits that differ.
    pub(super) fn distance(&self, other: &Self) -> u32 {
        self.0.iter().zip(&other.0).map(|(a, b)| (a ^ b).count_ones()).sum()
    }
}

/// Puts 0 where a packet says who sent it. `bytes` begin with the IP header and may end anywhere.
pub(super) fn mask(view: &View<'_>, bytes: &mut [u8]) {
    let mut blank = |at: usize, len: usize| {
        let end = (at + len).min(bytes.len());
        bytes[at.min(end)..end].fill(0);
    };
    if view.ip_version() == 4 {
        blank(4, 2);
        blank(10, 10);
    } else {
        blank(8, 32);
    }
    if view.transport.is_empty() {
        return;
    }
    let at = view.transport.as_ptr() as usize - view.ip.as_ptr() as usize;
    match view.protocol() {
        Some(TCP) => {
            blank(at, 12);
            blank(at + 16, 2);
        }
        Some(UDP) => {
            blank(at, 4);
            blank(at + 6, 2);
        }
        Some(ICMP | 58) => blank(at + 2, 2),
        _ => {}
    }
}

/// How often each bit of prints was 1.
#[derive(Debug, Clone)]
pub(super) struct PrintBits {
    prints: u64,
    ones: Box<[u64; PRINT_BYTES * 8]>,
}

impl Default for PrintBits {
    fn default() -> Self {
        Self { prints: 0, ones: Box::new([0; PRINT_BYTES * 8]) }
    }
}

impl PrintBits {
    pub(super) fn add(&mut self, print: &Print) {
        self.prints += 1;
        for (ones, word) in self.ones.as_chunks_mut::<64>().0.iter_mut().zip(print.0) {
            ones.iter_mut().enumerate().for_each(|(i, n)| *n += word >> (63 - i) & 1);
        }
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.prints += other.prints;
        self.ones.iter_mut().zip(other.ones.iter()).for_each(|(a, b)| *a += b);
    }

    /// Mean Hamming distance over all pairs, exactly, in bits. `None` of fewer than two.
    pub(super) fn mean_distance(&self) -> Option<f64> {
        let n = self.prints as f64;
        let pairs_apart: f64 = self.ones.iter().map(|ones| *ones as f64 * (n - *ones as f64)).sum();
        (self.prints > 1).then(|| pairs_apart / (n * (n - 1.0) / 2.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mean_distance_is_that_over_all_pairs() {
        let prints: Vec<Print> = [0b0_u64, 0b1, 0b111, 0b111].map(|w| Print([w; WORDS])).to_vec();
        let mut bits = PrintBits::default();
        prints.iter().for_each(|p| bits.add(p));
        let pairs = (0..4).flat_map(|i| (0..i).map(move |j| (i, j)));
        let each: Vec<f64> = pairs.map(|(i, j)| f64::from(prints[i].distance(&prints[j]))).collect();
        let mean = each.iter().sum::<f64>() / each.len() as f64;
        assert!((bits.mean_distance().unwrap() - mean).abs() < 1e-9);
        assert_eq!(PrintBits::default().mean_distance(), None);
    }
}
