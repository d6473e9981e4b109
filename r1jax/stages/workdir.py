"""A stage's folder: its config, its tokenizer, its checkpoints, its result.

`config.json` is written when every check has passed and the tokenizer stands beside it, so a folder without one holds
nothing to go on from. It is written once; a later run with another config is refused, naming the keys that differ. A
folder that holds `result.json` is finished. Who shares folders with others takes hold of one before running in it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from r1jax import processes
from r1jax.config import AnyStage, ConvertedStage, checkpoint_config, to_dict
from r1jax.data.tokenizer import Tokenizer
from r1jax.training.checkpoint import write_json_atomic

CONFIG, RESULT, EVALUATIONS = "config.json", "result.json", "evaluations.jsonl"
PROBLEMS = "evaluation.jsonl"  # of the final evaluation, a line a problem


def has_begun(workdir: str, config: AnyStage) -> bool:
    """Whether a run of this config was begun in `workdir`. Writes nothing.

    Raises:
      ValueError: the folder was made with another config, or is no workdir.
    """
    path = Path(workdir)
    if path.exists() and not path.is_dir():
        raise ValueError(f"workdir is {workdir!r}, a file; give a folder")
    if not (path / CONFIG).exists():
        if any((path / "checkpoints").glob("*")):
            raise ValueError(
                f"workdir {workdir!r} holds checkpoints but no {CONFIG}, so what they are is not known; "
                "restore the file, or use another --workdir"
            )
        return False
    changed = _differing(_as_json(read_config(workdir)), _as_json(config), "config")
    if changed:
        raise ValueError(
            f"workdir {workdir!r} was made with another config: {'; '.join(changed[:5])}. "
            "Use another --workdir, or delete this one"
        )
    return True


def finished(workdir: str, config: AnyStage) -> dict[str, Any] | None:
    """The result of a run of this config in `workdir`; None where there is none yet. Raises as `has_begun`."""
    result = state(workdir, config)[1]
    if result is not None:
        processes.say(f"{Path(workdir).resolve().name}: finished already; its result stands in {workdir}")
    return result


def state(workdir: str, config: AnyStage) -> tuple[bool, dict[str, Any] | None]:
    """(whether it has begun, the result), as the first process finds them. Raises as `has_begun`."""

    def look() -> tuple[bool, dict[str, Any] | None]:
        begun = has_begun(workdir, config)
        return begun, read_result(workdir) if begun else None

    return processes.agreed(look)


@contextlib.contextmanager
def held(workdir: str, *, wait: bool) -> Iterator[bool]:
    """Keeps others who ask out of a folder, as long as it is entered; True where it is ours.

    A lock on the file WORKDIR.lock beside it, which ends with the process that holds it, however that ends. It holds
    between machines where their file system has such locks (NFS has, a bucket mounted as a folder has not).

    Args:
      wait: for as long as another process holds it; otherwise the answer is then False.
    """
    with contextlib.ExitStack() as stack:
        yield processes.agreed(lambda: _lock(Path(workdir), wait, stack))


def _lock(path: Path, wait: bool, stack: contextlib.ExitStack) -> bool:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = stack.enter_context(path.with_name(f"{path.name}.lock").open("a"))
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def begin(workdir: str, config: AnyStage | ConvertedStage, tokenizer: Tokenizer | None) -> None:
    """Makes the folder. The config comes last: it says that all the rest is there. A dataset has no tokenizer."""
    processes.agreed(lambda: _write(workdir, config, tokenizer))


def _write(workdir: str, config: AnyStage | ConvertedStage, tokenizer: Tokenizer | None) -> None:
    Path(workdir).mkdir(parents=True, exist_ok=True)
    if tokenizer is not None:
        tokenizer.save(workdir)
    write_json_atomic(Path(workdir) / CONFIG, _as_json(config))


def read_config(workdir: str) -> AnyStage | ConvertedStage:
    """The config a folder was made with.

    Raises:
      ValueError: there is none (this is no checkpoint), or it cannot be read.
    """
    path = Path(workdir) / CONFIG
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ValueError(
            f"{workdir} holds no {CONFIG}: it is not a stage's workdir or a converted checkpoint; "
            "give the folder that --workdir named (in a pipeline, with the stage's name added)"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read ({error}); restore it or train again in another workdir") from error
    if not isinstance(tree, dict):
        raise ValueError(f"{path} is {type(tree).__name__}; expected a stage's config, a JSON object: restore it")
    try:
        return checkpoint_config(tree)
    except ValueError as error:
        raise ValueError(f"{path} is not a stage's config: {error}") from error


def read_result(workdir: str) -> dict[str, Any] | None:
    """A finished stage's result, {task: {"pass@1": ..., ...}}; None where it has not finished."""
    path = Path(workdir) / RESULT
    if not path.exists():
        return None
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} cannot be read ({error}); delete it and run again to evaluate anew") from error
    if not isinstance(result, dict):
        raise ValueError(f"{path} is {type(result).__name__}; expected an object: delete it and run again")
    return result


def write_result(workdir: str, result: dict[str, Any]) -> None:
    processes.agreed(lambda: write_json_atomic(Path(workdir) / RESULT, result))


def _as_json(config: AnyStage | ConvertedStage) -> dict[str, Any]:
    return json.loads(json.dumps(to_dict(config)))


def _differing(before: Any, now: Any, path: str) -> list[str]:
    if path.endswith(".mesh"):  # on another the numbers are the same but for rounding: a run may go on there
        return []
    if isinstance(before, dict) and isinstance(now, dict):
        keys = sorted(before.keys() | now.keys())
        return [line for key in keys for line in _differing(before.get(key), now.get(key), f"{path}.{key}")]
    return [] if before == now else [f"{path} was {before!r}, is {now!r}"]
