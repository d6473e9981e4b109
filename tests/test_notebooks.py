"""What the notebooks stand on gives figures worked out by hand; and the committed notebooks are whole, and clean."""

import io
import json
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from ml_collections import ConfigDict

from experiments import reading, short, standard
from r1jax import sweep

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted([*ROOT.glob("experiments/*/*.ipynb"), *ROOT.glob("notebooks/*.ipynb")])
FINAL = """arm,seed,task,pass@1,mean_tokens
none,0,sums,0.5,10
none,1,sums,0.6,
none,2,sums,0.7,14
high,0,sums,0.6,11
high,1,sums,0.8,12
high,2,sums,0.7,13
"""


def experiment(**arms):
    config = ConfigDict(dict(question="Q?", hypothesis="H.", arms=arms or {"none": {}, "high": {"steps": 2}}))
    steps = [
        dict(zip(("arm", "seed", "step", "loss"), row, strict=True))
        for row in (("none", 0, 1, 1.0), ("none", 1, 1, 3.0), ("none", 0, 2, 5.0), ("none", 1, 2, 5.0))
    ]
    return reading.Experiment("mine", config, pd.read_csv(io.StringIO(FINAL)), pd.DataFrame(steps), ROOT, False)


def test_an_interval_is_students():
    """1, 2, 6: mean 3, s^2 = (4 + 1 + 9) / 2 = 7; t(0.975, 2) = 4.30265 as tables have it."""
    half = 4.30265 * math.sqrt(7 / 3)
    assert reading.interval([1, 2, 6]) == pytest.approx((3, 3 - half, 3 + half, 3), rel=1e-5)
    mean, low, high, count = reading.interval([4.0])
    assert (mean, count) == (4.0, 1) and math.isnan(low) and math.isnan(high)
    with pytest.raises(ValueError, match="at least one"):
        reading.interval([])


def test_differences_are_paired_by_seed():
    """Of 0.1, 0.2 and 0.0 the mean is 0.1 and s 0.1, far less than of two means that are told apart unpaired."""
    figures = reading.by_seed(experiment(), "pass@1")
    assert list(figures.index) == ["none", "high"] and list(figures.columns) == [0, 1, 2]
    row = reading.differences(figures, "none").loc["high"]
    half = 4.30265 * 0.1 / math.sqrt(3)
    np.testing.assert_allclose(row.astype(float), [0.1, 0.1 - half, 0.1 + half, 3], rtol=1e-5)
    with pytest.raises(ValueError, match="no arm 'other'; there are none, high"):
        reading.differences(figures, "other")


def test_a_figure_that_a_run_lacks_is_left_out():
    row = reading.means(reading.by_seed(experiment(), "mean_tokens")).loc["none"]
    assert (row["mean"], row["count"]) == (12.0, 2)


def test_of_a_metric_the_last_ten_steps_count():
    whole = experiment()
    steps = [{"arm": "none", "seed": 0, "step": step, "kl": float(step)} for step in (*range(12, 0, -1),)]
    figures = reading.by_seed(whole._replace(steps=pd.DataFrame(steps)), "kl")
    assert figures.loc["none", 0] == 7.5  # of 3 .. 12


def test_curves_are_smoothed_by_seed_and_then_averaged():
    np.testing.assert_allclose(reading.smooth([1, 2, 6, 3, 8], 5), [1, 3, 4, 17 / 3, 8])
    with pytest.raises(ValueError, match="odd"):
        reading.smooth([1.0], 4)
    curve = reading.curves(experiment(), "loss", "none", 1)
    assert list(curve["step"]) == [1, 2] and list(curve["mean"]) == [2.0, 5.0]
    with pytest.raises(ValueError, match="'high' of mine has no 'loss'"):
        reading.curves(experiment(), "loss", "high", 1)


def test_arms_stand_as_asked_or_the_standard_one_first():
    arms = {"few": {"a": 1}, "many": {"a": 2}, "standard": {}, "gone": {"a": 3}}
    whole = experiment(**arms)._replace(final=pd.DataFrame({"arm": ["many", "few", "standard"]}))
    assert whole.arms == ["standard", "few", "many"]
    assert whole._replace(order=("many", "gone", "standard")).arms == ["many", "standard"]


def test_the_standard_arm_is_the_one_that_changes_nothing():
    assert experiment().standard == "none"
    with pytest.raises(ValueError, match="no arm that changes nothing"):
        _ = experiment(none={"steps": 3}, high={"steps": 2}).standard


def test_a_summary_reads_in_per_cent():
    table = reading.summary(experiment(), ["pass@1", "mean_tokens"])
    assert list(table.columns) == ["pass@1 (%)", "against none", "tokens of a completion"]
    assert table.loc["high", "pass@1 (%)"] == "70 ± 25" and table.loc["none", "against none"] == ""
    assert table.loc["high", "against none"] == "+10.0 [-14.8, +34.8]"


def test_what_a_short_run_shows_is_not_called_a_result():
    assert "not results" not in experiment()._repr_markdown_()
    assert experiment()._replace(short=True)._repr_markdown_().startswith("**These are not results.**")


@pytest.mark.parametrize("name", sorted(path.parent.name for path in ROOT.glob("experiments/*/config.py")))
def test_every_experiment_has_a_short_version(name, tmp_path):
    """Two arms at most, one of them as the base is, in three steps or fewer, from stages as small."""
    tree = short.get_config(name)
    planned = sweep.plan(tree, tmp_path)
    assert 2 <= len(planned) <= 4 and {each.seed for each in planned} == {0, 1}
    assert any(not changes for changes in tree.arms.values())
    assert all(each.stage.steps <= 3 and each.stage.policy.width == 32 for each in planned)
    assert all(stage.steps <= 3 for stage in tree.first.values())


def test_short_caps_numbers_and_leaves_what_is_smaller():
    stage = standard.zero()
    stage.rollout.update(prompts=2, samples=64)
    tree = short.short(standard.sweep("?", ".", {"as_is": {}, "other": {"rollout": {"samples": 3}}}, stage=stage))
    assert (tree.base.rollout.prompts, tree.base.rollout.samples, tree.base.rollout.temperature) == (2, 4, 1.0)
    assert tree.arms.other.rollout.samples == 3


@pytest.mark.parametrize("folder", sorted({path.parent for path in ROOT.glob("experiments/*/config.py")}), ids=str)
def test_every_experiment_has_its_notebook(folder):
    assert (folder / f"{folder.name}.ipynb").exists()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_as_it_ran(path):
    """In order, from the first cell to the last, without an error, and with nothing of the machine it ran on."""
    cells = [cell for cell in json.loads(path.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]
    counts = [cell["execution_count"] for cell in cells]
    assert counts == list(range(1, len(cells) + 1)) and cells
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert any("image/png" in output.get("data", {}) for output in outputs), "no picture"
    for output in outputs:
        assert output["output_type"] != "error"
        text = "".join(output.get("text", [])) + json.dumps(output.get("data", {}).get("text/plain", ""))
        assert not re.search(r"/(home|root|tmp|work|Users)/|Traceback|Warning", text), text
        if (path.parent / reading.FINAL).exists():
            assert "not results" not in json.dumps(output.get("data", {}).get("text/markdown", "")), "a short version"
