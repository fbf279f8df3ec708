#!/usr/bin/env bash
# What to run first on a machine with an NVIDIA GPU: whether the engine is right there, and how fast, each beside the peer.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)

usage() {
    cat <<'EOF'
usage: packaging/bench/gpu.sh --prepare DIR
       packaging/bench/gpu.sh [--built DIR] [--out DIR] [--budget-s N] [--device cuda:N] [--python PROGRAM] [--data DIR]
                              [--train MINUTES] [--only STEP,...] [--smoke]

Tests the CUDA engine, has compute-sanitizer look at its kernels, holds a training step against the CPU and a resumed run against
one that was not interrupted, and measures training, decoding and generation of the preset paper, with PyTorch (tests/peers) after
each. Every step has a time limit of its own; all together get N seconds (default 780). A line of JSON a step goes to
DIR/results.jsonl as it ends (default target/gpu-results), so that a run that is cut off keeps what it has; the rest is beside it.

--prepare DIR  build here, and put all that a GPU's machine needs into DIR, stripped: it needs no Rust and no network there
--built DIR    run what --prepare made; without it, build here first
--python       one with PyTorch, for the peers [default: python3]
--data DIR     captures to learn from [default: those of the tests]
--train N      at the end, train for N minutes on --data and keep its curve
--only         of: device unit train-8x4096 decode-64 parity resume decode-1 decode-1024 train-1x50000 train-32x1024 generate
               memcheck racecheck train
--smoke        small sizes, to try the script out (also on the emulated GPU of tests/emulator: LD_LIBRARY_PATH=target/emulator)
EOF
}

say() { printf '\n== %s\n' "$*" >&2; }
die() {
    printf 'gpu.sh: %s\n' "$*" >&2
    exit 1
}

PREPARE='' BUILT='' OUT='' BUDGET=780 DEVICE=cuda:0 PYTHON=python3 DATA='' MINUTES='' ONLY='' SMOKE=0
while [ $# -gt 0 ]; do
    case $1 in
        --prepare) PREPARE=$2; shift ;;
        --built) BUILT=$2; shift ;;
        --out) OUT=$2; shift ;;
        --budget-s) BUDGET=$2; shift ;;
        --device) DEVICE=$2; shift ;;
        --python) PYTHON=$2; shift ;;
        --data) DATA=$2; shift ;;
        --train) MINUTES=$2; shift ;;
        --only) ONLY=$2; shift ;;
        --smoke) SMOKE=1 ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; exit 2 ;;
    esac
    shift
done
[ -z "$MINUTES" ] || [ -n "$DATA" ] || die "--train needs --data"

# prepare DIR: the program, the engine's unit tests, libpcap with what it needs, the peers, captures to try things on.
prepare() {
    cd "$here/../.." || exit 1
    # shellcheck source=packaging/lib.sh
    . packaging/lib.sh
    need_cargo
    find_nvcc
    export NVCC
    local tests to=$1 name
    local args=(--release -p wiremamba-model -p wiremamba-tests --features wiremamba-tests/cuda)
    cargo build "${args[@]}" -p wiremamba-daemon --bin wiremamba || exit 1
    tests=$(cargo test "${args[@]}" --no-run --lib --message-format json 2>/dev/null |
        sed -n 's/.*"name":"wiremamba_model".*"executable":"\([^"]*\)".*/\1/p' | tail -1)
    [ -x "$tests" ] || die "cargo made no tests of wiremamba-model"
    mkdir -p "$to/lib" "$to/peers" "$to/data"
    strip -o "$to/wiremamba" target/release/wiremamba
    strip -o "$to/model-tests" "$tests"
    cp tests/peers/mamba_torch.py tests/peers/train_torch_cuda.py tests/peers/decode_torch_cuda.py tests/peers/presets.py "$to/peers/"
    cp tests/data/eval/train.pcap "$to/data/"
    # What a bare machine may lack: libpcap and its own libraries, but not the C library's.
    ldd "$to/wiremamba" | sed -n 's/^\s*\(\S*\) => \(\/\S*\).*/\1 \2/p' | while read -r name path; do
        case $name in libc.so* | libm.so* | libgcc_s.so* | ld-linux* | libpthread* | libdl* | librt*) ;; *) cp -L "$path" "$to/lib/$name" ;; esac
    done
    du -sk "$to" | awk '{printf "%.1f MiB in %s\n", $1 / 1024, $2}'
}

if [ -n "$PREPARE" ]; then
    prepare "$PREPARE"
    exit
fi
if [ -z "$BUILT" ]; then
    BUILT=$here/../../target/gpu
    (prepare "$BUILT") || exit 1
fi
BUILT=$(realpath "$BUILT")
OUT=${OUT:-$here/../../target/gpu-results}
mkdir -p "$OUT"
OUT=$(realpath "$OUT")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
[ -n "$DATA" ] && DATA=$(realpath "$DATA")
SMALL_DATA=$BUILT/data
program=$BUILT/wiremamba

