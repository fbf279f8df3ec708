//! The seam between a generator and what computes for it: the streams of a network, decoded together, drawing included.
//!
//! A [`Decoder`] owns the recurrent state of its streams in whatever layout, and wherever, suits it; the generator never
//! sees a state or a logit. Chance stays with the generator: each draw comes with its own uniform number, so that what a
//! flow becomes does not depend on its slot, on the other flows, nor on how many there are. [`HostDecoder`] is the plain
//! implementation over any [`Mamba`], and what the others are tested against.

use std::collections::VecDeque;

use rayon::prelude::*;

use super::sampling::{Picker, Sampling};
use crate::codec::Token;
use crate::mamba::{Mamba, MambaConfig, State};

/// Tokens of a prompt that go through the network at once: bounds the logits of a prefill.
const PREFILL_TOKENS: usize = 256;
/// Logits of a step from which on drawing is spread over cores; below, waking them costs more.
const PARALLEL_LOGITS: usize = 1 << 15;
/// Bytes of states and logits after prompts that are kept, so that flows which begin alike share the work.
const PROMPT_CACHE_BYTES: usize = 64 << 20;

/// The streams of a network, decoded together. A stream lives in a slot, from 0 to [`streams`](Self::streams).
///
/// Every implementation keeps: what a stream becomes depends on its own prompt, tokens and draws alone; the same calls on the
/// same device give the same tokens.
pub trait Decoder: Send {
    /// The sizes of the network.
    fn config(&self) -> &MambaConfig;

    /// How many slots there are.
    fn streams(&self) -> usize;

    /// Makes it `streams` slots: slot i goes on with the stream that was in slot `keep[i]`; the slots after those are
    /// free, and hold nothing until [`begin`](Self::begin).
    ///
    /// # Panics
    /// When `keep` names a slot twice or one that is not there, or is longer than `streams`.
    fn resize(&mut self, keep: &[usize], streams: usize);

    /// Begins a stream in `slot`: reads `prompt`, which is not empty, from the zero state. The slot then has the logits of what
    /// comes after the prompt.
    fn begin(&mut self, slot: usize, prompt: &[Token]);

    /// Moves every stream on by its token in `inputs`, one for each slot; a free slot takes any token. Each slot then has the
    /// logits of what comes next. May return before it is done: [`draw`](Self::draw) waits.
    fn step(&mut self, inputs: &[Token]);

    /// Draws the next token of some slots from their logits, which stay as they are; `ret` becomes one entry for each, `None` where
    /// nothing can be drawn.
    fn draw(&mut self, draws: &Draws<'_>, ret: &mut Vec<Option<Token>>);

    /// Calls `work` from some threads at once, the caller's among them, and returns when all calls have: what is done between two
    /// steps need not wait for one core.
    fn together(&self, work: &(dyn Fn() + Sync)) {
        rayon::in_place_scope(|scope| {
            (1..rayon::current_num_threads()).for_each(|_| scope.spawn(|_| work()));
            work();
        });
    }
}

/// What is to be drawn: one token in each of some slots.
#[derive(Debug, Clone, Copy)]
pub struct Draws<'a> {
    /// The slots, each at most once, ascending.
    pub slots: &'a [usize],
    /// A number in [0, 1) for each of them; all chance there is.
    pub uniforms: &'a [f64],
    /// Tokens from here on are never drawn: a network's vocabulary may be padded beyond its codec's.
    pub vocab_size: usize,
    /// What may be drawn, where not everything may: for each of the slots `vocab_size.div_ceil(64)` words, token t at bit
    /// t % 64 of word t / 64.
    pub masks: Option<&'a [u64]>,
    /// How.
    pub sampling: Sampling,
}

impl<'a> Draws<'a> {
    /// Words in the mask of a slot.
    pub fn mask_words(vocab_size: usize) -> usize {
        vocab_size.div_ceil(64)
    }

    /// The mask of the `index`-th of the slots.
    pub fn mask(&self, index: usize) -> Option<&'a [u64]> {
        let words = Self::mask_words(self.vocab_size);
        self.masks.map(|masks| &masks[index * words..][..words])
    }
}

/// The plain decoder: any network, its state and its logits in ordinary memory, tokens drawn by a [`Picker`].
pub struct HostDecoder {
    model: Box<dyn Mamba>,
    state: State,
    /// (streams, vocab_size)
    logits: Vec<f32>,
    /// One for each slot.
    pickers: Vec<Picker>,
    prompts: PromptCache<Prefilled>,
}

/// What a prompt came to.
#[derive(Debug, Clone)]
struct Prefilled {
    state: State,
    logits: Vec<f32>,
}

impl HostDecoder {
    /// A decoder without streams.
    pub fn new(model: Box<dyn Mamba>) -> Self {
        let config = model.params().config();
        let (state, one) = (State::new(config, 0), State::new(config, 1));
        let bytes = 4 * (one.conv.len() + one.ssm.len() + config.vocab_size);
        Self { model, state, logits: Vec::new(), pickers: Vec::new(), prompts: PromptCache::new(bytes) }
    }

    fn vocab_size(&self) -> usize {
        self.model.params().config().vocab_size
    }
}

impl Decoder for HostDecoder {
    fn config(&self) -> &MambaConfig {
        self.model.params().config()
    }

    fn streams(&self) -> usize {
        self.state.b
    }

