"""What layers that are written device by device (`jax.shard_map`) share: whether there are several, and even shares."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from r1jax.mesh import ACTIVATIONS, spec


def is_split() -> bool:
    """Whether a mesh of more than one device is set (`jax.set_mesh`), and this is not one device's part already."""
    mesh = jax.sharding.get_abstract_mesh()
    return not mesh.empty and mesh.size > 1 and not mesh.manual_axes


def rows_spec() -> PartitionSpec:
    """How [R, T] is split: rows over some axes, the tokens of a row over others."""
    return spec("RT", ACTIVATIONS)


def axes_of(part: PartitionSpec) -> tuple[str, ...]:
    """The mesh axes that a PartitionSpec names, in order."""
    return tuple(
        axis for entry in part if entry is not None for axis in (entry if isinstance(entry, tuple) else (entry,))
    )


def ways(axes: tuple[str, ...]) -> int:
    """Into how many shares these axes of the mesh that is set cut."""
    shape = jax.sharding.get_abstract_mesh().shape
    return math.prod(shape[axis] for axis in axes)


def fill_up(x: jax.Array, part: PartitionSpec) -> jax.Array:
    """x with zeros behind, so that its leading axes divide as `part` splits them."""
    missing = [-size % ways(axes_of(PartitionSpec(entry))) for size, entry in zip(x.shape, part, strict=False)]
    if not any(missing):
        return x
    return jnp.pad(x, [(0, n) for n in missing] + [(0, 0)] * (x.ndim - len(missing)))
