"""What a section refuses: each check names the field, what it got and what it expected."""

from __future__ import annotations

import difflib
import math
from typing import Any


def one_of(field: str, got: Any, expected: tuple) -> None:
    if got not in expected:
        near = difflib.get_close_matches(str(got), [str(e) for e in expected], 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{field} is {got!r}; expected one of {', '.join(map(repr, expected))}{hint}")


def at_least(least: int, section: str, values: Any, *fields: str, why: str = "") -> None:
    for field in fields:
        got = getattr(values, field)
        if not got >= least:  # also refuses NaN
            raise ValueError(f"{section}.{field} is {got!r}; expected at least {least}{why and ': ' + why}")


def sampling(section: str, temperature: float, top_p: float) -> None:
    if not 0 <= temperature < math.inf:
        raise ValueError(f"{section}.temperature is {temperature!r}; expected a number of 0 or more")
    if not 0 < top_p <= 1:
        raise ValueError(f"{section}.top_p is {top_p!r}; expected above 0 and at most 1 (1 keeps every token)")
