#!/usr/bin/env bash
# How much the service loses beside dumpcap: both capture the same tap, at rising rates, while the service trains.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=packaging/lib.sh
. packaging/lib.sh

usage() {
    cat <<'EOF'
usage: packaging/bench/capture.sh --pcap FILE --base DIR --label LABEL [--seconds N] [--buffer-mib N] [--rates "N …"]

Replays FILE (Ethernet, fitting an MTU of 1500) for N seconds (default 10) at each rate in packets a second (0: as fast as
possible) onto a tap in a network namespace of its own, and says what dumpcap and the service dropped.
EOF
}

PCAP='' BASE='' LABEL='' SECONDS_EACH=10 BUFFER=16 RATES='50000 100000 200000 300000 0'
while [ $# -gt 0 ]; do
    case $1 in
        --pcap) PCAP=$(realpath "$2"); shift ;;
        --base) BASE=$(realpath "$2"); shift ;;
        --label) LABEL=$2; shift ;;
        --seconds) SECONDS_EACH=$2; shift ;;
        --buffer-mib) BUFFER=$2; shift ;;
        --rates) RATES=$2; shift ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; exit 2 ;;
    esac
    shift
done
[ -n "$PCAP" ] && [ -n "$BASE" ] && [ -n "$LABEL" ] || { usage >&2; exit 2; }
[ "$(id -u)" -eq 0 ] || die "needs root: it makes a network namespace"
need_packages iproute2 wireshark-common python3
program=$(realpath target/release/wiremamba)

space=wm-capture tap=wm-cap0
work=$(mktemp -d)
JOBS=()
cleanup() {
    [ ${#JOBS[@]} -eq 0 ] || kill "${JOBS[@]}" 2>/dev/null || true
    wait 2>/dev/null || true
    ip netns delete $space 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT
ip netns add $space
ip -n $space tuntap add dev $tap mode tap
ip -n $space link set $tap up
cat >"$work/config.toml" <<EOF
[[capture]]
interface = "$tap"
label = "$LABEL"
buffer_mib = $BUFFER
[model]
base = "$BASE"
store = "$work/store"
[learn]
flows_per_round = 16
cpu_share = 1.0
status_s = 1
[control]
socket = "$work/control.sock"
EOF
ip netns exec $space "$program" --log warn run --config "$work/config.toml" --json >"$work/status" &
JOBS+=($!)
for _ in $(seq 60); do
    [ -s "$work/status" ] && break
    sleep 1
done
status() { # KEY...
    "$program" ctl --socket "$work/control.sock" --json status |
        python3 -c 'import json, sys; s = json.load(sys.stdin); print(*(s[k] for k in sys.argv[1:]))' "$@"
}

printf '%12s %12s %18s %18s %18s\n' 'asked/s' 'sent/s' 'dumpcap dropped' 'service dropped' 'service captured'
for rate in $RATES; do
    pace=(--pps "$rate")
    [ "$rate" = 0 ] && pace=(--topspeed)
    # The kernel's default buffer of dumpcap is 2 MiB; both get the same.
    ip netns exec $space dumpcap -q -i $tap -B "$BUFFER" -w /dev/null 2>"$work/dumpcap" &
    dumpcap=$!
    sleep 3
    read -r packets dropped <<<"$(status packets packets_dropped)"
    sent=$(ip netns exec $space "$program" --log warn replay -q --json --pcap "$PCAP" --tap $tap "${pace[@]}" --loop 0 \
        --duration "$SECONDS_EACH" --truncated skip | python3 -c '
import json, sys
s = [json.loads(line) for line in sys.stdin][-1]
print(s["sent"], round(s["pps"]))')
    sleep 3
    read -r packets_now dropped_now steps <<<"$(status packets packets_dropped steps)"
    kill -INT $dumpcap
    wait $dumpcap || true
    lost=$(sed -n "s|^Packets received/dropped on interface.*: [0-9]*/\([0-9]*\).*|\1|p" "$work/dumpcap")
    read -r count pps <<<"$sent"
    share() { python3 -c 'import sys; a, b = map(int, sys.argv[1:]); print(f"{a} ({a / b:.2%})")' "$1" "$count"; }
    printf '%12s %12s %18s %18s %18s\n' "$rate" "$pps" "$(share "${lost:-0}")" "$(share $((dropped_now - dropped)))" \
        "$(share $((packets_now - packets)))"
done
echo "it trained meanwhile: $steps steps in rounds that ended"
