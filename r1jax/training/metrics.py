"""A run's records: `metrics.jsonl`, `samples.jsonl` and TensorBoard events, and the progress bar.

Both JSONL files hold one object a line with its `step`, written and flushed a line at a time, so that the files
of a run that was killed and resumed equal those of one that was not.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from r1jax import processes


@contextlib.contextmanager
def hidden(module: str) -> Iterator[None]:
    """Within it, a module that is not loaded yet cannot be imported."""
    is_absent = module not in sys.modules
    if is_absent:
        sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if is_absent:
            del sys.modules[module]


# tensorboardX loads torch where it is installed, for tensors that it is not given here: 3 seconds of a processor.
with hidden("torch"):
    from tensorboardX import SummaryWriter

METRICS, SAMPLES = "metrics.jsonl", "samples.jsonl"
Json = dict[str, Any]


class RunLog:
    """The records of one stage.

    Args:
      workdir: the stage's folder; made where missing.
      resume_step: steps done already. Lines of later steps are cut, for they will be written again; 0 starts afresh.

    Raises:
      ValueError: a line before the last is not a JSON object with a step; names file and line.
    """

    def __init__(self, workdir: str | os.PathLike, *, resume_step: int):
        workdir = Path(workdir)
        workdir.mkdir(parents=True, exist_ok=True)
        for name in (METRICS, SAMPLES):
            truncate_jsonl(workdir / name, resume_step)
        self._metrics = (workdir / METRICS).open("a", encoding="utf-8")
        self._samples = (workdir / SAMPLES).open("a", encoding="utf-8")
        # A purge step makes TensorBoard hide the events of steps that a kill left beyond the checkpoint.
        self._events = SummaryWriter(str(workdir / "tensorboard"), purge_step=resume_step + 1, max_queue=10)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Appends one step's scalars. A figure that is not finite is stored as null, which JSON can hold."""
        row: Json = {"step": int(step)}
        for name, value in metrics.items():
            number = float(value)
            row[name] = number if math.isfinite(number) else None
            self._events.add_scalar(name, number, global_step=step)
        _append(self._metrics, row)

    def samples(self, step: int, rows: Iterable[Json]) -> None:
        """Appends completions with their rewards, one line each."""
        for row in rows:
            _append(self._samples, {"step": int(step)} | row)

    def close(self) -> None:
        self._metrics.close()
        self._samples.close()
        self._events.close()


def progress(total: int, initial: int, desc: str) -> tqdm:
    """A progress bar of steps on stderr, of the first process; give it its figures with `show`."""
    return tqdm(
        total=total, initial=initial, desc=desc, unit="step", file=sys.stderr, dynamic_ncols=True, smoothing=0.1,
        disable=not processes.is_first(),
    )  # fmt: skip


def show(bar: tqdm, figures: Mapping[str, float]) -> None:
    """Moves the bar one step on and shows `figures` beside it, three significant digits each."""
    bar.set_postfix_str(" ".join(f"{name} {float(value):.3g}" for name, value in figures.items()), refresh=False)
    bar.update(1)


def read_jsonl(path: str | os.PathLike) -> list[Json]:
    """The objects of a JSONL file; a last line without its newline was torn by a kill, and is left out.

    Raises:
      ValueError: a whole line is not a JSON object; names file and line.
    """
    return [row for _, row in _rows(Path(path))]


def _rows(path: Path) -> list[tuple[str, Json]]:
    """Every whole line of a file with its object."""
    rows = []
    with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith("\n"):
                break
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{path}, line {number} is not JSON ({error}); mend or delete that line") from error
            if not isinstance(row, dict):
                raise ValueError(f"{path}, line {number} is {type(row).__name__}; expected a JSON object")
            rows.append((line, row))
    return rows


def append_jsonl(path: str | os.PathLike, rows: Iterable[Json]) -> None:
    """Appends objects to a JSONL file, one line each."""
    with Path(path).open("a", encoding="utf-8") as file:
        for row in rows:
            _append(file, row)


def truncate_jsonl(path: Path, resume_step: int) -> None:
    """Keeps the lines of steps up to `resume_step`, replacing the file in one move; a missing file stays missing.

    Raises:
      ValueError: a line before the last is not a JSON object with a step; names file and line.
    """
    if not path.exists():
        return
    kept = []
    for number, (line, row) in enumerate(_rows(path), 1):
        if not isinstance(row.get("step"), int):
            raise ValueError(f"{path}, line {number} has step {row.get('step')!r}; expected an integer")
        if row["step"] <= resume_step:
            kept.append(line)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text("".join(kept), encoding="utf-8", newline="\n")
    os.replace(temporary, path)


def write_jsonl(path: str | os.PathLike, rows: Iterable[Json]) -> None:
    """Writes a JSONL file whole or not at all, in the place of one that is there."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            _append(file, row)
    os.replace(temporary, path)


def _append(file: Any, row: Json) -> None:
    """One line, flushed. Text a model wrote may hold lone surrogates or newlines: ASCII escapes carry them all."""
    file.write(json.dumps(row, allow_nan=False) + "\n")
    file.flush()
