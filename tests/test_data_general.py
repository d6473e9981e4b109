"""General requests: disjoint splits, right replies, thought where it is wanted and nowhere else."""

import pytest

from r1jax.data import tasks
from r1jax.data.general import FACTS, KINDS, General, GeneralTask
from r1jax.rewards.answers import accuracy
from r1jax.rewards.format import THINK, readable
from r1jax.rewards.language import LANGUAGES


def records(split="train", kind="", **kwargs):
    source = General(GeneralTask(**kwargs), split, kind)
    return [source[i] for i in range(len(source))]


def test_splits_share_no_question_and_hold_every_kind():
    train, test = records(train_size=3000), records("test")
    assert not {r["question"] for r in train} & {r["question"] for r in test}
    for split in (train, test):
        assert {r["task"] for r in split} == {f"general_{kind}" for kind in KINDS}
    assert records(seed=1)[:20] != train[:20] and records(train_size=3000) == train


def test_of_a_fact_the_way_of_asking_is_held_out_not_the_fact():
    asked = " ".join(r["question"] for r in records(kind="facts", train_size=4000))
    assert all(key in asked for table, _ in FACTS for key in table)


@pytest.mark.parametrize("kind", ["facts", "translation"])
def test_replies_that_can_be_checked_are_right(kind):
    rows = records(kind=kind, train_size=300, thinking=0.5)
    columns = {key: [r[key] for r in rows] for key in ("answer", "task")}
    scores = accuracy(prompts=[], completions=[r["completion"] for r in rows], extraction="last_line", **columns)
    assert scores == [1.0] * 300
    wrong = [r["completion"].replace("is ", "is not ").replace(" es ", " no es ") for r in rows]
    assert sum(accuracy(prompts=[], completions=wrong, extraction="last_line", **columns)) == 0


def test_translations_agree_in_gender():
    answers = {r["question"].rpartition(": ")[2]: r["answer"] for r in records(kind="translation", train_size=4000)}
    assert answers["the red house"] == "la casa roja" and answers["the green book"] == "el libro verde"
    assert answers["la flor azul"] == "the blue flower" and answers["the old tree"] == "el árbol viejo"


def test_only_what_wants_a_thought_has_one():
    for kind in KINDS:
        thinking = [THINK in r["completion"] for r in records(kind=kind, train_size=200, thinking=1.0)]
        assert all(thinking) if kind in ("translation", "writing", "advice") else not any(thinking)
        assert not any(THINK in r["completion"] for r in records(kind=kind, train_size=50, thinking=0.0))
    share = sum(THINK in r["completion"] for r in records(kind="writing", train_size=1000, thinking=0.3)) / 1000
    assert 0.25 < share < 0.35
    thoughts = [r["completion"] for r in records(kind="advice", train_size=50, thinking=1.0)]
    assert readable(completions=thoughts) == [1.0] * 50


def test_records_are_tasks():
    source = tasks.load("general", "test", data_dir="", source_dir="", kwargs={"test_size": 12})
    assert len(source) == 12
    for record in (source[i] for i in range(12)):
        assert record["template"] == "r1" and record["language"] in LANGUAGES
        assert record["completion"].startswith(" ") and all(isinstance(value, str) for value in record.values())
    one = tasks.load("general_greeting", "test", data_dir="", source_dir="", kwargs={})
    assert one[0]["task"] == "general_greeting"
    with pytest.raises(ValueError, match=r"thinking is 2; expected a share"):
        tasks.load("general", "test", data_dir="", source_dir="", kwargs={"thinking": 2})
    with pytest.raises(ValueError, match=r"did you mean 'general_writing'"):
        tasks.load("general_writin", "test", data_dir="", source_dir="", kwargs={})
