#!/usr/bin/env bash
# How true to time a replay is at the receiver, beside tcpreplay: gaps, drift and rate, by the kernel's own times.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=packaging/lib.sh
. packaging/lib.sh

usage() {
    cat <<'EOF'
usage: packaging/bench/timing.sh [--real CAPTURE] [--seconds N] [--rounds N] [--spin-us N] [--kinds LIST] [--alone]

Sends packets of 200 bytes with exponential gaps at 10,000 and 50,000 packets a second, and in bursts, for N seconds (default
4), and CAPTURE at once and twice its speed, into a veth pair in a namespace of its own; tcpdump takes the kernel's times at
the other end. Medians of N rounds (default 3). LIST is of rates with exponential gaps, and of bursts; --alone leaves
tcpreplay out. The last two lines are the machine's own floor: how often something else ran for more than 15 µs on the processor of
a loop that only reads the clock, and what a sleep costs.
EOF
}

REAL='' SECONDS_EACH=4 ROUNDS=3 SPIN='' KINDS='10000 50000 bursts' PEER=1
while [ $# -gt 0 ]; do
    case $1 in
        --real) REAL=$(realpath "$2"); shift ;;
        --seconds) SECONDS_EACH=$2; shift ;;
        --rounds) ROUNDS=$2; shift ;;
        --kinds) KINDS=$2; shift ;;
        --alone) PEER=0 ;;
        --spin-us) SPIN="--spin-us $2"; shift ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; exit 2 ;;
    esac
    shift
done
[ "$(id -u)" -eq 0 ] || die "needs root: it makes a network namespace"
need_packages iproute2 procps tcpreplay tcpdump python3
program=$(realpath target/release/wiremamba)

veth_space wm-timing
cat >"$work/tool.py" <<'EOF'
import ctypes, random, statistics, struct, sys, time

def read(path):
    data = open(path, "rb").read()
    nano = struct.unpack("<I", data[:4])[0] == 0xA1B23C4D
    at, times = 24, []
    while at + 16 <= len(data):
        seconds, part, caplen, _ = struct.unpack_from("<IIII", data, at)
        times.append(seconds * 10**9 + part * (1 if nano else 1000))
        at += 16 + caplen
    return times

