//! The CUDA kernels compile for the GPUs that matter, and `packaging/kernels-check.sh` knows a bad one.

use std::path::Path;
use std::process::{Command, Output};

/// What the script says about the kernels of a folder; `None` with a line where there is no CUDA compiler. It is not fetched here:
/// `packaging/test.sh` does that.
fn check(folder: &str) -> Option<Output> {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let chosen = ["NVCC", "CUDA_HOME"].iter().any(|name| std::env::var_os(name).is_some());
    if !chosen && !root.join("target/cuda-toolchain/bin/nvcc").exists() {
        eprintln!("skipped: no CUDA compiler; packaging/cuda-toolchain.sh fetches one");
        return None;
    }
    Some(Command::new(root.join("packaging/kernels-check.sh")).arg(folder).output().expect("bash runs the script"))
}

#[test]
fn a_kernel_that_spills_registers_fails_the_check() {
    let Some(output) = check("tests/data/cuda") else { return };
    let out = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{out}");
    for gpu in ["sm_80", "sm_90"] {
        let line = out.lines().find(|line| line.contains("heavy") && line.contains(gpu)).expect("a line for it");
        assert!(line.ends_with("<-- spills"), "{line}");
    }
    assert!(out.contains("1 kernels, 2 of machine code, 2 that spill"), "{out}");
}

#[test]
fn kernels_without_fault_pass_and_are_listed() {
    let Some(output) = check("tests/emulator/selftest") else { return };
    let out = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{out}{}", String::from_utf8_lossy(&output.stderr));
    // What these two declare: 8 and 64 floats.
    let shared = |kernel: &str| {
        let line = out.lines().find(|line| line.split_whitespace().nth(1) == Some(kernel)).expect("a line for it");
        line.split_whitespace().nth(4).and_then(|n| n.parse::<u32>().ok()).expect("a number")
    };
    assert_eq!((shared("sum"), shared("no_barrier")), (8 * 4, 64 * 4));
}
