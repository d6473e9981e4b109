"""Reward functions by import path, weighed and summed, none of which can stop or poison a run.

A function has the signature that TRL users know: called by keyword with `prompts`, `completions`,
`completion_ids` and the examples' columns, as far as it names them (all of them if it takes `**kwargs`); it
returns a number for each completion, or None for 'not mine'; it may be async. Besides, one that names them
receives `pool` (a `WorkerPool`), `report` (a callable `(name, value)` that adds a metric) and `budget_s`.
"""

from __future__ import annotations

import asyncio
import difflib
import importlib
import inspect
import logging
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from r1jax.config import RewardsConfig, RewardSpec
from r1jax.rewards.answers import COMPARISON_MEMORY_MIB, COMPARISON_TIMEOUT_S
from r1jax.rewards.workers import WorkerPool

BATCH_ARGUMENTS = ("prompts", "completions", "completion_ids")
SERVICE_ARGUMENTS = ("pool", "report", "budget_s")
BUDGET_SHARE = 0.8  # of the time limit, for what a function does in the pool, so that it can still return
LOGGED_CHARACTERS = 300

log = logging.getLogger(__name__)


class RewardBatch(NamedTuple):
    """Rewards of B completions."""

    total_B: np.ndarray  # float32, the weighted sum
    by_name: dict[str, np.ndarray]  # float32 [B] each, unweighted; 0 where the function said 'not mine'
    mine: dict[str, np.ndarray]  # bool [B] each; False where the function said 'not mine'
    metrics: dict[str, float]


class _Reward(NamedTuple):
    name: str
    function: Callable[..., Any]
    weight: float
    kwargs: dict[str, Any]
    named: tuple[str, ...]  # parameters it names
    required: tuple[str, ...]  # of those, without a default
    takes_all: bool


