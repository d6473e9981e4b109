"""Records read at random: from ArrayRecord files and from JSON lines; and parameters read from a config."""

from __future__ import annotations

import dataclasses
import difflib
import json
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

_BATCH = 1024  # records read at once when all are


class Source(Protocol):
    """A random-access sequence of records, whose values are strings."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, str]: ...


class Records:
    """A `Source` over a prepared split. Iterating reads in batches, which is faster than one by one."""

    def __init__(self, data_source: Any):
        self._data_source = data_source

    def __len__(self) -> int:
        return len(self._data_source)

    def __getitem__(self, index: int) -> dict[str, str]:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        return _decoded(self._data_source[index])

    def __iter__(self) -> Iterator[dict[str, str]]:
        for start in range(0, len(self), _BATCH):
            indices = range(start, min(start + _BATCH, len(self)))
            yield from map(_decoded, self._data_source.__getitems__(list(indices)))


def read_jsonl(path: Path, required: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number (from 1) and object of each line that is not blank; values that are not strings as JSON.

    Raises:
      ValueError: a line is not a JSON object, or lacks a required field; names the file, the line and the field.
    """
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{path} line {number} is not JSON ({error}); expected one object a line") from error
            if not isinstance(row, dict):
                raise ValueError(f"{path} line {number} is a {type(row).__name__}; expected an object")
            for field in required:
                if isinstance(row.get(field), bool) or not isinstance(row.get(field), (str, int, float)):
                    got = f"is {row[field]!r}" if field in row else "is missing"
                    raise ValueError(
                        f"{path} line {number}: field {field!r} {got}; expected a string or number "
                        f"(required: {', '.join(required)})"
                    )
            yield number, {str(k): v if isinstance(v, str) else json.dumps(v) for k, v in row.items()}


def build_parameters(kind: type, kwargs: Mapping[str, Any], where: str) -> Any:
    """The frozen dataclass `kind` with `kwargs` in place of its defaults.

    Raises:
      ValueError: a key is unknown or its value of the wrong type; names it as `where`.KEY.
    """
    hints: dict[str, Any] = typing.get_type_hints(kind)
    values: dict[str, Any] = {}
    for key, value in kwargs.items():
        if key not in hints:
            near = difflib.get_close_matches(str(key), list(hints), 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(hints) or 'none'}"
            raise ValueError(f"{where}.{key} is not a parameter; {hint}")
        if dataclasses.is_dataclass(hints[key]) and isinstance(value, Mapping):
            values[key] = build_parameters(hints[key], value, f"{where}.{key}")
            continue
        allowed: Any = {float: (int, float), tuple[float, ...]: (list, tuple)}.get(hints[key], hints[key])
        if not isinstance(value, allowed) or isinstance(value, bool):
            raise ValueError(f"{where}.{key} is {value!r} ({type(value).__name__}); expected {hints[key]}")
        if key in ("train_size", "test_size", "documents") and value < 1:
            raise ValueError(f"{where}.{key} is {value}; expected at least 1")
        if key == "seed" and value < 0:
            raise ValueError(f"{where}.{key} is {value}; expected 0 or more")
        values[key] = value
    return kind(**values)


def _decoded(record: Mapping[str, bytes]) -> dict[str, str]:
    return {key: value.decode("utf-8") for key, value in record.items()}
