//! Numbers on the command line that only make sense in a range: parsers that say which.

use std::net::Ipv6Addr;
use std::str::FromStr;

/// A finite number above 0.
pub(crate) fn above_zero(s: &str) -> Result<f64, String> {
    number(s, |n: &f64| n.is_finite() && *n > 0.0, "give a number above 0")
}

/// A number from 0, infinity included.
pub(crate) fn from_zero(s: &str) -> Result<f64, String> {
    number(s, |n: &f64| *n >= 0.0, "give a number from 0")
}

/// A whole number from 1.
pub(crate) fn at_least_one(s: &str) -> Result<usize, String> {
    number(s, |n: &usize| *n > 0, "give a whole number from 1")
}

/// A whole number from 2.
pub(crate) fn at_least_two(s: &str) -> Result<usize, String> {
    number(s, |n: &usize| *n > 1, "give a whole number from 2")
}

/// How many flows are decoded at once, as [`GenerateOptions`](wiremamba_model::generate::GenerateOptions) limits it.
pub(crate) fn streams(s: &str) -> Result<usize, String> {
    number(s, |n: &usize| (1..=65_536).contains(n), "give a whole number from 1 to 65536")
}

/// A rate of flows, as [`Arrivals`](wiremamba_model::generate::Arrivals) limits it.
pub(crate) fn flow_rate(s: &str) -> Result<f64, String> {
    number(s, |n: &f64| (1e-9..=1e9).contains(n), "give a number from 1e-9 to 1e9")
}

/// A share of which something is left: above 0, at most 1.
pub(crate) fn share(s: &str) -> Result<f32, String> {
    number(s, |n: &f32| *n > 0.0 && *n <= 1.0, "give a number above 0 and at most 1")
}

/// What logits can be divided by, as [`Sampling`](wiremamba_model::generate::Sampling) limits it.
pub(crate) fn temperature(s: &str) -> Result<f32, String> {
    number(s, |n: &f32| (0.0..=100.0).contains(n), "give a number from 0 to 100")
}

/// A host's MAC address such as 02:00:00:00:00:01.
pub(crate) fn mac(s: &str) -> Result<[u8; 6], String> {
    // IEEE 802: the lowest bit of the first byte marks a group.
    match any_mac(s)? {
        [first, ..] if first & 1 == 1 => Err("this is a group's; give a host's MAC address".to_owned()),
        [0, 0, 0, 0, 0, 0] => Err("this is nobody's; give a host's MAC address".to_owned()),
        mac => Ok(mac),
    }
}

fn any_mac(s: &str) -> Result<[u8; 6], String> {
    let parts: Vec<&str> = s.split(':').collect();
    let bytes =
        parts.iter().map(|p| u8::from_str_radix(p, 16).ok().filter(|_| p.len() == 2)).collect::<Option<Vec<_>>>();
    bytes.and_then(|b| b.try_into().ok()).ok_or_else(|| "give a MAC address such as 02:00:00:00:00:01".to_owned())
}

/// An IPv6 prefix of 64 bits, with /64 behind it or without.
pub(crate) fn prefix6(s: &str) -> Result<Ipv6Addr, String> {
    let address = s.strip_suffix("/64").unwrap_or(s);
    address.parse().map_err(|_| "give a prefix of 64 bits such as 2001:db8:10::/64".to_owned())
}

// NaN passes no comparison, so no range takes it.
fn number<T: FromStr>(s: &str, fits: impl Fn(&T) -> bool, expected: &str) -> Result<T, String> {
    s.parse().ok().filter(fits).ok_or_else(|| expected.to_owned())
}
