#!/usr/bin/env bash
# Captures of real clients and servers from Debian's packages, talking in network namespaces: traffic that nobody else owns.
# shellcheck disable=SC2030,SC2031,SC2317 # each host draws from a RANDOM of its own in a subshell; kinds are called by name
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=packaging/lib.sh
. packaging/lib.sh

ALL=(dhcp ntp snmp ftp mqtt http ssh dns mail)
usage() {
    cat <<EOF
usage: packaging/lab.sh --out DIR [--only NAME]... [--no-install]

Runs real programs in network namespaces of its own and writes a capture of each kind, DIR/NAME.pcap, and DIR/manifest.csv.
NAME is one of ${ALL[*]} (default: all). Each host has a link with a delay of its own, 0.3 to 30 ms, and some lose packets.
Needs root, and some 5 minutes. Nothing of it reaches the machine's interfaces, its /run, resolv.conf or clock.
Debian packages that are missing are installed, unless --no-install is given; a kind whose packages are not to be had is left out.
EOF
}
OUT='' ONLY=() NO_INSTALL=0 given=("$@") start=$OLDPWD
while [ $# -gt 0 ]; do
    case $1 in
        --out | --only) [ $# -ge 2 ] || { usage >&2; exit 2; } ;;&
        --out) OUT=$(cd "$start" && realpath -m "$2"); shift ;;
        --only) [[ " ${ALL[*]} " == *" $2 "* ]] || { usage >&2; exit 2; }; ONLY+=("$2"); shift ;;
        --no-install) NO_INSTALL=1 ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; exit 2 ;;
    esac
    shift
