"""A stage's run: the folder, the log, the checkpoints and the progress bar that SFT and RL share.

The order of writes makes a killed run resume to the same numbers: a step's metrics are logged, then its evaluation
recorded, then its checkpoint saved; on resume the records are cut back to the checkpoint's step.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from jax.sharding import Mesh

from r1jax import processes
from r1jax.config import BatchConfig, ComparisonBatchConfig, RlStage, SftStage, SourceSpec, TrainedStage
from r1jax.data import templates
from r1jax.data.tokenizer import Tokenizer
from r1jax.mesh import batch_multiple, make_mesh
from r1jax.stages import workdir as folder
from r1jax.stages.evaluate import load_tasks
from r1jax.stages.tables import table
from r1jax.training.checkpoint import Checkpoints
from r1jax.training.compiles import Compiles
from r1jax.training.metrics import RunLog, append_jsonl, progress, show, truncate_jsonl
from r1jax.types import PyTree

SAMPLES = "samples:"  # before the folder, or the stage, whose dataset a source is
NO_FOLDERS: Mapping[str, str] = MappingProxyType({})  # a stage outside a pipeline knows no other by name
SHOWN = {
    "reward": "reward/mean",
    "acc": "reward/accuracy/mean",
    "format": "reward/format/mean",
    "ranked": "preference/accuracy",
    "loss": "loss",
    "len": "completion/mean_length",
    "kl": "policy/kl",
    "tok/s": "update/tokens_per_s",
}


def check_stage(config: SftStage | RlStage) -> Mesh:
    """What every stage that writes text refuses before any work; returns the mesh it runs on.

    Raises:
      ValueError: as `check_mesh`, or a held-out task is not known.
    """
    mesh = check_mesh(config)
    load_tasks(config.evaluation, config.data)
    return mesh


def check_mesh(config: TrainedStage) -> Mesh:
    """The mesh a stage runs on.

    Raises:
      ValueError: the template is not known, the mesh does not fit the devices, or the rows the mesh.
    """
    templates.check(config.template)
    mesh = make_mesh(config.mesh)
    check_rows(config.batch, mesh)
    return mesh


def check_rows(batch: BatchConfig | ComparisonBatchConfig, mesh: Mesh) -> None:
    """Refuses rows that do not divide over the mesh: whole rows over some axes, a row's tokens over another."""
    ways = batch_multiple(mesh)
    if batch.micro_rows % ways:
        raise ValueError(
            f"batch.micro_rows is {batch.micro_rows}; expected a multiple of the {ways} devices along the "
            "mesh's data, fsdp and expert: change it, or the mesh"
        )
    if batch.row_length % mesh.shape["context"]:
        raise ValueError(
            f"batch.row_length is {batch.row_length}; expected a multiple of mesh.context ({mesh.shape['context']}): "
            "change it, or the mesh"
        )


def locate(sources: Mapping[str, SourceSpec], folders: Mapping[str, str], *, awaited: bool) -> dict[str, SourceSpec]:
    """The sources by name, where 'samples:STAGE' stands for the dataset in the folder of a pipeline's stage.

    Args:
      folders: of a pipeline's stages, by name.
      awaited: those stages have not run yet; what they are to make is left out.
    """
    found = {}
    for name, spec in sources.items():
        stage = spec.name.removeprefix(SAMPLES)
        if not spec.name.startswith(SAMPLES) or stage not in folders:
            found[name] = spec
        elif not awaited:
            found[name] = dataclasses.replace(spec, name=f"{SAMPLES}{folders[stage]}")
    return found


