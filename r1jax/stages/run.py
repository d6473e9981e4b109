"""A stage's run: the folder, the log, the checkpoints and the progress bar that SFT and RL share.

The order of writes makes a killed run resume to the same numbers: a step's metrics are logged, then its checkpoint
saved; on resume the log is cut back to the checkpoint's step.
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from r1jax.config import RlStage, SftStage
from r1jax.data.tokenizer import FILE as TOKENIZER
from r1jax.data.tokenizer import Tokenizer
from r1jax.stages.evaluate import table
from r1jax.stages.workdir import EVALUATIONS, open_workdir, write_result
from r1jax.training.checkpoint import Checkpoints
from r1jax.training.metrics import RunLog, append_jsonl, progress, show, truncate_jsonl
from r1jax.types import PyTree

SHOWN = {
    "reward": "reward/mean",
    "acc": "reward/accuracy/mean",
    "format": "reward/format/mean",
    "loss": "loss",
    "len": "completion/mean_length",
    "kl": "policy/kl",
    "tok/s": "update/tokens_per_s",
}


class Run:
    """One stage in one workdir. Made by `open`; a context manager, so that its files and processes are closed."""

    def __init__(self, config: SftStage | RlStage, workdir: str):
        self.workdir, self._config = workdir, config
        self._closing = contextlib.ExitStack()
        self.result = open_workdir(workdir, config)
        self._name = Path(workdir).name
        if self.result is not None:
            self.say(f"{self._name}: finished already; its result stands in {workdir}")
            return
        self._checkpoints = Checkpoints(workdir, keep=config.checkpoint.keep)
        self._closing.callback(self._checkpoints.close)
        self._done = self._checkpoints.latest() or 0
        self._log = RunLog(workdir, resume_step=self._done)
        self._closing.callback(self._log.close)
        truncate_jsonl(Path(workdir) / EVALUATIONS, self._done)

    @classmethod
    def open(cls, config: SftStage | RlStage, workdir: str) -> Run:
        return cls(config, workdir)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *exc: Any) -> None:
        self._closing.close()

    def enter(self, resource: Any) -> Any:
        """Closes `resource` when the run closes."""
        self._closing.callback(resource.close)
        return resource

    def say(self, message: str) -> None:
        print(message, file=sys.stderr, flush=True)

    def has_tokenizer(self) -> bool:
        return (Path(self.workdir) / TOKENIZER).exists()

    def take_tokenizer(self, tokenizer: Tokenizer) -> Tokenizer:
        """Keeps the tokenizer in the workdir, so that the checkpoint opens alone."""
        tokenizer.save(self.workdir)
        if tokenizer.vocab_size > self._config.policy.vocab_size:
            raise ValueError(
                f"policy.vocab_size is {self._config.policy.vocab_size}; the tokenizer has {tokenizer.vocab_size} "
                "pieces: raise the first, or lower tokenizer.vocab_size"
            )
        return tokenizer

    def restore(self, abstract: PyTree) -> tuple[PyTree, dict[str, Any]]:
        """The newest checkpoint's state and host values; (None, {}) at the start."""
        if not self._done:
            return None, {}
        self.say(f"{self._name}: resuming after step {self._done}")
        return self._checkpoints.restore(self._done, abstract)

    def steps(self, total: int) -> Iterator[int]:
        """The steps still to do, counted from 1, under a progress bar."""
        with progress(total, self._done, self._name) as self._bar:
            yield from range(self._done + 1, total + 1)

    def log(self, step: int, metrics: Mapping[str, float], samples: list[dict[str, Any]]) -> None:
        """Records a step. A loss or gradient that is not finite stops the run here, before it is saved.

        Raises:
          FloatingPointError: names the step and the figure.
        """
        self._log.write(step, metrics)
        self._log.samples(step, samples)
        show(self._bar, {label: metrics[key] for label, key in SHOWN.items() if key in metrics})
        for key in ("loss", "grad_norm"):
            if not math.isfinite(metrics[key]):
                raise FloatingPointError(
                    f"{key} is {metrics[key]} at step {step} of {self.workdir}; the last good checkpoint is kept. "
                    "Lower optimizer.lr or clip_norm, or look at that step's samples"
                )

    def evaluate(self, step: int, evaluate: Callable[..., dict[str, dict[str, Any]]]) -> None:
        """Evaluates every so many steps, and records it."""
        how = self._config.evaluation
        if how.every and step % how.every == 0 and step < self._config.steps:
            self._record(step, evaluate(samples=how.every_samples, limit=how.every_limit, progress=False))

    def save(self, step: int, state: PyTree, host: dict[str, Any]) -> None:
        """Saves every so many steps, and the last."""
        if step % self._config.checkpoint.every == 0 or step == self._config.steps:
            self._checkpoints.save(step, state, host)

    def finish(self, result: dict[str, dict[str, Any]]) -> None:
        """Records the final evaluation, once the last checkpoint is whole on disk."""
        self._checkpoints.wait()
        self._record(self._config.steps, result)
        write_result(self.workdir, result)
        self.result = result
        self.say("\n" + table({self._name: result}))

    def result_or_fail(self) -> dict[str, Any]:
        assert self.result is not None, "a stage that ended has a result"
        return self.result

    def _record(self, step: int, result: dict[str, dict[str, Any]]) -> None:
        rows = [{"step": step, "task": task} | figures for task, figures in result.items()]
        append_jsonl(Path(self.workdir) / EVALUATIONS, rows)
