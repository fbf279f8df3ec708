//! Promises of a training run: it learns, goes on exactly, and survives numbers that are not finite.

use super::super::testing::{Bigram, NibbleCodec, session};
use super::*;
use crate::codec::{Codec, LabelId};
use crate::train::global_norm;

fn codec() -> NibbleCodec {
    NibbleCodec::new(&["a", "b"])
}

/// Samples with a pattern: bytes that count up from a start that depends on the label.
fn data() -> Dataset {
    let sessions: Vec<_> = (0..24u8)
        .map(|i| {
            let first = if i % 2 == 0 { 0x10 } else { 0x80 };
            let bytes: Vec<u8> = (0..4 + i % 5).map(|k| first + k).collect();
            (LabelId(u16::from(i % 2)), session(&[&bytes, &bytes[..2]]))
        })
        .collect();
    Dataset::encode(&codec(), &sessions, Default::default())
}

fn options() -> TrainOptions {
    TrainOptions {
        steps: 60,
        batch: 3,
        seq_len: 16,
        accumulate: 2,
        learning_rate: 0.05,
        warmup_steps: 5,
        ..Default::default()
    }
}

fn trainer(options: TrainOptions) -> (Trainer, Dataset) {
    let (train, held_out) = data().split(0.2, 1);
    let model = Box::new(Bigram::random(codec().vocab_size(), 1));
    (Trainer::new(model, Arc::new(train), options).unwrap(), held_out)
}

#[test]
fn loss_falls_on_held_out_samples() {
    let (mut trainer, held_out) = trainer(options());
    let before = trainer.evaluate(&held_out).total.bits_per_byte();
    let mut last = None;
    for _ in 0..60 {
        last = Some(trainer.step().unwrap());
    }
    let (after, last) = (trainer.evaluate(&held_out).total.bits_per_byte(), last.unwrap());
    assert!(after < 0.6 * before, "{before} {after}");
    assert_eq!((last.step, last.tokens, last.is_skipped), (60, 96, false));
    let epochs = 60.0 * 96.0 / trainer.sampler.data().token_count() as f64;
    assert!((last.epoch - epochs).abs() < 1e-9);
    assert!((last.bits_per_token * std::f64::consts::LN_2 - last.nats_per_token).abs() < 1e-12);
}

#[test]
fn a_resumed_run_equals_an_uninterrupted_one_bit_for_bit() {
    for carry in [true, false] {
        let options = TrainOptions { carry, ..options() };
        let (mut whole, _) = trainer(options.clone());
        for _ in 0..17 {
            whole.step().unwrap();
        }
        let (params, saved) = (whole.params().data.clone(), whole.state());
        let json = serde_json::to_string(&saved.options).unwrap();
        let (mut resumed, _) = trainer(serde_json::from_str(&json).unwrap());
        resumed.model_mut().set_params(&params);
        resumed.restore(saved).unwrap();
        for _ in 0..20 {
            assert_eq!(whole.step().unwrap(), resumed.step().unwrap());
        }
        assert_eq!(whole.params().data, resumed.params().data);
        assert_eq!(whole.state(), resumed.state());
    }
}

#[test]
fn two_windows_of_one_step_equal_one_of_twice_the_rows() {
    // Without carrying, and with the same windows, accumulation is only a matter of summation.
    let gradient = |accumulate| {
        let (mut trainer, _) = trainer(TrainOptions { accumulate, ..options() });
        let report = trainer.step().unwrap();
        (report.nats_per_token, report.gradient_norm, trainer.batches.clone())
    };
    let (nats, norm, batches) = gradient(2);
    let mut model = Bigram::random(codec().vocab_size(), 1);
    let mut state = State::new(model.params().config(), 3);
    let mut expected = Params::zeros(&Bigram::config(codec().vocab_size()));
    let mut loss = Loss::default();
    for batch in &batches {
        let part = model.gradients(batch, &mut state, 1.0, &mut expected);
        loss = Loss { nats: loss.nats + part.nats, count: loss.count + part.count };
    }
    assert!((loss.mean() - nats).abs() < 1e-12);
    // f32 sums scaled before or after: 1e-5 is far above 96 roundings.
    assert!((global_norm(&expected.data) / loss.count as f64 - norm).abs() < 1e-5 * norm);
}

