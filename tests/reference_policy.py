"""A slow float64 DeepSeek-V3 forward pass: loops over tokens, heads and experts, written from the papers' formulas.

Sources: arXiv 2412.19437, eqs. 1-20 (attention, experts, balance loss); arXiv 2405.04434, section 2.1; Su et al. 2021
(RoPE). One sequence at a time; weights come as the nested dict of the policy, whose leading axis N is the layer.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Weights = Any


def in_float64(tree: Weights) -> Weights:
    if isinstance(tree, dict):
        return {key: in_float64(value) for key, value in tree.items()}
    return np.asarray(tree).astype(np.float64)


def layer(tree: Weights, n: int) -> Weights:
    """The weights of layer n of a stack."""
    return {key: layer(value, n) if isinstance(value, dict) else value[n] for key, value in tree.items()}


def rms_norm(x: np.ndarray, scale: np.ndarray, eps: float) -> np.ndarray:
    return x / math.sqrt(sum(float(v) ** 2 for v in x) / len(x) + eps) * scale


def rope(x: np.ndarray, position: int, theta: float) -> np.ndarray:
    """Pair j = (x[2j], x[2j+1]) as a complex number, times exp(i position theta^(-2j / len(x)))."""
    out = np.empty_like(x)
    for j in range(len(x) // 2):
        turned = complex(x[2 * j], x[2 * j + 1]) * np.exp(1j * position * theta ** (-2 * j / len(x)))
        out[2 * j], out[2 * j + 1] = turned.real, turned.imag
    return out


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1.0 + np.exp(-x))


def gated(x: np.ndarray, gate: np.ndarray, up: np.ndarray, down: np.ndarray) -> np.ndarray:
    return (silu(x @ gate) * (x @ up)) @ down


def softmax(score: list[float]) -> np.ndarray:
    top = max(score)
    power = np.array([math.exp(s - top) for s in score])
    return power / power.sum()


def attention(config, p: Weights, xs: list[np.ndarray]) -> list[np.ndarray]:
    """Causal multi-head latent attention over one sequence whose tokens stand at 0, 1, 2, ..."""
    keys, values, queries = [], [], []
    for position, x in enumerate(xs):
        if config.q_lora_rank:
            low_q = rms_norm(x @ p["q_down_DQ"], p["q_norm"]["scale_X"], config.norm_eps)
            q = [low_q @ p["q_up_QHC"][:, h] for h in range(config.heads)]
        else:
            q = [x @ p["q_DHC"][:, h] for h in range(config.heads)]
        down = x @ p["kv_down_DW"]
        low = rms_norm(down[: config.kv_lora_rank], p["kv_norm"]["scale_X"], config.norm_eps)
        k_rope = rope(down[config.kv_lora_rank :], position, config.rope_theta)
        cut = config.nope_head_dim
        queries.append([np.concatenate([v[:cut], rope(v[cut:], position, config.rope_theta)]) for v in q])
        keys.append([np.concatenate([low @ p["k_up_WHC"][:, h], k_rope]) for h in range(config.heads)])
        values.append([low @ p["v_up_WHC"][:, h] for h in range(config.heads)])

    out = []
    for t in range(len(xs)):
        y = np.zeros(config.width)
        for h in range(config.heads):
            size = math.sqrt(config.nope_head_dim + config.rope_head_dim)
            share = softmax([float(queries[t][h] @ keys[s][h]) / size for s in range(t + 1)])
            mixed = sum(share[s] * values[s][h] for s in range(t + 1))
            y = y + mixed @ p["out_HCD"][h]
        out.append(y)
    return out


def best(score: dict[int, float], count: int) -> list[int]:
    """The `count` keys of highest score; of equals, the lower key."""
    return sorted(score, key=lambda key: (-score[key], key))[:count]


def route(score: np.ndarray, bias: np.ndarray, config) -> tuple[list[int], np.ndarray]:
    """(the chosen experts, best first; their combine weights)."""
    size = config.experts // config.expert_groups
    biased = {e: float(score[e] + bias[e]) for e in range(config.experts)}
    members = {g: range(g * size, (g + 1) * size) for g in range(config.expert_groups)}
    of_group = {g: sum(sorted((biased[e] for e in members[g]), reverse=True)[:2]) for g in members}
    kept = best(of_group, config.kept_groups)
    chosen = best({e: biased[e] for g in kept for e in members[g]}, config.active_experts)
    share = np.array([score[e] for e in chosen])
    return chosen, share / share.sum() * config.routed_scale


def mixture(config, p: Weights, bias: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """(output of one token, its scores, its experts)."""
    score = 1.0 / (1.0 + np.exp(-(x @ p["router_DE"])))
    chosen, share = route(score, bias, config)
    y = np.zeros(config.width)
    for e, weight in zip(chosen, share, strict=True):
        y = y + weight * gated(x, p["gate_EDF"][e], p["up_EDF"][e], p["down_EFD"][e])
    if config.shared_experts:
        y = y + gated(x, *(p["shared"][name] for name in ("gate_DF", "up_DF", "down_FD")))
    return y, score, chosen


def balance(scores: list[np.ndarray], chosen: list[list[int]], config) -> float:
    """sum_e f_e P_e of one sequence and layer."""
    total, length = 0.0, len(scores)
    for e in range(config.experts):
        f = sum(e in experts for experts in chosen) * config.experts / (config.active_experts * length)
        total += f * sum(score[e] / score.sum() for score in scores) / length
    return total


def forward(config, variables: Weights, tokens: list[int]) -> dict[str, Any]:
    """Of one sequence: logits [L, V], balance (mean over mixture layers), load [mixture layers, E]."""
    params = in_float64(variables["params"])
    xs = [params["embed_VD"][token] for token in tokens]
    balances, loads = [], []
    for n in range(config.layers):
        mixed = n >= config.dense_layers
        if mixed:
            p = layer(params["moe"], n - config.dense_layers)
            bias = in_float64(variables["router"]["moe"]["moe"]["bias_E"])[n - config.dense_layers]
        else:
            p = layer(params["dense"], n)
        normed = [rms_norm(x, p["attention_norm"]["scale_X"], config.norm_eps) for x in xs]
        xs = [x + y for x, y in zip(xs, attention(config, p["attention"], normed), strict=True)]
        normed = [rms_norm(x, p["ffn_norm"]["scale_X"], config.norm_eps) for x in xs]
        if mixed:
            outputs = [mixture(config, p["moe"], bias, x) for x in normed]
            ys = [y for y, _, _ in outputs]
            balances.append(balance([s for _, s, _ in outputs], [c for _, _, c in outputs], config))
            loads.append([sum(e in c for _, _, c in outputs) for e in range(config.experts)])
        else:
            ys = [gated(x, *(p["ffn"][name] for name in ("gate_DF", "up_DF", "down_FD"))) for x in normed]
        xs = [x + y for x, y in zip(xs, ys, strict=True)]
    logits = [rms_norm(x, params["norm"]["scale_X"], config.norm_eps) @ params["head_DV"] for x in xs]
    return {"logits": np.array(logits), "balance": float(np.mean(balances or [0.0])), "load": np.array(loads)}


def log_softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Rows of log-probabilities, nats."""
    scaled = logits / temperature
    top = scaled.max(axis=-1, keepdims=True)
    return scaled - top - np.log(np.exp(scaled - top).sum(axis=-1, keepdims=True))
