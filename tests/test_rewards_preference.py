"""The rewards of preference models: what they read, and what they give where there is nothing to read."""

import pytest

from r1jax.config import RewardsConfig, RewardSpec
from r1jax.rewards.compose import load_rewards
from r1jax.rewards.preference import harmless, helpful, summary

ANSWERED = "<think> hm </think> <answer> Use soap. </answer>"
GRADING = RewardsConfig(timeout_s=20.0, on_error=0.0, workers=1)


class Scorer:
    """Scores by length, and remembers what it was shown; what says 'endless' it cannot read."""

    def __init__(self):
        self.shown = []

    def __call__(self, questions, replies):
        self.shown += list(zip(questions, replies, strict=True))
        return [None if "endless" in reply else float(len(reply)) for reply in replies]


@pytest.mark.parametrize(
    ("completion", "want"),
    [
        (ANSWERED, "Use soap."),
        ("<think> hm </think> Use soap.", "Use soap."),
        ("Use soap.", "Use soap."),
        ("<answer> Use soap. </answer>", "Use soap."),
        ("<think> a </think> x <think> b </think> Use soap.", "Use soap."),
        ("<think> hm, use soap", None),
        ("<think> a </think> Use soap. <think> or not", None),
        ("<think> hm </think>  ", None),
        ("<think> hm </think> <answer> </answer>", None),
        ("", None),
    ],
)
def test_summary_is_what_follows_the_thought(completion, want):
    assert summary(completion) == want


def test_helpful_sees_the_summary_only_and_harmless_all():
    scorer, reported = Scorer(), {}
    texts = [ANSWERED, "<think> endless", "<think> a </think> endless"]
    got = helpful(texts, ["q", "r", "s"], "rm", scorer, missing=-7.0, report=reported.__setitem__)
    assert got == [9.0, -7.0, -7.0] and scorer.shown == [("q", "Use soap."), ("s", "endless")]
    assert reported == {"missing": pytest.approx(2 / 3)}
    scorer = Scorer()
    got = harmless([ANSWERED, "", "endless"], ["q", "r", "s"], "rm", scorer, report=reported.__setitem__)
    assert got == [pytest.approx(1.0), 0.5, 0.0] and scorer.shown[0] == ("q", ANSWERED)
    assert reported["unread"] == pytest.approx(1 / 3)
    assert harmless(["x"], ["q"], "rm", lambda q, r: [-800.0]) == [0.0]  # no overflow


def test_nothing_to_score_asks_nothing():
    def never(questions, replies):
        raise AssertionError("asked")

    assert helpful(["<think>"], ["q"], "rm", never) == [-5.0]


def test_opened_from_a_config_and_a_broken_scorer_stops_nothing():
    spec = RewardSpec("r1jax.rewards.preference:helpful", 1.0, {"checkpoint": "rm"})
    opened = []

    def make(kwargs):
        opened.append(dict(kwargs))
        return Scorer()

    with load_rewards({"helpful": spec}, GRADING, {"scorer": make}) as rewards:
        batch = rewards(["p"], [ANSWERED], {"question": ["q"], "task": ["t"]}, [[1]])
    assert opened == [{"checkpoint": "rm"}] and batch.total_B.tolist() == [9.0]
    with load_rewards({"helpful": spec}, GRADING, {"scorer": lambda kwargs: lambda q, r: []}) as rewards:
        batch = rewards(["p"], [ANSWERED], {"question": ["q"], "task": ["t"]}, [[1]])
    assert batch.metrics["reward/helpful/errors"] == 1 and batch.total_B.tolist() == [0.0]


def test_a_missing_folder_or_an_unknown_kwarg_is_refused():
    with pytest.raises(ValueError, match=r"kwargs\.folder is not a parameter"):
        load_rewards(
            {"h": RewardSpec("r1jax.rewards.preference:helpful", 1.0, {"folder": "rm"})}, GRADING, {"scorer": dict}
        )
