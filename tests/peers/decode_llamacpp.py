#!/usr/bin/env python3
"""Generates with llama.cpp's Mamba and prints its speed: the peer for `wiremamba bench decode`.

    pip install llama-cpp-python gguf numpy
    python tests/peers/decode_llamacpp.py --preset paper --streams 1 --dtype f32 --steps 30

Writes a random Mamba of the preset's sizes as GGUF (kept in --folder for the next run), and calls llama_decode with one token
for each of `--streams` sequences a step, all logits wanted, the next token the largest logit's. dtype is f32, bf16, f16 or q8_0
for the matrices. Prints one JSON object: `tokens_per_s` over all streams, of the median step, `step_s`, `versions`.
"""

import argparse
import ctypes
import importlib.metadata
import json
import os
import statistics
import tempfile
import time

import gguf
import llama_cpp as ll
import numpy as np

from presets import PRESETS, VOCAB_SIZE

WARM_UP_STEPS = 3
D_STATE, D_CONV = 16, 4
TYPES = {
    "f32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
    "f16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "bf16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
}


def write_model(path: str, preset: str, dtype: str) -> None:
    d_model, n_layer = PRESETS[preset]
    d_inner, dt_rank = 2 * d_model, -(-d_model // 16)
    kind, file_type = TYPES[dtype]
    rng = np.random.default_rng(1)
    writer = gguf.GGUFWriter(path, "mamba")
    writer.add_context_length(1 << 20)
    writer.add_embedding_length(d_model)
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_block_count(n_layer)
    writer.add_ssm_conv_kernel(D_CONV)
    writer.add_ssm_inner_size(d_inner)
    writer.add_ssm_state_size(D_STATE)
    writer.add_ssm_time_step_rank(dt_rank)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_file_type(file_type)
    writer.add_vocab_size(VOCAB_SIZE)
    writer.add_tokenizer_model("no_vocab")

    def add(name: str, values: np.ndarray, is_matrix: bool = False) -> None:
        values = values.astype(np.float32)
        # A row has to fill whole blocks of its type; llama.cpp's own conversion leaves the others as they are.
        if is_matrix and kind != gguf.GGMLQuantizationType.F32 and values.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0] == 0:
            writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, values)

    def uniform(*shape: int) -> np.ndarray:
        return rng.uniform(-1, 1, shape) / np.sqrt(shape[-1])

    add("token_embd.weight", 0.02 * rng.standard_normal((VOCAB_SIZE, d_model)), True)
    add("output_norm.weight", np.ones(d_model))
    for i in range(n_layer):
        block = f"blk.{i}."
        add(block + "attn_norm.weight", np.ones(d_model))
        add(block + "ssm_in.weight", uniform(2 * d_inner, d_model), True)
        add(block + "ssm_conv1d.weight", uniform(d_inner, D_CONV))
        add(block + "ssm_conv1d.bias", uniform(d_inner))
        add(block + "ssm_x.weight", uniform(dt_rank + 2 * D_STATE, d_inner), True)
        add(block + "ssm_dt.weight", uniform(d_inner, dt_rank), True)
        add(block + "ssm_dt.bias", np.full(d_inner, -4.6))
        add(block + "ssm_a", -np.tile(np.arange(1, D_STATE + 1), (d_inner, 1)))
        add(block + "ssm_d", np.ones(d_inner))
        add(block + "ssm_out.weight", uniform(d_model, d_inner), True)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--preset", choices=PRESETS, default="small")
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--dtype", choices=TYPES, default="f32")
    parser.add_argument("--steps", type=int, default=50, help="counted steps")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", default=tempfile.gettempdir(), help="where the model is kept")
    args = parser.parse_args()
    path = os.path.join(args.folder, f"mamba-{args.preset}-{args.dtype}.gguf")
    if not os.path.exists(path):
        write_model(path + ".part", args.preset, args.dtype)
        os.replace(path + ".part", path)

    silent = ll.llama_log_callback(lambda *_: None)
    ll.llama_log_set(silent, ctypes.c_void_p(0))
    ll.llama_backend_init()
    model = ll.llama_model_load_from_file(path.encode(), ll.llama_model_default_params())
    if not model:
        raise SystemExit(f"llama.cpp does not load {path}")
    b = args.streams
    params = ll.llama_context_default_params()
    params.n_ctx = 64 * b
    params.n_batch = params.n_ubatch = max(b, 32)
    params.n_seq_max = b
    params.n_threads = params.n_threads_batch = args.threads
    context = ll.llama_init_from_model(model, params)
    if not context:
        raise SystemExit("llama.cpp makes no context")
    batch = ll.llama_batch_init(b, 0, 1)
    batch.n_tokens = b
    tokens = np.arange(b) * 7919 % VOCAB_SIZE
    seconds = []
    for step in range(WARM_UP_STEPS + args.steps):
        start = time.perf_counter()
        for i in range(b):
            batch.token[i] = int(tokens[i])
            batch.pos[i] = step
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = i
            batch.logits[i] = 1
        if ll.llama_decode(context, batch) != 0:
            raise SystemExit("llama_decode failed")
        logits = np.ctypeslib.as_array(ll.llama_get_logits(context), (b, VOCAB_SIZE))
        tokens = logits.argmax(1)
        seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds[WARM_UP_STEPS:])
    print(json.dumps({
        "tokens_per_s": b / median,
        "step_s": median,
        "streams": b,
        "dtype": args.dtype,
        "threads": args.threads,
        "versions": {name: importlib.metadata.version(name) for name in ("llama_cpp_python", "gguf")},
    }))


if __name__ == "__main__":
    main()
