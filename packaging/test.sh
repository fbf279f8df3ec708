#!/usr/bin/env bash
# Installs what the tests use, by Debian package name, and runs every test of the workspace.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=packaging/lib.sh
. packaging/lib.sh

usage() {
    cat <<'EOF'
usage: packaging/test.sh [--no-install] [-- ARGUMENTS OF cargo test]

Installs the build's and the tests' Debian packages where they are missing, builds the workspace and
runs all tests. Tests of taps and namespaces need root and make their own; they say so when they skip.
EOF
}

NO_INSTALL=0
while [ $# -gt 0 ]; do
    case $1 in
        --no-install) NO_INSTALL=1 ;;
        -h | --help) usage; exit 0 ;;
        --) shift; break ;;
        *) usage >&2; exit 2 ;;
    esac
    shift
done

need_cargo
need_packages "${BUILD_PACKAGES[@]}" iproute2 nftables procps tcpdump
want_packages tshark tcpreplay libndpi-bin python3 valgrind chromium systemd systemd-container debootstrap lintian
if [[ $(apt-cache policy suricata 2>/dev/null || true) =~ Candidate:\ [0-9] ]]; then
    need_packages suricata
else
    want_backports suricata
fi

if ! cargo deb --version >/dev/null 2>&1 && [ "$NO_INSTALL" = 0 ]; then
    say "installing cargo-deb, which makes the Debian package"
    cargo install --locked --quiet cargo-deb || ABSENT+=(cargo-deb)
fi

# The CUDA kernels are compiled, and run on an emulated GPU; the compiler alone is missing on most machines.
nvcc=1
if [ "$NO_INSTALL" = 0 ]; then
    packaging/cuda-toolchain.sh || nvcc=0
elif [ -z "${NVCC:-}${CUDA_HOME:-}" ] && [ ! -x target/cuda-toolchain/bin/nvcc ]; then
    nvcc=0
fi

say "building and testing the workspace"
cargo build --release --workspace
log=$(mktemp)
trap 'rm -f "$log" "$log.gpu"' EXIT
status=0
cargo test --release --workspace --no-fail-fast "$@" 2>&1 | tee "$log" || status=$?

if [ $nvcc = 1 ]; then
    packaging/kernels-check.sh || status=$?
    # Threads and blocks in two orders, as a result that depends on it lacks a barrier; then with every access watched.
    emulator=$(tests/emulator/build.sh --races)
    for how in ORDER=forward ORDER=reverse RACES=1; do
        say "testing the engine for GPUs on an emulated one, $how"
        env "LD_LIBRARY_PATH=$emulator" "EMULATED_CUDA_$how" EMULATED_CUDA_PROFILE=1 \
            cargo test --release -p wiremamba-model --features cuda --lib --no-fail-fast cuda 2>&1 | tee "$log.gpu" || status=$?
        cat "$log.gpu" >>"$log"
        # Tests that find no GPU skip: that it was used is seen by what it counted.
        if ! grep -q '^emulated CUDA: scan_backward.* [1-9][0-9]* launches' "$log.gpu"; then
            echo "the emulated GPU was not used"
            status=1
        fi
    done
fi

say "done"
if [ ${#ABSENT[@]} -gt 0 ]; then
    echo "not to be had here, so not asked for their judgement: ${ABSENT[*]}"
fi
[ $nvcc = 1 ] || echo "no CUDA compiler (packaging/cuda-toolchain.sh): the kernels were not compiled for GPUs, and the engine for them was not tested"
[ "$(id -u)" -eq 0 ] || echo "not root: the tests of taps and namespaces were skipped"
[ -c /dev/net/tun ] || echo "no /dev/net/tun: the tests of taps were skipped"
# The sum over all test programs.
awk '/^test result:/ { passed += $4; failed += $6; skipped += $8 }
    END { printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped }' "$log"
exit $status