class Rewards:
    """Reward functions with their weights; made by `load_rewards`. Close it to end the grading processes.

    A function that exceeds `grading.timeout_s` is abandoned: a thread cannot be killed, so it may go on
    using the processor, and the function is not called again until it has returned. What may hang on
    untrusted text should therefore run in the pool, whose processes can be killed.
    """

    def __init__(self, rewards: Sequence[_Reward], grading: RewardsConfig):
        self._rewards, self._grading = tuple(rewards), grading
        self.pool = WorkerPool(grading.workers, min(COMPARISON_TIMEOUT_S, grading.timeout_s), COMPARISON_MEMORY_MIB)
        self._abandoned: dict[str, threading.Thread] = {}

    def check(self, columns: Iterable[str]) -> None:
        """Raise ValueError if a function requires a parameter that neither columns nor its kwargs supply."""
        known = {*BATCH_ARGUMENTS, *columns}
        for reward in self._rewards:
            for parameter in reward.required:
                if parameter not in known and parameter not in SERVICE_ARGUMENTS and parameter not in reward.kwargs:
                    raise ValueError(
                        f"config.rewards.{reward.name}.fn requires the parameter {parameter!r}, which no column "
                        f"supplies; expected one of {', '.join(sorted(known))}{_hint(parameter, known)}; "
                        f"add the column to the task's records, or config.rewards.{reward.name}.kwargs.{parameter}"
                    )

    def __call__(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        columns: Mapping[str, Sequence[Any]],
        completion_ids: Sequence[Any],
    ) -> RewardBatch:
        """Score B completions with every function, all at the same time.

        Args:
          prompts, completions, completion_ids: B of each.
          columns: the examples' other fields, B values each.

        Raises:
          ValueError: the batch is empty or a column has another length.
        """
        batch = {**columns, "prompts": prompts, "completions": completions, "completion_ids": completion_ids}
        for name, values in batch.items():
            if len(values) != len(completions) or not len(values):
                raise ValueError(
                    f"rewards got {len(values)} of {name!r} for {len(completions)} completions; "
                    "expected one for each of at least one completion"
                )
        calls = [self._start(reward, batch) for reward in self._rewards]
        deadline = time.monotonic() + self._grading.timeout_s
        by_name: dict[str, np.ndarray] = {}
        mine: dict[str, np.ndarray] = {}
        metrics: dict[str, float] = {}
        total_B = np.zeros(len(completions), np.float32)
        for call in calls:
            name = call.reward.name
            by_name[name], mine[name] = self._finish(call, completions, deadline, metrics)
            total_B += np.float32(call.reward.weight) * by_name[name]
        metrics |= {"reward/mean": float(total_B.mean()), "reward/std": float(total_B.std())}
        return RewardBatch(total_B, by_name, mine, metrics)

    def close(self) -> None:
        """End the grading processes."""
        self.pool.close()

    def __enter__(self) -> Rewards:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _start(self, reward: _Reward, batch: Mapping[str, Any]) -> _Call:
        """Call the function in a thread of its own, unless an abandoned call of it still runs."""
        call = _Call(reward)
        abandoned = self._abandoned.pop(reward.name, None)
        if abandoned is not None and abandoned.is_alive():
            self._abandoned[reward.name] = call.thread = abandoned
            return call
        services = {
            "pool": self.pool,
            "report": call.report,
            "budget_s": BUDGET_SHARE * self._grading.timeout_s,
        }
        # Copies, so that a function that changes its lists changes nobody else's.
        chosen = {k: list(v) for k, v in batch.items() if reward.takes_all or k in reward.named}
        arguments = {**chosen, **{k: v for k, v in services.items() if k in reward.named}, **reward.kwargs}
        call.thread = threading.Thread(
            target=call.run, args=(arguments,), name=f"r1jax-reward-{reward.name}", daemon=True
        )
        call.thread.start()
        return call

    def _finish(
        self, call: _Call, completions: Sequence[str], deadline: float, metrics: dict[str, float]
    ) -> tuple[np.ndarray, np.ndarray]:
        """A call's rewards and which completions it took as its own; adds its metrics, logs its failures."""
        call.thread.join(max(0.0, deadline - time.monotonic()))
        name, on_error = call.reward.name, self._grading.on_error
        values, failures = self._values(call, completions)
        for kind, (count, first, why) in failures.items():
            log.warning(
                "config.rewards.%s.fn: %s; %d of %d completions scored %g; the first: %r",
                name, why, count, len(completions), on_error, completions[first][:LOGGED_CHARACTERS],
            )  # fmt: skip
            metrics[f"reward/{name}/{kind}"] = float(count)
        for kind in ("errors", "timeouts", "not_finite"):
            metrics.setdefault(f"reward/{name}/{kind}", 0.0)
        for key, value in call.reported.items():
            metrics[f"reward/{name}/{key}"] = value
        mine_B = np.array([value is not None for value in values])
        reward_B = np.array([0.0 if value is None else value for value in values], np.float32)
        if mine_B.any():
            metrics[f"reward/{name}/mean"] = float(reward_B[mine_B].mean())
        return reward_B, mine_B

    def _values(
        self, call: _Call, completions: Sequence[str]
    ) -> tuple[list[float | None], dict[str, tuple[int, int, str]]]:
        """Finite numbers or None, and by kind of failure: how many, the first's index, and why."""
        n, on_error = len(completions), self._grading.on_error
        if not call.done.is_set():
            self._abandoned[call.reward.name] = call.thread
            return [on_error] * n, {"timeouts": (n, 0, f"no result within {self._grading.timeout_s:g} s")}
        try:
            if call.error is not None:
                raise call.error
            returned = list(call.returned)
            if len(returned) != n:
                raise ValueError(f"returned {len(returned)} values for {n} completions")
            values = [None if value is None else float(value) for value in returned]
        except Exception as error:  # whatever a user's function raises or returns
            return [on_error] * n, {"errors": (n, 0, f"{type(error).__name__}: {error}")}
        # Past float32 a reward would be infinite once stored.
        bad = [i for i, v in enumerate(values) if v is not None and not abs(v) <= float(np.finfo(np.float32).max)]
        if not bad:
            return values, {}
        why = f"returned {values[bad[0]]}"
        for i in bad:
            values[i] = on_error
        return values, {"not_finite": (len(bad), bad[0], why)}


