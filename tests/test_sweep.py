"""A sweep runs what its config says, in folders of its own, once, and its tables hold every run."""

import csv
import io
from pathlib import Path

import pytest
import smoke_run
from ml_collections import ConfigDict

from r1jax import sweep


def config(init_from="", **changes):
    few = {"zero.steps": 1, "zero.evaluation.every": 0, "zero.checkpoint.every": 1, "zero.init_from": init_from}
    zero = smoke_run.config(**few).stages.zero
    tree = dict(
        stage="sweep", question="Does heat help?", hypothesis="No.", order=(), first={}, base=zero,
        arms={"as_is": {}, "hot": {"rollout": {"temperature": 1.5}, "grpo": {"clip_high": 0.3}}}, seeds=(0, 1),
        part=0, parts=1,
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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hypothesis": " "}, "config.hypothesis is empty"),
        ({"arms": {}}, "0 arms"),
        ({"seeds": (0, 0)}, "each once"),
        ({"part": 2, "parts": 2}, "config.part is 2 of config.parts 2"),
        ({"more": 1}, "config.more is not a key of a sweep"),
        ({"arms": {"first": {}}}, "choose another name"),
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
