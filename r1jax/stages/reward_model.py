"""Reward models: a scalar head on a policy, trained on pairs of replies or on replies labelled safe and unsafe."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from r1jax.config import RewardModelStage
from r1jax.data import preferences
from r1jax.data.loader import Loader
from r1jax.data.records import Source
from r1jax.data.tokenizer import Tokenizer
from r1jax.models.scalar import abstract_scalar, scalar_variables
from r1jax.stages.inference import check_start, load_params
from r1jax.stages.run import NO_FOLDERS, Run, check_mesh
from r1jax.stages.scoring import encode_reply, pack_replies, question_tokens, room_needed, score_rows
from r1jax.training.flops import forward_flops, peak_flops
from r1jax.training.optimizer import make_optimizer, schedule
from r1jax.training.preference_step import Comparisons, preference_step
from r1jax.training.state import TrainState, new_state, shardings, start_state, with_shardings
from r1jax.types import PyTree

EVALUATED = 64  # examples packed and scored at a time


class Inputs(NamedTuple):
    """What a config names, opened and checked."""

    mesh: Mesh
    train: list[Source]
    test: dict[str, Source]  # by NAME:test


def run(config: RewardModelStage, workdir: str, folders: Mapping[str, str] = NO_FOLDERS) -> dict[str, Any]:
    """Runs or resumes the stage in `workdir`.

    Args:
      folders: of a pipeline's stages, by the names that a config may give in a folder's place.

    Returns:
      its result on held-out examples, {NAME:test: {"n", "accuracy"}}.
    """
    with Run(config, workdir) as run_:
        if run_.result is None:
            _train(config, run_, folders.get(config.init_from, config.init_from))
        return run_.result_or_fail()


def check(config: RewardModelStage, folders: Mapping[str, str] = NO_FOLDERS) -> None:
    """Refuses what can be told wrong with no checkpoint at hand. Compiles nothing."""
    open_inputs(config)


def open_inputs(config: RewardModelStage) -> Inputs:
    """Raises ValueError where the config or the data are bad."""
    mesh = check_mesh(config)
    train, test = [], {}
    for spec in config.sources.values():
        opened = [
            preferences.load(spec.name, split, objective=config.objective, kwargs=spec.kwargs)
            for split in ("train", "test")
        ]
        if f"{spec.name}:test" in test:
            raise ValueError(f"config.sources names {spec.name!r} twice; each can be learnt from once")
        train.append(opened[0])
        test[f"{spec.name}:test"] = opened[1]
    return Inputs(mesh, train, test)


def _train(config: RewardModelStage, run_: Run, init_from: str) -> None:
    mesh, sources, held_out = open_inputs(config)
    check_start(init_from, config.policy)
    tokenizer = run_.tokenizer(lambda: Tokenizer.load(init_from))
    packer = Packer(config, tokenizer)
    for name, source in zip(held_out, sources, strict=True):
        packer.check(name.removesuffix(":test"), source)
        packer.check(name, held_out[name])
    loader = Loader(
        sources,
        [s.weight for s in config.sources.values()],
        batch=config.batch.examples,
        seed=config.seed,
        shuffle=True,
        part=slice(0, config.batch.examples),  # there is little to read: every process reads it all
    )
    optimizer = make_optimizer(config.optimizer, config.steps)
    shapes = jax.eval_shape(lambda params: new_state(params, optimizer, False), abstract_scalar(config.policy))
    abstract = with_shardings(shapes, mesh)
    update = jax.jit(
        functools.partial(preference_step, config.policy, config.batch, config.router, optimizer),
        donate_argnums=0,
        out_shardings=(shardings(abstract), None),
    )

    def fresh() -> TrainState:
        behead = jax.jit(
            functools.partial(scalar_variables, config.policy), out_shardings=shardings(abstract.params)
        )  # the token head goes, so its memory is not kept
        return start_state(behead(load_params(init_from, config.policy, mesh)), optimizer, abstract)

    def evaluate(params: PyTree, limit: int) -> dict[str, dict[str, Any]]:
        return {name: rank(config, packer, params, source, limit) for name, source in held_out.items()}

    with jax.set_mesh(mesh):
        state, host = run_.begin(tokenizer, abstract, fresh)
        if host:
            loader.set_state(host["loader"])
        rate = schedule(config.optimizer, config.steps)
        peak = peak_flops()
        for step in run_.steps():
            began = time.perf_counter()
            batch = packer(next(loader))
            state, device_metrics = update(state, batch)
            metrics = {key: float(value) for key, value in jax.device_get(device_metrics).items()}
            seconds = time.perf_counter() - began
            metrics["lr"] = float(rate(step - 1))
            metrics["time/update_s"] = seconds
            metrics["update/tokens_per_s"] = float(np.count_nonzero(batch.packed.segment_RT)) / seconds
            metrics["update/mfu"] = 3 * forward_flops(config.policy, batch.packed) / seconds / peak
            run_.log(step, metrics, [])
            run_.evaluate(step, lambda: evaluate(state.params, config.evaluation.every_limit))  # noqa: B023
            run_.save(step, state, {"loader": loader.state()})
        run_.finish(evaluate(state.params, config.evaluation.limit))


class Packer:
    """Records to batches: questions in the stage's template, each with its one or two replies."""

    def __init__(self, config: RewardModelStage, tokenizer: Tokenizer):
        self._config, self._tokenizer = config, tokenizer
        self._paired = config.objective == "bradley_terry"

    def __call__(self, records: Sequence[dict[str, str]]) -> Comparisons:
        packed, place_B = pack_replies(
            [self._encode(record) for record in records],
            row_length=self._config.batch.row_length,
            row_multiple=self._config.batch.rows,
            pad_id=self._tokenizer.pad_id,
        )
        label_B = None if self._paired else np.array([float(record["label"]) for record in records], np.float32)
        return Comparisons(packed, place_B, label_B)

    def check(self, name: str, source: Source) -> None:
        """Refuses a source with an example that fits no row, before any work is done.

        Raises:
          ValueError: names the first such record, its length, the limit and the remedy.
        """
        room, context = self._config.batch.row_length, self._config.policy.context
        fixed = room_needed(*self._encode({"question": "", "chosen": "", "rejected": "", "reply": ""}))
        for i in range(len(source)):
            record = source[i]
            # Encoding is slow on a large source; a token is at least a byte, so most examples pass by their length.
            if fixed + sum(len(record[field].encode(errors="replace")) for field in self._fields()) <= min(
                room, context
            ):
                continue
            prompt, replies = self._encode(record)
            longest = room_needed(prompt, [max(replies, key=len)])
            for field, limit, got in (
                ("batch.row_length", room, room_needed(prompt, replies)),
                ("policy.context", context, longest),
            ):
                if got > limit:
                    raise ValueError(
                        f"{name}: record {i} takes {got} tokens; {field} is {limit}: raise it, or leave the record out"
                    )

    def _fields(self) -> tuple[str, ...]:
        return preferences.FIELDS[self._config.objective][: 3 if self._paired else 2]

    def _encode(self, record: dict[str, str]) -> tuple[list[int], list[list[int]]]:
        question, *replies = (record[field] for field in self._fields())
        prompt = question_tokens(self._tokenizer, self._config.template, question)
        return prompt, [encode_reply(self._tokenizer, reply) for reply in replies]


def rank(config: RewardModelStage, packer: Packer, params: PyTree, source: Source, limit: int) -> dict[str, Any]:
    """{"n", "accuracy"}: the share of pairs whose chosen reply scores higher, or of replies on their label's side of 0.

    Of equal scores neither is higher.
    """
    count = min(len(source), limit) if limit else len(source)
    right = 0
    for first in range(0, count, EVALUATED):
        batch = packer([source[i] for i in range(first, min(first + EVALUATED, count))])
        score_B = score_rows(config.policy, params, batch.packed, np.asarray(batch.place_B), config.batch.rows)
        if batch.label_B is None:
            right += int((score_B[0::2] > score_B[1::2]).sum())
        else:
            right += int(((score_B > 0) == (batch.label_B > 0.5)).sum())
    return {"n": count, "accuracy": right / count}
