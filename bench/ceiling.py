"""This machine's own ceiling: a square float32 and bfloat16 matmul, by whichever of JAX and torch is installed.

python bench/ceiling.py            one JSON line a library and dtype, GFLOP/s
"""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import time
from collections.abc import Callable

SIZE = 2048
REPEATS = 5
DTYPES = ("float32", "bfloat16")


def gflops(product: Callable[[], object]) -> tuple[float, list[float]]:
    """(median, [least, most]) GFLOP/s of calls that return when the product is there."""
    product()
    speeds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        product()
        speeds.append(2 * SIZE**3 / (time.perf_counter() - began) / 1e9)
    return statistics.median(speeds), [min(speeds), max(speeds)]


def of_jax(dtype: str) -> Callable[[], object]:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import jax
    import jax.numpy as jnp

    x = jnp.ones((SIZE, SIZE), dtype)
    multiply = jax.jit(jnp.matmul)
    return lambda: multiply(x, x).block_until_ready()


def of_torch(dtype: str) -> Callable[[], object]:
    import torch

    x = torch.ones((SIZE, SIZE), dtype=getattr(torch, dtype))
    return lambda: x @ x


def main() -> None:
    for name, make in (("jax", of_jax), ("torch", of_torch)):
        if importlib.util.find_spec(name) is None:
            continue
        for dtype in DTYPES:
            median, span = gflops(make(dtype))
            more = {"dtype": dtype, "span": [round(x, 1) for x in span], "n": REPEATS}
            print(json.dumps({"measure": "ceiling", "peer": name, "value": round(median, 1), "unit": "GFLOP/s"} | more))


if __name__ == "__main__":
    main()
