"""A slow float64 forward pass of every policy: loops over tokens, heads and experts, written from the papers' formulas.

Sources: arXiv 2412.19437, eqs. 1-23 (attention, experts, balance loss, multi-token prediction); arXiv 2405.04434,
sections 2.1-2.2; arXiv 2305.13245 (GQA); Su et al. 2021 (RoPE); arXiv 2309.00071 (YaRN). One sequence at a time;
weights come as the nested dict of the policy, whose leading axis N is the layer.
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


def wave(config, pair: int, pairs: int) -> float:
    """Radians a position of one pair."""
    plain = config.rope_theta ** (-pair / pairs)
    if config.rope_scaling == "none":
        return plain
    if config.rope_scaling == "llama3":
        length = 2 * math.pi / plain
        if length < config.rope_original / config.rope_high:
            return plain
        if length > config.rope_original / config.rope_low:
            return plain / config.rope_factor
        part = (config.rope_original / length - config.rope_low) / (config.rope_high - config.rope_low)
        return (1 - part) * plain / config.rope_factor + part * plain
    ends = [
        2 * pairs * math.log(config.rope_original / (turns * 2 * math.pi)) / (2 * math.log(config.rope_theta))
        for turns in (config.rope_beta_fast, config.rope_beta_slow)
    ]
    low, high = max(math.floor(ends[0]), 0), min(math.ceil(ends[1]), 2 * pairs - 1)
    ramp = min(max((pair - low) / ((high - low) or 0.001), 0), 1)
    return plain / config.rope_factor * ramp + plain * (1 - ramp)


def growth(config, mscale: float) -> float:
    return 0.1 * mscale * math.log(config.rope_factor) + 1 if config.rope_scaling == "yarn" else 1.0


def rope(x: np.ndarray, position: int, config) -> np.ndarray:
    """Each pair as a complex number, times exp(i position wave), and YaRN's growth."""
    out, pairs = np.empty_like(x), len(x) // 2
    size = growth(config, config.rope_mscale) / growth(config, config.rope_mscale_all)
    for j in range(pairs):
        one, other = (2 * j, 2 * j + 1) if config.rope_pairs == "interleaved" else (j, pairs + j)
        turned = complex(x[one], x[other]) * np.exp(1j * position * wave(config, j, pairs)) * size
        out[one], out[other] = turned.real, turned.imag
    return out


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1.0 + np.exp(-x))


def gated(x: np.ndarray, gate: np.ndarray, up: np.ndarray, down: np.ndarray) -> np.ndarray:
    return (silu(x @ gate) * (x @ up)) @ down


def softmax(score: list[float]) -> np.ndarray:
    top = max(score)
    power = np.array([math.exp(s - top) for s in score])
    return power / power.sum()


def heads_of_latents(config, p: Weights, x: np.ndarray, position: int) -> tuple[list, list, list]:
    """(queries, keys, values) of the heads of one token: multi-head latent attention."""
    if config.q_lora_rank:
        low_q = rms_norm(x @ p["q_down_DQ"], p["q_norm"]["scale_X"], 1e-6)
        q = [low_q @ p["q_up_QHC"][:, h] for h in range(config.heads)]
    else:
        q = [x @ p["q_DHC"][:, h] for h in range(config.heads)]
    down = x @ p["kv_down_DW"]
    low = rms_norm(down[: config.kv_lora_rank], p["kv_norm"]["scale_X"], 1e-6)
    k_rope = rope(down[config.kv_lora_rank :], position, config)
    cut = config.nope_head_dim
    return (
        [np.concatenate([v[:cut], rope(v[cut:], position, config)]) for v in q],
        [np.concatenate([low @ p["k_up_WHC"][:, h], k_rope]) for h in range(config.heads)],
        [low @ p["v_up_WHC"][:, h] for h in range(config.heads)],
    )


def heads_of_groups(config, p: Weights, x: np.ndarray, position: int) -> tuple[list, list, list]:
    """(queries, keys, values) of the heads of one token: grouped-query attention, keys and values repeated."""
    of = {"q": [], "k": [], "v": []}
    for name, heads in of.items():
        w = p["q_DHC"] if name == "q" else p[f"{name}_DKC"]
        for h in range(w.shape[1]):
            y = x @ w[:, h]
            if config.attention_bias:
                y = y + p["q_bias_HC" if name == "q" else f"{name}_bias_KC"][h]
            if config.qk_norm and name != "v":
                y = rms_norm(y, p[f"{name}_norm"]["scale_X"], config.norm_eps)
            heads.append(y if name == "v" else rope(y, position, config))
    group = config.heads // config.kv_heads
    return of["q"], [k for k in of["k"] for _ in range(group)], [v for v in of["v"] for _ in range(group)]


