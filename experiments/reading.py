"""Reads a sweep's tables and says what they show: means over seeds, differences paired by seed, curves over steps.

An interval is of the mean over the n seeds, at 95%, by Student's t with n - 1 degrees of freedom: it speaks of other
seeds, and takes their figures for normally distributed, which three or four of them cannot put to the test.
"""

from __future__ import annotations

import importlib
import math
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from ml_collections import ConfigDict
from scipy.stats import t as student

ROOT = Path(__file__).resolve().parent.parent
LEVEL = 0.95
FINAL, STEPS = "final.csv", "steps.csv"
# The short runs compile more than they compute: XLA's costly optimisations are left out.
QUICK_COMPILE = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true --xla_cpu_use_fusion_emitters=false"
)
WARNING = (
    "**These are not results.** The tables of this experiment are not there, so a short version of it was run: a few "
    "steps, from a base that knows nothing, two seeds. It shows what the pictures will look like, and no more."
)


class Interval(NamedTuple):
    """A mean over seeds. The bounds are NaN where there is one seed alone."""

    mean: float
    low: float
    high: float
    count: int


class Experiment(NamedTuple):
    """A sweep's config and tables."""

    name: str
    config: ConfigDict
    final: pd.DataFrame  # a row an arm, a seed and a task
    steps: pd.DataFrame  # a row an arm, a seed and a step
    folder: Path  # of the tables
    short: bool  # made by a short version: no results
    order: tuple[str, ...] = ()  # of the arms

    @property
    def arms(self) -> list[str]:
        """Those that the tables have, in the order asked for; else the standard one first, then by name."""
        there = set(self.final["arm"])
        asked = self.order or sorted(self.config.arms, key=lambda arm: (bool(self.config.arms[arm]), arm))
        return [arm for arm in asked if arm in there]

    @property
    def standard(self) -> str:
        """The arm that changes nothing."""
        unchanged = [arm for arm in self.arms if not self.config.arms[arm]]
        if not unchanged:
            raise ValueError(f"experiment {self.name} has no arm that changes nothing; name the one to compare with")
        return unchanged[0]

    def __repr__(self) -> str:
        return f"Experiment {self.name}: {', '.join(self.arms)}"

    def _repr_markdown_(self) -> str:
        seeds = ", ".join(map(str, sorted(set(self.final["seed"]))))
        parts = [WARNING] if self.short else []
        parts += [f"**Question.** {self.config.question}", f"**Hypothesis**, before the run. {self.config.hypothesis}"]
        return "\n\n".join([*parts, f"Arms: {', '.join(f'`{arm}`' for arm in self.arms)}. Seeds: {seeds}."])


def read(name: str, arms: Sequence[str] = (), folder: str | Path | None = None) -> Experiment:
    """The experiment in experiments/NAME with its tables.

    Args:
      arms: in this order; empty is all of them, the one that changes nothing first.
      folder: where its tables are. None is experiments/NAME; where they are not there, runs/experiments/NAME, where a
        run of one's own leaves them; and where there are none, those of a short version, run now.

    Raises:
      ModuleNotFoundError: there is no experiments/NAME/config.py.
      ValueError: the config has no such arm.
      RuntimeError: the short version fails.
    """
    config = importlib.import_module(f"experiments.{name}.config").get_config()
    if unknown := sorted(set(arms) - set(config.arms)):
        raise ValueError(f"experiment {name} has no arm {unknown[0]!r}; it has {', '.join(config.arms)}")
    usual = [ROOT / "experiments" / name, ROOT / "runs" / "experiments" / name]
    found = next((place for place in usual if (place / FINAL).exists()), None)
    place = Path(folder) if folder else found or _run_short(name)
    final, steps = (pd.read_csv(place / table, dtype={"arm": str}, keep_default_na=False, na_values=[""])
                    for table in (FINAL, STEPS))  # fmt: skip
    return Experiment(name, config, final, steps, place, not (folder or found), tuple(arms))


def interval(values: Sequence[float] | np.ndarray) -> Interval:
    """The mean, and Student's interval of it: mean -+ t * s / sqrt(n), s with n - 1 in its denominator."""
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or not len(array):
        raise ValueError(f"expected one figure a seed, at least one; got an array of shape {array.shape}")
    mean, count = float(array.mean()), len(array)
    if count == 1:
        return Interval(mean, math.nan, math.nan, 1)
    half = float(student.ppf((1 + LEVEL) / 2, count - 1) * array.std(ddof=1) / math.sqrt(count))
    return Interval(mean, mean - half, mean + half, count)


