#!/usr/bin/env bash
# Fetches the CUDA compiler, nvcc 13.0, into a folder: five wheels of PyPI, no GPU, no driver, no root.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=packaging/lib.sh
. packaging/lib.sh

usage() {
    cat <<'EOF'
usage: packaging/cuda-toolchain.sh [FOLDER]

Puts nvcc, its assembler, its headers and the static runtime into FOLDER (default: target/cuda-toolchain) and compiles a
kernel with them. About 100 MB to fetch, 280 MB on disk; nothing is fetched where it is there already. FOLDER/bin/nvcc is
the compiler.
EOF
}

case ${1:-} in
    -h | --help) usage; exit 0 ;;
    -*) usage >&2; exit 2 ;;
esac
folder=${1:-target/cuda-toolchain}

# 13.0, because drivers refuse what a newer compiler wrote: 580, the oldest for CUDA 13, reads PTX up to that of 13.0.
# nvvm holds the compiler proper, crt and cccl headers that it includes, runtime cuda_bf16.h and the like.
wheels='nvidia-cuda-nvcc==13.0.88 --hash=sha256:56fe502eb77625a12f25172caa3cdddb4e4c8ba2c8c17dba44b164761b380f03
nvidia-cuda-crt==13.0.88 --hash=sha256:2c8043c7c9e02492716426e9919fc78d2c5b3b2a7a768a88e952676b08aa55a4
nvidia-nvvm==13.0.88 --hash=sha256:c5f41ffeb6466944a026dfa5317d7d85355c119bbec279205d22f1869d1054e0
nvidia-cuda-runtime==13.0.96 --hash=sha256:7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548
nvidia-cuda-cccl==13.0.85 --hash=sha256:e0da7ad981f3a8aff08241b5bfc1af868742a63e2762f53a5171c492ef242649'

# Compiles a kernel that needs the headers, for the oldest and the newest GPU that the product has machine code for.
works() {
    local nvcc=$1/bin/nvcc try arch ok=0
    [ -x "$nvcc" ] || return 1
    try=$(mktemp -d)
    printf '%s\n' '#include <cuda_bf16.h>' \
        'extern "C" __global__ void k(__nv_bfloat16 *x) { x[threadIdx.x] = __float2bfloat16(2 * __bfloat162float(x[threadIdx.x])); }' \
        >"$try/k.cu"
    for arch in 80 120; do
        "$nvcc" -std=c++17 -O3 -cubin -arch=sm_$arch -o "$try/k.cubin" "$try/k.cu" || ok=1
    done
    rm -rf "$try"
    return $ok
}

if works "$folder" 2>/dev/null; then
    say "nvcc is there: $folder/bin/nvcc"
    exit 0
fi
[ "$(uname -m)" = x86_64 ] || die "the wheels are those for x86_64, and this is $(uname -m)"
command -v g++ >/dev/null || die "nvcc compiles with g++, which is missing"
command -v python3 >/dev/null || die "needs python3 to fetch the wheels"

mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
fresh=$folder/fresh
rm -rf "$fresh"
mkdir "$fresh"
trap 'rm -rf "$fresh"' EXIT
printf '%s\n' "$wheels" >"$fresh/wheels.txt"

python=python3
if ! python3 -m pip --version >/dev/null 2>&1; then
    say "making an environment with pip"
    python3 -m venv "$fresh/venv" || die "python3 has neither pip nor venv (Debian: python3-venv)"
    python=$fresh/venv/bin/python3
fi
say "fetching nvcc 13.0 from PyPI"
"$python" -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps --only-binary=:all: --require-hashes \
    --target "$fresh/wheels" -r "$fresh/wheels.txt"
root=$fresh/wheels/nvidia/cu13
[ -f "$root/bin/nvcc" ] || die "the wheels hold no nvidia/cu13/bin/nvcc"
chmod +x "$root"/bin/* "$root"/nvvm/bin/*
ln -sfn lib "$root/lib64" # where nvcc looks for the runtime

rm -rf "$folder/cuda" "$folder/bin"
mv "$root" "$folder/cuda"
mkdir "$folder/bin"
# nvcc finds its parts from the path it is called by.
printf '%s\n' '#!/bin/sh' 'exec "$(dirname "$(readlink -f "$0")")/../cuda/bin/nvcc" "$@"' >"$folder/bin/nvcc"
chmod +x "$folder/bin/nvcc"
works "$folder" || die "the fetched compiler does not compile"
"$folder/bin/nvcc" --version | tail -2
say "ready: $folder/bin/nvcc"