def attention(config, p: Weights, xs: list[np.ndarray]) -> list[np.ndarray]:
    """Causal attention over one sequence whose tokens stand at 0, 1, 2, ..."""
    heads = heads_of_latents if config.attention == "mla" else heads_of_groups
    queries, keys, values = zip(*(heads(config, p, x, position) for position, x in enumerate(xs)), strict=True)
    scale = growth(config, config.rope_mscale_all) ** 2 / math.sqrt(len(queries[0][0]))
    out = []
    for t in range(len(xs)):
        y = np.zeros(config.width)
        for h in range(config.heads):
            share = softmax([float(queries[t][h] @ keys[s][h]) * scale for s in range(t + 1)])
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
    counted = 2 if config.group_score == "top2" else 1
    of_group = {g: sum(sorted((biased[e] for e in members[g]), reverse=True)[:counted]) for g in members}
    kept = best(of_group, config.kept_groups)
    chosen = best({e: biased[e] for g in kept for e in members[g]}, config.active_experts)
    share = np.array([score[e] for e in chosen])
    return chosen, (share / share.sum() if config.norm_topk else share) * config.routed_scale


def mixture(config, p: Weights, bias: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """(output of one token, its scores, its experts)."""
    logits = x @ p["router_DE"]
    score = 1.0 / (1.0 + np.exp(-logits)) if config.score == "sigmoid" else softmax(list(logits))
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


def block(config, p: Weights, bias: np.ndarray | None, xs: list[np.ndarray]) -> tuple[list, float, list[int]]:
    """(outputs, balance loss, load) of one layer; a bias makes it a mixture."""
    normed = [rms_norm(x, p["attention_norm"]["scale_X"], config.norm_eps) for x in xs]
    xs = [x + y for x, y in zip(xs, attention(config, p["attention"], normed), strict=True)]
    normed = [rms_norm(x, p["ffn_norm"]["scale_X"], config.norm_eps) for x in xs]
    if bias is None:
        ys = [gated(x, *(p["ffn"][name] for name in ("gate_DF", "up_DF", "down_FD"))) for x in normed]
        return [x + y for x, y in zip(xs, ys, strict=True)], 0.0, []
    outputs = [mixture(config, p["moe"], bias, x) for x in normed]
    load = [sum(e in c for _, _, c in outputs) for e in range(config.experts)]
    out = [x + y for x, (y, _, _) in zip(xs, outputs, strict=True)]
    return out, balance([s for _, s, _ in outputs], [c for _, _, c in outputs], config), load


def forward(config, variables: Weights, tokens: list[int]) -> dict[str, Any]:
    """Of one sequence: logits [L, V], balance (mean over mixture layers), load [mixture layers, E].

    With multi-token prediction also logits_after [L - 1, V], of the token after next, whose layer is not among the
    others' balance and load, but in balance_after and load_after.
    """
    params = in_float64(variables["params"])
    xs = [params["embed_VD"][token] for token in tokens]
    balances, loads = [], []
    for n in range(config.layers):
        if n >= config.dense_layers:
            at = n - config.dense_layers
            bias = in_float64(variables["router"]["moe"]["moe"]["bias_E"])[at]
            xs, loss, load = block(config, layer(params["moe"], at), bias, xs)
            balances.append(loss)
            loads.append(load)
        else:
            xs, _, _ = block(config, layer(params["dense"], n), None, xs)
    head = params["embed_VD"].T if config.tied else params["head_DV"]
    hidden = [rms_norm(x, params["norm"]["scale_X"], config.norm_eps) for x in xs]
    load = np.array(loads).reshape(-1, max(config.experts, 1))
    out = {"logits": np.array(hidden) @ head, "balance": float(np.mean(balances or [0.0])), "load": load}
    if config.mtp_layers:
        p = params["mtp"]
        norms = [(p[name]["scale_X"], config.norm_eps) for name in ("embed_norm", "hidden_norm", "norm")]
        xs = [
            np.concatenate([rms_norm(params["embed_VD"][token], *norms[0]), rms_norm(h, *norms[1])]) @ p["join_ID"]
            for h, token in zip(hidden[:-1], tokens[1:], strict=True)
        ]
        bias = in_float64(variables["router"]["mtp"]["block"]["moe"]["bias_E"])
        xs, out["balance_after"], out["load_after"] = block(config, p["block"], bias, xs)
        out["logits_after"] = np.array([rms_norm(x, *norms[2]) for x in xs]) @ head
    return out


def log_softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Rows of log-probabilities, nats."""
    scaled = logits / temperature
    top = scaled.max(axis=-1, keepdims=True)
    return scaled - top - np.log(np.exp(scaled - top).sum(axis=-1, keepdims=True))
