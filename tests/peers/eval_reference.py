"""A second opinion on `wiremamba eval`: similarity, timing and memory, worked out with numpy and scipy only.

usage: eval_reference.py REAL.pcap SYNTHETIC.pcap [TRAIN.pcap]    print the figures of one pair as JSON
       eval_reference.py --fixtures FOLDER                        write the captures of tests/data/eval and expected.json
(needs numpy 2 and scipy)

Nothing here was taken from the Rust side: the capture reader, the header parser and the sums are its own, and the
distances are scipy's wherever scipy has them. Where the definitions of METRICS.md leave a choice, it is this:

* IP frame: Ethernet, any number of VLAN tags, or raw IP; version, header length and captured bytes must be plausible.
  The IP packet ends where its length field says, so Ethernet padding is no part of it. Tunnels are not entered.
* IPv6 extension headers are walked. "protocol" is the last one; only the fixed 40 bytes fill IPv6 columns, and
  ip_header_len is 40. Traffic class counts as tos, ICMPv6 type and code as icmp_type_code (but fill no ICMP column).
* payload: what follows the TCP, UDP or ICMP header (8 bytes), else what follows the IP headers.
* flow: 5-tuple, in the order of the file. Without ports (ICMP, IGMP, later fragments) both ports are 0. The position in
  a flow counts both directions together.
* attributes, structure and timing count IP frames only; the bit columns and `frames_identical` count every frame.
* an option layout stops before EOL; it is empty for TCP without options and "absent" without TCP.
* gaps of `gaps_within` are those between neighbours in the flow that go the same way: `gaps` is `gaps_turn` and
  `gaps_within` together.
* lag-1 autocorrelation: sum (x[i]-m)(x[i+1]-m) / sum (x[i]-m)^2 with one mean for the flow.
* nothing on one side: distances are at their maximum, K-S is 1. Nothing on either: distances are 0, K-S is null and is
  left out of mean_ks. A Wasserstein distance that lacks a side, or a ratio over nothing, is null.
* memory: distances in bits; payloads packet by packet, never joined to a stream; a substring lies in one training
  payload; the shares are over synthetic frames, IP packets, payloads of 32 bytes or more, and bytes of payload.
"""

import collections
import ipaddress
import json
import math
import os
import random
import struct
import sys

import numpy as np
from scipy.spatial.distance import jensenshannon
from scipy.stats import ks_2samp, wasserstein_distance

TCP, UDP, ICMP, ICMP6 = 6, 17, 1, 58
ABSENT = "absent"


# --- captures and packets -------------------------------------------------------------------------------------------


def read_pcap(path):
    """Link type and a list of (time in ns, wire length, captured bytes)."""
    with open(path, "rb") as f:
        data = f.read()
    for order in "<>":
        magic = struct.unpack_from(order + "I", data)[0]
        if magic in (0xA1B2C3D4, 0xA1B23C4D):
            break
    else:
        raise SystemExit(f"{path}: not a classic pcap")
    unit = 1000 if magic == 0xA1B2C3D4 else 1
    link = struct.unpack_from(order + "I", data, 20)[0] & 0xFFFF
    records, at = [], 24
    while at + 16 <= len(data):
        seconds, fraction, captured, wire = struct.unpack_from(order + "4I", data, at)
        records.append((seconds * 10**9 + fraction * unit, wire, data[at + 16 : at + 16 + captured]))
        at += 16 + captured
    return link, records