done
[ -n "$OUT" ] || { usage >&2; exit 2; }
[ ${#ONLY[@]} -gt 0 ] || ONLY=("${ALL[@]}")
[ "$(id -u)" -eq 0 ] || die "needs root: it makes network namespaces"

declare -A PACKAGES=(
    [dhcp]="dnsmasq-base busybox isc-dhcp-client dhcpcd-base" [ntp]="chrony ntpsec-ntpdig ntpsec-ntpdate" [snmp]="snmpd snmp snmptrapd"
    [ftp]="vsftpd python3-pyftpdlib curl lftp tnftp" [mqtt]="mosquitto mosquitto-clients libcoap3-bin"
    [http]="nginx-light curl wget busybox apache2-utils" [ssh]="openssh-server openssh-client sshpass"
    [dns]="dnsmasq-base bind9-dnsutils bind9-host busybox" [mail]="python3-aiosmtpd swaks msmtp curl"
)
if [ -z "${LAB_WORK:-}" ]; then
    need_packages iproute2 util-linux tcpdump tshark ethtool procps python3
    kinds=()
    for kind in "${ONLY[@]}"; do
        # shellcheck disable=SC2086 # a list of names
        if apt-get -s install --no-install-recommends ${PACKAGES[$kind]} 2>/dev/null | grep '^Remv' >/dev/null; then
            say "no $kind: its packages would remove others (chrony does with systemd-timesyncd)"
            continue
        fi
        # shellcheck disable=SC2086
        want_packages ${PACKAGES[$kind]}
        if [ ${#ABSENT[@]} -eq 0 ]; then kinds+=("$kind"); else say "no $kind: not to be had here: ${ABSENT[*]}"; fi
    done
    mkdir -p "$OUT"
    LAB_WORK=$(mktemp -d)
    export LAB_WORK LAB_KINDS="${kinds[*]}"
    chmod 755 "$LAB_WORK"
    # The rest runs in process, mount and network namespaces that end with their first process, and may not set the clock.
    cd "$start"
    setpriv --inh-caps=-sys_time --bounding-set=-sys_time unshare --mount --pid --uts --net --fork --kill-child --mount-proc \
        bash "$OLDPWD/packaging/lab.sh" "${given[@]}" &
    child=$!
    trap 'kill -KILL "$child" 2>/dev/null || true; sleep 0.3; rm -rf "$LAB_WORK"' EXIT
    trap 'exit 130' INT TERM
    wait "$child"
    exit
fi
WORK=$LAB_WORK
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/log
mkdir -p /run/netns /run/sshd /run/vsftpd/empty /run/chrony "$WORK"/{log,part}
echo '127.0.0.1 localhost' >"$WORK/hosts"
mount --bind "$WORK/hosts" /etc/hosts
if [ -e /etc/resolv.conf ]; then
    : >"$WORK/resolv.conf"
    mount --bind "$WORK/resolv.conf" /etc/resolv.conf
fi
hostname lab
export HOME=$WORK LC_ALL=C
PY=/usr/bin/python3 # Debian's, which sees Debian's modules

# The cable and the switch between the hosts of a LAN: each frame waits for the link it comes by, is shown to tap0, and waits for the
# link it leaves by. (netem would do the waiting, but not every kernel has it.)
cat >"$WORK/wire.py" <<'PYTHON'
import heapq, random, select, socket, sys, time

def opened(name):
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    s.setsockopt(263, 23, 1)  # PACKET_IGNORE_OUTGOING
    s.bind((name, 0))
    s.setblocking(False)
    return s

tap, links, where, queue, last, number = opened("tap0"), {}, {}, [], {}, 0
for word in sys.argv[1:]:
    name, delay, loss = word.split(":")
    links[opened(name)] = (float(delay) / 2000, float(loss))

def later(now, way, link, frame):
    global number
    delay, loss = links[link]
    if random.random() < loss:
        return
    due = now + delay * (0.9 + random.expovariate(6))
    last[way, link] = due = max(due, last.get((way, link), 0) + 5e-6)  # in order
    number += 1
    heapq.heappush(queue, (due, number, way, link, frame))

def send(link, frame):
    try:
        link.send(frame)
    except OSError:
        pass  # a host that is going away

while True:
    wait = max(0, queue[0][0] - time.monotonic()) if queue else 1
    for link in select.select(list(links), [], [], wait)[0]:
        try:
            for _ in range(64):
                later(time.monotonic(), "in", link, link.recv(65536))
        except OSError:
            pass
    while queue and queue[0][0] <= time.monotonic():
        due, _, way, link, frame = heapq.heappop(queue)
        if way == "out":
            send(link, frame)
            continue
        send(tap, frame)
        where[frame[6:12]] = link
        target = where.get(frame[:6])
        for other in [target] if target else links:
            if other is not link:
                later(due, "out", other, frame)
PYTHON

WORDS=(amber birch cedar delta ember fjord grove harbor iris juniper kestrel lagoon maple nova onyx pine quartz river sable tundra)
ZONES=(example.org example.net example.com lab.example shop.test news.test home.test corp.example.net)
draw() { DRAWN=${*:1+RANDOM%$#:1}; } # WORD...: one of them. (Not by $(...): a subshell would draw the same again.)
between() { DRAWN=$(($1 + (RANDOM * 32768 + RANDOM) % ($2 - $1 + 1))); }
pause() { # FROM TO, in ms
    between "$1" "$2"
    sleep "$((DRAWN / 1000)).$(printf %03d $((DRAWN % 1000)))"
}
word() { draw "${WORDS[@]}"; }
zone() { draw "${ZONES[@]}"; }
on() { ip netns exec "$LAN-$1" "${@:2}"; }
start() { # HOST PROGRAM...: in the background, as STARTED
    ip netns exec "$LAN-$1" "${@:2}" &
    STARTED=$!
}
quick() { ip netns exec "$LAN-$1" timeout 15 "${@:2}" >/dev/null 2>&1 </dev/null || true; }
draw_mac() {
    draw 00:1b:63 3c:5a:b4 b8:27:eb dc:a6:32 00:50:56 52:54:00 a4:5e:60 f0:18:98 00:0c:29 d8:3b:bf 70:85:c2 ac:de:48
    DRAWN=$DRAWN:$(printf '%02x:%02x:%02x' $((RANDOM % 256)) $((RANDOM % 256)) $((RANDOM % 256)))
}

# lan NAME PREFIX CLIENTS [bare]: hosts NAME-s (PREFIX.1) and NAME-1 to NAME-CLIENTS (with no address if bare) on one wire.
lan() {
    local n ns link links=() delay loss ttl=64 stamps=1
    LAN=$1 NET=$2
    ip netns add "$LAN"
    ip netns exec "$LAN" sysctl -qw net.ipv6.conf.{all,default}.disable_ipv6=1
    ip -n "$LAN" link add tap0 type veth peer name tap1
    for link in tap0 tap1; do ip -n "$LAN" link set $link up; done
    for n in s $(seq "$3"); do
        ns=$LAN-$n
        ip netns add "$ns"
        if [ "$n" != s ]; then draw 64 64 64 128 128 255; ttl=$DRAWN; fi
        if [ "$ttl" = 128 ]; then stamps=0; else stamps=1; fi
        ip netns exec "$ns" sysctl -qw net.ipv6.conf.{all,default}.disable_ipv6=1 net.ipv4.ip_default_ttl=$ttl \
            net.ipv4.tcp_timestamps=$stamps net.ipv4.ping_group_range="0 0"
        draw_mac
        ip link add eth0 address "$DRAWN" netns "$ns" type veth peer name "p$n" netns "$LAN"
        # Else one "packet" would be a burst of up to 64 KiB, with a checksum left to the device.
        ip netns exec "$ns" ethtool -K eth0 tso off gso off gro off tx off >/dev/null
        for link in lo eth0; do ip -n "$ns" link set $link up; done
        ip -n "$LAN" link set "p$n" up
        if [ "$n" = s ]; then
            ip -n "$ns" address add "$NET.1/24" dev eth0
        elif [ $# -lt 4 ]; then
            ip -n "$ns" address add "$NET.$((10 + n * 9))/24" dev eth0
        fi
        draw 0.3 0.5 0.8 1.5 3 6 10 15 22 30
        delay=$DRAWN
        draw 0 0 0 0 0.002 0.01
        loss=$DRAWN
        if [ "$n" = s ]; then delay=0.3 loss=0; fi
        links+=("p$n:$delay:$loss")
    done
    ip netns exec "$LAN" $PY "$WORK/wire.py" "${links[@]}" &
}
capture() { # FILE: everything that crosses the LAN's wire
    ip netns exec "$LAN" tcpdump -Z root -i tap0 -s 0 -U -n -w "$1" 2>>"$WORK/log/tcpdump" &
    SNIFFER=$!
    for _ in {1..50}; do [ -s "$1" ] && break; sleep 0.1; done
}
captured() {
    sleep 0.5
    kill -INT "$SNIFFER"
    wait "$SNIFFER" || true
}
gone() { # the LAN and everything in it
    local ns
    for ns in $(ip netns list | awk '{ print $1 }' | grep -x -e "$LAN" -e "$LAN-.*"); do
        ip netns pids "$ns" | xargs -r kill -KILL 2>/dev/null || true
        ip netns delete "$ns"
    done
}
clients() { # FUNCTION FIRST LAST: runs it for each of these hosts, side by side, with the host's number
    local n pids=()
    for n in $(seq "$2" "$3"); do
        (RANDOM=$((n * 77 + 5)) && pause 0 1500 && "$1" "$n") || true &
        pids+=($!)
    done
    wait "${pids[@]}" || true
}
names() { echo "$*" >>"$WORK/hosts"; } # ADDRESS NAME...
# join NAME: lays the parts of a capture one after another, 2 minutes apart, so that no flow of one seems to go on in the next.
join() {
    local part first last at='' shifted=()
    for part in "$WORK/part/$1"-*.pcap; do
        IFS=$'\t' read -r _ first last < <(capinfos -T -r -m -Q -S -a -e "$part" 2>/dev/null | tr -d '"' | tr , '\t')
        [[ $first =~ ^[0-9] ]] || continue
        at=${at:-$first}
        editcap -F pcap -t "$(awk -v a="$at" -v b="$first" 'BEGIN { printf "%.6f", a - b }')" "$part" "$part.at"
        shifted+=("$part.at")
        at=$(awk -v a="$at" -v b="$first" -v c="$last" 'BEGIN { printf "%.6f", a + c - b + 120 }')
    done
    mergecap -a -F pcap -w "$OUT/$1.pcap" "${shifted[@]}"
}

# DHCP: households with a server each and one or two devices that come, renew, leave and come back; three captures of each.
cat >"$WORK/lease.sh" <<'EOF'
#!/bin/sh
# Told by udhcpc (ip, mask) and dhclient (new_ip_address, new_subnet_mask): sets the address in this namespace, nothing else.
address=${new_ip_address:-$ip} mask=${new_subnet_mask:-${subnet:-24}}
case ${reason:-$1} in
    bound | renew | BOUND | RENEW | REBIND | REBOOT) ip address replace "$address/$mask" dev "$interface" ;;
    deconfig | EXPIRE | FAIL | RELEASE | STOP) ip address flush dev "$interface" ;;
esac
exit 0
EOF
chmod 755 "$WORK/lease.sh"
dhcp_server() { start s dnsmasq --keep-in-foreground --conf-file=/dev/null --port=0 --user=root --pid-file= --log-facility="$WORK/log/${HERE##*/}" \
    --dhcp-leasefile="$HERE/leases" --dhcp-authoritative "${OPTIONS[@]}"; SERVER=$STARTED; sleep 0.4; }
# device HOST NAME CLIENT VISIT: one client program through one visit: new, again, moved, lost, inform.
device() {
    local host=$1 name=$2 client=$3 visit=$4 pid options=() lease="$HERE/$2.lease" from
    draw "MSFT 5.0" android-dhcp-13 "dhcpcd-9.4.1:Linux-5.15:x86_64" "udhcp 1.33.2" "Cisco AP c1250" PXEClient:Arch:00007:UNDI:003016 \
        "Hewlett-Packard JetDirect" "Polycom-VVX310" ubnt "Linux ipcamera"
    local vendor=$DRAWN
    case $client in
        udhcpc)
            options=(-x "hostname:$name" -t 3 -T 2 -A 3)
            # shellcheck disable=SC2206 # options with their values
            draw -B "-O 42" "-O 66 -O 67" "-V"; if [ "$DRAWN" = -V ]; then options+=(-V "$vendor"); else options+=($DRAWN); fi
            # shellcheck disable=SC2206 # options with their values
            draw -C "-O 119" "-O 26 -O 121" "-F $name.home.test" "-a400"; options+=($DRAWN)
            [ "$visit" = moved ] && options+=(-r "$NET.77")
            [ "$visit" = inform ] && options+=(-x lease:300 -a300)
            start "$host" busybox udhcpc -f -R -i eth0 -s "$WORK/lease.sh" "${options[@]}"; pid=$STARTED ;;
        dhclient)
            draw "" ", ntp-servers" ", interface-mtu, domain-search" ", netbios-name-servers, netbios-scope"
            cat >"$HERE/$name.conf" <<EOF
send host-name "$name"; timeout 9; retry 3; initial-interval 2; reboot 3; backoff-cutoff 3;
$([ -n "$DRAWN" ] && echo "send vendor-class-identifier \"$vendor\"; send dhcp-lease-time $((600 + RANDOM % 9 * 900));")
request subnet-mask, broadcast-address, routers, domain-name, domain-name-servers$DRAWN;
EOF
            from=$NET.60
            [ "$visit" = moved ] && { draw 192.168.178.23 10.9.8.7 172.31.4.20; from=$DRAWN; }
            if [ "$visit" = moved ] || [ "$visit" = inform ]; then # what it still believes to have
                echo "lease { interface \"eth0\"; fixed-address $from; option subnet-mask 255.255.255.0; renew 4 2037/01/01 00:00:00;
                    rebind 4 2037/01/02 00:00:00; expire 4 2037/01/03 00:00:00; }" >"$lease"
            fi
            options=(-4 -cf "$HERE/$name.conf" -lf "$lease" -pf "$HERE/$name.pid" -sf "$WORK/lease.sh")
            start "$host" dhclient -d "${options[@]}" eth0; pid=$STARTED ;;
        dhcpcd)
            draw -A "-I 01:02" "-r $NET.99" "-o ntp_servers" "-t 5"; IFS=' ' read -ra options <<<"$DRAWN"; options+=(-i "$vendor")
            [ "$visit" = inform ] && options=(-i "$vendor" -s "$NET.40/24")
            start "$host" unshare --mount sh -c 'mount -t tmpfs none /run && mount -t tmpfs none /var/lib/dhcpcd && exec dhcpcd "$@"' sh \
                -B -4 -L -f /dev/null -c /bin/true -h "$name" "${options[@]}" eth0; pid=$STARTED ;;
    esac
    pause 4000 8000
    if [ "$visit" = lost ]; then pause 7000 9000; fi
    for _ in $(seq $((RANDOM % 3))); do
        case $client in # again: the lease it has, or for dhclient the lease it remembers
            dhclient) kill "$pid"; wait "$pid" || true; start "$host" dhclient -d "${options[@]}" eth0; pid=$STARTED ;;
            *) kill -USR1 "$pid" || true ;;
        esac
        pause 2500 4500
    done
    case $client/$((RANDOM % 3)) in # leaves with or without a word
        dhclient/[01]) kill "$pid"; wait "$pid" || true; quick "$host" dhclient -r "${options[@]}" eth0 ;;
        udhcpc/[01]) kill -USR2 "$pid"; pause 800 1500; kill -KILL "$pid" ;;
        dhcpcd/[01]) kill -ALRM "$pid"; pause 800 1500 ;;
        *) kill -KILL "$pid" ;;
    esac
    ip -n "$LAN-$host" address flush dev eth0
}
household() {
    RANDOM=$((1000 + $1))
    local visit pids hosts=$((1 + ($1 % 4 == 0))) n name=() kind=()
    HERE=$WORK/house$1
    mkdir "$HERE"
    draw "192.168.$((RANDOM % 250))" "192.168.1" "10.$((RANDOM % 250)).$((RANDOM % 250))" "172.$((16 + RANDOM % 16)).$((RANDOM % 250))"
    local net=$DRAWN times
    # Short times to renew and rebind, so that clients do it by themselves; or the server's ping before it offers.
    draw "--dhcp-option-force=58,4 --dhcp-option-force=59,8" --no-ping --no-ping --dhcp-rapid-commit "--no-ping --dhcp-sequential-ip"
    IFS=' ' read -ra times <<<"$DRAWN"
    lan "h$1" "$net" $((hosts + 1)) bare
    # A bystander has the first address that will be offered in order: clients that look decline it.
    if [[ ${times[*]} == *sequential* ]]; then ip -n "$LAN-$((hosts + 1))" address add "$NET.50/24" dev eth0; fi
    draw 2m 10m 1h 12h 24h 7d
    OPTIONS=(--dhcp-range="$NET.50,$NET.199,255.255.255.0,$DRAWN")
    zone; OPTIONS+=(--domain="$DRAWN")
    draw 6,192.0.2.53,198.51.100.53 "6,$NET.1" 6,10.0.0.53 "6,$NET.1,$NET.2,203.0.113.53"; OPTIONS+=(--dhcp-option="$DRAWN")
    draw "42,$NET.1" 42,192.0.2.123,192.0.2.124 119,lab.example,corp.example.net "121,10.50.0.0/16,$NET.1" "44,$NET.2"; OPTIONS+=(--dhcp-option="$DRAWN")
    draw 26,1492 252,http://wpad.lab.example/wpad.dat 66,boot.lab.example 2,3600 "7,$NET.3" 43,01:04:c0:00:02:01 23,64
    OPTIONS+=(--dhcp-option-force="$DRAWN")
    OPTIONS+=("${times[@]}")
    for n in $(seq "$hosts"); do
        word; name[n]=$DRAWN; draw phone laptop printer camera tv tablet; name[n]+=-$DRAWN
        draw udhcpc dhclient dhcpcd; kind[n]=$DRAWN
    done
    [ "$1" -le 3 ] && kind[1]=$(printf 'udhcpc\ndhclient\ndhcpcd\n' | sed -n "$1p")
    dhcp_server
    for visit in 1 2 3; do
        capture "$WORK/part/dhcp-$(printf %02d "$1")-$visit.pcap"
        draw new new again moved moved lost inform; [ $visit = 1 ] && draw new new new lost
        local mode=$DRAWN pids=()
        if [ "$mode" = lost ] && [ $((RANDOM % 2)) = 0 ]; then kill "$SERVER"; wait "$SERVER" || true; fi
        for n in $(seq "$hosts"); do
            (RANDOM=$(($1 * 31 + visit * 7 + n)) && device "$n" "${name[n]}" "${kind[n]}" "$mode") || true &
            pids+=($!)
        done
        if [ "$mode" = lost ]; then
            pause 4500 7000
            kill "$SERVER" 2>/dev/null || true
            pause 2000 5000
            dhcp_server
        fi
        wait "${pids[@]}" || true
        captured
        if [ $((RANDOM % 3)) = 0 ]; then draw_mac; ip -n "$LAN-1" link set eth0 address "$DRAWN"; fi
    done
    gone
}
kind_dhcp() {
    local batch house pids
    for batch in ${LAB_BATCHES:-0 1 2}; do
        pids=()
        for house in $(seq $((batch * 14 + 1)) $((batch * 14 + ${LAB_HOUSES:-14}))); do
            household "$house" &
            pids+=($!)
            sleep 0.3
        done
        wait "${pids[@]}" || true
    done
    join dhcp
}

