//! A checkpoint loads whole or fails; saving never harms what is there.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use super::*;
use crate::codec::LabelId;
use crate::mamba::{Mamba, MambaConfig};
use crate::train::testing::{Bigram, NibbleCodec, session};
use crate::train::{Dataset, TrainOptions, Trainer};

fn codec() -> NibbleCodec {
    NibbleCodec::new(&["a", "b"])
}

/// A run of a few steps.
fn trainer() -> Trainer {
    let sessions: Vec<_> = (0..8u8).map(|i| (LabelId(u16::from(i % 2)), session(&[&[i, i + 1, i + 2]]))).collect();
    let data = Dataset::encode(&codec(), &sessions, Default::default());
    let options = TrainOptions { batch: 2, seq_len: 5, learning_rate: 0.01, ..Default::default() };
    let mut trainer = Trainer::new(Box::new(Bigram::random(20, 4)), Arc::new(data), options).unwrap();
    (0..5).for_each(|_| assert!(!trainer.step().unwrap().is_skipped));
    trainer
}

fn save(store: &Store, trainer: &Trainer, step: u64) -> Result<PathBuf, CheckpointError> {
    store.save(&Contents {
        step,
        params: trainer.params(),
        codec: &codec(),
        preset: Some("tiny"),
        metrics: BTreeMap::from([("held_out_bits_per_byte".into(), 1.5), ("bad".into(), f64::NAN)]),
        lineage: Vec::new(),
        training: Some(trainer.state()),
    })
}

fn load(path: &Path) -> Result<Checkpoint, CheckpointError> {
    Checkpoint::load_with(path, NibbleCodec::from_spec)
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn what_was_saved_is_loaded_and_training_goes_on_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), 2).unwrap();
    let mut trainer = trainer();
    let path = save(&store, &trainer, 5).unwrap();
    assert_eq!(path, dir.path().join("step-00000005"));
    assert_eq!(names(dir.path()), ["current", "step-00000005"]);

    let checkpoint = load(dir.path()).unwrap();
    assert_eq!(checkpoint.params.data, trainer.params().data);
    assert_eq!(checkpoint.codec.as_ref().unwrap().labels(), ["a", "b"]);
    let about = checkpoint.about.as_ref().unwrap();
    assert_eq!((about.step, about.sequence, about.preset.as_deref()), (5, 1, Some("tiny")));
    assert_eq!(about.metrics, BTreeMap::from([("held_out_bits_per_byte".into(), 1.5)]));
    assert!(about.has_training());

    let state = checkpoint.load_training().unwrap();
    assert_eq!(state, trainer.state());
    let mut resumed = self::trainer();
    resumed.model_mut().set_params(&checkpoint.params.data);
    resumed.restore(state).unwrap();
    for _ in 0..5 {
        assert_eq!(resumed.step().unwrap(), trainer.step().unwrap());
    }
    assert_eq!(resumed.params().data, trainer.params().data);
}

#[test]
fn a_flipped_byte_anywhere_is_detected() {
    let dir = tempfile::tempdir().unwrap();
    let path = save(&Store::open(dir.path(), 1).unwrap(), &trainer(), 1).unwrap();
    let mut flips = 0;
    for name in names(&path) {
        let file = path.join(&name);
        let good = fs::read(&file).unwrap();
        // Every byte of the text files; of the tensors, the header and a prime stride of the rest.
        let stride = |i: usize| if i < 600 || name.ends_with("json") { 1 } else { 509 };
        let mut i = 0;
        while i < good.len() {
            let mut bad = good.clone();
            bad[i] ^= 1 << (i % 8);
            fs::write(&file, &bad).unwrap();
            let error = load(&path).expect_err(&format!("{name} byte {i}")).to_string();
            assert!(error.contains(path.to_str().unwrap()), "{error}");
            (i, flips) = (i + stride(i), flips + 1);
        }
        fs::write(&file, &good).unwrap();
    }
    assert!(flips > 3000, "{flips}");
    load(&path).unwrap();
}

