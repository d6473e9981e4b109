"""Grading shared out between processes gives what one process gives."""

import numpy as np
import pytest

from r1jax import processes
from r1jax.config import RewardsConfig, RewardSpec
from r1jax.rewards.compose import load_rewards
from r1jax.stages.sharing import Gathering, grade, merged

PROMPTS = ["a", "a", "b", "b", "b", "c", "d", "d"]
TEXTS = [f"{'no' * (i % 3)} {i}" for i in range(8)]
COLUMNS = {"task": ["sums"] * 5 + ["prose"] * 3}


def length(completions, report):
    report("graded", float(len(completions)))
    report("missing", sum(len(text) > 4 for text in completions) / len(completions))
    return [len(text) / 10 for text in completions]


def sums(completions):
    return [float("no" in text) if "5" not in text else None for text in completions]


def broken(completions):
    return [float("nan")] * len(completions)


@pytest.fixture(scope="module")
def rewards():
    specs = {
        "length": RewardSpec("test_stages_sharing:length", 1.0, {}),
        "sums": RewardSpec("test_stages_sharing:sums", 0.5, {}, tasks=["sums"]),
        "broken": RewardSpec("test_stages_sharing:broken", 0.1, {}, tasks=["prose"]),
    }
    opened = load_rewards(specs, RewardsConfig(timeout_s=20.0, on_error=-1.0, workers=1))
    yield opened
    opened.close()


def of_each(rewards, count, monkeypatch):
    """What each of `count` processes makes of its share of the batch."""
    parts = []
    with monkeypatch.context() as patch:
        patch.setattr(processes, "count", lambda: count)
        for index in range(count):
            patch.setattr(processes.jax, "process_index", lambda: index)  # noqa: B023
            patch.setattr(processes, "gather", lambda own: parts.append(own) or [own or whole(rewards)])
            grade(rewards, PROMPTS, TEXTS, COLUMNS, [[1]] * 8)
    return parts


def whole(rewards):
    return rewards(PROMPTS, TEXTS, COLUMNS, [[1]] * 8)


def untimed(metrics):
    return {key: value for key, value in metrics.items() if not key.startswith("time/")}


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_merged_parts_are_the_whole(rewards, count, monkeypatch):
    parts = of_each(rewards, count, monkeypatch)
    got, want = merged(parts), whole(rewards)
    np.testing.assert_array_equal(got.total_B, want.total_B)
    assert got.weights == want.weights
    for name in want.by_name:
        np.testing.assert_array_equal(got.by_name[name], want.by_name[name])
        np.testing.assert_array_equal(got.mine[name], want.mine[name])
    assert untimed(got.metrics) == pytest.approx(untimed(want.metrics))
    assert got.metrics.keys() == want.metrics.keys()


def test_groups_are_not_cut(rewards, monkeypatch):
    sizes = [len(part.total_B) for part in of_each(rewards, 2, monkeypatch)]
    assert sizes == [5, 3]
    assert [len(part.total_B) for part in of_each(rewards, 4, monkeypatch)] == [2, 3, 1, 2]


def test_more_processes_than_groups(rewards, monkeypatch):
    parts = of_each(rewards, 6, monkeypatch)
    assert sum(part is None for part in parts) == 2
    np.testing.assert_array_equal(merged([p for p in parts if p is not None]).total_B, whole(rewards).total_B)


def test_alone_nothing_is_touched(rewards):
    pending = rewards.start(PROMPTS, TEXTS, COLUMNS, [[1]] * 8, None)
    batch = Gathering(pending).result()
    assert batch.metrics["reward/length/graded"] == 8 and batch.metrics["reward/broken/not_finite"] == 3
