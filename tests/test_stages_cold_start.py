"""Cold start as a stage: the ways and their shares, rewriting before grading, and what it refuses."""

import dataclasses
import functools
import json

import pytest
import smoke_run

from configs import cold_start_tiny
from r1jax.config import stage_config
from r1jax.data import arithmetic
from r1jax.data.dataset import DROPPED, read_dataset
from r1jax.data.tokenizer import Tokenizer
from r1jax.pipeline import pipeline_stages
from r1jax.stages import cold_start
from r1jax.stages.candidates import Answer, Asker, cut


def stage(**changes):
    tree = cold_start_tiny.get_config().stages.collect
    with tree.unlocked():
        tree.update(limit=40, shards=2)
        tree.rollout.update(prompts=4, samples=4, max_tokens=32)
        tree.data.data_dir = smoke_run.DATA_DIR
        for spec in (tree.data.sources.arithmetic, tree.selection.held_out.arithmetic):
            spec.kwargs.update(train_size=200, test_size=100)
        for way in tree.ways.values():
            way.init_from = str(smoke_run.finished() / "base")
        for path, value in changes.items():
            *sections, key = path.split(".")
            functools.reduce(lambda node, name: node[name], sections, tree)[key] = value
    return stage_config(tree)


@pytest.fixture
def answered(monkeypatch):
    """Instead of a policy: R1-Zero's form in its template, plain words elsewhere; each second sample is wrong."""

    def answers(self, way, opened, prompts):
        found = []
        for asked in prompts:
            for b in range(4):
                answer = asked.record["answer"] if b % 2 else "77"
                thought = f"7 * {asked.number} = {b}, they say."
                form = " <think> {} </think> <answer> {} </answer>" if way.template == "r1_zero" else " {} answer: {}."
                prompt = way.prompt(asked.record["question"], opened.tokenizer)
                found.append(Answer(asked, prompt, form.format(thought, answer), [1], b, True))
        return found

    monkeypatch.setattr(Asker, "_answers", answers)


def test_all_ways_end_in_the_readable_form(tmp_path, answered):
    config = stage(**{"selection.similarity": 1.0, "selection.filters": {}})
    result = cold_start.run(config, str(tmp_path))
    kept, dropped = list(read_dataset(tmp_path)), list(read_dataset(tmp_path, DROPPED))
    assert result["arithmetic"]["n"] == 160 == len(kept) + len(dropped)
    assert {row["filter"] for row in dropped} <= {"reward", "held_out"} and len(kept) > 60
    for row in kept:
        says = {"en": "The answer is", "es": "La respuesta es"}[row["language"]]
        number = int(row["completion"].split()[3])
        assert row["completion"] == (
            f" <think> 7 * {number} = {row['sample']}, they say. </think> {says} {row['answer']}."
        )
        assert row["template"] == "r1" and row["rewritten"] == "rules" and row["raw"] != row["completion"]
        assert json.loads(row["rewards"]) == {"accuracy": 1.0, "format": 1.0}
    prompts = {row["way"]: (row["question"], row["prompt"]) for row in kept}
    assert prompts["few_shot"][1] == cold_start_tiny.FEW_SHOT.replace("{question}", prompts["few_shot"][0])
    assert prompts["direct"][1] == cold_start_tiny.DIRECT.replace("{question}", prompts["direct"][0])
    assert prompts["rewritten"][1].startswith("A conversation between")


def test_ways_share_the_prompts_by_weight(tmp_path, answered):
    config = stage(**{"limit": 200, "selection.similarity": 1.0})
    cold_start.run(config, str(tmp_path))
    rows = [*read_dataset(tmp_path), *read_dataset(tmp_path, DROPPED)]
    asked = {way: len({r["index"] for r in rows if r["way"] == way}) for way in config.ways}
    assert sum(asked.values()) == 200  # a prompt is asked in one way
    assert 30 < asked["few_shot"] < 70 and 30 < asked["direct"] < 70 and 80 < asked["rewritten"] < 120


def test_a_model_may_rewrite(tmp_path, answered, monkeypatch):
    def makers(folders):
        return {
            "generate": lambda kwargs: lambda prompts, seeds: [f"{kwargs['judge']['model']}: {p}." for p in prompts]
        }

    monkeypatch.setattr(cold_start.graders, "makers", makers)
    rewriter = {"model": {"url": "http://localhost:1", "model": "m"}, "prompt": "{question} {thought}"}
    config = stage(rewriter=rewriter, **{"selection.filters": {}})
    cold_start.run(config, str(tmp_path))
    row = read_dataset(tmp_path)[0]
    assert row["rewritten"] == "model" and row["completion"].startswith(f" <think> m: {row['question']} 7 *")


def test_a_real_policy_is_asked(tmp_path):
    """The smoke base knows nothing: all that it says is turned down, with its words on record."""
    result = cold_start.run(stage(limit=6), str(tmp_path))
    assert result["arithmetic"]["n"] == 24 and result["arithmetic"]["kept"] == 0
    rows = list(read_dataset(tmp_path, DROPPED))
    assert len({row["raw"] for row in rows}) > 12 and {row["filter"] for row in rows} <= {"form", "truncated"}


def test_a_completion_is_cut_where_it_goes_on():
    assert cut("\n a. b\nWhat is", "\n") == ("\n a. b", True)
    assert cut(" a. b", "\n") == (" a. b", False) and cut(" a\nb", "") == (" a\nb", False)


def test_the_worked_example_is_not_held_out():
    assert "2 + 4 * 3" in cold_start_tiny.FEW_SHOT and not arithmetic.is_test("2 + 4 * 3")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"summaries": {"en": "It is {answer}."}}, r"has records in es; config\.summaries has en"),
        ({"summaries": {"en": "It is."}}, r"summaries\.en is 'It is\.'; expected a text with \{answer\}"),
        ({"ways": {}}, r"config\.ways is empty"),
        ({"ways.direct.init_from": "/nowhere"}, r"/nowhere holds no config\.json"),
        ({"ways.direct.template": "r1"}, r"ways\.template is 'r1' and ways\.prompt .*give one"),
        ({"ways.direct.prompt": "ask"}, r"ways\.prompt is 'ask'; expected .*\{question\}"),
        ({"rewriter.model": {"url": "x", "model": "m"}}, r"rewriter\.prompt is ''"),
        ({"ways.direct.weight": 0.0}, r"ways\.weight is 0\.0"),
    ],
)
def test_bad_input_is_refused_at_start(changes, message):
    with pytest.raises(ValueError, match=message):
        cold_start.check(stage(**changes))


def test_in_a_pipeline_the_ways_may_start_from_earlier_stages():
    tree = cold_start_tiny.get_config().to_dict()
    base, zero = (smoke_run.config().stages[name].to_dict() for name in ("base", "zero"))
    for way in tree["stages"]["collect"]["ways"].values():
        way["init_from"] = "zero"
    tree["stages"] = {"base": base, "zero": zero, "collect": tree["stages"]["collect"]}
    stages = pipeline_stages(tree | {"order": ("base", "zero", "collect")})
    cold_start.check(dataclasses.replace(stages["collect"], limit=2), {"zero": "/not/yet/there"})
    with pytest.raises(ValueError, match=r"collect\.ways\.direct\.init_from is 'zero', a stage that comes no earlier"):
        pipeline_stages(tree | {"order": ("base", "collect", "zero")})


def test_the_tokenizer_of_the_base_reads_the_prompts():
    tokenizer = Tokenizer.load(str(smoke_run.finished() / "base"))
    assert tokenizer.decode(tokenizer.encode(cold_start_tiny.DIRECT)) == cold_start_tiny.DIRECT
