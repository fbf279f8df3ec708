//! Windows and gaps as tokens have them: exact where they are small, in steps of one part in a hundred or less above.

use super::vocab::{window, window_class};

/// The value of a window class and a byte within it: exact below 4,096, to 1/4,096 above.
pub(super) fn window_within(class: u8, byte: u8) -> u16 {
    let (low, width) = window_class_span(class);
    let at = if width <= 256 {
        u32::from(byte).min(width - 1)
    } else if byte == 255 {
        width - 1
    } else {
        u32::from(byte) * (width / 256)
    };
    (low + at) as u16
}

/// The byte that comes closest to `value` in its class, from below.
pub(super) fn window_byte(value: u16) -> (u8, u8) {
    let class = window_class(value);
    let (low, width) = window_class_span(class);
    let at = u32::from(value) - low;
    let byte = if width <= 256 {
        at
    } else if at == width - 1 {
        255
    } else {
        (at / (width / 256)).min(254)
    };
    (class, byte as u8)
}

/// A window as it is after quantisation.
pub(super) fn window_quantised(value: u16) -> u16 {
    let (class, byte) = window_byte(value);
    if class < 8 { window(class) } else { window_within(class, byte) }
}

fn window_class_span(class: u8) -> (u32, u32) {
    let class = u32::from(class);
    if class < 8 {
        return (class, 1);
    }
    ((8 + class % 8) << (class / 8 - 1).min(12), 1 << (class / 8 - 1).min(12))
}

/// Exponent and mantissa of a gap; exact below 128 ns, at most 0.8 % off above.
pub(super) fn gap_parts(ns: u64) -> (u8, u8) {
    let bits = (u64::BITS - ns.leading_zeros()) as u8;
    let mantissa = match bits {
        0..2 => 0,
        2..8 => (ns << (7 - bits)) & 63,
        _ => (ns >> (bits - 7)) & 63,
    };
    (bits.min(63), mantissa as u8)
}

pub(super) fn gap_value(exponent: u8, mantissa: u8) -> i64 {
    let top = 64 | i64::from(mantissa);
    match exponent {
        0..8 => top >> (7 - exponent),
        e => (top << (e - 7)) + ((1 << (e - 7)) >> 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn gaps_come_back_within_one_percent(ns in prop_oneof![0..2000u64, 0..=3_600_000_000_000u64, 0..=i64::MAX as u64]) {
            let (exponent, mantissa) = gap_parts(ns);
            let back = if exponent < 2 { i64::from(exponent) } else { gap_value(exponent, mantissa) };
            prop_assert!((back - ns as i64).unsigned_abs() as f64 <= 0.01 * ns as f64, "{ns} {back}");
            prop_assert!(ns >= 128 || back == ns as i64, "{ns} {back}");
        }

        #[test]
        fn windows_come_back(value: u16) {
            let back = window_quantised(value);
            // Byte 255 is the top of the class alone, so 254 covers two steps of at most 16.
            prop_assert!(back <= value && value - back < 32);
            prop_assert_eq!(window_quantised(back), back);
            prop_assert!(value >= 4096 || back == value);
            if value == 65535 || value == 64240 || value == 29200 { prop_assert_eq!(back, value); }
        }
    }
}
