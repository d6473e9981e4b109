"""Supervised fine-tuning on documents or on questions with completions; from scratch, it is pretraining."""

from __future__ import annotations

import functools
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from r1jax import processes
from r1jax.config import SftStage, SourceSpec
from r1jax.data import corpus, tasks, templates
from r1jax.data.loader import Loader
from r1jax.data.packing import DocumentPacker
from r1jax.data.records import Source
from r1jax.data.tokenizer import Tokenizer
from r1jax.stages.distillation import open_teacher, step_of
from r1jax.stages.evaluate import Evaluator
from r1jax.stages.inference import check_prompts, check_start, encode_prompt, load_params, make_engine
from r1jax.stages.run import NO_FOLDERS, Run, check_stage, locate
from r1jax.training.flops import forward_flops, peak_flops
from r1jax.training.optimizer import make_optimizer, schedule
from r1jax.training.state import TrainState, abstract_state, fresh_params, jit_update, start_state

RECORDS = 64  # drawn from the loader at a time, by all processes together


class Inputs(NamedTuple):
    """What a config names, opened and checked."""

    mesh: Mesh
    sources: list[Source]


def run(config: SftStage, workdir: str, folders: Mapping[str, str] = NO_FOLDERS) -> dict[str, Any]:
    """Runs or resumes the stage in `workdir`.

    Args:
      folders: of a pipeline's stages, by the names that a config may give in a folder's place.

    Returns:
      its result {task: figures}.
    """
    with Run(config, workdir) as run_:
        if run_.result is None:
            _train(config, run_, folders)
        return run_.result_or_fail()


def check(config: SftStage, folders: Mapping[str, str] = NO_FOLDERS) -> None:
    """Refuses what can be told wrong with no checkpoint at hand. Reads data; trains and compiles nothing."""
    open_inputs(config, locate(config.data.sources, folders, awaited=True))


def open_inputs(config: SftStage, specs: Mapping[str, SourceSpec]) -> Inputs:
    """Raises ValueError where the config or the data are bad."""
    mesh = check_stage(config)
    batch, policy = config.batch, config.policy
    if batch.row_length > policy.context:
        raise ValueError(f"batch.row_length is {batch.row_length}; policy.context is {policy.context}: lower the first")
    if not config.init_from and config.tokenizer.vocab_size > policy.vocab_size:
        raise ValueError(
            f"tokenizer.vocab_size is {config.tokenizer.vocab_size}; policy.vocab_size is {policy.vocab_size}: "
            "lower the first, or raise the second"
        )
    return Inputs(mesh, [_source(config, spec.name, spec.kwargs) for spec in specs.values()])


def _train(config: SftStage, run_: Run, folders: Mapping[str, str]) -> None:
    init_from = folders.get(config.init_from, config.init_from)
    mesh, sources = open_inputs(config, locate(config.data.sources, folders, awaited=False))
    if init_from:
        check_start(init_from, config.policy)
    tokenizer = run_.tokenizer(lambda: _tokenizer(config, sources, init_from, run_.say))
    _check_prompts(config, sources, tokenizer)
    evaluator = run_.enter(
        Evaluator(
            config.evaluation, config.data, config.grading, template=config.template, tokenizer=tokenizer,
            engine=make_engine(config.policy, mesh, tokenizer, config.template),
            context=config.policy.context, seed=config.seed,
        )
    )  # fmt: skip
    documents, packer = _packer(config, sources, tokenizer)
    optimizer = make_optimizer(config.optimizer, config.steps)
    abstract = abstract_state(config.policy, optimizer, mesh, with_reference=False)
    teacher = None
    if config.teacher:
        folder = folders.get(config.teacher.folder, config.teacher.folder)
        teacher = open_teacher(folder, config.policy, tokenizer, mesh)
    one_step, taught = step_of(config, optimizer, teacher)
    update = jit_update(one_step, abstract)

    def fresh() -> TrainState:
        params = (
            load_params(init_from, config.policy, mesh) if init_from else fresh_params(config.policy, mesh, config.seed)
        )
        return start_state(params, optimizer, abstract)

    with jax.set_mesh(mesh):
        state, host = run_.begin(tokenizer, abstract, fresh)
        if host:
            documents.set_state(host["documents"], host["taken"])
            packer.waiting = [tuple(document) for document in host["waiting"]]
        rate = schedule(config.optimizer, config.steps)
        peak, how = peak_flops(), config.evaluation
        for step in run_.steps():
            began = time.perf_counter()
            packed = next(packer)
            state, device_metrics = update(state, packed, *taught)
            metrics = {key: float(value) for key, value in jax.device_get(device_metrics).items()}
            seconds = time.perf_counter() - began
            metrics["lr"] = float(rate(step - 1))
            metrics["time/update_s"] = seconds
            metrics["update/tokens_per_s"] = float(np.count_nonzero(packed.segment_RT)) / seconds
            flops = 3 * forward_flops(config.policy, packed, mtp=bool(config.mtp_coef))
            flops += forward_flops(teacher.policy, packed) if teacher else 0.0
            metrics["update/mfu"] = flops / seconds / peak
            run_.log(step, metrics, [])
            run_.evaluate(
                step,
                lambda: evaluator(state.params, samples=how.every_samples, limit=how.every_limit, progress=False),  # noqa: B023
            )
            run_.save(step, state, documents.state() | {"waiting": packer.waiting})
        final = evaluator(state.params, samples=how.samples, limit=how.limit, progress=True, record=run_.problems)
        run_.finish(final)


