"""The SFT stage: learning, resumption, learning from questions, and what it refuses at start."""

import json
import math

import numpy as np
import pytest
import smoke_run

from r1jax.data.loader import Loader
from r1jax.data.tokenizer import Tokenizer
from r1jax.stages import sft
from r1jax.stages.sft import Documents

NAMES = """
    loss policy/entropy moe/max_load moe/dropped moe/balance grad_norm lr time/update_s update/tokens_per_s update/mfu
    update/padding
""".split()


def test_figures_are_there_and_the_loss_falls():
    metrics = smoke_run.rows(smoke_run.finished() / "base" / "metrics.jsonl")
    assert [row["step"] for row in metrics] == [1, 2, 3, 4]
    for row in metrics:
        assert not set(NAMES) - row.keys() and all(math.isfinite(row[name]) for name in NAMES)
        assert row["moe/dropped"] == 0 and 0 < row["update/mfu"] < 1
    assert metrics[0]["loss"] == pytest.approx(math.log(768), rel=0.05)  # knows nothing yet
    assert metrics[-1]["loss"] < metrics[0]["loss"] - 0.2


def test_killed_and_resumed_equals_uninterrupted(tmp_path, monkeypatch):
    config = smoke_run.stage("base")
    with monkeypatch.context() as patch, pytest.raises(smoke_run.Killed):
        smoke_run.kill_at(patch, 3)
        sft.run(config, str(tmp_path / "base"))
    sft.run(config, str(tmp_path / "base"))
    assert smoke_run.differences(tmp_path / "base", smoke_run.finished() / "base") == []


def test_documents_go_on_where_they_were():
    """Within a batch of the loader as between two: nothing is lost and nothing comes twice."""

    def documents():
        records = [{"n": str(n)} for n in range(10)]
        loader = Loader([records], [1.0], batch=4, seed=0, shuffle=True, part=slice(0, 4))
        return Documents(loader, lambda record: ([int(record["n"])], 0))

    source = documents()
    straight = [next(source)[0][0] for _ in range(20)]
    assert sorted(straight[:10]) == list(range(10))
    for taken in range(10):
        first, second = documents(), documents()
        head = [next(first)[0][0] for _ in range(taken)]
        state = first.state()
        second.set_state(state["documents"], state["taken"])
        assert head + [next(second)[0][0] for _ in range(20 - taken)] == straight


def test_questions_are_read_and_completions_learnt(tmp_path):
    """A JSONL file of question and completion, from the finished base, whose tokenizer is taken over."""
    rows = [
        {"question": f"What is {n} + 1?", "answer": str(n + 1), "completion": f"<answer> {n + 1} </answer>"}
        for n in range(8)
    ]
    path = tmp_path / "made.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    base = smoke_run.finished() / "base"
    changes = {
        "data.sources": {"made": {"name": f"jsonl:{path}", "weight": 1.0, "kwargs": {}}},
        "init_from": str(base),
    }
    sft.run(smoke_run.stage("base", **changes), str(tmp_path / "tuned"))
    assert (tmp_path / "tuned" / "tokenizer.model").read_bytes() == (base / "tokenizer.model").read_bytes()
    losses = [row["loss"] for row in smoke_run.rows(tmp_path / "tuned" / "metrics.jsonl")]
    assert 0 < losses[3] < losses[0] < math.log(768) + 0.5
    tokenizer = Tokenizer.load(base)
    tokens, prompt = sft._encoded(tokenizer, "r1_zero", rows[0])
    assert tokenizer.decode(tokens[prompt:]) == rows[0]["completion"] and tokens[-1] == tokenizer.eos_id
    assert tokenizer.decode(tokens[:prompt]).endswith("User: What is 0 + 1?. Assistant:")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch.rows": 0}, r"batch\.rows is 0; expected at least 1: an empty batch"),
        ({"batch.row_length": 400}, r"row_length is 400; policy\.context is 320"),
        ({"tokenizer.vocab_size": 1024}, r"tokenizer\.vocab_size is 1024; policy\.vocab_size is 768"),
        ({"tokenizer.vocab_size": 100}, r"tokenizer\.vocab_size is 100 and could not be trained"),
        ({"seed": -1}, r"config\.seed is -1; expected at least 0"),
        ({"data.sources": {}}, r"data\.sources is empty"),
        ({"evaluation.batch": 0}, r"evaluation\.batch is 0"),
        ({"evaluation.max_tokens": 320}, r"arithmetic:test: the prompt of record 0"),
        ({"init_from": "/nowhere"}, r"/nowhere holds no config\.json"),
    ],
)
def test_bad_input_is_refused_at_start(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        sft.run(smoke_run.stage("base", **changes), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_sources_that_teach_nothing_are_named(tmp_path):
    path = tmp_path / "made.jsonl"
    path.write_text('{"question": "q", "answer": "a", "completion": "c"}\n{"question": "q", "answer": "a"}\n')
    for name, message in (
        (f"jsonl:{path}", "record 1 has task, language, question, answer; SFT learns"),
        ("arithmetic", "record 0 has answer, expression"),
    ):
        sources = {"mine": {"name": name, "weight": 1.0, "kwargs": {}}}
        with pytest.raises(ValueError, match=message):
            sft.run(smoke_run.stage("base", **{"data.sources": sources}), str(tmp_path / "run"))


def test_padding_is_the_share_of_empty_places():
    metrics = smoke_run.rows(smoke_run.finished() / "base" / "metrics.jsonl")
    for row in metrics:
        tokens = (1 - row["update/padding"]) * 8 * 256
        assert np.isclose(tokens, round(tokens), atol=1e-3)
        assert row["update/tokens_per_s"] * row["time/update_s"] == pytest.approx(tokens)
