"""The RL stage: its figures, its resumption, and what it refuses at start."""

import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import pytest
import smoke_run

import r1jax
from r1jax.pipeline import pipeline_stages
from r1jax.stages import rl
from r1jax.training.checkpoint import Checkpoints

NAMES = """
    reward/mean reward/std reward/accuracy/mean reward/format/mean reward/digits/mean reward/frac_zero_std
    completion/mean_length completion/max_length completion/frac_truncated policy/kl policy/entropy
    policy/clip_fraction policy/ratio_mean policy/sampler_mismatch moe/max_load moe/dropped loss grad_norm lr
    time/rollout_s time/reward_s time/update_s rollout/tokens_per_s update/tokens_per_s update/mfu update/padding
""".split()


@pytest.fixture(scope="module")
def metrics():
    return smoke_run.rows(smoke_run.finished() / "zero" / "metrics.jsonl")


def test_every_promised_figure_is_there_and_finite(metrics):
    assert [row["step"] for row in metrics] == [1, 2, 3, 4]
    for row in metrics:
        assert not set(NAMES) - row.keys()
        assert all(math.isfinite(row[name]) for name in NAMES)
        assert 0 < row["update/mfu"] < 1 and 0 <= row["update/padding"] < 1


def test_sampler_and_trainer_agree_and_no_token_is_dropped(metrics):
    assert max(row["policy/sampler_mismatch"] for row in metrics) < 1e-4
    assert max(row["policy/sampler_mismatch"] for row in metrics) > 0  # two programs: rounding shows
    assert all(row["moe/dropped"] == 0 for row in metrics)


def test_a_step_like_earlier_ones_compiles_nothing(metrics):
    """The first two are without a refreshed reference, which the third has; an evaluation follows the second."""
    count = [row["compile/count"] for row in metrics]
    assert 0 < count[0] == count[1] <= count[2] == count[3]
    assert all(0 <= row["compile/cached"] <= row["compile/count"] for row in metrics)
    assert metrics[0]["time/start_s"] > 0 and not any("time/start_s" in row for row in metrics[1:])


def test_the_ratio_leaves_one_and_clipping_acts(metrics):
    assert all(row["policy/ratio_mean"] != 1.0 for row in metrics)
    assert max(row["policy/clip_fraction"] for row in metrics) > 0


@pytest.mark.filterwarnings("ignore:Sharding info not provided")
def test_the_reference_is_refreshed_every_other_step():
    """After four steps it is the policy of step 2: neither the base, as at first, nor the policy at the end."""
    folder = smoke_run.finished()
    saved = ocp.PyTreeCheckpointer().restore(folder / "zero" / "checkpoints" / "4" / "train")
    reference = np.asarray(saved["reference"]["params"]["embed_VD"])
    for other in ("base", "zero"):
        weights = np.asarray(r1jax.load(str(folder / other)).params["params"]["embed_VD"])
        assert np.abs(reference - weights).max() > 1e-4, other


def test_samples_carry_text_rewards_and_advantage():
    samples = smoke_run.rows(smoke_run.finished() / "zero" / "samples.jsonl")
    assert [row["step"] for row in samples] == [step for step in (1, 2, 3, 4) for _ in range(4)]
    for row in samples:
        assert row["prompt"].endswith(". Assistant:") and isinstance(row["completion"], str)
        by_name = row["rewards"]
        assert row["reward"] == pytest.approx(by_name["accuracy"] + 0.1 * by_name["format"] + by_name["digits"])
    first_group = [row["advantage"] for row in samples[:4]]
    assert sum(first_group) == pytest.approx(0, abs=1e-5) and any(first_group)


def test_killed_and_resumed_equals_uninterrupted(tmp_path, monkeypatch):
    """Killed at step 3, where a refused config had come before; its records and parameters are bitwise the same."""
    config = smoke_run.stage("zero")
    refused = smoke_run.stage("zero", **{"rewards.digits.fn": "configs.smoke:digitz"})
    with pytest.raises(ValueError, match=r"digitz.*did you mean 'digits'"):
        rl.run(refused, str(tmp_path / "zero"))
    with monkeypatch.context() as patch, pytest.raises(smoke_run.Killed):
        smoke_run.kill_at(patch, 3)
        rl.run(config, str(tmp_path / "zero"))
    assert [row["step"] for row in smoke_run.rows(tmp_path / "zero" / "metrics.jsonl")] == [1, 2, 3]
    rl.run(config, str(tmp_path / "zero"))
    assert smoke_run.differences(tmp_path / "zero", smoke_run.finished() / "zero") == []


