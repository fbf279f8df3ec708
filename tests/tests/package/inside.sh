#!/bin/sh
# Runs as a service inside a booted Debian, in /check, where the test put two packages, a capture and a configuration.
# Says each step before it begins, and "all done" at the end.
set -eu
cd /check
exec >>log 2>&1
trap 'status=$?; [ $status = 0 ] || journalctl --no-pager -n 60; echo "ended with $status"; systemctl poweroff' EXIT

step() { echo "step: $*"; }
# until SECONDS COMMAND...: waits until it succeeds.
until_true() {
    left=$1
    shift
    while ! "$@" >/dev/null 2>&1; do
        left=$((left - 1))
        [ $left -gt 0 ] || { echo "in vain: $*"; return 1; }
        sleep 1
    done
}
at_least() { # KEY NUMBER: in the service's status
    value=$(wiremamba ctl --json status | tr ',{' '\n\n' | sed -n "s/^\"$1\"://p" | head -n 1)
    [ "${value%%[.\}]*}" -ge "$2" ]
}
main_pid() { systemctl show -P MainPID "$1"; }
traffic() { wiremamba replay -q --pcap traffic.pcap --tap wm-in0 --pps 2000 --loop 3; }

ip link set lo up
ip tuntap add dev wm-in0 mode tap
ip link set wm-in0 up

step install
dpkg -i first.deb
systemctl is-enabled wiremamba && exit 1
getent passwd wiremamba wiremamba-opener
cp wiremamba.toml /etc/wiremamba/wiremamba.toml

step "for C programs"
grep -q '^Version: [0-9.]*$' /usr/share/pkgconfig/wiremamba.pc
grep -q '^#define WIREMAMBA_ABI_VERSION' /usr/include/wiremamba_source.h
wiremamba inspect --plugin "$(sed -n 's|^source=${prefix}|/usr|p' /usr/share/pkgconfig/wiremamba.pc)"

step start
systemctl start wiremamba
systemctl is-active wiremamba wiremamba-opener
wiremamba ctl status

step "its own users, no capability in the one that learns"
[ "$(stat -c %U /proc/"$(main_pid wiremamba)")" = wiremamba ]
[ "$(stat -c %U /proc/"$(main_pid wiremamba-opener)")" = wiremamba-opener ]
grep -q '^CapPrm:.0000000000000000$' /proc/"$(main_pid wiremamba)"/status
# CAP_NET_ADMIN is bit 12, CAP_NET_RAW bit 13.
grep -q '^CapPrm:.0000000000003000$' /proc/"$(main_pid wiremamba-opener)"/status
systemd-analyze security --no-pager wiremamba | tail -n 1
systemd-analyze security --no-pager wiremamba-opener | tail -n 1

step learn
traffic
until_true 60 at_least promoted 1
ls -l /var/lib/wiremamba/models

step replay
until_true 60 at_least sent 20
[ "$(cat /sys/class/net/wm-out0/statistics/rx_packets)" -ge 20 ]

step "the socket refuses others"
runuser -u nobody -- wiremamba ctl status && exit 1

step reload
systemctl reload wiremamba
systemctl is-active wiremamba


step "counters on a port that systemd opens"
systemctl stop wiremamba
systemctl start wiremamba-metrics.socket
systemctl start wiremamba
until_true 30 wiremamba ctl status
bash -c 'exec 3<>/dev/tcp/127.0.0.1/9464 && printf "GET /metrics HTTP/1.0\r\n\r\n" >&3 && cat <&3' | grep '^wiremamba_.*_total'

step "upgrade while running"
before=$(main_pid wiremamba)
dpkg -i second.deb
until_true 30 wiremamba ctl status
[ "$(main_pid wiremamba)" != "$before" ]
dpkg-query -W wiremamba
at_least steps 1

step "the watchdog ends what hangs"
before=$(main_pid wiremamba)
kill -STOP "$before"
until_true 60 sh -c "journalctl --no-pager -u wiremamba | grep -q 'Watchdog timeout'"
until_true 60 wiremamba ctl status
[ "$(main_pid wiremamba)" != "$before" ]
at_least steps 1

step remove
dpkg -r wiremamba
[ ! -e /usr/bin/wiremamba ]
[ -d /var/lib/wiremamba/models ]
systemctl --failed --no-legend | grep wiremamba && exit 1

step purge
dpkg -P wiremamba
# But for what the test itself put there, and the journal.
find / -xdev -path /check -prune -o -path /opt -prune -o -name 'wiremamba.service.d' -prune -o -path /proc -prune -o -path /var/log -prune -o -iname '*wiremamba*' -print >left
cat left
[ ! -s left ]
getent passwd wiremamba wiremamba-opener && exit 1
getent group wiremamba && exit 1

echo "all done"
