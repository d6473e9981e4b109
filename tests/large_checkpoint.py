"""Writes a random Llama checkpoint of about so many gigabytes in bfloat16.

python tests/large_checkpoint.py FOLDER GIGABYTES
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import hf_models
import jax
import ml_dtypes
import numpy as np

from r1jax.models.hf_config import policy_config
from r1jax.models.hf_weights import tensors
from r1jax.models.policy import abstract_variables
from r1jax.models.tensor_files import write_sharded

LAYER = 45_088_768  # parameters of a layer of Llama at this width
SIZES = dict(
    vocab_size=32_000, hidden_size=2048, intermediate_size=5632, num_attention_heads=16, num_key_value_heads=16,
)  # fmt: skip


class Drawn:
    """Stands for an array of a shape, which is drawn when it is read."""

    def __init__(self, shape):
        self.shape, self.dtype = shape, np.dtype(np.float32)

    def __getitem__(self, index):
        return Drawn(self.shape[1:])

    def __array__(self, dtype=None, copy=None):
        return np.random.default_rng(sum(self.shape)).standard_normal(self.shape, np.float32) * 0.02


def main() -> None:
    folder, size = Path(sys.argv[1]), float(sys.argv[2])
    folder.mkdir(parents=True)
    ends = 2 * SIZES["vocab_size"] * SIZES["hidden_size"]
    config = json.loads((hf_models.FIXTURES / "llama" / "config.json").read_text()) | SIZES | {"head_dim": 128}
    config["num_hidden_layers"] = round((size * 1e9 / 2 - ends) / LAYER)
    policy = policy_config(config, dtype="float32", param_dtype="bfloat16")
    variables = jax.tree.map(lambda leaf: Drawn(leaf.shape), abstract_variables(policy))
    write_sharded(folder, tensors(policy, variables, np.dtype(ml_dtypes.bfloat16)), 500_000_000)
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(hf_models.FIXTURES / "llama" / name, folder)


if __name__ == "__main__":
    main()
