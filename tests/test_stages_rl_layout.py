"""Where an RL stage keeps its parameters changes nothing of what it learns."""

import dataclasses
import re

import jax
import numpy as np
import pytest
import smoke_run

from r1jax.config import MeshConfig, OffloadConfig, PrecisionConfig, RlStage
from r1jax.stages import rl, sft
from r1jax.training import state as training_state
from r1jax.training.checkpoint import Checkpoints

TRAINING = MeshConfig(data=1, fsdp=4, expert=2, tensor=1, context=1)
SAMPLING = MeshConfig(data=2, expert=2, tensor=2, fsdp=1, context=1)


def placed(mesh: MeshConfig, sampling: MeshConfig | None) -> RlStage:
    config = smoke_run.stage("zero")
    assert isinstance(config, RlStage)
    return dataclasses.replace(config, mesh=mesh, rollout=dataclasses.replace(config.rollout, mesh=sampling))


@pytest.mark.slow
def test_sampling_on_a_mesh_of_its_own_gives_the_same_tokens_and_losses(tmp_path):
    """Two steps, four updates each, beside the same without one; and both against data parallelism alone."""
    rows = {}
    for name, sampling in (("own", SAMPLING), ("shared", None)):
        rl.run(placed(TRAINING, sampling), str(tmp_path / name))
        rows[name] = [
            smoke_run.rows(tmp_path / name / f"{kind}.jsonl") for kind in ("metrics", "samples", "evaluations")
        ]
    finished = smoke_run.finished() / "zero"
    rows["data"] = [smoke_run.rows(finished / f"{kind}.jsonl") for kind in ("metrics", "samples", "evaluations")]
    metrics, samples, evaluations = rows["own"]
    assert all(row["reshard/bytes"] > 0 and row["time/reshard_s"] > 0 for row in metrics)
    assert len({row["reshard/bytes"] for row in metrics}) == 1
    for name in ("shared", "data"):
        other_metrics, other_samples, other_evaluations = rows[name]
        assert not [key for row in other_metrics for key in row if "reshard" in key]
        texts = [[row["completion"] for row in lines if row["step"] <= 2] for lines in (samples, other_samples)]
        assert texts[0] == texts[1] and any(texts[0])
        for row, other in zip(metrics[:2], other_metrics[:2], strict=True):
            for key in ("loss", "grad_norm", "policy/kl", "reward/mean", "completion/mean_length"):
                assert row[key] == pytest.approx(other[key], rel=1e-3, abs=1e-5), (name, row["step"], key)
        assert evaluations[0] == other_evaluations[0], "of step 2"


@pytest.mark.slow
def test_slots_that_are_filled_again_give_the_same_tokens_and_losses(tmp_path):
    config = smoke_run.stage("zero", **{"rollout.slots": 8})
    assert isinstance(config, RlStage) and config.drawn() * config.rollout.samples > 8, "some are to wait"
    rl.run(config, str(tmp_path / "zero"))
    keys = ("loss", "grad_norm", "policy/kl", "reward/mean", "completion/mean_length")
    told = []
    for folder in (tmp_path / "zero", smoke_run.finished() / "zero"):
        metrics, samples = (smoke_run.rows(folder / f"{kind}.jsonl") for kind in ("metrics", "samples"))
        texts = [row["completion"] for row in samples if row["step"] <= 2]
        told.append((texts, [row[key] for row in metrics[:2] for key in keys]))
    (texts, figures), (other_texts, other_figures) = told
    assert texts == other_texts and any(texts)
    assert figures == pytest.approx(other_figures, rel=1e-3, abs=1e-5)


@pytest.mark.slow
def test_a_reference_in_host_memory_changes_no_bit_and_survives_a_kill(tmp_path, monkeypatch):
    """Killed at step 3, after it was refreshed: what is restored waits in host memory again."""
    config = dataclasses.replace(smoke_run.stage("zero"), offload=OffloadConfig(reference=True))
    kinds = []
    save, restore = Checkpoints.save, Checkpoints.restore

    def seen(state):
        kinds.append({leaf.sharding.memory_kind for leaf in jax.tree.leaves(state.reference)})
        return state

    def watched_restore(self, step, abstract):
        state, host = restore(self, step, abstract)
        return seen(state), host

    monkeypatch.setattr(Checkpoints, "save", lambda self, step, state, host: save(self, step, seen(state), host))
    monkeypatch.setattr(Checkpoints, "restore", watched_restore)
    with monkeypatch.context() as patch, pytest.raises(smoke_run.Killed):
        smoke_run.kill_at(patch, 3)
        rl.run(config, str(tmp_path / "zero"))
    rl.run(config, str(tmp_path / "zero"))
    assert kinds == [{training_state.HOST_MEMORY}] * 3  # saved, restored, saved
    assert smoke_run.differences(tmp_path / "zero", smoke_run.finished() / "zero") == []


@pytest.mark.slow
def test_bfloat16_parameters_with_master_copies_learn_and_another_precision_is_refused(tmp_path):
    """From fresh weights: a base in bfloat16 and RL on it; and the same workdir asked for another precision."""
    precision = PrecisionConfig(moments="bfloat16", master=True)
    base = smoke_run.stage("base", steps=2, **{"policy.param_dtype": "bfloat16"})
    base = dataclasses.replace(base, optimizer=dataclasses.replace(base.optimizer, beta2=0.99, precision=precision))
    sft.run(base, str(tmp_path / "base"))
    rows = smoke_run.rows(tmp_path / "base" / "metrics.jsonl")
    assert all(np.isfinite(row["loss"]) and row["grad_norm"] > 0 for row in rows)
    other = dataclasses.replace(base, optimizer=dataclasses.replace(base.optimizer, precision=None))
    with pytest.raises(ValueError, match=r"made with another config.*optimizer\.precision"):
        sft.run(other, str(tmp_path / "base"))


def refusal(tmp_path, **changes) -> str:
    """What is said of the stage, which is refused before anything is written."""
    with pytest.raises(ValueError) as refused:
        rl.run(smoke_run.stage("zero", init_from="nowhere", **changes), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    return str(refused.value)


ONE = dict(data=1, fsdp=1, expert=1, tensor=1, context=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rollout.mesh": ONE | dict(data=3)}, r"mesh data=3 .*does not match 8 devices"),
        ({"rollout.mesh": ONE | dict(tensor=8)}, r"dimension H of size 2 does not divide over mesh axis tensor"),
        ({"rollout.mesh": dict(data=8)}, r"rollout\.mesh lacks fsdp, expert"),
        (
            {"offload": dict(reference=True), "grpo.kl_coef": 0.0, "grpo.reference_refresh": 0},
            r"offload\.reference is True and grpo\.kl_coef 0",
        ),
    ],
)
def test_what_is_refused_at_the_start(tmp_path, changes, message):
    assert re.search(message, refusal(tmp_path, **changes))


def test_devices_that_cannot_read_their_hosts_memory_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(training_state, "HOST_MEMORY", "no_such_memory")
    message = refusal(tmp_path, offload=dict(reference=True))
    assert re.search(r"offload\.reference is True; a device of kind .*pinned_host.*set it to False", message)
