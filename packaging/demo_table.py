"""Prints the demo's table: real, generated and replayed packets side by side. Usage: demo_table.py WORK_FOLDER"""

import collections
import json
import subprocess
import sys

LABELS = ("web", "dns", "ssh")
FIELDS = ("frame.len", "frame.protocols", "_ws.malformed", "ip.checksum.status", "ip.src", "ip.dst", "ip.proto",
          "tcp.srcport", "tcp.dstport", "udp.srcport", "udp.dstport", "tcp.flags")


def rows(path):
    """One dict a packet, as tshark sees it, with checksums verified."""
    command = ["tshark", "-n", "-r", path, "-o", "ip.check_checksum:TRUE", "-T", "fields", "-E", "occurrence=f"]
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
    tops = collections.Counter((p.get("frame.protocols") or "?").split(":")[-1] for p in packets)
    return {
        "packets": count,
        "5-tuples": len(flows),
        "bytes": sum(int(p["frame.len"] or 0) for p in packets),
        "mean size": sum(int(p["frame.len"] or 0) for p in packets) / count if count else 0.0,
        "IPv4 %": share(lambda p: bool(p.get("ip.src"))),
        "IP checksum right %": share(lambda p: p.get("ip.checksum.status") in ("1", "Good")),
        "TCP or UDP %": share(lambda p: bool(p.get("tcp.srcport") or p.get("udp.srcport"))),
        "protocols": ", ".join(f"{name} {100 * n / count:.0f}%" for name, n in tops.most_common(4)) if count else "",
    }


def main(work):
    train = json.load(open(f"{work}/train.json"))
    agree = True
    for label in LABELS:
        real = summary(rows(f"{work}/capture/{label}/{label}.pcap"))
        made = summary(rows(f"{work}/generated/{label}.pcap"))
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
    print(f"\nheld-out flows ({train['held_out_flows']}), bits per byte: model {train['held_out']['bits_per_byte']:.2f}, "
          + ", ".join(f"{b['name']} {b['bits_per_byte']:.2f}" for b in train["baselines"]))
    print(f"trained {train['steps']} steps at {train['tokens_per_s']:.0f} tokens/s")
    print("""
How to read it: the model writes every byte itself, so a share below 100 % in the column "generated" is what it
has not learned in this short time. Times between packets are drawn from those of the real flows.""")
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