class Documents:
    """Token ids and prompt length of one record after another, without end: the same on every process.

    Each encodes what its loader gives it, and they exchange the tokens.
    """

    def __init__(self, loader: Loader, encode: Callable[[dict[str, str]], tuple[list[int], int]]):
        self._loader, self._encode = loader, encode
        self._encoded: list[tuple[list[int], int]] = []
        self._taken = 0
        self._before = loader.state()

    def __iter__(self) -> Iterator[tuple[list[int], int]]:
        return self

    def __next__(self) -> tuple[list[int], int]:
        if self._taken == len(self._encoded):
            self._before, self._taken = self._loader.state(), 0
            self._encoded = self._next()
        self._taken += 1
        return self._encoded[self._taken - 1]

    def _next(self) -> list[tuple[list[int], int]]:
        parts = processes.gather([self._encode(record) for record in next(self._loader)])
        return list(itertools.chain(*parts))

    def state(self) -> dict[str, Any]:
        """The loader before the records at hand, and how many of them were taken."""
        return {"documents": self._before, "taken": self._taken}

    def set_state(self, before: bytes, taken: int) -> None:
        """Goes on from `state()`: the next document is the one that followed when it was taken."""
        self._loader.set_state(before)
        self._before, self._taken, self._encoded = before, taken, self._next()


def _packer(config: SftStage, sources: list[Source], tokenizer: Tokenizer) -> tuple[Documents, DocumentPacker]:
    loader = Loader(
        sources,
        [s.weight for s in config.data.sources.values()],
        batch=RECORDS,
        seed=config.seed,
        shuffle=True,
        part=processes.share(RECORDS),
    )
    documents = Documents(loader, functools.partial(_encoded, tokenizer, config.template))
    rows, length = config.batch.rows, config.batch.row_length
    return documents, DocumentPacker(documents, rows=rows, row_length=length, pad_id=tokenizer.pad_id)


def _encoded(tokenizer: Tokenizer, template: str, record: dict[str, str]) -> tuple[list[int], int]:
    """(token ids, prompt length): a document is all learnt, of a question only the completion is.

    `template` is for records that do not name their own.
    """
    if "text" in record:
        return [*tokenizer.start_ids, *tokenizer.encode(record["text"]), tokenizer.eos_id], 0
    template = record.get("template", template)
    prompt = encode_prompt(tokenizer, templates.render(template, record["question"], tokenizer))
    return [*prompt, *tokenizer.encode(record["completion"]), tokenizer.eos_id], len(prompt)


def _source(config: SftStage, name: str, kwargs: dict[str, Any]) -> Source:
    """A corpus of documents, or the train split of a task whose records carry a completion."""
    if name in corpus.BUILDER:
        return corpus.load(name, data_dir=config.data.data_dir, kwargs=kwargs)
    source = tasks.load(name, "train", data_dir=config.data.data_dir, source_dir=config.data.source_dir, kwargs=kwargs)
    lacking = next((i for i in range(len(source)) if "completion" not in source[i]), None)
    if lacking is not None:
        raise ValueError(
            f"data.sources names {name!r}, whose record {lacking} has {', '.join(source[lacking])}; SFT learns from "
            f"'question' and 'completion', as a JSONL file can give them, or from a corpus: {', '.join(corpus.BUILDER)}"
        )
    return source


def _check_prompts(config: SftStage, sources: list[Source], tokenizer: Tokenizer) -> None:
    for spec, source in zip(config.data.sources.values(), sources, strict=True):
        if spec.name not in corpus.BUILDER:
            questions: dict[str, list[str]] = {}
            for record in (source[i] for i in range(len(source))):
                questions.setdefault(record.get("template", config.template), []).append(record["question"])
            for template, asked in questions.items():
                check_prompts(asked, tokenizer, template, config.batch.row_length, "batch.row_length", spec.name)


def _tokenizer(config: SftStage, sources: list[Source], init_from: str, say: Callable[[str], None]) -> Tokenizer:
    """The one of the checkpoint that training starts from, else one trained on the sources, a fair share of each."""
    if init_from:
        return Tokenizer.load(init_from)
    say(f"training a tokenizer of {config.tokenizer.vocab_size} pieces")
    share = -(-config.tokenizer.train_documents // len(sources))
    texts = (_text(source[i], config.template) for source in sources for i in range(min(len(source), share)))
    with tempfile.TemporaryDirectory() as folder:
        return Tokenizer.train(texts, config.tokenizer, folder)


def _text(record: dict[str, str], template: str) -> str:
    if "text" in record:
        return record["text"]
    return templates.render(record.get("template", template), record["question"]) + record["completion"]