def by_seed(experiment: Experiment, measure: str, task: str | None = None) -> pd.DataFrame:
    """A final figure of every run: rows are arms, columns are seeds.

    Args:
      measure: a column of final.csv, such as "pass@1"; of steps.csv, its mean over the last ten steps.
      task: as final.csv names it; None where there is one alone.
    """
    if measure in experiment.final:
        rows = experiment.final.dropna(subset=[measure])
        tasks = sorted(set(rows["task"]))
        if task is None and len(tasks) > 1:
            raise ValueError(f"{measure} is there for several tasks; say which: {', '.join(tasks)}")
        rows = rows if task is None else rows[rows["task"] == task]
        values = rows.set_index(["arm", "seed"])[measure]
    elif measure not in experiment.steps:
        raise ValueError(f"neither {FINAL} nor {STEPS} of {experiment.name} has a column {measure!r}")
    else:
        rows = experiment.steps.dropna(subset=[measure]).sort_values("step")
        values = rows.groupby(["arm", "seed"])[measure].apply(lambda last: last.tail(10).mean())
    table = values.unstack("seed")
    return table.reindex([arm for arm in experiment.arms if arm in table.index])


def means(figures: pd.DataFrame) -> pd.DataFrame:
    """What `by_seed` gives, over seeds: columns mean, low, high, count."""
    return pd.DataFrame({arm: interval(row.dropna()) for arm, row in figures.iterrows()}, Interval._fields).T


def differences(figures: pd.DataFrame, standard: str) -> pd.DataFrame:
    """What each arm has more than the standard one, paired by seed; columns as of `means`."""
    if standard not in figures.index:
        raise ValueError(f"no arm {standard!r}; there are {', '.join(map(str, figures.index))}")
    return means(figures.drop(standard) - figures.loc[standard])


def summary(experiment: Experiment, measures: Sequence[str], standard: str | None = None) -> pd.DataFrame:
    """For reading: of each arm and measure the mean with its half-width, and pass@1's difference to the standard."""
    columns = {}
    for measure in measures:
        figures = by_seed(experiment, measure) * scale(measure)
        columns[label(measure)] = means(figures).apply(_mean_and_half, axis=1)
        if measure == measures[0]:
            against = standard or experiment.standard
            columns[f"against {against}"] = differences(figures, against).apply(_bounds, axis=1)
    return pd.DataFrame(columns).reindex(experiment.arms).fillna("")


def curves(experiment: Experiment, measure: str, arm: str, window: int = 5) -> pd.DataFrame:
    """A metric over an arm's steps: each seed smoothed, then means over seeds; columns as of `means`, and step."""
    rows = (
        experiment.steps[experiment.steps["arm"] == arm].dropna(subset=[measure]) if measure in experiment.steps else ()
    )
    if not len(rows):
        raise ValueError(f"arm {arm!r} of {experiment.name} has no {measure!r} in {STEPS}")
    table = rows.pivot(index="step", columns="seed", values=measure).dropna().apply(smooth, args=(window,))
    return means(table).rename_axis("step").reset_index()


def smooth(values: Sequence[float] | np.ndarray, window: int) -> np.ndarray:
    """The running mean over `window` neighbours, an odd number; at the ends over as many as there are on both sides."""
    array = np.asarray(values, np.float64)
    if window % 2 == 0 or window < 1:
        raise ValueError(f"window is {window}; expected an odd number")
    reach = np.minimum(window // 2, np.minimum(np.arange(len(array)), np.arange(len(array))[::-1]))
    return np.array([array[at - r : at + r + 1].mean() for at, r in enumerate(reach)])


SHARES = ("pass@", "maj@", "format", "language")  # given in per cent
UNITS = {
    "mean_tokens": "tokens of a completion",
    "completion/mean_length": "tokens of a completion",
    "completion/frac_truncated": "cut off at the limit (%)",
    "policy/entropy": "entropy (nats)",
    "policy/kl": "KL to the reference (nats)",
    "policy/clip_fraction": "clipped tokens (%)",
    "reward/mean": "reward",
    "reward/accuracy/mean": "accuracy of samples (%)",
    "reward/format/mean": "in form, of samples (%)",
    "reward/frac_zero_std": "groups that teach nothing (%)",
    "moe/max_load": "busiest expert's load, of the mean",
    "time/step_s": "seconds a step",
    "grad_norm": "norm of the gradient",
}


def label(measure: str) -> str:
    """How a measure is called on an axis, with its unit."""
    return UNITS.get(measure, f"{measure} (%)" if measure.startswith(SHARES) else measure)


def scale(measure: str) -> float:
    return 100.0 if label(measure).endswith("(%)") else 1.0


def _mean_and_half(row: pd.Series) -> str:
    return f"{row['mean']:.3g} ± {row['high'] - row['mean']:.2g}"


def _bounds(row: pd.Series) -> str:
    return f"{row['mean']:+.1f} [{row['low']:+.1f}, {row['high']:+.1f}]"


def _run_short(name: str) -> Path:
    """Runs experiments/short.py of the experiment; the folder of its tables."""
    folder = ROOT / "runs" / "notebooks" / name
    command = [sys.executable, "-m", "r1jax.main", f"--config=experiments/short.py:{name}", f"--workdir={folder}"]
    begun = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"XLA_FLAGS": QUICK_COMPILE}, text=True,
                          stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    print(f"a short version, {time.monotonic() - begun:.0f} s: {folder.relative_to(ROOT)}")
    return folder
