# shellcheck shell=bash
# What the scripts beside this file share. Source it; it does nothing by itself.

say() { printf '\n== %s\n' "$*"; }
die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# Runs a command as root: as it is for root, else through sudo.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "needs root for: $* (and there is no sudo)"
    fi
}

installed() { dpkg-query -W -f='${Status}' "$1" 2>/dev/null | grep -q '^install ok installed$'; }

# need_packages NAME...: installs the Debian packages that are missing, and says which.
need_packages() {
    local missing=() name
    command -v dpkg-query >/dev/null || die "needs Debian's packages $*, and this is no Debian system"
    for name in "$@"; do
        installed "$name" || missing+=("$name")
    done
    [ ${#missing[@]} -eq 0 ] && return 0
    [ "${NO_INSTALL:-0}" = 1 ] && die "missing packages, and --no-install was given: ${missing[*]}"
    say "installing ${missing[*]}"
    # No service of a package starts by itself: the scripts run what they need, in their own namespaces.
    local policy=/usr/sbin/policy-rc.d made=0
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
        as_root chmod 755 "$policy"
        made=1
    fi
    local ok=1
    as_root env DEBIAN_FRONTEND=noninteractive sh -c '
        apt-get update -qq && apt-get install -y -qq --no-install-recommends "$@" >/dev/null' sh "${missing[@]}" || ok=0
    [ $made = 1 ] && as_root rm -f "$policy"
    [ $ok = 1 ] || die "apt-get could not install ${missing[*]}"
}

# want_packages NAME...: installs those that this Debian offers; leaves the names of the others in ABSENT.
want_packages() {
    local name policy offered=()
    ABSENT=()
    for name in "$@"; do
        policy=$(apt-cache policy "$name" 2>/dev/null || true)
        if installed "$name" || [[ $policy =~ Candidate:\ [0-9] ]]; then
            offered+=("$name")
        else
            ABSENT+=("$name")
        fi
    done
    if [ "${NO_INSTALL:-0}" = 1 ]; then
        for name in "${offered[@]}"; do
            installed "$name" || ABSENT+=("$name")
        done
    elif [ ${#offered[@]} -gt 0 ]; then
        need_packages "${offered[@]}"
    fi
}

# want_backports NAME...: installs those that are missing and that only the backports of this Debian release offer, without adding
# them to the machine's own list of sources; adds the names of the others to ABSENT.
want_backports() {
    local name codename folder missing=()
    for name in "$@"; do
        installed "$name" || missing+=("$name")
    done
    [ ${#missing[@]} -eq 0 ] && return 0
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    folder=$(mktemp -d)
    cp -a /etc/apt/sources.list.d/. "$folder"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian $codename-backports main" \
        >"$folder/backports.list"
    if [ "${NO_INSTALL:-0}" = 0 ]; then
        say "installing ${missing[*]} from $codename-backports"
        as_root env DEBIAN_FRONTEND=noninteractive sh -c '
            parts=$1 release=$2
            shift 2
            apt-get -o Dir::Etc::sourceparts="$parts" update -qq &&
                apt-get -o Dir::Etc::sourceparts="$parts" install -y -qq --no-install-recommends -t "$release" "$@" >/dev/null
        ' sh "$folder" "$codename-backports" "${missing[@]}" || true
    fi
    rm -rf "$folder"
    for name in "${missing[@]}"; do
        installed "$name" || ABSENT+=("$name")
    done
}

# What the build links and compiles with, beside the Rust toolchain.
# shellcheck disable=SC2034 # used by the scripts that source this
BUILD_PACKAGES=(gcc g++ libc6-dev libpcap-dev pkg-config)

# find_nvcc: leaves the CUDA compiler in NVCC: the caller's, or that of packaging/cuda-toolchain.sh, fetched if need be.
find_nvcc() {
    [ -n "${NVCC:-}" ] || NVCC=${CUDA_HOME:+$CUDA_HOME/bin/nvcc}
    if [ -z "${NVCC:-}" ]; then
        packaging/cuda-toolchain.sh || die "no CUDA compiler to be had; set NVCC or CUDA_HOME to use another"
        NVCC=$PWD/target/cuda-toolchain/bin/nvcc
    fi
    command -v "$NVCC" >/dev/null || die "there is no $NVCC"
}
# How model/build.rs compiles the kernels.
# shellcheck disable=SC2034 # used by the scripts that source this
NVCC_FLAGS=(-std=c++17 -O3)

# The engine for GPUs in every program of the workspace.
# shellcheck disable=SC2034 # used by the scripts that source this
CUDA_FEATURES=(--features wiremamba-tests/cuda,wiremamba-plugin/cuda)

# cuda_or_not: sets nvcc to 1 where there is a CUDA compiler, fetched if need be, and to 0 elsewhere.
cuda_or_not() {
    nvcc=1
    if [ "${NO_INSTALL:-0}" = 0 ]; then
        packaging/cuda-toolchain.sh || nvcc=0
    elif [ -z "${NVCC:-}${CUDA_HOME:-}" ] && [ ! -x target/cuda-toolchain/bin/nvcc ]; then
        nvcc=0
    fi
}

need_cargo() { command -v cargo >/dev/null || die "needs the Rust toolchain (https://rustup.rs): no cargo in PATH"; }

# veth_space NAME: a network namespace with a pair of silent interfaces, wm-a and wm-b; gone when the shell ends, with the
# folder $work and the processes in JOBS.
veth_space() {
    space=$1
    work=$(mktemp -d)
    chmod 755 "$work"
    JOBS=()
    trap 'for job in "${JOBS[@]}"; do kill "$job" 2>/dev/null || true; done
        ip netns delete "$space" 2>/dev/null || true
        rm -rf "$work"' EXIT
    ip netns add "$space"
    ip -n "$space" link add wm-a type veth peer name wm-b
    local name
    for name in wm-a wm-b; do
        ip netns exec "$space" sysctl -qw "net.ipv6.conf.$name.disable_ipv6=1"
        ip -n "$space" link set $name up
    done
}
