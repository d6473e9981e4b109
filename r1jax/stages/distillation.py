"""The teacher of an SFT stage: a checkpoint whose distribution the student learns, beside the text."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import optax
from jax.sharding import Mesh

from r1jax.config import PolicyConfig, SftStage
from r1jax.data.tokenizer import Tokenizer
from r1jax.stages.inference import load_params, read_writer
from r1jax.training.distillation_step import distillation_step
from r1jax.training.step import sft_step
from r1jax.types import PyTree


class Teacher(NamedTuple):
    policy: PolicyConfig
    params: PyTree


def open_teacher(folder: str, student: PolicyConfig, tokenizer: Tokenizer, mesh: Mesh) -> Teacher:
    """The policy in a folder, on `mesh`.

    Raises:
      ValueError: it is no checkpoint of a policy, or its tokens are not the student's.
    """
    policy = read_writer(folder).policy
    own = Tokenizer.load(folder).vocabulary.pieces
    if list(own) != list(tokenizer.vocabulary.pieces):
        raise ValueError(
            f"teacher.folder is {folder!r}, whose tokenizer has other pieces than the student's ({len(own)} and "
            f"{tokenizer.vocab_size}); logits are learnt token by token: let it teach by its samples, without teacher"
        )
    if policy.vocab_size != student.vocab_size:
        raise ValueError(
            f"policy.vocab_size is {student.vocab_size}, the teacher's {policy.vocab_size}: make the first the same"
        )
    return Teacher(policy, load_params(folder, policy, mesh))


def step_of(
    config: SftStage, optimizer: optax.GradientTransformation, teacher: Teacher | None
) -> tuple[Callable[..., Any], tuple[PyTree, ...]]:
    """(`step(state, packed, *rest) -> (state, metrics)`, rest): SFT's update, or that of a student with its teacher."""
    if teacher is None or config.teacher is None:
        step = functools.partial(sft_step, config.policy, config.batch, config.router, config.mtp_coef, optimizer)
        return step, ()
    step = functools.partial(
        distillation_step, config.policy, teacher.policy, config.batch, config.router, config.teacher.alpha, optimizer
    )
    return step, (teacher.params,)
