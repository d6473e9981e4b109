"""The one place where state lives: parameters, optimizer, reference and step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from r1jax.config import PolicyConfig
from r1jax.mesh import state_shardings
from r1jax.models.policy import init_variables
from r1jax.types import PyTree

HOST_MEMORY = "pinned_host"  # the memory of a host that its devices copy from by themselves


class Critic(NamedTuple):
    params: PyTree  # a scalar policy's variables (`models/scalar.py`)
    optimizer: PyTree


class TrainState(NamedTuple):
    step: jax.Array  # int32 scalar: stage steps done
    params: PyTree  # the policy's variables {"params", "router"}
    optimizer: PyTree
    reference: PyTree  # variables of the reference policy; None where there is none
    critic: Critic | None = None  # PPO's


def new_state(params: PyTree, optimizer: optax.GradientTransformation, with_reference: bool) -> TrainState:
    """A state at step 0 around existing variables; the reference is a copy of them."""
    reference = jax.tree.map(jnp.copy, params) if with_reference else None
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params["params"]), reference)


def abstract_state(
    config: PolicyConfig, optimizer: optax.GradientTransformation, mesh: Mesh, with_reference: bool
) -> TrainState:
    """Shapes, dtypes and shardings of a stage's state; nothing is allocated."""
    shapes = jax.eval_shape(lambda: new_state(init_variables(config, jax.random.key(0)), optimizer, with_reference))
    return with_shardings(shapes, mesh)


def with_shardings(shapes: PyTree, mesh: Mesh) -> PyTree:
    """`shapes` with the sharding that each leaf has on `mesh`."""
    place = state_shardings(mesh, shapes)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, place)


def shardings(abstract: PyTree) -> PyTree:
    return jax.tree.map(lambda x: x.sharding, abstract)


def check_host_memory(field: str) -> None:
    """Raises ValueError where the devices cannot read their host's memory, as the config's `field` wants it."""
    device = jax.devices()[0]
    kinds = [memory.kind for memory in device.addressable_memories()]
    if HOST_MEMORY not in kinds:
        raise ValueError(
            f"{field} is True; a device of kind {device.device_kind!r} reads the memories {', '.join(kinds)}, and "
            f"{HOST_MEMORY!r} is not among them: set it to False"
        )


def in_host_memory(abstract: PyTree) -> PyTree:
    """`abstract`, sharded as it is, in the memory of the devices' hosts."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding.with_memory_kind(HOST_MEMORY)), abstract
    )


def jit_update(step: Callable[..., Any], abstract: TrainState) -> Any:
    """`step(state, ...) -> (state, metrics)`, jitted: it takes over the state, and leaves it sharded as `abstract`."""
    return jax.jit(step, donate_argnums=0, out_shardings=(shardings(abstract), None))


def fresh_params(config: PolicyConfig, mesh: Mesh, seed: int) -> PyTree:
    """Newly initialised variables, made straight in their shardings."""

    def make() -> PyTree:
        return init_variables(config, jax.random.key(seed))

    return jax.jit(make, out_shardings=state_shardings(mesh, jax.eval_shape(make)))()


def start_state(params: PyTree, optimizer: optax.GradientTransformation, abstract: TrainState) -> TrainState:
    """`new_state` made straight in the shardings of `abstract`. Takes over `params`: they are donated."""

    def make(params: PyTree) -> TrainState:
        return new_state(params, optimizer, abstract.reference is not None)

    return jax.jit(make, out_shardings=shardings(abstract), donate_argnums=0)(params)
