"""How time and memory grow: a small policy's update and rollout, one size at a time.

    python bench/growth.py > runs/growth.jsonl
    python bench/growth.py --axis update-length --most 4096

One JSON line a point: seconds of a repeat (median, least, most), its processor seconds, model FLOPs, and the peak
memory of the process, which does nothing else, beside what it held before it compiled (`base_mib`).
`bench/page_growth.py` draws and words it.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402
import numpy as np  # noqa: E402

from bench import measuring, setting  # noqa: E402
from bench.run import sequences, sequences_of  # noqa: E402
from r1jax.config import BatchConfig, OptimizerConfig, PolicyConfig, RouterConfig  # noqa: E402
from r1jax.mesh import make_mesh  # noqa: E402
from r1jax.models.policy import parameter_count  # noqa: E402
from r1jax.rollout.engine import Engine  # noqa: E402
from r1jax.stages.inference import ONE_DEVICE, seeds  # noqa: E402
from r1jax.training.flops import forward_flops  # noqa: E402
from r1jax.training.optimizer import make_optimizer  # noqa: E402
from r1jax.training.state import abstract_state, fresh_params, jit_update, start_state  # noqa: E402
from r1jax.training.step import sft_step  # noqa: E402

BLOCK = 256  # of blockwise attention
CHUNK = 512  # tokens whose logits exist at once
WHOLE = 8192  # tokens up to which attention with all scores at once is tried: 1 GiB of scores a row and array


class Update(NamedTuple):
    policy: PolicyConfig
    rows: int
    length: int


class Rollout(NamedTuple):
    policy: PolicyConfig
    prompts: int
    samples: int
    prompt_length: int
    new_tokens: int


def dense(block: int = BLOCK, **sizes: int) -> PolicyConfig:
    """One layer of two heads, 128 wide, so that 32k tokens take seconds."""
    small = dict(width=128, layers=1, heads=2, kv_heads=2, head_dim=32, dense_ffn=384, vocab_size=1024) | sizes
    small["dense_layers"] = small["layers"]
    return dataclasses.replace(setting.policy("dense-S", "float32"), attention_block=block, context=40_000, **small)


def mixture(experts: int) -> PolicyConfig:
    """moe-S with so many experts, of which 4 are active, in one group."""
    return dataclasses.replace(setting.policy("moe-S", "float32"), experts=experts, expert_groups=1, kept_groups=1)


def sized(width: int) -> PolicyConfig:
    """A dense policy of 4 layers whose weights grow with the square of its width."""
    return dense(width=width, layers=4, heads=width // 32, kv_heads=width // 32, dense_ffn=3 * width)


LENGTHS = (256, 1024, 4096, 16384, 32768)
EXPERTS = (4, 16, 64)
WIDTHS = (64, 192, 576)
COUNTS = (1, 8, 64)
# axis: series: size -> the work. One thing grows, the others stay.
AXES: dict[str, dict[str, dict[int, Update | Rollout]]] = {
    "update-length": {
        f"blocks of {BLOCK}": {n: Update(dense(), 1, n) for n in LENGTHS},
        "whole": {n: Update(dense(0), 1, n) for n in (*LENGTHS, WHOLE) if n <= WHOLE},
    },
    "prompt-length": {
        f"blocks of {BLOCK}": {n: Rollout(dense(), 1, 4, n, 16) for n in LENGTHS},
        "whole": {n: Rollout(dense(0), 1, 4, n, 16) for n in (*LENGTHS, WHOLE) if n <= WHOLE},
    },
    "generated-length": {"": {n: Rollout(dense(), 1, 4, 64, n) for n in (64, 512, 4096)}},
    "group": {"": {n: Rollout(dense(), 2, n, 512, 64) for n in COUNTS}},
    "batch": {
        "update": {n: Update(dense(), n, 256) for n in COUNTS},
        "rollout": {n: Rollout(dense(), n, 4, 64, 64) for n in COUNTS},
    },
    "experts": {
        "update": {n: Update(mixture(n), 8, 128) for n in EXPERTS},
        "rollout": {n: Rollout(mixture(n), 8, 4, 64, 32) for n in EXPERTS},
    },
    "width": {
        "update": {n: Update(sized(n), 8, 128) for n in WIDTHS},
        "rollout": {n: Rollout(sized(n), 8, 4, 64, 32) for n in WIDTHS},
    },
}


def measured(work: Update | Rollout, repeats: int) -> dict[str, Any]:
    """The figures of one point, in this process."""
    once = update(work) if isinstance(work, Update) else rollout(work)
    base = measuring.peak_rss_mib()
    done, _, load = measuring.repeated(once, 1, repeats)
    seconds, processors = [r.seconds for r in done], [r.cpu_seconds for r in done]
    return {
        "value": float(np.median(seconds)), "unit": "s", "n": repeats, "span": [min(seconds), max(seconds)],
        "cpu_s": float(np.median(processors)), "cpu_span": [min(processors), max(processors)],
        "other_cores": load.other_cores,
        "peak_mib": measuring.peak_rss_mib(), "base_mib": base, "parameters": parameter_count(work.policy)[0],
    } | flops(work)  # fmt: skip


def flops(work: Update | Rollout) -> dict[str, float]:
    """Of a repeat, in all and in attention, counted analytically."""
    if isinstance(work, Update):
        times, packed = 3, sequences(work.rows, work.length)
    else:
        times, packed = 1, sequences(work.prompts * work.samples, work.prompt_length + work.new_tokens)
    rows, length = packed.tokens_RT.shape
    one_token = forward_flops(work.policy, sequences(1, 1)), forward_flops(work.policy, sequences(1, 2))
    pair = one_token[1] - 2 * one_token[0]  # two tokens are three pairs, one token is one
    return {
        "flops": times * forward_flops(work.policy, packed),
        "pair_flops": times * pair * rows * length * (length + 1) / 2,
    }


def update(work: Update) -> Callable[[int], None]:
    """SFT updates of full rows, up to 8 a pass."""
    batch = BatchConfig(row_length=work.length, rows=work.rows, micro_rows=min(work.rows, 8), logit_chunk=CHUNK)
    optimizer = make_optimizer(OptimizerConfig(**setting.optimizer()), 10)
    mesh = make_mesh(ONE_DEVICE, jax.devices()[:1])
    abstract = abstract_state(work.policy, optimizer, mesh, with_reference=False)
    step = functools.partial(sft_step, work.policy, batch, RouterConfig(1e-3, 0.0), 0.0, optimizer)
    program = jit_update(step, abstract)
    state = start_state(fresh_params(work.policy, mesh, 0), optimizer, abstract)

    def once(number: int) -> None:
        nonlocal state
        draw = np.random.default_rng(number)
        tokens_RT = draw.integers(0, work.policy.vocab_size, (work.rows, work.length), dtype=np.int32)
        with jax.set_mesh(mesh):
            state, metrics = program(state, sequences_of(tokens_RT))
        jax.device_get(metrics)

    return once


def rollout(work: Rollout) -> Callable[[int], None]:
    """Completions of exactly `new_tokens`."""
    mesh = make_mesh(ONE_DEVICE, jax.devices()[:1])
    params = fresh_params(work.policy, mesh, 0)
    engine = Engine(work.policy, mesh, stop_ids=[work.policy.vocab_size + 1], pad_id=0)

    def once(number: int) -> None:
        draw = np.random.default_rng(number)
        prompts = draw.integers(0, work.policy.vocab_size, (work.prompts, work.prompt_length)).tolist()
        seed_B = seeds(0, work.prompts * work.samples, number)
        sampling = dict(temperature=1.0, top_k=0, top_p=1.0, max_tokens=work.new_tokens)
        assert (engine.generate(params, prompts, seed_B, **sampling).length_B == work.new_tokens).all()

    return once


def in_process(axis: str, series: str, size: int, repeats: int) -> dict[str, Any]:
    """The line that a process of its own prints."""
    point = json.dumps([axis, series, size])
    words = [sys.executable, str(Path(__file__).resolve()), "--point", point, "--repeats", str(repeats)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stderr[-2000:], file=sys.stderr)
        return {"measure": "growth", "axis": axis, "series": series, "x": size, "failed": f"exit {done.returncode}"}
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--axis", nargs="+", choices=list(AXES), default=list(AXES))
    parser.add_argument("--most", type=int, default=max(LENGTHS), help="largest size")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--point", default="", help="[axis, series, size], in this process")
    args = parser.parse_args()
    sys.stdout = sys.stderr
    if args.point:
        axis, series, size = json.loads(args.point)
        figures = measured(AXES[axis][series][size], args.repeats)
        line = {"measure": "growth", "axis": axis, "series": series, "x": size}
        rounded = {key: measuring.significant(x) if isinstance(x, float) else x for key, x in figures.items()}
        rounded |= {key: [measuring.significant(x) for x in figures[key]] for key in ("span", "cpu_span")}
        measuring.say(line | rounded)
        return
    points = [(a, s, x) for a in args.axis for s, works in AXES[a].items() for x in works if x <= args.most]
    for axis, series, size in points:
        measuring.say(in_process(axis, series, size, args.repeats))


if __name__ == "__main__":
    main()
