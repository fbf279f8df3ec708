#!/usr/bin/env bash
# Builds the programs with CUDA inside, on a machine that needs neither a GPU nor a toolkit.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=packaging/lib.sh
. packaging/lib.sh

usage() {
    cat <<'END'
usage: packaging/build-cuda.sh [--no-install]

Fetches the CUDA compiler where there is none (packaging/cuda-toolchain.sh; NVCC or CUDA_HOME choose another), builds
wiremamba and libwiremamba.so with their CUDA feature, and says what they need at run time. Both start where there is
no driver: CUDA's libraries are looked for when a GPU is asked for, never linked.
END
}

NO_INSTALL=0
while [ $# -gt 0 ]; do
    case $1 in
        --no-install) NO_INSTALL=1 ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; exit 2 ;;
    esac
    shift
done

need_cargo
need_packages "${BUILD_PACKAGES[@]}" binutils
find_nvcc
export NVCC

say "building with $NVCC"
cargo build --release --features cuda -p wiremamba-daemon -p wiremamba-plugin
target=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
made=("$target/release/wiremamba" "$target/release/libwiremamba.so")

say "what they need at run time"
for file in "${made[@]}"; do
    [ -f "$file" ] || die "cargo made no $file"
    needed=$(readelf -d "$file" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p')
    printf '%s (%s bytes): %s\n' "$file" "$(stat -c %s "$file")" "$(tr '\n' ' ' <<<"$needed")"
    linked=$(grep -E '^lib(cuda|cudart|cublas|cublasLt|curand|nvrtc|nvidia|nccl)' <<<"$needed" || true)
    [ -z "$linked" ] || die "$file links $(tr '\n' ' ' <<<"$linked"), so it would not start without a driver"
done
echo "on a GPU besides: libcuda.so.1 of driver 580 or newer, libcublas.so.13 of CUDA 13 (in the loader's path or LD_LIBRARY_PATH)"
