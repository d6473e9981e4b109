"""Slow float64 references, written as loops over sequences and tokens straight from the formulas."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np


def advantages(rewards_PG: np.ndarray, scale: str, eps: float) -> np.ndarray:
    """`group_advantages`, one group at a time."""
    everything = [float(r) for group in rewards_PG for r in group]
    out = []
    for group in rewards_PG:
        mean = math.fsum(group) / len(group)
        around = {"std": list(map(float, group)), "batch": everything, "none": None}[scale]
        if around is None:
            divisor = 1.0
        else:
            centre = math.fsum(around) / len(around)
            divisor = math.sqrt(math.fsum((r - centre) ** 2 for r in around) / len(around)) + eps
        out.append([(float(r) - mean) / divisor for r in group])
    return np.array(out, np.float64)


def grpo(
    logp, old, ref, advantage, mask, *, clip_low, clip_high, kl_coef, kl_estimator, reduction, importance, max_length
) -> dict[str, float]:
    """`grpo_loss` in Python floats: loss, kl, clip_fraction, ratio_mean."""
    lines = [[t for t in range(mask.shape[1]) if mask[b, t]] for b in range(mask.shape[0])]
    busy = [b for b, ts in enumerate(lines) if ts]
    tokens = sum(len(ts) for ts in lines)
    if not busy:
        return {"loss": 0.0, "kl": 0.0, "clip_fraction": 0.0, "ratio_mean": 0.0}

    def kl(b: int, t: int) -> float:
        p, q = float(logp[b, t]), float(ref[b, t])
        return {"k3": math.exp(q - p) - (q - p) - 1, "k2": (q - p) ** 2 / 2, "k1": p - q}[kl_estimator]

    def policy(ratio: float, b: int) -> tuple[float, bool]:
        gain = ratio * advantage[b]
        bounded = min(max(ratio, 1 - clip_low), 1 + clip_high) * advantage[b]
        return -min(gain, bounded), bounded < gain

    def reduce(value: Callable[[int, int], float]) -> float:
        if reduction == "sequence":
            return sum(sum(value(b, t) for t in lines[b]) / len(lines[b]) for b in busy) / len(busy)
        total = sum(value(b, t) for b in busy for t in lines[b])
        return total / tokens if reduction == "token" else total / (mask.shape[0] * max_length)

    if importance == "token":
        ratios = {(b, t): math.exp(logp[b, t] - old[b, t]) for b in busy for t in lines[b]}
        terms = {key: policy(ratio, key[0]) for key, ratio in ratios.items()}
        loss = reduce(lambda b, t: terms[b, t][0])
    else:
        sums = {b: sum(float(logp[b, t]) - float(old[b, t]) for t in lines[b]) for b in busy}
        ratios = {b: math.exp(s if importance == "sequence" else s / len(lines[b])) for b, s in sums.items()}
        terms = {b: policy(ratio, b) for b, ratio in ratios.items()}
        loss = sum(term for term, _ in terms.values()) / len(busy)
    return {
        "loss": loss + kl_coef * reduce(kl),
        "kl": sum(kl(b, t) for b in busy for t in lines[b]) / tokens,
        "clip_fraction": sum(clipped for _, clipped in terms.values()) / len(terms),
        "ratio_mean": sum(ratios.values()) / len(ratios),
    }


def gradient(value: Callable[[np.ndarray], float], at: np.ndarray, step: float = 1e-4) -> np.ndarray:
    """Central differences of fourth order; in float64 good to about 1e-11 of the values' size."""
    out = np.zeros(at.shape, np.float64)
    for index in np.ndindex(at.shape):
        for weight, shift in ((8.0, 1.0), (-8.0, -1.0), (-1.0, 2.0), (1.0, -2.0)):
            moved = at.astype(np.float64)
            moved[index] += shift * step
            out[index] += weight * value(moved)
        out[index] /= 12 * step
    return out


def token_logprobs(
    hidden: np.ndarray, head: np.ndarray, target: np.ndarray, temperature: float
) -> tuple[np.ndarray, np.ndarray]:
    """log softmax at the target and the entropy, a token at a time."""
    logp, entropy = np.zeros(target.shape), np.zeros(target.shape)
    for index in np.ndindex(target.shape):
        logits = hidden[index].astype(np.float64) @ head.astype(np.float64) / temperature
        all_logp = logits - logits.max() - math.log(np.exp(logits - logits.max()).sum())
        logp[index] = all_logp[target[index]]
        entropy[index] = -(np.exp(all_logp) * all_logp).sum()
    return logp, entropy
