#!/usr/bin/env bash
# Suricata, live on a tap, as the judge of what a model generates, beside real captures replayed the same way.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=packaging/lib.sh
. packaging/lib.sh

usage() {
    cat <<'TEXT'
usage: packaging/bench/ids.sh --model DIR [--seconds N] [--stock N] [--flows-per-second N] [--real CAPTURE]... [--keep DIR]

Replays N seconds (default 120) of generated traffic onto a tap in a namespace of its own, with Suricata on it and every checksum
looked at (packaging/suricata.yaml), then each CAPTURE the same way, with pauses cut to 50 ms. Prints six numbers of each:
packets that could not be decoded, wrong TCP checksums, how TCP flows end, anomalies, applications, and how flows fared against
the ground truth; then a table of the generated traffic beside the band of the captures. DIR keeps
what Suricata said and the ground truth, a folder for each.
TEXT
}

MODEL='' SECONDS_EACH=120 STOCK=256 RATE=20 REAL=() KEEP=''
while [ $# -gt 0 ]; do
    case $1 in
        --model) MODEL=$(realpath "$2"); shift ;;
        --seconds) SECONDS_EACH=$2; shift ;;
        --stock) STOCK=$2; shift ;;
        --flows-per-second) RATE=$2; shift ;;
        --keep) KEEP=$(realpath -m "$2"); shift ;;
        --real) REAL+=("$(realpath "$2")"); shift ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; exit 2 ;;
    esac
    shift
done
[ -n "$MODEL" ] || { usage >&2; exit 2; }
[ "$(id -u)" -eq 0 ] || die "needs root: it makes a network namespace"
need_packages iproute2 procps python3
ABSENT=()
command -v suricata >/dev/null || want_backports suricata
command -v suricata >/dev/null || die "there is no suricata: Debian 12 has it in its backports"
program=$(realpath target/release/wiremamba)

veth_space wm-ids
ip -n "$space" tuntap add dev wm0 mode tap
ip netns exec "$space" sysctl -qw net.ipv6.conf.wm0.disable_ipv6=1
ip -n "$space" link set wm0 up

# judge NAME ARGUMENTS OF replay...: what Suricata saw of it, in $work/NAME.
judge() {
    local folder="$work/$1" watcher
    shift
    mkdir "$folder"
    : >"$folder/empty"
    (cd "$folder" && exec ip netns exec "$space" suricata -c "$OLDPWD/packaging/suricata.yaml" --af-packet=wm0 -k all \
        -S /dev/null -l . --runmode workers >suricata.log 2>&1) &
    watcher=$!
    JOBS+=("$watcher")
    local waited
    for waited in {1..100}; do
        grep -q 'Engine started' "$folder/suricata.log" 2>/dev/null && break
        kill -0 "$watcher" 2>/dev/null || die "suricata did not start: $(tail -3 "$folder/suricata.log")"
        [ "$waited" -lt 100 ] || die "suricata is not up after 30 s"
        sleep 0.3
    done
    ip netns exec "$space" "$program" replay --json --tap wm0 --duration "$SECONDS_EACH" \
        --ground-truth "$folder/truth.jsonl" "$@" >"$folder/replay.jsonl"
    sleep 2
    kill -INT "$watcher"
    wait "$watcher" || true
    "$program" score --truth "$folder/truth.jsonl" --eve "$folder/eve.json" --json >"$folder/score.json"
}

say "generated traffic: $SECONDS_EACH s"
judge generated --model "$MODEL" --stock "$STOCK" --flows-per-second "$RATE"
names=(generated)
for capture in "${REAL[@]}"; do
    name=$(basename "$capture")
    say "$name"
    judge "$name" --pcap "$capture" --max-gap 0.05
    names+=("$name")
done
if [ -n "$KEEP" ]; then
    mkdir -p "$KEEP"
    for name in "${names[@]}"; do cp -r "$work/$name" "$KEEP/"; done
fi
say "what Suricata says"
python3 - "$work" "${names[@]}" <<'PYTHON'
import json, sys

folder, *names = sys.argv[1:]
# What is compared, and how it is written: the order of the table.
ROWS = [
    ("1 not decoded", "{:.0f}"),
    ("2 wrong TCP checksums", "{:.0f}"),
    ("3 TCP flows closed, as sent, %", "{:.1f}"),
    ("  as seen, %", "{:.1f}"),
    ("  SYN without SYN-ACK, %", "{:.1f}"),
    ("4 anomalies in 1,000 packets", "{:.2f}"),
    ("5 TCP flows whose application failed, %", "{:.1f}"),
    ("6 flows missed, %", "{:.2f}"),
    ("  flows seen as several, %", "{:.2f}"),
    ("  acknowledged but not seen, in 1,000 packets", "{:.2f}"),
    ("  gaps in streams, in 1,000 packets", "{:.2f}"),
]
table = {}
for name in names:
    score = json.load(open(f"{folder}/{name}/score.json"))
    done = json.loads(open(f"{folder}/{name}/replay.jsonl").read().splitlines()[-1])
    counters = {}
    for line in open(f"{folder}/{name}/eve.json"):
        event = json.loads(line)
        if event["event_type"] == "stats":
            counters = event["stats"]
    sessions, syn, synack = score["tcp_sessions"] or (0, 0, 0)
    applications = {k: v for k, v in counters["app_layer"]["flow"].items() if v}
    tcp_told = sum(v for k, v in applications.items() if not k.endswith(("_udp", "quic", "ntp", "dhcp", "snmp", "sip")))
    tcp = counters["tcp"]

    def share(part, whole, of=100):
        return None if not whole or part is None else part * of / whole

    print(f"\n{name}: {done['sent']} packets sent, {counters['decoder']['pkts']} decoded, dropped by the kernel "
          f"{counters['capture']['kernel_drops']}; flows {score['flows']}, seen {score['seen']}, missed {score['missed']}, several "
          f"{score['split']}, short {score['short']}, unknown {score['unknown']}; sessions fresh {done['sessions_fresh']}, "
          f"again {done['sessions_again']}; TCP sessions {sessions}, SYN {syn}, SYN-ACK {synack}")
    anomalies = sorted(score["anomalies"].items(), key=lambda x: -x[1])[:8]
    print("  anomalies in 1,000:", ", ".join(f"{what} {n * 1000 / score['packets']:.2f}" for what, n in anomalies) or "none")
    print("  applications:", ", ".join(f"{k} {v}" for k, v in sorted(applications.items(), key=lambda x: -x[1])) or "none")
    table[name] = [
        score["decoder_invalid"],
        score["invalid_checksum"],
        share(score["tcp_closed_sent"], 1),
        share(score["tcp_closed_seen"], 1),
        share(max(0, syn - synack), syn),
        score["anomalies_per_1000"],
        share(score["failed_tcp"], tcp_told),
        share(score["missed"], score["flows"]),
        share(score["split"], score["flows"]),
        share(tcp.get("ack_unseen_data", 0), score["packets"], 1000),
        share(tcp.get("reassembly_gap", 0), score["packets"], 1000),
    ]
if len(names) > 1:
    print("\n| | generated | real, lowest to highest | |\n|---|---|---|---|")
    for n, (what, form) in enumerate(ROWS):
        mine = table["generated"][n]
        real = [table[name][n] for name in names[1:] if table[name][n] is not None]
        band = f"{form.format(min(real))} to {form.format(max(real))}" if real else "-"
        inside = "" if mine is None or not real else "inside" if min(real) <= mine <= max(real) else \
            "below" if mine < min(real) else "above"
        print(f"| {what} | {'-' if mine is None else form.format(mine)} | {band} | {inside} |")
PYTHON
