"""r1jax: the DeepSeek-R1 recipe, whole, in JAX.

`r1jax.load(path)` opens a checkpoint. Names are imported when first used, so that the processes which grade text
start without loading JAX.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from r1jax import losses
    from r1jax.stages.inference import Completion, Policy, load

__version__ = "0.1.0"
__all__ = ["Completion", "Policy", "load", "losses"]


def __getattr__(name: str) -> Any:
    if name in ("Completion", "Policy", "load"):
        return getattr(importlib.import_module("r1jax.stages.inference"), name)
    if name == "losses":
        return importlib.import_module("r1jax.losses")
    raise AttributeError(f"module 'r1jax' has no attribute {name!r}")
