"""Mamba-1 in PyTorch, for the peers on a GPU: the best scan that can be had where they run.

| scan | what it is |
|---|---|
| `mamba-ssm` | the CUDA kernels of the Mamba authors (`pip install mamba-ssm causal-conv1d`), inside their own `mamba_inner_fn` |
| `chunks` | plain PyTorch for `torch.compile`: chunks of a few tokens are walked side by side, twice, and joined by doubling |
| `mambapy` | the parallel scan of the package mambapy (Blelloch), as `use_mambapy` of transformers has it |

Sizes and names are those of Hugging Face's `MambaForCausalLM`: RMSNorm, mixer, residual in f32; tied head. Matrix products are in bf16 under
autocast, the scan in f32.
"""

import importlib.util
import math

import torch
import torch.nn.functional as F
from torch import nn

STATES, TAPS = 16, 4


def available() -> list[str]:
    """Scans that can be used here, the best first."""
    found = ["mamba-ssm"] if importlib.util.find_spec("mamba_ssm") and torch.cuda.is_available() else []
    return found + ["chunks"] + (["mambapy"] if importlib.util.find_spec("mambapy") else [])


def scan_mambapy(x, dt, a, b, c):
    from mambapy.pscan import pscan

    decay = torch.exp(dt[..., None] * a)  # (b, l, d, n)
    h = pscan(decay, (dt * x)[..., None] * b[:, :, None])
    return (h @ c[..., None])[..., 0]


def walk(x, dt, a, b, c, h, tokens: int):
    """`tokens` steps from `h`, (b, chunks, d, n), over (b, chunks, tokens, ...): outputs and the last state."""
    ys = []
    for t in range(tokens):
        step = dt[:, :, t]
        h = torch.exp(step[..., None] * a) * h + (step * x[:, :, t])[..., None] * b[:, :, t, None]
        ys.append((h * c[:, :, t, None]).sum(-1))
    return torch.stack(ys, 2), h


def scan_chunks(x, dt, a, b, c, tokens: int = 16):
    """h_t = exp(dt_t a) h_{t-1} + dt_t b_t x_t, y_t = c_t h_t over (b, l, ...), chunk by chunk."""
    rows, l, d = x.shape
    pad = -l % tokens
    count = (l + pad) // tokens
    cut = lambda v: F.pad(v, (0, 0, 0, pad)).view(rows, count, tokens, -1)  # noqa: E731
    x, dt, b, c = cut(x), cut(dt), cut(b), cut(c)
    zero = x.new_zeros(rows, count, d, STATES)
    _, ends = walk(x, dt, a, b, c, zero, tokens)
    total = dt.sum(2)  # (b, count, d): the decay over a chunk is exp(a * total)
    shift = 1
    while shift < count:
        before = F.pad(ends, (0, 0, 0, 0, shift, 0))[:, :count]
        ends = ends + torch.exp(total[..., None] * a) * before
        total = total + F.pad(total, (0, 0, shift, 0))[:, :count]
        shift *= 2
    begins = F.pad(ends, (0, 0, 0, 0, 1, 0))[:, :count]
    y, _ = walk(x, dt, a, b, c, begins, tokens)
    return y.reshape(rows, count * tokens, d)[:, :l]


def norm(x, of: nn.RMSNorm):
    """RMSNorm in f32, whatever the weights are in."""
    return F.rms_norm(x, of.normalized_shape, of.weight.float(), of.eps)


