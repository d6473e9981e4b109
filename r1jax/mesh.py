"""The device mesh, and the one table that says which mesh axes each dimension is split over.

A parameter's name ends in its axes (`gate_EDF`), so its sharding follows from its name: `spec("EDF", WEIGHTS)`.
Layers are scanned, so a parameter may carry a leading N that its name does not show; N is never split.

Tokens are split over every axis but `tensor`: rows over data, fsdp and expert, a row's tokens over context. Parameters
are spread over the axes where they are gathered for use, fsdp and context, and where they stay, expert and tensor.
"""

from __future__ import annotations

import math

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from r1jax.config import MeshConfig
from r1jax.types import PyTree

AXES = ("data", "fsdp", "expert", "tensor", "context")

# Letter of the dimension key -> mesh axes. What is not listed is whole on every device.
WEIGHTS: dict[str, tuple[str, ...]] = {
    "D": ("fsdp", "context"),
    "Q": ("fsdp", "context"),
    "W": ("fsdp", "context"),
    "H": ("tensor",),
    "K": ("tensor",),
    "F": ("tensor",),
    "E": ("expert",),
    "V": ("tensor",),
}
LATENT = ("Q", "W")  # split as a weight's D is, where it has none
ACTIVATIONS = {
    "B": ("data", "fsdp", "expert"),
    "R": ("data", "fsdp", "expert"),
    "P": ("data", "fsdp", "expert"),
    "T": ("context",),
    "H": ("tensor",),
    "F": ("tensor",),
    "V": ("tensor",),
}


def make_mesh(config: MeshConfig, devices: list | None = None) -> Mesh:
    """A mesh of all devices, or of `devices`, with the axes of `AXES`.

    Of several TPU slices, which are joined by the data centre's network, the axis `data` alone crosses from one to
    another; the other axes stay within a slice, on its torus.

    Raises:
      ValueError: the axes do not multiply to the number of devices, or `data` does not divide over the slices.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = {name: getattr(config, name) for name in AXES}
    free = [name for name, size in sizes.items() if size == -1]
    bad = [f"mesh.{name} is {size}" for name, size in sizes.items() if size < 1 and size != -1]
    if bad or len(free) > 1:
        what = ", ".join(bad or [f"mesh.{name} is -1" for name in free])
        raise ValueError(f"{what}; expected positive sizes and at most one -1 (takes what is left)")
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if free:
        sizes[free[0]] = len(devices) // fixed
    if math.prod(sizes.values()) != len(devices):
        asked = " x ".join(f"{name}={size}" for name, size in sizes.items())
        raise ValueError(f"mesh {asked} does not match {len(devices)} devices; set one axis to -1 to take what is left")
    return Mesh(_arrange(devices, tuple(sizes.values())), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _arrange(devices: list, sizes: tuple[int, ...]) -> np.ndarray:
    """The devices as an array of `sizes`, neighbours on a TPU's torus where they can be."""
    if devices[0].platform != "tpu":
        return mesh_utils.create_device_mesh(sizes, devices)
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1:
        return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    data, *others = sizes
    if data % slices:
        raise ValueError(
            f"mesh.data is {data} on {slices} slices; expected a multiple of {slices}, as only data crosses slices"
        )
    return mesh_utils.create_hybrid_device_mesh(
        (data // slices, *others), (slices, *[1] * len(others)), devices, allow_split_physical_axes=True
    )


def spec(letters: str, table: dict[str, tuple[str, ...]]) -> PartitionSpec:
    """The PartitionSpec of an array whose axes are `letters`; a mesh axis used twice raises ValueError."""
    parts = [_axes(letter, letters, table) for letter in letters]
    used = [axis for part in parts for axis in part]
    twice = {axis for axis in used if used.count(axis) > 1}
    if twice:
        raise ValueError(
            f"axes {letters!r} use mesh axis {', '.join(sorted(twice))} twice; change the table in mesh.py"
        )
    return PartitionSpec(*[part if part else None for part in parts])


def _axes(letter: str, letters: str, table: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    return () if letter in LATENT and "D" in letters else table.get(letter, ())


def constrain(x: jax.Array, letters: str) -> jax.Array:
    """Pins an activation to the table's sharding, where a mesh is set (`jax.set_mesh`); else returns it as it is."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, spec(letters, ACTIVATIONS))


def activation_sharding(mesh: Mesh, letters: str) -> NamedSharding:
    return NamedSharding(mesh, spec(letters, ACTIVATIONS))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def batch_multiple(mesh: Mesh) -> int:
    """What the number of sequences or rows must be a multiple of, to be split over this mesh."""
    return math.prod(mesh.shape[axis] for axis in ACTIVATIONS["B"])


def state_shardings(mesh: Mesh, abstract: PyTree) -> PyTree:
    """A NamedSharding for each leaf of a tree of parameters or of a state built from them (optimizer, reference).

    The axes are read off the last path name that ends in `_LETTERS` with as many letters as the leaf has axes, or
    one fewer (the scanned N); any other leaf (a counter) is replicated.

    Raises:
      ValueError: a dimension does not divide over its mesh axes; names the parameter, dimension and axis.
    """
    return jax.tree_util.tree_map_with_path(lambda path, leaf: _leaf_sharding(mesh, path, leaf), abstract)


def _leaf_sharding(mesh: Mesh, path: tuple, leaf: jax.ShapeDtypeStruct) -> NamedSharding:
    names = [str(getattr(key, "key", getattr(key, "name", ""))) for key in path]
    letters = next((name.rsplit("_", 1)[1] for name in reversed(names) if "_" in name), "")
    if letters.isupper() and len(letters) == leaf.ndim - 1:
        letters = "N" + letters
    if not letters.isupper() or len(letters) != leaf.ndim:
        return replicated(mesh)
    for letter, size in zip(letters, leaf.shape, strict=True):
        axes = _axes(letter, letters, WEIGHTS)
        ways = math.prod(mesh.shape[axis] for axis in axes)
        if size % ways:
            raise ValueError(
                f"{'/'.join(names)}: dimension {letter} of size {size} does not divide over mesh axis "
                f"{'*'.join(axes)} of size {ways}; change the mesh or the policy's size"
            )
    return NamedSharding(mesh, spec(letters, WEIGHTS))