# cuBLAS: in the loader's path, in a toolkit, or in the Python package that PyTorch brings.
cublas() {
    local dir
    ldconfig -p 2>/dev/null | grep -q 'libcublas\.so\.13' && return
    for dir in ${LD_LIBRARY_PATH//:/ } /usr/local/cuda/lib64 /usr/local/cuda-13*/lib64 \
        $("$PYTHON" -c 'import glob, sys; print(*[d for p in sys.path if p for d in glob.glob(p + "/nvidia/*/lib")])' 2>/dev/null); do
        if [ -e "$dir/libcublas.so.13" ]; then
            export LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$dir"
            return
        fi
    done
    say "no libcublas.so.13 found"
}
cublas
# Last, so that nothing of the machine's own is replaced for the peers.
ours=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$BUILT/lib

begun=$SECONDS failed=''
wanted() { [ -z "$ONLY" ] || [[ ",$ONLY," == *",$1,"* ]]; }

# step NAME LIMIT_S COMMAND...: runs it with what is left of the budget at most, and writes its line: exit status (124: out of time),
# seconds, and the last line of its output that is a JSON object.
step() {
    local name=$1 limit=$2 left=$((BUDGET - (SECONDS - begun))) at result status
    shift 2
    [ "$left" -gt 5 ] || {
        printf '{"step":"%s","exit":null,"why":"the budget of %s s is used up"}\n' "$name" "$BUDGET" >>"$OUT/results.jsonl"
        return 1
    }
    [ "$limit" -lt "$left" ] || limit=$left
    say "$name (at $((SECONDS - begun)) s, at most $limit s)"
    at=$(date +%s.%N)
    timeout -k 5 "$limit" "$@" >"$OUT/$name.out" 2>"$OUT/$name.err"
    status=$?
    result=$(grep '^{.*}$' "$OUT/$name.out" | tail -1)
    printf '{"step":"%s","exit":%s,"seconds":%.1f,"result":%s}\n' "$name" "$status" \
        "$(awk -v a="$at" -v b="$(date +%s.%N)" 'BEGIN { print b - a }')" "${result:-null}" >>"$OUT/results.jsonl"
    tail -1 "$OUT/results.jsonl" >&2
    [ "$status" = 0 ] && return
    tail -5 "$OUT/$name.err" >&2
    # A peer that fails says nothing of the engine.
    [[ $name == *-peer ]] || failed="$failed $name"
    return "$status"
}
skip() { printf '{"step":"%s","exit":null,"why":"%s"}\n' "$1" "$2" | tee -a "$OUT/results.jsonl" >&2; }
wm() { LD_LIBRARY_PATH=$ours "$program" "$@"; }
export -f wm
export program ours DEVICE SMALL_DATA work

if [ "$SMOKE" = 1 ]; then
    PRESET=tiny TRAINED=(1x96 2x32 3x16) DECODED=(1 9 16) STREAMS=9 FLOWS=9 PACKETS=4 SMALL=tiny STEPS=2 RESUMED=12 PEER_TOKENS=(--no-compile --device cpu)
    UNIT=engine::cuda::tests::a_ SANITIZED=engine::cuda::tests::ops::norm
else
    PRESET=paper TRAINED=(1x50000 8x4096 32x1024) DECODED=(1 64 1024) STREAMS=1024 FLOWS=4096 PACKETS=30 SMALL=small STEPS=5 RESUMED=300 PEER_TOKENS=(--device "$DEVICE")
    UNIT=engine::cuda SANITIZED=engine::cuda::tests::ops
fi

peer() { # NAME LIMIT SCRIPT ARGS...
    local name=$1 limit=$2 script=$3
    shift 3
    if [ -z "$has_torch" ]; then skip "$name" "$PYTHON has no PyTorch"; else
        step "$name" "$limit" "$PYTHON" "$BUILT/peers/$script" --preset "$PRESET" "${PEER_TOKENS[@]}" "$@"
    fi
}
has_torch=$("$PYTHON" -c 'import torch; print(1)' 2>/dev/null || true)

train() { # INDEX NAME
    local shape=${TRAINED[$1]}
    wanted "$2" || return
    step "$2" 60 bash -c 'wm bench train --preset "$1" --batch "$2" --seq-len "$3" --steps "$4" --device "$DEVICE" --precision bf16 --json' \
        - "$PRESET" "${shape%x*}" "${shape#*x}" "$STEPS"
    peer "$2-peer" 110 train_torch_cuda.py --batch "${shape%x*}" --seq-len "${shape#*x}" --steps 3
}
decode() { # INDEX NAME
    wanted "$2" || return
    step "$2" 40 bash -c 'wm bench decode --preset "$1" --streams "$2" --steps "$3" --device "$DEVICE" --precision bf16 --json' \
        - "$PRESET" "${DECODED[$1]}" $((STEPS * 40))
    peer "$2-peer" 60 decode_torch_cuda.py --streams "${DECODED[$1]}" --steps $((STEPS * 20))
}

# A few steps of training on DEVICE or another, quietly: what the run says of itself as JSON.
export learn='"$program" train --data "$SMALL_DATA" --preset "$PRESET" --seed 1 --batch 4 --seq-len 128 --no-baselines --precision f32 --json -q'
export PRESET

if wanted device; then
    command -v nvidia-smi >/dev/null && step nvidia-smi 20 nvidia-smi
    step device 30 bash -c 'wm devices --json'
fi
if wanted unit; then
    step unit 150 env LD_LIBRARY_PATH="$ours" "$BUILT/model-tests" --test-threads 2 "$UNIT"
    grep -h '^test result\|FAILED' "$OUT/unit.out" >&2
fi
train 1 train-8x4096
decode 1 decode-64
if wanted parity; then
    # Two steps of f32 on the same data: rounding apart, the same held-out loss.
    # shellcheck disable=SC2016 # the inner shell's
    PRESET=$SMALL step parity 60 bash -c '
        export LD_LIBRARY_PATH=$ours
        for device in "$DEVICE" cpu; do
            rm -rf "$work/parity"
            eval "$learn" --steps 2 --out "$work/parity" --device "$device" >"$work/$device.json" || exit 1
        done
        bits() { sed "s/.*\"bits_per_token\":\([0-9.e+-]*\).*/\1/" "$1"; }
        gpu=$(bits "$work/$DEVICE.json") cpu=$(bits "$work/cpu.json")
        awk -v a="$gpu" -v b="$cpu" "BEGIN { d = (a - b) / b; printf \"{\\\"device\\\":%s,\\\"cpu\\\":%s,\\\"relative\\\":%g}\n\", a, b, d; exit !(d < 1e-3 && d > -1e-3) }"
    '
fi
if wanted resume; then
    # shellcheck disable=SC2016
    PRESET=$SMALL step resume 90 bash -c '
        export LD_LIBRARY_PATH=$ours
        rm -rf "$work/whole" "$work/parts"
        eval "$learn" --steps "$1" --out "$work/whole" --device "$DEVICE" >"$work/whole.json" || exit 1
        eval "exec $learn" --steps "$1" --out "$work/parts" --device "$DEVICE" >"$work/parts.json" &
        child=$!
        while kill -0 $child 2>/dev/null && [ "$(cat "$work/parts/curve.jsonl" 2>/dev/null | wc -l)" -lt 3 ]; do sleep 0.02; done
        kill -TERM $child
        wait $child || exit 1
        grep -q "\"interrupted\":true" "$work/parts.json" || { echo "it was done before it could be interrupted" >&2; exit 1; }
        eval "$learn" --steps "$1" --out "$work/parts" --device "$DEVICE" --resume >"$work/resumed.json" || exit 1
        sum() { sha256sum "$work/$1/current/model.safetensors" | cut -c1-64; }
        whole=$(sum whole) parts=$(sum parts)
        printf "{\"steps\":%s,\"whole\":\"%s\",\"resumed\":\"%s\"}\n" "$1" "$whole" "$parts"
        [ "$whole" = "$parts" ]
    ' - "$RESUMED"
fi
decode 0 decode-1
decode 2 decode-1024
train 0 train-1x50000
train 2 train-32x1024
if wanted generate; then
    # Speed needs the network's size and the codec, not what it has learned: two steps make a checkpoint.
    # shellcheck disable=SC2016
    step generate 90 bash -c '
        export LD_LIBRARY_PATH=$ours
        eval "${learn/--precision f32/--precision bf16}" --steps 2 --out "$work/model" --device "$DEVICE" >"$work/model.json" || exit 1
        "$program" bench generate --model "$work/model" --device "$DEVICE" --streams "$1" --flows "$2" --flow-packets-max "$3" --json
    ' - "$STREAMS" "$FLOWS" "$PACKETS"
fi
for tool in memcheck racecheck; do
    wanted "$tool" || continue
    if command -v compute-sanitizer >/dev/null; then
        step "$tool" 120 env LD_LIBRARY_PATH="$ours" compute-sanitizer --tool "$tool" --error-exitcode 9 "$BUILT/model-tests" --test-threads 1 "$SANITIZED"
        grep -h 'ERROR SUMMARY\|RACECHECK SUMMARY' "$OUT/$tool.out" >&2
    else
        skip "$tool" "there is no compute-sanitizer here"
    fi
done
if [ -n "$MINUTES" ] && wanted train; then
    step train "$(awk -v m="$MINUTES" 'BEGIN { print int(m * 60 * 1.3 + 60) }')" \
        bash -c 'wm train --data "$1" --preset "$2" --minutes "$3" --eval-every 200 --batch 8 --seq-len 4096 --device "$DEVICE" --out "$4" --json' \
        - "$DATA" "$PRESET" "$MINUTES" "$work/long"
    cp "$work"/long/curve.jsonl "$OUT/" 2>/dev/null
fi
say "$((SECONDS - begun)) s; results in $OUT/results.jsonl"
[ -z "$failed" ] || die "failed:$failed"
