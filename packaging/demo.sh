#!/usr/bin/env bash
# The main job, end to end, on the CPU: makes real traffic, learns it, generates more, plays that onto a tap, compares.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=packaging/lib.sh
. packaging/lib.sh

MINUTES=1
NO_INSTALL=0
usage() {
    cat <<'EOF'
usage: packaging/demo.sh [--minutes M] [--no-install]

Makes real traffic in network namespaces of its own (web over TLS, DNS, ssh), captures it, trains a small
model on it for M minutes (default 1), generates new flows, replays them onto a tap, captures what arrives
there, and prints a table of what went in and what came out, and how real it is beside traffic that the model
has not seen. Needs root, and /dev/net/tun.
Debian packages that are missing are installed, unless --no-install is given.
EOF
}
while [ $# -gt 0 ]; do
    case $1 in
        --minutes) [ $# -ge 2 ] || { usage >&2; exit 2; }; MINUTES=$2; shift ;;
        --no-install) NO_INSTALL=1 ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; exit 2 ;;
    esac
    shift
done

need_cargo
need_packages "${BUILD_PACKAGES[@]}" iproute2 tcpdump tshark curl openssl nginx-light dnsmasq-base bind9-dnsutils ethtool \
    openssh-server openssh-client python3 procps
say "building (some minutes the first time)"
cargo build --release --package wiremamba-daemon
BIN=$PWD/target/release/wiremamba
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || die "network namespaces and taps need root: run this as root (there is no sudo)"
    exec sudo --preserve-env=PATH,HOME,CARGO_HOME,RUSTUP_HOME bash "$0" --minutes "$MINUTES" --no-install
fi
[ -c /dev/net/tun ] || die "there is no /dev/net/tun: load the module (modprobe tun), or let the container have the device"

WORK=$(mktemp -d "${TMPDIR:-/tmp}/wiremamba-demo.XXXXXX")
SERVER=wmdemo-server-$$ CLIENT=wmdemo-client-$$ TAPNS=wmdemo-tap-$$
PIDS=()
cleanup() {
    local pid ns
    for pid in "${PIDS[@]}"; do kill "$pid" 2>/dev/null || true; done
    for ns in "$SERVER" "$CLIENT" "$TAPNS"; do
        if ip netns list 2>/dev/null | grep -qw "$ns"; then
            ip netns pids "$ns" 2>/dev/null | xargs -r kill 2>/dev/null || true
            ip netns delete "$ns" 2>/dev/null || true
        fi
    done
}
trap cleanup EXIT
trap 'exit 130' INT TERM
started=$SECONDS
step() { say "[$((SECONDS - started)) s] $*"; }

step "making real traffic in two network namespaces (work folder: $WORK)"
ip netns add "$SERVER"
ip netns add "$CLIENT"
ip netns add "$TAPNS"
ip link add wmd0 netns "$CLIENT" type veth peer name wmd1 netns "$SERVER"
for ns in "$SERVER" "$CLIENT" "$TAPNS"; do
    ip netns exec "$ns" sysctl -qw net.ipv6.conf.all.disable_ipv6=1 2>/dev/null || true
    ip -n "$ns" link set lo up
done
ip -n "$CLIENT" address add 10.77.0.2/24 dev wmd0
ip -n "$SERVER" address add 10.77.0.1/24 dev wmd1
ip -n "$CLIENT" link set wmd0 up
ip -n "$SERVER" link set wmd1 up
# Without this, one captured "packet" would be a burst of up to 64 KiB that no wire ever carries, with a checksum left to the device.
ip netns exec "$CLIENT" ethtool -K wmd0 tso off gso off gro off tx off >/dev/null
ip netns exec "$SERVER" ethtool -K wmd1 tso off gso off gro off tx off >/dev/null
on_server() { ip netns exec "$SERVER" "$@"; }
on_client() { ip netns exec "$CLIENT" "$@"; }

