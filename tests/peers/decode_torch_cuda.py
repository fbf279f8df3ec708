#!/usr/bin/env python3
"""Decodes with Mamba-1 in PyTorch and prints its speed: the peer for `wiremamba bench decode --device cuda:0`.

    python tests/peers/decode_torch_cuda.py --preset paper --streams 64 --steps 50

One token for each of `--streams` streams a step, from the recurrent state, weights in bf16; the next token is the largest logit's. The
state update is mamba-ssm's Triton kernel where that is installed, else PyTorch's own operations. On a GPU the whole step, draw
included, is replayed as one CUDA graph, after `torch.compile` of the blocks. Prints one JSON object: `tokens_per_s` over all
streams of the median step, `step_s`, `peak_bytes`, `scan`, `compiled`, `graph`, `versions`. `--device cpu` runs the same on the CPU.
"""

import argparse
import importlib.metadata
import json
import statistics
import time

import torch

import mamba_torch
from presets import PRESETS, VOCAB_SIZE

WARM_UP_STEPS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--preset", choices=PRESETS, default="paper")
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--steps", type=int, default=50, help="counted steps")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--dtype", choices=("f32", "bf16"), default="bf16")
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="run the blocks eagerly")
    args = parser.parse_args()
    torch.manual_seed(1)
    device = torch.device(args.device)
    is_gpu = device.type == "cuda"
    scan = mamba_torch.available()[0]
    d_model, n_layer = PRESETS[args.preset]
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[args.dtype]
    model = mamba_torch.Mamba(d_model, n_layer, VOCAB_SIZE, scan).to(device, dtype).eval()
    states = model.states(args.streams)
    tokens = torch.zeros(args.streams, dtype=torch.long, device=device)
    if args.compile:
        for layer in model.layers:
            layer.step = torch.compile(layer.step, dynamic=False)

    def step():
        tokens.copy_(model.step(tokens, states).argmax(-1))

    seconds = []
    with torch.inference_mode():
        graph = None
        if is_gpu:
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):
                    step()
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                step()
        for _ in range(WARM_UP_STEPS + args.steps):
            start = time.perf_counter()
            if graph:
                graph.replay()
            else:
                step()
            tokens.tolist()  # the tokens are needed: the renderer and the grammar are on the CPU
            seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds[WARM_UP_STEPS:])
    print(json.dumps({
        "tokens_per_s": args.streams / median,
        "step_s": median,
        "peak_bytes": torch.cuda.max_memory_allocated() if is_gpu else None,
        "streams": args.streams,
        "scan": scan if scan == "mamba-ssm" else "PyTorch operations",
        "compiled": args.compile,
        "graph": graph is not None,
        "dtype": args.dtype,
        "device": torch.cuda.get_device_name() if is_gpu else "cpu",
        "versions": {"torch": importlib.metadata.version("torch")},
    }))


if __name__ == "__main__":
    main()