#[test]
fn cut_and_missing_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = save(&Store::open(dir.path(), 1).unwrap(), &trainer(), 1).unwrap();
    assert_eq!(names(&path).len(), 7);
    for name in names(&path) {
        let file = path.join(&name);
        let good = fs::read(&file).unwrap();
        for len in [0, good.len() / 2, good.len() - 1] {
            fs::write(&file, &good[..len]).unwrap();
            let error = load(&path).unwrap_err().to_string();
            assert!(error.contains(&name), "{error}");
        }
        fs::remove_file(&file).unwrap();
        let error = load(&path).unwrap_err();
        assert!(matches!(error, CheckpointError::MissingFile { .. }), "{name}: {error}");
        assert!(error.to_string().contains(&name), "{error}");
        fs::write(&file, &good).unwrap();
    }
}

#[test]
fn a_newer_format_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = save(&Store::open(dir.path(), 1).unwrap(), &trainer(), 1).unwrap();
    let file = path.join(about::ABOUT_FILE);
    fs::write(&file, r#"{"format_version": 99, "whatever": []}"#).unwrap();
    let error = load(&path).unwrap_err().to_string();
    assert!(error.ends_with("wiremamba.json has format version 99, this program reads up to 1"), "{error}");
}

#[test]
fn a_broken_current_names_the_newest_whole_version() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), 3).unwrap();
    let trainer = trainer();
    for step in [1, 2, 3] {
        save(&store, &trainer, step).unwrap();
    }
    fs::write(dir.path().join("step-00000003/model.safetensors"), "x").unwrap();
    fs::write(dir.path().join("step-00000002/training.json"), "{}").unwrap();
    let error = load(dir.path()).unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("step-00000003/model.safetensors has 1 bytes, was written with"), "{cause}");
    let error = error.to_string();
    assert!(error.ends_with("step-00000001"), "{error}");
    // The version itself is asked for.
    assert!(load(&dir.path().join("step-00000003")).unwrap_err().to_string().ends_with("step-00000001"));
    // A link to nowhere.
    fs::remove_file(dir.path().join(CURRENT)).unwrap();
    std::os::unix::fs::symlink("step-00009999", dir.path().join(CURRENT)).unwrap();
    let error = load(dir.path()).unwrap_err().to_string();
    assert!(error.ends_with("step-00000001"), "{error}");
    load(&dir.path().join("step-00000001")).unwrap();
}

#[test]
fn a_full_disk_leaves_everything_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), 1).unwrap();
    let trainer = trainer();
    let first = save(&store, &trainer, 1).unwrap();
    let size: u64 = names(&first).iter().map(|n| fs::metadata(first.join(n)).unwrap().len()).sum();
    drop(store);
    for quota in [0, 100, 3000, 40_000, size - 100] {
        let store = Store::open(dir.path(), 1).unwrap().with_quota(quota);
        let error = save(&store, &trainer, 2).unwrap_err();
        assert!(matches!(error, CheckpointError::Write { .. }), "{error}");
        assert!(error.to_string().contains(".step-00000002.tmp-0/"), "{error}");
        assert_eq!(names(dir.path()), ["current", "step-00000001"]);
        assert_eq!(load(dir.path()).unwrap().about.unwrap().step, 1);
    }
}

#[test]
fn leftovers_of_a_killed_run_are_ignored_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let trainer = trainer();
    let first = save(&Store::open(dir.path(), 2).unwrap(), &trainer, 1).unwrap();
    // As if killed while writing, while switching, and while retiring.
    fs::create_dir(dir.path().join(".step-00000002.tmp-0")).unwrap();
    fs::copy(first.join("config.json"), dir.path().join(".step-00000002.tmp-0/config.json")).unwrap();
    std::os::unix::fs::symlink("step-00000002", dir.path().join(".current.tmp-0")).unwrap();
    fs::create_dir(dir.path().join(".step-00000000.tmp-retired")).unwrap();
    fs::write(dir.path().join(".notes"), "not ours").unwrap();
    assert_eq!(load(dir.path()).unwrap().about.unwrap().step, 1);
    save(&Store::open(dir.path(), 2).unwrap(), &trainer, 2).unwrap();
    assert_eq!(names(dir.path()), [".notes", "current", "step-00000001", "step-00000002"]);
    assert_eq!(load(dir.path()).unwrap().about.unwrap().step, 2);
}