    fn resize(&mut self, keep: &[usize], streams: usize) {
        check_keep(keep, self.streams(), streams);
        let config = self.model.params().config();
        let v = config.vocab_size;
        let mut state = State::new(config, streams);
        let mut logits = vec![0.0; streams * v];
        for (to, &from) in keep.iter().enumerate() {
            state.copy_stream(to, &self.state, from, config);
            logits[to * v..][..v].copy_from_slice(&self.logits[from * v..][..v]);
        }
        self.pickers.resize_with(streams, || Picker::new(v));
        (self.state, self.logits) = (state, logits);
    }

    fn begin(&mut self, slot: usize, prompt: &[Token]) {
        let v = self.vocab_size();
        let Self { model, prompts, .. } = self;
        let prefilled = prompts.get_or_insert_with(prompt, || {
            let mut state = State::new(model.params().config(), 1);
            let mut last = Vec::new();
            for part in prompt.chunks(PREFILL_TOKENS) {
                let logits = model.forward(part, &mut state);
                last = logits[logits.len() - v..].to_vec();
            }
            Prefilled { state, logits: last }
        });
        self.state.copy_stream(slot, &prefilled.state, 0, self.model.params().config());
        self.logits[slot * v..][..v].copy_from_slice(&prefilled.logits);
    }

    fn step(&mut self, inputs: &[Token]) {
        self.model.step(inputs, &mut self.state, &mut self.logits);
    }

    fn draw(&mut self, draws: &Draws<'_>, ret: &mut Vec<Option<Token>>) {
        let v = self.vocab_size();
        let logits = &self.logits;
        // The scratch of the first ones serves whichever slots are drawn.
        let one = |(index, picker): (usize, &mut Picker)| {
            let logits = &logits[draws.slots[index] * v..][..draws.vocab_size];
            picker.pick(logits, &draws.sampling, draws.mask(index), draws.uniforms[index])
        };
        let pickers = &mut self.pickers[..draws.slots.len()];
        if pickers.len() * draws.vocab_size < PARALLEL_LOGITS {
            ret.clear();
            ret.extend(pickers.iter_mut().enumerate().map(one));
        } else {
            pickers.par_iter_mut().enumerate().map(one).collect_into_vec(ret);
        }
    }
}

impl std::fmt::Debug for HostDecoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostDecoder").field("streams", &self.streams()).finish_non_exhaustive()
    }
}

/// Panics unless `keep` is a list of different slots of `from` that fits in `to`, as [`Decoder::resize`] asks.
pub(crate) fn check_keep(keep: &[usize], from: usize, to: usize) {
    assert!(keep.len() <= to, "{} streams do not fit in {to} slots", keep.len());
    let mut seen = vec![false; from];
    for &slot in keep {
        assert!(slot < from && !std::mem::replace(&mut seen[slot], true), "slot {slot} of {from}, or twice");
    }
}

/// What the last prompts came to, as many as [`PROMPT_CACHE_BYTES`] hold and one at least; the one not asked for longest goes
/// first.
#[derive(Debug)]
pub(crate) struct PromptCache<T> {
    entries: VecDeque<(Vec<Token>, T)>,
    entries_max: usize,
}

impl<T> PromptCache<T> {
    /// A cache of values of about `value_bytes` each.
    pub(crate) fn new(value_bytes: usize) -> Self {
        Self { entries: VecDeque::new(), entries_max: (PROMPT_CACHE_BYTES / value_bytes.max(1)).max(1) }
    }

    /// What `prompt` came to, by `make` unless it is known.
    pub(crate) fn get_or_insert_with(&mut self, prompt: &[Token], make: impl FnOnce() -> T) -> &T {
        let entry = match self.entries.iter().position(|(known, _)| known == prompt) {
            Some(place) => self.entries.remove(place).expect("it was found there"),
            None => {
                self.entries.truncate(self.entries_max - 1);
                (prompt.to_vec(), make())
            }
        };
        self.entries.push_front(entry);
        &self.entries[0].1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::testing::Bigram;

    fn tokens(list: &[u32]) -> Vec<Token> {
        list.iter().map(|t| Token(*t)).collect()
    }

    #[test]
    fn the_cache_forgets_what_was_not_asked_for_longest() {
        let mut cache = PromptCache::new(PROMPT_CACHE_BYTES / 2);
        let mut made = 0;
        let mut ask = |prompt: &[u32]| {
            *cache.get_or_insert_with(&tokens(prompt), || {
                made += 1;
                made
            })
        };
        assert_eq!([ask(&[1]), ask(&[2]), ask(&[1]), ask(&[3]), ask(&[1]), ask(&[2])], [1, 2, 1, 3, 1, 4]);
    }

    #[test]
    fn kept_streams_move_with_their_logits() {
        let mut decoder = HostDecoder::new(Box::new(Bigram::random(20, 8)));
        decoder.resize(&[], 3);
        for (slot, token) in [4, 5, 6].into_iter().enumerate() {
            decoder.begin(slot, &tokens(&[token]));
        }
        let draw = |decoder: &mut HostDecoder, slots: &[usize]| {
            let mut ret = Vec::new();
            let uniforms = vec![0.5; slots.len()];
            let sampling = Sampling::default();
            decoder.draw(&Draws { slots, uniforms: &uniforms, vocab_size: 20, masks: None, sampling }, &mut ret);
            ret
        };
        let before = draw(&mut decoder, &[0, 1, 2]);
        decoder.resize(&[2, 0], 5);
        assert_eq!(draw(&mut decoder, &[0, 1]), [before[2], before[0]]);
    }

    #[test]
    #[should_panic(expected = "twice")]
    fn a_slot_is_not_kept_twice() {
        check_keep(&[1, 1], 2, 2);
    }
}
