//! Each synthetic capture against the real one that prompted it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::sync::atomic::AtomicBool;

use wiremamba_eval::evaluation::Group;
use wiremamba_eval::first_packets::{FirstPackets, PACKETS};
use wiremamba_eval::similarity::{Paired, paired};
use wiremamba_model::packet::Packet;

use super::{EvalError, EvalJob, run};
use crate::source::collection::LabelledCapture;
use crate::source::file::SavefileSource;
use crate::source::{Next, PacketSource};

/// A real capture and the synthetic one that it prompted.
type Pair = (LabelledCapture, LabelledCapture);

/// Pairs by file name where both sides have the same names, else by place.
pub(super) fn pairs(real: &[LabelledCapture], synthetic: &[LabelledCapture]) -> Result<Vec<Pair>, EvalError> {
    if let (Some(real), Some(synthetic)) = (by_name(real), by_name(synthetic))
        && real.keys().eq(synthetic.keys())
    {
        return Ok(real.into_values().cloned().zip(synthetic.into_values().cloned()).collect());
    }
    if real.len() != synthetic.len() {
        return Err(EvalError::NoPairs { real: real.len(), synthetic: synthetic.len() });
    }
    Ok(real.iter().cloned().zip(synthetic.iter().cloned()).collect())
}

/// `None` where two have the same name.
fn by_name(captures: &[LabelledCapture]) -> Option<BTreeMap<&OsStr, &LabelledCapture>> {
    let named: BTreeMap<_, _> = captures.iter().filter_map(|c| Some((c.path.file_name()?, c))).collect();
    (named.len() == captures.len()).then_some(named)
}

pub(super) fn compare(
    pairs: &[Pair],
    seed: u64,
    stop: &AtomicBool,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Paired, EvalError> {
    let (mut reports, mut first) = (Vec::new(), FirstPackets::default());
    for (real, synthetic) in pairs {
        first.add(&first_packets(real)?, &first_packets(synthetic)?);
        let job = EvalJob {
            real: vec![real.clone()],
            synthetic: vec![synthetic.clone()],
            train: Vec::new(),
            groups: vec![Group::Similarity],
            paired: false,
            pictures: false,
            seed,
        };
        match run(&job, stop, progress) {
            Ok(report) => reports.extend(report.similarity),
            Err(EvalError::NoRealPackets) => {
                tracing::warn!("{} has no packets; its pair is left out", real.path.display())
            }
            Err(error) => return Err(error),
        }
    }
    Ok(paired(&reports, first))
}

fn first_packets(capture: &LabelledCapture) -> Result<Vec<Packet>, EvalError> {
    let mut source = SavefileSource::open(&capture.path)?;
    let mut ret = Vec::new();
    while ret.len() < PACKETS {
        match source.next_packet()? {
            Next::Packet(packet) => ret.push(packet),
            Next::Idle => {}
            Next::End => break,
        }
    }
    Ok(ret)
}
