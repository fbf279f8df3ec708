#!/usr/bin/env bash
# Runs the engine's tests on an emulated CPU with AVX-512, VNNI and bf16, for machines without one.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)

usage() {
    cat <<'END'
usage: tests/emulated-cpu/run.sh [--program FILE] [--model NAME] [--minutes N] [-- ARGUMENTS OF THE TEST PROGRAM]

Boots Debian's kernel in Bochs, on a Sapphire Rapids, and runs a test program there as the only process. Without
--program that of wiremamba-model is built; without arguments the tests of engine::cpu run. Bochs is built from Debian's
source the first time (some three minutes); what it needs comes from Debian and is kept in target/emulated-cpu.
--minutes stops after so many minutes (default: 30). --model is a CPU that Bochs knows (bochs --help cpu).
END
}

program=
model=sapphire_rapids
minutes=30
while [ $# -gt 0 ]; do
    case $1 in
        --program) program=$2; shift ;;
        --model) model=$2; shift ;;
        --minutes) minutes=$2; shift ;;
        -h | --help) usage; exit 0 ;;
        --) shift; break ;;
        *) usage >&2; exit 2 ;;
    esac
    shift
done
[ $# -gt 0 ] || set -- engine::cpu --include-ignored
arguments=("$@")

out=$root/target/emulated-cpu
mkdir -p "$out"
exec 9>"$out/lock"
flock 9
# shellcheck source=tests/emulated-cpu/parts.sh
. "$here/parts.sh"

if [ -z "$program" ]; then
    program=$(cd "$root" && cargo test --release -p wiremamba-model --lib --no-run --message-format=json |
        sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -1)
fi
[ -x "$program" ] || { echo "no test program: $program" >&2; exit 1; }

bochs
parts
work=$(mktemp -d "$out/run.XXXXXX")
pid=
trap '[ -z "$pid" ] || kill "$pid" 2>/dev/null || true; rm -rf "$work"' EXIT
disc "$work" "$program" "${arguments[@]}"

cat >"$work/bochsrc" <<END
display_library: nogui
cpu: model=$model, count=1, ips=20000000, reset_on_triple_fault=0, ignore_bad_msrs=1
memory: guest=1024, host=1024
romimage: file=$out/unpacked/usr/share/bochs/BIOS-bochs-latest, options=fastboot
vgaromimage: file=$out/unpacked/usr/share/vgabios/vgabios.bin
clock: sync=none, time0=1700000000
ata0-master: type=cdrom, path=$work/disc.iso, status=inserted
boot: cdrom
log: $work/bochs.log
panic: action=fatal
error: action=ignore
info: action=report
com1: enabled=1, mode=file, dev=$work/console
END
: >"$work/console"
exec 9>&-
"$out/bochs/bochs" -q -f "$work/bochsrc" >"$work/screen" 2>&1 </dev/null &
pid=$!
tail -n +1 -f --pid=$pid "$work/console" 2>/dev/null | sed -u 's/\r$//' &
shown=$!
end=$((SECONDS + 60 * minutes))
while kill -0 $pid 2>/dev/null && [ $SECONDS -lt $end ] && ! grep -q '^EMULATED CPU: ' "$work/console"; do sleep 1; done
sleep 1
kill $pid 2>/dev/null || true
wait $pid 2>/dev/null || true
pid=
wait $shown || true
result=$(tr -d '\r' <"$work/console" | sed -n 's/^EMULATED CPU: //p')
if [ "$result" != "status 0" ]; then
    echo "${result:-no end of the tests within $minutes minutes, or the emulator ended:}" >&2
    grep -a PANIC "$work/bochs.log" >&2 || true
    exit 1
fi
