//! Promise: the unit is one that systemd takes without a word, and it is closed.

use std::process::Command;

use wiremamba_tests::program;

#[test]
fn the_unit_is_clean_and_exposes_little() {
    let unit = include_str!("../../packaging/systemd/wiremamba.service");
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        eprintln!("skipped: no systemd-analyze");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("wiremamba.service");
    // It is verified with the binary at hand; the one that it names is there once it is installed.
    let here = unit.replace("/usr/bin/wiremamba", program::path().to_str().unwrap());
    assert_ne!(here, unit);
    std::fs::write(&path, here).unwrap();
    let analyze = |args: &[&str]| {
        let output = Command::new("systemd-analyze").args(args).arg(&path).env("SYSTEMD_LOG_COLOR", "0").output();
        let output = output.unwrap();
        let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        (output.status.success(), said)
    };
    let (is_clean, said) = analyze(&["verify"]);
    let ours: Vec<_> = said.lines().filter(|line| line.contains("wiremamba")).collect();
    assert!(is_clean && ours.is_empty(), "{said}");
    // The exposure level in tenths, at most.
    let (is_closed, said) = analyze(&["security", "--offline=true", "--no-pager", "--threshold=17"]);
    let overall = said.lines().find(|line| line.contains("Overall exposure")).unwrap_or(&said);
    assert!(is_closed, "{overall}");
    eprintln!("{overall}");
}
