"""The job that r1jax and TRL share: one setting for both, and a page that says what the lines say."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from bench import job_page, job_r1jax
from bench import job_setting as job
from configs import r1_zero_tiny
from r1jax.config import PolicyConfig

ROOT = Path(__file__).resolve().parent.parent


def test_reward_by_hand():
    texts = {
        " <think> 2 + 3 = 5. </think> <answer> 5 </answer>": 1.1,
        "<think>a\nb</think><answer>-5</answer>": 0.1,
        "<think> </think> <answer> five </answer>": 0.1,
        "<think> 5 </think> <answer> 5": 0.0,
        "<answer> 5 </answer>": 0.0,
        "<think> </think> <answer> 5 </answer> 5": 0.0,
    }
    assert job.reward(list(texts), ["5"] * len(texts), task="arithmetic") == pytest.approx(list(texts.values()))


def test_a_step_has_its_own_prompts_in_order(tmp_path):
    lines = [json.dumps({"prompt": str(i), "answer": "1"}) for i in range(3 * job.PROMPTS)]
    (tmp_path / job.PROMPTS_FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")
    rows = job.prompts(tmp_path)
    for step in range(3):
        numbers = range(step * job.PROMPTS, (step + 1) * job.PROMPTS)
        assert [row["prompt"] for row in job.of_step(rows, step)] == [str(i) for i in numbers]


def test_the_stage_is_the_job():
    stage = job_r1jax.rl_stage(PolicyConfig(**r1_zero_tiny.base().policy.to_dict()), 2)
    rollout, grpo, optimizer = stage.rollout, stage.grpo, stage.optimizer
    assert (rollout.prompts, rollout.samples, rollout.max_tokens) == (job.PROMPTS, job.SAMPLES, job.MAX_TOKENS)
    assert (rollout.temperature, rollout.top_k, rollout.top_p) == (job.TEMPERATURE, 0, 1.0)
    assert (grpo.clip_low, grpo.clip_high, grpo.kl_coef, grpo.kl_estimator) == (job.CLIP, job.CLIP, job.KL_COEF, "k3")
    assert (grpo.advantage_scale, grpo.reduction, grpo.importance) == ("none", "sequence", "token")
    assert (grpo.minibatches, grpo.epochs) == (1, 1)
    assert (optimizer.beta1, optimizer.beta2, optimizer.eps) == (job.BETA1, job.BETA2, job.EPS)
    assert (optimizer.lr, optimizer.weight_decay, optimizer.clip_norm) == (
        job.LEARNING_RATE, job.WEIGHT_DECAY, job.CLIP_NORM,
    )  # fmt: skip
    assert (optimizer.rule, optimizer.schedule, optimizer.warmup_steps) == ("adamw", "constant", 0)
    assert (stage.policy.dtype, stage.policy.param_dtype, stage.seed) == ("float32", "float32", 2)
    (spec,) = stage.rewards.values()
    assert spec.weight == 1.0 and spec.fn == f"{job.__name__}:{job.reward.__name__}"


def test_both_sides_read_every_hyperparameter():
    """TRL's side cannot be imported here: it has an environment of its own."""
    names = [name for name in vars(job) if name.isupper() and not name.startswith("_") and not name.endswith("_FILE")]
    shared = set(names) - {"SEEDS", "POLICY_FOLDER"}
    assert {"LEARNING_RATE", "KL_COEF", "CLIP_NORM", "MAX_TOKENS"} <= shared
    for side in ("job_r1jax.py", "job_trl.py"):
        read = set(re.findall(r"\bjob\.([A-Z0-9_]+)", (ROOT / "bench" / side).read_text(encoding="utf-8")))
        assert shared <= read, f"{side} does not read {sorted(shared - read)}"


