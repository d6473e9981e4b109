"""GSM8K and MATH-500 through cold start, RL, rejection sampling and evaluation: the config, and a small run of it."""

import json
from pathlib import Path

import pytest
import smoke_run

from configs import r1_math_tiny
from r1jax import pipeline
from r1jax.data import tasks
from r1jax.data.benchmarks import SOLVED
from r1jax.data.dataset import DROPPED, KEPT, read_dataset
from r1jax.rewards.answers import accuracy
from r1jax.rewards.format import readable, think_answer
from r1jax.stages.rewriting import parts
from r1jax.stages.selection import ngrams, words

BENCHMARKS = {"gsm8k:test", "math500:test"}


def test_the_stages_follow_the_recipe_and_both_benchmarks_are_held_out():
    stages = pipeline.pipeline_stages(r1_math_tiny.get_config("DIR"))
    starts = {name: getattr(stage, "init_from", None) for name, stage in stages.items()}
    assert starts == {
        "base": "", "cold_data": None, "cold_start": "base", "reasoning": "cold_start", "rejection": "reasoning",
        "sft2": "base",
    }  # fmt: skip
    for name, stage in stages.items():
        held_out = stage.selection.held_out if name in ("cold_data", "rejection") else stage.evaluation.tasks
        assert {spec.name for spec in held_out.values()} == (set() if name == "base" else BENCHMARKS)
        assert stage.data.source_dir == "DIR"
        assert not any(spec.name.endswith(":test") for spec in stage.data.sources.values())


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """A file of GSM8K's form, written here."""
    folder = tmp_path_factory.mktemp("raw") / "gsm8k"
    folder.mkdir()
    row = {"question": "Ann has 2 bags of 1,000 nuts.  How many?",
           "answer": "She has 2 x 1000 = <<2*1000=2000>>2000.\nThat is $<<2000=2000>>2,000.\n#### 2,000"}  # fmt: skip
    for split in ("train", "test"):
        (folder / f"{split}.jsonl").write_text(json.dumps(row) + "\n")
    return folder.parent


@pytest.mark.parametrize("template", SOLVED)
def test_a_published_solution_becomes_a_completion_in_a_templates_form(raw, tmp_path, template):
    kwargs = {"template": template}
    where = {"data_dir": str(tmp_path), "source_dir": str(raw)}
    [record] = tasks.load("gsm8k_solutions", "train", kwargs=kwargs, **where)
    assert (record["template"], record["answer"]) == (template, "2000")
    completion = record["completion"]
    assert "She has 2 x 1000 = 2000. That is $2,000." in completion
    assert not any(mark in completion for mark in ("<<", ">>", "####", "\n"))
    assert parts(completion) == ("She has 2 x 1000 = 2000. That is $2,000.", "2000") or template == "r1"
    form = {"plain": None, "r1_zero": ("answer", think_answer), "r1": ("last_line", readable)}[template]
    if form is not None:
        extraction, in_form = form
        assert accuracy([""], [completion], answer=["2000"], task=["gsm8k"], extraction=extraction) == [1.0]
        assert in_form([completion]) == [1.0]
    with pytest.raises(ValueError, match=r"kwargs\.template is 'r1zero'; expected one of plain, r1_zero, r1"):
        tasks.load("gsm8k_solutions", "train", kwargs={"template": "r1zero"}, **where)


def small(source_dir: Path):
    """The pipeline with few steps and problems; every text in form counts, for no answer will be right."""
    config = r1_math_tiny.get_config(str(source_dir))
    with config.unlocked():
        for stage in config.stages.values():
            stage.data.data_dir = smoke_run.DATA_DIR
            if "evaluation" in stage:
                stage.evaluation.update(samples=2, limit=8, batch=8)
                stage.batch.update(rows=8, micro_rows=8)  # of eight devices each has one
            else:
                stage.update(limit=48, shards=2)
        config.stages.base.steps = 200
        config.stages.cold_start.steps = config.stages.sft2.steps = 20
        config.stages.reasoning.steps = 2
    return config


@pytest.mark.slow
@pytest.mark.longest
def test_real_problems_pass_through_every_stage(tmp_path, source_dir):
    result = pipeline.run(small(source_dir), str(tmp_path))["stages"]
    for name in ("cold_start", "reasoning", "sft2"):
        assert result[name].keys() == BENCHMARKS and all(row["n"] == 8 for row in result[name].values())
        lines = [json.loads(line) for line in (tmp_path / name / "evaluation.jsonl").read_text().splitlines()]
        assert [line["task"] for line in lines] == ["gsm8k:test"] * 8 + ["math500:test"] * 8
    train = tasks.load("gsm8k", "train", data_dir=smoke_run.DATA_DIR, source_dir=str(source_dir), kwargs={})
    test = tasks.load("gsm8k", "test", data_dir=smoke_run.DATA_DIR, source_dir=str(source_dir), kwargs={})
    held_out = set().union(*(ngrams(words(test[i]["question"]), 10) for i in range(len(test))))
    for name in ("cold_data", "rejection"):
        kept = [sample for sample in read_dataset(tmp_path / name, KEPT) if sample["way"] != "joined"]
        dropped = [sample for sample in read_dataset(tmp_path / name, DROPPED) if sample["way"] != "joined"]
        assert len(kept) + len(dropped) == 48 * 4 == result[name]["gsm8k"]["n"]
        assert 0 < len(kept) == result[name]["gsm8k"]["kept"]
        for sample in kept:
            assert sample["question"] == train[int(sample["index"])]["question"]
            assert readable([sample["completion"]]) == [1.0]
            assert held_out.isdisjoint(ngrams(words(sample["question"]), 10))
    metrics = [json.loads(line) for line in (tmp_path / "reasoning" / "metrics.jsonl").read_text().splitlines()]
    assert len(metrics) == 2 and all(row["reward/accuracy/errors"] == 0 for row in metrics)
