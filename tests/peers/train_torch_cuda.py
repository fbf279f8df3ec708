#!/usr/bin/env python3
"""Trains Mamba-1 in PyTorch on random tokens and prints its speed: the peer for `wiremamba bench train --device cuda:0`.

    python tests/peers/train_torch_cuda.py --preset paper --batch 8 --seq-len 4096 --steps 5

The scan is mamba-ssm's where that is installed, else the best that PyTorch has (`mamba_torch.py`), and named in the result. A step is
forward, backward, clipping by global norm and fused AdamW; products in bf16 under autocast, weights and moments in f32. Blocks are
computed again in the backward pass (`checkpointing`) where memory does not do without. Prints one JSON object: `tokens_per_s` of
the median step, all steps' seconds, `peak_bytes`, `scan`, `compiled`, `versions`. `--device cpu` runs the same on the CPU.
"""

import argparse
import importlib.metadata
import json
import statistics
import time

import torch
import torch.utils.checkpoint

import mamba_torch
from presets import PRESETS, VOCAB_SIZE


def run(args, scan: str, checkpointing: bool) -> dict:
    torch.manual_seed(1)
    device = torch.device(args.device)
    is_gpu = device.type == "cuda"
    d_model, n_layer = PRESETS[args.preset]
    model = mamba_torch.Mamba(d_model, args.layers or n_layer, VOCAB_SIZE, scan).to(device)
    model.checkpoints = checkpointing
    compiled = args.compile and scan != "mamba-ssm"
    if compiled:
        for layer in model.layers:
            layer.compile(dynamic=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=1e-2, fused=is_gpu)
    tokens = torch.randint(0, VOCAB_SIZE, (args.batch, args.seq_len + 1), device=device)
    seconds, loss = [], 0.0
    if is_gpu:
        torch.cuda.reset_peak_memory_stats()
    for _ in range(args.steps + args.warm_up):
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=args.dtype == "bf16"):
            value = model.loss(tokens[:, :-1], tokens[:, 1:])
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        loss = value.item()  # waits for the device
        seconds.append(time.perf_counter() - start)
    counted = seconds[args.warm_up :]
    return {
        "tokens_per_s": args.batch * args.seq_len / statistics.median(counted),
        "step_s": counted,
        "first_step_s": seconds[0],
        "peak_bytes": torch.cuda.max_memory_allocated() if is_gpu else None,
        "parameters": sum(p.numel() for p in model.parameters()),
        "loss": loss,
        "scan": scan,
        "compiled": compiled,
        "checkpointing": checkpointing,
        "dtype": args.dtype,
        "device": torch.cuda.get_device_name() if is_gpu else "cpu",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--preset", choices=PRESETS, default="paper")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seq-len", type=int, default=4096)
    parser.add_argument("--layers", type=int, help="instead of the preset's")
    parser.add_argument("--steps", type=int, default=5, help="counted steps")
    parser.add_argument("--warm-up", type=int, default=2, help="steps before those")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--dtype", choices=("f32", "bf16"), default="bf16")
    parser.add_argument("--scan", choices=("auto", "mamba-ssm", "chunks", "mambapy"), default="auto")
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="run the blocks eagerly")
    args = parser.parse_args()
    scan = mamba_torch.available()[0] if args.scan == "auto" else args.scan
    failed = []
    for checkpointing in (False, True):
        try:
            ret = run(args, scan, checkpointing)
            break
        except torch.OutOfMemoryError as error:
            failed.append(str(error).split(".")[0])
            torch.cuda.empty_cache()
    else:
        raise SystemExit(f"{scan}: {failed[-1]}, even with every block computed again")
    versions = {}
    for package in ("torch", "triton", "mamba-ssm", "causal-conv1d", "mambapy"):
        if package in ("torch", "triton") or scan in package or (scan, package) == ("mamba-ssm", "causal-conv1d"):
            try:
                versions[package] = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                pass
    print(json.dumps(ret | {"versions": versions}))


if __name__ == "__main__":
    main()