class Block(nn.Module):
    def __init__(self, d: int, scan: str):
        super().__init__()
        inner, rank = 2 * d, math.ceil(d / 16)
        self.rank, self.scan = rank, scan
        self.norm = nn.RMSNorm(d, eps=1e-5)
        self.in_proj = nn.Linear(d, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, TAPS, groups=inner, padding=TAPS - 1)
        self.x_proj = nn.Linear(inner, rank + 2 * STATES, bias=False)
        self.dt_proj = nn.Linear(rank, inner)
        self.A_log = nn.Parameter(torch.log(torch.arange(1, STATES + 1, dtype=torch.float32)).repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, d, bias=False)
        with torch.no_grad():
            dt = torch.exp(torch.rand(inner) * math.log(100) + math.log(1e-3))
            self.dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))

    def forward(self, residual):
        xz = self.in_proj(self.norm(residual))
        a = -torch.exp(self.A_log)
        if self.scan == "mamba-ssm":
            from mamba_ssm.ops.selective_scan_interface import mamba_inner_fn

            y = mamba_inner_fn(
                xz.transpose(1, 2), self.conv1d.weight, self.conv1d.bias, self.x_proj.weight, self.dt_proj.weight,
                self.out_proj.weight, None, a, None, None, self.D, delta_bias=self.dt_proj.bias.float(), delta_softplus=True,
            )
            return residual + y.float()
        x, z = xz.chunk(2, -1)
        x = F.silu(self.conv1d(x.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2))
        low, b, c = self.x_proj(x).split([self.rank, STATES, STATES], -1)
        dt = F.softplus(self.dt_proj(low).float())
        scan = scan_mambapy if self.scan == "mambapy" else scan_chunks
        with torch.autocast(residual.device.type, enabled=False):
            y = scan(x.float(), dt, a, b.float(), c.float()) + self.D * x.float()
        return residual + self.out_proj(y.to(z.dtype) * F.silu(z)).float()

    def step(self, residual, conv, h):
        """One token a stream: `residual`, (b, d); `conv`, (b, inner, TAPS), and `h`, (b, inner, STATES), move on in place."""
        x, z = self.in_proj(norm(residual, self.norm).to(self.in_proj.weight.dtype)).chunk(2, -1)
        conv.copy_(torch.cat([conv[..., 1:], x[..., None]], -1))
        x = F.silu((conv * self.conv1d.weight[:, 0]).sum(-1) + self.conv1d.bias)
        low, b, c = self.x_proj(x).split([self.rank, STATES, STATES], -1)
        if self.scan == "mamba-ssm":
            from mamba_ssm.ops.triton.selective_state_update import selective_state_update

            dt = F.linear(low, self.dt_proj.weight)
            y = selective_state_update(
                h, x, dt, -torch.exp(self.A_log.float()), b, c, self.D.float(), z=z, dt_bias=self.dt_proj.bias.float(), dt_softplus=True
            )
        else:
            dt = F.softplus(self.dt_proj(low).float())
            a = -torch.exp(self.A_log.float())
            h.copy_(torch.exp(dt[..., None] * a) * h + (dt * x.float())[..., None] * b.float()[:, None])
            y = ((h * c.float()[:, None]).sum(-1) + self.D.float() * x.float()).to(z.dtype) * F.silu(z)
        return residual + self.out_proj(y).float()


class Mamba(nn.Module):
    def __init__(self, d: int, layers: int, vocab_size: int, scan: str):
        super().__init__()
        self.embeddings = nn.Embedding(vocab_size, d)
        nn.init.normal_(self.embeddings.weight, std=0.02)
        self.layers = nn.ModuleList(Block(d, scan) for _ in range(layers))
        self.norm_f = nn.RMSNorm(d, eps=1e-5)
        self.checkpoints = False

    def loss(self, tokens, targets):
        x = self.embeddings(tokens)
        for layer in self.layers:
            if self.checkpoints:
                x = torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=False)
            else:
                x = layer(x)
        logits = F.linear(self.norm_f(x), self.embeddings.weight)
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())

    def step(self, tokens, states):
        """The logits after one token a stream."""
        x = self.embeddings(tokens).float()
        for layer, (conv, h) in zip(self.layers, states):
            x = layer.step(x, conv, h)
        return F.linear(norm(x, self.norm_f).to(self.embeddings.weight.dtype), self.embeddings.weight)

    def states(self, streams: int):
        """Zero states."""
        like = self.embeddings.weight
        inner = 2 * like.shape[1]
        return [
            (like.new_zeros(streams, inner, TAPS), like.new_zeros(streams, inner, STATES, dtype=torch.float32)) for _ in self.layers
        ]