#[test]
fn the_stand_ins_gradient_is_right() {
    let (mut trainer, _) = trainer(options());
    trainer.step().unwrap();
    let batch = trainer.batches[0].clone();
    let mut model = Bigram::random(codec().vocab_size(), 5);
    let config = model.params().config().clone();
    let mut gradients = Params::zeros(&config);
    model.gradients(&batch, &mut State::new(&config, 3), 1.0, &mut gradients);
    let start = model.params().data.clone();
    for i in (0..config.vocab_size * config.vocab_size).step_by(7) {
        let mut at = |delta: f32| {
            let mut moved = start.clone();
            moved[i] += delta;
            model.set_params(&moved);
            model.loss(&batch, &mut State::new(&config, 3)).nats
        };
        let numeric = (at(1e-2) - at(-1e-2)) / 2e-2;
        assert!((numeric - f64::from(gradients.data[i])).abs() < 2e-3, "{i}: {numeric} {}", gradients.data[i]);
    }
}

/// A network that breaks for some steps.
struct Breaks {
    inner: Bigram,
    calls: u32,
    broken: std::ops::Range<u32>,
}

impl Mamba for Breaks {
    fn params(&self) -> &Params {
        self.inner.params()
    }
    fn set_params(&mut self, data: &[f32]) {
        self.inner.set_params(data);
    }
    fn forward(&mut self, tokens: &[Token], state: &mut State) -> Vec<f32> {
        self.inner.forward(tokens, state)
    }
    fn loss(&mut self, batch: &Batch, state: &mut State) -> Loss {
        self.inner.loss(batch, state)
    }
    fn gradients(&mut self, batch: &Batch, state: &mut State, scale: f32, gradients: &mut Params) -> Loss {
        let loss = self.inner.gradients(batch, state, scale, gradients);
        self.calls += 1;
        if self.broken.contains(&self.calls) {
            gradients.data[3] = f32::NAN;
            state.conv[0] = f32::INFINITY;
        }
        loss
    }
    fn step(&mut self, tokens: &[Token], state: &mut State, ret_logits: &mut [f32]) {
        self.inner.step(tokens, state, ret_logits);
    }
}

#[test]
fn steps_that_are_not_finite_change_nothing_and_are_counted() {
    let inner = Bigram::random(codec().vocab_size(), 1);
    let model = Box::new(Breaks { inner, calls: 0, broken: 2..4 });
    let options = TrainOptions { accumulate: 1, nonfinite_steps_max: 3, ..options() };
    let mut trainer = Trainer::new(model, Arc::new(data()), options).unwrap();
    assert!(!trainer.step().unwrap().is_skipped);
    let (params, moments) = (trainer.params().data.clone(), trainer.state().first_moment.into_owned());
    assert!(trainer.step().unwrap().is_skipped);
    assert!(trainer.step().unwrap().is_skipped);
    assert_eq!((&params, &moments[..]), (&trainer.params().data, &trainer.state().first_moment[..]));
    assert!(trainer.state().carried.conv.iter().all(|x| *x == 0.0), "bad numbers do not stay in the state");
    assert!(!trainer.step().unwrap().is_skipped);
    assert_eq!((trainer.skipped_steps(), trainer.steps()), (2, 4));
    assert_ne!(params, trainer.params().data);
}

#[test]
fn too_many_bad_steps_in_a_row_are_an_error() {
    let inner = Bigram::random(codec().vocab_size(), 1);
    let model = Box::new(Breaks { inner, calls: 0, broken: 1..1000 });
    let options = TrainOptions { accumulate: 1, nonfinite_steps_max: 3, ..options() };
    let mut trainer = Trainer::new(model, Arc::new(data()), options).unwrap();
    assert!(trainer.step().unwrap().is_skipped && trainer.step().unwrap().is_skipped);
    assert!(matches!(trainer.step(), Err(TrainError::NotFinite { steps: 3, step: 3 })));
}

