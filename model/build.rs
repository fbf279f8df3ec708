//! With the feature `cuda`: compiles the kernels by nvcc into images that hold machine code for compute capability 8.0, 9.0, 10.0
//! and 12.0 and PTX for everything newer than 8.0, and lists the functions in them. No GPU is needed, nor a driver.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Machine code; a device runs that of its own major version.
const MACHINE_CODE: [u32; 4] = [80, 90, 100, 120];
/// PTX, which the driver compiles for devices that no machine code fits.
const PTX: u32 = 80;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    println!("cargo:rerun-if-changed=src/engine/cuda/kernels");
    println!("cargo:rerun-if-env-changed=NVCC");
    println!("cargo:rerun-if-env-changed=CUDA_HOME");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let folder = Path::new("src/engine/cuda/kernels");
    let mut sources: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("the kernels are part of the crate")
        .map(|entry| entry.expect("a readable folder").path())
        .filter(|path| path.extension().is_some_and(|e| e == "cu"))
        .collect();
    sources.sort();

    let nvcc = nvcc();
    let mut list = String::from("#[repr(C, align(64))]\nstruct Image<const N: usize>([u8; N]);\n");
    let mut all = String::new();
    // One nvcc after another: each runs its architectures side by side.
    for (i, source) in sources.iter().enumerate() {
        let image = out.join(format!("{}.fatbin", source.file_stem().expect("a file has a name").to_string_lossy()));
        compile(&nvcc, source, &image);
        let text = std::fs::read_to_string(source).expect("a readable kernel");
        let names = kernels(&text);
        assert!(!names.is_empty(), "{} has no kernel", source.display());
        let len = std::fs::metadata(&image).expect("nvcc has just written it").len();
        list += &format!("static IMAGE_{i}: Image<{len}> = Image(*include_bytes!({image:?}));\n");
        all += &format!("    (&IMAGE_{i}.0, &{names:?}),\n");
    }
    list +=
        &format!("/// Each image, and the kernels in it.\npub(super) static ALL: &[(&[u8], &[&str])] = &[\n{all}];\n");
    std::fs::write(out.join("images.rs"), list).expect("a writable OUT_DIR");
}

fn compile(nvcc: &Path, source: &Path, image: &Path) {
    let mut command = Command::new(nvcc);
    command.args(["-std=c++17", "-O3", "-fatbin", "--threads", "0", "-o"]).arg(image).arg(source);
    for arch in MACHINE_CODE {
        command.arg(format!("-gencode=arch=compute_{arch},code=sm_{arch}"));
    }
    command.arg(format!("-gencode=arch=compute_{PTX},code=compute_{PTX}"));
    let status = command.status().unwrap_or_else(|e| panic!("cannot run {}: {e}", nvcc.display()));
    assert!(status.success(), "{} could not compile {}", nvcc.display(), source.display());
}

/// The compiler: $NVCC, or that of $CUDA_HOME, or what packaging/cuda-toolchain.sh installed, or the first in $PATH.
fn nvcc() -> PathBuf {
    if let Some(nvcc) = std::env::var_os("NVCC") {
        return nvcc.into();
    }
    let home = std::env::var_os("CUDA_HOME").map(|home| PathBuf::from(home).join("bin/nvcc"));
    let ours = std::fs::canonicalize("../target/cuda-toolchain/bin/nvcc").ok();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).map(|folder| folder.join("nvcc"));
    home.into_iter().chain(ours).chain(in_path).find(|nvcc| nvcc.is_file()).unwrap_or_else(|| {
        panic!(
            "the feature `cuda` needs nvcc 13.0 to compile the kernels: packaging/cuda-toolchain.sh installs it (no GPU and no \
             driver needed), or set NVCC or CUDA_HOME"
        )
    })
}

/// The names of the kernels in a source: what stands before the parenthesis after `extern "C" __global__`.
fn kernels(source: &str) -> Vec<&str> {
    let declarations = source.split("extern \"C\" __global__").skip(1);
    declarations
        .filter_map(|d| {
            let name = d.split_once("void")?.1.trim_start();
            // Launch bounds stand between `void` and the name.
            let name = match name.strip_prefix("__launch_bounds__(") {
                Some(rest) => rest.split_once(')')?.1.trim_start(),
                None => name,
            };
            Some(name.split_once('(')?.0.trim())
        })
        .collect()
}
