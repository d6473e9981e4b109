"""The reward model stage: learning, resumption, what it leaves to be opened, its use in RL, and what it refuses."""

import functools
import json
import shutil

import jax
import numpy as np
import pytest
import smoke_run

import r1jax
from configs import reward_model_tiny
from r1jax import pipeline
from r1jax.config import stage_config, to_dict
from r1jax.stages import graders, reward_model, rl
from r1jax.stages.graders import PolicyGenerator, PolicyJudge
from r1jax.stages.inference import ONE_DEVICE
from r1jax.stages.scoring import Scorer, open_scorer

NAMES = """
    loss preference/accuracy preference/margin moe/max_load moe/dropped moe/balance grad_norm lr time/update_s
    update/tokens_per_s update/mfu update/padding
""".split()


def config(kind: str = "bradley_terry", **changes):
    """A few steps from the finished smoke base."""
    name = {"bradley_terry": "replies:helpful", "pointwise": "replies:harmless"}[kind]
    tree = reward_model_tiny.reward_model(kind, name, steps=4, lr=3e-3)
    with tree.unlocked():
        tree.policy = to_dict(smoke_run.stage("base").policy)
        tree.init_from = str(smoke_run.finished() / "base")
        tree.batch.update(examples=8, rows=8, micro_rows=8, row_length=320)
        tree.sources.replies.kwargs = {"train_size": 200, "test_size": 20}
        tree.evaluation.update(limit=0, every=2, every_limit=10)
        tree.checkpoint.update(every=2)
        for path, value in changes.items():
            *sections, key = path.split(".")
            functools.reduce(lambda node, name: node[name], sections, tree)[key] = value
    return stage_config(tree)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Both kinds, finished; read them only."""
    folder = tmp_path_factory.mktemp("models")
    for objective in ("bradley_terry", "pointwise"):
        reward_model.run(config(objective), str(folder / objective))
    return folder


def mesh():
    return graders.make_mesh(ONE_DEVICE, jax.local_devices()[:1])


def opened(folder) -> Scorer:
    return open_scorer(str(folder), mesh())


@pytest.mark.parametrize("objective", ["bradley_terry", "pointwise"])
def test_figures_are_there_and_finite(trained, objective):
    rows = smoke_run.rows(trained / objective / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    for row in rows:
        assert not set(NAMES) - row.keys() and all(np.isfinite(row[name]) for name in NAMES)
    assert rows[0]["loss"] == pytest.approx(np.log(2), abs=1e-5)  # the head starts at zero
    assert rows[0]["preference/margin"] == 0 and rows[0]["preference/accuracy"] == 0
    assert rows[3]["loss"] != rows[0]["loss"] and rows[3]["preference/margin"] != 0
    name = {"bradley_terry": "replies:helpful:test", "pointwise": "replies:harmless:test"}[objective]
    evaluations = smoke_run.rows(trained / objective / "evaluations.jsonl")
    assert [(row["step"], row["task"], row["n"]) for row in evaluations] == [(2, name, 10), (4, name, 20)]
    result = json.loads((trained / objective / "result.json").read_text())
    assert list(result) == [name] and 0 <= result[name]["accuracy"] <= 1


def test_killed_and_resumed_equals_uninterrupted(trained, tmp_path, monkeypatch):
    folder, whole = tmp_path / "again", trained / "bradley_terry"
    with monkeypatch.context() as patch, pytest.raises(smoke_run.Killed):
        smoke_run.kill_at(patch, 3)
        reward_model.run(config(), str(folder))
    reward_model.run(config(), str(folder))
    for name in ("evaluations.jsonl", "result.json", "tokenizer.model"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
    rows = [list(map(smoke_run.untimed, smoke_run.rows(f / "metrics.jsonl"))) for f in (folder, whole)]
    assert rows[0] == rows[1]
    for one, other in zip(*(jax.tree.leaves(opened(f)._variables) for f in (folder, whole)), strict=True):
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


def test_a_scorer_says_the_same_of_a_reply_in_any_company(trained):
    scorer = opened(trained / "bradley_terry")
    questions = ["Why do people like kettles?"] * 3 + ["How do I choose boots?"] * 2
    replies = ["They last.", "Silly question.", "", "Look at the weight.", "\ud800 never mind"]
    together = scorer(questions, replies)
    assert len(set(together)) == 5 and all(isinstance(score, float) for score in together)
    apart = [scorer([q], [r])[0] for q, r in zip(questions, replies, strict=True)]
    np.testing.assert_allclose(together, apart, rtol=1e-4, atol=1e-5)
    backwards = scorer(questions[::-1], replies[::-1])[::-1]
    np.testing.assert_allclose(together, backwards, rtol=1e-4, atol=1e-5)
    assert scorer(["q", "q"], ["word " * 400, "word"])[0] is None  # too long to be read
    assert scorer([], []) == []


def test_its_accuracy_is_that_of_its_scores(trained):
    """The evaluation ranks the same pairs as the scorer that a reward uses."""
    held_out = reward_model.open_inputs(config()).test["replies:helpful:test"]
    records = [held_out[i] for i in range(20)]
    scores = opened(trained / "bradley_terry")(
        [r["question"] for r in records for _ in range(2)], [r[k] for r in records for k in ("chosen", "rejected")]
    )
    result = json.loads((trained / "bradley_terry" / "result.json").read_text())
    assert np.mean(np.array(scores[0::2]) > np.array(scores[1::2])) == result["replies:helpful:test"]["accuracy"]


def test_rl_is_rewarded_by_both(trained, tmp_path):
    rewards = {
        name: {
            "fn": f"r1jax.rewards.preference:{name}", "weight": 1.0, "kwargs": {"checkpoint": str(trained / folder)},
        }
        for name, folder in (("helpful", "bradley_terry"), ("harmless", "pointwise"))
    }  # fmt: skip
    rl.run(smoke_run.stage("zero", rewards=rewards, steps=1), str(tmp_path / "rl"))
    (row,) = smoke_run.rows(tmp_path / "rl" / "metrics.jsonl")
    assert row["reward/helpful/errors"] == row["reward/harmless/errors"] == 0
    assert 0 < row["reward/harmless/mean"] < 1 and 0 <= row["reward/helpful/missing"] <= 1
    samples = smoke_run.rows(tmp_path / "rl" / "samples.jsonl")
    assert len({sample["rewards"]["harmless"] for sample in samples}) > 1


def test_a_policy_answers_as_a_judge():
    folder = str(smoke_run.finished() / "base")
    ask = PolicyGenerator(PolicyJudge(folder, max_tokens=4, temperature=1.0, batch=2), folder, mesh())
    prompts, seeds = ["What is 1 + 1?", "no room " * 400, "What is 2 + 2?", "What is 3 + 3?"], [1, 2, 3, 4]
    replies = ask(prompts, seeds)
    assert replies[1] is None and all(isinstance(replies[i], str) for i in (0, 2, 3))
    assert ask(prompts[2:], seeds[2:]) == replies[2:]  # neither place nor company matters


def test_a_pipeline_names_its_stages(trained, tmp_path):
    """Names of stages in a folder's place: resolved, and refused where they come no earlier or write no text."""
    tree = smoke_run.config(**{"zero.init_from": "base"})
    with tree.unlocked():
        tree.stages.zero.rewards = {
            "h": {"fn": "r1jax.rewards.preference:helpful", "weight": 1.0, "kwargs": {"checkpoint": "helpful"}}
        }
        tree.stages.helpful = {**json.loads(json.dumps(to_dict(config()))), "init_from": "base"}
        tree.order = ("base", "helpful", "zero")
    assert list(pipeline.pipeline_stages(tree)) == ["base", "helpful", "zero"]
    for name in ("base", "helpful"):
        source = smoke_run.finished() / "base" if name == "base" else trained / "bradley_terry"
        shutil.copytree(source, tmp_path / name)
    services = graders.makers({"helpful": str(tmp_path / "helpful")})
    assert isinstance(services["scorer"]({"checkpoint": "helpful"}), Scorer)
    graders.checkers({"helpful": "not there yet"})["scorer"]({"checkpoint": "helpful"})
    with tree.unlocked():
        tree.order = ("base", "zero", "helpful")
    with pytest.raises(ValueError, match=r"stages\.zero\.rewards\.h is 'helpful', a stage that comes no earlier"):
        pipeline.pipeline_stages(tree)
    with tree.unlocked():
        tree.order = ("base", "helpful", "zero")
        tree.stages.zero.init_from = "helpful"
    with pytest.raises(ValueError, match="a reward model, which writes no text"):
        pipeline.pipeline_stages(tree)


