#!/usr/bin/env python3
"""Records what Hugging Face's Mamba computes, for `model/tests/golden.rs` to compare with.

    pip install torch transformers safetensors numpy
    python tests/golden/make.py            # writes NAME.json and NAME.safetensors beside itself
    python tests/golden/make.py --check    # computes again and compares with what is recorded

Everything runs in f32 on the CPU, on the plain code path of `MambaForCausalLM` (one time step after another).

| name  | sizes                                 | weights                    | gradients            |
|-------|---------------------------------------|----------------------------|----------------------|
| tiny  | the `tiny` preset, vocabulary 300     | recorded, torch seed 1     | recorded in full     |
| odd   | no two sizes alike, none a power of 2 | recipe                     | recorded in full     |
| small | the `small` preset, vocabulary 300    | recipe                     | samples and sums     |

The recipe makes weights that both sides can compute and nobody needs to store. Element `j` (row-major) of the tensor
named `name` comes from

    z = splitmix64(fnv1a64(name) + j)            all modulo 2^64
    u = (z >> 40) / 2^24                         in [0, 1), exact in f32
    value = f32(centre + reach * (2 u - 1))      worked out in f64

with (centre, reach) by the last part of the name, see `centre_and_reach`. Input tokens are `z mod vocab_size` for the
name `tokens`.

Tensors in NAME.safetensors: `logits` (b, l, vocab), `weight.*` (tiny), `grad.*` in full, or `sample.*`, every
`stride`-th element of a gradient. NAME.json: sizes, tokens, the mean loss, the greedy continuation of row 0 (each
winning by a margin that rounding cannot turn), and L2 norm, sum and largest magnitude of every gradient, in f64.
Gradients are those of the mean cross-entropy over the b (l - 1) next tokens.
"""

import argparse
import json
import math
import os
import pathlib
import platform
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import safetensors
import torch
import transformers
from safetensors.numpy import load_file, save_file

HERE = pathlib.Path(__file__).resolve().parent
GREEDY_TOKENS = 16
# A fair guess at the rounding of a logit is 1e-5; a token that wins by less than this is not recorded.
MARGIN_MIN = 1e-3
SAMPLES_PER_TENSOR = 256

CASES = {
    "tiny": dict(vocab_size=300, hidden_size=64, num_hidden_layers=2, b=2, l=32, recipe=False, sampled=False),
    "odd": dict(vocab_size=37, hidden_size=22, num_hidden_layers=3, state_size=5, conv_kernel=3, time_step_rank=7,
                b=3, l=19, recipe=True, sampled=False),
    "small": dict(vocab_size=300, hidden_size=256, num_hidden_layers=8, b=2, l=24, recipe=True, sampled=True),
}