class Packet:
    """One frame. `ip` is the IP packet without link header and padding, or None; offsets count from its first byte."""

    def __init__(self, link, time, wire, frame):
        self.time, self.wire, self.frame = time, wire, frame
        self.ip = None
        self.version = self.protocol = self.header = self.l4 = None
        self.transport = None  # TCP, UDP, ICMP or ICMP6 when that header is there
        self.ports = None
        self.payload = b""
        self.flow = self.position = self.direction = None  # set by `flows`
        at = self._network_offset(link)
        if at is not None:
            self._parse_ip(frame[at:])

    def _network_offset(self, link):
        if link in (12, 14, 101, 228, 229):
            return 0
        if link != 1:
            raise SystemExit(f"link type {link} is not supported")
        at = 12
        while len(self.frame) >= at + 2:
            kind = struct.unpack_from(">H", self.frame, at)[0]
            if kind in (0x8100, 0x88A8, 0x9100):
                at += 4
            else:
                return at + 2 if kind in (0x0800, 0x86DD) else None
        return None

    def _parse_ip(self, b):
        version = b[0] >> 4 if b else 0
        if version == 4 and len(b) >= 20 and (b[0] & 15) >= 5:
            self.header = (b[0] & 15) * 4
            total = struct.unpack_from(">H", b, 2)[0]
            self.total_length = total
            self.ip = b[:total] if total >= self.header else b
            self.tos, self.ttl = b[1], b[8]
            self.flags_fragment = struct.unpack_from(">H", b, 6)[0]
            self.source, self.target = b[12:16], b[16:20]
            self.protocol, self.l4 = b[9], self.header
            later = self.flags_fragment & 0x1FFF != 0
        elif version == 6 and len(b) >= 40:
            self.header = 40
            length = struct.unpack_from(">H", b, 4)[0]
            self.total_length = length + 40
            self.ip = b[: length + 40]
            self.tos, self.ttl = (struct.unpack_from(">H", b)[0] >> 4) & 255, b[7]
            self.flags_fragment = ABSENT
            self.source, self.target = b[8:24], b[24:40]
            self.protocol, self.l4, later = self._extensions(self.ip)
        else:
            return
        self.version = version
        self.payload = self.ip[self.l4 :]
        if not later:
            self._parse_transport(self.ip[self.l4 :])

    @staticmethod
    def _extensions(b):
        kind, at, later = b[6], 40, False
        while kind in (0, 43, 44, 51, 60) and len(b) >= at + 8 and not later:
            if kind == 44:
                size, later = 8, struct.unpack_from(">H", b, at + 2)[0] >> 3 != 0
            else:
                size = (b[at + 1] + 2) * 4 if kind == 51 else (b[at + 1] + 1) * 8
            kind, at = b[at], at + size
        return kind, min(at, len(b)), later

    def _parse_transport(self, b):
        if self.protocol == TCP and len(b) >= 20 and b[12] >> 4 >= 5:
            size = (b[12] >> 4) * 4
        elif self.protocol == UDP and len(b) >= 8:
            size = 8
        elif len(b) >= 8 and self.protocol == (ICMP if self.version == 4 else ICMP6):
            size = 8
        else:
            return
        self.transport, self.l4_bytes, self.payload = self.protocol, b[:size], b[size:]
        if self.protocol in (TCP, UDP):
            self.ports = struct.unpack_from(">HH", b)

    # The fields of `structure`.

    def size_class(self):
        return len(self.payload).bit_length()

    def service_port(self):
        if self.ports is None:
            return ABSENT
        low = min(self.ports)
        return low if low < 32768 else 0

    def option_layout(self):
        kinds, b, at = [], self.l4_bytes, 20
        while at < len(b) and b[at] != 0:
            kinds.append(b[at])
            if b[at] == 1:
                at += 1
            elif at + 1 < len(b) and b[at + 1] >= 2:
                at += b[at + 1]
            else:
                break
        return tuple(kinds)

    def fields(self):
        tcp = self.transport == TCP
        flags = self.l4_bytes[13] if tcp else ABSENT
        icmp = self.transport in (ICMP, ICMP6)
        return {
            "ip_version": self.version,
            "ip_header_len": self.header,
            "ip_total_len": self.total_length,
            "tos": self.tos,
            "ip_flags_fragment": self.flags_fragment,
            "ttl": self.ttl,
            "protocol": self.protocol,
            "tcp_flags": flags,
            "tcp_data_offset": self.l4_bytes[12] >> 4 if tcp else ABSENT,
            "tcp_window": struct.unpack_from(">H", self.l4_bytes, 14)[0] if tcp else ABSENT,
            "tcp_option_layout": self.option_layout() if tcp else ABSENT,
            "udp_len": struct.unpack_from(">H", self.l4_bytes, 4)[0] if self.transport == UDP else ABSENT,
            "icmp_type_code": (self.l4_bytes[0], self.l4_bytes[1]) if icmp else ABSENT,
            "payload_size_class": self.size_class(),
            "service_port": self.service_port(),
            "joint": (self.protocol, flags, self.size_class(), self.direction, self.service_port()),
        }


class Capture:
    def __init__(self, path):
        link, records = read_pcap(path)
        self.packets = [Packet(link, *record) for record in records]
        self.ip_packets = [p for p in self.packets if p.ip is not None]
        self.flows = flows(self.ip_packets)
        self.bits = np.array([nprint(p) for p in self.packets], dtype=np.int8).reshape(-1, 1408)


def flows(packets):
    """Lists of packets by 5-tuple; tells each packet its position and direction (0: as the first packet went)."""
    found = {}
    for p in packets:
        ports = p.ports or (0, 0)
        here, there = (p.source, ports[0]), (p.target, ports[1])
        key = (p.version, p.protocol, min(here, there), max(here, there))
        opener, members = found.setdefault(key, (here, []))
        p.position, p.direction = len(members), 0 if here == opener else 1
        members.append(p)
    return [members for _, members in found.values()]


# --- similarity -----------------------------------------------------------------------------------------------------


def nprint(p):
    """1,408 values: bits of IPv4, IPv6, TCP, UDP, ICMP headers, -1 where there is none."""
    row = np.full(1408, -1, dtype=np.int8)

    def put(at, header):
        bits = np.unpackbits(np.frombuffer(header, dtype=np.uint8))
        row[at : at + len(bits)] = bits

    if p.ip is not None:
        put(0 if p.version == 4 else 480, p.ip[: p.header])
        start = {TCP: 800, UDP: 1280, ICMP: 1344}.get(p.transport)
        if start is not None:
            put(start, p.l4_bytes)
    return row


