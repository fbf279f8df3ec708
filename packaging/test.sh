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
want_packages tshark tcpreplay libndpi-bin openmpi-bin python3 valgrind chromium systemd systemd-container debootstrap lintian
if [[ $(apt-cache policy suricata 2>/dev/null || true) =~ Candidate:\ [0-9] ]]; then
    need_packages suricata
else
    want_backports suricata
fi

if ! cargo deb --version >/dev/null 2>&1 && [ "$NO_INSTALL" = 0 ]; then
    say "installing cargo-deb, which makes the Debian package"
    cargo install --locked --quiet cargo-deb || ABSENT+=(cargo-deb)
fi

# One program with and without a GPU: where the CUDA compiler is to be had, what is tested has the engine for GPUs in it, and
# computes on the CPU as long as no driver is found.
features=()
cuda_or_not
if [ $nvcc = 1 ]; then features=("${CUDA_FEATURES[@]}"); fi

say "building and testing the workspace"
cargo build --release --workspace "${features[@]}"
log=$(mktemp)
trap 'rm -f "$log" "$log.gpu"' EXIT
status=0
cargo test --release --workspace "${features[@]}" --no-fail-fast "$@" 2>&1 | tee "$log" || status=$?

if [ $nvcc = 1 ]; then
    packaging/kernels-check.sh || status=$?
    # Threads and blocks in two orders, as a result that depends on it lacks a barrier; then with every access watched.
    emulator=$(tests/emulator/build.sh --races)
    for how in ORDER=forward ORDER=reverse RACES=1; do
        say "testing the engine for GPUs on an emulated one, $how"
        env "LD_LIBRARY_PATH=$emulator" "EMULATED_CUDA_$how" EMULATED_CUDA_PROFILE=1 \
            cargo test --release --workspace "${features[@]}" --lib --no-fail-fast cuda 2>&1 | tee "$log.gpu" || status=$?
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
