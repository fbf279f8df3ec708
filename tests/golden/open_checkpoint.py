#!/usr/bin/env python3
"""Opens a checkpoint folder with Hugging Face transformers and prints the greedy continuation of a prompt.

    pip install torch transformers safetensors
    python tests/golden/open_checkpoint.py FOLDER --prompt 5,17,3 --new-tokens 32

Prints one JSON object: `continuation` (token ids), `margin` (the smallest lead of a chosen logit over the next best:
where it is near rounding, 1e-4 and below, another program may rightly choose otherwise), `parameters`, `vocab_size`
of the model and `tokenizer_size` (null without tokenizer.json), `versions`.

Fails, with the names, when the weights in the file are not exactly those that transformers expects. Needs no network.
"""

import argparse
import json
import os
import pathlib
import sys

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=pathlib.Path, help="with config.json, model.safetensors and tokenizer.json")
    parser.add_argument("--prompt", required=True, help="token ids, joined by commas")
    parser.add_argument("--new-tokens", type=int, default=16)
    args = parser.parse_args()
    prompt = [int(t) for t in args.prompt.split(",")]

    # Deciding by config.json alone, as any user of transformers would.
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        args.folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
    )
    wrong = {key: sorted(map(str, names)) for key, names in info.items() if names}
    if wrong:
        print(f"{args.folder}: the weights do not fit the model: {json.dumps(wrong)}", file=sys.stderr)
        return 1
    if not isinstance(model, transformers.MambaForCausalLM):
        print(f"{args.folder}: opens as {type(model).__name__}, not MambaForCausalLM", file=sys.stderr)
        return 1
    tokenizer_size = None
    if (args.folder / "tokenizer.json").exists():
        tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(args.folder / "tokenizer.json"))
        tokenizer_size = len(tokenizer)

    # The whole sequence anew for every token: slow, and independent of any cache.
    model.eval()
    tokens, margin = list(prompt), float("inf")
    with torch.no_grad():
        for _ in range(args.new_tokens):
            best = model(torch.tensor([tokens]), use_cache=False).logits[0, -1].topk(2)
            margin = min(margin, (best.values[0] - best.values[1]).item())
            tokens.append(best.indices[0].item())
    print(json.dumps({
        "continuation": tokens[len(prompt):],
        "margin": margin,
        "parameters": sum(p.numel() for p in model.parameters()),
        "vocab_size": model.config.vocab_size,
        "tokenizer_size": tokenizer_size,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }))
    return 0


if __name__ == "__main__":
    sys.exit(main())
