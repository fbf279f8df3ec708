"""How close generated flows are to real ones: the table "the wire codec beside the paper's" of BENCHMARKS.md.

usage: closeness.py MANIFEST.csv NAME=FOLDER...      (needs numpy, and tshark and ndpiReader on the PATH)

Each folder has one capture a label, LABEL.pcap, with flows of at most PACKETS packets. They are held against as many
real flows of the same label, cut to the same length; the row "real" is another drawing of the real flows.
"""

import collections
import csv
import os
import random
import struct
import subprocess
import sys
import tempfile

import numpy as np

FLOWS, PACKETS = 20, 32
SYN, ACK, FIN, RST = 2, 16, 1, 4
Packet = collections.namedtuple("Packet", "ts ip v4 proto src dst sport dport tcp payload")


def read(path):
    """Times in seconds, and frames as IP packets (or None) with the frame itself."""
    data = open(path, "rb").read()
    magic = data[:4]
    if magic in (b"\xd4\xc3\xb2\xa1", b"\x4d\x3c\xb2\xa1"):
        order = "<"
    elif magic in (b"\xa1\xb2\xc3\xd4", b"\xa1\xb2\x3c\x4d"):
        order = ">"
    else:  # pcapng: let a tool turn it
        with tempfile.NamedTemporaryFile(suffix=".pcap") as plain:
            subprocess.run(["editcap", "-F", "pcap", path, plain.name], check=True)
            yield from read(plain.name)
        return
    unit = 1e-9 if magic in (b"\x4d\x3c\xb2\xa1", b"\xa1\xb2\x3c\x4d") else 1e-6
    link = struct.unpack(order + "I", data[20:24])[0] & 0xFFFF
    at = 24
    while at + 16 <= len(data):
        seconds, fraction, caplen, _ = struct.unpack(order + "IIII", data[at : at + 16])
        frame = data[at + 16 : at + 16 + caplen]
        yield seconds + fraction * unit, link, frame
        at += 16 + caplen


def ip_of(link, frame):
    if link == 101:
        return frame
    at = {1: 12, 113: 14, 276: 0}.get(link)
    if at is None:
        return b""
    kind, at = frame[at : at + 2], {1: 14, 113: 16, 276: 20}[link]
    while kind in (b"\x81\x00", b"\x88\xa8"):
        kind, at = frame[at + 2 : at + 4], at + 4
    return frame[at:] if kind in (b"\x08\x00", b"\x86\xdd") else b""


def dissect(ts, link, frame):
    """The packet, or None where there is no IP."""
    ip = ip_of(link, frame)
    if len(ip) >= 20 and ip[0] >> 4 == 4 and 20 <= (ip[0] & 15) * 4 <= len(ip):
        proto, src, dst, above = ip[9], ip[12:16], ip[16:20], ip[(ip[0] & 15) * 4 : max(struct.unpack(">H", ip[2:4])[0], 20)]
        v4 = True
    elif len(ip) >= 40 and ip[0] >> 4 == 6:
        proto, src, dst, above, v4 = ip[6], ip[8:24], ip[24:40], ip[40:], False
    else:
        return None
    sport = dport = 0
    tcp = payload = b""
    if proto == 6 and len(above) >= 20:
        length = (above[12] >> 4) * 4
        tcp, payload = above[: max(length, 20)], above[max(length, 20) :]
    if proto in (6, 17) and len(above) >= 4:
        sport, dport = struct.unpack(">HH", above[:4])
    return Packet(ts, ip, v4, proto, src, dst, sport, dport, tcp, payload)


def flows_of(path):
    flows = collections.OrderedDict()
    for ts, link, frame in read(path):
        p = dissect(ts, link, frame)
        if p is None:
            continue
        key = (p.proto, *sorted([(p.src, p.sport), (p.dst, p.dport)]))
        flows.setdefault(key, []).append((p, link, ts, frame))
    return list(flows.values())