kind_ntp() {
    lan ntp 10.44.5 8
    capture "$OUT/ntp.pcap"
    printf '7 SHA1 HEX:%s\n9 MD5 ASCII:madeup\n' 0123456789abcdef0123456789abcdef01234567 >"$WORK/ntp.keys"
    printf '7 SHA1 0123456789abcdef0123456789abcdef01234567\n9 MD5 madeup\n' >"$WORK/ntpdig.keys"
    common() { printf '%s\n' "keyfile $WORK/ntp.keys" "pidfile $WORK/chrony$1.pid" "bindcmdaddress $WORK/chrony$1.sock" 'cmdport 0' 'makestep 0 0'; }
    local n stratum=1
    for n in s 7 8; do # three servers, one above the other
        { common $n; echo allow; echo "local stratum $stratum"; [ $n = s ] || echo "server $NET.1 iburst minpoll 3"; } >"$WORK/chrony$n.conf"
        start $n chronyd -x -u root -d -f "$WORK/chrony$n.conf"
        stratum=$((stratum + 2))
    done
    time_client() {
        local i server more
        for i in $(seq 14); do
            draw 1 1 73 82 19 # the last answers nothing but "port unreachable"
            server=$NET.$DRAWN
            case $((RANDOM % 6)) in
                0) quick "$1" ntpdate -q -p $((1 + RANDOM % 4)) "$server" ;;
                1) quick "$1" ntpdig -t 1 -p $((1 + RANDOM % 3)) "$server" "$NET.1" ;;
                2) draw 7 9; quick "$1" ntpdig -t 1 -k "$WORK/ntpdig.keys" -a "$DRAWN" "$server" ;;
                *) draw "iburst minpoll 0 maxpoll 1 maxsamples 4" "iburst version 3" "key 7 iburst" "minpoll -1 maxpoll 1 xleave" "key 9 presend 0 iburst" "iburst copy"
                    more=$DRAWN
                    common "q$1" >"$WORK/chronyq$1.conf"
                    echo "server $server $more" >>"$WORK/chronyq$1.conf"
                    draw -Q -Q -x # asks once, or stays for a while; neither sets a clock
                    quick "$1" timeout $((4 + RANDOM % 6)) chronyd "$DRAWN" -u root -d -f "$WORK/chronyq$1.conf" ;;
            esac
            pause 100 1200
        done
    }
    clients time_client 1 6
    captured
}

