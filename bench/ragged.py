"""Completions of ragged lengths: the engine beside its own static batch, and slots filled again beside batches in turn.

    python bench/ragged.py --model dense-S --measure cut|refill

About one token in `MEAN` ends a text, so that lengths are as good as geometric, and cut at `LIMIT`. The static batch
is the engine's own programs in the engine's own layout, at its largest until the longest sequence is done.

- cut: the sequences of one GRPO step, all at once.
- refill: `BATCHES` times as many. Static and engine take them batch by batch; with refill there are as many slots as a
  batch has sequences, and those that wait take them over.

All sample the same tokens, in turn. One JSON line on stdout: how many times as long the others take.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402
import numpy as np  # noqa: E402

from bench import measuring, setting  # noqa: E402
from bench import workloads as w  # noqa: E402
from r1jax.mesh import make_mesh  # noqa: E402
from r1jax.rollout.decoding import Sampling, advance  # noqa: E402
from r1jax.rollout.engine import Engine  # noqa: E402
from r1jax.rollout.filling import begin  # noqa: E402
from r1jax.stages.inference import ONE_DEVICE, seeds  # noqa: E402
from r1jax.training.state import fresh_params  # noqa: E402
from r1jax.types import PyTree  # noqa: E402

MEAN, LIMIT = 64, 256  # tokens
BATCHES = 4

Sampler = Callable[[np.ndarray, np.ndarray], np.ndarray]  # (prompt_PL, seed_B) -> completion_BL


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=list(w.MODELS), required=True)
    parser.add_argument("--measure", choices=("cut", "refill"), required=True)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    batches = 1 if args.measure == "cut" else BATCHES
    ways = samplers(args.model, batches)
    spent: dict[str, list[measuring.Repeat]] = {name: [] for name in ways}
    share = []
    with measuring.Load() as load:
        for number in range(args.repeats + 1):
            prompt_PL = np.concatenate([w.prompt_ids(args.model, batches * number + i) for i in range(batches)])
            seed_B = seeds(0, batches * w.SEQS, number)
            completions = []
            for name, sample in ways.items():
                began, cpu = time.perf_counter(), time.process_time()
                completions.append(sample(prompt_PL, seed_B))
                spent[name].append(measuring.Repeat(time.perf_counter() - began, time.process_time() - cpu))
            share.append([float((completions[0] == other).mean()) for other in completions[1:]])
    timed = {name: [r.seconds for r in repeats[1:]] for name, repeats in spent.items()}  # the first ones compile
    cpu_s = {name: statistics.median(r.cpu_seconds for r in repeats[1:]) for name, repeats in spent.items()}
    best = list(ways)[-1]
    ratios = {name: [a / b for a, b in zip(timed[name], timed[best], strict=True)] for name in timed if name != best}
    measuring.say(
        measuring.line(
            args.model, "ragged_gain" if args.measure == "cut" else "refill_gain",
            statistics.median(ratios["static"]), "×", n=args.repeats,
            over={name: measuring.significant(statistics.median(x)) for name, x in ratios.items()},
            span={name: [measuring.significant(y) for y in (min(x), max(x))] for name, x in ratios.items()},
            seconds={name: measuring.significant(statistics.median(x)) for name, x in timed.items()},
            cpu_s={name: measuring.significant(x) for name, x in cpu_s.items()},
            same_tokens=dict(zip(list(ways)[1:], map(min, zip(*share, strict=True)), strict=True)),
            own_cores=load.own_cores, other_cores=load.other_cores,
        )
    )  # fmt: skip


def samplers(model: str, batches: int) -> dict[str, Sampler]:
    """The ways to sample, the engine's best last."""
    policy = setting.policy(model, "float32")
    mesh = make_mesh(ONE_DEVICE, jax.devices()[:1])
    params = fresh_params(policy, mesh, 0)
    stop_ids = np.arange(0, policy.vocab_size, MEAN, dtype=np.int32)
    engine = Engine(policy, mesh, stop_ids=stop_ids.tolist(), pad_id=0)
    length_P, program = np.full(w.PROMPTS, w.PROMPT_LEN, np.int32), Sampling(0.0, 0, 1.0, LIMIT)

    @jax.jit
    def whole(params: PyTree, *given: jax.Array) -> jax.Array:
        prompts, state = begin(policy, params, *given, program, pad_id=0, slots=LIMIT, with_layers=True)
        return advance(policy, params, prompts, state, 0, program, 0, LIMIT - 1)[1]

    def static(prompt_PL: np.ndarray, seed_B: np.ndarray) -> np.ndarray:
        return np.asarray(whole(params, prompt_PL, length_P, seed_B, stop_ids, np.float32(1.0)))

    def cut(prompt_PL: np.ndarray, seed_B: np.ndarray, slots: int = 0) -> np.ndarray:
        how = dict(temperature=1.0, top_k=0, top_p=1.0, max_tokens=LIMIT, slots=slots)
        return engine.generate(params, prompt_PL.tolist(), seed_B, **how).completion_BL

    def in_turn(sample: Sampler) -> Sampler:
        def all_of_them(prompt_PL: np.ndarray, seed_B: np.ndarray) -> np.ndarray:
            parts = zip(np.split(prompt_PL, batches), np.split(seed_B, batches), strict=True)
            return np.concatenate([sample(*part) for part in parts])

        return all_of_them

    ways = {"static": in_turn(static), "cut": in_turn(cut)}
    return ways if batches == 1 else ways | {"refill": lambda prompts, seed: cut(prompts, seed, w.SEQS)}


if __name__ == "__main__":
    main()
