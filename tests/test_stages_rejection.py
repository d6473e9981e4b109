"""Rejection sampling as a stage: planted samples, provenance, shards shared by processes, what it refuses."""

import dataclasses
import functools
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import smoke_run

import r1jax
from configs import rejection_tiny
from r1jax import pipeline
from r1jax.config import RejectionStage, SourceSpec, stage_config
from r1jax.data.dataset import DROPPED, read_dataset, read_file
from r1jax.stages import candidates, collection, rejection, sft
from r1jax.stages.candidates import Answer, Asker
from r1jax.stages.inference import encode_prompt
from r1jax.stages.run import locate
from r1jax.stages.workdir import read_result

ALWAYS = {"digits": {"fn": "configs.smoke:digits", "weight": 1.0, "kwargs": {}}}


def config(**changes):
    """The tiny config at the smoke pipeline's size: batches of the shape of its evaluation."""
    tree = rejection_tiny.get_config()
    with tree.unlocked():
        tree.update(init_from=str(smoke_run.finished() / "base"), limit=8, shards=2)
        tree.rollout.update(prompts=4, samples=4, max_tokens=32)
        tree.data.data_dir = smoke_run.DATA_DIR
        for spec in (tree.data.sources.arithmetic, tree.selection.held_out.arithmetic):
            spec.kwargs.update(train_size=200, test_size=100)
        for path, value in changes.items():
            *sections, key = path.split(".")
            functools.reduce(lambda node, name: node[name], sections, tree)[key] = value
    return tree


def stage(**changes) -> RejectionStage:
    return stage_config(config(**changes))


def contents(folder):
    """Every record of a dataset, and what dropped it."""
    rows = [*read_dataset(folder), *read_dataset(folder, DROPPED)]
    return sorted(json.dumps(row, sort_keys=True) for row in rows)


@functools.cache
def planted(record_answer: str, wrong: str) -> tuple[tuple[str, str, bool], ...]:
    """(name, completion, finished) of four samples of each of three prompts."""

    def form(thought, answer=record_answer):
        return f" <think> {thought} </think> <answer> {answer} </answer>"

    return (
        ("", form("we add the first two numbers and then the last one."), True),
        ("similar", form("We add the  first two numbers and then the last one."), True),
        ("reward", form("we add the first two numbers.", wrong), True),
        ("reward", f" it is {record_answer}", True),
        ("mixed_language", form("primero sumamos estos dos números y luego el otro."), True),
        ("code_blocks", form("a program helps.\n```\nx = 1\n```\nthat is all."), True),
        ("long_paragraphs", form(" ".join(f"word{i}" for i in range(120))), True),
        ("repetitive", form("now add one to it. " * 6), True),
        ("truncated", form("we subtract it from the other one and see."), False),
        ("", form("there is one way to see this: in parts."), True),
        ("similar", form("there is one way to see this: in parts."), True),
        ("", form("nobody doubts that this comes out in a moment."), True),
    )