def lines(shift: float) -> list[dict]:
    """Three seeds of either peer; TRL's steps take 8 s and r1jax's 2, but for a first one of 60; rewards rise alike."""
    out = [{"measure": "machine", "date": "2026-01-02", "architecture": "x", "cores": 2}]
    out.append({
        "peer": "trl", "measure": "check", "same_prompt_ids": True, "logp_difference": 6e-6, "reward_difference": 0.0,
        "loss": [0.25, 0.25], "grad_norm": [1.5, 1.5], "clip_fraction": [0.08, 0.08], "tokens": 2469,
    })  # fmt: skip
    for peer, seconds in (("r1jax", 2.0), ("trl", 8.0)):
        for seed in range(3):
            for step in range(12):
                reward = step / 10 + 0.05 * (seed - 1) + (shift if peer == "trl" else 0.0)
                out.append({
                    "peer": peer, "seed": seed, "measure": "step", "step": step, "reward": reward, "length": 20.0,
                    "seconds": 60.0 if (peer, step) == ("r1jax", 0) else seconds, "rollout_s": seconds / 4,
                    "cpu_s": 1.0, "longest": 40.0, "padding": 0.03, "compiled": 15 * (step == 0),
                })  # fmt: skip
            whole = {"whole_s": 10 * seconds, "rss_mib": 500.0, "programs": 16, "compile_s": 7.0, "versions": peer}
            out.append({"peer": peer, "seed": seed, "measure": "whole"} | whole)
    return out


def test_section_says_what_was_measured():
    text = job_page.section(lines(0.0), "1M parameters", "figure.svg")
    assert "| seconds a step | 2 (2–2) | 8 (8–8) | 4.00× |" in text and "| of them rollout | 0.5 (0.5–0.5)" in text
    assert "compiled 16 programs in 7.0 s a run, 0 of them after" in text and "3.0% of the places" in text.replace(
        "\n", " "
    )
    assert "(2469 tokens)" in text and "the same tokens" in text and "![Reward and seconds a step](figure.svg)" in text
    # The last ten of twelve rewards, 0.2 to 1.1, average 0.65.
    assert "r1jax 0.600, 0.650, 0.700; TRL 0.600, 0.650, 0.700" in text
    assert "differ by +0.000" in text and "within twice" in text


def test_seconds_are_of_the_seeds_that_had_the_machine():
    slow = [line | {"seconds": 50.0} if line.get("seed") == 1 else line for line in lines(0.0)]
    slow += [line | {"seconds": 3.0, "step": 12} for line in slow if line.get("step") == 11 and line["seed"] == 0]
    text = job_page.section(slow, "1M parameters", "figure.svg", [0, 2])
    assert "| the fastest step, s | 2 (2–2) | 3 (3–3) | 1.50× |" in text
    assert "| seconds a step | 2 (2–3) | 8 (3–8) | 4.00× |" in text
    assert "Seconds are those of seed 0, 2; other work ran beside the other seeds." in text
    assert "r1jax 0.600, 0.650, 0.700" in text, "rewards are of all"


def test_curves_apart_are_called_so():
    """Seeds spread by 0.05, so that a mean of three has an error of 0.029, and a difference of two 0.041."""
    assert "differ by -0.080" in job_page.agreement(lines(0.08)) and "within twice" in job_page.agreement(lines(0.08))
    said = job_page.agreement(lines(0.09))
    assert "is 0.041: beyond twice that" in said


def test_figure_holds_both_curves(tmp_path):
    given = lines(0.0)
    np.testing.assert_allclose(job_page.curves(given, "trl", "reward")[2], np.arange(12) / 10 + 0.05)
    short = [line for line in given if line.get("seed") != 1 or line.get("step", 0) < 7]
    assert job_page.curves(short, "trl", "reward").shape == (3, 7), "no further than every seed has come"
    job_page.figure(given, tmp_path / "a.svg")
    job_page.figure(given, tmp_path / "b.svg")
    assert (tmp_path / "a.svg").read_text() == (tmp_path / "b.svg").read_text(), "the same lines, the same picture"
    assert all(colour in (tmp_path / "a.svg").read_text() for colour in job_page.PEERS.values())
