//! Promise: anybody's library can be a source: the daemon replays it, and refuses by name what is none.

use std::path::{Path, PathBuf};
use std::process::Command;

use wiremamba_tests::netns::{self, Namespace};
use wiremamba_tests::program::{self, fail, json, succeed, train_tiny};
use wiremamba_tests::sniffer::Sniffer;
use wiremamba_tests::traffic;

const PLUGIN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../plugin");
/// Where it is replayed.
const TAP: &str = "wm-plug0";

/// A library made of C, with every warning an error.
fn library(source: &Path, out: &Path) -> Option<PathBuf> {
    let include = format!("{PLUGIN}/include");
    let mut command = Command::new("cc");
    command.args(["-std=c99", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-I", &include, "-o"]);
    let Ok(output) = command.arg(out).arg(source).output() else {
        eprintln!("skipped: no C compiler");
        return None;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(out.to_owned())
}

fn written(dir: &Path, name: &str, text: &str) -> Option<PathBuf> {
    let source = dir.join(format!("{name}.c"));
    std::fs::write(&source, format!("#include \"wiremamba_source.h\"\n{text}\n")).unwrap();
    library(&source, &dir.join(format!("{name}.so")))
}

#[test]
fn a_source_in_c_is_replayed_and_tells_what_it_does_not_understand() {
    let dir = tempfile::tempdir().unwrap();
    let beacon = library(&Path::new(PLUGIN).join("examples/beacon.c"), &dir.path().join("beacon.so"));
    let Some(beacon) = beacon else { return };
    let about = json(&succeed(&["inspect", "--json", "--plugin", beacon.to_str().unwrap()]));
    assert_eq!((&about["name"], &about["abi_version"]), (&"beacon".into(), &wiremamba_abi::ABI_VERSION.into()));
    assert_eq!((&about["options"][1]["key"], &about["options"][1]["default"]), (&"seconds".into(), &"60".into()));
    let name = |config: &str| format!("{}:{config}", beacon.display());
    let said = fail(1, &["replay", "--tap", TAP, "--plugin", &name("colour=red")]);
    assert!(said.contains("beacon: unknown: colour=red; there are packets=N"), "{said}");
    if let Some(missing) = netns::missing() {
        eprintln!("skipped: {missing}");
        return;
    }
    let namespace = Namespace::new().unwrap();
    namespace.ip(&["tuntap", "add", "dev", TAP, "mode", "tap"]).unwrap();
    namespace.ip(&["link", "set", TAP, "up"]).unwrap();
    let mut sniffer = namespace.run(|| Sniffer::open(TAP).unwrap());
    let mut command = namespace.command(program::path().to_str().unwrap());
    command.args(["replay", "-q", "--topspeed", "--loop", "2", "--tap", TAP, "--plugin", &name("packets=50")]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let frames = sniffer.take(100, std::time::Duration::from_secs(5)).unwrap();
    assert_eq!(frames.len(), 100);
    for (i, frame) in frames.iter().enumerate() {
        assert!(frame[42..].starts_with(format!("alive {}\0", i % 50).as_bytes()), "{frame:?}");
    }
}

#[test]
fn the_models_own_library_gives_the_packets_of_generate() {
    if let Some(missing) = netns::missing() {
        eprintln!("skipped: {missing}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    traffic::write_two_labels(&dir.path().join("captures"), 20);
    let model = dir.path().join("model");
    train_tiny(&dir.path().join("captures"), &model, 12);
    let (model, out) = (model.to_str().unwrap(), dir.path().join("out.pcap"));
    let args =
        ["--model", model, "--label", "dns", "--packets", "60", "--seed", "6", "-q", "-w", out.to_str().unwrap()];
    succeed(&[&["generate"], &args[..]].concat());
    let expected = traffic::read(&out);
    let namespace = Namespace::new().unwrap();
    namespace.ip(&["tuntap", "add", "dev", TAP, "mode", "tap"]).unwrap();
    namespace.ip(&["link", "set", TAP, "up"]).unwrap();
    let mut sniffer = namespace.run(|| Sniffer::open(TAP).unwrap());
    let library = program::path().with_file_name("libwiremamba.so");
    let plugin = format!("{}:model={model},label=dns,packets=60,seed=6", library.display());
    let mut command = namespace.command(program::path().to_str().unwrap());
    let output = command.args(["replay", "-q", "--topspeed", "--tap", TAP, "--plugin", &plugin]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let frames = sniffer.take(expected.len(), std::time::Duration::from_secs(5)).unwrap();
    assert!(frames.iter().eq(expected.iter().map(|packet| &packet.data)));
}

#[test]
fn what_is_no_source_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let refused = |path: &Path| fail(1, &["replay", "--tap", TAP, "--plugin", path.to_str().unwrap()]);
    let nowhere = dir.join("nowhere.so");
    assert!(refused(&nowhere).contains(&format!("there is no plugin {}", nowhere.display())));
    let text = dir.join("text.so");
    std::fs::write(&text, "no library").unwrap();
    let said = refused(&text);
    // What glibc's loader says of it.
    assert!(said.contains("cannot be loaded") && said.contains("file too short"), "{said}");

    let functions = "\
        #define FN static __attribute__((unused))\n\
        #define ARGS const char *c, const struct wiremamba_source_host *h, char *e, size_t n\n\
        FN void *crash(ARGS) { (void)c; (void)h; (void)e; (void)n; return *(void *volatile *)0; }\n\
        FN void *refuse(ARGS) { (void)c; (void)h; (void)e; (void)n; return 0; }\n\
        FN void *begin(ARGS) { (void)c; (void)h; (void)e; (void)n; return (void *)1; }\n\
        FN int next(void *s, struct wiremamba_source_packet *p) { (void)s; p->caplen = 70000; p->len = 1; return 1; }\n\
        FN int odd(void *s, struct wiremamba_source_packet *p) { (void)s; (void)p; return 77; }\n\
        FN int broken(void *s, struct wiremamba_source_packet *p) { (void)s; (void)p; return WIREMAMBA_ERROR; }\n\
        FN const char *text(const void *s) { (void)s; return \"out of coffee\"; }\n\
        FN void end(void *s) { (void)s; }\n";
    let source = |version: &str, size: &str, open: &str, next: &str| {
        format!(
            "{functions}static const struct wiremamba_source_table table = \n\
             {{.abi_version = {version}, .size = {size}, .name = \"odd one\", .open = {open}, .next_packet = {next}, .geterr = text, .close = end}};\n\
             const struct wiremamba_source_table *wiremamba_source_entry(void);\n\
             const struct wiremamba_source_table *wiremamba_source_entry(void) {{ return &table; }}"
        )
    };
    let (version, size) = ("WIREMAMBA_ABI_VERSION", "sizeof(struct wiremamba_source_table)");
    for (name, text, what) in [
        ("none", "int nothing;".to_owned(), "it has no function wiremamba_source_entry"),
        (
            "null",
            "const struct wiremamba_source_table *wiremamba_source_entry(void) { return 0; }".to_owned(),
            "its table is null",
        ),
        ("newer", source("WIREMAMBA_ABI_VERSION + 1", size, "begin", "next"), "of the plugin interface"),
        ("smaller", source(version, "8", "begin", "next"), "a table of 8 bytes"),
        ("lacks", source(version, size, "0", "next"), "its table has no function open"),
        ("crashes", source(version, size, "crash", "next"), "crashed with signal 11"),
        ("refuses", source(version, size, "refuse", "next"), "odd one: it does not say why"),
        (
            "lies",
            source(version, size, "begin", "next"),
            "failed after 0 packets: it gave a packet with impossible lengths",
        ),
        ("odd", source(version, size, "begin", "odd"), "it returned 77"),
        ("fails", source(version, size, "begin", "broken"), "out of coffee"),
    ] {
        let Some(library) = written(dir, name, &text) else { return };
        let is_opened = matches!(name, "lies" | "odd" | "fails");
        if is_opened && netns::missing().is_some() {
            continue;
        }
        let said = if is_opened {
            let namespace = Namespace::new().unwrap();
            let mut command = namespace.command(program::path().to_str().unwrap());
            let output = command.args(["replay", "-q", "--tap", TAP, "--plugin"]).arg(&library).output().unwrap();
            assert_eq!(output.status.code(), Some(1));
            String::from_utf8_lossy(&output.stderr).into_owned()
        } else {
            refused(&library)
        };
        assert!(said.contains(what), "{name}: {said}");
    }
}
