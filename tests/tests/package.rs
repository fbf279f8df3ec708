//! Promise: the Debian package installs on a fresh Debian that runs systemd as its first process; there it captures,
//! fine-tunes and replays as its own user, survives an upgrade and a hang, and leaves nothing behind when purged.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use wiremamba_tests::netns;
use wiremamba_tests::program::{output_within, train_tiny};
use wiremamba_tests::traffic;

/// What takes longest is fetching a Debian.
const TIME_MAX: Duration = Duration::from_secs(600);
/// Debian's release for the fresh root: that of this machine, so that the programs fit its libraries.
const RELEASE_FILE: &str = "/etc/os-release";

/// What this machine lacks; `None` when nothing.
fn missing() -> Option<String> {
    if let Some(missing) = netns::missing() {
        return Some(missing);
    }
    for (program, argument) in [("debootstrap", "--version"), ("systemd-nspawn", "--version"), ("cargo", "deb")] {
        let mut command = Command::new(program);
        command.arg(argument).args((program == "cargo").then_some("--version"));
        if !command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
            return Some(format!("needs {program} {argument}"));
        }
    }
    None
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn succeed(command: &mut Command) -> String {
    let output = output_within(command.stdin(Stdio::null()), TIME_MAX);
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(output.status.success(), "{command:?}: {said}");
    said
}

fn package(version: &str, out: &Path) {
    let mut command = Command::new("bash");
    command.arg(workspace().join("packaging/deb.sh")).args(["--no-install", "--version", version, "--out"]).arg(out);
    succeed(&mut command);
}

fn release() -> Option<String> {
    let text = fs::read_to_string(RELEASE_FILE).ok()?;
    text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME=")).map(str::to_owned)
}

#[test]
fn the_package_lives_its_whole_life_on_a_fresh_debian() {
    let (missing, release) = (missing(), release());
    let (None, Some(release)) = (&missing, release) else {
        eprintln!("skipped: {}", missing.unwrap_or_else(|| format!("no VERSION_CODENAME in {RELEASE_FILE}")));
        return;
    };
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let root = dir.path().join("root");
    let mut command = Command::new("debootstrap");
    command.args(["--variant=minbase", "--include=systemd,systemd-sysv,dbus,iproute2,libpcap0.8", &release]);
    succeed(command.arg(&root));

    let check = root.join("check");
    fs::create_dir(&check).unwrap();
    package("0.1.0-1", &check.join("first.deb"));
    package("0.1.1-1", &check.join("second.deb"));
    if Command::new("lintian").arg("--version").output().is_ok() {
        // Not without errors: it exits with 2 on any.
        let said =
            succeed(Command::new("lintian").args(["--allow-root", "--fail-on", "error"]).arg(check.join("first.deb")));
        eprintln!("lintian: {}", said.trim());
    }
    let captures = dir.path().join("captures");
    traffic::write_two_labels(&captures, 40);
    fs::copy(captures.join("web/web.pcap"), check.join("traffic.pcap")).unwrap();
    train_tiny(&captures, &root.join("opt/base"), 2);
    let config = "[[capture]]\ninterface = 'wm-in0'\nlabel = 'web'\n[model]\nbase = '/opt/base'\n\
                  store = '/var/lib/wiremamba/models'\n[learn]\nflows_per_round = 30\nsteps_per_round = 20\nbatch = 2\n\
                  seq_len = 64\nidle_s = 1\nstatus_s = 1\n[replay]\ntap = 'wm-out0'\nflows_per_second = 10\n\
                  [control]\nsocket = '/run/wiremamba/control.sock'\n\
                  [opener]\nsocket = '/run/wiremamba-opener/opener.sock'\n";
    fs::write(check.join("wiremamba.toml"), config).unwrap();
    fs::write(check.join("inside.sh"), include_str!("package/inside.sh")).unwrap();
    // It should not take minutes to see that a process hangs.
    let drop_in = root.join("etc/systemd/system/wiremamba.service.d");
    fs::create_dir_all(&drop_in).unwrap();
    fs::write(drop_in.join("hurry.conf"), "[Service]\nWatchdogSec=10\nRestartSec=1\n").unwrap();
    let unit = "[Unit]\nAfter=multi-user.target\n[Service]\nType=idle\nExecStart=/bin/sh /check/inside.sh\n";
    fs::write(root.join("etc/systemd/system/check.service"), unit).unwrap();
    let wanted = root.join("etc/systemd/system/multi-user.target.wants");
    fs::create_dir_all(&wanted).unwrap();
    std::os::unix::fs::symlink("../check.service", wanted.join("check.service")).unwrap();

    let mut nspawn = Command::new("systemd-nspawn");
    nspawn.args(["--boot", "--quiet", "--register=no", "--keep-unit", "--private-network", "--console=pipe"]);
    // As udev makes it on a Debian: for everybody, who needs CAP_NET_ADMIN all the same.
    let tun = dir.path().join("tun");
    succeed(Command::new("mknod").args(["--mode=0666"]).arg(&tun).args(["c", "10", "200"]));
    nspawn.arg(format!("--bind={}:/dev/net/tun", tun.display())).arg("--capability=CAP_NET_ADMIN,CAP_NET_RAW");
    nspawn.arg(format!("--directory={}", root.display())).stdin(Stdio::null());
    let output = output_within(&mut nspawn, TIME_MAX);
    let console = String::from_utf8_lossy(&output.stdout).into_owned();
    let log = fs::read_to_string(check.join("log")).unwrap_or(console);
    eprintln!("{log}");
    assert!(log.contains("\nall done\n"), "see above");
}