kind_snmp() {
    lan snmp 172.20.9 6
    capture "$OUT/snmp.pcap"
    mkdir "$WORK/snmp"
    export SNMP_PERSISTENT_DIR=$WORK/snmp MIBS=
    cat >"$WORK/snmpd.conf" <<'EOF'
agentaddress udp:161
sysDescr Example Router XR-20, version 4.2
view part included .1.3.6.1.2.1.1
view part included .1.3.6.1.2.1.2
view part included .1.3.6.1.2.1.4
view part included .1.3.6.1.2.1.5
view part included .1.3.6.1.2.1.7
view part included .1.3.6.1.2.1.11
view part included .1.3.6.1.2.1.31
view part included .1.3.6.1.4.1.2021.4
rocommunity public default -V part
rwcommunity madeup default -V part
createUser reader SHA madeup-password AES madeup-secret
createUser plain MD5 madeup-password
rouser reader priv -V part
rwuser plain auth -V part
EOF
    printf 'disableAuthorization yes\ncreateUser -e 0x8000000001020304 reader SHA madeup-password AES madeup-secret\n' >"$WORK/trapd.conf"
    start s snmpd -f -Lo -C -c "$WORK/snmpd.conf" -p "$WORK/snmpd.pid"
    start s snmptrapd -f -Lo -C -c "$WORK/trapd.conf" -p "$WORK/trapd.pid"
    sleep 1
    snmp_client() {
        local i who oid
        export SNMP_PERSISTENT_DIR=$WORK/snmp/$1
        for i in $(seq 26); do
            draw "-v1 -c public" "-v2c -c public" "-v2c -c madeup" "-v2c -c wrong" "-v3 -u reader -l authPriv -a SHA -A madeup-password -x AES -X madeup-secret" \
                "-v3 -u plain -l authNoPriv -a MD5 -A madeup-password" "-v3 -u nobody -l noAuthNoPriv"
            IFS=' ' read -ra who <<<"$DRAWN -t 1 -r 1"
            draw 1.3.6.1.2.1.1.1.0 1.3.6.1.2.1.1.3.0 1.3.6.1.2.1.1.5.0 1.3.6.1.2.1.2.2.1.10.2 1.3.6.1.2.1.11.1.0 1.3.6.1.2.1.4.3.0 1.3.6.1.4.1.2021.4.5.0 1.3.6.1.2.1.99
            oid=$DRAWN
            case $((RANDOM % 8)) in
                0 | 1) quick "$1" snmpget "${who[@]}" "$NET.1" "$oid" 1.3.6.1.2.1.1.3.0 ;;
                2) quick "$1" snmpgetnext "${who[@]}" "$NET.1" "$oid" ;;
                3) quick "$1" snmpwalk "${who[@]}" "$NET.1" "${oid%.*.*}" ;;
                4) draw 5 10 25; quick "$1" snmpbulkwalk "${who[@]}" -Cr"$DRAWN" "$NET.1" 1.3.6.1.2.1.$((1 + RANDOM % 5)) ;;
                5) word; quick "$1" snmpset "${who[@]}" "$NET.1" 1.3.6.1.2.1.1.$((4 + RANDOM % 3)).0 s "$DRAWN lab" ;;
                6) quick "$1" snmptrap -v2c -c public "$NET.1" '' 1.3.6.1.6.3.1.1.5.$((1 + RANDOM % 4)) 1.3.6.1.2.1.2.2.1.1.$i i "$i" ;;
                7) draw snmpinform "snmptrap -v1"
                    if [ "$DRAWN" = snmpinform ]; then quick "$1" snmpinform -v2c -c public "$NET.1" '' 1.3.6.1.6.3.1.1.5.3 1.3.6.1.2.1.1.5.0 s lab
                    else quick "$1" snmptrap -v1 -c public "$NET.1" 1.3.6.1.4.1.8072 "$NET.10" $((RANDOM % 6)) 0 $((RANDOM * 9)); fi ;;
            esac
            pause 100 900
        done
    }
    clients snmp_client 1 6
    captured
}