COLUMNS = {
    "bit_all": np.arange(1408),
    "bit_1088": np.r_[0:480, 800:1408],
    "bit_tcp480": np.arange(800, 1280),
}


def distances(p, q):
    """The four distances between distributions down the first axis of p and q; each is an array over the rest."""
    js = jensenshannon(p, q, axis=0)
    return {
        "jsd": js,
        "jsdiv_bits": js**2 / math.log(2),
        "tvd": np.abs(p - q).sum(axis=0) / 2,
        # 1 - sum sqrt(PQ), in the form that does not cancel
        "hd": np.sqrt(((np.sqrt(p) - np.sqrt(q)) ** 2).sum(axis=0) / 2),
    }


def mean(values, where=slice(None)):
    return {k: float(np.mean(v[where])) if np.size(v[where]) else 0.0 for k, v in values.items()}


def ternary(bits):
    """Frequencies of -1, 0 and 1 by column; no packets at all count as all absent."""
    if len(bits) == 0:
        return np.repeat([[1.0], [0.0], [0.0]], bits.shape[1], axis=1)
    return np.stack([(bits == v).mean(axis=0) for v in (-1, 0, 1)])


def positional(real, synthetic):
    def cells(capture):
        out = collections.defaultdict(list)
        for row, p in zip(capture.bits, capture.packets):
            if p.position is not None and p.position < 10:
                out[p.position, p.direction].append(row)
        return out

    r, s = cells(real), cells(synthetic)
    score, weight = collections.Counter(), 0
    for cell, rows in r.items():
        a, b = np.array(rows), np.array(s.get(cell, [])).reshape(-1, 1408)
        active = (a != -1).any(axis=0) | (b != -1).any(axis=0)
        for k, v in mean(distances(ternary(a), ternary(b)), active).items():
            score[k] += v * len(rows)
        weight += len(rows)
    return {k: score[k] / weight if weight else 0.0 for k in ("jsd", "jsdiv_bits", "tvd", "hd")}


def between(p, q):
    """Distances of two frequency vectors that need not be normalised."""
    p, q = np.asarray(p, float), np.asarray(q, float)
    if p.sum() == 0 or q.sum() == 0:
        top = 0.0 if p.sum() == q.sum() else 1.0
        return {"jsd": top * math.sqrt(math.log(2)), "jsdiv_bits": top, "tvd": top, "hd": top}
    return {k: float(v) for k, v in distances(p / p.sum(), q / q.sum()).items()}


def of_values(real, synthetic):
    p, q = collections.Counter(real), collections.Counter(synthetic)
    values = list(dict.fromkeys([*p, *q]))
    return between([p[v] for v in values], [q[v] for v in values])


def of_ranks(real, synthetic):
    p = sorted(collections.Counter(real).values(), reverse=True)
    q = sorted(collections.Counter(synthetic).values(), reverse=True)
    n = max(len(p), len(q))
    return between(p + [0] * (n - len(p)), q + [0] * (n - len(q)))


def similarity(real, synthetic):
    columns = distances(ternary(real.bits), ternary(synthetic.bits))
    out = {name: mean(columns, which) for name, which in COLUMNS.items()}
    active = (real.bits != -1).any(axis=0) | (synthetic.bits != -1).any(axis=0)
    out["bit_active"] = mean(columns, active)
    out["bit_positional"] = positional(real, synthetic)

    r, s = ([p.fields() for p in c.ip_packets] for c in (real, synthetic))
    names = list((r or s)[0]) if r or s else []
    fields = {n: of_values([f[n] for f in r], [f[n] for f in s]) for n in names}
    out["structure"] = {k: float(np.mean([f[k] for f in fields.values()])) for k in out["bit_all"]} if names else None
    out["fields"] = fields

    def both(get, measure=of_values, ported=False):
        sides = ([get(p) for p in c.ip_packets if p.ports or not ported] for c in (real, synthetic))
        return measure(*sides)

    out["attributes"] = {
        "src_address": both(lambda p: p.source, of_ranks),
        "dst_address": both(lambda p: p.target, of_ranks),
        "src_port": both(lambda p: p.ports[0], ported=True),
        "dst_port": both(lambda p: p.ports[1], ported=True),
        "protocol": both(lambda p: p.protocol),
        "packet_size": both(lambda p: p.wire),
    }
    return out


# --- timing and shape -----------------------------------------------------------------------------------------------


def seconds(ns):
    return ns / 1e9


def flow_gaps(flow):
    return [max(0, b.time - a.time) for a, b in zip(flow, flow[1:])]


def burstiness(gaps):
    if len(set(gaps)) == 1:  # no spread, whatever rounding says
        return -1.0 if gaps[0] else 0.0
    s, m = np.std(gaps), np.mean(gaps)
    return float((s - m) / (s + m))


def autocorrelation(gaps):
    if len({max(g, 1) for g in gaps}) == 1:
        return None
    x = np.log10([seconds(max(g, 1)) for g in gaps])
    x = x - x.mean()
    return float((x[:-1] * x[1:]).sum() / (x * x).sum())