#[test]
fn what_does_not_fit_is_refused() {
    let small = Box::new(Bigram::zeros(10));
    let error = Trainer::new(small, Arc::new(data()), options()).err().unwrap();
    assert_eq!(error.to_string(), "the data has token 19, the network's vocabulary ends at 10");
    let (other, _) = trainer(TrainOptions { batch: 4, ..options() });
    let (mut ours, _) = trainer(options());
    let before = ours.state().sampler;
    assert!(matches!(ours.restore(other.state()), Err(TrainError::OtherShape { .. })));
    assert_eq!(ours.state().sampler, before);
}

/// Processes as threads of one: sums go through shared memory, in the order of ranks.
struct Threads {
    rank: usize,
    size: usize,
    shared: Arc<(std::sync::Mutex<Slots>, std::sync::Barrier)>,
}

/// What each of them brings to a sum.
type Slots = Vec<Option<Vec<f64>>>;

impl Threads {
    fn new(size: usize) -> Vec<Self> {
        let shared = Arc::new((std::sync::Mutex::new(vec![None; size]), std::sync::Barrier::new(size)));
        (0..size).map(|rank| Self { rank, size, shared: Arc::clone(&shared) }).collect()
    }

    fn sum(&self, own: Vec<f64>, add: impl Fn(f64, f64) -> f64) -> Vec<f64> {
        let (slots, barrier) = &*self.shared;
        slots.lock().unwrap()[self.rank] = Some(own);
        barrier.wait();
        let all: Vec<Vec<f64>> = slots.lock().unwrap().iter().map(|s| s.clone().unwrap()).collect();
        barrier.wait();
        let mut sum = all[0].clone();
        all[1..].iter().for_each(|other| sum.iter_mut().zip(other).for_each(|(s, o)| *s = add(*s, *o)));
        sum
    }
}

impl AllReduce for Threads {
    fn rank(&self) -> usize {
        self.rank
    }
    fn size(&self) -> usize {
        self.size
    }
    fn sum_f32(&self, numbers: &mut [f32]) {
        let own = numbers.iter().map(|n| f64::from(*n)).collect();
        let sum = self.sum(own, |a, b| f64::from(a as f32 + b as f32));
        numbers.iter_mut().zip(sum).for_each(|(n, s)| *n = s as f32);
    }
    fn sum_f64(&self, numbers: &mut [f64]) {
        numbers.copy_from_slice(&self.sum(numbers.to_vec(), |a, b| a + b));
    }
}

#[test]
fn processes_that_share_a_batch_learn_what_one_learns_from_the_whole() {
    let options = TrainOptions { batch: 4, ..options() };
    let (mut one, _) = trainer(options.clone());
    let losses: Vec<f64> = (0..20).map(|_| one.step().unwrap().nats_per_token).collect();
    let expected = one.state();
    std::thread::scope(|scope| {
        for all in Threads::new(2) {
            let (options, losses, expected, one) = (options.clone(), &losses, &expected, one.params());
            scope.spawn(move || {
                let model = Box::new(Bigram::random(codec().vocab_size(), 1));
                let learner = Box::new(HostLearner::new(model, 2, options.adamw));
                let (data, _) = data().split(0.2, 1);
                let mut ours = Trainer::in_parallel(learner, Arc::new(data), options, Box::new(all)).unwrap();
                for (step, loss) in losses.iter().enumerate() {
                    let found = ours.step().unwrap().nats_per_token;
                    // The same sums in another order: 64 f32 numbers, 20 steps.
                    assert!((found - loss).abs() < 1e-5 * loss, "step {step}: {found} {loss}");
                }
                let state = ours.state();
                assert_eq!((&state.sampler, state.carried.b), (&expected.sampler, 4));
                assert_eq!(state.carried, expected.carried, "the stand-in's state is made of tokens, not of sums");
                let far = ours.params().data.iter().zip(&one.data).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(far < 1e-3, "{far}");
                assert_eq!(ours.any([true, false]), [true, false]);
            });
        }
    });
    let odd = TrainOptions { batch: 3, ..options };
    let model = Box::new(Bigram::random(codec().vocab_size(), 1));
    let learner = Box::new(HostLearner::new(model, 1, odd.adamw));
    let [all, _]: [Threads; 2] = Threads::new(2).try_into().ok().unwrap();
    let error = Trainer::in_parallel(learner, Arc::new(data()), odd, Box::new(all)).err().unwrap().to_string();
    assert_eq!(error, "a batch of 3 rows cannot be shared out evenly to 2 processes");
}