def hashed(name: str, n: int) -> np.ndarray:
    """The first n numbers of the recipe's stream for `name`, as uint64."""
    mask, fnv = (1 << 64) - 1, 0xCBF29CE484222325
    for byte in name.encode():
        fnv = ((fnv ^ byte) * 0x100000001B3) & mask
    with np.errstate(over="ignore"):
        z = np.uint64(fnv) + np.arange(n, dtype=np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def centre_and_reach(name: str, shape: tuple) -> tuple:
    """Where the values of a tensor lie: as the published code initialises it, but with mixers that speak louder.

    With the published ranges a fresh model says the token it just read again, and hardly feels its A: a poor test.
    """
    fan_in = shape[-1]
    last = name.rsplit("mixer.", 1)[-1]
    if last == "A_log":  # ln(1), ln(2), ...: a centre for each column
        return np.log(np.arange(1, fan_in + 1, dtype=np.float64)), 0.1
    return {
        "backbone.embeddings.weight": (0.0, 0.1),
        "D": (1.0, 0.2),
        "conv1d.weight": (0.0, 1 / math.sqrt(fan_in)),
        "conv1d.bias": (0.0, 0.5),
        "in_proj.weight": (0.0, 2 / math.sqrt(fan_in)),
        "x_proj.weight": (0.0, 2 / math.sqrt(fan_in)),
        "dt_proj.weight": (0.0, 1 / math.sqrt(fan_in)),
        "dt_proj.bias": (-2.5, 2.0),  # softplus of it: 0.011 to 0.47
        "out_proj.weight": (0.0, 2 / math.sqrt(fan_in)),
    }.get(last, (1.0, 0.2))  # the norms


def recipe(name: str, shape: tuple) -> np.ndarray:
    centre, reach = centre_and_reach(name, shape)
    u = (hashed(name, math.prod(shape)) >> np.uint64(40)).astype(np.float64) / 2**24
    return (centre + reach * (2 * u - 1).reshape(shape)).astype(np.float32)


def build(case: dict) -> transformers.MambaForCausalLM:
    sizes = {k: v for k, v in case.items() if k not in ("b", "l", "recipe", "sampled")}
    torch.manual_seed(1)
    config = transformers.MambaConfig(**sizes, use_mambapy=False, pad_token_id=None, bos_token_id=None, eos_token_id=None)
    model = transformers.MambaForCausalLM(config).to(torch.float32).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if case["recipe"]:
                shape = tuple(parameter.shape)
                parameter.copy_(torch.from_numpy(recipe(name, shape)))
            else:  # off the regular values that initialisation gives to norms, A, D and biases
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def greedy(model: transformers.MambaForCausalLM, prompt: list) -> tuple:
    """The continuation by the largest logit, the whole sequence computed anew each time; and the smallest lead."""
    tokens, margin = list(prompt), math.inf
    with torch.no_grad():
        for _ in range(GREEDY_TOKENS):
            best = model(torch.tensor([tokens]), use_cache=False).logits[0, -1].topk(2)
            margin = min(margin, float(best.values[0] - best.values[1]))
            tokens.append(int(best.indices[0]))
    return tokens[len(prompt):], margin


def record(name: str) -> tuple:
    case = CASES[name]
    model = build(case)
    config, b, l = model.config, case["b"], case["l"]
    tokens = (hashed("tokens", b * l) % np.uint64(config.vocab_size)).astype(np.int64)
    ids = torch.from_numpy(tokens.reshape(b, l))
    out = model(ids, labels=ids, use_cache=False)
    out.loss.backward()
    continuation, margin = greedy(model, tokens[:l].tolist())
    assert margin > MARGIN_MIN, f"{name}: a greedy token wins by only {margin}; choose another seed"

    tensors = {"logits": out.logits.detach().numpy()}
    gradients = {}
    for parameter_name, parameter in model.named_parameters():
        values = parameter.grad.numpy()
        exact = values.astype(np.float64).ravel()
        stats = {
            "l2": float(np.sqrt((exact**2).sum())),
            "sum": float(exact.sum()),
            "max_abs": float(np.abs(exact).max()),
        }
        if case["sampled"]:
            # Odd, so that the samples wander over the columns.
            stats["stride"] = max(1, exact.size // SAMPLES_PER_TENSOR) | 1
            tensors[f"sample.{parameter_name}"] = values.ravel()[:: stats["stride"]].copy()
        else:
            tensors[f"grad.{parameter_name}"] = values
        if not case["recipe"]:
            tensors[f"weight.{parameter_name}"] = parameter.detach().numpy()
        gradients[parameter_name] = stats
    meta = {
        "made_by": "tests/golden/make.py",
        "versions": versions(),
        "config": {
            "vocab_size": config.vocab_size,
            "d_model": config.hidden_size,
            "n_layer": config.num_hidden_layers,
            "d_state": config.state_size,
            "d_conv": config.conv_kernel,
            "d_inner": config.intermediate_size,
            "dt_rank": config.time_step_rank,
            "norm_eps": config.layer_norm_epsilon,
        },
        "recipe": case["recipe"],
        "b": b,
        "l": l,
        "tokens": tokens.tolist(),
        "loss": out.loss.item(),
        "greedy": continuation,
        "greedy_margin": margin,
        "gradients": gradients,
    }
    return meta, tensors


def versions() -> dict:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "safetensors": safetensors.__version__,
        "numpy": np.__version__,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; compare with the recorded files")
    parser.add_argument("names", nargs="*", help="cases to make (default: all)")
    args = parser.parse_args()
    print(json.dumps(versions()))
    failed = False
    for name in args.names or CASES:
        meta, tensors = record(name)
        if args.check:
            recorded = load_file(HERE / f"{name}.safetensors")
            off = max(float(np.abs(v - recorded[k]).max() / np.abs(recorded[k]).max()) for k, v in tensors.items())
            same = json.loads((HERE / f"{name}.json").read_text())["greedy"] == meta["greedy"]
            failed |= off > 1e-5 or not same
            print(f"{name}: largest difference {off:.1e} of the largest value, greedy tokens {'same' if same else 'DIFFER'}")
            continue
        save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, HERE / f"{name}.safetensors")
        (HERE / f"{name}.json").write_text(json.dumps(meta, indent=1) + "\n")
        size = sum((HERE / f"{name}.{e}").stat().st_size for e in ("json", "safetensors"))
        print(f"{name}: loss {meta['loss']:.6f}, smallest greedy lead {meta['greedy_margin']:.4f}, {size} bytes")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
