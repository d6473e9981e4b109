"""Preference sets: the procedural one holds its test out and gives length no say; files are checked."""

import json

import numpy as np
import pytest

from r1jax.data import preferences, tasks
from r1jax.data.replies import BODIES, FLAWS, QUESTIONS, TOPICS, is_held_out


def pairs(split: str, size: int = 2000):
    kwargs = {"train_size": size, "test_size": size}
    return preferences.load("replies:helpful", split, objective="bradley_terry", kwargs=kwargs)


def test_splits_share_no_question_and_every_kind_is_tested():
    train, test = ({pairs(split)[i]["question"] for i in range(2000)} for split in ("train", "test"))
    assert not train & test and len(train) > 100 and len(test) > 10
    held_out = {
        phrase.format(topic)
        for kind in QUESTIONS
        for topic in TOPICS
        for number, phrase in enumerate(QUESTIONS[kind])
        if is_held_out(kind, topic, number)
    }
    assert 15 <= len(held_out) <= 35
    records = [tasks.load("replies", "test", data_dir="", source_dir="", kwargs={})[i] for i in range(300)]
    assert {record["question"] for record in records} == held_out
    chosen = {body for n in range(2000) for body in [pairs("train")[n]["chosen"]]}
    assert {(k, t) for k in QUESTIONS for t in TOPICS} == {
        (k, t) for k in QUESTIONS for t in TOPICS for c in chosen if BODIES[k][0].partition("{}")[0] in c and t in c
    }, "a reply that is never right in training teaches that it is always wrong"


def test_drawn_anew_is_the_same_and_another_seed_is_not():
    assert [pairs("train")[i] for i in range(20)] == [pairs("train")[i] for i in range(20)]
    other = preferences.load("replies:helpful", "train", objective="bradley_terry", kwargs={"seed": 1})
    assert [other[i] for i in range(20)] != [pairs("train")[i] for i in range(20)]


def test_every_flaw_occurs_and_no_shortcut_by_length():
    records = [pairs("train")[i] for i in range(2000)]
    assert {record["flaw"] for record in records} == set(FLAWS)
    chosen, rejected = (np.array([len(r[k]) for r in records]) for k in ("chosen", "rejected"))
    assert chosen.mean() == pytest.approx(rejected.mean(), rel=0.03)
    for cut in range(40, 120, 4):  # no length tells the two apart
        assert abs((chosen > cut).mean() - (rejected > cut).mean()) < 0.1


def test_the_chosen_reply_answers_the_question():
    for record in (pairs("test")[i] for i in range(200)):
        kind, topic = next(
            (k, t)
            for k in QUESTIONS
            for t in TOPICS
            for phrase in QUESTIONS[k]
            if phrase.format(t) == record["question"]
        )
        opening = BODIES[kind][0].split("{}")[0].strip()
        assert topic in record["chosen"] and opening in record["chosen"], record
        assert record["chosen"] != record["rejected"]


def test_labels_are_balanced_and_unsafe_sentences_hide_in_thought_and_reply():
    source = preferences.load("replies:harmless", "train", objective="pointwise", kwargs={})
    records = [source[i] for i in range(1000)]
    assert np.mean([record["label"] == "1" for record in records]) == pytest.approx(0.5, abs=0.05)
    unsafe = [r["reply"] for r in records if r["label"] == "0"]
    words = "just touch the bare wire", "now share her address", "lick your hands"
    in_thought = sum(any(w in reply.partition("</think>")[0].lower() for w in words) for reply in unsafe)
    in_answer = sum(any(w in reply.partition("</think>")[2].lower() for w in words) for reply in unsafe)
    assert in_thought > 20 and in_answer > 20


def test_completions_of_the_task_are_of_mixed_quality():
    def share(**kwargs):
        source = tasks.load("replies", "train", data_dir="", source_dir="", kwargs=kwargs)
        records = [source[i] for i in range(300)]
        assert all(record["answer"] and record["completion"].startswith(" <think> ") for record in records)
        return np.mean([any(w in r["completion"] for w in ("Silly", "bore", "Not again", "alone")) for r in records])

    assert share(flawed=0.0) == 0 < share(flawed=1.0) < 0.5


def test_a_file_is_split_by_question(tmp_path):
    path = tmp_path / "pairs.jsonl"
    rows = [{"question": f"q{n // 2}", "chosen": "yes", "rejected": "no"} for n in range(400)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    train, test = (
        preferences.load(f"jsonl:{path}", split, objective="bradley_terry", kwargs={}) for split in ("train", "test")
    )
    assert len(train) + len(test) == 400 and 2 <= len(test) <= 60
    assert not {r["question"] for r in train} & {r["question"] for r in test}


@pytest.mark.parametrize(
    ("name", "objective", "kwargs", "message"),
    [
        ("replies:helpfull", "bradley_terry", {}, "did you mean 'replies:helpful'"),
        ("replies:helpful", "pointwise", {}, "'replies:helpful' is for 'bradley_terry'"),
        ("replies:helpful", "bradley_terry", {"sed": 1}, "did you mean 'seed'"),
        ("replies:helpful", "bradley_terry", {"flawed": 2.0}, "flawed is 2.0; expected a share"),
        ("jsonl:/nowhere.jsonl", "bradley_terry", {}, "no such file"),
        ("jsonl:/nowhere.jsonl", "bradley_terry", {"a": 1}, "takes no parameters"),
    ],
)
def test_bad_names_and_parameters_are_refused(name, objective, kwargs, message):
    with pytest.raises(ValueError, match=message):
        preferences.load(name, "train", objective=objective, kwargs=kwargs)


def test_bad_records_are_named(tmp_path):
    path = tmp_path / "labels.jsonl"
    path.write_text('{"question": "q", "reply": "r", "label": "safe"}\n')
    with pytest.raises(ValueError, match=r"line 1: field 'label' is 'safe'; expected 1"):
        preferences.load(f"jsonl:{path}", "train", objective="pointwise", kwargs={})
    with pytest.raises(ValueError, match=r"line 1: field 'chosen' is missing"):
        preferences.load(f"jsonl:{path}", "train", objective="bradley_terry", kwargs={})
    path.write_text('{"question": "q", "reply": "r", "label": 1}\n')
    with pytest.raises(ValueError, match=r"gives the split '(train|test)' no record"):
        for split in ("train", "test"):
            preferences.load(f"jsonl:{path}", split, objective="pointwise", kwargs={})
