#!/usr/bin/env python3
"""Runs two commands in turn, A B A B ..., and compares a number that each prints.

    python tests/peers/abab.py --rounds 5 --key tokens_per_s \\
        --a 'target/release/wiremamba bench decode --preset small --streams 64 --json' \\
        --b 'python tests/peers/decode_transformers.py --preset small --streams 64 --dtype bf16'

Machines are shared and drift: a ratio of two measurements taken in the same minutes is worth more than either. The number is read from
the last line of stdout that is a JSON object, at `--key` (`--key-b` where B calls it otherwise; dots go into objects).
Prints a line a round on stderr, and at the end one JSON object on stdout: values, medians, `ratio` of the medians (A / B)
and the smallest and largest ratio of one round. Fails when a command fails or prints no such number.
"""

import argparse
import json
import shlex
import statistics
import subprocess
import sys


def measure(name: str, command: str, key: str, timeout_s: float) -> float:
    try:
        done = subprocess.run(shlex.split(command), capture_output=True, text=True, timeout=timeout_s)
    except (OSError, subprocess.TimeoutExpired) as error:
        sys.exit(f"{name}: {error}")
    if done.returncode != 0:
        sys.exit(f"{name}: exit status {done.returncode}: {command}\n{done.stderr[-2000:]}")
    for line in reversed(done.stdout.splitlines()):
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if not isinstance(value, dict):
            continue
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
        break
    sys.exit(f"{name}: no JSON object with a number at {key} in the output of: {command}\n{done.stdout[-2000:]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--a", required=True, help="command A, words as a shell would split them")
    parser.add_argument("--b", required=True, help="command B")
    parser.add_argument("--key", default="tokens_per_s")
    parser.add_argument("--key-b", help="the key in B's object, where it differs")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--timeout-s", type=float, default=1800, help="limit of one run")
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error("--rounds must be at least 1")
    a, b = [], []
    for i in range(args.rounds):
        a.append(measure("A", args.a, args.key, args.timeout_s))
        b.append(measure("B", args.b, args.key_b or args.key, args.timeout_s))
        print(f"round {i + 1}: A {a[-1]:.6g}, B {b[-1]:.6g}, A/B {a[-1] / b[-1] if b[-1] else float('nan'):.3f}", file=sys.stderr)
    if not all(b):
        sys.exit("B printed zero")
    ratios = [x / y for x, y in zip(a, b)]
    print(json.dumps({
        "a": a,
        "b": b,
        "median_a": statistics.median(a),
        "median_b": statistics.median(b),
        "ratio": statistics.median(a) / statistics.median(b),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "rounds": args.rounds,
    }))


if __name__ == "__main__":
    main()
