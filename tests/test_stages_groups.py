"""Rewards in an RL run: graders that misbehave, schedules, each reward normalised, a reward swapped."""

import json
import logging

import numpy as np
import pytest
import smoke_run

from r1jax.losses import decoupled_advantages, group_advantages
from r1jax.rewards.compose import RewardBatch
from r1jax.stages import groups, rl
from r1jax.types import Rollouts


def spec(name: str, **keys) -> dict:
    return {"fn": f"bad_graders:{name}", "weight": 0.5, **keys}


def test_the_run_goes_on_whatever_its_graders_do(tmp_path, caplog):
    rewards = {
        "digits": {"fn": "configs.smoke:digits", "weight": 1.0},
        "sleeps": spec("sleeps"), "sleeps_apart": spec("sleeps", process=True), "raises": spec("raises"),
        "not_a_number": spec("not_a_number"), "dies": spec("dies", process=True), "pooled": spec("pooled"),
        "later": spec("brief", start=2),
    }  # fmt: skip
    grading = {"grading.timeout_s": 3.0, "grading.on_error": -1.0}
    quick = {"steps": 2, "evaluation.every": 0, "evaluation.limit": 4, "log.samples": 16}
    config = smoke_run.stage("zero", rewards=rewards, **grading, **quick)
    with caplog.at_level(logging.WARNING):
        rl.run(config, str(tmp_path))
    first, second = smoke_run.rows(tmp_path / "metrics.jsonl")
    for row in (first, second):
        failed = {key: value for key, value in row.items() if key.startswith("reward/") and value == 16.0}
        assert set(failed) == {
            "reward/sleeps/timeouts", "reward/sleeps_apart/timeouts", "reward/raises/errors",
            "reward/not_a_number/not_finite", "reward/dies/crashes",
        }  # fmt: skip
        assert row["reward/pooled/lost"] == 1 and row["reward/pooled/crashes"] == 0
        assert np.isfinite(row["loss"]) and row["time/reward_wait_s"] <= row["time/reward_s"] + 6
    assert "reward/later/mean" not in first and second["reward/later/mean"] < 0
    for name in ("sleeps", "sleeps_apart", "raises", "not_a_number", "dies"):
        assert f"config.rewards.{name}.fn: " in caplog.text
    assert "no such thing" in caplog.text and "returned nan" in caplog.text and "the worker died" in caplog.text
    row = smoke_run.rows(tmp_path / "samples.jsonl")[1]
    by_name = row["rewards"]
    total = by_name["digits"] + 0.5 * sum(value for name, value in by_name.items() if name != "digits")
    assert row["reward"] == pytest.approx(total, abs=1e-5) and by_name["dies"] == -1


def test_gold_answers_that_cannot_be_read_are_named_before_the_run(tmp_path, capsys):
    path = tmp_path / "mine.jsonl"
    lines = [{"question": f"What is {i} + 1?", "answer": str(i + 1)} for i in range(8)]
    lines[3]["answer"] = "\\frac{4}{"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    source = {"data.sources": {"mine": {"name": f"jsonl:{path}", "weight": 1.0, "kwargs": {}}}}
    rl.check(smoke_run.stage("zero", init_from="base", **source))
    said = capsys.readouterr().err
    assert f"jsonl:{path}: config.rewards.accuracy: 1 of 8 gold answers cannot be read" in said and "record 3" in said
    lost = {"rewards": {"digits": {"fn": "configs.smoke:digits", "weight": 1.0, "tasks": ["arithmetc"]}}}
    with pytest.raises(ValueError, match=r"rewards\.digits\.tasks is \['arithmetc'\].*did you mean 'arithmetic'"):
        rl.check(smoke_run.stage("zero", init_from="base", **lost))


@pytest.mark.parametrize("aggregation", ["sum_then_normalize", "normalize_then_sum"])
def test_advantages_of_either_aggregation(aggregation):
    config = smoke_run.stage("zero", init_from="base", **{"grpo.aggregation": aggregation, "rollout.samples": 4})
    rng = np.random.default_rng(0)
    by_name = {"a": rng.random(16, np.float32), "b": 9 * rng.random(16, np.float32)}
    mine = {"a": np.ones(16, bool), "b": rng.random(16) < 0.7}
    batch = RewardBatch(by_name["a"] + 0.5 * by_name["b"], by_name, mine, {"a": 1.0, "b": 0.5}, {}, 0.0)
    got = groups.advantages(config, batch)
    if aggregation == "sum_then_normalize":
        want = group_advantages(batch.total_B.reshape(4, 4), scale="std")
    else:
        stacked = [np.stack([values[name].reshape(4, 4) for name in "ab"]) for values in (by_name, mine)]
        want = decoupled_advantages(*stacked, np.array([1.0, 0.5], np.float32), scale="std")
    np.testing.assert_array_equal(got, np.asarray(want).reshape(-1))
    assert not np.any(groups.advantages(config, batch._replace(total_B=np.zeros(16, np.float32), by_name={}, mine={})))


