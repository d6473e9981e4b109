"""One tree of parameters, laid out as training wants it and, while tokens are sampled, as decoding does.

Both layouts are meshes of the same devices in the same order, so moving between them is a jitted program of collectives
over donated parameters. XLA left alone gathers whole arrays on every device where a dimension's devices are divided
anew among two; so the program goes in small steps that it knows how to do well, each the change of one axis.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from r1jax.config import MeshConfig
from r1jax.mesh import make_mesh, state_shardings
from r1jax.types import PyTree

Result = TypeVar("Result")
Split = tuple[tuple[str, ...], ...]  # of each dimension the mesh axes it is split over, the major first
Change = tuple[str, int | None, int | None]  # an axis, the dimension it leaves, the dimension it comes to


class Move(NamedTuple):
    """Some arrays from one layout to another, and back."""

    there: Callable[..., list[jax.Array]]
    back: Callable[..., list[jax.Array]]
    received: tuple[int, int]  # bytes that devices get from others, there and back, over all devices


class Placement:
    """Lends a policy's parameters to the sampler on a mesh of its own.

    Args:
      abstract: the parameters' shapes with their shardings in training.
      mesh: to sample on; `decode_mesh` makes it.
    """

    def __init__(self, abstract: PyTree, mesh: Mesh):
        self.mesh = mesh
        leaves, self._tree = jax.tree.flatten(abstract)
        wanted = jax.tree.leaves(state_shardings(mesh, abstract))
        self._moved = [i for i, leaf in enumerate(leaves) if not leaf.sharding.is_equivalent_to(wanted[i], leaf.ndim)]
        self._move = _move([leaves[i] for i in self._moved], [wanted[i] for i in self._moved])

    def lend(self, params: PyTree, use: Callable[[PyTree], Result]) -> tuple[Result, PyTree, dict[str, float]]:
        """Calls `use` with the parameters laid out for sampling, and takes them back.

        What is laid out alike for both is handed on as it is; of the rest there is one copy at any time.

        Returns:
          (what `use` gave, the parameters as they were: those given are donated, {"reshard/bytes": bytes that devices
          got from one another, all devices together, "time/reshard_s"}; empty where both layouts are one).
        """
        if not self._moved:
            return use(params), params, {}
        lent, there_s = self._timed(self._move.there, params)
        del params
        result = use(lent)
        params, back_s = self._timed(self._move.back, lent)
        return result, params, {"reshard/bytes": float(sum(self._move.received)), "time/reshard_s": there_s + back_s}

    def give(self, params: PyTree, use: Callable[[PyTree], Result]) -> tuple[Result, dict[str, float]]:
        """As `lend`, of parameters that nobody wants back."""
        if not self._moved:
            return use(params), {}
        given, there_s = self._timed(self._move.there, params)
        del params
        return use(given), {"reshard/bytes": float(self._move.received[0]), "time/reshard_s": there_s}

    def _timed(self, move: Callable[..., list[jax.Array]], params: PyTree) -> tuple[PyTree, float]:
        leaves = jax.block_until_ready(jax.tree.leaves(params))
        began = time.perf_counter()
        moved = jax.block_until_ready(move(*[leaves[i] for i in self._moved]))
        for i, leaf in zip(self._moved, moved, strict=True):
            leaves[i].delete()  # what donation could not take: its shards have another shape
            leaves[i] = leaf
        return jax.tree.unflatten(self._tree, leaves), time.perf_counter() - began


def decode_mesh(config: MeshConfig | None, mesh: Mesh) -> Mesh:
    """The mesh to sample on: `mesh` itself, or its devices in their order with the axes of `config`."""
    if config is None:
        return mesh
    made = make_mesh(config, list(mesh.devices.flat))
    return Mesh(mesh.devices.reshape(made.devices.shape), made.axis_names, axis_types=made.axis_types)


def received_bytes(shape: tuple[int, ...], itemsize: int, source: NamedSharding, target: NamedSharding) -> int:
    """Bytes of an array's new shards that their devices did not hold before, summed over the devices."""
    before, after = (sharding.devices_indices_map(shape) for sharding in (source, target))
    total = 0
    for device, parts in after.items():
        wanted = [part.indices(size)[:2] for part, size in zip(parts, shape, strict=True)]
        held = [part.indices(size)[:2] for part, size in zip(before[device], shape, strict=True)]
        kept = [max(0, min(a[1], b[1]) - max(a[0], b[0])) for a, b in zip(wanted, held, strict=True)]
        total += math.prod(stop - start for start, stop in wanted) - math.prod(kept)
    return total * itemsize


def _move(leaves: list[jax.ShapeDtypeStruct], wanted: list[NamedSharding]) -> Move:
    kept = [leaf.sharding for leaf in leaves]

    def received(source: list[NamedSharding], target: list[NamedSharding]) -> int:
        ways = zip(leaves, source, target, strict=True)
        return sum(received_bytes(leaf.shape, leaf.dtype.itemsize, *way) for leaf, *way in ways)

    shapes, both = [leaf.shape for leaf in leaves], (received(kept, wanted), received(wanted, kept))
    return Move(_resharded(shapes, kept, wanted), _resharded(shapes, wanted, kept), both)


