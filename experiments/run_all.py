"""Runs the experiments one after another. A finished run is not run again, so it may be stopped and started at will.

python -m experiments.run_all                     (all of them, in the order of ORDER)
python -m experiments.run_all kl staleness --runs=runs/experiments

Run twice at the same time, the two share the work. What is for reading goes into each experiment's folder, `final.csv`
and `steps.csv`; what it took is a line of `times.csv`, one each time that something was run.
"""

from __future__ import annotations

import csv
import datetime
import importlib
import os
import re
import time
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from experiments.test_time_compute import curves
from r1jax import command, sweep

HERE = Path(__file__).resolve().parent
TIMES = HERE / "times.csv"
# The cheap first.
ORDER = (
    "advantage_scale", "test_time_compute", "loss_normalisation", "format_reward", "reward_hacking", "group_size",
    "sampling_temperature", "algorithms", "kl", "staleness", "ahead", "clip_range", "importance_ratio",
    "difficulty_filtering", "cold_start", "distillation", "moe_or_dense", "language_reward", "learning_rate",
)  # fmt: skip
# Columns of steps.csv that are kept: what is learnt, not how the machine fared.
KEPT = re.compile(
    r"arm|seed|step|loss|grad_norm|lr|reward/(mean|std|frac_zero_std|\w+/mean)|(completion|policy|ppo|raft|value|moe)/.*"
    r"|time/(step|rollout|update)_s"
)
DIGITS = 5  # significant, of a figure in steps.csv

_RUNS = flags.DEFINE_string("runs", "runs/experiments", "Folder of the runs, one folder an experiment.")


def main(words: list[str]) -> dict[str, Any]:
    unknown = sorted(set(words) - set(ORDER))
    if unknown:
        raise ValueError(f"there is no experiment {unknown[0]!r}; expected some of {', '.join(ORDER)}")
    return {name: run(name, Path(_RUNS.value)) for name in words or ORDER}


def config(name: str) -> ConfigDict:
    """An experiment's config."""
    return importlib.import_module(f"experiments.{name}.config").get_config()


def run(name: str, workdir: Path) -> dict[str, float]:
    """Runs what is left of an experiment and writes its tables; the seconds that it took, {} where nothing was left."""
    tree = config(name).unlock()
    tree.shared = str(workdir / "shared")
    planned = sweep.plan(tree, workdir / name)
    left = [each for each in planned if not (each.folder / "result.json").exists()]
    began, used = time.perf_counter(), processor_seconds()
    result = sweep.run(tree, str(workdir / name))
    measured = (HERE / name / curves.CURVES).exists()
    if name == "test_time_compute" and not measured:
        table = curves.write(tree, workdir / name)
        (HERE / name / curves.CURVES).write_text(table.read_text("utf-8"), "utf-8")
    took = {"seconds": time.perf_counter() - began, "processor_seconds": processor_seconds() - used}
    if all((each.folder / "result.json").exists() for each in planned):
        (HERE / name / sweep.FINAL).write_text(Path(result["final"]).read_text("utf-8"), "utf-8")
        (HERE / name / sweep.STEPS).write_text(sweep.as_csv(compact(Path(result["steps"]))), "utf-8")
    if not left and (name != "test_time_compute" or measured):
        return {}
    _note(name, took)
    return took


def processor_seconds() -> float:
    """Of this process, and of those that it has waited for."""
    return sum(os.times()[:4])


def compact(steps: Path) -> list[dict[str, Any]]:
    """The rows of a table of steps, less what nobody reads and the digits that nobody sees."""
    with steps.open(encoding="utf-8", newline="") as file:
        return [{key: short(key, x) for key, x in row.items() if KEPT.fullmatch(key)} for row in csv.DictReader(file)]


def short(key: str, text: str) -> str:
    return text if key in ("arm", "seed", "step") or not text else f"{float(text):.{DIGITS}g}"


def _note(name: str, took: dict[str, float]) -> None:
    fresh = not TIMES.exists()
    with TIMES.open("a", encoding="utf-8") as file:
        if fresh:
            file.write("date,experiment,seconds,processor_seconds\n")
        today = datetime.datetime.now(datetime.UTC).date()
        file.write(f"{today},{name},{took['seconds']:.0f},{took['processor_seconds']:.0f}\n")


if __name__ == "__main__":
    command.main(main, words="[EXPERIMENT ...]")