# Quantities whose Wasserstein distance is taken as they are; of all others, on log10 of what is positive.
PLAIN = ("upstream_packets", "upstream_bytes", "burstiness", "autocorrelation")


def samples(capture):
    out = {
        k: []
        for k in "gaps gaps_turn gaps_within duration packets bytes packet_size upstream_packets upstream_bytes "
        "burstiness autocorrelation start_gaps".split()
    }
    for flow in capture.flows:
        gaps = flow_gaps(flow)
        for gap, a, b in zip(gaps, flow, flow[1:]):
            out["gaps"].append(seconds(gap))
            out["gaps_within" if a.direction == b.direction else "gaps_turn"].append(seconds(gap))
        up = [p.wire for p in flow if p.direction == 0]
        total = sum(p.wire for p in flow)
        out["duration"].append(seconds(max(0, flow[-1].time - flow[0].time)))
        out["packets"].append(len(flow))
        out["bytes"].append(total)
        out["packet_size"] += [p.wire for p in flow]
        out["upstream_packets"].append(len(up) / len(flow))
        out["upstream_bytes"].append(sum(up) / total)
        if len(gaps) >= 2:
            out["burstiness"].append(burstiness(gaps))
        if len(gaps) >= 3:
            r = autocorrelation(gaps)
            if r is not None:
                out["autocorrelation"].append(r)
    starts = sorted(flow[0].time for flow in capture.flows)
    out["start_gaps"] = [seconds(b - a) for a, b in zip(starts, starts[1:])]
    return out


def ks(a, b):
    if not a and not b:
        return None
    if not a or not b:
        return 1.0
    with np.errstate(divide="ignore"):  # of the p-value, which nobody asked for
        return float(ks_2samp(a, b, method="asymp").statistic)


def wasserstein(a, b, plain):
    if not plain:
        a, b = (np.log10([v for v in x if v > 0]) for x in (a, b))
    return float(wasserstein_distance(a, b)) if len(a) and len(b) else None


def signed_size(real, synthetic):
    def at(capture, i):
        return [(-p.wire if p.direction else p.wire) for p in capture.ip_packets if p.position == i]

    pairs = [(at(real, i), at(synthetic, i)) for i in range(20)]
    found = [ks(a, b) for a, b in pairs if a and b]
    if found:
        return float(np.mean(found))
    return ks(*pairs[0])


def timing(real, synthetic):
    r, s = samples(real), samples(synthetic)
    out = {k: {"ks": ks(r[k], s[k]), "wasserstein": wasserstein(r[k], s[k], k in PLAIN)} for k in r}
    out["signed_size"] = {"ks": signed_size(real, synthetic)}
    known = [v["ks"] for v in out.values() if v["ks"] is not None]
    out["mean_ks"] = float(np.mean(known)) if known else None
    return out


# --- memory ---------------------------------------------------------------------------------------------------------


def masked(p):
    """The first 96 bytes of the IP packet with its identity set to 0."""
    b = bytearray(p.ip[:96].ljust(96, b"\0"))

    def blank(start, end):
        for i in range(start, min(end, 96)):
            b[i] = 0

    if p.version == 4:
        blank(4, 6), blank(10, 20)
    else:
        blank(8, 40)
    if p.transport == TCP:
        blank(p.l4, p.l4 + 12), blank(p.l4 + 16, p.l4 + 18)
    elif p.transport == UDP:
        blank(p.l4, p.l4 + 4), blank(p.l4 + 6, p.l4 + 8)
    elif p.transport in (ICMP, ICMP6):
        blank(p.l4 + 2, p.l4 + 4)
    return bytes(b)


def words(capture):
    flat = b"".join(masked(p) for p in capture.ip_packets)
    return np.frombuffer(flat, dtype=np.uint64).reshape(-1, 12)


def mean_pairwise(x):
    """Mean Hamming distance over all unordered pairs: at every bit, ones times zeros pairs differ."""
    n = len(x)
    if n < 2:
        return None
    ones = np.unpackbits(x.view(np.uint8), axis=1).sum(axis=0, dtype=np.int64)
    return float((ones * (n - ones)).sum() / (n * (n - 1) / 2))


def mean_nearest(x, pool):
    if len(x) == 0 or len(pool) == 0:
        return None
    return float(np.mean([np.bitwise_count(row ^ pool).sum(axis=1).min() for row in x]))


def ratio(a, b):
    return a / b if a is not None and b else None


def share(items, known):
    known = set(known)
    return sum(i in known for i in items) / len(items) if items else None


def substrings(payloads, training, least=16):
    """Share of the bytes of `payloads` inside a training substring of `least` bytes or more, and the longest one."""
    training = list(dict.fromkeys(training))
    where = collections.defaultdict(list)
    for t, text in enumerate(training):
        for i in range(len(text) - least + 1):
            where[text[i : i + least]].append((t, i))
    covered = total = longest = 0
    for text in payloads:
        total += len(text)
        reach = 0  # bytes before this one are counted
        for i in range(len(text) - least + 1):
            best = 0
            for t, j in where.get(text[i : i + least], ()):
                other, n = training[t], least
                while i + n < len(text) and j + n < len(other) and text[i + n] == other[j + n]:
                    n += 1
                best = max(best, n)
            if best:
                covered += max(0, i + best - max(i, reach))
                reach = max(reach, i + best)
                longest = max(longest, best)
    return (covered / total if total else None), longest


