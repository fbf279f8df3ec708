//! Several processes that learn one network together: each takes some rows of every batch, and gradients are summed over all.
//!
//! Every process samples the whole batch, which costs nothing beside a step, and so knows its rows and the number of targets without
//! asking. After the sum all have the same gradient, and make the same update: parameters never travel.

use std::ops::Range;

use crate::mamba::{Batch, MambaConfig, State};

/// The processes that learn together, as a launcher started them. Calls are collective: every process makes them, in the same order.
pub trait AllReduce: Send {
    /// Which of them this one is, from 0.
    fn rank(&self) -> usize;

    /// How many there are.
    fn size(&self) -> usize;

    /// Replaces each number by its sum over all processes: the same bits in each of them.
    fn sum_f32(&self, numbers: &mut [f32]);

    /// As [`sum_f32`](Self::sum_f32).
    fn sum_f64(&self, numbers: &mut [f64]);

    /// What sums numbers that lie in a GPU's memory, where the processes have joined by it.
    #[cfg(feature = "nccl")]
    fn nccl(&self) -> Option<&crate::engine::cuda::Nccl> {
        None
    }
}

/// The rows of a batch of `batch` rows that process `rank` of `size` takes; `size` divides `batch`.
pub(super) fn rows(batch: usize, rank: usize, size: usize) -> Range<usize> {
    let each = batch / size;
    rank * each..(rank + 1) * each
}

/// Some rows of a batch.
pub(super) fn part(batch: &Batch, rows: &Range<usize>) -> Batch {
    let tokens = rows.start * batch.l..rows.end * batch.l;
    Batch {
        b: rows.len(),
        l: batch.l,
        tokens: batch.tokens[tokens.clone()].to_vec(),
        targets: batch.targets[tokens.clone()].to_vec(),
        starts: batch.starts[tokens].to_vec(),
    }
}

/// Some rows of a state.
pub(super) fn state_part(state: &State, rows: &Range<usize>, config: &MambaConfig) -> State {
    let mut ret = State::new(config, rows.len());
    rows.clone().enumerate().for_each(|(to, from)| ret.copy_stream(to, state, from, config));
    ret
}

/// The state of all `batch` rows, from what each process has of them.
pub(super) fn whole_state(all: &dyn AllReduce, own: &State, batch: usize, config: &MambaConfig) -> State {
    let rows = rows(batch, all.rank(), all.size());
    let mut ret = State::new(config, batch);
    rows.enumerate().for_each(|(from, to)| ret.copy_stream(to, own, from, config));
    // Every row is zero in all processes but one: the sum is that one's, bit for bit but for the sign of zero.
    all.sum_f32(&mut ret.conv);
    all.sum_f32(&mut ret.ssm);
    ret
}
