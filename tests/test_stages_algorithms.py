"""RL by PPO and by RAFT, and a limit of tokens that rises in mid-run: figures, resumption, what is refused."""

import dataclasses
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import smoke_run

from r1jax.config import LongerConfig, RolloutConfig
from r1jax.stages import groups, rl

OPTIMIZER = dict(
    rule="adamw", lr=1e-3, warmup_steps=1, schedule="constant", final_scale=1.0, beta1=0.9, beta2=0.99, eps=1e-8,
    weight_decay=0.0, clip_norm=1.0,
)  # fmt: skip
PPO = {"discount": 1.0, "decay": 0.95, "value_clip": 0.2, "optimizer": OPTIMIZER}
BY_PPO = {"ppo": PPO, "grpo.advantage_scale": "batch", "grpo.kl_estimator": "k1", "grpo.kl_coef": 0.01}
RAFT = {"raft": {"keep": "best", "least": 0.0}, "grpo.kl_coef": 0.0, "grpo.reference_refresh": 0}
SHORT = {
    "steps": 3, "checkpoint.every": 1, "evaluation.every": 0, "evaluation.samples": 1, "evaluation.limit": 4,
    "grpo.epochs": 1,
}  # fmt: skip


def stage(**changes):
    return smoke_run.stage("zero", **{**SHORT, **changes})


def assert_resumes(config, whole, folder, monkeypatch):
    """A run that was killed at step 2 and gone on with leaves what `whole`, which was not, has left."""
    with monkeypatch.context() as patch, pytest.raises(smoke_run.Killed):
        smoke_run.kill_at(patch, 2)
        rl.run(config, str(folder))
    rl.run(config, str(folder))
    assert smoke_run.differences(folder, whole) == []


@pytest.fixture(scope="module")
def by_ppo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ppo")
    rl.run(stage(**BY_PPO), str(folder))
    return folder


def test_ppo_learns_and_saves_its_critic(by_ppo):
    rows = smoke_run.rows(by_ppo / "metrics.jsonl")
    names = "value/loss value/explained_variance value/clip_fraction value/grad_norm value/mean policy/kl".split()
    for row in rows:
        assert all(math.isfinite(row[name]) for name in names)
        assert row["policy/sampler_mismatch"] < 1e-4 and 0 < row["update/mfu"] < 1
    assert rows[0]["value/mean"] == 0 and rows[1]["value/mean"] != 0  # a new critic says 0; then it has learnt
    assert rows[1]["policy/kl"] != 0  # after an update the policy has left its reference
    saved = json.loads((by_ppo / "checkpoints" / "3" / "train" / "_METADATA").read_text())["tree_metadata"]
    assert any("'critic', 'params'" in path for path in saved) and any(
        "'critic', 'optimizer'" in path for path in saved
    )


@pytest.mark.slow
def test_ppo_resumes(by_ppo, tmp_path, monkeypatch):
    assert_resumes(stage(**BY_PPO), by_ppo, tmp_path / "killed", monkeypatch)


@pytest.mark.slow
def test_raft_learns_from_what_it_keeps_and_resumes_while_the_limit_rises(tmp_path, monkeypatch):
    longer = [{"step": 2, "max_tokens": 40}, {"step": 3, "max_tokens": 48}]
    config = stage(**RAFT, **{"rollout.longer": longer})
    rl.run(config, str(tmp_path / "whole"))
    rows = smoke_run.rows(tmp_path / "whole" / "metrics.jsonl")
    assert_resumes(config, tmp_path / "whole", tmp_path / "killed", monkeypatch)
    assert [row["completion/max_length"] for row in rows] == [32, 40, 48]
    assert [row["raft/kept"] for row in rows] == [1 / 4] * 3  # the best of four
    assert all(math.isfinite(row["loss"]) and row["loss"] > 0 and "policy/kl" not in row for row in rows)
    samples = smoke_run.rows(tmp_path / "whole" / "samples.jsonl")
    for row in samples:
        best = max(r["reward"] for r in samples if (r["step"], r["prompt"]) == (row["step"], row["prompt"]))
        assert row["advantage"] in (0.0, 1.0) and (row["advantage"] == 0.0 or row["reward"] == best)