@pytest.mark.slow
def test_a_swapped_reward_changes_what_is_learnt(tmp_path):
    """Twelve steps for digits, and twelve for brevity: one path on the command line differs."""
    lengths = {}
    for name, fn in {"digits": "configs.smoke:digits", "brief": "bad_graders:brief"}.items():
        config = smoke_run.stage(
            "zero", rewards={"taught": {"fn": fn, "weight": 1.0}}, steps=12,
            **{"optimizer.lr": 1e-2, "rollout.samples": 16, "grpo.clip_low": 0.2, "grpo.clip_high": 0.2},
            **{"evaluation.every": 0, "evaluation.limit": 4},
        )  # fmt: skip
        rl.run(config, str(tmp_path / name))
        lengths[name] = [row["completion/mean_length"] for row in smoke_run.rows(tmp_path / name / "metrics.jsonl")]
        print(name, [round(length, 1) for length in lengths[name]])
    assert lengths["brief"][0] == lengths["digits"][0]
    assert np.mean(lengths["brief"][-3:]) < 0.6 * np.mean(lengths["digits"][-3:])


def test_dynamic_sampling_keeps_the_groups_that_differ_and_fills_up_with_the_first_that_agree():
    few = {"rollout.prompts": 4, "rollout.samples": 2, "grpo.minibatches": 1, "dynamic_sampling": {"drawn": 6}}
    config = smoke_run.stage("zero", init_from="", **few)
    total_B = np.array([1, 1, 0, 1, 0, 0, 1, 0, 1, 1, 0.1, 0], np.float32)  # groups 1, 3 and 5 differ
    rows = np.arange(12)
    rewards = RewardBatch(
        total_B, {"accuracy": total_B}, {"accuracy": total_B > 0}, {"accuracy": 1.0}, {"reward/mean": 5.1 / 12}, 0.0
    )
    six = np.arange(6)
    rollouts = Rollouts(six[:, None], six + 1, rows[:, None], rows + 1, rows[:, None] / 8, rows % 3 == 0)
    drawn = groups.Sampled(list("abcdef"), [[i] for i in range(6)], rollouts, groups.Settled(rewards), 1.0)
    got = groups.chosen(config, drawn)
    those = [0, 1, 2, 3, 6, 7, 10, 11]  # group 0 agrees, as 2 and 4 do, and is the first of them
    assert got.prompts == list("abdf") and got.prompt_ids == [[0], [1], [3], [5]]
    assert got.rollouts.prompt_PL[:, 0].tolist() == [0, 1, 3, 5] and got.rollouts.prompt_length_P.tolist() == [
        1,
        2,
        4,
        6,
    ]
    assert got.rollouts.completion_BL[:, 0].tolist() == those and got.rollouts.finished_B.tolist() == [
        True, False, False, True, True, False, False, False,
    ]  # fmt: skip
    kept = got.grading.result()
    np.testing.assert_array_equal(kept.total_B, total_B[those])
    np.testing.assert_array_equal(kept.mine["accuracy"], (total_B > 0)[those])
    assert kept.metrics == {"reward/mean": 5.1 / 12, "reward/frac_drawn_zero_std": 0.5}
    assert groups.figures(config, got, kept)["reward/frac_zero_std"] == 0.25


@pytest.mark.slow
def test_dynamic_sampling_learns_from_fewer_than_it_draws(tmp_path):
    config = smoke_run.stage("zero", steps=2, dynamic_sampling={"drawn": 8}, **{"evaluation.limit": 4})
    assert config.rollout.prompts < 8
    rl.run(config, str(tmp_path))
    for row in smoke_run.rows(tmp_path / "metrics.jsonl"):
        assert np.isfinite(row["loss"]) and row["reward/frac_zero_std"] <= row["reward/frac_drawn_zero_std"]
