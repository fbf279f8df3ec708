//! What the headers of one side's packets say that is a matter of its system: time to live, DSCP and ECN, windows.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::super::action::Action;
use super::super::steps::window_quantised;

/// Values of a field that are kept; where there are more, any will do.
const VALUES_MAX: usize = 64;

/// The values that a field had; `null` in a checkpoint where they were too many.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Values(Option<BTreeSet<u16>>);

impl Default for Values {
    fn default() -> Self {
        Self(Some(BTreeSet::new()))
    }
}

impl Values {
    fn see(&mut self, value: u16) {
        if let Some(values) = &mut self.0 {
            values.insert(value);
            if values.len() > VALUES_MAX {
                self.0 = None;
            }
        }
    }

    fn merge(&mut self, other: &Self) {
        match &other.0 {
            Some(values) => values.iter().for_each(|value| self.see(*value)),
            None => self.0 = None,
        }
    }

    /// All of them; `None` where there was none, or too many to be kept.
    pub(in super::super) fn known(&self) -> Option<&BTreeSet<u16>> {
        self.0.as_ref().filter(|values| !values.is_empty())
    }
}

/// What one side's headers had.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Headers {
    /// Time to live, or hop limit.
    pub ttl: Values,
    /// DSCP and ECN.
    pub tos: Values,
    /// Windows of TCP, as their tokens say them.
    pub windows: Values,
}

impl Headers {
    /// Takes a packet of this side into account.
    pub(super) fn see(&mut self, action: &Action) {
        // Nothing is sent whose time is over (RFC 1122, section 3.2.1.7).
        if action.ttl > 0 {
            self.ttl.see(action.ttl.into());
        }
        self.tos.see(action.tos.into());
        action.tcp.iter().for_each(|segment| self.windows.see(window_quantised(segment.window)));
    }

    /// Takes what was seen elsewhere into account.
    pub(super) fn merge(&mut self, other: &Self) {
        self.ttl.merge(&other.ttl);
        self.tos.merge(&other.tos);
        self.windows.merge(&other.windows);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_values_are_kept_and_many_are_any() {
        let mut few = Values::default();
        assert_eq!(few.known(), None);
        [64, 128, 64].into_iter().for_each(|value| few.see(value));
        assert_eq!(few.known(), Some(&BTreeSet::from([64, 128])));
        let mut many = Values::default();
        (0..VALUES_MAX as u16).for_each(|value| many.see(value));
        assert!(many.known().is_some());
        many.merge(&few);
        assert_eq!(many.known(), None, "one more");
        few.merge(&Values::default());
        few.merge(&many);
        few.see(1);
        assert_eq!(few.known(), None);
        for values in [few, Values::default(), Values(Some(BTreeSet::from([7])))] {
            let json = serde_json::to_string(&values).unwrap();
            assert_eq!(serde_json::from_str::<Values>(&json).unwrap(), values, "{json}");
        }
    }
}
