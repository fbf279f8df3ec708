//! Promise: Wireshark's programs see the model as an interface, and capture from it.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use wiremamba_tests::program::{fail, output_within, succeed, train_tiny};
use wiremamba_tests::traffic;

/// Longest that a program of Wireshark's may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// A tshark whose user has our program among the extcap programs, or `None` with a line.
fn tshark(home: &Path) -> Option<Command> {
    if Command::new("tshark").arg("--version").output().is_err() {
        eprintln!("skipped: no tshark");
        return None;
    }
    let mut command = Command::new("tshark");
    command.env("HOME", home).env("XDG_CONFIG_HOME", home.join("config")).env_remove("WIRESHARK_EXTCAP_DIR");
    Some(command)
}

#[test]
fn tshark_lists_the_interface_and_captures_from_it() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path();
    let Some(mut list) = tshark(home) else { return };
    // Since version 4 this is where it looks for the user's own; 4.0 has the older place as well.
    for folder in [".local/lib/wireshark/extcap", ".config/wireshark/extcap", "config/wireshark/extcap"] {
        succeed(&["extcap", "--install", home.join(folder).to_str().unwrap()]);
    }
    let output = output_within(list.arg("-D"), PATIENCE);
    let listed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(listed.contains("wiremamba (wiremamba: traffic from a model)"), "{listed}");

    traffic::write_two_labels(&home.join("captures"), 20);
    let model = home.join("model");
    train_tiny(&home.join("captures"), &model, 12);
    let out = home.join("out.pcapng");
    let mut capture = tshark(home).unwrap();
    capture.args(["-q", "-i", "wiremamba", "-c", "1000", "-w"]).arg(&out);
    for (option, value) in [("model", model.to_str().unwrap()), ("label", "web"), ("topspeed", "true"), ("seed", "5")] {
        capture.args(["-o", &format!("extcap.wiremamba.{}:{value}", option.replace('-', ""))]);
    }
    let output = output_within(&mut capture, PATIENCE);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found = traffic::read(&out);
    assert_eq!(found.len(), 1000);
    let same = home.join("same.pcap");
    // Some payloads tell the time, so it has to begin at the same.
    let start = (found[0].ts.0 / 1_000_000_000).to_string();
    let args =
        ["--label", "web", "--packets", "1000", "--seed", "5", "--start", &start, "-q", "-w", same.to_str().unwrap()];
    succeed(&[&["generate", "--model", model.to_str().unwrap()], &args[..]].concat());
    let expected = traffic::read(&same);
    assert!(found.iter().map(|p| &p.data).eq(expected.iter().map(|p| &p.data)), "the packets of generate");
}

#[test]
fn what_is_not_asked_for_properly_is_misuse() {
    assert!(fail(2, &["extcap"]).contains("--install"));
    assert!(fail(2, &["extcap", "--extcap-interface", "eth0", "--extcap-dlts"]).contains("there is no interface eth0"));
    let options =
        String::from_utf8(succeed(&["extcap", "--extcap-interface", "wiremamba", "--extcap-config"])).unwrap();
    assert!(options.starts_with("arg {number=0}{call=--model}"), "{options}");
}
