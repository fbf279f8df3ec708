//! Promise: the versions of a model can be listed, gone back to, and removed; the one in use is always whole.

use std::path::Path;

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
