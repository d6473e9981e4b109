"""Completions of ragged lengths: the engine beside `rollout`, one program that scans layers, at its largest throughout.

    python bench/ragged.py --model dense-S

About one token in `MEAN` ends a text, so that lengths are as good as geometric, and cut at `LIMIT`. Both sample the
same tokens, in turn. One JSON line on stdout.
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402
import numpy as np  # noqa: E402

from bench import measuring, setting  # noqa: E402
from bench import workloads as w  # noqa: E402
from r1jax.mesh import make_mesh  # noqa: E402
from r1jax.rollout.decoding import Sampling, rollout  # noqa: E402
from r1jax.rollout.engine import Engine  # noqa: E402
from r1jax.stages.inference import ONE_DEVICE, seeds  # noqa: E402
from r1jax.training.state import fresh_params  # noqa: E402

MEAN, LIMIT = 64, 256  # tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=list(w.MODELS), required=True)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    policy = setting.policy(args.model, "float32")
    mesh = make_mesh(ONE_DEVICE, jax.devices()[:1])
    params = fresh_params(policy, mesh, 0)
    stop_ids = np.arange(0, policy.vocab_size, MEAN, dtype=np.int32)
    engine = Engine(policy, mesh, stop_ids=stop_ids.tolist(), pad_id=0)
    whole = jax.jit(functools.partial(rollout, policy), static_argnums=(6, 7))
    length_P, program = np.full(w.PROMPTS, w.PROMPT_LEN, np.int32), Sampling(0.0, 0, 1.0, LIMIT)

    def cut(number: int) -> np.ndarray:
        prompts, how = w.prompt_ids(args.model, number).tolist(), dict(temperature=1.0, top_k=0, top_p=1.0)
        return engine.generate(params, prompts, seeds(0, w.SEQS, number), max_tokens=LIMIT, **how).completion_BL

    def static(number: int) -> np.ndarray:
        prompt_PL, seed_B = w.prompt_ids(args.model, number), seeds(0, w.SEQS, number)
        return np.asarray(whole(params, prompt_PL, length_P, seed_B, stop_ids, np.float32(1.0), program, 0)[0])

    spent: dict[str, list[measuring.Repeat]] = {"cut": [], "static": []}
    share = []
    with measuring.Load() as load:
        for number in range(args.repeats + 1):
            completions = {}
            for name, once in (("cut", cut), ("static", static)):
                began, cpu = time.perf_counter(), time.process_time()
                completions[name] = once(number)
                spent[name].append(measuring.Repeat(time.perf_counter() - began, time.process_time() - cpu))
            share.append(float((completions["cut"] == completions["static"]).mean()))
    timed = {name: [r.seconds for r in repeats[1:]] for name, repeats in spent.items()}  # the first ones compile
    cpu_s = {name: statistics.median(r.cpu_seconds for r in repeats[1:]) for name, repeats in spent.items()}
    ratios = [long / short for long, short in zip(timed["static"], timed["cut"], strict=True)]
    measuring.say(
        measuring.line(
            args.model, "ragged_gain", statistics.median(ratios), "×", n=args.repeats,
            span=[measuring.significant(x) for x in (min(ratios), max(ratios))],
            seconds={name: measuring.significant(statistics.median(x)) for name, x in timed.items()},
            cpu_s={name: measuring.significant(x) for name, x in cpu_s.items()},
            same_tokens=min(share), own_cores=load.own_cores, other_cores=load.other_cores,
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
