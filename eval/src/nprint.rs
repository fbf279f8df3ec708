//! nPrint: a packet as a row of bits in fixed columns (Holland et al., CCS '21), counted column by column.
//!
//! A column is 1, 0, or -1 where the packet has no such bit. Columns are IPv4 480, IPv6 320, TCP 480, UDP 64, ICMP 64
//! in this order; headers of variable length are padded with -1. A frame without IP is a row of -1.

use super::stats::Distances;
use super::view::{ICMP, TCP, UDP, View};

/// Columns of a row.
pub const COLUMNS: usize = 8 * BYTES;
/// Columns of the earlier work: all but IPv6.
pub const COLUMNS_1088: usize = 1088;

const IPV4: usize = 0;
const IPV6: usize = 60;
const TCP_AT: usize = 100;
const UDP_AT: usize = 160;
const ICMP_AT: usize = 168;
const BYTES: usize = 176;

/// Each byte as eight numbers, the most significant bit first.
static SPREAD: [[u64; 8]; 256] = {
    let mut table = [[0; 8]; 256];
    let mut i = 0;
    while i < 256 * 8 {
        table[i / 8][i % 8] = (((i / 8) >> (7 - i % 8)) & 1) as u64;
        i += 1;
    }
    table
};

/// Calls `f` with the bytes of each header of a row and the byte column at which they begin.
pub fn headers(view: &View<'_>, mut f: impl FnMut(usize, &[u8])) {
    let cut = |bytes: &[u8], len: usize| bytes.len().min(len);
    match view.ip_version() {
        4 => f(IPV4, &view.ip_header[..cut(view.ip_header, 60)]),
        6 => f(IPV6, &view.ip_header[..cut(view.ip_header, 40)]),
        _ => return,
    }
    match view.protocol() {
        Some(TCP) => f(TCP_AT, &view.transport[..cut(view.transport, 60)]),
        Some(UDP) => f(UDP_AT, &view.transport[..cut(view.transport, 8)]),
        Some(ICMP) => f(ICMP_AT, &view.transport[..cut(view.transport, 8)]),
        _ => {}
    }
}

/// How often each column was 1, and was there.
#[derive(Debug, Clone)]
pub struct BitCounts {
    rows: u64,
    /// For each byte: how often it was there, and how often each of its bits was 1.
    bytes: Box<[(u64, [u64; 8]); BYTES]>,
}

impl Default for BitCounts {
    fn default() -> Self {
        Self { rows: 0, bytes: Box::new([(0, [0; 8]); BYTES]) }
    }
}

impl BitCounts {
    /// Counts a packet.
    pub fn add(&mut self, view: &View<'_>) {
        self.rows += 1;
        headers(view, |at, bytes| {
            for ((present, ones), byte) in self.bytes[at..].iter_mut().zip(bytes) {
                *present += 1;
                for (one, bit) in ones.iter_mut().zip(&SPREAD[usize::from(*byte)]) {
                    *one += bit;
                }
            }
        });
    }

    /// Takes the counts of another in.
    pub fn merge(&mut self, other: &Self) {
        self.rows += other.rows;
        for ((present, ones), (p, o)) in self.bytes.iter_mut().zip(other.bytes.iter()) {
            *present += p;
            ones.iter_mut().zip(o).for_each(|(a, b)| *a += b);
        }
    }

    /// Rows counted.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Distances of each column, with whether it was there at least once on either side. A side without rows has -1 in
    /// every column.
    pub fn distances(&self, other: &Self) -> Vec<(bool, Distances)> {
        (0..COLUMNS)
            .map(|column| {
                let (p, q) = (self.frequencies(column), other.frequencies(column));
                let active = p[0] < 1.0 || q[0] < 1.0;
                (active, if active { Distances::between(p.into_iter().zip(q)) } else { Distances::ZERO })
            })
            .collect()
    }

    /// Share of -1, 0 and 1 in a column.
    fn frequencies(&self, column: usize) -> [f64; 3] {
        if self.rows == 0 {
            return [1.0, 0.0, 0.0];
        }
        let (present, ones) = &self.bytes[column / 8];
        let ones = ones[column % 8];
        [self.rows - present, present - ones, ones].map(|n| n as f64 / self.rows as f64)
    }
}

/// Whether a column is one of the 1,088 of earlier work.
pub fn is_1088(column: usize) -> bool {
    !(IPV6 * 8..TCP_AT * 8).contains(&column)
}

/// Whether a column is one of TCP's 480.
pub fn is_tcp(column: usize) -> bool {
    (TCP_AT * 8..UDP_AT * 8).contains(&column)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_add_up() {
        assert_eq!(COLUMNS, 480 + 320 + 480 + 64 + 64);
        assert_eq!((0..COLUMNS).filter(|c| is_1088(*c)).count(), COLUMNS_1088);
        assert_eq!((0..COLUMNS).filter(|c| is_tcp(*c)).count(), 480);
        assert_eq!(SPREAD[0b1000_0001], [1, 0, 0, 0, 0, 0, 0, 1]);
    }
}
