//! Promise: the units are ones that systemd takes without a word, and they are closed.

use std::process::Command;

use wiremamba_tests::program;

/// The units, and the exposure that each may have at most, in tenths.
const UNITS: [(&str, &str, Option<u32>); 3] = [
    ("wiremamba.service", include_str!("../../packaging/systemd/wiremamba.service"), Some(4)),
    ("wiremamba-opener.service", include_str!("../../packaging/systemd/wiremamba-opener.service"), Some(17)),
    ("wiremamba-metrics.socket", include_str!("../../packaging/systemd/wiremamba-metrics.socket"), None),
];

#[test]
fn the_units_are_clean_and_expose_little() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        eprintln!("skipped: no systemd-analyze");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for (name, unit, _) in UNITS {
        // They are verified with the binary at hand; the one that they name is there once it is installed. So are the
        // manual pages.
        let here = unit.replace("/usr/bin/wiremamba", program::path().to_str().unwrap());
        let here: String =
            here.lines().filter(|l| !l.starts_with("Documentation=")).fold(String::new(), |t, l| t + l + "\n");
        std::fs::write(dir.path().join(name), here).unwrap();
    }
    let analyze = |args: &[&str], name: &str| {
        let mut command = Command::new("systemd-analyze");
        command.args(args).arg(dir.path().join(name)).env("SYSTEMD_LOG_COLOR", "0");
        command.env("SYSTEMD_UNIT_PATH", format!("{}:", dir.path().display()));
        let output = command.output().unwrap();
        let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        (output.status.success(), said)
    };
    for (name, _, tenths) in UNITS {
        let (is_clean, said) = analyze(&["verify"], name);
        let ours: Vec<_> = said.lines().filter(|line| line.contains("wiremamba")).collect();
        assert!(is_clean && ours.is_empty(), "{name}: {said}");
        let Some(tenths) = tenths else { continue };
        let threshold = format!("--threshold={tenths}");
        let (is_closed, said) = analyze(&["security", "--offline=true", "--no-pager", &threshold], name);
        let overall = said.lines().find(|line| line.contains("Overall exposure")).unwrap_or(&said);
        assert!(is_closed, "{name}: {overall}");
        eprintln!("{name}: {overall}");
    }
    let drop_in = dir.path().join("wiremamba.service.d");
    std::fs::create_dir(&drop_in).unwrap();
    std::fs::write(drop_in.join("cuda.conf"), include_str!("../../packaging/systemd/cuda.conf")).unwrap();
    let (is_clean, said) = analyze(&["verify"], UNITS[0].0);
    assert!(is_clean && !said.contains("cuda.conf"), "{said}");
}
