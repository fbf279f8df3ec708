"""Prints the demo's table: real, generated and replayed packets side by side. Usage: demo_table.py WORK_FOLDER"""

import collections
import json
import subprocess
import sys

LABELS = ("web", "dns", "ssh")
FIELDS = ("frame.time_epoch", "frame.len", "frame.protocols", "_ws.malformed", "ip.checksum.status", "tcp.checksum.status", "udp.checksum.status", "ip.src", "ip.dst", "ip.proto",
          "tcp.srcport", "tcp.dstport", "udp.srcport", "udp.dstport", "tcp.flags")
PREFERENCES = [word for layer in ("ip", "tcp", "udp") for word in ("-o", f"{layer}.check_checksum:TRUE")]


def rows(path):
    """One dict a packet, as tshark sees it, with checksums verified."""
    command = ["tshark", "-n", "-r", path, *PREFERENCES, "-T", "fields", "-E", "occurrence=f"]
    for field in FIELDS:
        command += ["-e", field]
    out = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return [dict(zip(FIELDS, line.split("\t"), strict=False)) for line in out.splitlines()]


def summary(packets):
    """Counts and shares of one capture."""
    count = len(packets)
    share = lambda test: 100 * sum(map(test, packets)) / count if count else 0.0
    flows = set()
    for p in packets:
        ends = sorted([(p.get("ip.src"), p.get("tcp.srcport") or p.get("udp.srcport")),
                       (p.get("ip.dst"), p.get("tcp.dstport") or p.get("udp.dstport"))], key=str)
        if p.get("ip.src"):
            flows.add((p.get("ip.proto"), *ends))
    times = sorted(float(p["frame.time_epoch"]) for p in packets)
    gaps = sorted(b - a for a, b in zip(times, times[1:], strict=False))
    right = ("1", "Good")
    tops = collections.Counter((p.get("frame.protocols") or "?").split(":")[-1] for p in packets)
    return {
        "packets": count,
        "5-tuples": len(flows),
        "bytes": sum(int(p["frame.len"] or 0) for p in packets),
        "mean size": sum(int(p["frame.len"] or 0) for p in packets) / count if count else 0.0,
        "median gap, ms": 1000 * gaps[len(gaps) // 2] if gaps else 0.0,
        "TCP or UDP %": share(lambda p: bool(p.get("tcp.srcport") or p.get("udp.srcport"))),
        "IP checksum right %": share(lambda p: p.get("ip.checksum.status") in right),
        "TCP, UDP right %": share(lambda p: (p.get("tcp.checksum.status") or p.get("udp.checksum.status")) in right),
        "malformed %": share(lambda p: bool(p.get("_ws.malformed"))),
        "protocols": ", ".join(f"{name} {100 * n / count:.0f}%" for name, n in tops.most_common(4)) if count else "",
    }


def main(work):
    train = json.load(open(f"{work}/train.json"))
    agree = True
    for label in LABELS:
        real = summary(rows(f"{work}/capture/{label}/{label}.pcap"))
        made = summary(rows(f"{work}/generated/{label}/{label}.pcap"))
        seen = summary(rows(f"{work}/tap/{label}.pcap"))
        replay = json.load(open(f"{work}/replay-{label}.json"))
        print(f"\n{label:<22}{'real':>14}{'generated':>14}{'on the tap':>14}")
        for name in real:
            if name == "protocols":
                continue
            cells = [f"{side[name]:.1f}" if isinstance(side[name], float) else f"{side[name]}" for side in (real, made, seen)]
            print(f"  {name:<20}" + "".join(f"{cell:>14}" for cell in cells))
        for name, side in (("real", real), ("generated", made)):
            print(f"  protocols, {name}: {side['protocols']}")
        print(f"  replayed: sent {replay['sent']}, refused {replay['refused']}, late {replay['late']}")
        if replay["sent"] + replay["refused"] != made["packets"] or seen["packets"] != replay["sent"]:
            agree = False
            print("  THE COUNTS DO NOT AGREE")
    costs = [("model", train["held_out"])] + [(b["name"], b) for b in train["baselines"]]
    print(f"\nheld-out flows ({train['held_out_flows']}), bits per packet: "
          + ", ".join(f"{name} {cost['bits_per_packet']:.1f}" for name, cost in costs))
    print(f"trained {train['steps']} steps at {train['tokens_per_s']:.0f} tokens/s")
    print("""
How to read it: the model decides what is sent and when; checksums, lengths, sequence numbers and hosts are computed,
so they are right whatever it has learned. Real checksums can be wrong where the sender left them to its device.""")
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