# Web: nginx over TLS, with pages of several sizes.
mkdir -p "$WORK/web" "$WORK/log" "$WORK/ssh" "$WORK"/{capture,holdout,generated}/{web,dns,ssh}
chmod 755 "$WORK" "$WORK/web"
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=demo.test \
    -keyout "$WORK/tls.key" -out "$WORK/tls.crt" 2>/dev/null
for size in 1 3 8 20 60; do head -c ${size}000 /dev/urandom | base64 >"$WORK/web/page$size.html"; done
cat >"$WORK/nginx.conf" <<EOF
daemon off; pid $WORK/nginx.pid; error_log $WORK/log/nginx.log; user root;
events {}
http {
    access_log off; client_body_temp_path $WORK/log/b; proxy_temp_path $WORK/log/p; fastcgi_temp_path $WORK/log/f;
    uwsgi_temp_path $WORK/log/u; scgi_temp_path $WORK/log/s;
    server { listen 443 ssl; root $WORK/web; ssl_certificate $WORK/tls.crt; ssl_certificate_key $WORK/tls.key; }
}
EOF
on_server nginx -c "$WORK/nginx.conf" 2>>"$WORK/log/nginx.log" &
PIDS+=($!)
# DNS: names that exist, names that do not, over UDP and TCP.
on_server dnsmasq --keep-in-foreground --conf-file=/dev/null --no-resolv --no-hosts --pid-file="$WORK/dnsmasq.pid" \
    --log-facility="$WORK/log/dnsmasq.log" --user=root --auth-ttl=60 --address=/shop.test/10.77.0.10 \
    --address=/mail.test/10.77.0.11 --address=/news.test/10.77.0.12 --local=/test/ \
    --txt-record=info.shop.test,"a text record of some length, as mail servers have them" &
PIDS+=($!)
# ssh, with throw-away keys.
ssh-keygen -q -t ed25519 -N '' -f "$WORK/ssh/host"
ssh-keygen -q -t ed25519 -N '' -f "$WORK/ssh/user"
cp "$WORK/ssh/user.pub" "$WORK/ssh/authorized"
chmod 700 "$WORK/ssh"
mkdir -p /run/sshd
on_server /usr/sbin/sshd -D -e -f /dev/null -p 2222 -h "$WORK/ssh/host" -o StrictModes=no -o UsePAM=no \
    -o PidFile=none -o PermitRootLogin=yes -o PasswordAuthentication=no \
    -o AuthorizedKeysFile="$WORK/ssh/authorized" 2>>"$WORK/log/sshd.log" &
PIDS+=($!)
capture() { # NAMESPACE INTERFACE FILE OPTIONS AND FILTER
    local ns=$1 interface=$2 file=$3
    shift 3
    # -Z root: tcpdump would otherwise become a user who cannot write to the work folder.
    ip netns exec "$ns" tcpdump -Z root -i "$interface" -w "$file" -U --time-stamp-precision=nano -n "$@" \
        2>>"$WORK/log/tcpdump.log" &
    PIDS+=($!)
}