class Run:
    """One stage in one workdir. A context manager, so that its files and processes are closed.

    Until `begin`, nothing is written: a run that is refused leaves the folder as it was.
    """

    def __init__(self, config: TrainedStage, workdir: str):
        self.workdir, self._config = workdir, config
        self._name = Path(workdir).resolve().name
        self._closing = contextlib.ExitStack()
        self._done = 0
        self._log: RunLog | None = None  # of the first process
        self._began, self._started_s = time.perf_counter(), 0.0
        self._compiles = self.enter(Compiles())
        self._resumes, self.result = folder.state(workdir, config)
        if self.result is not None:
            self.say(f"{self._name}: finished already; its result stands in {workdir}")

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *exc: Any) -> None:
        self._closing.close()

    def enter(self, resource: Any) -> Any:
        """Closes `resource` when the run closes."""
        self._closing.callback(resource.close)
        return resource

    def say(self, message: str) -> None:
        processes.say(message)

    def tokenizer(self, make: Callable[[], Tokenizer]) -> Tokenizer:
        """The workdir's own where the run resumes, else what `make` gives; the policy must have room for its pieces."""
        tokenizer = Tokenizer.load(self.workdir) if self._resumes else _same(make)
        if tokenizer.vocab_size > self._config.policy.vocab_size:
            raise ValueError(
                f"policy.vocab_size is {self._config.policy.vocab_size}; the tokenizer has {tokenizer.vocab_size} "
                "pieces: raise it to at least that"
            )
        return tokenizer

    def begin(
        self, tokenizer: Tokenizer, abstract: PyTree, fresh: Callable[[], PyTree]
    ) -> tuple[PyTree, dict[str, Any]]:
        """The newest checkpoint's state and host values, or (`fresh()`, {}). From here on the workdir is written to."""
        state, host = self._restored(abstract) if self._resumes else (None, {})
        if state is None:
            state = fresh()
        if not self._resumes:
            folder.begin(self.workdir, self._config, tokenizer)
            self._checkpoints = self.enter(Checkpoints(self.workdir, keep=self._config.checkpoint.keep))
        if processes.is_first():
            self._log = self.enter(RunLog(self.workdir, resume_step=self._done))
            # The last step's evaluation goes with the result, and there is none yet: a kill came between the two.
            recorded = min(self._done, self._config.steps - 1)
            truncate_jsonl(Path(self.workdir) / folder.EVALUATIONS, recorded)
        return state, host

    def _restored(self, abstract: PyTree) -> tuple[PyTree, dict[str, Any]]:
        self._checkpoints = self.enter(Checkpoints(self.workdir, keep=self._config.checkpoint.keep))
        self._done = processes.agreed(self._checkpoints.latest) or 0
        if not self._done:
            return None, {}
        self.say(f"{self._name}: resuming after step {self._done}")
        return self._checkpoints.restore(self._done, abstract)

    def steps(self) -> Iterator[int]:
        """The steps still to do, counted from 1, under a progress bar."""
        total = self._config.steps
        with progress(total, self._done, self._name) as self._bar:
            yield from range(self._done + 1, total + 1)

    def log(self, step: int, metrics: Mapping[str, float], samples: list[dict[str, Any]]) -> None:
        """Records a step. A loss or gradient that is not finite stops the run here, before it is saved.

        Raises:
          FloatingPointError: names the step and the figure.
        """
        metrics = {**metrics, **self._compiles.figures()}
        if not self._started_s:
            self._started_s = metrics["time/start_s"] = time.perf_counter() - self._began
        if self._log:
            self._log.write(step, metrics)
            self._log.samples(step, samples)
        show(self._bar, {label: metrics[key] for label, key in SHOWN.items() if key in metrics})
        for key in ("loss", "grad_norm"):
            if not math.isfinite(metrics[key]):
                raise FloatingPointError(
                    f"{key} is {metrics[key]} at step {step} of {self.workdir}; the last good checkpoint is kept. "
                    "Lower optimizer.lr or clip_norm, or look at that step's samples"
                )

    def evaluate(self, step: int, evaluate: Callable[[], dict[str, dict[str, Any]]]) -> None:
        """Evaluates every so many steps, and records it."""
        every = self._config.evaluation.every
        if every and step % every == 0 and step < self._config.steps:
            self._record(step, evaluate())

    def save(self, step: int, state: PyTree, host: dict[str, Any]) -> None:
        """Saves every so many steps, and the last; and when the run is told to stop.

        Raises:
          Preempted: it was, and the step is whole on disk.
        """
        leaving = processes.leaving()
        if leaving or step % self._config.checkpoint.every == 0 or step == self._config.steps:
            self._checkpoints.save(step, state, host)
        if leaving:
            self._checkpoints.wait()
            raise processes.Preempted(f"{self._name}: told to stop, and saved after step {step}")

    @property
    def problems(self) -> Path:
        """The file for the final evaluation's problems."""
        return Path(self.workdir) / folder.PROBLEMS

    def finish(self, result: dict[str, dict[str, Any]]) -> None:
        """Records the final evaluation, once the last checkpoint is whole on disk."""
        self._checkpoints.wait()
        self._record(self._config.steps, result)
        folder.write_result(self.workdir, result)
        self.result = result
        self.say("\n" + table({self._name: result}) + "\n" + self._start_up())

    def result_or_fail(self) -> dict[str, Any]:
        assert self.result is not None, "a stage that ended has a result"
        return self.result

    def _start_up(self) -> str:
        made = self._compiles
        return (
            f"{self._name}: first step after {self._started_s:.1f} s; {made.count} programs in {made.seconds:.1f} s, "
            f"{made.cached} of them from the cache"
        )

    def _record(self, step: int, result: dict[str, dict[str, Any]]) -> None:
        if processes.is_first():
            rows = [{"step": step, "task": task} | figures for task, figures in result.items()]
            append_jsonl(Path(self.workdir) / folder.EVALUATIONS, rows)


def _same(make: Callable[[], Tokenizer]) -> Tokenizer:
    """The first process's tokenizer, on all: training one twice need not give the same pieces."""
    if processes.count() == 1:
        return make()

    def files() -> dict[str, bytes]:
        with tempfile.TemporaryDirectory() as made:
            make().save(made)
            return {path.name: path.read_bytes() for path in Path(made).iterdir()}

    with tempfile.TemporaryDirectory() as copy:
        for name, content in processes.agreed(files).items():
            (Path(copy) / name).write_bytes(content)
        return Tokenizer.load(copy)
