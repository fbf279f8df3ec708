"""The table and the picture of adapt.sh: held-out bits per packet over time, and when most of the gain was there."""

import json
import math
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


def picture(curves, minutes):
    """An SVG of (minute, bits per packet) curves by their names; bits on a logarithmic scale."""
    width, height, left, bottom, low, high = 720, 360, 50, 40, 5, 200

    def x(minute):
        return left + (width - left - 90) * minute / minutes

    def y(bits):
        return (height - bottom) - (height - bottom - 20) * math.log(bits / low) / math.log(high / low)

    lines = []
    for bits in (5, 10, 20, 50, 100, 200):
        lines.append(f'<path d="M{left} {y(bits):.1f}H{width - 90}" stroke="#ccc"/>')
        lines.append(f'<text x="{left - 8}" y="{y(bits) + 4:.1f}" text-anchor="end">{bits}</text>')
    for minute in range(0, int(minutes) + 1, 5):
        lines.append(f'<text x="{x(minute):.1f}" y="{height - 20}" text-anchor="middle">{minute}</text>')
    lines.append(f'<text x="{left}" y="14">held-out bits per packet</text>')
    lines.append(f'<text x="{width - 90}" y="{height - 4}" text-anchor="end">minutes of new traffic</text>')
    for (name, curve), colour in zip(curves.items(), ("#0072b2", "#888", "#d55e00")):
        points = " ".join(f"{x(m):.1f},{y(min(max(b, low), high)):.1f}" for m, b in curve)
        lines.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        lines.append(f'<text x="{x(curve[-1][0]) + 6:.1f}" y="{y(curve[-1][1]) + 4:.1f}" fill="{colour}">{name}</text>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">'
    back = f'<rect width="{width}" height="{height}" fill="#fff"/>'
    return "\n".join([head, back, *lines, "</svg>", ""])


def main():
    """Prints the table of the folder that is named, and writes curve.svg into it."""
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
    names = {"live": live, "frozen": frozen, "nothing": nothing}
    curves = {}
    for name, curve in names.items():
        first = [(0, curve[0][1]["bits_per_packet_before"])] if curve else []
        curves[name] = first + [(max(m, 0), s["bits_per_packet"]) for m, s in curve]
    (out / "curve.svg").write_text(picture({n: c for n, c in curves.items() if c}, last))


main()
