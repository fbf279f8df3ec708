#!/usr/bin/env python3
"""Measures numpy's f32 matrix product (its OpenBLAS): the bound that `wiremamba bench train` is held against.

    pip install numpy
    python tests/peers/gemm_numpy.py --n 2048 --rounds 10

Prints one JSON object: `gflops` (median) and `gflops_best` of an n x n x n product, at 2 n³ operations, on `--threads` threads.
"""

import argparse
import json
import os
import statistics
import time

parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
parser.add_argument("--n", type=int, default=2048)
parser.add_argument("--rounds", type=int, default=10)
parser.add_argument("--threads", type=int, default=2)
args = parser.parse_args()
# OpenBLAS reads these once, when numpy is imported.
for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = str(args.threads)

import numpy as np  # noqa: E402

rng = np.random.default_rng(1)
a, b = (rng.standard_normal((args.n, args.n), dtype=np.float32) for _ in range(2))
ret = np.empty_like(a)
np.matmul(a, b, out=ret)  # warms up, and faults the pages in
seconds = []
for _ in range(args.rounds):
    start = time.perf_counter()
    np.matmul(a, b, out=ret)
    seconds.append(time.perf_counter() - start)
gflop = 2 * args.n**3 / 1e9
print(json.dumps({
    "gflops": gflop / statistics.median(seconds),
    "gflops_best": gflop / min(seconds),
    "n": args.n,
    "threads": args.threads,
    "versions": {"numpy": np.__version__},
}))
