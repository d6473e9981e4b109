"""What the report reads: the stages of one or several workdirs, with all their records."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from r1jax.data.dataset import DROPPED, read_dataset
from r1jax.stages.workdir import CONFIG, EVALUATIONS, PROBLEMS, RESULT
from r1jax.training.metrics import METRICS, SAMPLES, read_jsonl

RUNS = "runs.json"  # of a sweep: {ARM/SEED: folder, from the sweep's own}
KEPT = "kept"  # figures that have it count what came in, was kept and was dropped; the others are of an evaluation


class Stage(NamedTuple):
    """What one stage's workdir holds."""

    run: str  # what its run is called; empty where the page is of one alone
    name: str
    config: dict[str, Any]
    metrics: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]
    samples: list[dict[str, Any]]
    problems: list[dict[str, Any]]  # of the final evaluation
    result: dict[str, dict[str, Any]]  # task -> measure -> value; of a stage that makes data, source -> what -> number
    dropped: dict[str, str]  # of a stage that makes data, a sample for each reason
    seconds: float | None  # from its start to its result, pauses included

    @property
    def label(self) -> str:
        return f"{self.name} · {self.run}" if self.run and self.run != self.name else self.name

    def evaluated(self) -> dict[str, dict[str, Any]]:
        """The figures by task."""
        return {task: figures for task, figures in self._figures().items() if KEPT not in figures}

    def counted(self) -> dict[str, dict[str, Any]]:
        """The counts by source, of a stage that makes data."""
        return {source: figures for source, figures in self._figures().items() if KEPT in figures}

    def _figures(self) -> dict[str, dict[str, Any]]:
        return {key: figures for key, figures in self.result.items() if isinstance(figures, dict)}


def read_runs(workdirs: Sequence[Path]) -> list[Stage]:
    """The stages of all workdirs, a sweep's being those of its runs.

    Raises:
      FileNotFoundError: a workdir is not there.
      ValueError: one holds no run, or one of its files is malformed.
    """
    folders = [Path(workdir) for workdir in workdirs]
    runs = [run for folder, name in zip(folders, names(folders), strict=True) for run in _runs(folder, name)]
    if len(runs) == 1:
        return read_stages(runs[0][1])
    return [stage._replace(run=run, name=name) for run, folder in runs for stage, name in _named(folder)]


def _runs(workdir: Path, name: str) -> list[tuple[str, Path]]:
    """(what it is called, its folder) of a sweep's runs, or of a workdir itself."""
    return [(run, workdir / folder) for run, folder in _read_json(workdir / RUNS).items()] or [(name, workdir)]


def _named(workdir: Path) -> list[tuple[Stage, str]]:
    """Stages with their names; one that is a workdir is called by its kind, to be compared with its like."""
    alone = (workdir / METRICS).exists()
    return [
        (stage, str(stage.config.get("stage", stage.name)) if alone else stage.name) for stage in read_stages(workdir)
    ]


def names(workdirs: Sequence[Path]) -> list[str]:
    """What to call workdirs: by their last folder, or by as many more as tell them apart."""
    parts = [workdir.resolve().parts for workdir in workdirs]
    for depth in range(1, max(map(len, parts)) + 1):
        called = ["/".join(part[-depth:]) for part in parts]
        if len(set(called)) == len(set(parts)):
            break
    return called


def read_stages(workdir: Path) -> list[Stage]:
    """The stages of a workdir: itself, or a pipeline's sub-folders in the order they ran."""
    if not workdir.is_dir():
        raise FileNotFoundError(f"workdir {str(workdir)!r} is not a folder; give the --workdir of a run")
    if (workdir / METRICS).exists():
        return [_read_stage(workdir)]
    found = {path.parent.name: path.parent for path in workdir.glob(f"*/{METRICS}")}
    if not found:
        raise ValueError(f"workdir {str(workdir)!r} holds no run: neither {METRICS} nor a stage's sub-folder has one")
    finished = [name for name in _read_json(workdir / RESULT) if name in found]
    begun = sorted(set(found) - set(finished), key=lambda name: (found[name] / METRICS).stat().st_mtime)
    return [_read_stage(found[name]) for name in finished + begun]


def _read_stage(workdir: Path) -> Stage:
    metrics, evaluations, samples, problems = (
        read_jsonl(workdir / name) if (workdir / name).exists() else []
        for name in (METRICS, EVALUATIONS, SAMPLES, PROBLEMS)
    )
    config, result = _read_json(workdir / CONFIG), _read_json(workdir / RESULT)
    return Stage(
        "", workdir.name, config, metrics, evaluations, samples, problems, result, _dropped(workdir), _seconds(workdir)
    )


def _dropped(workdir: Path) -> dict[str, str]:
    """The first sample that each filter turned down."""
    if not (workdir / DROPPED).is_dir():
        return {}
    found: dict[str, str] = {}
    for sample in read_dataset(workdir, DROPPED):
        found.setdefault(str(sample.get("filter", "")), str(sample.get("completion", "")))
    return found


def _seconds(workdir: Path) -> float | None:
    paths = [workdir / CONFIG, workdir / RESULT]
    if not all(path.exists() for path in paths):
        return None
    begun, ended = (path.stat().st_mtime for path in paths)
    return max(0.0, ended - begun)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); delete it or run the stage again") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} is {type(value).__name__}; expected a JSON object")
    return value