RANDOM=7 # bash draws from this seed, so that every run asks for the same things
pause() { sleep "0.0$((RANDOM % 10))"; }
web_client() {
    local i
    for i in $(seq "$1"); do
        local a=(1 3 8 20 60) urls=() n
        for n in $(seq $((1 + RANDOM % 3))); do urls+=("https://10.77.0.1/page${a[RANDOM % 5]}.html"); done
        [ $((i % 7)) = 0 ] && urls+=("https://10.77.0.1/missing$n.html")
        on_client curl -sk --max-time 5 "${urls[@]}" >/dev/null || true
        pause
    done
}
dns_client() {
    local i names=(shop mail news www.shop cdn.news smtp.mail gone info.shop)
    for i in $(seq "$1"); do
        local type=A over=
        [ $((i % 5)) = 0 ] && type=AAAA
        [ $((i % 9)) = 0 ] && type=TXT
        [ $((i % 11)) = 0 ] && over=+tcp
        # shellcheck disable=SC2086 # an empty word must vanish
        on_client dig +tries=1 +time=2 $over @10.77.0.1 "${names[RANDOM % 8]}.test" $type >/dev/null || true
        pause
    done
}
ssh_client() {
    local i options=(-q -i "$WORK/ssh/user" -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o BatchMode=yes)
    for i in $(seq "$1"); do
        on_client ssh "${options[@]}" -p 2222 root@10.77.0.1 "uname -a; seq $((10 + RANDOM % 400))" >/dev/null || true
        if [ $((i % 8)) = 0 ]; then
            on_client scp "${options[@]}" -P 2222 "$WORK/web/page8.html" "root@10.77.0.1:$WORK/log/copy" || true
        fi
        pause
    done
}
clients() { # FOLDER, HOW OFTEN EACH CLIENT ASKS
    capture "$SERVER" wmd1 "$WORK/$1/web/web.pcap" "tcp port 443"
    capture "$SERVER" wmd1 "$WORK/$1/dns/dns.pcap" "port 53"
    capture "$SERVER" wmd1 "$WORK/$1/ssh/ssh.pcap" "tcp port 2222"
    sleep 2
    local pids=()
    web_client "$2" & pids+=($!)
    dns_client "$3" & pids+=($!)
    ssh_client "$4" & pids+=($!)
    wait "${pids[@]}"
    sleep 1
    pkill -INT -f "tcpdump -Z root -i wmd1 -w $WORK" || true
    sleep 1
}
clients capture 90 150 25
# As much again as half, which the model does not see: what it generates is held against this.
clients holdout 45 75 12

step "what was captured"
"$BIN" inspect --quiet --top 0 "$WORK/capture"
for label in web dns ssh; do
    tshark -r "$WORK/capture/$label/$label.pcap" -c 1 >/dev/null 2>&1 || die "no $label traffic was captured; see $WORK/log"
done

step "training the preset small for $MINUTES minutes"
"$BIN" train --data "$WORK/capture" --preset small --batch 2 --held-out 0.1 --minutes "$MINUTES" \
    --out "$WORK/model" --json >"$WORK/train.json"

step "generating as many flows as were captured, and replaying them onto a tap"
mkdir -p "$WORK/tap"
for label in web dns ssh; do
    real=$("$BIN" inspect --quiet --top 0 --json "$WORK/capture/$label/$label.pcap" |
        python3 -c 'import json,sys; print(json.load(sys.stdin)["flows"])')
    "$BIN" generate --quiet --model "$WORK/model" --label "$label" --flows "$real" --flows-per-second learned \
        --seed 7 --streams 64 \
        -w "$WORK/generated/$label/$label.pcap"
    # The tap is made beforehand, so that the sniffer is there before the first packet.
    ip -n "$TAPNS" tuntap add dev "wm$label" mode tap
    ip -n "$TAPNS" link set "wm$label" up
    capture "$TAPNS" "wm$label" "$WORK/tap/$label.pcap" -Q in
    sniffer=$!
    sleep 1
    ip netns exec "$TAPNS" "$BIN" replay --quiet --pcap "$WORK/generated/$label/$label.pcap" --tap "wm$label" --pps 5000 \
        --start-delay 0.5 --json | tail -n 1 >"$WORK/replay-$label.json"
    sleep 1
    kill -INT "$sniffer" 2>/dev/null || true
    wait "$sniffer" 2>/dev/null || true
done

step "what went in and what came out"
python3 packaging/demo_table.py "$WORK"
step "how real the generated flows are, beside traffic that the model has not seen"
"$BIN" eval --quiet --real "$WORK/holdout" --synthetic "$WORK/generated" --train "$WORK/capture" \
    --report "$WORK/report.html" --json "$WORK/report.json" >"$WORK/report.txt"
sed -n '/^Verdict/,$p' "$WORK/report.txt" | fold -s -w 120
printf '\nAll tables: %s; with pictures: %s\n' "$WORK/report.txt" "$WORK/report.html"
printf '\nThe captures, the model and the logs are in %s (%d s in all)\n' "$WORK" $((SECONDS - started))
