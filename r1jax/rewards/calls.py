"""One reward function's work on one batch: in a thread, or in a process of its own that can be killed."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from r1jax.rewards.functions import Reward
from r1jax.rewards.worker_process import call
from r1jax.rewards.workers import WorkerPool

FAILURES = ("errors", "timeouts", "crashes", "not_finite")
CALL = "r1jax.rewards.worker_process:call_reward"
KILL_SLACK_S = 5.0  # past the time limit, for a process to be killed and to say so
_STATUS = {"timeout": "timeouts", "crashed": "crashes", "error": "errors"}


class Failure(NamedTuple):
    """What went wrong with some completions of a call."""

    kind: str  # one of FAILURES
    rows: list[int]  # of the call's own completions
    why: str


class Call:
    """A call under way. Its thread is a daemon: one that hangs is left behind, for a thread cannot be killed.

    Args:
      reward: whose function is called.
      rows: indices in the batch of the completions that it is called with.
      arguments: by keyword.
      process: the pool of one worker in which to call it; None: in the thread.
      timeout_s: seconds.
    """

    def __init__(
        self, reward: Reward, rows: list[int], arguments: dict[str, Any], process: WorkerPool | None, timeout_s: float
    ):
        self.reward, self.rows = reward, rows
        self.reported: dict[str, float] = {}
        self.seconds = 0.0
        self._process, self._timeout_s = process, timeout_s
        self._returned: Any = None
        self._failure: tuple[str, str] | None = None
        self._done = threading.Event()
        self._began = time.monotonic()
        if "report" in reward.parameters.named and process is None:
            arguments = {"report": self._report, **arguments}
        self.thread = threading.Thread(
            target=self._run, args=(arguments,), name=f"r1jax-reward-{reward.name}", daemon=True
        )

    def start(self) -> Call:
        self.thread.start()
        return self

    def give_up(self, why: str) -> Call:
        """Instead of `start`: it is out of time before it has begun."""
        self._failure = ("timeouts", why)
        self._done.set()
        return self

    def wait(self) -> bool:
        """Waits until it is done or its time is over; whether it is done."""
        limit = self._timeout_s + (0.0 if self._process is None else KILL_SLACK_S)
        return self._done.wait(max(0.0, self._began + limit - time.monotonic()))

    def values(self, on_error: float) -> tuple[list[float | None], list[Failure]]:
        """A finite number or None for each of its completions, and what went wrong."""
        n = len(self.rows)
        everything = list(range(n))
        if not self._done.is_set():
            why = f"no result within {self._timeout_s:g} s"
            return [on_error] * n, [Failure("timeouts", everything, why)]
        if self._failure is not None:
            return [on_error] * n, [Failure(self._failure[0], everything, self._failure[1])]
        try:
            values = _numbers(self._returned, n)
        except Exception as error:  # whatever a user's function returns
            return [on_error] * n, [Failure("errors", everything, f"{type(error).__name__}: {error}")]
        # Past float32 a reward would be infinite once stored.
        bad = [i for i, v in enumerate(values) if v is not None and not abs(v) <= float(np.finfo(np.float32).max)]
        if not bad:
            return values, []
        why = f"returned {values[bad[0]]}"
        for i in bad:
            values[i] = on_error
        return values, [Failure("not_finite", bad, why)]

    def _report(self, name: str, value: float) -> None:
        self.reported[name] = float(value)

    def _run(self, arguments: dict[str, Any]) -> None:
        try:
            if self._process is None:
                self._returned = call(self.reward.function, arguments)
            else:
                self._call_in_process(self._process, arguments)
        except BaseException as error:  # SystemExit as well: the run goes on
            self._failure = ("errors", f"{type(error).__name__}: {error}")
        self.seconds = time.monotonic() - self._began
        self._done.set()

    def _call_in_process(self, process: WorkerPool, arguments: dict[str, Any]) -> None:
        outcome = process.map(CALL, [(self.reward.spec.fn, as_json(arguments))])[0]
        if outcome.status == "ok":
            self._returned = outcome.value
        else:
            self._failure = (_STATUS[outcome.status], outcome.message)


def as_json(arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments with token ids as plain lists, which JSON can hold."""
    ids = arguments.get("completion_ids")
    return arguments if ids is None else arguments | {"completion_ids": [[int(token) for token in row] for row in ids]}


def _numbers(returned: Sequence[Any], n: int) -> list[float | None]:
    returned = list(returned)
    if len(returned) != n:
        raise ValueError(f"returned {len(returned)} values for {n} completions")
    return [None if value is None else float(value) for value in returned]