def test_no_kl_no_reference_and_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    changes = {"grpo.kl_coef": 0.0, "grpo.reference_refresh": 0, "grpo.minibatches": 1, "grpo.epochs": 1}
    config = smoke_run.stage("zero", **changes, **{"optimizer.lr": 1e30, "checkpoint.every": 1})
    with pytest.raises(FloatingPointError, match=r"(loss|grad_norm) is (nan|inf) at step 2"):
        rl.run(config, str(tmp_path))
    rows = smoke_run.rows(tmp_path / "metrics.jsonl")
    assert "policy/kl" not in rows[0] and rows[0]["policy/ratio_mean"] == 1.0
    assert rows[1]["loss"] is None or rows[1]["grad_norm"] is None
    checkpoints = Checkpoints(tmp_path, keep=None)
    assert checkpoints.latest() == 1
    checkpoints.close()
    saved = json.loads((tmp_path / "checkpoints" / "1" / "train" / "_METADATA").read_text())
    assert not any("reference" in path for path in saved["tree_metadata"])


def refusal(tmp_path: Path, **changes) -> str:
    """What is said of the stage, which is refused before anything is compiled or written."""
    with pytest.raises(ValueError) as refused:
        rl.run(smoke_run.stage("zero", **changes), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    return str(refused.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rewards.digits.fn": "no_such_module:f"}, r"rewards\.digits\.fn is 'no_such_module:f'.*no module"),
        ({"rollout.prompts": 0}, r"rollout\.prompts is 0; expected at least 1.*empty batch"),
        ({"rollout.prompts": 3}, r"minibatches is 2; expected a divisor of rollout.prompts \(3\)"),
        ({"rollout.temperature": 0.0}, r"rollout\.temperature is 0"),
        ({"rollout.slots": 4}, r"rollout\.slots is 4; expected 0 \(all at once\) or a multiple of the 8 devices"),
        ({"grpo.kl_coef": 0.0}, r"reference_refresh is 2 and grpo\.kl_coef 0"),
        ({"checkpoint.every": 0}, r"checkpoint\.every is 0; expected at least 1"),
        ({"template": "r1_zer"}, r"template is 'r1_zer'.*did you mean 'r1_zero'"),
        (
            {"policy.context": 40, "evaluation.max_tokens": 1},
            r"arithmetic: the prompt of record 0 has \d+ tokens.*leaves 8",
        ),
        ({"policy.width": 64}, r"another architecture: policy\.width is 64 in the config and 32 in the checkpoint"),
        ({"init_from": ""}, r"init_from is empty; .*--config\.init_from=DIR"),
        ({"init_from": "/nowhere"}, r"/nowhere holds no config\.json"),
        ({"mesh.data": 3}, r"mesh data=3.*devices"),
        ({"batch.micro_rows": 3}, r"batch\.rows is 8; expected a multiple of batch\.micro_rows \(3\)"),
    ],
)
def test_bad_input_is_refused_at_start(tmp_path, changes, message):
    assert re.search(message, refusal(tmp_path, **changes))


def test_missing_and_malformed_data_are_named(tmp_path):
    def said_of(name, **changes):
        return refusal(tmp_path, **{"data.sources": {"mine": {"name": name, "weight": 1.0, "kwargs": {}}}}, **changes)

    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"question": "1 + 1", "answer": "2"}\n{"question": "1 + 1", "answer":\n')
    assert "bad.jsonl line 2 is not JSON" in said_of(f"jsonl:{bad}")
    assert "no such file" in said_of(f"jsonl:{tmp_path}/none.jsonl")
    assert "data.source_dir is '/nowhere'" in said_of("gsm8k", **{"data.source_dir": "/nowhere"})
    assert "did you mean 'gsm8k'" in said_of("gsm8")
    long = tmp_path / "long.jsonl"
    long.write_text(json.dumps({"question": "why? " * 400, "answer": "2"}) + "\n")
    too_long = r"long\.jsonl: the prompt of record 0 has \d+ tokens.*max_tokens leaves 224"
    assert re.search(too_long, said_of(f"jsonl:{long}"))
    tasks = {"mine": {"name": f"jsonl:{long}", "kwargs": {}}}
    assert "long.jsonl:test: the prompt of record 0" in refusal(tmp_path, **{"evaluation.tasks": tasks})


def test_a_reward_that_lacks_its_column_is_refused(tmp_path):
    message = refusal(tmp_path, **{"rewards.digits.fn": "test_stages_rl:needs_level"})
    assert "rewards.digits.fn requires the parameter 'level'" in message


def needs_level(completions, level):
    return [0.0 for _ in completions]


def test_last_evaluation_is_recorded_once(tmp_path):
    """A kill between the last record and the result leaves a row that the resumed run replaces."""
    folder = tmp_path / "zero"
    shutil.copytree(smoke_run.finished() / "zero", folder)
    (folder / "result.json").unlink()
    config = pipeline_stages(smoke_run.config())["zero"]
    result = rl.run(config, str(folder), {"base": str(smoke_run.finished() / "base")})
    assert result == json.loads((smoke_run.finished() / "zero" / "result.json").read_text())
    assert smoke_run.differences(folder, smoke_run.finished() / "zero") == []
