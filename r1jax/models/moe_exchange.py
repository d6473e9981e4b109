"""How tokens travel to the devices of their experts and back: the plan of the rounds, and the ways of exchanging.

Axes, beside the dimension key's: X devices along `expert`; Y rows of a window; Z assignments of a device, in the order
of their experts.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

HEADROOM = 1.25  # of a window over an even load: how uneven a load may be and still take one round
SMALLEST = 512  # rows of a window at least: of few tokens the load is never even
EXPERT = "expert"


class Plan(NamedTuple):
    """What a device knows of the exchange before the first round."""

    assignment_Z: jax.Array  # int32, t * A + a
    place_TA: jax.Array  # int32, the inverse; that of padding is behind all others
    pair_XX: jax.Array  # int32, assignments from one device (first axis) to another
    held_XE: jax.Array  # int32, of each device's assignments to this one: how many are of its experts 0..e
    rounds: jax.Array  # int32 scalar, the same on all devices of the mesh


class Window(NamedTuple):
    """One round."""

    size_XX: jax.Array  # int32, rows from one device to another
    first_XX: jax.Array  # int32, how many have gone before, of the pair's
    send_Y: jax.Array  # int32, the assignment in each row that this device sends; Z where there is none
    expert_Y: jax.Array  # int32, the local expert of each row that it receives
    real_Y: jax.Array  # bool, whether there is a row


def window_rows(assignments: int, devices: int) -> int:
    """Y, rows of a window: a multiple of 8 for each device, and one such share more, as parts are rounded up."""
    even = assignments if devices == 1 else max(math.ceil(HEADROOM * assignments), SMALLEST)
    share = 8 * devices
    return -(-even // share) * share + share


class Transport(Protocol):
    """How a window travels."""

    def rounds(self, pair_XX: jax.Array, rows: int) -> jax.Array:
        """How many rounds let no window overflow."""

    def cut(self, size_X: jax.Array, rows: int) -> tuple[jax.Array, jax.Array, jax.Array]:
        """(the other device, the number in its part, whether there is any) of each row of a window."""

    def there(self, x_Yx: jax.Array, window: Window) -> jax.Array:
        """The rows that this device receives, having sent x."""

    def back(self, y_Yx: jax.Array, window: Window, plan: Plan, y_Zx: jax.Array) -> jax.Array:
        """y_Zx with the results of this round in their places, having sent y to where it came from."""


class Padded:
    """A part of equal size for each device, padded: any platform's all-to-all."""

    def rounds(self, pair_XX: jax.Array, rows: int) -> jax.Array:
        return -(-pair_XX.max() // (rows // pair_XX.shape[0]))

    def cut(self, size_X: jax.Array, rows: int) -> tuple[jax.Array, jax.Array, jax.Array]:
        part = rows // size_X.shape[0]
        other_Y, number_Y = np.divmod(np.arange(rows, dtype=np.int32), part)
        return jnp.asarray(other_Y), jnp.asarray(number_Y), jnp.asarray(number_Y) < size_X[other_Y]

    def there(self, x_Yx: jax.Array, window: Window) -> jax.Array:
        return jax.lax.all_to_all(x_Yx, EXPERT, split_axis=0, concat_axis=0, tiled=True)

    def back(self, y_Yx: jax.Array, window: Window, plan: Plan, y_Zx: jax.Array) -> jax.Array:
        y_Yx = jax.lax.all_to_all(y_Yx, EXPERT, split_axis=0, concat_axis=0, tiled=True)
        place_Y = jnp.take(plan.place_TA.reshape(-1), window.send_Y, mode="fill", fill_value=y_Zx.shape[0])
        return y_Zx.at[place_Y].set(y_Yx, mode="drop")


class Ragged:
    """Parts of the sizes that they have, one behind the other: `ragged_all_to_all`, which TPUs have."""

    def rounds(self, pair_XX: jax.Array, rows: int) -> jax.Array:
        most = jnp.maximum(pair_XX.sum(axis=0).max(), pair_XX.sum(axis=1).max())
        return -(-most // (rows - pair_XX.shape[0]))

    def cut(self, size_X: jax.Array, rows: int) -> tuple[jax.Array, jax.Array, jax.Array]:
        end_X = jnp.cumsum(size_X)
        row_Y = jnp.arange(rows, dtype=jnp.int32)
        other_Y = jnp.minimum(jnp.searchsorted(end_X, row_Y, side="right"), size_X.shape[0] - 1).astype(jnp.int32)
        return other_Y, row_Y - (end_X - size_X)[other_Y], row_Y < end_X[-1]

    def there(self, x_Yx: jax.Array, window: Window) -> jax.Array:
        me, size_XX = jax.lax.axis_index(EXPERT), window.size_XX
        at = _before(size_XX[me]), size_XX[me], _before(size_XX)[me], size_XX[:, me]
        return jax.lax.ragged_all_to_all(x_Yx, jnp.zeros_like(x_Yx), *at, axis_name=EXPERT)

    def back(self, y_Yx: jax.Array, window: Window, plan: Plan, y_Zx: jax.Array) -> jax.Array:
        me, size_XX = jax.lax.axis_index(EXPERT), window.size_XX
        place_X = (_before(plan.pair_XX.T).T + window.first_XX)[:, me]
        at = _before(size_XX[:, me]), size_XX[:, me], place_X, size_XX[me]
        return jax.lax.ragged_all_to_all(y_Yx, y_Zx, *at, axis_name=EXPERT)


def _before(size_Xx: jax.Array) -> jax.Array:
    """The sum of those before, along the first axis."""
    return jnp.cumsum(size_Xx, axis=0) - size_Xx


def make_plan(
    transport: Transport, expert_TA: jax.Array, real_T: jax.Array, experts: int, everywhere: tuple[str, ...]
) -> tuple[Plan, jax.Array]:
    """(the plan, load_E of this device's tokens).

    Args:
      everywhere: the mesh axes that tokens are split over.
    """
    wanted_Z = jnp.where(real_T[:, None], expert_TA, experts).reshape(-1)
    assignment_Z = jnp.argsort(wanted_Z)
    edge_E = jnp.searchsorted(wanted_Z[assignment_Z], jnp.arange(experts + 1)).astype(jnp.int32)
    load_E = jnp.diff(edge_E)
    all_XE = jax.lax.all_gather(load_E, EXPERT)
    devices = all_XE.shape[0]
    by_device_XXE = all_XE.reshape(devices, devices, -1)
    pair_XX = by_device_XXE.sum(axis=-1)
    held_XE = jnp.cumsum(by_device_XXE[:, jax.lax.axis_index(EXPERT)], axis=-1)
    # The same number everywhere, so that all devices meet in every collective of the loop.
    rounds = jax.lax.pmax(transport.rounds(pair_XX, window_rows(wanted_Z.shape[0], devices)), everywhere)
    place_TA = jnp.argsort(assignment_Z).reshape(expert_TA.shape)
    return Plan(assignment_Z, place_TA, pair_XX, held_XE, jnp.maximum(rounds, 1)), load_E


def open_window(transport: Transport, plan: Plan, number: jax.Array) -> Window:
    """The window of round `number`."""
    me, devices, count = jax.lax.axis_index(EXPERT), plan.pair_XX.shape[0], plan.assignment_Z.shape[0]
    rows = window_rows(count, devices)
    part_XX = -(-plan.pair_XX // plan.rounds)
    first_XX = number * part_XX
    size_XX = jnp.clip(plan.pair_XX - first_XX, 0, part_XX)
    to_Y, number_Y, real_Y = transport.cut(size_XX[me], rows)
    place_Y = (_before(plan.pair_XX[me]) + first_XX[me])[to_Y] + number_Y
    send_Y = jnp.where(real_Y, jnp.take(plan.assignment_Z, place_Y, mode="clip"), count)
    from_Y, number_Y, real_Y = transport.cut(size_XX[:, me], rows)
    number_Y += first_XX[from_Y, me]
    expert_Y = (number_Y[:, None] >= plan.held_XE[from_Y]).sum(axis=-1, dtype=jnp.int32)
    return Window(size_XX, first_XX, send_Y, expert_Y, real_Y)
