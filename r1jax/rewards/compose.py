"""Reward functions weighed and summed, none of which can stop or poison a run.

How a function is written is told in `functions.py`, how its call is guarded in `calls.py`.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from r1jax.config import RewardsConfig, RewardSpec
from r1jax.rewards.answers import COMPARISON_MEMORY_MIB, COMPARISON_TIMEOUT_S
from r1jax.rewards.calls import FAILURES, Call
from r1jax.rewards.functions import Reward, ServiceMakers, hint, load_function
from r1jax.rewards.workers import WorkerPool

BUDGET_SHARE = 0.8  # of the time limit, for what a function does in the pool, so that it can still return
PROCESS_MEMORY_MIB = 16_384  # address space of a reward's own process; libraries reserve far more than they use
LOGGED_CHARACTERS = 300
IMPORTS = "r1jax.rewards.worker_process:imports"

log = logging.getLogger(__name__)


class RewardBatch(NamedTuple):
    """Rewards of B completions."""

    total_B: np.ndarray  # float32, the weighted sum
    by_name: dict[str, np.ndarray]  # float32 [B] each, unweighted; 0 where the function said 'not mine'
    mine: dict[str, np.ndarray]  # bool [B] each; False where it was not asked or said 'not mine'
    weights: dict[str, float]
    metrics: dict[str, float]
    seconds: float  # of the slowest function


class Pending:
    """Calls under way on one batch; made by `Rewards.start`."""

    def __init__(self, calls: Sequence[Call], completions: Sequence[str], grading: RewardsConfig):
        self._calls, self._completions, self._grading = calls, completions, grading

    def result(self) -> RewardBatch:
        """Waits for every call, at most for the time limit; logs failures."""
        n = len(self._completions)
        total_B = np.zeros(n, np.float32)
        by_name: dict[str, np.ndarray] = {}
        mine: dict[str, np.ndarray] = {}
        metrics: dict[str, float] = {}
        weights = {call.reward.name: call.reward.spec.weight for call in self._calls}
        for call in self._calls:
            name = call.reward.name
            by_name[name], mine[name] = self._finish(call, metrics)
            total_B += np.float32(weights[name]) * by_name[name]
        scored_B = np.any(list(mine.values()), axis=0) if mine else np.zeros(n, bool)
        metrics |= {
            "reward/mean": float(total_B.mean()),
            "reward/std": float(total_B.std()),
            "reward/frac_unscored": float(1.0 - scored_B.mean()),
        }
        seconds = max((call.seconds for call in self._calls), default=0.0)
        return RewardBatch(total_B, by_name, mine, weights, metrics, seconds)

    def _finish(self, call: Call, metrics: dict[str, float]) -> tuple[np.ndarray, np.ndarray]:
        """A call's rewards and which completions it took as its own; adds its metrics, logs its failures."""
        call.wait()
        name, on_error = call.reward.name, self._grading.on_error
        values, failures = call.values(on_error)
        counts = dict.fromkeys(FAILURES, 0)
        for kind, rows, why in failures:
            counts[kind] = len(rows)
            first = self._completions[call.rows[rows[0]]][:LOGGED_CHARACTERS]
            log.warning(
                "config.rewards.%s.fn: %s: %s; %d of %d completions scored %g; the first: %r",
                name, kind, why, len(rows), len(values), on_error, first,
            )  # fmt: skip
        metrics |= {f"reward/{name}/{kind}": float(count) for kind, count in counts.items()}
        metrics |= {f"reward/{name}/{key}": value for key, value in call.reported.items()}
        metrics[f"time/reward/{name}_s"] = call.seconds
        mine_B, reward_B = np.zeros(len(self._completions), bool), np.zeros(len(self._completions), np.float32)
        mine_B[call.rows] = [value is not None for value in values]
        reward_B[call.rows] = [0.0 if value is None else value for value in values]
        if mine_B.any():
            metrics[f"reward/{name}/mean"] = float(reward_B[mine_B].mean())
        return reward_B, mine_B


