"""configs/r1_tiny.py: the stages of configs/r1.py, with other numbers; and, at its smallest, killed again and again."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import smoke_run

from configs import r1, r1_tiny, smoke
from r1jax.config import stage_config
from r1jax.pipeline import pipeline_stages

ADDED = {"base", "zero_language", "student", "alone", "ppo"}  # bases of its own, and what the paper compares with
SETTLED = (
    "base",
    "zero",
    "cold_start",
    "reasoning",
    "sft2",
    "helpful",
    "harmless",
    "all",
    "general",
    "distilled",
    "ppo",
)


@pytest.fixture(scope="module")
def stages():
    return pipeline_stages(r1_tiny.get_config())


def test_it_has_the_stages_of_the_paper_in_their_order(stages):
    assert [name for name in stages if name not in ADDED] == list(pipeline_stages(r1.get_config()))


def test_who_starts_from_whom(stages):
    froms = {name: getattr(stage, "init_from", None) for name, stage in stages.items()}
    assert froms["zero"] == froms["cold_start"] == froms["sft2"] == froms["ppo"] == "base"
    assert (froms["reasoning"], froms["rejection"]) == ("cold_start", "reasoning")
    assert (froms["all"], froms["general"]) == ("sft2", "all")
    assert froms["distilled"] == froms["alone"] == "student"
    assert {way.init_from for way in stages["cold_data"].ways.values()} == {"base", "zero"}
    data = {name: stages[name].data.sources["samples"].name for name in ("cold_start", "sft2", "distilled")}
    assert data == {"cold_start": "samples:cold_data", "sft2": "samples:rejection", "distilled": "samples:rejection"}


def test_what_is_rewarded_when(stages):
    rewarded = {name: stages[name].rewards.keys() for name in ("zero", "reasoning", "all", "general")}
    rules = {"accuracy", "format"}
    assert rewarded == {
        "zero": rules,
        "reasoning": rules | {"language"},
        "all": rules | {"language"},
        "general": rules | {"language", "helpful", "harmless"},
    }
    assert stages["all"].data.sources.keys() == {"arithmetic"} < stages["general"].data.sources.keys()
    assert stages["all"].rollout.temperature == stages["general"].rollout.temperature == 0.7
    assert stages["rejection"].join.ratio == pytest.approx(200 / 600)


def test_what_is_compared_differs_in_one_thing(stages):
    """R1-Zero against its twin with a language reward, and against PPO."""
    trees = {name: r1_tiny.get_config().stages[name].to_dict() for name in ("zero", "zero_language", "ppo")}
    language = trees["zero_language"]["rewards"].pop("language")
    assert language["weight"] == 1.0 and trees["zero_language"] == trees["zero"]
    assert trees["ppo"].pop("ppo")["decay"] == 1.0
    assert {key for key in trees["zero"] if trees["ppo"][key] != trees["zero"][key]} == {"grpo"}


def test_each_stage_is_a_config_of_its_own_too(stages):
    for name, stage in stages.items():
        alone = stage_config(r1_tiny.get_config(name))
        assert alone.stage == stage.stage
        if getattr(stage, "init_from", ""):
            assert alone.init_from == f"runs/r1/{stage.init_from}"
    cold, general = (stage_config(r1_tiny.get_config(name)) for name in ("cold_data", "general"))
    assert {way.init_from for way in cold.ways.values()} == {"runs/r1/base", "runs/r1/zero"}
    assert general.rewards["helpful"].kwargs["checkpoint"] == "runs/r1/helpful"
    assert general.data.sources["general"].name == "general", "a task of the name of a stage stays what it is"
    assert stage_config(r1_tiny.get_config("sft2")).data.sources["samples"].name == "samples:runs/r1/rejection"
    with pytest.raises(ValueError, match="'sft3'; expected one of base, zero"):
        r1_tiny.get_config("sft3")


def smallest():
    """The pipeline with two steps a stage. Its base learns just enough to end in an answer now and then."""
    config = r1_tiny.get_config().unlock()
    for name, stage in config.stages.items():
        if "policy" in stage:
            dense = stage.policy.attention == "gqa"
            stage.policy.update(width=32, dense_ffn=64, vocab_size=768)
            stage.policy.update(dict(layers=2, dense_layers=2, context=512) if dense else smoke.POLICY)
        if "data" in stage:
            stage.data.data_dir = smoke_run.DATA_DIR
        if "tokenizer" in stage:
            stage.tokenizer.update(vocab_size=768, train_documents=2000)
        if stage.stage in ("sft", "rl", "reward_model"):
            stage.update(steps=400 if name in ("base", "student") else 2)
            stage.checkpoint.every = 100 if name in ("base", "student") else 1
            stage.evaluation.update(limit=4, every_limit=4)
            stage.optimizer.warmup_steps = 1
        if stage.stage in ("sft", "rl"):
            stage.evaluation.update(samples=2, every_samples=2, batch=4, max_tokens=32)
            stage.batch.update(row_length=256, rows=4, micro_rows=4, logit_chunk=512)
        if stage.stage == "reward_model":
            stage.batch.update(examples=8, rows=4, micro_rows=4)
        if "rollout" in stage:
            stage.rollout.update(prompts=4, samples=4, max_tokens=32)
        if stage.stage in ("rejection", "cold_start"):
            stage.update(limit=48, shards=2)
            stage.selection.update(threshold=0.0, filters={}, similarity=1.0)
    return config.lock()


@pytest.mark.slow
@pytest.mark.longest
def test_killed_at_any_point_it_ends_with_the_same_numbers(tmp_path):
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    rng = random.Random(seed)
    config = tmp_path / "smallest.py"
    config.write_text(
        f"import sys\nsys.path[:0] = {[str(smoke_run.ROOT), str(smoke_run.ROOT / 'tests')]!r}\n"
        "from test_configs_r1_tiny import smallest as get_config\n"
    )

    def run(workdir: Path, seconds: float | None) -> tuple[int, str]:
        command = [sys.executable, "-m", "r1jax.main", f"--config={config}", f"--workdir={workdir}"]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=smoke_run.ROOT,
            env=os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"},
        )  # fmt: skip
        try:
            out, err = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            out, err = process.communicate()
        return process.returncode, out or err

    straight, interrupted = tmp_path / "straight", tmp_path / "interrupted"
    begun = time.monotonic()
    code, said = run(straight, None)
    assert code == 0, said[-3000:]
    took = time.monotonic() - begun
    kills = 0
    while (code := run(interrupted, took * rng.uniform(0.15, 0.5))[0]) == -signal.SIGKILL:
        kills += 1
        assert kills < 30, "it does not get on"
    assert code == 0 and kills > 1
    print(f"{took:.0f} s; killed {kills} times")
    for name in ("rejection", "cold_data"):
        assert (interrupted / name / "result.json").read_bytes() == (straight / name / "result.json").read_bytes()
    for name in SETTLED:
        assert (interrupted / name / "result.json").read_bytes() == (straight / name / "result.json").read_bytes()
        if name not in ("helpful", "harmless"):
            assert smoke_run.differences(interrupted / name, straight / name) == [], name
    assert json.loads((interrupted / "result.json").read_text()) == json.loads((straight / "result.json").read_text())
