"""The table of adapt.sh: held-out bits per packet over time, and when most of the gain was there."""

import json
import sys
from pathlib import Path

MINUTES = [0, 1, 2, 3, 5, 7, 10, 15, 20, 25, 30, 35, 40, 60]
SHARE = 0.9


def rounds(path):
    """(minutes since the traffic began, to 10 s, and status) of every round of a service."""
    ret, begun, seen = [], 0, 0
    for line in path.read_text().splitlines():
        try:
            status = json.loads(line)
        except json.JSONDecodeError:
            continue  # cut by the end of the run
        if status["packets"] == 0:
            begun = status["uptime_s"]
        if status["rounds"] > seen:
            seen = status["rounds"]
            ret.append(((status["uptime_s"] - begun) / 60, status))
    return ret


def main():
    """Prints the table of the folder that is named."""
    out = Path(sys.argv[1])
    live, nothing, frozen = (rounds(out / f"{name}.jsonl") for name in ("live", "nothing", "frozen"))

    def at(curve, minute):
        before = [s for m, s in curve if m <= minute]
        if before:
            return before[-1]["bits_per_packet"]
        return curve[0][1]["bits_per_packet_before"] if curve else float("nan")

    last = max(m for m, _ in live)
    print("minute    live  frozen  nothing  rehearsal (base)")
    for minute in [m for m in MINUTES if m < last] + [last]:
        known = [s for m, s in live if m <= minute and s["promoted"]]
        rehearsal = known[-1]["rehearsal_bits_per_packet"] if known else None
        base = live[0][1]["rehearsal_bits_per_packet_base"]
        rehearsed = f"{rehearsal:.1f} ({base:.1f})" if rehearsal else "-"
        print(f"{minute:6.1f}  {at(live, minute):6.1f}  {at(frozen, minute):6.1f}  {at(nothing, minute):7.1f}  {rehearsed}")
    first = live[0][1]["bits_per_packet_before"]
    best = min(s["bits_per_packet"] for _, s in live)
    bar = first - SHARE * (first - best)
    when = next(m for m, s in live if s["bits_per_packet"] <= bar)
    print(f"{SHARE:.0%} of the gain from {first:.1f} to {best:.1f} was there after {when:.1f} minutes")
    end = live[-1][1]
    print(f"live: {end['flows']} flows, {end['packets']} packets ({end['packets_dropped']} dropped), "
          f"{end['rounds']} rounds ({end['promoted']} promoted, {end['rounds_failed']} failed)")
    memory = [int(line.split()[1]) / 1024 for line in (out / "memory").read_text().splitlines()]
    print(f"live: memory {memory[0]:.0f} MiB at the start, {memory[len(memory) // 2]:.0f} half-way, "
          f"{memory[-1]:.0f} at the end, {max(memory):.0f} at most")


main()