# files FOLDER: made-up pages and files to serve and fetch.
files() {
    $PY - "$1" "${WORDS[@]}" <<'PYTHON'
import os, random, sys
folder, *words = sys.argv[1:]
random.seed(5)
os.makedirs(folder + "/docs/old", exist_ok=True)
def text(n):
    return " ".join(random.choices(words, k=n)).capitalize() + "."
for i, word in enumerate(words):
    links = "".join(f'<a href="/{w}.html">{w}</a> ' for w in random.sample(words, 4))
    body = "".join(f"<p>{text(random.randint(5, 90))}</p>\n" for _ in range(random.randint(1, 40)))
    open(f"{folder}/{word}.html", "w").write(f'<!doctype html><title>{word}</title><link rel="stylesheet" href="/site.css">\n<h1>{word}</h1>{links}\n{body}')
    open(f"{folder}/docs/{word}.txt", "w").write("\n".join(text(12) for _ in range(random.randint(1, 400))))
    open(f"{folder}/docs/old/{word}.bin", "wb").write(random.randbytes(int(random.lognormvariate(9, 1.3))))
    open(f"{folder}/{word}.json", "w").write(str({w: random.randint(1, 9999) for w in words[:i + 1]}).replace("'", '"'))
open(f"{folder}/site.css", "w").write("body { font-family: sans-serif; margin: 2em }\n" * 30)
open(f"{folder}/index.html", "w").write("<title>lab</title>" + "".join(f'<a href="/{w}.html">{w}</a>\n' for w in words))
PYTHON
    chmod -R a+rX "$1"
}

kind_ftp() {
    lan ftp 192.168.60 6
    capture "$OUT/ftp.pcap"
    names "$NET.1" ftp.example.org files.lab.example
    files "$WORK/ftp"
    mkdir "$WORK/ftp/incoming"
    chmod 777 "$WORK/ftp/incoming"
    printf '%s\n' listen=YES anonymous_enable=YES local_enable=NO write_enable=YES anon_upload_enable=YES anon_mkdir_write_enable=YES \
        anon_other_write_enable=YES anon_root="$WORK/ftp" secure_chroot_dir=/run/vsftpd/empty pasv_min_port=40000 pasv_max_port=40200 \
        'ftpd_banner=Files of the lab' seccomp_sandbox=NO xferlog_enable=NO connect_from_port_20=YES background=NO >"$WORK/vsftpd.conf"
    start s vsftpd "$WORK/vsftpd.conf"
    cat >"$WORK/ftpd.py" <<'EOF'
import sys
from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import FTPHandler
from pyftpdlib.servers import FTPServer
FTPHandler.authorizer = DummyAuthorizer()
for user in ("alice", "bob", "carol"):
    FTPHandler.authorizer.add_user(user, "pass-" + user, sys.argv[1], perm="elradfmwMT")
FTPHandler.banner = "example.org file server"
FTPServer(("", 2121), FTPHandler).serve_forever()
EOF
    start s $PY "$WORK/ftpd.py" "$WORK/ftp"
    sleep 1
    ftp_client() {
        local i url login file
        for i in $(seq 12); do
            draw alice bob carol carol; login=$DRAWN:pass-$DRAWN url=ftp.example.org:2121
            case $((RANDOM % 4)) in 0) login=$login-wrong ;; 1 | 2) login=anonymous:me@example.net url=files.lab.example:21 ;; esac
            word; file=$DRAWN
            case $((RANDOM % 8)) in
                0) quick "$1" curl -s -u "$login" "ftp://$url/docs/" ;;
                1) draw --ftp-port --disable-epsv --ftp-pasv -l
                    if [ "$DRAWN" = --ftp-port ]; then quick "$1" curl -s -P - --disable-eprt -u "$login" "ftp://$url/docs/$file.txt" -o /dev/null
                    else quick "$1" curl -s "$DRAWN" -u "$login" "ftp://$url/docs/" "ftp://$url/docs/old/$file.bin"; fi ;;
                2) quick "$1" curl -s -u "$login" -T "$WORK/ftp/docs/$file.txt" --ftp-create-dirs "ftp://$url/incoming/$1-$i.txt" ;;
                3) quick "$1" curl -s -u "$login" -r 100-2000 "ftp://$url/docs/old/$file.bin" -Q "-DELE missing-$i" ;;
                4) quick "$1" curl -s -I -u "$login" "ftp://$url/$file.html" ;;
                5 | 6) draw "set ftp:passive-mode off; set ftp:use-mdtm off;" "set ftp:use-feat no;" "set ftp:use-mdtm off;" "set ftp:use-mdtm off;"
                    quick "$1" lftp -u "${login/:/,}" -e "set net:max-retries 1; set net:timeout 4; $DRAWN cls -l; cd docs; get $file.txt -o /dev/null; pwd; cd old; ls; put $WORK/ftp/$file.json -o ../../incoming/$1$i.json; bye" "ftp://$url" ;;
                7) printf 'user %s %s\n%s\nbinary\ncd docs\nls\nget %s.txt /dev/null\nsize %s.txt\nsyst\nquit\n' "${login%%:*}" "${login#*:}" \
                    "$([ $((RANDOM % 2)) = 0 ] && echo passive)" "$file" "$file" >"$WORK/ftp.$1"
                    # shellcheck disable=SC2086 # a host and a port
                    on "$1" timeout 15 tnftp -n -i ${url/:/ } <"$WORK/ftp.$1" >/dev/null 2>&1 || true ;;
            esac
            pause 100 800
        done
    }
    clients ftp_client 1 6
    captured
}

