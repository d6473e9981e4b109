"""r1jax's side of the job. One JSON line a step on stdout, all else on stderr.

    python bench/job_r1jax.py prepare --base runs/quickstart/base --folder runs/job
    python bench/job_r1jax.py run --base runs/quickstart/base --folder runs/job --seed 0

`prepare` writes what both sides read: the policy as Hugging Face files, the prompts, and one batch of completions with
r1jax's log-probabilities of them, its loss and the norm of its gradient, which TRL's side is held against.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402
import numpy as np  # noqa: E402
from ml_collections import ConfigDict  # noqa: E402

from bench import job_setting as job  # noqa: E402
from bench import measuring  # noqa: E402
from configs import r1_zero_tiny  # noqa: E402
from r1jax.config import PolicyConfig, RlStage, stage_config  # noqa: E402
from r1jax.data import tasks, templates  # noqa: E402
from r1jax.data.tokenizer import Tokenizer  # noqa: E402
from r1jax.mesh import make_mesh  # noqa: E402
from r1jax.rewards.compose import load_rewards  # noqa: E402
from r1jax.stages import groups  # noqa: E402
from r1jax.stages.algorithms import Grpo  # noqa: E402
from r1jax.stages.conversion import export_hf  # noqa: E402
from r1jax.stages.inference import ONE_DEVICE, encode_prompt, load_params, make_engine, read_writer  # noqa: E402
from r1jax.training.step import RlBatch  # noqa: E402

SHARD_BYTES = 10**9


# Rows of one prompt's length and half a dozen completions, one at a time: little padding, and no batch of any size
# has a program of its own.
BATCH = dict(row_length=256, rows=32, micro_rows=1, logit_chunk=256)


def rl_stage(policy: PolicyConfig, seed: int) -> RlStage:
    """The job as a stage. The router's load bias stays as it is, for TRL has no update of it."""
    tree = ConfigDict(r1_zero_tiny.zero()).to_dict()
    tree |= dict(seed=seed, steps=job.STEPS, policy=vars(policy), batch=BATCH)
    tree["rollout"] |= dict(
        prompts=job.PROMPTS, samples=job.SAMPLES, max_tokens=job.MAX_TOKENS, temperature=job.TEMPERATURE
    )
    tree["rewards"] = {"reward": {"fn": "bench.job_setting:reward", "weight": 1.0, "kwargs": {}}}
    tree["grpo"] |= dict(
        advantage_scale="none", clip_low=job.CLIP, clip_high=job.CLIP, kl_coef=job.KL_COEF, kl_estimator="k3",
        reduction="sequence", importance="token", minibatches=1, epochs=1,
    )  # fmt: skip
    tree["optimizer"] = dict(
        rule="adamw", lr=job.LEARNING_RATE, warmup_steps=0, schedule="constant", final_scale=1.0, beta1=job.BETA1,
        beta2=job.BETA2, eps=job.EPS, weight_decay=job.WEIGHT_DECAY, clip_norm=job.CLIP_NORM,
    )  # fmt: skip
    tree["router"] = dict(bias_rate=0.0, balance_coef=0.0)
    stage = stage_config(tree)
    assert isinstance(stage, RlStage), "the stage it is made of is one of RL"
    return stage


class Job:
    """The stage's parts, driven step by step over the job's own prompts."""

    def __init__(self, base: str, seed: int):
        self.config = rl_stage(read_writer(base).policy, seed)
        self.mesh = make_mesh(ONE_DEVICE, jax.devices()[:1])
        self.tokenizer = Tokenizer.load(base)
        self.engine = make_engine(self.config.policy, self.mesh, self.tokenizer, self.config.template)
        self.algorithm = Grpo(self.config, self.mesh, self.tokenizer.pad_id)
        self.rewards = load_rewards(self.config.rewards, self.config.grading, {})
        with jax.set_mesh(self.mesh):
            self.state = self.algorithm.start(load_params(base, self.config.policy, self.mesh))

    def sample(self, rows: list[dict[str, Any]], step: int) -> groups.Sampled:
        records = [
            {"question": r["question"], "answer": r["answer"], "task": "arithmetic", "language": "en"} for r in rows
        ]
        asked = groups.ask(self.config, self.tokenizer, records)
        drawn = groups.draw(self.config, self.engine, self.state.params, asked, step + 1)
        return groups.grade(self.config, self.tokenizer, self.rewards, drawn, step + 1)

    def step(self, rows: list[dict[str, Any]], step: int) -> dict[str, float]:
        """One step: what it took and what came out."""
        began, cpu = time.perf_counter(), time.process_time()
        batch = self.sample(rows, step)
        self.state, learnt = self.algorithm.learn(self.state, batch)
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        length_B = batch.rollouts.length_B
        return {
            "seconds": seconds, "cpu_s": cpu, "rollout_s": batch.seconds,
            "reward": float(learnt.rewards.total_B.mean()), "length": float(length_B.mean()),
            "longest": float(length_B.max()), "kl": learnt.metrics["policy/kl"],
            "grad_norm": learnt.metrics["grad_norm"], "padding": learnt.metrics["update/padding"],
        }  # fmt: skip


