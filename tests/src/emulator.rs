//! The emulated CUDA driver of `tests/emulator`, built where a test asks for it.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The emulated driver with the kernels of one folder, compiled for its check of races as well.
#[derive(Debug)]
pub struct Emulator {
    /// Holds `libcuda.so.1` and `libcublas.so.13`.
    pub libraries: PathBuf,
    /// Holds the compiled kernels.
    pub kernels: PathBuf,
}

impl Emulator {
    /// Builds the driver, and the CUDA sources of a folder (relative to the workspace) under a name.
    ///
    /// # Panics
    /// With the compiler's words, if they do not compile.
    pub fn build(name: &str, sources: &str) -> Self {
        let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
        let output = Command::new(root.join("tests/emulator/build.sh"))
            .args(["--races", "--kernels", name])
            .arg(root.join(sources))
            .output()
            .expect("bash runs the script");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let stdout = String::from_utf8(output.stdout).expect("a path in UTF-8");
        let libraries = PathBuf::from(stdout.trim_end());
        Self { kernels: libraries.join(name), libraries }
    }

    /// A command that finds the emulated driver, and these kernels in it.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        self.is_found_by(&mut command);
        command
    }

    /// Lets a command find both.
    pub fn is_found_by(&self, command: &mut Command) {
        command.env("LD_LIBRARY_PATH", &self.libraries).env("EMULATED_CUDA_KERNELS", &self.kernels);
    }
}
