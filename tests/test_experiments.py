"""Every experiment can be run as its config stands, and its tables are those of that config."""

import csv
import dataclasses
import importlib
from pathlib import Path

import jax
import pytest

from experiments import run_all, standard
from r1jax import pipeline, sweep
from r1jax.stages.workdir import read_result

ROOT = Path(__file__).resolve().parent.parent
NAMES = sorted(path.parent.name for path in (ROOT / "experiments").glob("*/config.py"))
DEVICES = jax.device_count()
LARGEST = 300_000  # bytes of a table


def config(name):
    return importlib.import_module(f"experiments.{name}.config").get_config()


def rows(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_all_are_in_the_order_in_which_they_are_run():
    assert sorted(run_all.ORDER) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_an_experiment_is_locked_has_three_seeds_and_can_be_planned(name, tmp_path):
    tree = config(name)
    assert tree.is_locked and tuple(tree.seeds) == standard.SEEDS and tree.shared == standard.SHARED
    planned = sweep.plan(tree, tmp_path)
    assert len(planned) == 3 * len(tree.arms) == len({each.folder for each in planned}), "no two arms are the same"
    doc = importlib.import_module(f"experiments.{name}.config").__doc__
    for line in ("command:", "hardware:", "time:", "expected:", f"--config=experiments/{name}/config.py"):
        assert line in doc, f"the header of experiments/{name}/config.py lacks {line!r}"


def test_the_standard_runs_and_the_base_are_shared(tmp_path):
    """One base and three runs serve all experiments that vary the standard stage."""
    standing = {each.seed: each.folder.name for each in sweep.plan(standard.sweep("?", ".", {"as_is": {}}), tmp_path)}
    asking = [name for name in NAMES if {} in [dict(arm) for arm in config(name).arms.values()]]
    whole = {name: {each.folder.name for each in sweep.plan(config(name), tmp_path)} for name in asking}
    assert sum(set(standing.values()) <= folders for folders in whole.values()) >= 10
    assert len({str(config(name).first.base) for name in NAMES}) == 1


@pytest.mark.parametrize("name", NAMES)
def test_tables_are_those_of_the_config(name):
    final, steps = (ROOT / "experiments" / name / table for table in (sweep.FINAL, sweep.STEPS))
    if not final.exists():
        pytest.skip(f"experiments/{name} has no tables yet")
    tree = config(name)
    runs = {(arm, str(seed)) for arm in tree.arms for seed in tree.seeds}
    assert {(row["arm"], row["seed"]) for row in rows(final)} == runs
    assert {(row["arm"], row["seed"]) for row in rows(steps)} == runs
    last = {(row["arm"], row["seed"]): int(row["step"]) for row in rows(steps)}
    assert last == {(each.arm, str(each.seed)): each.stage.steps for each in sweep.plan(tree, ROOT)}
    assert all(0 <= float(row["pass@1"]) <= 1 for row in rows(final))
    assert max(path.stat().st_size for path in (final, steps)) < LARGEST


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_stage_of_an_experiment_passes_its_check(name, tmp_path):
    tree = config(name).copy_and_resolve_references().unlock()
    tree.shared = str(tmp_path / "shared")
    first = sweep.beginnings(tree)
    folders = {key: str(tmp_path / "shared" / key) for key in first}
    for stage in (*first.values(), *(each.stage for each in sweep.plan(tree, tmp_path) if each.seed == 0)):
        batch = getattr(stage, "batch", None)  # stages that only sample have none
        if batch and batch.micro_rows % DEVICES:  # as these tests have more devices than the runs, which have one
            stage = dataclasses.replace(stage, batch=dataclasses.replace(batch, rows=DEVICES, micro_rows=DEVICES))
        pipeline.STAGES[stage.stage].check(stage, folders)
    assert not any(tmp_path.iterdir()) and read_result(str(tmp_path)) is None, "a check writes nothing"


def test_a_table_keeps_what_is_read_and_few_digits(tmp_path):
    path = tmp_path / "steps.csv"
    path.write_text(
        "arm,seed,step,reward/mean,reward/length/mean,reward/length/errors,time/reward/length_s\nx,1,2,0.123456789,1.0,0.0,3\n"
    )
    assert run_all.compact(path) == [
        {"arm": "x", "seed": "1", "step": "2", "reward/mean": "0.12346", "reward/length/mean": "1"}
    ]
