"""Batches sampled a step ahead: from whom, graded when, off-policy by one update, and saved with the step."""

import math
import time
from types import SimpleNamespace

import numpy as np
import pytest
import smoke_run

from r1jax.stages import batches, groups, rl
from r1jax.types import Rollouts
from tests.test_stages_algorithms import BY_PPO

ONE_UPDATE = {
    "steps": 3, "grpo.minibatches": 1, "grpo.epochs": 1, "evaluation.every": 0, "evaluation.samples": 1,
    "evaluation.limit": 4, "checkpoint.every": 1,
}  # fmt: skip


def drawn(seed: int = 0, slots: int = 7) -> groups.Drawn:
    """Two prompts of two samples, one of them empty past its first token."""
    rng = np.random.default_rng(seed)
    length_B = np.array([7, 1, 4, 5], np.int32)
    real_BL = np.arange(slots)[None] < length_B[:, None]
    tokens_BL = np.where(real_BL, rng.integers(5, 90, real_BL.shape), 3).astype(np.int32)
    logp_BL, old_BL = (np.where(real_BL, -rng.random(real_BL.shape), 0).astype(np.float32) for _ in range(2))
    rollouts = Rollouts(
        rng.integers(5, 90, (2, 6)).astype(np.int32), np.array([6, 2], np.int32), tokens_BL, length_B, logp_BL,
        np.array([True, True, False, True]),
    )  # fmt: skip
    return groups.Drawn(groups.Asked([{}], ["a", "b"], [[1], [2]]), rollouts, 1.5, old_BL)


@pytest.mark.parametrize("scored", [True, False])
def test_what_is_saved_comes_back_bit_for_bit(scored):
    given = drawn() if scored else drawn()._replace(logp_old_BL=None)
    host = {"ahead_arrays": batches._saved(given), "ahead": {"slots": 7, "seconds": 1.5}}
    back = batches._drawn(given.asked, host, pad_id=3)
    for name, array in given.rollouts._asdict().items():
        again = getattr(back.rollouts, name)
        assert again.dtype == array.dtype and again.tobytes() == array.tobytes() and again.shape == array.shape, name
    assert back.seconds == given.seconds and (back.logp_old_BL is None) == (not scored)
    if scored:
        assert back.logp_old_BL.tobytes() == given.logp_old_BL.tobytes()


class Loader:
    """Counts what it gives."""

    def __init__(self):
        self.at = 0

    def __next__(self):
        self.at += 1
        return [self.at]

    def state(self):
        return str(self.at).encode()

    def set_state(self, state):
        self.at = int(state)


@pytest.fixture
def events(monkeypatch):
    """What happens in which order; parameters are the number of updates that they have had."""
    found = []

    def draw(config, engine, params, asked, step):
        found.append(f"draw {step} from {params} of records {asked.records[0]}")
        return drawn(step)._replace(asked=asked, logp_old_BL=None)

    def grade(config, tokenizer, rewards, sampled, step):
        found.append(f"grade {step}")
        result = SimpleNamespace(result=lambda: found.append(f"graded {step}") or f"rewards {step}")
        return groups.Sampled(["a"], [[1]], sampled.rollouts, result, 1.0, sampled.logp_old_BL)

    monkeypatch.setattr(groups, "draw", draw)
    monkeypatch.setattr(groups, "grade", grade)
    monkeypatch.setattr(groups, "ask", lambda config, tokenizer, records: groups.Asked(records, ["a"], [[1]]))
    return found


def made(ahead: int, steps: int = 3) -> batches.Batches:
    config = SimpleNamespace(rollout=SimpleNamespace(ahead=ahead), steps=steps)
    placement = SimpleNamespace(lend=lambda params, use: (use(params), params, {}))
    sampler = batches.Sampler(None, placement)
    return batches.Batches(
        config, SimpleNamespace(pad_id=3), sampler, None, Loader(), lambda params, _: np.full((4, 7), params)
    )


def walk(source: batches.Batches, first: int, steps: int, events: list[str]) -> None:
    for step in range(first, steps + 1):
        batch, params, _ = source.take(step, step - 1)
        assert params == step - 1
        old = "own" if batch.logp_old_BL is None else f"of {batch.logp_old_BL.max():.0f}"
        events.append(f"learn {step}, old {old}, settled {isinstance(batch.grading, groups.Settled)}")