def test_folders_are_told_apart(trained):
    base = str(smoke_run.finished() / "base")
    with pytest.raises(ValueError, match=r"is a policy \(sft\), not a reward model"):
        graders.checkers({})["scorer"]({"checkpoint": base})
    with pytest.raises(ValueError, match="is a reward model, which scores text and writes none"):
        r1jax.load(str(trained / "pointwise"))
    with pytest.raises(ValueError, match="is a reward model"):
        graders.checkers({})["generate"]({"judge": {"checkpoint": str(trained / "pointwise")}})
    with pytest.raises(ValueError, match=r"holds no config\.json"):
        graders.makers({})["scorer"]({"checkpoint": "/nowhere"})


@pytest.mark.parametrize(
    ("service", "kwargs", "message"),
    [
        ("scorer", {}, r"kwargs\.checkpoint is None"),
        ("generate", {}, r"kwargs\.judge is None; expected a section with either"),
        ("generate", {"judge": {"checkpoint": "a", "url": "b"}}, "with either checkpoint"),
        ("generate", {"judge": {"url": "http://x"}}, r"add judge\.model"),
        ("generate", {"judge": {"url": "http://x", "model": "m", "timeouts": 1.0}}, "did you mean 'timeout_s'"),
        ("generate", {"judge": {"checkpoint": "a", "batch": 0}}, r"judge\.batch is 0"),
    ],
)
def test_bad_kwargs_are_refused(service, kwargs, message):
    with pytest.raises(ValueError, match=message):
        graders.checkers({})[service](kwargs)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": "pairwise"}, r"config\.objective is 'pairwise'"),
        ({"objective": "pointwise"}, "'replies:helpful' is for 'bradley_terry'"),
        ({"sources": {}}, r"config\.sources is empty"),
        ({"batch.examples": 0}, r"batch\.examples is 0"),
        ({"batch.micro_rows": 3}, r"expected a multiple of batch\.micro_rows \(3\)"),
        ({"batch.row_length": 64}, r"replies:helpful: record 0 takes \d+ tokens; batch\.row_length is 64"),
        ({"policy.width": 64}, "another architecture"),
        ({"init_from": ""}, "init_from is empty"),
        ({"init_from": "/nowhere"}, r"/nowhere holds no config\.json"),
        ({"template": "plane"}, "template is 'plane'"),
    ],
)
def test_bad_input_is_refused_at_start(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        reward_model.run(config(**changes), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
