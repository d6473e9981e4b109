"""The programs that a stage's config compiles, with the shapes of what they are given: for compiling ahead of time.

They are the functions that the stages run, jitted where the stages jit them. Nothing is allocated here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from r1jax.config import AnyStage, RlStage, SftStage
from r1jax.models.policy import abstract_variables
from r1jax.rollout.engine import Engine, bucket
from r1jax.rollout.precision import is_rounded, rounded, sampler_policy
from r1jax.rollout.resharding import decode_mesh
from r1jax.stages.algorithms import Grpo
from r1jax.stages.distillation import step_of
from r1jax.training.flops import forward_flops
from r1jax.training.optimizer import make_optimizer
from r1jax.training.state import abstract_state, jit_update, with_shardings
from r1jax.training.step import RlBatch
from r1jax.types import Packed

PAD = 0  # any token will do: no value is computed


class Program(NamedTuple):
    """A jitted function, its arguments as shapes, and what one call of it is to compute."""

    lower: Callable[[], Any]  # `jax.stages.Lowered`
    mesh: Mesh
    flops: float  # the model's, in one call, by all devices together
    sequences: int
    tokens: int


def rl_step(config: RlStage, mesh: Mesh) -> Program:
    """One mini-batch's update, with every completion as long as the config allows."""
    algorithm = Grpo(config, mesh, PAD)
    limit = config.rollout.longest()
    sequences = config.rollout.prompts // config.grpo.minibatches * config.rollout.samples
    each = max(1, config.batch.row_length // limit)  # completions of a row
    rows = -(-sequences // each)
    rows += -rows % config.batch.rows
    scores = _shape((sequences, limit), jnp.float32)
    batch = RlBatch(
        packed=_packed(rows, config.batch.row_length),
        index_BL=_shape((sequences, limit), jnp.int32),
        advantages_B=_shape((sequences,), jnp.float32),
        logp_sampler_BL=scores,
        logp_old_BL=scores if algorithm.updates > 1 or config.rollout.ahead else None,
        logp_ref_BL=scores if config.grpo.kl_coef else None,
    )
    flops = 3 * forward_flops(config.policy, _full(rows, config.batch.row_length))
    update = algorithm.update(limit)
    return Program(
        lambda: update.lower(algorithm.abstract, batch), mesh, flops, sequences, rows * config.batch.row_length
    )


def sft_step(config: SftStage, mesh: Mesh) -> Program:
    """One update on rows that are full."""
    optimizer = make_optimizer(config.optimizer, config.steps)
    abstract = abstract_state(config.policy, optimizer, mesh, with_reference=False)
    step, _ = step_of(config, optimizer, None)
    rows, length = config.batch.rows, config.batch.row_length
    flops = 3 * forward_flops(config.policy, _full(rows, length), mtp=bool(config.mtp_coef))
    update = jit_update(step, abstract)
    return Program(lambda: update.lower(abstract, _packed(rows, length)), mesh, flops, rows, rows * length)


def rollout(config: RlStage, mesh: Mesh) -> Program:
    """All completions of one step, as long as the config allows; prompts take what a row has beside a completion."""
    limit, samples = config.rollout.longest(), config.rollout.samples
    prompt = max(1, config.batch.row_length - limit)
    mesh = decode_mesh(config.rollout.mesh, mesh)
    policy, precision = sampler_policy(config.policy, config.rollout.precision), config.rollout.precision
    engine = Engine(policy, mesh, stop_ids=(PAD,), pad_id=PAD)
    variables = abstract_variables(config.policy)
    if is_rounded(config.policy, precision):
        variables = jax.eval_shape(functools.partial(rounded, precision=precision), variables)
    variables = with_shardings(variables, mesh)
    sequences = config.drawn() * samples
    flops = forward_flops(config.policy, _full(sequences, prompt + limit))
    return Program(
        lambda: engine.lower(
            variables, config.drawn(), bucket(prompt), samples,
            top_k=config.rollout.top_k, top_p=config.rollout.top_p, max_tokens=limit,
        ),
        mesh, flops, sequences, sequences * limit,
    )  # fmt: skip


PROGRAMS: dict[str, tuple[type, Callable[[Any, Mesh], Program]]] = {
    "rl_step": (RlStage, rl_step),
    "sft_step": (SftStage, sft_step),
    "rollout": (RlStage, rollout),
}


def choose(stages: dict[str, AnyStage], program: str, name: str) -> Any:
    """The stage whose program is meant: the named one, else the first that has such a program.

    Raises:
      ValueError: there is no such stage, or it has no such program.
    """
    kind, _ = PROGRAMS[program]
    if name and name not in stages:
        raise ValueError(f"stage is {name!r}; the config has {', '.join(stages)}")
    found = {key: stage for key, stage in stages.items() if isinstance(stage, kind) and name in ("", key)}
    if not found:
        held = ", ".join(f"{key} ({stage.stage})" for key, stage in stages.items())
        raise ValueError(f"program {program!r} is of a stage of kind {kind.__name__}; the config has {held}")
    return next(iter(found.values()))


def _shape(shape: tuple[int, ...], dtype: Any) -> Any:
    return jax.ShapeDtypeStruct(shape, dtype)


def _packed(rows: int, length: int) -> Packed:
    ints = _shape((rows, length), jnp.int32)
    return Packed(ints, ints, ints, ints, ints, _shape((rows, length), jnp.float32))


def _full(rows: int, length: int) -> Packed:
    """Rows of one sequence each: what `forward_flops` reads of them."""
    position = np.broadcast_to(np.arange(length), (rows, length))
    ones = np.broadcast_to(1, (rows, length))
    return Packed(ones, ones, ones, position, ones, ones)
