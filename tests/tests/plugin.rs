//! Promise: `libwiremamba.so` gives a C program the packets that `wiremamba generate` writes.

use std::path::PathBuf;
use std::process::{Command, Output};

use wiremamba_tests::program::{self, succeed, train_tiny};
use wiremamba_tests::traffic;

/// `plugin/examples/host.c`, compiled with every warning an error; `None` with a line where there is no compiler.
fn host(dir: &std::path::Path) -> Option<PathBuf> {
    let plugin = concat!(env!("CARGO_MANIFEST_DIR"), "/../plugin");
    let host = dir.join("host");
    let compiled = Command::new("cc")
        .args(["-std=c99", "-Wall", "-Wextra", "-Werror", "-D_POSIX_C_SOURCE=200809L", "-I"])
        .args([format!("{plugin}/include"), format!("{plugin}/examples/host.c"), "-o".into()])
        .arg(&host)
        .arg("-ldl")
        .output();
    let Ok(compiled) = compiled else {
        eprintln!("skipped: no C compiler");
        return None;
    };
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    Some(host)
}

#[test]
fn a_c_host_reads_the_packets_that_generate_writes_and_errors_have_words() {
    let dir = tempfile::tempdir().unwrap();
    let Some(host) = host(dir.path()) else { return };
    let library = program::path().with_file_name("libwiremamba.so");
    assert!(library.exists(), "{} is not built; run: cargo build --workspace", library.display());
    traffic::write_two_labels(&dir.path().join("capture"), 20);
    let model = dir.path().join("model");
    train_tiny(&dir.path().join("capture"), &model, 12);
    let model = model.to_str().unwrap();
    let run = |config: &str| -> Output { Command::new(&host).arg(&library).arg(config).output().unwrap() };

    let output = run(&format!("model={model},label=dns,packets=40,seed=6"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let args = ["--model", model, "--label", "dns", "--packets", "40", "--seed", "6", "-q", "-w", "-"];
    assert!(output.stdout == succeed(&[&["generate"], &args[..]].concat()), "the same bytes");

    // Evenly: the same packets, 10 ms apart.
    let even = run(&format!("model={model},label=dns,packets=40,seed=6,pps=100"));
    let path = dir.path().join("even.pcap");
    std::fs::write(&path, &even.stdout).unwrap();
    let times: Vec<i64> = traffic::read(&path).iter().map(|packet| packet.ts.0).collect();
    assert!(times.len() == 40 && times.windows(2).all(|pair| pair[1] - pair[0] == 10_000_000), "{times:?}");

    for (config, what) in [
        ("model=/nowhere".to_owned(), "/nowhere"),
        (format!("model={model},label=none"), "it knows dns, web"),
        (format!("model={model},colour=red"), "unknown key \"colour\""),
        (String::new(), "model=DIR is missing"),
    ] {
        let output = run(&config);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{config}: {stderr}");
        assert!(stderr.contains(what), "{config}: {stderr}");
    }
}