class _Call:
    """One function's work on one batch."""

    def __init__(self, reward: _Reward):
        self.reward = reward
        self.done = threading.Event()
        self.returned: Any = None
        self.error: BaseException | None = None
        self.reported: dict[str, float] = {}
        self.thread: threading.Thread

    def report(self, name: str, value: float) -> None:
        self.reported[name] = float(value)

    def run(self, arguments: dict[str, Any]) -> None:
        try:
            result = self.reward.function(**arguments)
            self.returned = asyncio.run(_wait_for(result)) if inspect.isawaitable(result) else result
        except BaseException as error:  # SystemExit as well: the run goes on
            self.error = error if isinstance(error, Exception) else RuntimeError(f"{type(error).__name__}: {error}")
        self.done.set()


async def _wait_for(awaitable: Any) -> Any:
    return await awaitable


def load_rewards(specs: Mapping[str, RewardSpec], grading: RewardsConfig) -> Rewards:
    """The functions that a config names, imported and checked.

    Args:
      specs: by name; `fn` is 'package.module:function', the working directory included.
      grading: time limit, score on error, number of grading processes.

    Raises:
      ValueError: nothing is named, a path does not import, or a weight, limit or kwarg is wrong.
    """
    if not specs:
        raise ValueError("config.rewards is empty; expected at least one reward, NAME -> {fn, weight, kwargs}")
    limits = {"timeout_s": grading.timeout_s, "workers": grading.workers}
    for field, value in limits.items():
        if not 0 < value < math.inf:
            raise ValueError(f"config.grading.{field} is {value}; expected a positive, finite number")
    if not math.isfinite(grading.on_error):
        raise ValueError(f"config.grading.on_error is {grading.on_error}; expected a finite number, such as 0.0")
    return Rewards([_load(name, spec) for name, spec in specs.items()], grading)


def _load(name: str, spec: RewardSpec) -> _Reward:
    if not math.isfinite(spec.weight):
        raise ValueError(f"config.rewards.{name}.weight is {spec.weight}; expected a finite number")
    function = _import(f"config.rewards.{name}.fn", spec.fn)
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # a builtin without a signature takes what it is given
        return _Reward(name, function, spec.weight, dict(spec.kwargs), (), (), True)
    by_keyword = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_ONLY and p.default is p.empty]
    if positional:
        raise ValueError(
            f"config.rewards.{name}.fn is {spec.fn!r}, whose parameter {positional[0]!r} is positional-only; "
            "rewards are called by keyword; drop the '/' from its signature"
        )
    named = tuple(p.name for p in by_keyword)
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    for key in spec.kwargs:
        if key not in named and not takes_all:
            raise ValueError(
                f"config.rewards.{name}.kwargs.{key} is not a parameter of {spec.fn!r}; "
                f"expected one of {', '.join(named)}{_hint(key, named)}"
            )
    required = tuple(p.name for p in by_keyword if p.default is p.empty)
    return _Reward(name, function, spec.weight, dict(spec.kwargs), named, required, takes_all)


def _import(field: str, path: str) -> Callable[..., Any]:
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
            f"{field} is {path!r}, but {module_name} has no {attribute!r}{_hint(attribute, names)}; "
            f"it has {', '.join(names) or 'no functions'}"
        )
    if not callable(function):
        raise ValueError(f"{field} is {path!r}, a {type(function).__name__}; expected a function, such as {names}")
    return function


def _hint(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), 1)
    return f"; did you mean {near[0]!r}?" if near else ""