kind_mqtt() {
    lan mqtt 10.8.30 7
    capture "$OUT/mqtt.pcap"
    names "$NET.1" broker.lab.example coap.lab.example
    : >"$WORK/mqtt.users"
    mosquitto_passwd -b "$WORK/mqtt.users" sensor madeup
    printf '%s\n' 'user root' 'per_listener_settings true' 'listener 1883' 'allow_anonymous true' 'listener 1884' 'allow_anonymous false' \
        "password_file $WORK/mqtt.users" >"$WORK/mosquitto.conf"
    start s mosquitto -c "$WORK/mosquitto.conf"
    draw coap-server-notls coap-server-openssl
    start s "$DRAWN" -A "$NET.1" -d 60 -v 0
    sleep 1
    thing() {
        local i topic message common
        for i in $(seq 16); do
            word; topic=lab/$DRAWN; draw temperature humidity state/door power "set"; topic+=/$DRAWN
            between 1 3000; message="{\"value\": $DRAWN, \"unit\": \"x\"}"
            draw mqttv31 mqttv311 mqttv311 mqttv5
            common=(-h broker.lab.example -V "$DRAWN" -i "dev-$1-$i" -k $((5 + RANDOM % 60)) -q $((RANDOM % 3)))
            case $((RANDOM % 9)) in 0) common+=(-p 1884 -u sensor -P madeup) ;; 1) common+=(-p 1884 -u sensor -P wrong) ;; 2) common+=(--will-topic lab/gone --will-payload "dev-$1" --will-qos 1) ;; esac
            case $((RANDOM % 10)) in
                0 | 1) quick "$1" mosquitto_pub "${common[@]}" -t "$topic" -m "$message" ;;
                2) quick "$1" mosquitto_pub "${common[@]}" -r -t "$topic" -m "$message" ;;
                3) seq 3 $((5 + RANDOM % 30)) | on "$1" timeout 15 mosquitto_pub "${common[@]}" -t "$topic" -l >/dev/null 2>&1 || true ;;
                4 | 5) draw 'lab/#' 'lab/+/temperature' "$topic" '$SYS/broker/uptime'; quick "$1" mosquitto_sub "${common[@]}" -t "$DRAWN" -t lab/all -W $((2 + RANDOM % 6)) ;;
                6) quick "$1" mosquitto_pub "${common[@]}" -t "$topic" -f /etc/services ;;
                7) draw get put get post; quick "$1" coap-client-notls -B 4 -m "$DRAWN" -e "$message" "coap://coap.lab.example/$DRAWN-$((RANDOM % 5))" ;;
                8) draw .well-known/core time async?2 example_data missing "" separate; local more=(-B 4); [ $((RANDOM % 3)) = 0 ] && more+=(-N)
                    [ "$DRAWN" = time ] && more+=(-s 3)
                    quick "$1" coap-client-notls "${more[@]}" "coap://coap.lab.example/$DRAWN" ;;
                9) head -c $((200 + RANDOM % 3000)) /dev/urandom | base64 >"$WORK/coap.$1"; draw 64 256 1024
                    quick "$1" coap-client-notls -B 6 -b "$DRAWN" -t text/plain -m put -f "$WORK/coap.$1" "coap://coap.lab.example/example_data"
                    quick "$1" coap-client-notls -B 6 -b "$DRAWN" "coap://coap.lab.example/example_data" ;;
            esac
            pause 100 900
        done
    }
    clients thing 1 7
    captured
}