def write(path, gaps):
    frame = b"\x02\0\0\0\0\1\x02\0\0\0\0\2\x88\xb5" + bytes(186)
    now = 1_700_000_000 * 10**9
    with open(path, "wb") as out:
        out.write(struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 262144, 1))
        for gap in gaps:
            now += gap
            out.write(struct.pack("<IIII", now // 10**9, now % 10**9, 200, 200) + frame)

command, *args = sys.argv[1:]
if command == "make":
    kind, seconds, path = args[0], float(args[1]), args[2]
    random.seed(1)
    if kind == "bursts":  # 20 ms at 50,000 a second, 80 ms of nothing
        gaps = [20_000 if i % 1000 else 80_000_000 for i in range(int(10_000 * seconds))]
    else:
        rate = float(kind)
        gaps = [int(random.expovariate(rate) * 1e9) for _ in range(int(rate * seconds))]
    write(path, gaps)
elif command == "judge":
    sent, seen, speed, cpu = read(args[0]), read(args[1]), float(args[2]), float(args[3])
    want = [round((t - sent[0]) / speed) for t in sent]
    have = [t - seen[0] for t in seen]
    n = min(len(want), len(have))
    errors = sorted(abs((have[i] - have[i - 1]) - (want[i] - want[i - 1])) for i in range(1, n))
    pick = lambda share: errors[min(len(errors) - 1, int(len(errors) * share))] / 1e3
    rate = ((n - 1) / (have[n - 1] / 1e9)) / ((n - 1) / (want[n - 1] / 1e9)) - 1
    print(f"{pick(.5):.3f} {pick(.99):.2f} {pick(.999):.1f} {(have[n - 1] - want[n - 1]) / 1e3:.1f} {rate * 100:.4f} {len(seen) - len(sent)} {cpu:.0f}")
elif command == "floor":
    last, end, taken = time.monotonic_ns(), time.monotonic_ns() + 3 * 10**9, []
    while last < end:
        now = time.monotonic_ns()
        if now - last > 15_000:
            taken.append((now - last) / 1e3)
        last = now
    print(f"taken away for more than 15 µs: {len(taken) / 3:.0f} times a second, {sum(taken) / 3e4:.2f} % of the time, "
          f"median {statistics.median(taken or [0]):.0f} µs, longest {max(taken or [0]):.0f} µs")
    awake = open("/dev/cpu_dma_latency", "wb", buffering=0)  # held open, as the sender does
    awake.write(bytes(4))
    libc = ctypes.CDLL(None)
    libc.prctl(29, 1, 0, 0, 0)  # PR_SET_TIMERSLACK
    count = 20_000

    def beat(wait):  # how late each wait of 20 µs ends, and the processor time of one
        late, begun = [], time.process_time_ns()
        for _ in range(count):
            wake = time.monotonic_ns() + 20_000
            wait(struct.pack("qq", *divmod(wake, 10**9)))
            late.append((time.monotonic_ns() - wake) / 1e3)
        return late, (time.process_time_ns() - begun) / count / 1e3

    late, used = beat(lambda wake: libc.clock_nanosleep(1, 1, wake, None))  # CLOCK_MONOTONIC, TIMER_ABSTIME
    used -= beat(lambda wake: libc.getppid(1, 1, wake, None))[1]  # what the loop itself takes
    print(f"a sleep of 20 µs ends {statistics.median(late):.1f} µs late in the median and costs {used:.1f} µs of processor time")
elif command == "table":
    rows = {}
    for line in open(args[0]):
        name, who, *numbers = line.split()
        rows.setdefault((name, who), []).append([float(x) for x in numbers])
    print("| profile | sender | gap error p50 µs | p99 | p99.9 | drift at the end µs | rate error % | packets missing | CPU % |")
    print("|---|---|---|---|---|---|---|---|---|")
    for (name, who), found in rows.items():
        m = [statistics.median(column) for column in zip(*found)]
        print(f"| {name} | {who} | {m[0]:.2f} | {m[1]:.1f} | {m[2]:.0f} | {m[3]:+,.0f} | {m[4]:+.3f} | {0 - m[5]:.0f} | {m[6]:.0f} |")
EOF

# measure NAME WHO CAPTURE SPEED COMMAND...: the CPU time is of user and system, of the sender's processor time in percent.
measure() {
    local name=$1 who=$2 capture=$3 speed=$4
    shift 4
    ip netns exec "$space" tcpdump -q -i wm-b -j host --time-stamp-precision=nano -B 65536 -w "$work/seen.pcap" 2>"$work/tcpdump" &
    local receiver=$!
    until grep -q listening "$work/tcpdump"; do sleep 0.05; done
    sleep 0.3
    local cpu
    cpu=$({ TIMEFORMAT='%R %U %S'; time ip netns exec "$space" "$@" >/dev/null 2>&1; } 2>&1 | awk '{ print ($2 + $3) * 100 / $1 }')
    sleep 1
    kill -INT $receiver
    wait $receiver || true
    echo "$name $who $(python3 "$work/tool.py" judge "$capture" "$work/seen.pcap" "$speed" "$cpu")"
}

run() { # NAME CAPTURE SPEED
    # shellcheck disable=SC2086
    for _ in $(seq "$ROUNDS"); do
        [ $PEER = 0 ] || measure "$1" tcpreplay "$2" "$3" tcpreplay -q -i wm-a -x "$3" "$2"
        measure "$1" wiremamba "$2" "$3" "$program" replay -q --interface wm-a --yes-on-the-wire --max-gap 3600 $SPIN --multiplier "$3" --pcap "$2"
    done
}

for kind in $KINDS; do
    python3 "$work/tool.py" make $kind "$SECONDS_EACH" "$work/$kind.pcap"
    case $kind in bursts) name=bursts ;; *) name=exponential-$kind ;; esac
    run $name "$work/$kind.pcap" 1
done | tee "$work/all" >&2
if [ -n "$REAL" ]; then
    for speed in 1 2; do run "real-x$speed" "$REAL" $speed; done | tee -a "$work/all" >&2
fi
python3 "$work/tool.py" table "$work/all"
python3 "$work/tool.py" floor
