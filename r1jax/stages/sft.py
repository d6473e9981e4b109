"""Supervised fine-tuning on documents or on questions with completions; from scratch, it is pretraining."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from r1jax.config import SftStage
from r1jax.data import corpus, tasks, templates
from r1jax.data.loader import Loader
from r1jax.data.packing import DocumentPacker
from r1jax.data.tokenizer import Tokenizer
from r1jax.mesh import batch_multiple, make_mesh
from r1jax.stages.evaluate import Evaluator
from r1jax.stages.inference import encode_prompt, load_params, make_engine
from r1jax.stages.run import Run
from r1jax.training.optimizer import make_optimizer, schedule
from r1jax.training.state import abstract_state, fresh_params, shardings, start_state
from r1jax.training.step import sft_step

DOCUMENTS = 64  # drawn from the loader at a time


def run(config: SftStage, workdir: str) -> dict[str, Any]:
    """Runs or resumes the stage in `workdir`; returns its result {task: figures}."""
    with Run.open(config, workdir) as run_:
        if run_.result is None:
            _train(config, run_)
        return run_.result_or_fail()


def _train(config: SftStage, run_: Run) -> None:
    mesh = make_mesh(config.mesh)
    _check(config, batch_multiple(mesh))
    sources = [_source(config, spec.name, spec.kwargs) for spec in config.data.sources.values()]
    tokenizer = run_.take_tokenizer(_tokenizer(config, sources, run_))
    loader = Loader(
        sources,
        [s.weight for s in config.data.sources.values()],
        batch=DOCUMENTS,
        seed=config.seed,
        shuffle=True,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    packer = DocumentPacker(
        _documents(loader, tokenizer, config.template),
        rows=config.batch.rows,
        row_length=config.batch.row_length,
        pad_id=tokenizer.pad_id,
    )
    evaluator = Evaluator(
        config.evaluation, config.data, config.grading, template=config.template, tokenizer=tokenizer,
        engine=make_engine(config.policy, mesh, tokenizer, config.template),
        context=config.policy.context, seed=config.seed,
    )  # fmt: skip
    run_.enter(evaluator)

    optimizer = make_optimizer(config.optimizer, config.steps)
    abstract = abstract_state(config.policy, optimizer, mesh, with_reference=False)
    update = jax.jit(
        functools.partial(sft_step, config.policy, config.batch, config.router, optimizer),
        donate_argnums=0,
        out_shardings=(shardings(abstract), None),
    )
    rate = schedule(config.optimizer, config.steps)
    with jax.set_mesh(mesh):
        state, host = run_.restore(abstract)
        if state is not None:
            packer.waiting = [tuple(document) for document in host["waiting"]]
            loader.set_state(host["loader"])
        else:
            params = (
                load_params(config.init_from, config.policy, mesh)
                if config.init_from
                else fresh_params(config.policy, mesh, config.seed)
            )
            state = start_state(params, optimizer, abstract)
        for step in run_.steps(config.steps):
            began = time.perf_counter()
            packed = next(packer)
            state, device_metrics = update(state, packed)
            metrics = {key: float(value) for key, value in jax.device_get(device_metrics).items()}
            seconds = time.perf_counter() - began
            metrics["lr"] = float(rate(step - 1))
            metrics["time/update_s"] = seconds
            metrics["update/tokens_per_s"] = float(np.count_nonzero(packed.segment_RT)) / seconds
            run_.log(step, metrics, [])
            run_.evaluate(step, lambda **how: evaluator(state.params, **how))  # noqa: B023
            run_.save(step, state, {"loader": loader.state(), "waiting": packer.waiting})
        how = config.evaluation
        run_.finish(evaluator(state.params, samples=how.samples, limit=how.limit, progress=True))


def _check(config: SftStage, ways: int) -> None:
    batch = config.batch
    if min(batch.rows, batch.micro_rows, batch.row_length) < 1:
        raise ValueError(
            f"batch.rows is {batch.rows}, micro_rows {batch.micro_rows}, row_length {batch.row_length}; an empty batch "
            "trains nothing: each must be at least 1"
        )
    if batch.rows % batch.micro_rows or batch.micro_rows % ways:
        raise ValueError(
            f"batch.rows is {batch.rows} and batch.micro_rows {batch.micro_rows}; rows must be a multiple of "
            f"micro_rows, and that of the {ways} devices along data and fsdp"
        )
    if batch.row_length > config.policy.context:
        raise ValueError(
            f"batch.row_length is {batch.row_length}; policy.context is {config.policy.context}: lower the first"
        )


def _source(config: SftStage, name: str, kwargs: dict[str, Any]) -> Any:
    """A corpus of documents, or the train split of a task whose records carry a completion."""
    if name in corpus.BUILDER:
        return corpus.load(name, data_dir=config.data.data_dir, kwargs=kwargs)
    source = tasks.load(
        name, "train", data_dir=config.data.data_dir, source_dir=config.data.source_dir, kwargs=kwargs
    )
    if "completion" not in source[0]:
        raise ValueError(
            f"data.sources names {name!r}, whose records have {', '.join(source[0])}; SFT learns from 'text' or from "
            f"'question' and 'completion'. Corpora: {', '.join(corpus.BUILDER)}; or a JSONL file with those fields"
        )
    return source


def _tokenizer(config: SftStage, sources: list[Any], run_: Run) -> Tokenizer:
    """The one of the checkpoint that training starts from, the workdir's own on resume, else one trained here."""
    if config.init_from:
        return Tokenizer.load(config.init_from)
    if run_.has_tokenizer():
        return Tokenizer.load(run_.workdir)
    run_.say(f"training a tokenizer of {config.tokenizer.vocab_size} pieces")
    texts = (
        _text(source[i], config.template)
        for source in sources
        for i in range(min(len(source), config.tokenizer.train_documents // len(sources)))
    )
    return Tokenizer.train(texts, config.tokenizer, run_.workdir)


def _text(record: dict[str, str], template: str) -> str:
    if "text" in record:
        return record["text"]
    return templates.render(template, record["question"]) + record["completion"]


def _documents(loader: Loader, tokenizer: Tokenizer, template: str) -> Iterator[tuple[list[int], int]]:
    """(token ids, prompt length): a document is all learnt, of a question only the completion is."""
    for records in loader:
        for record in records:
            if "text" in record:
                yield [tokenizer.bos_id, *tokenizer.encode(record["text"]), tokenizer.eos_id], 0
            else:
                prompt = encode_prompt(tokenizer, templates.render(template, record["question"]))
                yield [*prompt, *tokenizer.encode(record["completion"]), tokenizer.eos_id], len(prompt)