kind_http() {
    lan http 172.18.4 7
    capture "$OUT/http.pcap"
    names "$NET.1" www.example.org shop.test api.lab.example
    files "$WORK/www"
    cat >"$WORK/nginx.conf" <<EOF
daemon off; pid $WORK/nginx.pid; error_log $WORK/log/nginx; user root; worker_processes 1;
events {}
http {
    types { text/html html; text/css css; application/json json; text/plain txt; }
    gzip on; gzip_types *; etag on; access_log off; client_body_temp_path $WORK/b; proxy_temp_path $WORK/p; fastcgi_temp_path $WORK/f;
    uwsgi_temp_path $WORK/u; scgi_temp_path $WORK/g; client_max_body_size 1m;
    server { listen 80; root $WORK/www; location /old { return 301 /amber.html; } location /login { return 302 http://www.example.org/iris.html; }
        location /private { return 401; } location /docs/ { autoindex on; } location /api/ { proxy_pass http://127.0.0.1:9000; proxy_http_version 1.1; } }
}
EOF
    cat >"$WORK/api.py" <<'EOF'
import http.server, random
class Api(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.send_response(200); self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked"); self.send_header("Set-Cookie", f"visit={random.randint(1, 10**9)}"); self.end_headers()
        for i in range(random.randint(1, 9)):
            part = (f'{{"row": {i}, "value": {random.random()}}}\n' * random.randint(1, 30)).encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
        self.wfile.write(b"0\r\n\r\n")
    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        answer = b'{"received": %d}' % len(body)
        self.send_response(201); self.send_header("Content-Length", str(len(answer))); self.end_headers(); self.wfile.write(answer)
    do_PUT = do_DELETE = do_POST
http.server.ThreadingHTTPServer(("", 9000), Api).serve_forever()
EOF
    start s nginx -c "$WORK/nginx.conf"
    start s $PY "$WORK/api.py"
    start s $PY -m http.server -d "$WORK/www" 8080
    sleep 1
    browser() {
        local i site page agent
        for i in $(seq 16); do
            draw www.example.org shop.test www.example.org:8080; site=http://$DRAWN
            word; page=$DRAWN; word
            draw "Mozilla/5.0 (X11; Linux x86_64; rv:115.0) Gecko/20100101 Firefox/115.0" "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36" "lab/1.0" "curl/8.4.0"; agent=$DRAWN
            case $((RANDOM % 12)) in
                0 | 1) word; quick "$1" curl -s --compressed -A "$agent" -H "Accept-Language: en" "$site/$page.html" "$site/site.css" "$site/$DRAWN.html" ;;
                2) quick "$1" curl -s -I -A "$agent" "$site/docs/$page.txt" ;;
                3) quick "$1" curl -s -d "name=$page&n=$i" -A "$agent" "http://api.lab.example/api/form" ;;
                4) between 10 60000; head -c "$DRAWN" /dev/urandom >"$WORK/up.$1"; quick "$1" curl -s -F "file=@$WORK/up.$1" -F "note=$page" http://api.lab.example/api/upload ;;
                5) quick "$1" curl -s -r 100-$((200 + RANDOM)) -A "$agent" "$site/docs/old/$page.bin" ;;
                6) draw old login private missing.html "$page/none"; quick "$1" curl -s -L -A "$agent" "$site/$DRAWN" ;;
                7) quick "$1" curl -s -b "session=$RANDOM" -H 'Accept: application/json' "http://api.lab.example/api/$page" "http://api.lab.example/$page.json" ;;
                8) quick "$1" wget -q -O /dev/null -U "$agent" "$site/$page.html" "$site/docs/" ;;
                9) quick "$1" wget -q -r -l 1 -P "$WORK/mirror$1" "$site/$page.html" ;;
                10) quick "$1" $PY -c "import http.client, sys
c = http.client.HTTPConnection('api.lab.example')
for n in range(3): c.request(('GET', 'PUT', 'DELETE')[n], '/api/$page/%d' % n, body=b'x' * $((RANDOM % 900)) if n == 1 else None); c.getresponse().read()" ;;
                11) draw "busybox wget -q -O -" "ab -q -n 6 -c 2" "ab -q -k -n 8 -c 2"
                    # shellcheck disable=SC2086 # a program and its options
                    quick "$1" $DRAWN "$site/$page.html" ;;
            esac
            pause 100 700
        done
    }
    clients browser 1 7
    captured
}

kind_ssh() {
    lan ssh 10.12.0 6
    capture "$OUT/ssh.pcap"
    names "$NET.1" host.lab.example
    mkdir -m 700 "$WORK/ssh"
    files "$WORK/ssh/files"
    local kind options
    for kind in ed25519 ecdsa rsa; do ssh-keygen -q -t $kind -N '' -f "$WORK/ssh/host-$kind"; ssh-keygen -q -t $kind -N '' -f "$WORK/ssh/user-$kind"; done
    cat "$WORK"/ssh/user-*.pub >"$WORK/ssh/authorized"
    options=(-D -e -f /dev/null -o StrictModes=no -o UsePAM=no -o PidFile=none -o PermitRootLogin=yes -o PrintLastLog=no
        -o AuthorizedKeysFile="$WORK/ssh/authorized" -o Subsystem="sftp internal-sftp")
    start s /usr/sbin/sshd "${options[@]}" -p 22 -h "$WORK/ssh/host-ed25519" -h "$WORK/ssh/host-rsa"
    start s /usr/sbin/sshd "${options[@]}" -p 2222 -h "$WORK/ssh/host-ecdsa" -o DebianBanner=no -o VersionAddendum=lab
    sleep 1
    ssh_user() {
        local i port file options
        for i in $(seq 9); do
            draw 22 22 2222; port=$DRAWN
            draw ed25519 ecdsa rsa
            options=(-q -F /dev/null -i "$WORK/ssh/user-$DRAWN" -o IdentitiesOnly=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null)
            draw Compression=yes Ciphers=aes128-ctr Ciphers=aes256-gcm@openssh.com KexAlgorithms=curve25519-sha256 KexAlgorithms=ecdh-sha2-nistp256 IPQoS=cs1
            [ $((RANDOM % 2)) = 0 ] && options+=(-o "$DRAWN")
            word; file=$WORK/ssh/files/docs/$DRAWN.txt
            case $((RANDOM % 8)) in
                0 | 1) draw "seq $RANDOM | tail -n 300" date "ls -l /usr/bin | head -n 80" "head -c $RANDOM /dev/urandom"; quick "$1" ssh "${options[@]}" -o BatchMode=yes -p "$port" host.lab.example "$DRAWN" ;;
                2) quick "$1" scp "${options[@]}" -P "$port" "$file" "host.lab.example:$WORK/ssh/up-$1" ;;
                3) quick "$1" scp "${options[@]}" -O -P "$port" "host.lab.example:$file" "$WORK/ssh/down-$1" ;;
                4) printf 'ls -l %s\nget %s %s\nput %s %s\nquit\n' "$WORK/ssh/files" "$file" "$WORK/ssh/get-$1" "$file" "$WORK/ssh/put-$1" >"$WORK/ssh/batch-$1"
                    quick "$1" sftp "${options[@]}" -P "$port" -b "$WORK/ssh/batch-$1" host.lab.example ;;
                5) draw root admin guest; quick "$1" sshpass -p "$RANDOM" ssh "${options[@]}" -o PubkeyAuthentication=no -o NumberOfPasswordPrompts=1 -p "$port" "$DRAWN@host.lab.example" ;;
                6) quick "$1" ssh-keyscan -T 3 -p "$port" host.lab.example ;;
                7) # someone types
                    (for key in l s ' ' / e t c $'\n' d a t e $'\n' e x i t $'\n'; do pause 60 350; printf %s "$key"; done) |
                        on "$1" timeout 20 ssh "${options[@]}" -tt -p "$port" host.lab.example >/dev/null 2>&1 || true ;;
            esac
            pause 200 1200
        done
    }
    clients ssh_user 1 6
    captured
}

