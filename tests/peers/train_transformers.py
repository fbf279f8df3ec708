#!/usr/bin/env python3
"""Trains Hugging Face's Mamba on random tokens and prints its speed: the peer for `wiremamba bench train`.

    pip install torch transformers mambapy
    python tests/peers/train_transformers.py --preset small --batch 8 --seq-len 512 --steps 2

A step is forward, backward, clipping by global norm and AdamW, in f32 on the CPU, with the parallel scan of mambapy
(`use_mambapy`), which is the quickest that `pip install` gives without a compiler. Prints one JSON object: `tokens_per_s` of the
median step (the first, which warms up, is not counted), all steps' seconds, `peak_rss_bytes`, `versions`.
"""

import argparse
import json
import os
import resource
import statistics
import time

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers

from presets import PRESETS, VOCAB_SIZE, versions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--preset", choices=PRESETS, default="small")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seq-len", type=int, default=512)
    parser.add_argument("--layers", type=int, help="instead of the preset's, where it would take too long or too much memory")
    parser.add_argument("--steps", type=int, default=2, help="counted steps")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)

    d_model, n_layer = PRESETS[args.preset]
    # Without the package, transformers would quietly take its slow loop instead.
    import mambapy.pscan  # noqa: F401

    config = transformers.MambaConfig(
        vocab_size=VOCAB_SIZE, hidden_size=d_model, num_hidden_layers=args.layers or n_layer, use_mambapy=True,
        pad_token_id=None, bos_token_id=None, eos_token_id=None,
    )
    model = transformers.MambaForCausalLM(config).to(torch.float32).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=1e-2)
    tokens = torch.randint(0, VOCAB_SIZE, (args.batch, args.seq_len))

    seconds = []
    for _ in range(args.steps + 1):
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        loss = model(tokens, labels=tokens, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        loss = loss.item()
        seconds.append(time.perf_counter() - start)
    print(json.dumps({
        "tokens_per_s": args.batch * args.seq_len / statistics.median(seconds[1:]),
        "step_s": seconds[1:],
        "first_step_s": seconds[0],
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "parameters": sum(p.numel() for p in model.parameters()),
        "layers": config.num_hidden_layers,
        "loss": loss,
        "threads": torch.get_num_threads(),
        "versions": versions("mambapy"),
    }))


if __name__ == "__main__":
    main()
