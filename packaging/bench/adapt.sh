#!/usr/bin/env bash
# How fast the service learns traffic that its base has never seen: three services on the same interface, with real clients
# and servers in two network namespaces of the script's own. Prints a table over time, and leaves every status as JSON.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=packaging/lib.sh
. packaging/lib.sh

usage() {
    cat <<'EOF'
usage: packaging/bench/adapt.sh --base DIR --rehearsal DIR --label LABEL [--minutes N] [--out DIR]

Runs N minutes (default 35) of Redis and Memcached traffic between two namespaces, and captures it with
  live     the service as it is: fine-tunes the base, with a rehearsal of its captures
  nothing  the same without a base
  frozen   the base, measured on the same held-out flows and never changed
live has one core to itself; nothing and frozen share the other with the traffic.
EOF
}

MINUTES=35 OUT=adapt BASE='' REHEARSAL='' LABEL=''
while [ $# -gt 0 ]; do
    case $1 in
        --base) BASE=$(realpath "$2"); shift ;;
        --rehearsal) REHEARSAL=$(realpath "$2"); shift ;;
        --label) LABEL=$2; shift ;;
        --minutes) MINUTES=$2; shift ;;
        --out) OUT=$2; shift ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; exit 2 ;;
    esac
    shift
done
[ -n "$BASE" ] && [ -n "$REHEARSAL" ] && [ -n "$LABEL" ] || { usage >&2; exit 2; }
[ "$(id -u)" -eq 0 ] || die "needs root: it makes network namespaces"
need_packages iproute2 redis-server redis-tools memcached python3 util-linux
program=$(realpath target/release/wiremamba)
mkdir -p "$OUT"
OUT=$(realpath "$OUT")

client=wm-adapt-c server=wm-adapt-s
JOBS=()
cleanup() {
    [ ${#JOBS[@]} -eq 0 ] || kill "${JOBS[@]}" 2>/dev/null || true
    wait 2>/dev/null || true
    ip netns delete $client 2>/dev/null || true
    ip netns delete $server 2>/dev/null || true
}
trap cleanup EXIT
ip netns add $client
ip netns add $server
ip -n $server link add wm-s type veth peer name wm-c netns $client
ip -n $server addr add 10.99.0.1/24 dev wm-s
ip -n $client addr add 10.99.0.2/24 dev wm-c
ip -n $server link set wm-s up
ip -n $client link set wm-c up

ip netns exec $server taskset -c 1 redis-server --bind 10.99.0.1 --port 6379 --save '' --protected-mode no >"$OUT/redis.log" &
JOBS+=($!)
ip netns exec $server taskset -c 1 memcached -u nobody -l 10.99.0.1 -p 11211 -m 64 &
JOBS+=($!)

config() { # NAME BASE-LINES LEARN-LINES
    cat >"$OUT/$1.toml" <<EOF
[[capture]]
interface = "wm-s"
label = "$LABEL"
filter = "tcp port 6379 or tcp port 11211"
[model]
$2
store = "$OUT/$1-store"
[learn]
cpu_share = 1.0
$3
EOF
}
config live "base = \"$BASE\"" "rehearsal = [\"$REHEARSAL\"]"
config nothing 'preset = "small"' ''
config frozen "base = \"$BASE\"" $'steps_per_round = 1\nlearning_rate = 1e-30'
run() { # NAME CORE
    ip netns exec $server taskset -c "$2" "$program" --threads 1 run --config "$OUT/$1.toml" --json \
        >"$OUT/$1.jsonl" 2>"$OUT/$1.log" &
    JOBS+=($!)
    eval "$1_pid=$!"
}
run live 0
run nothing 1
run frozen 1
say "waiting for the services"
for name in live nothing frozen; do
    for _ in $(seq 120); do
        [ -s "$OUT/$name.jsonl" ] && break
        sleep 1
    done
    [ -s "$OUT/$name.jsonl" ] || die "$name did not start: $(tail -n 3 "$OUT/$name.log")"
done

say "traffic for $MINUTES minutes"
ip netns exec $client taskset -c 1 python3 packaging/bench/clients.py 10.99.0.1 $((MINUTES * 60)) &
clients=$!
: >"$OUT/memory"
while kill -0 $clients 2>/dev/null; do
    # shellcheck disable=SC2154 # set by run
    awk '/^VmRSS/ { print systime(), $2 }' "/proc/$live_pid/status" >>"$OUT/memory" || die "live ended: $(tail -n 3 "$OUT/live.log")"
    sleep 15
done
python3 packaging/bench/adapt_table.py "$OUT"
