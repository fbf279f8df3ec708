//! Promise: the versions of a model can be listed, gone back to, and removed; the one in use is always whole.

use std::path::Path;

use etherparse::PacketBuilder;
use wiremamba_model::packet::{LinkType, Packet, Timestamp};
use wiremamba_tests::program::{fail, json, succeed, train_tiny};
use wiremamba_tests::traffic;

/// Three versions of one training.
fn store(dir: &Path) -> String {
    traffic::write_two_labels(&dir.join("captures"), 10);
    let store = dir.join("store");
    for steps in [2, 3, 4] {
        train_tiny(&dir.join("captures"), &dir.join(steps.to_string()), steps);
        let current = dir.join(steps.to_string()).join("current").canonicalize().unwrap();
        let name = current.file_name().unwrap().to_owned();
        std::fs::create_dir_all(store.join(&name)).unwrap();
        for file in std::fs::read_dir(&current).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), store.join(&name).join(file.file_name())).unwrap();
        }
        let _ = std::fs::remove_file(store.join("current"));
        std::os::unix::fs::symlink(&name, store.join("current")).unwrap();
    }
    store.to_str().unwrap().to_owned()
}

#[test]
fn versions_are_listed_promoted_rolled_back_and_pruned() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let models = |args: &[&str]| succeed(&[&["models", "--store", &store][..], args].concat());
    let current = || std::fs::read_link(dir.path().join("store/current")).unwrap().to_str().unwrap().to_owned();
    let list = json(&models(&["list", "--json"]));
    let steps: Vec<_> = list.as_array().unwrap().iter().map(|row| row["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, [2, 3, 4]);
    assert_eq!(list[2]["current"], true);
    let text = String::from_utf8(models(&["list"])).unwrap();
    assert!(text.lines().count() == 4 && text.ends_with("in use\n"), "{text}");

    models(&["rollback"]);
    assert_eq!(current(), "step-00000003");
    models(&["promote", "step-00000002"]);
    assert_eq!(json(&models(&["show", "--json"]))["step"], 2);
    assert!(fail(1, &["models", "--store", &store, "rollback"]).contains("no version before"));
    assert!(fail(1, &["models", "--store", &store, "promote", "step-7"]).contains("no version step-7"));

    let weights = dir.path().join("store/step-00000003/model.safetensors");
    let whole = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &whole[..whole.len() / 2]).unwrap();
    assert!(fail(1, &["models", "--store", &store, "promote", "step-00000003"]).contains("nothing was changed"));
    assert_eq!(current(), "step-00000002");

    models(&["prune", "--keep", "1"]);
    let left = json(&models(&["list", "--json"]));
    // The newest, and the one in use.
    assert_eq!(left.as_array().unwrap().iter().map(|row| row["step"].as_u64().unwrap()).collect::<Vec<_>>(), [2, 4]);
}

#[test]
fn a_version_is_exported_without_what_only_a_resume_needs() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let out = dir.path().join("given");
    let out = out.to_str().unwrap();
    succeed(&["models", "--store", &store, "export", "step-00000003", "--out", out, "--precision", "bf16"]);
    let about = json(&succeed(&["inspect", "--json", out]));
    assert_eq!((&about["step"], &about["resumable"]), (&3.into(), &false.into()), "{about}");
    let size = |path: &Path| std::fs::metadata(path.join("model.safetensors")).unwrap().len();
    let (whole, half) = (size(&Path::new(&store).join("step-00000003")), size(Path::new(out)));
    assert!(half < whole * 11 / 20, "{half} of {whole}");
    succeed(&["generate", "-q", "--model", out, "--flows", "2", "-w", "/dev/null"]);
    assert!(fail(1, &["models", "--store", &store, "export", "--out", out]).contains("exists"));
}