def test_in_its_own_step_every_batch_comes_from_the_newest_policy(events):
    walk(made(0), 1, 3, events)
    each = ("draw {t} from {before} of records {t}", "grade {t}", "learn {t}, old own, settled False")
    assert events == [line.format(t=t, before=t - 1) for t in (1, 2, 3) for line in each]


AHEAD = [
    "draw 1 from 0 of records 1", "grade 1", "draw 2 from 0 of records 2", "graded 1", "grade 2",
    "learn 1, old of 0, settled True",
    "draw 3 from 1 of records 3", "graded 2", "grade 3",
    "learn 2, old of 0, settled True",
    "learn 3, old of 1, settled False",
]  # fmt: skip


def test_a_step_ahead_it_comes_from_the_policy_before_and_one_batch_is_graded_at_a_time(events):
    walk(made(1), 1, 3, events)
    assert events == AHEAD


def test_a_batch_that_waits_is_restored_not_drawn_again(events):
    first = made(1)
    walk(first, 1, 1, events)
    saved = first.state(1)
    assert saved["loader"] == b"1" and saved["ahead"]["step"] == 2
    del events[:]
    second = made(1)
    second.restore(saved)
    walk(second, 2, 3, events)
    assert events == ["grade 2", *AHEAD[6:]]
    assert second.state(3) == {"loader": b"3"}


@pytest.fixture(scope="module")
def ahead(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ahead")
    rl.run(smoke_run.stage("zero", **ONE_UPDATE, **{"rollout.ahead": 1}), str(folder))
    return folder


def test_the_ratio_is_to_the_policy_that_sampled(ahead):
    """One update a batch: from the second batch on the policy has moved since, and its sampler has not."""
    rows = smoke_run.rows(ahead / "metrics.jsonl")
    assert rows[0]["policy/ratio_mean"] == pytest.approx(1.0, abs=1e-4)
    for row in rows[1:]:
        assert abs(row["policy/ratio_mean"] - 1.0) > 1e-4
    for row in rows:
        assert 0 < row["policy/sampler_mismatch"] < 1e-4, "scored by the policy that sampled, before it was updated"
        assert math.isfinite(row["loss"]) and row["time/reward_wait_s"] >= 0


@pytest.mark.slow
def test_killed_and_resumed_with_a_batch_in_hand_equals_uninterrupted(ahead, tmp_path, monkeypatch):
    config = smoke_run.stage("zero", **ONE_UPDATE, **{"rollout.ahead": 1})
    with monkeypatch.context() as patch, pytest.raises(smoke_run.Killed):
        smoke_run.kill_at(patch, 2)
        rl.run(config, str(tmp_path / "zero"))
    rl.run(config, str(tmp_path / "zero"))
    assert smoke_run.differences(tmp_path / "zero", ahead) == []


def slow(completions: list[str], **_) -> list[float]:
    """Half a second for a batch, whatever the machine does meanwhile."""
    time.sleep(0.5)
    return [float(len(text) % 5) for text in completions]


@pytest.mark.slow
def test_a_slow_grader_is_not_called_for_two_batches_at_once(tmp_path):
    """It would be given up for the second. RAFT scores nothing, drawn groups are dropped, PPO has all three options."""
    rewards = {"slow": {"fn": "tests.test_stages_batches:slow", "weight": 1.0}}
    kinds = {
        "raft": {"raft": {"keep": "best", "least": 0.0}, "grpo.kl_coef": 0.0, "grpo.reference_refresh": 0},
        "dynamic": {"dynamic_sampling": {"drawn": 6}},
        "ppo": BY_PPO | {"grpo.sampler_cap": 2.0, "rollout.precision": "int8"},
    }
    for name, changes in kinds.items():
        config = smoke_run.stage("zero", **ONE_UPDATE, **changes, rewards=rewards, **{"rollout.ahead": 1})
        rl.run(config, str(tmp_path / name))
        rows = smoke_run.rows(tmp_path / name / "metrics.jsonl")
        assert [row["reward/slow/timeouts"] for row in rows] == [0, 0, 0]
        assert all(math.isfinite(row["loss"]) for row in rows)


def test_only_a_step_or_none():
    with pytest.raises(ValueError, match=r"rollout\.ahead is 2; expected one of 0, 1"):
        smoke_run.stage("zero", init_from="base", **{"rollout.ahead": 2})