#[test]
fn the_newest_are_kept_and_the_current_always() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), 2).unwrap();
    let trainer = trainer();
    // A later run may begin again at a lower step; a step may be saved twice.
    for step in [100, 200, 50, 50] {
        save(&store, &trainer, step).unwrap();
    }
    assert_eq!(names(dir.path()), ["current", "step-00000050", "step-00000050-2"]);
    assert_eq!(versions(dir.path()).iter().map(|v| v.sequence).collect::<Vec<_>>(), [3, 4]);
    // Rolled back by hand: the current one outlives younger ones, which are kept as asked.
    store.switch_current(&dir.path().join("step-00000050")).unwrap();
    assert_eq!(load(dir.path()).unwrap().about.unwrap().sequence, 3);
    store.retire();
    assert_eq!(names(dir.path()).len(), 3);
}

#[test]
fn history_goes_back_from_the_version_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), 9).unwrap();
    assert_eq!(history(dir.path()), []);
    let trainer = trainer();
    for step in [1, 2, 3, 4] {
        save(&store, &trainer, step).unwrap();
    }
    let steps = || history(dir.path()).iter().map(|version| version.step).collect::<Vec<_>>();
    assert_eq!(steps(), [4, 3, 2, 1]);
    store.switch_current(&dir.path().join("step-00000003")).unwrap();
    assert_eq!(steps(), [3, 2, 1]);
    // Whether it can be read is another question.
    fs::remove_file(dir.path().join("step-00000003/config.json")).unwrap();
    assert_eq!(steps(), [3, 2, 1]);
    fs::remove_file(dir.path().join("current")).unwrap();
    assert!(steps().is_empty());
}

#[test]
fn one_process_saves_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), 2).unwrap();
    assert!(matches!(Store::open(dir.path(), 2), Err(CheckpointError::Locked { .. })));
    drop(store);
    Store::open(dir.path(), 2).unwrap();
}

#[test]
fn an_export_is_whole_without_training_and_rounds_only_if_asked_to() {
    let dir = tempfile::tempdir().unwrap();
    let (trainer, codec) = (trainer(), codec());
    let contents = Contents {
        step: 5,
        params: trainer.params(),
        codec: &codec,
        preset: None,
        metrics: BTreeMap::new(),
        lineage: Vec::new(),
        training: None,
    };
    for (width, name) in [(Width::F32, "whole"), (Width::Bf16, "half")] {
        let out = dir.path().join(name);
        export(&contents, width, &out).unwrap();
        let checkpoint = load(&out).unwrap();
        assert!(!checkpoint.about.as_ref().unwrap().has_training());
        let rounded = |v: &f32| if width == Width::F32 { *v } else { crate::engine::cpu::kernels::round_to_bf16(*v) };
        assert_eq!(checkpoint.params.data, trainer.params().data.iter().map(rounded).collect::<Vec<_>>());
        let config = fs::read_to_string(out.join("config.json")).unwrap();
        assert_eq!(config.contains("bfloat16"), width == Width::Bf16);
    }
    // What is there stays, and nothing else is left behind.
    assert!(matches!(export(&contents, Width::F32, &dir.path().join("half")), Err(CheckpointError::Write { .. })));
    assert!(export(&contents, Width::F32, &dir.path().join("no/such")).is_err());
    assert_eq!(names(dir.path()), ["half", "whole"]);
}

