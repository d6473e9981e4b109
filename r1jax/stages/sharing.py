"""Grading shared out between processes: each grades its share, whole groups of one prompt, and all get all rewards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from r1jax import processes
from r1jax.rewards.compose import Pending, RewardBatch, Rewards

SHARES = ("frac_unscored", "missing", "unread")  # figures that are a share of the completions; the others are counts


class Gathering:
    """What was begun on each process' share. `result` is to be called by all of them."""

    def __init__(self, pending: Pending | None):
        """Args: pending: of this process; None where its share is empty."""
        self._pending = pending

    def result(self) -> RewardBatch:
        """The rewards of all completions, in order."""
        own = self._pending.result() if self._pending else None
        return merged([part for part in processes.gather(own) if part is not None])


def grade(
    rewards: Rewards,
    prompts: Sequence[str],
    completions: Sequence[str],
    columns: Mapping[str, Sequence[Any]],
    completion_ids: Sequence[Any],
) -> RewardBatch:
    """The rewards of completions that every process holds. The arguments are those of `Rewards`."""
    starts = [b for b in range(len(prompts)) if not b or prompts[b] != prompts[b - 1]]  # of the groups
    here = processes.share(len(starts))
    those = slice(*([*starts, len(prompts)][at] for at in (here.start, here.stop)))
    if those.start == those.stop:
        return Gathering(None).result()
    own = {name: values[those] for name, values in columns.items()}
    return Gathering(rewards.start(prompts[those], completions[those], own, completion_ids[those], None)).result()


def merged(parts: Sequence[RewardBatch]) -> RewardBatch:
    """The batch of several processes' parts, with the figures that one process would have given it."""
    if len(parts) == 1:
        return parts[0]
    sizes = [len(part.total_B) for part in parts]
    weights = {name: weight for part in parts for name, weight in part.weights.items()}
    # A reward that applies to none of a part's tasks is not among that part's.
    by_name = {name: _joined([part.by_name.get(name) for part in parts], sizes, np.float32) for name in weights}
    mine = {name: _joined([part.mine.get(name) for part in parts], sizes, np.bool_) for name in weights}
    total_B = np.concatenate([part.total_B for part in parts])
    metrics = {key: _figure(key, parts) for key in dict.fromkeys(key for part in parts for key in part.metrics)}
    metrics |= {f"reward/{name}/mean": float(by_name[name][mine[name]].mean()) for name in weights if mine[name].any()}
    metrics |= {"reward/mean": float(total_B.mean()), "reward/std": float(total_B.std())}
    return RewardBatch(total_B, by_name, mine, weights, metrics, max(part.seconds for part in parts))


def _joined(parts: Sequence[np.ndarray | None], sizes: Sequence[int], dtype: type) -> np.ndarray:
    return np.concatenate([np.zeros(n, dtype) if x is None else x for x, n in zip(parts, sizes, strict=True)])


def _figure(key: str, parts: Sequence[RewardBatch]) -> float:
    """A figure of all parts: the longest time, the share of all that were scored, the sum of counts."""
    having = [part for part in parts if key in part.metrics]
    values = [part.metrics[key] for part in having]
    if key.startswith("time/"):
        return max(values)
    if key.rsplit("/", 1)[-1] not in SHARES:
        return sum(values)
    name = key.split("/")[1]
    scored = [part.mine[name].sum() if name in part.mine else len(part.total_B) for part in having]
    return float(np.average(values, weights=scored))