def _resharded(
    shapes: list[tuple[int, ...]], source: list[NamedSharding], target: list[NamedSharding]
) -> Callable[..., list[jax.Array]]:
    """The jitted program that moves arrays, step by step. Where a shard keeps its shape the array is donated."""
    ways = [stations(*of) for of in zip(shapes, source, target, strict=True)]
    ends = zip(shapes, source, target, strict=True)
    reused = [i for i, (shape, *of) in enumerate(ends) if of[0].shard_shape(shape) == of[1].shard_shape(shape)]

    def move(*given: jax.Array) -> list[jax.Array]:
        arrays = list(given)
        for station in range(max((len(way) for way in ways), default=0)):
            arrays = [
                jax.lax.with_sharding_constraint(x, way[station]) if station < len(way) else x
                for x, way in zip(arrays, ways, strict=True)
            ]
        return arrays

    return jax.jit(move, in_shardings=tuple(source), out_shardings=target, donate_argnums=reused)


def stations(shape: tuple[int, ...], source: NamedSharding, target: NamedSharding) -> list[NamedSharding]:
    """Shardings on the way from one to the other, both ends left out: each changes one axis of a mesh finer than both.

    Where no mesh is finer than both (3 x 2 devices and 2 x 3) there are none.
    """
    one, other = source.mesh, target.mesh
    assert isinstance(one, Mesh) and isinstance(other, Mesh), "parameters lie on devices"
    fine = refinement(one, other)
    if fine is None:
        return []
    way = path(shape, _on(fine, source, len(shape)), _on(fine, target, len(shape)), dict(fine.shape))
    return [NamedSharding(fine, PartitionSpec(*[axes or None for axes in split])) for split in way[:-1]]


def refinement(one: Mesh, other: Mesh) -> Mesh | None:
    """The coarsest mesh, of the same devices in the same order, whose axes divide those of both; None if none does."""
    strides = sorted({stride for mesh in (one, other) for span in _strides(mesh).values() for stride in span})
    if any(b % a for a, b in itertools.pairwise(strides)):
        return None
    sizes = [b // a for a, b in itertools.pairwise(strides)][::-1] or [1]
    names = tuple(f"axis{i}" for i in range(len(sizes)))
    return Mesh(one.devices.reshape(sizes), names, axis_types=(AxisType.Auto,) * len(names))


def path(shape: Sequence[int], source: Split, target: Split, sizes: dict[str, int]) -> list[Split]:
    """Splits from `source`, which is left out, to `target`: an axis at a time is added, moved or taken away.

    Added first, for what is cut smaller costs less to move; taken away last.
    """
    now = [list(axes) for axes in source]
    home = {axis: i for i, axes in enumerate(target) for axis in axes}
    found: list[Split] = []
    while (change := _next_change(shape, now, home, sizes)) is not None:
        axis, origin, goal = change
        if origin is not None:
            now[origin].remove(axis)
        if goal is not None:
            now[goal].append(axis)
        found.append(tuple(map(tuple, now)))
    return found if found and found[-1] == target else [*found, target]


def _next_change(
    shape: Sequence[int], now: list[list[str]], home: dict[str, int], sizes: dict[str, int]
) -> Change | None:
    """The next step; None where all axes are at home."""
    place = {axis: i for i, axes in enumerate(now) for axis in axes}

    def fits(axis: str) -> bool:
        return shape[home[axis]] % math.prod(sizes[a] for a in [*now[home[axis]], axis]) == 0

    added: list[Change] = [(axis, None, i) for axis, i in home.items() if axis not in place and fits(axis)]
    astray = [axis for axis, i in place.items() if axis in home and home[axis] != i]
    moved: list[Change] = [(axis, place[axis], home[axis]) for axis in astray if fits(axis)]
    removed: list[Change] = [(axis, i, None) for axis, i in place.items() if axis not in home]
    return next(iter([*added, *moved, *removed]), None)


def _strides(mesh: Mesh | AbstractMesh) -> dict[str, tuple[int, int]]:
    """Of each axis, how far apart its neighbours are in the order of the devices, and how far its whole reaches."""
    found, stride = {}, 1
    for name in reversed(mesh.axis_names):
        found[name] = (stride, stride * mesh.shape[name])
        stride *= mesh.shape[name]
    return found


def _on(fine: Mesh, sharding: NamedSharding, ndim: int) -> Split:
    """A sharding's split in the axes of a refinement of its mesh."""
    spans, pieces = _strides(sharding.mesh), _strides(fine)

    def refined(axes: Any) -> tuple[str, ...]:
        whole = (axes,) if isinstance(axes, str) else axes or ()
        return tuple(
            piece
            for axis in whole
            for piece in fine.axis_names
            if spans[axis][0] <= pieces[piece][0] and pieces[piece][1] <= spans[axis][1]
        )

    parts = [*sharding.spec, *[None] * (ndim - len(sharding.spec))]
    return tuple(refined(axes) for axes in parts)