class Rewards:
    """Reward functions with their weights; made by `load_rewards`. Close it to end the grading processes.

    A function that exceeds `grading.timeout_s` is abandoned: a thread cannot be killed, so it may go on
    using the processor, and the function is not called again until it has returned. What may hang or die on
    untrusted text should therefore run in the pool, or whole in a process of its own (`process` in its
    spec); both can be killed.
    """

    def __init__(self, rewards: Sequence[Reward], grading: RewardsConfig):
        self._rewards, self._grading = tuple(rewards), grading
        self._closing = contextlib.ExitStack()
        limit_s = min(COMPARISON_TIMEOUT_S, grading.timeout_s)
        self.pool = self._closing.enter_context(WorkerPool(grading.workers, limit_s, COMPARISON_MEMORY_MIB))
        self._processes = {
            reward.name: self._closing.enter_context(WorkerPool(1, grading.timeout_s, PROCESS_MEMORY_MIB))
            for reward in self._rewards
            if reward.spec.process
        }
        self._running: dict[str, Call] = {}  # of each reward, the last call
        try:
            for name, process in self._processes.items():
                _import_there(name, next(r.spec.fn for r in self._rewards if r.name == name), process)
        except Exception:
            self.close()
            raise

    def check(self, columns: Mapping[str, Sequence[Any]]) -> list[str]:
        """What the functions have to say of a source's records before the run.

        Args:
          columns: the records' fields, 'task' among them; a value for each record.

        Returns:
          warnings.

        Raises:
          ValueError: a function lacks a parameter, or refuses the records or this machine.
        """
        tasks = set(columns["task"])
        warnings = []
        for reward in self._rewards:
            if any(map(reward.applies, tasks)):
                reward.check_columns(columns)
                warnings += reward.warnings(columns, self.pool)
        return warnings

    def check_routes(self, tasks: Iterable[str]) -> list[str]:
        """Warns of tasks that no reward applies to. Raises ValueError for a pattern that fits no task."""
        tasks = sorted(set(tasks))
        for reward in self._rewards:
            if not any(map(reward.applies, tasks)):
                raise ValueError(
                    f"config.rewards.{reward.name}.tasks is {list(reward.spec.tasks)}, which fits none of the run's "
                    f"tasks; expected one of {', '.join(tasks)}{hint(reward.spec.tasks[0], tasks)}"
                )
        lost = [task for task in tasks if not any(reward.applies(task) for reward in self._rewards)]
        return [f"no reward applies to the task {task!r}: its completions score 0 and teach nothing" for task in lost]

    def __call__(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        columns: Mapping[str, Sequence[Any]],
        completion_ids: Sequence[Any],
    ) -> RewardBatch:
        """Score B completions with every function, whatever its schedule: `start` outside of training, and wait."""
        return self.start(prompts, completions, columns, completion_ids, None).result()

    def start(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        columns: Mapping[str, Sequence[Any]],
        completion_ids: Sequence[Any],
        step: int | None,
    ) -> Pending:
        """Begin to score B completions with the functions that are on at the step, all at the same time.

        Args:
          prompts, completions, completion_ids: B of each.
          columns: the examples' other fields, B values each; 'task' where a reward applies to some tasks only.
          step: of the training, from 1; None outside of one, where every function is on.

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
        calls = []
        for reward in self._rewards:
            rows = [i for i in range(len(completions)) if not reward.spec.tasks or reward.applies(columns["task"][i])]
            if rows and reward.is_on(step):
                calls.append(self._start(reward, rows, batch))
        return Pending(calls, completions, self._grading)

    def close(self) -> None:
        """End the grading processes."""
        self._closing.close()

    def __enter__(self) -> Rewards:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _start(self, reward: Reward, rows: list[int], batch: Mapping[str, Sequence[Any]]) -> Call:
        """Call the function with its rows of the batch, unless a call of it still runs: that one is waited for."""
        process = self._processes.get(reward.name)
        # Copies, so that a function that changes its lists changes nobody else's.
        own = reward.parameters.choose({key: [values[i] for i in rows] for key, values in batch.items()})
        if process is None:
            offered = {"pool": self.pool, "budget_s": BUDGET_SHARE * self._grading.timeout_s, **reward.services}
            own |= {key: value for key, value in offered.items() if key in reward.parameters.named}
        call = Call(reward, rows, own | reward.spec.kwargs, process, self._grading.timeout_s)
        before = self._running.get(reward.name)
        if before is not None and before.thread.is_alive():
            return call.give_up("its call of an earlier batch still runs")
        self._running[reward.name] = call
        return call.start()


def _import_there(name: str, path: str, process: WorkerPool) -> None:
    """Start the process and import the function in it, so that no call has to wait for that."""
    outcome = process.map(IMPORTS, [(path,)])[0]
    if outcome.status != "ok":
        raise ValueError(
            f"config.rewards.{name}.fn is {path!r}, which cannot be imported in a process of its own: "
            f"{outcome.message or outcome.status}; mend the module, or drop config.rewards.{name}.process"
        )


def load_rewards(
    specs: Mapping[str, RewardSpec], grading: RewardsConfig, services: ServiceMakers | None = None
) -> Rewards:
    """The functions that a config names, imported and checked.

    Args:
      specs: by name; `fn` is 'package.module:function', the working directory included.
      grading: time limit, score on error, number of grading processes.
      services: what the stage offers to functions, by the parameter's name: called once with the kwargs of each
        reward whose function names that parameter, it makes what the function then gets.

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
    return Rewards([load_function(name, spec, services or {}) for name, spec in specs.items()], grading)
