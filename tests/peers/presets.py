"""What the peers share: the sizes of `wiremamba`'s presets, and the versions to print."""

import importlib.metadata
import platform

# (d_model, n_layer)
PRESETS = {"tiny": (64, 2), "small": (256, 8), "paper": (768, 24)}
VOCAB_SIZE = 512


def versions(*more: str) -> dict:
    """Versions of Python, torch, transformers and the packages named."""
    packages = ("torch", "transformers", *more)
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in packages}
