"""r1jax on the fixed workloads: one JSON line a measurement on stdout, all else on stderr.

    python bench/run.py --model dense-S --measure all --dtype float32 --repeats 5

Measures: `rollout` samples; `grpo` makes whole steps, and prints their rollout, their update, the step and the
process's peak memory; `sft` updates. Each is a process of its own, so that its peak memory is its own; `all` starts
them in turn. A GRPO step is the RL stage's own: `groups.ask`, `draw` and `grade`, which ends with the graders at work,
then `Grpo.learn`.
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402
import numpy as np  # noqa: E402

from bench import measuring, setting  # noqa: E402
from bench import workloads as w  # noqa: E402
from r1jax.data.tokenizer import Tokenizer  # noqa: E402
from r1jax.mesh import make_mesh  # noqa: E402
from r1jax.rewards.compose import load_rewards  # noqa: E402
from r1jax.stages import groups  # noqa: E402
from r1jax.stages.algorithms import make_algorithm  # noqa: E402
from r1jax.stages.inference import ONE_DEVICE, make_engine, seeds  # noqa: E402
from r1jax.training.flops import forward_flops  # noqa: E402
from r1jax.training.optimizer import make_optimizer  # noqa: E402
from r1jax.training.state import abstract_state, fresh_params, jit_update, start_state  # noqa: E402
from r1jax.training.step import sft_step  # noqa: E402
from r1jax.types import Packed  # noqa: E402

MEASURES = ("rollout", "grpo", "sft")


def rollout(args: argparse.Namespace, compiles: measuring.Compiles) -> list[dict[str, Any]]:
    """All completions of one step, on the host."""
    policy = setting.policy(args.model, args.dtype)
    mesh = make_mesh(ONE_DEVICE, jax.devices()[:1])
    params = fresh_params(policy, mesh, 0)
    engine = make_engine(policy, mesh, Tokenizer(setting.WordVocabulary(args.model)), "plain")

    def once(number: int) -> None:
        prompts = w.prompt_ids(args.model, number).tolist()
        sampling = dict(temperature=w.TEMPERATURE, top_k=0, top_p=1.0, max_tokens=w.NEW_TOKENS)
        out = engine.generate(params, prompts, seeds(0, w.SEQS, number), **sampling)
        assert (out.length_B == w.NEW_TOKENS).all(), "a completion ended early"

    repeats, _, load = measuring.repeated(once, args.warmup, args.repeats)
    more = _setting(args) | _cost(repeats, load) | dict(flops=forward_flops(policy, sequences(w.SEQS, w.SEQ_LEN)))
    return [
        measuring.timed(args.model, "rollout", [r.seconds for r in repeats], w.SEQS * w.NEW_TOKENS, **more),
        measuring.line(args.model, "rollout_compile", compiles.seconds, "s", programs=compiles.count, **_setting(args)),
    ]


def grpo(args: argparse.Namespace, compiles: measuring.Compiles) -> list[dict[str, Any]]:
    """Whole steps: prompts to text, rewards, reference pass, update."""
    config = setting.rl_stage(args.model, args.dtype)
    mesh = make_mesh(ONE_DEVICE, jax.devices()[:1])
    tokenizer = Tokenizer(setting.WordVocabulary(args.model))
    engine = make_engine(config.policy, mesh, tokenizer, config.template)
    algorithm = make_algorithm(config, mesh, tokenizer.pad_id)
    rewards = load_rewards(config.rewards, config.grading, {})
    with jax.set_mesh(mesh):
        state = algorithm.start(fresh_params(config.policy, mesh, 0))

        def once(number: int) -> dict[str, float]:
            nonlocal state
            began = time.perf_counter()
            texts = w.prompt_texts(args.model, number)
            records = [{"question": text, "answer": "", "task": "words", "language": "en"} for text in texts]
            asked = groups.ask(config, tokenizer, records)
            drawn = groups.draw(config, engine, state.params, asked, number)
            batch = groups.grade(config, tokenizer, rewards, drawn, number)
            assert (batch.rollouts.length_B == w.NEW_TOKENS).all(), "a completion ended early"
            state, learnt = algorithm.learn(state, batch)
            metrics = learnt.metrics | groups.figures(config, batch, learnt.rewards)
            seconds = time.perf_counter() - began
            apart = metrics["time/rollout_s"] + learnt.waited
            return metrics | {"step": seconds, "update": seconds - apart, "flops": learnt.flops}

        repeats, steps, load = measuring.repeated(once, args.warmup, args.repeats)
    rewards.close()
    gathered = {key: [step[key] for step in steps] for key in ("step", "update", "time/rollout_s")}
    more = _setting(args, row_length=config.batch.row_length, micro_rows=config.batch.micro_rows)
    cost = _cost(repeats, load)
    sampled = dict(flops=forward_flops(config.policy, sequences(w.SEQS, w.SEQ_LEN)))
    learnt = dict(flops=steps[0]["flops"], padding=measuring.significant(steps[0]["update/padding"]))
    exact = dict(mismatch=measuring.significant(max(step["policy/sampler_mismatch"] for step in steps)))
    tokens = w.SEQS * w.NEW_TOKENS
    return [
        measuring.timed(args.model, "grpo_rollout", gathered["time/rollout_s"], tokens, **more, **sampled, **exact),
        measuring.timed(args.model, "update", gathered["update"], w.SEQS * w.SEQ_LEN, **more, **learnt),
        measuring.timed(args.model, "grpo_step", gathered["step"], None, **more, **cost),
        measuring.line(args.model, "grpo_peak_rss", measuring.peak_rss_mib(), "MiB", **more),
        measuring.line(args.model, "grpo_compile", compiles.seconds, "s", programs=compiles.count, **more),
    ]


def sft(args: argparse.Namespace, compiles: measuring.Compiles) -> list[dict[str, Any]]:
    """Supervised updates on full rows, every position in the loss."""
    policy = setting.policy(args.model, args.dtype)
    batch, router, how = setting.sft_sections(args.model)
    mesh = make_mesh(ONE_DEVICE, jax.devices()[:1])
    optimizer = make_optimizer(how, args.warmup + args.repeats)
    abstract = abstract_state(policy, optimizer, mesh, with_reference=False)
    update = jit_update(functools.partial(sft_step, policy, batch, router, 0.0, optimizer), abstract)
    with jax.set_mesh(mesh):
        state = start_state(fresh_params(policy, mesh, 0), optimizer, abstract)

        def once(number: int) -> None:
            nonlocal state
            state, metrics = update(state, sequences_of(w.sft_ids(args.model, number)))
            jax.device_get(metrics)

        repeats, _, load = measuring.repeated(once, args.warmup, args.repeats)
    more = _setting(args, micro_rows=batch.micro_rows)
    flops = 3 * forward_flops(policy, sequences(w.SFT_BATCH, w.SFT_LEN))
    cost = _cost(repeats, load) | dict(flops=flops, rss_mib=round(measuring.peak_rss_mib()))
    return [
        measuring.timed(args.model, "sft", [r.seconds for r in repeats], w.SFT_BATCH * w.SFT_LEN, **more, **cost),
        measuring.line(args.model, "sft_compile", compiles.seconds, "s", programs=compiles.count, **more),
    ]


def sequences(rows: int, length: int) -> Packed:
    """Rows of one sequence each, as `forward_flops` counts them."""
    return sequences_of(np.zeros((rows, length), np.int32))


def sequences_of(tokens_RT: np.ndarray) -> Packed:
    """A sequence a row, each position predicting the next; the last predicts the first, so that all have a target."""
    ones = np.ones_like(tokens_RT)
    position = np.broadcast_to(np.arange(tokens_RT.shape[1], dtype=np.int32), tokens_RT.shape)
    target = np.roll(tokens_RT, -1, axis=1)
    return Packed(tokens_RT, ones, 0 * ones, position, target, ones.astype(np.float32))


def _setting(args: argparse.Namespace, **more: Any) -> dict[str, Any]:
    parts = {"dtype": args.dtype, "params": "float32", **more}
    return {"setting": ",".join(f"{key}={value}" for key, value in parts.items())}


def _cost(repeats: list[measuring.Repeat], load: measuring.Load) -> dict[str, Any]:
    cpu = float(np.median([repeat.cpu_seconds for repeat in repeats]))
    return dict(cpu_s=measuring.significant(cpu), own_cores=load.own_cores, other_cores=load.other_cores)


def versions() -> dict[str, Any]:
    """The line of this Python and its packages."""
    packages = [f"{name}={importlib.metadata.version(name)}" for name in ("jax", "jaxlib", "flax", "optax")]
    given = {"value": " ".join(packages), "unit": "", "python": platform.python_version(), "cores": os.cpu_count()}
    return {"peer": "r1jax", "model": "-", "measure": "versions"} | given


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=list(w.MODELS), required=True)
    parser.add_argument("--measure", choices=["all", "versions", *MEASURES], default="all")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of compute")
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    if args.measure == "all":
        each = ([sys.executable, __file__, *sys.argv[1:], "--measure", measure] for measure in MEASURES)
        return max(subprocess.run(command, check=False).returncode for command in each)
    sys.stdout = sys.stderr
    if args.measure == "versions":
        measuring.say(versions())
        return 0
    measures: dict[str, Callable[..., list[dict[str, Any]]]] = {"rollout": rollout, "grpo": grpo, "sft": sft}
    for one in measures[args.measure](args, measuring.Compiles()):
        measuring.say(one)
    return 0


if __name__ == "__main__":
    sys.exit(main())
