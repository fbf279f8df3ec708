#!/usr/bin/env python3
"""Generates with Hugging Face's Mamba and prints its speed: the peer for `wiremamba bench decode`.

    pip install torch transformers
    python tests/peers/decode_transformers.py --preset paper --streams 64 --dtype bf16 --steps 30

One token for each of `--streams` streams a step, from the recurrent state, on the CPU. A bare loop over the
model's forward with its cache, in inference mode and without `generate()`, whose bookkeeping costs 6 to 30 % more. The
next token is the largest logit's, or with `--sample` drawn from the softmax. Prints one JSON object: `tokens_per_s` over all
streams, of the median step, `step_s` (median), `peak_rss_bytes`, `versions`.
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

WARM_UP_STEPS = 3
PROMPT_TOKENS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--preset", choices=PRESETS, default="small")
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--dtype", choices=("f32", "bf16"), default="f32")
    parser.add_argument("--steps", type=int, default=50, help="counted steps")
    parser.add_argument("--sample", action="store_true", help="draw from the softmax instead of taking the largest")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)

    d_model, n_layer = PRESETS[args.preset]
    config = transformers.MambaConfig(
        vocab_size=VOCAB_SIZE, hidden_size=d_model, num_hidden_layers=n_layer,
        pad_token_id=None, bos_token_id=None, eos_token_id=None,
    )
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[args.dtype]
    model = transformers.MambaForCausalLM(config).to(dtype).eval()
    seconds = []
    with torch.inference_mode():
        out = model(torch.randint(0, VOCAB_SIZE, (args.streams, PROMPT_TOKENS)), use_cache=True, logits_to_keep=1)
        for _ in range(WARM_UP_STEPS + args.steps):
            start = time.perf_counter()
            logits = out.logits[:, -1]
            if args.sample:
                tokens = torch.multinomial(logits.softmax(-1), 1)
            else:
                tokens = logits.argmax(-1, keepdim=True)
            out = model(tokens, cache_params=out.cache_params, use_cache=True)
            seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds[WARM_UP_STEPS:])
    print(json.dumps({
        "tokens_per_s": args.streams / median,
        "step_s": median,
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "streams": args.streams,
        "dtype": args.dtype,
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }))


if __name__ == "__main__":
    main()