def bits(p):
    """nPrint's columns without IPv6: IPv4 480, TCP 480, UDP 64, ICMP 64; 1, 0, or -1 where there is none."""
    ret = np.full(1088, -1, np.int8)
    put = lambda at, size, raw: ret.__setitem__(slice(at, at + min(size, len(raw) * 8)), np.unpackbits(np.frombuffer(raw, np.uint8))[:size])
    above = b""
    if p.v4:
        header = (p.ip[0] & 15) * 4
        put(0, 480, p.ip[:header])
        above = p.ip[header:]
    else:
        above = p.ip[40:]
    if p.tcp:
        put(480, 480, p.tcp[:60])
    elif p.proto == 17:
        put(960, 64, above[:8])
    elif p.proto == 1:
        put(1024, 64, above[:8])
    return ret


# Who talks, not how: addresses, ports, identifications, sequence numbers, checksums; at bits of `bits`.
IDENTITY = [(32, 48), (80, 160), (480, 576), (608, 624), (960, 992), (1008, 1024), (1040, 1056)]
STRUCTURE = np.setdiff1d(np.arange(1088), np.concatenate([np.arange(*span) for span in IDENTITY]))


def distances(real, made):
    """Mean over columns of the Jensen-Shannon distance, total variation and Hellinger distance."""
    freq = lambda rows: np.stack([(rows == v).mean(0) for v in (-1, 0, 1)])
    p, q = freq(real), freq(made)
    m = (p + q) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        kl = lambda a: np.where(a > 0, a * np.log(a / m), 0).sum(0)
        jsd = np.sqrt(np.maximum((kl(p) + kl(q)) / 2, 0))
    return jsd.mean(), (np.abs(p - q).sum(0) / 2).mean(), np.sqrt(np.maximum(1 - np.sqrt(p * q).sum(0), 0)).mean()


def ks(a, b):
    a, b = np.sort(a), np.sort(b)
    both = np.concatenate([a, b])
    return np.abs(np.searchsorted(a, both, "right") / max(len(a), 1) - np.searchsorted(b, both, "right") / max(len(b), 1)).max()


def tcp_errors(flow):
    """What no pair of TCPs would send, packet by packet: RFC 9293."""
    errors, sides, dead = 0, {}, False
    ahead = lambda a, b: (a - b + (1 << 31)) % (1 << 32) - (1 << 31)
    for p, *_ in flow:
        if not p.tcp:
            continue
        seq, ack, offset, flags = struct.unpack(">IIBB", p.tcp[4:14])
        me, peer = (p.src, p.sport), (p.dst, p.dport)
        bad = flags & (SYN | FIN) == SYN | FIN or flags & (SYN | RST) == SYN | RST or not flags & (SYN | ACK | RST)
        bad |= (offset >> 4) * 4 < 20 or (dead and not flags & RST)
        end = (seq + len(p.payload) + bool(flags & SYN) + bool(flags & FIN)) % (1 << 32)
        if me in sides and not flags & RST:
            # Ahead of all that was sent, and of all that a window lets be lost; or before the beginning.
            bad |= ahead(seq, sides[me][1]) > 65_535 or ahead(seq, sides[me][0]) < -1
        first, last = sides.get(me, (seq, end))
        sides[me] = (first, end if ahead(end, last) > 0 else last)
        if flags & ACK and peer in sides:
            bad |= ahead(ack, sides[peer][1]) > 0 or ahead(ack, sides[peer][0]) < 0
        dead |= bool(flags & RST)
        errors += bad
    return errors


def write(path, packets):
    """Ethernet frames, whatever they came in."""
    with open(path, "wb") as f:
        f.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 1))
        for p, link, ts, frame in sorted(packets, key=lambda x: x[2]):
            if link != 1:
                frame = bytes(12) + (b"\x08\x00" if p.v4 else b"\x86\xdd") + p.ip
            f.write(struct.pack("<IIII", int(ts), int(ts % 1 * 1e6), len(frame), len(frame)) + frame)


