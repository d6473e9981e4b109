"""A sweep runs what its config says, in folders of its own, once, and its tables hold every run."""

import csv
import io
import subprocess
import sys
from pathlib import Path

import pytest
import smoke_run
from ml_collections import ConfigDict

from r1jax import sweep

HOLD = (
    "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); input()"
)


def config(init_from="", **changes):
    few = {"zero.steps": 1, "zero.evaluation.every": 0, "zero.checkpoint.every": 1, "zero.init_from": init_from}
    zero = smoke_run.config(**few).stages.zero
    tree = dict(
        stage="sweep", question="Does heat help?", hypothesis="No.", order=(), first={}, base=zero,
        arms={"as_is": {}, "hot": {"rollout": {"temperature": 1.5}, "grpo": {"clip_high": 0.3}}}, seeds=(0, 1),
        shared="", part=0, parts=1,
    )  # fmt: skip
    return ConfigDict(tree | changes)


def rows(path):
    return list(csv.DictReader(io.StringIO(Path(path).read_text("utf-8"))))


def test_a_plan_changes_what_an_arm_says_and_nothing_else(tmp_path):
    planned = sweep.plan(config(), tmp_path)
    assert [(each.arm, each.seed) for each in planned] == [("as_is", 0), ("hot", 0), ("as_is", 1), ("hot", 1)]
    as_is, hot, again = (each.stage for each in planned[:3])
    assert (as_is.rollout.temperature, hot.rollout.temperature) == (1.0, 1.5)
    assert (as_is.rollout.samples, as_is.seed, again.seed) == (hot.rollout.samples, 0, 1)
    assert hot.grpo.clip_high == 0.3 != as_is.grpo.clip_high
    assert len({each.folder for each in planned}) == 4


def test_shared_stages_are_named_and_checked_as_in_a_pipeline(tmp_path):
    base = smoke_run.config().stages.base
    tree = config(order=("base",), first={"base": base})
    with tree.unlocked():
        tree.base.init_from = "base"
    assert sweep.plan(tree, tmp_path)[0].stage.init_from == "base"
    with tree.unlocked():
        tree.arms.hot = {"policy": {"width": 64}}
    with pytest.raises(ValueError, match=r"arm hot: .*width"):
        sweep.plan(tree, tmp_path)


def test_with_a_shared_folder_what_two_sweeps_ask_for_has_one_place(tmp_path):
    shared = str(tmp_path / "shared")
    one = sweep.plan(config(shared=shared), tmp_path / "one")
    hotter = {"still": {}, "hotter": {"rollout": {"temperature": 2.0}}}
    other = sweep.plan(config(shared=shared, arms=hotter), tmp_path / "other")
    of = {(each.arm, each.seed): each.folder for each in (*one, *other)}
    assert of["as_is", 0] == of["still", 0] and of["as_is", 1] == of["still", 1]
    assert len(set(of.values())) == 6, "another seed, temperature or clip has a folder of its own"
    assert all(folder.parent == tmp_path / "shared" / "runs" for folder in of.values())
    meshed = config(shared=shared)
    with meshed.base.unlocked():
        meshed.base.mesh.fsdp = 2
        meshed.base.offload = None
    assert [each.folder for each in sweep.plan(meshed, tmp_path)] == [each.folder for each in one]


def test_what_is_left_out_does_not_name_a_run():
    """So a run keeps its name when stages learn an option, and on another mesh."""
    tree = {"steps": 3, "ppo": None, "mesh": {"data": 8}, "rollout": {"samples": 4, "mesh": None, "longer": []}}
    assert sweep._said(tree) == {"steps": 3, "rollout": {"samples": 4, "longer": []}}


def test_an_arm_that_names_its_stage_is_a_whole_one(tmp_path):
    whole = smoke_run.config(**{"base.steps": 7}).stages.base
    planned = sweep.plan(config(arms={"as_is": {}, "taught": whole}), tmp_path)
    assert [(each.stage.stage, each.stage.steps, each.seed) for each in planned[:2]] == [("rl", 1, 0), ("sft", 7, 0)]


def test_a_folder_that_another_process_holds_is_left_for_last_and_awaited(tmp_path, monkeypatch):
    """Every run is marked in place of being made; one folder is held until the others are."""
    plan, made, checked = sweep.plan(config(), tmp_path), [], []
    taken = plan[1].folder
    taken.parent.mkdir()
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, f"{taken}.lock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"

    class Marks:
        @staticmethod
        def check(stage, folders):
            checked.append(stage.rollout.temperature)

        @staticmethod
        def run(stage, workdir, folders):
            made.append(Path(workdir))
            if len(made) == len(plan) - 1:
                holder.communicate("go\n")

    monkeypatch.setitem(sweep.pipeline.STAGES, "rl", Marks)
    sweep.run(config(), str(tmp_path))
    assert checked == [1.0, 1.5], "an arm is checked once, whatever its seeds"
    assert made == [plan[0].folder, plan[2].folder, plan[3].folder, taken]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hypothesis": " "}, "config.hypothesis is empty"),
        ({"arms": {}}, "0 arms"),
        ({"seeds": (0, 0)}, "each once"),
        ({"part": 2, "parts": 2}, "config.part is 2 of config.parts 2"),
        ({"more": 1}, "config.more is not a key of a sweep"),
        ({"arms": {"first": {}}}, "choose another name"),
        ({"order": ("runs",), "first": {"runs": {}}}, "choose another name"),
        ({"arms": {"odd": {"rollout": {"samples": 0}}}}, "arm odd: .*samples"),
        ({"arms": {"odd": {"rollout": {"sample": 4}}}}, "arm odd: .*'?sample'?"),
    ],
)
def test_what_cannot_be_run_is_refused(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        sweep.plan(config(**changes), tmp_path)


@pytest.mark.slow
def test_a_sweep_runs_each_once_and_tables_hold_all(tmp_path):
    base = str(smoke_run.finished() / "base")
    half = sweep.run(config(base, parts=2), str(tmp_path))  # the first of two machines: every second run
    assert half["runs"].keys() == {"as_is"} and half["runs"]["as_is"].keys() == {"0", "1"}
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("as_is/*/metrics.jsonl")}
    whole = sweep.run(config(base), str(tmp_path))
    assert before == {path: path.stat().st_mtime_ns for path in before}, "what is finished is not run again"
    final, steps = rows(whole["final"]), rows(whole["steps"])
    assert [(row["arm"], row["seed"]) for row in final] == [("as_is", "0"), ("hot", "0"), ("as_is", "1"), ("hot", "1")]
    assert float(final[1]["pass@1"]) == whole["runs"]["hot"]["0"]["arithmetic:test"]["pass@1"]
    (logged,) = smoke_run.rows(tmp_path / "hot" / "0" / "metrics.jsonl")
    (row,) = [row for row in steps if (row["arm"], row["seed"]) == ("hot", "0")]
    assert float(row["reward/mean"]) == logged["reward/mean"] and row["step"] == "1"
    lengths = {(r["arm"], r["seed"]): r["completion/mean_length"] for r in steps}
    assert lengths["as_is", "0"] != lengths["as_is", "1"], "seeds differ"
