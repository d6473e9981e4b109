"""An experiment at its smallest: a few steps from a base that knows nothing, two seeds, two arms. It shows that
the parts fit together; what comes out is no result.

command:   python -m r1jax.main --config=experiments/short.py:NAME --workdir=DIR, for the experiment in experiments/NAME
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from configs import smoke
from r1jax.stages.run import SAMPLES

SHARED = "runs/notebooks/shared"
SEEDS = (0, 1)
ARMS = 2
UNCAPPED = ("vocab_size", "context", "layers", "dense_layers")  # others must agree with these
# No more than this, where a stage or an arm has such a key.
CAPS: dict[str, Any] = dict(
    steps=3,
    limit=16,
    policy={key: most for key, most in smoke.POLICY.items() if key not in UNCAPPED},
    tokenizer=dict(train_documents=2000),
    rollout=dict(prompts=4, samples=4, max_tokens=32),
    raft=dict(samples=4),
    grpo=dict(minibatches=2, epochs=2),
    batch=dict(rows=8, micro_rows=8),
    optimizer=dict(warmup_steps=1),
    evaluation=dict(samples=4, limit=8, every=0, max_tokens=32, batch=8),
)
SIZES = {  # of what a source draws from
    "arithmetic_web": dict(documents=2000),
    "arithmetic": dict(train_size=200, test_size=100),
    "arithmetic:test": dict(train_size=200, test_size=100),
}


def get_config(name: str) -> ConfigDict:
    """The sweep of experiments/NAME, made small."""
    return short(importlib.import_module(f"experiments.{name}.config").get_config()).lock()


def short(config: ConfigDict) -> ConfigDict:
    """A sweep's config with every stage and arm made small.

    Arms that start from a stage which collects samples are left out: a base that knows nothing has none worth keeping.
    """
    tree = config.to_dict()
    first = _without_samples(tree["first"], tree["order"])
    possible = [arm for arm, changes in tree["arms"].items() if _starts_from(tree["base"] | changes) <= first.keys()]
    arms = sorted(possible, key=lambda arm: bool(tree["arms"][arm]))[:ARMS]  # the one that changes nothing first
    return ConfigDict(
        tree
        | dict(
            seeds=SEEDS,
            shared=SHARED,
            order=tuple(first),
            base=_small(tree["base"]),
            first={name: _small(stage) for name, stage in first.items()},
            arms={arm: _small(tree["arms"][arm]) for arm in arms},
        )
    )


def _without_samples(first: Mapping[str, Any], order: Sequence[str]) -> dict[str, Any]:
    """The stages that train a policy, from none that collects samples."""
    kept: dict[str, Any] = {}
    for name in order:
        if first[name]["stage"] in ("sft", "rl") and _starts_from(first[name]) <= kept.keys():
            kept[name] = first[name]
    return kept


def _starts_from(stage: Mapping[str, Any]) -> set[str]:
    """The stages that a stage names."""
    names = [spec["name"] for spec in stage["data"]["sources"].values()]
    samples = {name.removeprefix(SAMPLES) for name in names if name.startswith(SAMPLES)}
    return samples | ({stage["init_from"]} - {""})


def _small(stage: Mapping[str, Any]) -> dict[str, Any]:
    return _sized(_capped(stage, CAPS))


def _capped(tree: Mapping[str, Any], caps: Mapping[str, Any]) -> dict[str, Any]:
    """The tree with no number above its cap."""
    capped = dict(tree)
    for key in tree.keys() & caps.keys():
        if isinstance(caps[key], Mapping):
            capped[key] = _capped(tree[key], caps[key])
        else:
            capped[key] = min(tree[key], caps[key])
    return capped


def _sized(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The tree with its sources drawing from little."""
    sized = {key: _sized(value) if isinstance(value, Mapping) else value for key, value in tree.items()}
    if sized.get("name") in SIZES:
        sized["kwargs"] = sized["kwargs"] | SIZES[sized["name"]]
    return sized