def tshark(path):
    """How many packets have every checksum right, how many are malformed anywhere, and how many there are."""
    command = ["tshark", "-n", "-r", path]
    for layer in ("ip", "tcp", "udp"):
        command += ["-o", f"{layer}.check_checksum:TRUE"]
    names = [f"{layer}.checksum.status" for layer in ("ip", "tcp", "udp", "icmp", "icmpv6")] + ["_ws.malformed"]
    command += ["-T", "fields", "-E", "occurrence=f", *[word for name in names for word in ("-e", name)]]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    rows = [line.split("\t") for line in out]
    right = sum("1" in row[:5] and "0" not in row[:5] for row in rows)
    return np.array([right, sum(bool(row[5]) for row in rows), len(rows)])


def ndpi(path):
    """Protocols of the flows, without guessing by port."""
    with tempfile.NamedTemporaryFile(suffix=".csv") as out:
        subprocess.run(["ndpiReader", "-q", "-d", "-i", path, "-C", out.name], capture_output=True, check=True)
        rows = list(csv.DictReader(open(out.name, errors="replace")))
    return collections.Counter(row.get("ndpi_proto") for row in rows)


def overlap(a, b):
    return sum(min(a[k] / max(a.total(), 1), b[k] / max(b.total(), 1)) for k in a)


def main(manifest, named):
    folder = os.path.dirname(manifest)
    paths = collections.defaultdict(list)
    for row in csv.DictReader(open(manifest)):
        paths[row["label"]].append(os.path.join(folder, row["path"]))
    labels = sorted(f[:-5] for f in os.listdir(named[0][1]) if f.endswith(".pcap"))
    chance, sets = random.Random(1), {name: {} for name in ("reference", "real", *dict(named))}
    for label in labels:
        flows = [flow for path in paths[label] for flow in flows_of(path)]
        chance.shuffle(flows)
        half = min(FLOWS, len(flows) // 2)
        sets["reference"][label], sets["real"][label] = flows[:half], flows[half : 2 * half]
        for name, where in named:
            sets[name][label] = flows_of(f"{where}/{label}.pcap")
    judged = {}
    with tempfile.TemporaryDirectory() as work:
        for name, by_label in sets.items():
            counts, errors, segments = np.zeros(3), 0, 0
            rows, gaps, protocols = [], [], {}
            for label, flows in by_label.items():
                cut = [flow[:PACKETS] for flow in flows]
                path = f"{work}/{name}-{label}.pcap"
                write(path, [x for flow in cut for x in flow])
                # What has no IP is in no flow: it is counted from the file itself.
                judge = path if name in ("reference", "real") else f"{dict(named)[name]}/{label}.pcap"
                counts += tshark(judge)
                protocols[label] = ndpi(path)
                for flow in cut:
                    errors += tcp_errors(flow)
                    segments += sum(bool(x[0].tcp) for x in flow)
                    times = [x[2] for x in flow]
                    gaps += np.diff(times).tolist()
                    rows += [bits(x[0]) for x in flow]
            judged[name] = dict(counts=counts, errors=1000 * errors / max(segments, 1), rows=np.stack(rows), gaps=np.array(gaps), protocols=protocols)
    reference = judged.pop("reference")
    print("| | packets | checksums right % | malformed % | TCP errors per 1,000 | nDPI overlap | JSD | TVD | HD | the three without identity | K-S of gaps |")
    print("|---" * 11 + "|")
    for name, j in judged.items():
        real, made = reference["rows"], j["rows"]
        jsd, tvd, hd = distances(real, made)
        structure = ", ".join(f"{d:.3f}" for d in distances(real[:, STRUCTURE], made[:, STRUCTURE]))
        agree = np.mean([overlap(reference["protocols"][label], j["protocols"][label]) for label in labels])
        right, malformed, frames = j["counts"]
        shares = f"{100 * right / frames:.1f} | {100 * malformed / frames:.1f}"
        print(f"| {name} | {frames:.0f} | {shares} | {j['errors']:.1f} | {agree:.2f} | {jsd:.3f} | {tvd:.3f} | {hd:.3f} | {structure} | {ks(reference['gaps'], j['gaps']):.2f} |")


if __name__ == "__main__":
    main(sys.argv[1], [tuple(arg.split("=", 1)) for arg in sys.argv[2:]])
