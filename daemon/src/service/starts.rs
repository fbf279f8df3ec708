//! When flows began: how often they come is learned from all flows that are learned from, and not from those that are kept.

use std::collections::BTreeMap;

use wiremamba_model::codec::{CaptureStarts, LabelId};
use wiremamba_model::packet::Timestamp;

use super::samples::Sample;

/// Starts that are kept by label: the newest, by when flows ended.
const STARTS_MAX: usize = 4096;

/// By label, when its newest flows began. They stay from round to round, as flows that end late began before others that were
/// learned already.
#[derive(Default)]
pub(super) struct StartTimes(BTreeMap<LabelId, Ring>);

/// The newest starts, and the place of the oldest.
#[derive(Default)]
struct Ring {
    starts: Vec<Timestamp>,
    oldest: usize,
}

impl StartTimes {
    pub(super) fn add(&mut self, (label, session): &Sample) {
        let Some(first) = session.packets.first() else { return };
        let Ring { starts, oldest } = self.0.entry(*label).or_default();
        if starts.len() < STARTS_MAX {
            starts.push(first.packet.ts);
        } else {
            starts[*oldest] = first.packet.ts;
            *oldest = (*oldest + 1) % STARTS_MAX;
        }
    }

    /// All of them.
    pub(super) fn all(&self) -> Vec<CaptureStarts> {
        self.0.iter().map(|(label, ring)| (*label, ring.starts.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use wiremamba_model::codec::wire::WireCodec;
    use wiremamba_model::codec::{Codec, GapHistogram};
    use wiremamba_model::flow::{Direction, FiveTuple, Session, SessionPacket};
    use wiremamba_model::packet::{LinkType, Packet};
    use wiremamba_model::wire::plan::Plan;

    use super::*;

    /// A flow that began at second `s`.
    fn flow(s: i64) -> Sample {
        let orig = [10, 0, 0, 1].into();
        let tuple = FiveTuple { orig, resp: orig, orig_port: 1, resp_port: 2, protocol: 6 };
        let packet = Packet { ts: Timestamp::from_parts(s, 0), linktype: LinkType::ETHERNET, len: 1, data: vec![0] };
        let packets = vec![SessionPacket { flow: 0, direction: Direction::Orig, packet }];
        (LabelId(0), Session { flows: vec![tuple], packets })
    }

    #[test]
    fn how_often_flows_come_does_not_depend_on_rounds_nor_on_when_they_end() {
        let mut codec = WireCodec::fit(vec!["web".into()], 0, false, Plan::default(), &[]).unwrap();
        let mut times = StartTimes::default();
        let mut mean_s = |times: &StartTimes| {
            codec.learn_starts(&times.all());
            codec.starts(LabelId(0)).and_then(GapHistogram::mean_ns).map(|ns| (ns * 1e-8).round() / 10.0)
        };
        // One every 10 s, each third of which lasts for 100 s more; a round after each five.
        let ends = |s: i64| if s % 30 == 0 { s + 100 } else { s };
        let mut order: Vec<i64> = (0..40).map(|i| 10 * i).collect();
        order.sort_by_key(|s| ends(*s));
        for (i, s) in order.into_iter().enumerate() {
            times.add(&flow(s));
            if i % 5 == 4 {
                mean_s(&times);
            }
        }
        assert_eq!(mean_s(&times), Some(10.0));
        // Later it is ten times as many.
        (0..2 * STARTS_MAX as i64).for_each(|i| times.add(&flow(1000 + i)));
        assert_eq!((mean_s(&times), times.all()[0].1.len()), (Some(1.0), STARTS_MAX));
    }
}