def memory(real, synthetic, train):
    r, s = words(real), words(synthetic)
    out = {"diversity_synthetic": mean_pairwise(s), "diversity_real": mean_pairwise(r)}
    out["diversity_ratio"] = ratio(out["diversity_synthetic"], out["diversity_real"])
    if train is None:
        return out

    def payloads(capture, least=1):
        return [p.payload for p in capture.ip_packets if len(p.payload) >= least]

    t = words(train)
    out["frames_identical"] = share([p.frame for p in synthetic.packets], [p.frame for p in train.packets])
    out["ip_packets_identical"] = share([p.ip for p in synthetic.ip_packets], [p.ip for p in train.ip_packets])
    out["payloads_identical"] = share(payloads(synthetic, 32), payloads(train, 32))
    out["neighbour_synthetic"] = mean_nearest(s, t)
    out["neighbour_real"] = mean_nearest(r, t)
    out["neighbour_ratio"] = ratio(out["neighbour_synthetic"], out["neighbour_real"])
    out["substring_share"], out["substring_longest"] = substrings(payloads(synthetic), payloads(train))
    return out


def compare(real, synthetic, train=None):
    real, synthetic = Capture(real), Capture(synthetic)
    return {
        "similarity": similarity(real, synthetic),
        "timing": timing(real, synthetic),
        "memory": memory(real, synthetic, Capture(train) if train else None),
    }


# --- fixtures -------------------------------------------------------------------------------------------------------


