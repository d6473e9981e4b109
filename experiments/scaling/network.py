"""Seconds that a collective takes at least, from the bytes of it and the links that a mesh axis lies on.

On a torus a chip receives over every link of the axis at once (both directions, every dimension); in an all-to-all the
middle of the longest dimension is what binds. Between slices and between machines every chip has its own share of the
network. No latency is counted, and every axis is given its links for itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

from experiments.scaling.chips import Chip, torus_pieces

AXES = ("data", "fsdp", "expert", "tensor", "context")  # as r1jax/mesh.py
INNERMOST = ("tensor", "expert", "context", "fsdp", "data")  # within a machine first, to whom links matter most


@dataclasses.dataclass(frozen=True)
class Links:
    """Of each mesh axis: bytes a second a chip receives in a gather, and seconds a byte costs that it sends to all."""

    gather: dict[str, float]
    exchange: dict[str, float]
    joined: Callable[[Iterable[float]], float]  # the rate of a gather over several axes, from theirs

    def gather_seconds(self, axes: tuple[str, ...], received: float) -> float:
        """Of an all-gather or a reduce-scatter over `axes` together; `received` bytes a chip."""
        rates = [self.gather[axis] for axis in axes if axis in self.gather]
        return received / self.joined(rates) if rates and received else 0.0

    def exchange_seconds(self, axis: str, sent: float) -> float:
        """Of an all-to-all; `sent` bytes leave a chip."""
        return sent * self.exchange.get(axis, 0.0)


def links(chip: Chip, sizes: dict[str, int]) -> Links:
    """The links of each mesh axis of more than one chip.

    Raises:
      ValueError: several slices, which only the axis `data` may cross, do not divide it.
    """
    return _torus(chip, sizes) if chip.dims else _machines(chip, sizes)


def _torus(chip: Chip, sizes: dict[str, int]) -> Links:
    chips = 1
    for size in sizes.values():
        chips *= size
    slices = chip.slices(chips)
    if sizes["data"] % slices:
        raise ValueError(f"data is {sizes['data']} on {slices} slices; only data crosses slices")
    within = sizes | {"data": sizes["data"] // slices}
    gather, exchange = {}, {}
    for axis, pieces in torus_pieces(chip, chips // slices, {a: n for a, n in within.items() if n > 1}).items():
        rates = [chip.link_rate * (2 if p.ring else 1) / p.stride for p in pieces]
        gather[axis] = sum(rates)
        # Bytes over the middle: a quarter of all that is sent, times the extent, over one link or, on a ring, two.
        exchange[axis] = max(p.extent / 4 / rate for p, rate in zip(pieces, rates, strict=True))
    if slices > 1:
        gather["data"] = chip.network_rate
    return Links(gather, exchange, sum)  # axes lie on different dimensions, or share one at half its rate


def _machines(chip: Chip, sizes: dict[str, int]) -> Links:
    gather, exchange, stride = {}, {}, 1
    for axis in INNERMOST:
        size = sizes[axis]
        if size > 1:
            near = min(size, max(1, chip.domain // stride))  # of the axis' chips, those in one machine
            far = size > near
            # The chips of a machine fetch what they all need once, each over its own card, and share it by NVLink.
            gather[axis] = min(chip.link_rate, chip.network_rate * near) if far else chip.link_rate
            outside = (size - near) / max(1, size - 1)
            exchange[axis] = max(outside / chip.network_rate, (1 - outside) / chip.link_rate)
        stride *= size
    return Links(gather, exchange, min)  # what has to come over the network binds
