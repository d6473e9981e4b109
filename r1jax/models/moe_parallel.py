"""Experts split over devices: every token goes to its experts' device by all-to-all and comes back, none is dropped.

Device by device. Each has tokens of its own and E / X of the experts, X being the size of the mesh axis `expert`, and
sorts its assignments (a token and one of its experts) by expert. They travel in rounds. In each, a pair of devices
exchanges an equal part of what it has to exchange in all, and there are as many rounds as it takes for no window to
overflow: one where the load is even, X where all tokens want the experts of one device. So the memory is bounded
whatever the routing. Beside the T tokens that a device has, it holds

    Z = T * A                                results, and
    Y = window_rows(Z, X), about 1.25 Z,     rows of a window in each of a few arrays.

The backward pass keeps the inputs alone and goes through the same rounds: tokens and their cotangents travel to the
experts, the experts' derivative is taken window by window, and the tokens' cotangents travel back.

Axes, beside the dimension key's: X devices along `expert`; Y rows of a window; Z assignments of a device, in the order
of their experts.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from r1jax import mesh
from r1jax.models.moe_exchange import EXPERT, Padded, Plan, Ragged, Transport, Window, make_plan, open_window
from r1jax.models.moe_experts import ExpertWeights, block_size, feed_forward, from_slots, lay_out, to_slots
from r1jax.models.sharded import axes_of

TENSOR = "tensor"
LETTERS = ("EDF", "EDF", "EFD")  # of ExpertWeights, in their order
WEIGHTS: Any = ExpertWeights(*(mesh.spec(letters, mesh.WEIGHTS) for letters in LETTERS))  # type: ignore[arg-type]
WIDTH_AXES = mesh.WEIGHTS["D"]


class Tokens(NamedTuple):
    """Tokens in rows, and what routing says of them."""

    x_RTD: jax.Array
    expert_RTA: jax.Array  # int32
    share_RTA: jax.Array  # float32
    real_RT: jax.Array  # bool: not padding


class Counted(NamedTuple):
    load_E: jax.Array  # int32, assignments of each expert, of all devices
    dropped: jax.Array  # int32, assignments that did not reach their expert


def work(x_YD: jax.Array, weights: ExpertWeights, window: Window) -> tuple[jax.Array, jax.Array]:
    """(y_YD, the experts' output for each row of a window, 0 where there is none; how many rows found a slot)."""
    rows, experts = x_YD.shape[0], weights.gate_EDF.shape[0]
    layout = lay_out(window.expert_Y[:, None], window.real_Y, experts, block_size(rows, experts))
    y_SD = feed_forward(to_slots(x_YD, layout.slot_TA, layout.assignment_S), weights, layout)
    y_YD = from_slots(y_SD, layout.slot_TA, layout.assignment_S)
    return y_YD, (layout.assignment_S < rows).sum()


def _rows(x_TD: jax.Array, window: Window, active: int) -> jax.Array:
    """The tokens of the rows that this device sends, 0 where there is none."""
    return jnp.take(x_TD, window.send_Y // active, axis=0, mode="fill", fill_value=0)


def _combine(y_ZD: jax.Array, place_TA: jax.Array, share_TA: jax.Array | None) -> jax.Array:
    """sum_a share_a y_a of each token, in float32, an expert at a time."""

    def add(total_TD, one):
        place_T, share_T = one
        y_TD = jnp.take(y_ZD, place_T, axis=0).astype(jnp.float32)
        return total_TD + (y_TD if share_T is None else share_T[:, None] * y_TD), None

    zeros = jnp.zeros((place_TA.shape[0], y_ZD.shape[1]), jnp.float32)
    return jax.lax.scan(add, zeros, (place_TA.T, None if share_TA is None else share_TA.T))[0]


def _whole(weights: ExpertWeights) -> ExpertWeights:
    """This device's experts with their whole width: one layer's, and no other device's."""

    def one(w, letters):
        return jax.lax.all_gather(w, WIDTH_AXES, axis=letters.index("D"), tiled=True)

    return ExpertWeights(*map(one, weights, LETTERS))


def _plan(transport: Transport, experts: int, everywhere: tuple[str, ...], tokens: Tokens) -> tuple[Plan, jax.Array]:
    active = tokens.expert_RTA.shape[-1]
    expert_TA, real_T = tokens.expert_RTA.reshape(-1, active), tokens.real_RT.reshape(-1)
    return make_plan(transport, expert_TA, real_T, experts, everywhere)


def forward_here(
    transport: Transport, experts: int, everywhere: tuple[str, ...], tokens: Tokens, weights: ExpertWeights
) -> tuple[jax.Array, Counted]:
    """One device's part of `exchange`."""
    plan, load_E = _plan(transport, experts, everywhere, tokens)
    width, active = tokens.x_RTD.shape[-1], tokens.expert_RTA.shape[-1]
    x_TD, weights = tokens.x_RTD.reshape(-1, width), _whole(weights)

    def one(carry):
        number, placed, y_ZD = carry
        window = open_window(transport, plan, number)
        y_YD, found = work(transport.there(_rows(x_TD, window, active), window), weights, window)
        return number + 1, placed + found, transport.back(y_YD, window, plan, y_ZD)

    zeros = jnp.zeros((plan.assignment_Z.shape[0], width), x_TD.dtype)
    start = (jnp.int32(0), jnp.int32(0), zeros)
    _, placed, y_ZD = jax.lax.while_loop(lambda carry: carry[0] < plan.rounds, one, start)
    y_TD = _combine(y_ZD, plan.place_TA, tokens.share_RTA.reshape(-1, active)).astype(x_TD.dtype)
    load_E = jax.lax.psum(load_E, everywhere)
    counted = Counted(load_E, load_E.sum() - jax.lax.psum(placed, everywhere))
    return jax.lax.psum(y_TD, TENSOR).reshape(tokens.x_RTD.shape), counted


def backward_here(
    transport: Transport,
    experts: int,
    everywhere: tuple[str, ...],
    tokens: Tokens,
    weights: ExpertWeights,
    d_RTD: jax.Array,
) -> tuple[jax.Array, jax.Array, ExpertWeights]:
    """One device's part of the derivative: (dx_RTD, dshare_RTA, of the weights)."""
    plan, _ = _plan(transport, experts, everywhere, tokens)
    width, active = tokens.x_RTD.shape[-1], tokens.expert_RTA.shape[-1]
    x_TD, d_TD, share_Z = tokens.x_RTD.reshape(-1, width), d_RTD.reshape(-1, width), tokens.share_RTA.reshape(-1, 1)
    whole = _whole(weights)

    def one(carry):
        number, dx_ZD, dshare_Z, d_weights = carry
        window = open_window(transport, plan, number)
        x_YD, d_YD = (transport.there(_rows(x, window, active), window) for x in (x_TD, d_TD))
        share_Y = transport.there(_rows(share_Z, window, 1), window)
        y_YD, pull, _ = jax.vjp(lambda x, w: work(x, w, window), x_YD, whole, has_aux=True)
        dshare_Y = jnp.sum(y_YD.astype(jnp.float32) * d_YD.astype(jnp.float32), axis=1, keepdims=True)
        dx_YD, now = pull((share_Y * d_YD.astype(jnp.float32)).astype(y_YD.dtype))
        d_weights = jax.tree.map(lambda total, w: total + w.astype(jnp.float32), d_weights, now)
        dx_ZD = transport.back(dx_YD, window, plan, dx_ZD)
        return number + 1, dx_ZD, transport.back(dshare_Y, window, plan, dshare_Z), d_weights

    count = plan.assignment_Z.shape[0]
    zeros = jnp.zeros((count, width), x_TD.dtype), jnp.zeros((count, 1), jnp.float32)
    start = (jnp.int32(0), *zeros, jax.tree.map(lambda w: jnp.zeros(w.shape, jnp.float32), whole))
    _, dx_ZD, dshare_Z, d_weights = jax.lax.while_loop(lambda carry: carry[0] < plan.rounds, one, start)
    dx_TD = _combine(dx_ZD, plan.place_TA, None).astype(x_TD.dtype)
    dshare_TA = jnp.take(dshare_Z[:, 0], plan.place_TA)
    return (
        jax.lax.psum(dx_TD, TENSOR).reshape(tokens.x_RTD.shape),
        jax.lax.psum(dshare_TA, TENSOR).reshape(tokens.share_RTA.shape),
        _summed(d_weights, weights, everywhere),
    )


def _summed(d_whole: ExpertWeights, like: ExpertWeights, everywhere: tuple[str, ...]) -> ExpertWeights:
    """The derivative of the weights that this device holds: summed over all that read them, in the weights' dtype."""
    rest = tuple(axis for axis in everywhere if axis not in (EXPERT, *WIDTH_AXES))

    def one(d, w, letters):
        d = jax.lax.psum_scatter(d.astype(w.dtype), WIDTH_AXES, scatter_dimension=letters.index("D"), tiled=True)
        d = jax.lax.psum(d, rest) if rest else d
        # libtpu 0.0.52 fails on a sum that is scattered, cast and added up over micro-batches, unless held apart.
        return jax.lax.optimization_barrier(d)

    return ExpertWeights(*map(one, d_whole, like, LETTERS))


def _on_platform(here: Any, *given: Any) -> Any:
    """`here` by the platform's transport."""
    if jax.lax.axis_size(EXPERT) == 1:
        return here(Padded(), *given)
    ways = dict(tpu=functools.partial(here, Ragged()), default=functools.partial(here, Padded()))
    return jax.lax.platform_dependent(*given, **ways)


def _specs(part: PartitionSpec) -> Any:
    """Of `Tokens`."""
    wide: Any = PartitionSpec(*part, None)
    return Tokens(wide, wide, wide, part)  # type: ignore[arg-type]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def exchange(experts: int, part: PartitionSpec, tokens: Tokens, weights: ExpertWeights) -> tuple[jax.Array, Counted]:
    """The routed experts' output, sum_a share_a expert_a(x), with tokens and experts split over the mesh that is set.

    Args:
      part: how [R, T] is split over the mesh; it divides.
      weights: sharded by their names.

    Returns:
      (y_RTD, what was counted)
    """
    everywhere = axes_of(part)

    def here(transport, *given):
        return forward_here(transport, experts, everywhere, *given)

    whole: Any = PartitionSpec()
    run = jax.shard_map(
        functools.partial(_on_platform, here),
        in_specs=(_specs(part), WEIGHTS),
        out_specs=(PartitionSpec(*part, None), Counted(whole, whole)),
        check_vma=False,
    )
    return run(tokens, weights)


def _exchange_fwd(experts, part, tokens, weights):
    return exchange(experts, part, tokens, weights), (tokens, weights)


def _exchange_bwd(experts, part, saved, d):
    everywhere = axes_of(part)

    def here(transport, *given):
        return backward_here(transport, experts, everywhere, *given)

    wide = PartitionSpec(*part, None)
    run = jax.shard_map(
        functools.partial(_on_platform, here),
        in_specs=(_specs(part), WEIGHTS, wide),
        out_specs=(wide, wide, WEIGHTS),
        check_vma=False,
    )
    tokens, weights = saved
    dx_RTD, dshare_RTA, d_weights = run(tokens, weights, d[0])
    return Tokens(dx_RTD, None, dshare_RTA, None), d_weights


exchange.defvjp(_exchange_fwd, _exchange_bwd)