def run(args: argparse.Namespace) -> None:
    compiles = measuring.Compiles()
    began = time.perf_counter()
    one, rows = Job(args.base, args.seed), job.prompts(args.folder)
    started = time.perf_counter() - began
    with jax.set_mesh(one.mesh):
        for step in range(args.steps):
            before = compiles.count
            figures = one.step(job.of_step(rows, step), step)
            _say(args.seed, measure="step", step=step, compiled=compiles.count - before, **figures)
    one.rewards.close()
    _say(
        args.seed, measure="whole", start_s=started, whole_s=time.perf_counter() - began,
        rss_mib=measuring.peak_rss_mib(), programs=compiles.count, compile_s=compiles.seconds,
        versions=f"jax={jax.__version__}",
    )  # fmt: skip


def prepare(args: argparse.Namespace) -> None:
    folder = Path(args.folder)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / job.POLICY_FOLDER).exists():
        export_hf(args.base, str(folder / job.POLICY_FOLDER), param_dtype="float32", shard_bytes=SHARD_BYTES)
    config, tokenizer = rl_stage(read_writer(args.base).policy, 0), Tokenizer.load(args.base)
    source = tasks.load(
        "arithmetic", "train", data_dir=config.data.data_dir, source_dir="", kwargs={"problems": r1_zero_tiny.PROBLEMS}
    )
    order = np.random.default_rng(0).permutation(len(source))[: job.STEPS * job.PROMPTS]
    with (folder / job.PROMPTS_FILE).open("w", encoding="utf-8") as file:
        for i in order:
            record = source[int(i)]
            prompt = templates.render(config.template, record["question"], tokenizer)
            ids = encode_prompt(tokenizer, prompt)
            line = {"question": record["question"], "prompt": prompt, "ids": ids, "answer": record["answer"]}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    one = Job(args.base, 0)
    with jax.set_mesh(one.mesh):
        arrays = reference_batch(one, job.of_step(job.prompts(folder), 0))
    one.rewards.close()
    np.savez(folder / job.BATCH_FILE, **arrays)
    print(f"{folder}: {len(order)} prompts of {np.mean([len(r['ids']) for r in job.prompts(folder)]):.0f} tokens, "
          f"{arrays['length_B'].mean():.1f} tokens a completion", file=sys.stderr)  # fmt: skip


def reference_batch(one: Job, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """One batch with all that a loss is made of, and the loss.

    The log-probabilities of the old policy and of the reference are the policy's own with noise, so that ratios leave
    the clipped range here and there and the KL is not 0.
    """
    batch = one.sample(rows, 0)
    (part,) = groups.pack(one.config, batch, one.tokenizer.pad_id)
    (logp_BL,) = (np.asarray(x) for x in one.algorithm._scores(one.state.params, [part]))
    rng = np.random.default_rng(0)
    old_BL = (logp_BL + 0.15 * rng.standard_normal(logp_BL.shape)).astype(np.float32)
    ref_BL = (logp_BL + 0.3 * rng.standard_normal(logp_BL.shape)).astype(np.float32)
    advantages_B = groups.advantages(one.config, batch.grading.result())
    given = RlBatch(part.packed, part.index_BL, advantages_B, batch.rollouts.logp_sampler_BL, old_BL, ref_BL)
    one.state, metrics = one.algorithm.update(logp_BL.shape[1])(one.state, given)
    return {
        "completion_BL": batch.rollouts.completion_BL, "length_B": batch.rollouts.length_B, "logp_BL": logp_BL,
        "old_BL": old_BL, "ref_BL": ref_BL, "advantages_B": advantages_B,
        "rewards_B": batch.grading.result().total_B,
        **{name: np.float64(metrics[name]) for name in ("loss", "grad_norm", "policy/kl", "policy/clip_fraction")},
    }  # fmt: skip


def _say(seed: int, **figures: Any) -> None:
    figures = {key: measuring.significant(x) if isinstance(x, float) else x for key, x in figures.items()}
    measuring.say({"peer": "r1jax", "seed": seed} | figures)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["prepare", "run"])
    parser.add_argument("--base", required=True, help="workdir of bench/job_base.py")
    parser.add_argument("--folder", required=True, help="of the job's files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=job.STEPS)
    args = parser.parse_args()
    sys.stdout = sys.stderr
    {"prepare": prepare, "run": run}[args.what](args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