def test_planted_samples_are_dropped_each_for_its_reason(tmp_path, monkeypatch):
    """Right, in form and clean samples are kept, with general requests joined to them; the planted ones are not."""
    made = []

    def answers(self, way, opened, prompts):
        found = []
        for asked in prompts:
            for b in range(4):
                name, text, finished = planted(asked.record["answer"], "77")[4 * asked.number + b]
                made.append((str(asked.row), str(b), name))
                found.append(Answer(asked, "prompt", text, [1] * 9, b, finished))
        return found

    monkeypatch.setattr(Asker, "_answers", answers)
    english = {"problems": {"max_operand": 9}, "spanish": 0.0, "train_size": 50, "test_size": 20}
    changes = {"data.sources.arithmetic.kwargs": english, "limit": 3, "shards": 1, "join.ratio": 2.0}
    result = rejection.run(stage(**changes), str(tmp_path))
    rows = [*read_dataset(tmp_path), *read_dataset(tmp_path, DROPPED)]
    sampled = {(r["index"], r["sample"], r["filter"]) for r in rows if r["way"] == "sampled"}
    assert sampled == set(made) and len(made) == 12
    counts = {"truncated": 1, "code_blocks": 1, "long_paragraphs": 1, "mixed_language": 1, "repetitive": 1}
    dropped = {f"dropped/{name}": n for name, n in (counts | {"reward": 2, "similar": 2}).items()}
    assert result == {"arithmetic": {"n": 12, "kept": 3} | dropped, "general": {"n": 6, "kept": 6}}
    assert read_result(str(tmp_path)) == result
    assert all(r["template"] == ("r1" if r["way"] == "joined" else "r1_zero") for r in read_dataset(tmp_path))
    (line,) = smoke_run.rows(tmp_path / "metrics.jsonl")
    assert line["samples/n"] == 12 and line["samples/kept"] == 3 and line["samples/dropped/reward"] == 2


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished run of the smoke base, whose samples are all turned down."""
    folder = tmp_path_factory.mktemp("rejection")
    result = rejection.run(stage(rewards=ALWAYS), str(folder))
    assert result["arithmetic"]["n"] == 32
    return folder


def test_a_sample_can_be_made_again_from_its_provenance(made):
    row = next(r for r in read_dataset(made, DROPPED) if r["sample"] == "2")
    policy = r1jax.load(row["checkpoint"])
    assert row["checkpoint"] == str(smoke_run.finished() / "base") and row["step"] == "4"
    prompt = encode_prompt(policy.tokenizer, row["prompt"])
    out = policy.engine.generate(
        policy.params, [prompt] * 4, np.array([int(row["seed"])] * 16, np.uint32), temperature=1.0, top_k=0, top_p=1.0,
        max_tokens=32,
    )  # fmt: skip
    assert candidates.completion_text(policy.tokenizer, out.completion_BL[0, : out.length_B[0]]) == row["completion"]
    task = {"question", "answer", "task", "language", "expression"}
    ours = "template completion prompt raw rewritten source way index sample checkpoint step seed rewards reward filter"
    assert set(row) == task | set(ours.split())
    assert row["reward"] == repr(json.loads(row["rewards"])["digits"]) and row["filter"]
    assert len({(r["index"], r["seed"]) for r in read_dataset(made, DROPPED)}) == 32


class Killed(BaseException):
    """Stands in for SIGKILL."""


def test_killed_and_resumed_or_shared_is_the_same_set(made, tmp_path, monkeypatch, capsys):
    """One process dies in its first shard; the second does what is unclaimed, then what the dead one had claimed."""
    config_ = stage(rewards=ALWAYS)
    began = []

    def dying(self, prompts):
        began.append(prompts[0].number)
        raise Killed
        yield

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Asker, "__call__", dying)
        rejection.run(config_, str(tmp_path))
    ask = Asker.__call__
    monkeypatch.setattr(Asker, "__call__", lambda self, prompts: began.append(prompts[0].number) or ask(self, prompts))
    result = rejection.run(config_, str(tmp_path))
    assert began == [0, 1, 0]
    assert result == read_result(str(made)) and contents(tmp_path) == contents(made)
    assert (tmp_path / "metrics.jsonl").read_bytes() == (made / "metrics.jsonl").read_bytes()
    capsys.readouterr()
    assert rejection.run(config_, str(tmp_path)) == result and "finished already" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"made with another config: config\.seed was 0, is 1"):
        rejection.run(dataclasses.replace(config_, seed=1), str(tmp_path))


def test_samples_do_not_depend_on_the_shards(made, tmp_path):
    one = stage(rewards=ALWAYS, shards=1)
    rejection.run(one, str(tmp_path))
    first, second = ({(r["index"], r["sample"], r["seed"]) for r in read_dataset(f, DROPPED)} for f in (made, tmp_path))
    assert first == second


@pytest.mark.slow
def test_two_processes_one_of_them_killed_give_the_set_of_one(made, tmp_path):
    tree = config(rewards=ALWAYS, shards=8)
    alone = tmp_path / "alone"
    rejection.run(stage_config(tree), str(alone))
    path = tmp_path / "shared.py"
    path.write_text(
        "import json\nfrom ml_collections import ConfigDict\n\n\ndef get_config():\n"
        f"    return ConfigDict(json.loads({json.dumps(tree.to_dict())!r})).lock()\n"
    )
    line = [sys.executable, "-m", "r1jax.main", f"--config={path}", f"--workdir={tmp_path / 'both'}"]
    start = functools.partial(subprocess.Popen, line, cwd=smoke_run.ROOT, stdout=subprocess.DEVNULL)
    doomed, other = start(), start()
    while not list((tmp_path / "both").glob("candidates/*.array_record")):
        time.sleep(0.01)
        assert doomed.poll() is None or other.poll() is None
    os.kill(doomed.pid, signal.SIGKILL)
    assert other.wait(timeout=300) == 0 and doomed.wait() in (-signal.SIGKILL, 0)
    assert contents(tmp_path / "both") == contents(alone)
    assert read_result(str(tmp_path / "both")) == read_result(str(alone))


def test_sft_reads_a_dataset_each_record_in_its_own_template(tmp_path):
    """By path, or by the name of a pipeline's stage, which is not looked for before that stage has run."""
    rows = [{"question": "2 + 2", "completion": " 4", "template": "r1", "task": "t", "answer": "4", "language": "en"}]
    collection.write_dataset(tmp_path / "samples", rows, 1)
    base = smoke_run.stage("base")
    source = {"made": SourceSpec("samples:sampling", 1.0, {})}
    base = dataclasses.replace(base, data=dataclasses.replace(base.data, sources=source))
    folders = {"sampling": str(tmp_path)}
    assert locate(source, folders, awaited=True) == {}
    sft.check(base, folders)
    with pytest.raises(ValueError, match=r"sampling holds no samples"):
        sft.check(base)
    (opened,) = sft.open_inputs(base, locate(source, folders, awaited=False)).sources
    tokenizer = r1jax.load(str(smoke_run.finished() / "base")).tokenizer
    ids, prompt = sft._encoded(tokenizer, "r1_zero", opened[0])
    assert tokenizer.decode(ids[:prompt]) == "User: 2 + 2 Assistant:" and tokenizer.decode(ids[prompt:]) == " 4"