#[test]
fn training_goes_on_from_a_base_with_labels_that_it_does_not_know() {
    let dir = tempfile::tempdir().unwrap();
    traffic::write_two_labels(&dir.path().join("captures"), 10);
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    train_tiny(&dir.path().join("captures"), &dir.path().join("base"), 2);
    std::fs::rename(dir.path().join("captures/web"), dir.path().join("captures/shop")).unwrap();
    let tune = ["train", "--data", &path("captures"), "--base", &path("base"), "--out", &path("tuned"), "-q", "--json"];
    let short = ["--steps", "3", "--batch", "2", "--seq-len", "64", "--no-baselines"];
    succeed(&[&tune[..], &short].concat());
    let about = json(&succeed(&["inspect", "--json", &path("tuned")]));
    assert_eq!(about["labels"], serde_json::json!(["dns", "web", "shop"]), "{about}");
    let jobs: Vec<_> = about["lineage"].as_array().unwrap().iter().map(|l| l["job"].as_str().unwrap()).collect();
    assert_eq!(jobs, ["train", "fine-tune"]);
    succeed(&["generate", "-q", "--model", &path("tuned"), "--label", "shop", "--flows", "2", "-w", "/dev/null"]);
    // The base is what a resume would have to ignore, and its network and codec are what they are.
    for option in [&["--resume"][..], &["--preset", "tiny"], &["--strings-max", "9"]] {
        assert!(fail(2, &[&tune[..], &short, option].concat()).contains("--base"), "{option:?}");
    }
    // A bytes model's labels are part of its vocabulary, in the middle of it.
    succeed(&[
        "train",
        "--data",
        &path("captures"),
        "--codec",
        "bytes",
        "--preset",
        "tiny",
        "--steps",
        "1",
        "-q",
        "--out",
        &path("bytes"),
    ]);
    std::fs::rename(dir.path().join("captures/shop"), dir.path().join("captures/lab")).unwrap();
    let of_bytes = ["train", "--data", &path("captures"), "--base", &path("bytes"), "--out", &path("x"), "-q"];
    assert!(fail(1, &of_bytes).contains("only the labels"), "{of_bytes:?}");
}

/// Eight flows of UDP that have nothing in common but their form.
fn write_noise(path: &Path) {
    let mut chance = 1u64;
    let mut byte = || {
        // Knuth's MMIX generator; its upper bits are the good ones.
        chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (chance >> 56) as u8
    };
    let packet = |i: usize| {
        let mut data = Vec::new();
        let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let builder = builder.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).udp(40_000 + (i / 6) as u16, 7777);
        let len = 24 + usize::from(byte());
        builder.write(&mut data, &(0..len).map(|_| byte()).collect::<Vec<_>>()).unwrap();
        Packet {
            ts: Timestamp::from_parts(1_700_000_000 + i as i64, i64::from(byte()) * 3_000_000),
            linktype: LinkType::ETHERNET,
            len: data.len() as u32,
            data,
        }
    };
    traffic::write(path, (0..48).map(packet));
}

#[test]
fn what_is_in_use_after_training_is_what_knew_the_held_out_flows_best() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("captures/noise")).unwrap();
    write_noise(&dir.path().join("captures/noise/noise.pcap"));
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let train = ["train", "--data", &path("captures"), "--out", &path("model"), "--preset", "tiny", "-q", "--json"];
    // Noise can only be learned by heart.
    let long = ["--steps", "150", "--batch", "2", "--seq-len", "64", "--held-out", "0.5", "--learning-rate", "0.01"];
    let done = json(&succeed(&[&train[..], &long, &["--eval-every", "10", "--no-baselines"]].concat()));
    let curve = std::fs::read_to_string(dir.path().join("model/curve.jsonl")).unwrap();
    let measured: Vec<(u64, f64)> = curve
        .lines()
        .map(|line| json(line.as_bytes()))
        .filter_map(|line| Some((line["step"].as_u64()?, line["held_out"]["bits_per_token"].as_f64()?)))
        .collect();
    assert_eq!(measured.len(), 15);
    let best = measured.iter().copied().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
    let in_use = json(&succeed(&["inspect", "--json", &path("model")]));
    assert_eq!(in_use["step"].as_u64(), Some(best.0), "{measured:?}");
    assert_eq!(done["best"]["step"].as_u64(), Some(best.0), "{done} {measured:?}");
    // A resume goes on from the last version, which has nothing left to do.
    let again = json(&succeed(&[&train[..], &["--resume", "--no-baselines"]].concat()));
    assert_eq!((&again["steps"], &again["best"]["step"]), (&150.into(), &done["best"]["step"]), "{again}");
    assert_eq!(json(&succeed(&["inspect", "--json", &path("model")]))["step"].as_u64(), Some(best.0));
}