/// Writes a plain Hugging Face folder with these tensors.
fn plain(dir: &Path, config: &MambaConfig, tensors: &[tensors::Tensor<'_>]) {
    let text = hf_config::to_text(config, Width::F32, 0, 0).replace("wiremamba_format", "something_else");
    fs::write(dir.join("config.json"), text).unwrap();
    let mut bytes = Vec::new();
    tensors::write(&mut bytes, Width::F32, tensors).unwrap();
    fs::write(dir.join("model.safetensors"), bytes).unwrap();
}

#[test]
fn plain_hugging_face_folders_give_parameters_only() {
    let dir = tempfile::tempdir().unwrap();
    let config = MambaConfig::new(11, 16, 2);
    let params = Params::init(&config, 1);
    let all = || -> Vec<tensors::Tensor<'_>> {
        params.layout.entries.iter().map(|e| (e.name.as_str(), e.shape.clone(), &params.data[e.range()])).collect()
    };
    let head = params.tensor("backbone.embeddings.weight").unwrap();

    let mut tensors = all();
    tensors.insert(0, ("lm_head.weight", vec![11, 16], head));
    plain(dir.path(), &config, &tensors);
    let checkpoint = Checkpoint::load(dir.path()).unwrap();
    assert!(checkpoint.codec.is_none() && checkpoint.about.is_none());
    assert_eq!(checkpoint.params.data, params.data);
    assert!(matches!(checkpoint.load_training(), Err(CheckpointError::MissingFile { .. })));

    let error_with = |tensors: &[tensors::Tensor<'_>]| {
        plain(dir.path(), &config, tensors);
        Checkpoint::load(dir.path()).unwrap_err().to_string()
    };
    let untied = vec![0.5; 11 * 16];
    tensors[0].2 = &untied;
    assert!(error_with(&tensors).contains("tensor lm_head.weight: expected the same as backbone.embeddings.weight"));
    let mut tensors = all();
    let last = tensors.pop().unwrap();
    let error = error_with(&tensors);
    assert!(
        error.ends_with("model.safetensors: tensor backbone.norm_f.weight: expected shape [16], found no such tensor")
    );
    tensors.push((last.0, vec![4, 4], last.2));
    assert!(error_with(&tensors).ends_with("expected shape [16], found shape [4, 4]"));
    let mut tensors = all();
    tensors.push(("more", vec![16], last.2));
    assert!(error_with(&tensors).ends_with("tensor more: expected no such tensor, found shape [16]"));
    let mut bad = last.2.to_vec();
    bad[3] = f32::NAN;
    let mut tensors = all();
    tensors.last_mut().unwrap().2 = &bad;
    assert!(error_with(&tensors).ends_with("backbone.norm_f.weight: expected finite numbers, found NaN"));
}

#[test]
fn bfloat16_weights_are_widened() {
    let dir = tempfile::tempdir().unwrap();
    let config = MambaConfig::new(3, 16, 1);
    let mut params = Params::init(&config, 1);
    // bfloat16 is the upper half of an f32: numbers whose lower half is zero survive.
    params.data.iter_mut().for_each(|x| *x = f32::from_bits(x.to_bits() & 0xffff_0000));
    plain(dir.path(), &config, &[]);
    let halves: Vec<Vec<u8>> = params
        .layout
        .entries
        .iter()
        .map(|e| params.data[e.range()].iter().flat_map(|x| ((x.to_bits() >> 16) as u16).to_le_bytes()).collect())
        .collect();
    let views = params.layout.entries.iter().zip(&halves).map(|(e, bytes)| {
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::BF16, e.shape.clone(), bytes).unwrap();
        (e.name.clone(), view)
    });
    fs::write(dir.path().join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
    assert_eq!(Checkpoint::load(dir.path()).unwrap().params.data, params.data);
}

#[test]
fn folders_without_a_checkpoint_say_what_was_expected() {
    let dir = tempfile::tempdir().unwrap();
    let error = Checkpoint::load(dir.path()).unwrap_err().to_string();
    assert!(error.contains("config.json"), "{error}");
    let file = dir.path().join("file");
    fs::write(&file, "text").unwrap();
    assert!(matches!(Checkpoint::load(&file), Err(CheckpointError::NotACheckpoint { .. })));
    assert!(matches!(Checkpoint::load(&dir.path().join("absent")), Err(CheckpointError::Read { .. })));
}

#[test]
fn parameters_of_a_loaded_checkpoint_fit_a_network() {
    let dir = tempfile::tempdir().unwrap();
    let trainer = trainer();
    save(&Store::open(dir.path(), 1).unwrap(), &trainer, 1).unwrap();
    let model = Bigram::new(load(dir.path()).unwrap().params);
    assert_eq!(model.params().data, trainer.params().data);
}
