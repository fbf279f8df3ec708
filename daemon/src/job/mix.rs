//! Labels and their weights, on the command line.

/// A label and its weight, as in `zoom=3`.
pub(super) fn weight(s: &str) -> Result<(String, u32), String> {
    let expected = || "give labels with whole weights from 1 to 1000000, as in zoom=3,dns=5".to_owned();
    let (label, weight) = s.split_once('=').ok_or_else(expected)?;
    let weight = weight.parse().ok().filter(|w| (1..=1_000_000).contains(w)).ok_or_else(expected)?;
    Ok((label.to_owned(), weight))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_is_a_whole_number_from_one() {
        assert_eq!(weight("zoom=3"), Ok(("zoom".to_owned(), 3)));
        for bad in ["zoom", "zoom=", "zoom=0", "zoom=-1", "zoom=1.5", "zoom=10000000"] {
            assert!(weight(bad).is_err(), "{bad}");
        }
    }
}