def test_a_pipeline_knows_what_makes_what():
    def order(*names, **changes):
        base, zero = (smoke_run.config().stages[name].to_dict() for name in ("base", "zero"))
        sampling, again = config(init_from="zero").to_dict(), json.loads(json.dumps(base))
        again["data"]["sources"] = {"made": {"name": "samples:sampling", "weight": 1.0, "kwargs": {}}}
        again["init_from"] = "base"
        stages = {"base": base, "zero": zero, "sampling": sampling, "again": again}
        for path, value in changes.items():
            name, key = path.split("__")
            stages[name][key] = value
        return pipeline.pipeline_stages(
            {"stage": "pipeline", "seed": 3, "order": names, "stages": {name: stages[name] for name in names}}
        )

    stages = order("base", "zero", "sampling", "again")
    assert stages["sampling"].seed == 3
    with pytest.raises(ValueError, match=r"again\.data\.sources\.made is 'sampling', a stage that comes no earlier"):
        order("base", "zero", "again", "sampling")
    with pytest.raises(ValueError, match=r"again\.init_from is 'sampling', a dataset"):
        order("base", "zero", "sampling", "again", again__init_from="sampling")
    made = {"made": {"name": "samples:zero", "weight": 1.0, "kwargs": {}}}
    with pytest.raises(ValueError, match=r"sources\.made is 'zero', which makes no dataset"):
        order(
            "base",
            "zero",
            "sampling",
            "again",
            again__data=smoke_run.config().stages.base.data.to_dict() | {"sources": made},
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init_from": "/nowhere"}, r"/nowhere holds no config\.json"),
        ({"template": "r1_zer"}, r"template is 'r1_zer'"),
        ({"shards": 0}, r"config\.shards is 0"),
        ({"selection.filters": {"code_block": {}}}, r"no filter 'code_block'"),
        ({"rewards.format.fn": "r1jax.rewards.format:readible"}, r"did you mean 'readable'"),
        ({"join.ratio": 0.0}, r"join\.ratio is 0\.0 with 1 sources"),
        ({"join.sources.general.name": "gsm8k_"}, r"task is 'gsm8k_'"),
        ({"join.sources.general.name": "arithmetic"}, r"join\.sources\.general gives records without a completion"),
    ],
)
def test_bad_input_is_refused_at_start(changes, message):
    with pytest.raises(ValueError, match=message):
        rejection.check(stage(**changes))


def test_a_prompt_without_room_for_an_answer_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"arithmetic: the prompt of record 0 has \d+ tokens; .* leaves 20: lower max"):
        rejection.run(stage(**{"rollout.max_tokens": 300}), str(tmp_path / "x"))
    assert not (tmp_path / "x").exists()


def test_a_dataset_is_no_policy(made):
    with pytest.raises(ValueError, match=r"holds a dataset \(rejection\) and no policy"):
        r1jax.load(str(made))
    assert len(read_file(made / "candidates" / "00001-of-00002.array_record")) == 16
