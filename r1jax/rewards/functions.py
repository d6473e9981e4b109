"""Reward functions by import path: found, their signatures read, called by keyword.

A function has the signature that TRL users know: called with `prompts`, `completions`, `completion_ids` and the
examples' columns, as far as it names them (all of them if it takes `**kwargs`); it returns a number for each
completion, or None for 'not mine'; it may be async. Besides, one that names them receives services: `pool` (a
`WorkerPool`), `report` (a callable `(name, value)` that adds a metric), `budget_s`, and what the stage offers.

A function `NAME` may have a companion `check_NAME` beside it, which is called before the run with the records'
columns (and kwargs and `pool`), as far as it names them. It returns warnings, or raises ValueError to refuse.
"""

from __future__ import annotations

import difflib
import fnmatch
import importlib
import inspect
import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

from r1jax.config import RewardSpec

BATCH_ARGUMENTS = ("prompts", "completions", "completion_ids")
SERVICE_ARGUMENTS = ("pool", "report", "budget_s")

ServiceMakers = Mapping[str, Callable[[Mapping[str, Any]], Any]]  # parameter's name -> what makes it from the kwargs


class Parameters(NamedTuple):
    """What a function takes by keyword."""

    named: tuple[str, ...]
    required: tuple[str, ...]  # of those, without a default
    takes_all: bool

    def choose(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Of the arguments, those that it names, or all."""
        return {key: value for key, value in arguments.items() if self.takes_all or key in self.named}


class Reward(NamedTuple):
    """A function that a config names, and what it is given beside the batch."""

    name: str
    spec: RewardSpec
    function: Callable[..., Any]
    parameters: Parameters
    services: dict[str, Any]  # made by the stage
    check: Callable[..., Any] | None  # its companion

    def applies(self, task: str) -> bool:
        return not self.spec.tasks or any(fnmatch.fnmatchcase(task, pattern) for pattern in self.spec.tasks)

    def is_on(self, step: int | None) -> bool:
        """Whether it counts at the step, from 1; None stands outside of training."""
        return step is None or (self.spec.start <= step and (not self.spec.stop or step <= self.spec.stop))

    def check_columns(self, columns: Iterable[str]) -> None:
        """Raises ValueError if it requires a parameter that no column, service or kwarg supplies."""
        known = {*BATCH_ARGUMENTS, *columns}
        services = {*self.services, *(() if self.spec.process else SERVICE_ARGUMENTS)}
        for parameter in self.parameters.required:
            if parameter in known or parameter in services or parameter in self.spec.kwargs:
                continue
            remedy = f"add the column to the task's records, or config.rewards.{self.name}.kwargs.{parameter}"
            if self.spec.process and parameter in SERVICE_ARGUMENTS:
                remedy = f"a function in a process of its own has no services: drop config.rewards.{self.name}.process"
            raise ValueError(
                f"config.rewards.{self.name}.fn requires the parameter {parameter!r}, which no column supplies; "
                f"expected one of {', '.join(sorted(known))}{hint(parameter, known)}; {remedy}"
            )

    def warnings(self, columns: Mapping[str, Sequence[Any]], pool: Any) -> list[str]:
        """What its companion says of the records that it applies to. Raises ValueError where that refuses them."""
        if self.check is None:
            return []
        rows = [i for i, task in enumerate(columns["task"]) if self.applies(task)]
        own = {key: [values[i] for i in rows] for key, values in columns.items()}
        arguments = _parameters(self.check).choose({**own, "pool": pool, **self.spec.kwargs})
        return [f"config.rewards.{self.name}: {message}" for message in self.check(**arguments)] if rows else []


def load_function(name: str, spec: RewardSpec, makers: ServiceMakers) -> Reward:
    """The reward that a config calls `name`.

    Raises:
      ValueError: the path does not import, or a weight, step or kwarg is wrong.
    """
    field = f"config.rewards.{name}"
    if not math.isfinite(spec.weight):
        raise ValueError(f"{field}.weight is {spec.weight}; expected a finite number")
    if spec.start < 1 or spec.stop < 0 or 0 < spec.stop < spec.start:
        raise ValueError(
            f"{field}.start is {spec.start} and stop {spec.stop}; expected a first step of at least 1 and a last "
            "one not before it, or 0 for no last one"
        )
    module, function = _import(f"{field}.fn", spec.fn)
    parameters = _parameters(function, f"{field}.fn is {spec.fn!r}")
    for key in spec.kwargs:
        if key not in parameters.named and not parameters.takes_all:
            raise ValueError(
                f"{field}.kwargs.{key} is not a parameter of {spec.fn!r}; "
                f"expected one of {', '.join(parameters.named)}{hint(key, parameters.named)}"
            )
    wanted = [] if spec.process else [key for key in makers if key in parameters.named and key not in spec.kwargs]
    services = {key: makers[key](spec.kwargs) for key in wanted}
    companion = getattr(module, f"check_{spec.fn.partition(':')[2]}", None)
    return Reward(name, spec, function, parameters, services, companion)


def _parameters(function: Callable[..., Any], what: str = "a check") -> Parameters:
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # a builtin without a signature takes what it is given
        return Parameters((), (), True)
    by_keyword = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_ONLY and p.default is p.empty]
    if positional:
        raise ValueError(
            f"{what}, whose parameter {positional[0]!r} is positional-only; "
            "rewards are called by keyword; drop the '/' from its signature"
        )
    return Parameters(
        named=tuple(p.name for p in by_keyword),
        required=tuple(p.name for p in by_keyword if p.default is p.empty),
        takes_all=any(p.kind is p.VAR_KEYWORD for p in parameters),
    )


def _import(field: str, path: str) -> tuple[ModuleType, Callable[..., Any]]:
    module_name, colon, attribute = path.partition(":")
    if not (module_name and colon and attribute):
        raise ValueError(f"{field} is {path!r}; expected 'package.module:function'")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())  # a researcher's my_module.py lies where the run is started
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{field} is {path!r}, but there is no module {error.name!r}; "
            f"install it, or put {error.name}.py in {os.getcwd()}"
        ) from error
    except Exception as error:  # whatever a user's module raises as it is imported
        raise ValueError(
            f"{field} is {path!r}, but importing {module_name!r} raised {type(error).__name__}: {error}; fix the module"
        ) from error
    function = getattr(module, attribute, None)
    names = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
    if not hasattr(module, attribute):
        raise ValueError(
            f"{field} is {path!r}, but {module_name} has no {attribute!r}{hint(attribute, names)}; "
            f"it has {', '.join(names) or 'no functions'}"
        )
    if not callable(function):
        raise ValueError(f"{field} is {path!r}, a {type(function).__name__}; expected a function, such as {names}")
    return module, function


def hint(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), 1)
    return f"; did you mean {near[0]!r}?" if near else ""
