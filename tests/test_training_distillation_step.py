"""The update of a student with a teacher: SFT's where the teacher weighs nothing, else towards its distribution."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.training.distillation_step import distillation_step
from r1jax.training.optimizer import make_optimizer
from r1jax.training.state import new_state
from tests import reference_policy
from tests import test_training_step as steps
from tests import tiny_policy as tiny

DENSE = dataclasses.replace(tiny.DENSE, layers=2, dense_layers=2)


@functools.cache
def update(alpha: float, student=steps.CONFIG, micro_rows: int = steps.ROWS):
    config = dataclasses.replace(steps.BATCH, micro_rows=micro_rows)
    optimizer = make_optimizer(steps.OPTIMIZER, 100)
    return tiny.jit(functools.partial(distillation_step, student, steps.CONFIG, config, steps.ROUTER, alpha, optimizer))


@functools.cache
def teacher():
    return jax.tree.map(jnp.asarray, tiny.variables(steps.CONFIG, seed=1))


def test_a_teacher_that_weighs_nothing_leaves_sft():
    packed = steps.packed_documents()
    got = jax.device_get(update(0.0)(steps.state(False), packed, teacher()))
    steps.assert_same_update(got, steps.usual_sft())


def test_the_kl_is_that_of_the_two_policies_over_what_is_learnt():
    packed = steps.packed_documents()
    _, metrics = update(1.0)(steps.state(False), packed, teacher())
    logits = [tiny.forward(steps.CONFIG)(tiny.variables(steps.CONFIG, seed=seed), packed)[0] for seed in (1, 0)]
    logp, logq = (reference_policy.log_softmax(np.asarray(x, np.float64), 1.0) for x in logits)
    kl_RT = (np.exp(logp) * (logp - logq)).sum(-1)
    weight = np.asarray(packed.weight_RT)
    assert float(metrics["distillation/kl"]) == pytest.approx((kl_RT * weight).sum() / weight.sum(), rel=1e-5)
    assert float(metrics["loss"]) == float(metrics["distillation/kl"])


def test_a_dense_student_nears_a_teacher_of_experts():
    weights = jax.tree.map(jnp.asarray, tiny.variables(DENSE))
    at, kls = new_state(weights, make_optimizer(steps.OPTIMIZER, 100), False), []
    packed = steps.packed_documents()
    for _ in range(15):
        at, metrics = update(1.0, DENSE)(at, packed, teacher())
        kls.append(float(metrics["distillation/kl"]))
    assert kls[-1] < kls[0] / 2 and int(at.step) == 15