def checksum(b):
    total = sum(struct.unpack(f">{(len(b) + 1) // 2}H", b + b"\0" * (len(b) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


class Host:
    def __init__(self, address, ttl=64, mac=1):
        self.ip = ipaddress.ip_address(address)
        self.ttl = ttl
        self.mac = bytes([2, 0, 0, 0, 0, mac])


class Writer:
    """Builds packets with right lengths and checksums, and collects (time, frame)."""

    def __init__(self, seed, raw=False):
        self.rng, self.raw = random.Random(seed), raw
        self.frames, self.next_port = [], 49152

    def port(self):
        self.next_port += self.rng.randrange(1, 60)  # never used twice
        return self.next_port

    def gap(self, low=3.3, high=8.3):
        return int(10 ** self.rng.uniform(low, high))

    def link(self, time, a, b, packet, kind, vlan=None, pad=False):
        if not self.raw:
            tag = struct.pack(">HH", 0x8100, vlan) if vlan else b""
            packet = b.mac + a.mac + tag + struct.pack(">H", kind) + packet
            if pad:
                packet = packet.ljust(60, b"\0")
        self.frames.append((time, packet))

    def ip(self, time, a, b, protocol, body, tos=0, fragment=0x4000, options=b"", inner=None, ident=None, **rest):
        """`inner`: (next header, bytes) of an IPv6 extension header in front of `body`."""
        if a.ip.version == 6:
            if inner:
                protocol, body = inner[0], inner[1] + body
            head = struct.pack(">IHBB", 6 << 28 | tos << 20 | self.rng.getrandbits(20), len(body), protocol, a.ttl)
            self.link(time, a, b, head + a.ip.packed + b.ip.packed + body, 0x86DD, **rest)
            return
        size = 20 + len(options)
        ident = self.rng.getrandbits(16) if ident is None else ident
        head = struct.pack(">BBHHHBBH", 0x40 | size // 4, tos, size + len(body), ident, fragment, a.ttl, protocol, 0)
        head += a.ip.packed + b.ip.packed + options
        head = head[:10] + struct.pack(">H", checksum(head)) + head[12:]
        self.link(time, a, b, head + body, 0x0800, **rest)

    def sum(self, a, b, protocol, body, at):
        pseudo = a.ip.packed + b.ip.packed + struct.pack(">IHBB", len(body), 0, 0, protocol)
        value = checksum(body if protocol == ICMP else pseudo + body)
        return body[:at] + struct.pack(">H", value) + body[at + 2 :]

    def udp(self, time, a, b, ports, payload, **rest):
        body = struct.pack(">HHHH", *ports, 8 + len(payload), 0) + payload
        self.ip(time, a, b, UDP, self.sum(a, b, UDP, body, 6), **rest)

    def icmp(self, time, a, b, kind, code, word, payload, **rest):
        protocol = ICMP if a.ip.version == 4 else ICMP6
        body = struct.pack(">BBHI", kind, code, 0, word) + payload
        self.ip(time, a, b, protocol, self.sum(a, b, protocol, body, 2), **rest)

    def tcp(self, time, a, b, ports, seq, ack, flags, window, options, payload, **rest):
        body = struct.pack(">HHIIBBHHH", *ports, seq, ack, (20 + len(options)) << 2, flags, window, 0, 0)
        self.ip(time, a, b, TCP, self.sum(a, b, TCP, body + options + payload, 16), **rest)

    # Whole conversations.

    def tcp_flow(self, time, client, server, port, turns, style, end="fin", gap=None, **rest):
        """`turns`: (direction, payload) after the handshake. `gap`: always this one, in ns."""
        rng = self.rng
        ports = (self.port(), port)
        seq = [rng.getrandbits(32), rng.getrandbits(32)]
        clock = [rng.getrandbits(31), rng.getrandbits(31)]
        window = (64240, 65160) if style == "linux" else (8192, 65535)
        begun = time

        def options(d, syn):
            now = clock[d] + (time - begun) // 10**6
            echo = 0 if syn and d == 0 else clock[1 - d] + (time - begun) // 10**6
            stamp = struct.pack(">BBII", 8, 10, now & 0xFFFFFFFF, echo & 0xFFFFFFFF)
            if style == "linux":  # MSS, SACK permitted, timestamps, NOP, window scale
                return b"\2\4\5\xb4\4\2" + stamp + b"\1\3\3\7" if syn else b"\1\1" + stamp
            if style == "mac":  # the same with NOPs in front and EOL behind
                return b"\2\4\5\xb4\1\3\3\6\1\1" + stamp + b"\4\2\0\0" if syn else b"\1\1" + stamp
            return b"\2\4\5\xb4\1\3\3\x08\1\1\4\2" if syn else b""

        def send(d, flags, payload=b"", syn=False):
            nonlocal time
            a, b = (client, server) if d == 0 else (server, client)
            self.tcp(
                time, a, b, ports if d == 0 else ports[::-1], seq[d], seq[1 - d] if flags & 16 else 0, flags,
                window[d] if syn else 501 + 8 * rng.randrange(4), options(d, syn), payload, pad=d == 1, **rest,
            )  # fmt: skip
            seq[d] = (seq[d] + len(payload) + (1 if flags & 3 else 0)) & 0xFFFFFFFF
            time += self.gap() if gap is None else gap

        send(0, 2, syn=True)
        send(1, 18, syn=True)
        send(0, 16)
        for d, payload in turns:
            send(d, 24, payload)
            if rng.random() < 0.4:
                send(1 - d, 16)
        if end == "fin":
            send(0, 17), send(1, 17), send(0, 16)
        elif end == "rst":
            send(1, 20)

    def dns(self, time, client, server, name, answers=1, **rest):
        rng, ports = self.rng, (self.port(), 53)
        ident = rng.getrandbits(16)
        question = b"".join(bytes([len(part)]) + part.encode() for part in name.split(".")) + b"\0" + b"\0\1\0\1"
        self.udp(time, client, server, ports, struct.pack(">6H", ident, 0x100, 1, 0, 0, 0) + question, **rest)
        records = b"".join(b"\xc0\x0c\0\1\0\1" + struct.pack(">IH", 300, 4) + rng.randbytes(4) for _ in range(answers))
        reply = struct.pack(">6H", ident, 0x8180, 1, answers, 0, 0) + question + records
        self.udp(time + self.gap(6, 7.9), server, client, ports[::-1], reply, **rest)

    def ping(self, time, a, b, count, size, interval=10**9):
        word = self.rng.getrandbits(16) << 16
        ask, answer = (8, 0) if a.ip.version == 4 else (128, 129)
        data = bytes(range(0x10, 0x10 + size))
        for i in range(count):
            self.icmp(time, a, b, ask, 0, word + i + 1, data)
            self.icmp(time + self.gap(6, 7.5), b, a, answer, 0, word + i + 1, data)
            time += interval

    def arp(self, time, a, b):
        packet = struct.pack(">HHBBH", 1, 0x0800, 6, 4, 1) + a.mac + a.ip.packed + bytes(6) + b.ip.packed
        self.link(time, a, b, packet, 0x0806, pad=True)

    def save(self, path, nano=False):
        """Times are from the first of March 2024. Without `nano` they are cut to microseconds."""
        unit, magic = (1, 0xA1B23C4D) if nano else (1000, 0xA1B2C3D4)
        out = [struct.pack("<IHHiIII", magic, 2, 4, 0, 0, 65535, 101 if self.raw else 1)]
        for time, frame in sorted(self.frames, key=lambda f: f[0]):
            out.append(struct.pack("<4I", 1709251200 + time // 10**9, time % 10**9 // unit, len(frame), len(frame)))
            out.append(frame)
        with open(path, "wb") as f:
            f.write(b"".join(out))


MS, SECOND = 10**6, 10**9
NAMES = ["example.org", "www.example.com", "cdn.test.example.net", "mail.example.org", "time.example.net"]


def http(rng, n):
    ask = f"GET /{rng.choice(['index', 'news', 'img/logo', 'api/v1'])}/{rng.randrange(999)} HTTP/1.1\r\nHost: "
    ask += f"{rng.choice(NAMES)}\r\nAccept: */*\r\n\r\n"
    reply = f"HTTP/1.1 200 OK\r\nContent-Length: {n}\r\nServer: fixture\r\n\r\n".encode() + rng.randbytes(n)
    return [(0, ask.encode()), (1, reply)]


def tls(rng, turns):
    def record(kind, n):
        return struct.pack(">BHH", kind, 0x0303, n) + rng.randbytes(n)

    out = [(0, record(22, rng.randrange(80, 120))), (1, record(22, rng.randrange(60, 140)))]
    return out + [(rng.randrange(2), record(23, rng.randrange(12, 90))) for _ in range(turns)]


def ordinary(w, tcp, dns, ports, style_weights, hosts, servers, resolver, span=20 * SECOND):
    """TCP and DNS flows that start at random in `span`."""
    rng = w.rng
    for _ in range(tcp):
        port = rng.choice(ports)
        turns = tls(rng, rng.randrange(0, 4)) if port in (443, 8443) else http(rng, rng.randrange(0, 120))
        style = rng.choices(("linux", "windows", "mac"), style_weights)[0]
        end = rng.choices(("fin", "rst", "none"), (6, 2, 2))[0]
        w.tcp_flow(rng.randrange(span), rng.choice(hosts), rng.choice(servers), port, turns, style, end)
    for _ in range(dns):
        w.dns(rng.randrange(span), rng.choice(hosts), resolver, rng.choice(NAMES), rng.randrange(1, 4))


def site(net, server_ttl, macs):
    """Three clients, four servers, a resolver, and a client and a server with IPv6."""
    clients = [Host(f"{net}.{i}", 64, macs + i) for i in (10, 11, 12)]
    servers = [Host(f"198.51.100.{i}", server_ttl + i % 3, macs) for i in (20, 21, 35, 36)]
    resolver = Host(f"{net}.1", 64, macs)
    six = Host("2001:db8:1::10", 64, macs + 10), Host("2001:db8:2::80", server_ttl, macs)
    return clients, servers, resolver, six


def fixture_real(seed=1):
    w = Writer(seed)
    clients, servers, resolver, six = site("192.0.2", 52, 0x10)
    ordinary(w, 24, 18, (443, 443, 443, 80), (5, 3, 2), clients, servers, resolver)
    w.tcp_flow(3 * SECOND, *six, 443, tls(w.rng, 2), "linux")
    w.tcp_flow(9 * SECOND, *six, 80, http(w.rng, 70), "mac")
    w.dns(8 * SECOND, six[0], Host("2001:db8:1::1", 64, 0x10), NAMES[0])
    w.ping(4 * SECOND, six[0], six[1], 2, 40)
    w.ping(2 * SECOND, clients[0], servers[0], 3, 48)
    w.ping(6 * SECOND, clients[1], servers[1], 2, 32)
    # port unreachable, quoting a datagram
    w.icmp(7 * SECOND, servers[2], clients[2], 3, 3, 0, bytes.fromhex("45000024") + w.rng.randbytes(24))
    # on a VLAN; one with gaps that are all the same, one with gaps of nothing
    w.tcp_flow(5 * SECOND, clients[1], servers[3], 443, tls(w.rng, 1), "linux", vlan=42)
    w.tcp_flow(11 * SECOND, clients[0], servers[3], 80, http(w.rng, 20), "windows", gap=3 * MS)
    w.tcp_flow(12 * SECOND, clients[2], servers[3], 80, http(w.rng, 30), "windows", gap=0)
    # both ports high
    ports = (w.port(), 50000 + 7)
    for i in range(4):
        w.udp(13 * SECOND + i * 20 * MS, clients[2], servers[0], ports, w.rng.randbytes(60), tos=0xB8)
    # one datagram in two fragments
    body = w.sum(clients[0], servers[1], UDP, struct.pack(">HHHH", w.port(), 5060, 88, 0) + w.rng.randbytes(80), 6)
    w.ip(14 * SECOND, clients[0], servers[1], UDP, body[:48], fragment=0x2000, ident=777)
    w.ip(14 * SECOND + 1000, clients[0], servers[1], UDP, body[48:], fragment=48 // 8, ident=777)
    # IGMP with router alert
    igmp = b"\x16\0\x09\x04\xe0\0\0\xfb"
    w.ip(15 * SECOND, clients[1], Host("224.0.0.251"), 2, igmp, tos=0xC0, options=b"\x94\4\0\0", pad=True)
    w.arp(SECOND, clients[0], resolver)
    return w


def fixture_train(seed=2):
    w = Writer(seed)
    clients, servers, resolver, six = site("192.0.2", 52, 0x10)
    ordinary(w, 24, 16, (443, 443, 80), (5, 3, 2), clients, servers, resolver)
    w.tcp_flow(3 * SECOND, *six, 443, tls(w.rng, 2), "linux")
    w.ping(2 * SECOND, clients[0], servers[0], 3, 48)
    w.arp(SECOND, clients[0], resolver)
    return w


def fixture_synthetic(train, seed=3):
    w = Writer(seed)
    rng = w.rng
    clients, servers, resolver, six = site("203.0.113", 118, 0x60)
    ordinary(w, 14, 9, (443, 80, 8080, 8443), (2, 6, 2), clients, servers, resolver, 30 * SECOND)
    w.tcp_flow(9 * SECOND, *six, 8080, http(rng, 40), "linux")
    w.tcp_flow(10 * SECOND, clients[1], servers[1], 443, tls(rng, 1), "windows", gap=0)
    w.ping(5 * SECOND, clients[1], servers[0], 4, 56, SECOND // 2)
    for i in range(5):  # time, the same ports on both ends
        w.udp(6 * SECOND + i * 900 * MS, clients[2], servers[2], (123, 123), b"\x23" + rng.randbytes(47))

    # What the training capture gave away. Its own packets are read as any capture is.
    known = [Packet(1, time, len(frame), frame) for time, frame in sorted(train.frames, key=lambda f: f[0])]
    full = [p for p in known if p.version == 4 and p.transport in (TCP, UDP) and len(p.payload) >= 40]
    for i, p in enumerate(rng.sample([p for p in known if p.transport == UDP], 5)):
        w.frames.append((15 * SECOND + i * 3 * MS + 17, p.frame))  # whole frames
    for i, p in enumerate(rng.sample(full, 3)):  # IP packets between other machines
        w.frames.append((16 * SECOND + i * 7 * MS + 19, clients[0].mac + servers[0].mac + p.frame[12:]))
    ports = (w.port(), 4433)

    def send(i, payload):
        w.udp(17 * SECOND + i * 5 * MS + rng.randrange(10**5), clients[0], servers[1], ports, payload)

    chosen = rng.sample(full, 8)
    for i, p in enumerate(chosen[:3]):  # payloads
        send(i, p.payload)
    # substrings, between bytes of their own: 15 bytes are too few, 16 just enough, two that touch, and one at the end
    a, b, c, d, e = (p.payload for p in chosen[3:])
    send(3, rng.randbytes(9) + a[5:20] + rng.randbytes(30))
    send(4, rng.randbytes(9) + b[5:21] + rng.randbytes(30))
    send(5, c[3:28] + d[2:30] + rng.randbytes(5))
    send(6, rng.randbytes(21) + e[-22:])
    send(7, a[:10])
    return w


def fixture_one(seed=4):
    w = Writer(seed)
    clients, servers, _, _ = site("192.0.2", 52, 0x10)
    ports = (w.port(), 443)
    w.tcp(SECOND, clients[0], servers[0], ports, w.rng.getrandbits(32), 0, 2, 64240, b"\2\4\5\xb4", b"")
    return w


def fixture_no_tcp(seed=5):
    w = Writer(seed)
    clients, servers, resolver, _ = site("192.0.2", 52, 0x10)
    ordinary(w, 0, 14, (), (), clients, servers, resolver)
    w.ping(SECOND, clients[0], servers[1], 4, 48)
    w.arp(SECOND, clients[0], resolver)
    return w


def fixture_ipv6_only(seed=6):
    """Raw IP, without any link header."""
    w = Writer(seed, raw=True)
    _, _, _, six = site("192.0.2", 52, 0x10)
    resolver = Host("2001:db8:1::1")
    for i in range(5):
        turns = tls(w.rng, 1) if i % 2 else http(w.rng, 30)
        w.tcp_flow(w.rng.randrange(10 * SECOND), *six, 443 if i % 2 else 80, turns, "mac" if i else "linux")
    for name in NAMES:
        w.dns(w.rng.randrange(10 * SECOND), six[0], resolver, name, tos=0x20)
    w.ping(3 * SECOND, *six, 3, 24)
    # destination options in front of UDP
    w.udp(4 * SECOND, *six, (w.port(), 4000), w.rng.randbytes(33), inner=(60, bytes([UDP, 0, 1, 4, 0, 0, 0, 0])))
    return w


def fixtures(folder):
    os.makedirs(folder, exist_ok=True)
    train = fixture_train()
    made = {
        "real": fixture_real(),
        "synthetic": fixture_synthetic(train),
        "train": train,
        "one": fixture_one(),
        "no_tcp": fixture_no_tcp(),
        "ipv6_only": fixture_ipv6_only(),
    }

    def path(name):
        return os.path.join(folder, name + ".pcap")

    for name, writer in made.items():
        writer.save(path(name), nano=name == "synthetic")
        assert os.path.getsize(path(name)) < 40_000, name
    expected = {
        f"real-{name}": compare(path("real"), path(name), path("train") if name == "synthetic" else None)
        for name in ("synthetic", "one", "no_tcp", "ipv6_only")
    }
    with open(os.path.join(folder, "expected.json"), "w") as f:
        json.dump(expected, f, indent=1, allow_nan=False)
        f.write("\n")


def main(arguments):
    if len(arguments) == 2 and arguments[0] == "--fixtures":
        fixtures(arguments[1])
    elif len(arguments) in (2, 3) and not arguments[0].startswith("-"):
        print(json.dumps(compare(*arguments), indent=1, allow_nan=False))
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