def rewards(*total):
    return SimpleNamespace(total_B=np.array(total, np.float32))


@pytest.mark.parametrize(
    ("keep", "least", "want"),
    [
        ("best", 0.0, [0, 1, 0, 0, 1, 0, 0, 0, 1]),
        ("best", 1.0, [0, 1, 0, 0, 0, 0, 0, 0, 0]),
        ("all", 1.0, [0, 1, 1, 0, 0, 0, 0, 0, 0]),
        ("all", 0.1, [1, 1, 1, 0, 1, 0, 0, 0, 1]),
    ],
)
def test_what_raft_keeps_by_hand(keep, least, want):
    """Three groups of three: of equals the earliest is the best; one with nothing good enough gives none."""
    config = stage(**{**RAFT, "raft": {"keep": keep, "least": least}, "init_from": "base"})
    config = dataclasses.replace(config, rollout=dataclasses.replace(config.rollout, samples=3))
    got = groups.kept(config, rewards(0.1, 1.1, 1.1, 0.0, 0.2, 0.0, 0.0, 0.0, 0.1))
    np.testing.assert_array_equal(got, np.array(want, bool))


def test_a_limit_of_tokens_by_step():
    steady = RolloutConfig(
        prompts=1,
        samples=1,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_tokens=8,
        ahead=0,
        precision="policy",
        slots=0,
    )
    assert [steady.limit(step) for step in (1, 10**6)] == [8, 8] and steady.longest() == 8
    rising = dataclasses.replace(steady, longer=[LongerConfig(5, 16), LongerConfig(9, 64)])
    assert [rising.limit(step) for step in (1, 4, 5, 8, 9, 99)] == [8, 8, 16, 16, 64, 64] and rising.longest() == 64


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({**BY_PPO, "raft": RAFT["raft"]}, r"config\.ppo and config\.raft are both given"),
        (
            {**BY_PPO, "grpo.advantage_scale": "std"},
            r"grpo\.advantage_scale under PPO is 'std'; expected one of 'batch'",
        ),
        ({**BY_PPO, "grpo.importance": "sequence"}, r"grpo\.importance under PPO is 'sequence'"),
        ({**BY_PPO, "ppo": {**PPO, "decay": 1.5}}, r"ppo\.decay is 1\.5; expected a number in 0\.\.1"),
        ({**BY_PPO, "ppo": {**PPO, "lambda": 1.0}}, r"config\.ppo\.lambda is not a key of this section"),
        ({**RAFT, "grpo.kl_coef": 0.1}, r"grpo\.kl_coef is 0\.1; RAFT has no reference"),
        ({**RAFT, "raft": {"keep": "first", "least": 0.0}}, r"raft\.keep is 'first'; expected one of 'best', 'all'"),
        ({"rollout.longer": [{"step": 1, "max_tokens": 64}]}, r"rollout\.longer\[0\] is 64 tokens from step 1"),
        ({"rollout.longer": [{"step": 2, "max_tokens": 32}]}, r"expected more than 32 tokens"),
        ({"rollout.longer": [{"step": 2}]}, r"config\.rollout\.longer\[0\] lacks max_tokens"),
    ],
)
def test_bad_options_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        stage(**changes, init_from="base")


def test_prompts_must_leave_room_for_the_longest_limit(tmp_path):
    config = stage(**{"rollout.longer": [{"step": 2, "max_tokens": 250}]})
    with pytest.raises(ValueError, match=r"arithmetic: the prompt of record 0 has \d+ tokens.*leaves 6"):
        rl.run(config, str(tmp_path / "run"))
