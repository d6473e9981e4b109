"""A stage's folder: its config, its tokenizer, its checkpoints, its result.

`config.json` is written once; a later run with another config is refused, naming the keys that differ. A folder
that holds `result.json` is finished.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from r1jax.config import RlStage, SftStage, stage_config, to_dict
from r1jax.training.checkpoint import write_json_atomic

CONFIG, RESULT, EVALUATIONS = "config.json", "result.json", "evaluations.jsonl"


def open_workdir(workdir: str, config: SftStage | RlStage) -> dict[str, Any] | None:
    """Makes or re-opens a stage's folder; returns its result where it is finished.

    Raises:
      ValueError: the folder was made with another config.
    """
    path = Path(workdir)
    now = json.loads(json.dumps(to_dict(config)))
    if (path / CONFIG).exists():
        before = to_dict(read_config(workdir))
        changed = _differing(json.loads(json.dumps(before)), now, "config")
        if changed:
            raise ValueError(
                f"{path} was made with another config: {'; '.join(changed[:5])}. Use another --workdir, or delete this one"
            )
    else:
        path.mkdir(parents=True, exist_ok=True)
        write_json_atomic(path / CONFIG, now)
    return read_result(workdir)


def read_config(workdir: str) -> SftStage | RlStage:
    """The config a folder was made with.

    Raises:
      ValueError: there is none (this is no checkpoint), or it cannot be read.
    """
    path = Path(workdir) / CONFIG
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(
            f"{workdir} holds no {CONFIG}: it is not a stage's workdir or a converted checkpoint; "
            "give the folder that --workdir named (in a pipeline, with the stage's name added)"
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read ({error}); restore it or train again in another workdir") from error
    return stage_config(tree)


def read_result(workdir: str) -> dict[str, Any] | None:
    """A finished stage's result, {task: {"pass@1": ..., ...}}; None where it has not finished."""
    path = Path(workdir) / RESULT
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} cannot be read ({error}); delete it and run again to evaluate anew") from error


def write_result(workdir: str, result: dict[str, Any]) -> None:
    write_json_atomic(Path(workdir) / RESULT, result)


def _differing(before: Any, now: Any, path: str) -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        keys = sorted(before.keys() | now.keys())
        return [line for key in keys for line in _differing(before.get(key), now.get(key), f"{path}.{key}")]
    return [] if before == now else [f"{path} was {before!r}, is {now!r}"]
