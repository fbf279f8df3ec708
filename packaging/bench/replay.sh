#!/usr/bin/env bash
# Packets a second at top speed, beside tcpreplay: onto a tap and into a veth, in turn, in a namespace of its own.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=packaging/lib.sh
. packaging/lib.sh

usage() {
    cat <<'EOF'
usage: packaging/bench/replay.sh [--rounds N] [--seconds N] [--sizes "N …"] [--model DIR]

Each round sends UDP packets of each size (default 64, 512 and 1500 bytes) for about N seconds (default 1.5) with tcpreplay
--topspeed -K and with wiremamba replay --topspeed -K, in turn; N rounds (default 5), medians, and what the device counted.
With DIR also sessions of a model that are rendered again (--stock 20), beside tcpreplay with a capture of such sessions:
the time of 1 million packets is taken from that of 6 million, so that the generation of the stock does not count.
EOF
}

ROUNDS=5 SECONDS_EACH=1.5 SIZES='64 512 1500' MODEL=''
while [ $# -gt 0 ]; do
    case $1 in
        --rounds) ROUNDS=$2; shift ;;
        --seconds) SECONDS_EACH=$2; shift ;;
        --model) MODEL=$(realpath "$2"); shift ;;
        --sizes) SIZES=$2; shift ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; exit 2 ;;
    esac
    shift
done
[ "$(id -u)" -eq 0 ] || die "needs root: it makes a network namespace"
need_packages iproute2 procps tcpreplay python3
program=$(realpath target/release/wiremamba)

veth_space wm-replay
# tcpreplay sends through the tap towards whoever holds it: somebody has to, or all is lost for want of a carrier. It is
# not read, which is the faster case for tcpreplay.
ip -n "$space" tuntap add dev wm-held mode tap
ip netns exec "$space" python3 -c '
import fcntl, os, struct, time
tun = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tun, 0x400454CA, struct.pack("16sH22x", b"wm-held", 0x1002))
time.sleep(3600)' &
JOBS+=($!)
ip netns exec "$space" sysctl -qw net.ipv6.conf.wm-held.disable_ipv6=1
ip -n "$space" link set wm-held up
sleep 0.5

# capture SIZE: 20,000 UDP packets of that many bytes.
capture() {
    python3 - "$1" "$work/$1.pcap" <<'EOF'
import struct, sys
size, path = int(sys.argv[1]), sys.argv[2]
with open(path, "wb") as out:
    out.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 1))
    for i in range(20000):
        ip = bytearray(struct.pack(">BBHHHBBH4s4s", 0x45, 0, size - 14, i, 0x4000, 64, 17, 0, b"\x0a\x00\x00\x01", b"\x0a\x00\x00\x02"))
        total = sum(struct.unpack(">10H", ip))
        while total >> 16:
            total = (total & 0xFFFF) + (total >> 16)
        ip[10:12] = struct.pack(">H", ~total & 0xFFFF)
        frame = b"\x02\0\0\0\0\1\x02\0\0\0\0\2\x08\0" + ip + struct.pack(">HHHH", 4000 + i % 1000, 9, size - 34, 0) + bytes(size - 42)
        out.write(struct.pack("<IIII", i // 1000, i % 1000 * 1000, size, size) + frame)
EOF
}

# Each prints packets a second, and the packets that the device counted of those sent.
tcpreplay_into() { # INTERFACE SIZE PASSES
    ip netns exec "$space" tcpreplay -q -K --topspeed --loop="$3" -i "$1" "$work/$2.pcap" 2>/dev/null |
        sed -n 's/^Rated: .*, \([0-9.]*\) pps$/\1/p'
}
wiremamba_into() { # "OPTIONS" SIZE PASSES
    local load=-K
    case $1 in --stream\ *) load='' ;; esac
    # shellcheck disable=SC2086
    ip netns exec "$space" "$program" replay -q --json $load --pcap "$work/$2.pcap" --topspeed --loop "$3" ${1#--stream } | tail -n 1 |
        python3 -c '
import json, sys
done = json.load(sys.stdin)
counted = done["device_tx_packets"] or done["device_rx_packets"]
assert counted == done["sent"], done
print(done["pps"])'
}

# stocked_into "OPTIONS": packets a second of sessions that are rendered again.
stocked() {
    # shellcheck disable=SC2086
    ip netns exec "$space" "$program" replay -q --json --model "$MODEL" --stock 20 --flows-per-second 1000 \
        --flow-packets-max 500 --packets "$2" --topspeed $1 | tail -n 1 |
        python3 -c 'import json, sys; print(json.load(sys.stdin)["duration_s"])'
}
stocked_into() {
    python3 -c "print(5000000 / ($(stocked "$1" 6000000) - $(stocked "$1" 1000000)))"
}

{
[ -z "$MODEL" ] || {
    "$program" generate -q --model "$MODEL" --stock 20 --flows-per-second 1000 --flow-packets-max 500 --packets 20000 \
        -w "$work/0.pcap"
    for _ in $(seq "$ROUNDS"); do
        echo "0 veth tcpreplay $(tcpreplay_into wm-a 0 50)"
        echo "0 veth wiremamba-stock $(stocked_into '--interface wm-a --yes-on-the-wire')"
        echo "0 tap tcpreplay $(tcpreplay_into wm-held 0 50)"
        echo "0 tap wiremamba-stock $(stocked_into '--tap wm-tap0')"
    done
}
for size in $SIZES; do
    capture "$size"
    rate=$(tcpreplay_into wm-a "$size" 5)
    passes=$(python3 -c "print(max(1, round($rate * $SECONDS_EACH / 20000)))")
    for _ in $(seq "$ROUNDS"); do
        echo "$size veth tcpreplay $(tcpreplay_into wm-a "$size" "$passes")"
        echo "$size veth wiremamba $(wiremamba_into '--interface wm-a --yes-on-the-wire' "$size" "$passes")"
        echo "$size veth wiremamba-packet $(wiremamba_into '--interface wm-a --yes-on-the-wire --io packet' "$size" "$passes")"
        echo "$size tap tcpreplay $(tcpreplay_into wm-held "$size" "$passes")"
        echo "$size tap wiremamba-stream $(wiremamba_into '--stream --tap wm-tap0' "$size" "$passes")"
        echo "$size tap wiremamba $(wiremamba_into '--tap wm-tap0' "$size" "$passes")"
    done
done
} | tee "$work/all" >&2
python3 - "$work/all" <<'EOF'
import collections, statistics, sys
rates = collections.defaultdict(list)
for line in open(sys.argv[1]):
    size, device, program, rate = line.split()
    rates[int(size), device, program].append(float(rate))
print("| bytes | device | tcpreplay | wiremamba | ratio |\n|---|---|---|---|---|")
for (size, device, program), found in sorted(rates.items()):
    if program != "tcpreplay":
        peer = statistics.median(rates[size, device, "tcpreplay"])
        mine = statistics.median(found)
        how = device + {"-packet": ", packet socket", "-stream": ", read while sending", "-stock": ", rendered again"}.get(program[9:], "")
        print(f"| {size or 'sessions'} | {how} | {peer:,.0f} | {mine:,.0f} | {mine / peer:.2f} |")
EOF