kind_dns() {
    lan dns 192.168.88 7
    capture "$OUT/dns.pcap"
    local w z options=()
    for w in "${WORDS[@]}"; do
        zone; z=$DRAWN
        options+=(--host-record="$w.$z,10.9.$((RANDOM % 250)).$((RANDOM % 250)),2001:db8::$((RANDOM % 9999))" --cname="www.$w.$z,$w.$z" --mx-host="$w.$z,mail.$w.$z,10"
            --txt-record="$w.$z,v=spf1 mx -all,site=$RANDOM$RANDOM" --srv-host="_sip._udp.$w.$z,$w.$z,5060,$((RANDOM % 50)),5" --caa-record="$w.$z,0,issue,ca.example.net"
            --host-record="mail.$w.$z,198.51.100.$((RANDOM % 250))" --txt-record="long.$z,$(printf "part-%s-of-a-long-record," {1..60})")
    done
    for z in "${ZONES[@]}"; do options+=(--local="/$z/"); done
    start s dnsmasq --keep-in-foreground --conf-file=/dev/null --no-resolv --no-hosts --pid-file= --user=root --log-facility="$WORK/log/dnsmasq" \
        --local-ttl=300 "${options[@]}"
    sleep 0.5
    asker() {
        local i name type more
        for i in $(seq 45); do
            word; name=$DRAWN; zone; name+=.$DRAWN; draw "" "" www. mail. _sip._udp. gone.; name=$DRAWN$name
            draw A A A AAAA AAAA MX TXT SRV CNAME CAA NS SOA ANY HTTPS; type=$DRAWN
            draw "" "" +noedns +nocookie +dnssec +subnet=198.51.100.0/24 +tcp +bufsize=512 +nsid "+noall +norecurse" "+tcp +keepopen" +padding=128
            IFS=' ' read -ra more <<<"$DRAWN +tries=1 +time=2"
            case $((RANDOM % 10)) in
                0) quick "$1" dig "${more[@]}" "@$NET.1" -x "10.9.$((RANDOM % 9)).$((RANDOM % 9))" ;;
                1) quick "$1" host -W 2 -t "$type" "$name" "$NET.1" ;;
                2) quick "$1" host -W 2 "$name" "$NET.1" ;;
                3) quick "$1" nslookup -timeout=2 -type="$type" "$name" "$NET.1" ;;
                4) quick "$1" busybox nslookup "$name" "$NET.1" ;;
                5) zone; quick "$1" dig "${more[@]}" "@$NET.1" "long.$DRAWN" TXT ;;
                6) draw "$NET.1" "$NET.19"; quick "$1" dig "${more[@]}" "@$DRAWN" "unknown-$RANDOM.invalid" "$type" ;; # REFUSED, or nobody there
                *) word; quick "$1" dig "${more[@]}" "@$NET.1" "$name" "$type" "$DRAWN.example.org" A ;;
            esac
            pause 50 500
        done
    }
    clients asker 1 7
    captured
}

kind_mail() {
    lan mail 10.25.1 5
    capture "$OUT/mail.pcap"
    names "$NET.1" mail.example.org smtp.lab.example
    start s $PY -m aiosmtpd -n -c aiosmtpd.handlers.Sink -l "$NET.1:25" -s 200000
    sleep 1.5
    sender() {
        local i from to
        for i in $(seq 12); do
            word; from=$DRAWN@example.net; word; to=$DRAWN@example.org
            local lines=$((RANDOM % 150))
            { printf 'From: %s\nTo: %s\nSubject: %s %s\n\n' "$from" "$to" "${WORDS[RANDOM % 20]}" "$i"; while [ $((lines--)) -gt 0 ]; do word; echo "$DRAWN and ${WORDS[RANDOM % 20]}"; done; } >"$WORK/mail.$1"
            case $((RANDOM % 4)) in
                0) quick "$1" curl -s "smtp://mail.example.org/client$1.example.net" --mail-from "$from" --mail-rcpt "$to" --upload-file "$WORK/mail.$1" ;;
                1) quick "$1" swaks --server smtp.lab.example --from "$from" --to "$to,other@example.com" --ehlo "host$1.lab.example" --body "@$WORK/mail.$1" ;;
                2) on "$1" timeout 15 msmtp -C /dev/null --host=mail.example.org --from="$from" "$to" <"$WORK/mail.$1" >/dev/null 2>&1 || true ;;
                3) draw VRFY HELP RCPT RSET; quick "$1" swaks --server smtp.lab.example --from "$from" --to "$to" --protocol SMTP --quit-after "${DRAWN/#[VHRS]*/RCPT}" ;;
            esac
            pause 100 900
        done
    }
    clients sender 1 5
    captured
}

declare -A LABELS=([dhcp]=dhcp_ntp_snmp [ntp]=dhcp_ntp_snmp [snmp]=dhcp_ntp_snmp [mqtt]=mqtt_coap)
run_kind() {
    local began=$SECONDS
    (RANDOM=7 && "kind_$1") >"$WORK/log/$1" 2>&1 || { echo "$1 failed:"; tail -n 5 "$WORK/log/$1"; }
    echo "$1: $(capinfos -T -r -c "$OUT/$1.pcap" 2>/dev/null | cut -f 2) packets in $((SECONDS - began)) s"
}
read -ra KINDS <<<"$LAB_KINDS"
say "making ${KINDS[*]}"
pids=()
for kind in "${KINDS[@]}"; do
    # DHCP waits most of the time: beside it, the others one after another.
    if [ "$kind" = dhcp ]; then run_kind dhcp & pids+=($!); else run_kind "$kind"; fi
done
[ ${#pids[@]} -eq 0 ] || wait "${pids[@]}"
[ -z "${LAB_KEEP_LOGS:-}" ] || cp -r "$WORK/log" "$OUT/log"
echo path,label,licence >"$OUT/manifest.csv"
for kind in "${KINDS[@]}"; do
    [ -s "$OUT/$kind.pcap" ] && echo "$kind.pcap,${LABELS[$kind]:-$kind},made by packaging/lab.sh" >>"$OUT/manifest.csv"
done
say "written: $OUT/manifest.csv"
