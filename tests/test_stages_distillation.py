"""SFT with a teacher: a run, and teachers that are refused."""

import dataclasses
import json
import math

import pytest
import smoke_run

from r1jax.data.tokenizer import Tokenizer
from r1jax.stages import sft
from r1jax.stages.distillation import open_teacher
from tests.tiny_policy import one_device


def stage(tmp_path, **changes):
    """The base learns ten answers, beside the distribution of the one that RL has made of it."""
    path = tmp_path / "answers.jsonl"
    rows = [{"question": f"{n} + 1", "answer": "2", "completion": f" <answer> {n + 1} </answer>"} for n in range(10)]
    path.write_text("\n".join(map(json.dumps, rows)))
    given = {
        "init_from": str(smoke_run.finished() / "base"), "steps": 4, "evaluation.every": 0, "evaluation.samples": 1,
        "evaluation.limit": 4, "optimizer.lr": 3e-3, "optimizer.rule": "adamw", "optimizer.beta1": 0.9,
        "data.sources": {"answers": {"name": f"jsonl:{path}", "weight": 1.0, "kwargs": {}}},
        "teacher": {"folder": "zero", "alpha": 1.0},
    }  # fmt: skip
    return smoke_run.stage("base", **(given | changes))


def test_a_student_nears_its_teacher(tmp_path):
    """The teacher is named as a pipeline's stage."""
    sft.run(stage(tmp_path), str(tmp_path / "run"), {"zero": str(smoke_run.finished() / "zero")})
    rows = smoke_run.rows(tmp_path / "run" / "metrics.jsonl")
    kl = [row["distillation/kl"] for row in rows]
    assert kl[0] > 0 and kl[-1] < kl[0]
    for row in rows:
        assert row["loss"] == row["distillation/kl"] and row["distillation/cross_entropy"] > 0
        assert all(math.isfinite(row[name]) for name in ("policy/entropy", "grad_norm", "update/mfu"))


def test_a_teacher_of_other_tokens_is_refused(tmp_path):
    folder, mesh = str(smoke_run.finished() / "zero"), one_device()
    policy = smoke_run.stage("base").policy
    tokenizer = Tokenizer.load(folder)
    with pytest.raises(ValueError, match=r"policy\.vocab_size is 800, the teacher's 768"):
        open_teacher(folder, dataclasses.replace(policy, vocab_size=800), tokenizer, mesh)
    tokenizer.vocabulary.pieces = [*tokenizer.vocabulary.pieces[:-1], b"other"]
    with pytest.raises(ValueError, match=r"teacher\.folder is .*other pieces than the student's"):
        open_teacher(folder, policy, tokenizer, mesh)
    with pytest.raises(ValueError, match=r"holds no config\.json"):
        open_teacher(str(tmp_path), policy, tokenizer, mesh)


def test_options_that_do_not_go_together_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"teacher\.alpha is 2\.0"):
        stage(tmp_path, teacher={"folder": "zero", "alpha": 2.0})
    with pytest.raises(ValueError, match=r"config\.mtp_coef is 0\.1 beside a teacher"):
        stage(tmp_path, mtp_coef=0.1)
