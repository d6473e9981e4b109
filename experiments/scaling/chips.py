"""What a chip can do at most, by its maker: arithmetic, memory, and the links to its neighbours. All in powers of ten.

Sources, read in 2026-11:
- v5p: https://docs.cloud.google.com/tpu/docs/v5p: 459 TFLOP/s, 95 GB at 2,765 GB/s, 1,200 GB/s of ICI both ways over
  the 6 ports of a 3D torus, 50 Gb/s of data-centre network a chip; rings close in slices of whole cubes of 4x4x4.
- v6e: https://docs.cloud.google.com/tpu/docs/v6e: 918 TFLOP/s, 32 GB at 1,638 GB/s, 800 GB/s of ICI both ways over the
  4 ports of a 2D torus, 256 chips a slice at most; rings close along a side of 16. The same page, in an earlier
  edition: 4 network cards of 200 Gb/s a host of 8 chips.
- H200 SXM: https://www.nvidia.com/en-us/data-center/h200/: 989 TFLOP/s dense (1,979 with sparsity), 141 GB at 4.8 TB/s,
  NVLink of 900 GB/s both ways; machines of 8, each GPU with a 400 Gb/s card: https://github.com/mlcommons/
  inference_results_v4.1, closed/NVIDIA/systems/H200-SXM-141GBx8_TRT.json.
Arithmetic is the table that MFU is reckoned by (r1jax/training/flops.py).
"""

from __future__ import annotations

import dataclasses
import math

from r1jax.training.flops import PEAK

GB = 1e9


@dataclasses.dataclass(frozen=True)
class Chip:
    """Bandwidths are bytes a second in one direction."""

    name: str
    flops: float  # a second, bfloat16, dense
    memory: float  # bytes
    memory_rate: float  # bytes a second
    link_rate: float  # of one port of the torus; of a GPU, of all its NVLinks
    network_rate: float  # between slices, or between machines, a chip
    dims: int  # of the torus; 0 where all chips of a machine are linked alike
    ring: int  # a torus dimension closes to a ring where its extent is a multiple of this
    domain: int  # chips that the links join at most: a slice, a machine

    def shape(self, chips: int) -> tuple[int, ...]:
        """The torus of a slice of so many chips: as even as powers of two can be, the long sides last."""
        if not self.dims:
            return (chips,)
        if chips & (chips - 1):
            raise ValueError(f"chips is {chips}; expected a power of two")
        if chips == 4 and self.dims == 3:
            return (2, 2, 1)
        power = chips.bit_length() - 1
        low, more = divmod(power, self.dims)
        return tuple(2 ** (low + (i >= self.dims - more)) for i in range(self.dims))

    def slices(self, chips: int) -> int:
        """Into how many slices so many chips fall; GPUs are joined by one network, which counts as one slice."""
        return max(1, chips // self.domain) if self.dims else 1


V5P = Chip("v5p", PEAK["TPU v5p"], 95 * GB, 2765 * GB, 1200 * GB / 12, 50 * GB / 8, 3, 4, 4096)
V6E = Chip("v6e", PEAK["TPU v6"], 32 * GB, 1638 * GB, 800 * GB / 8, 4 * 200 * GB / 8 / 8, 2, 16, 256)
H200 = Chip("H200", PEAK["H200"], 141 * GB, 4800 * GB, 900 * GB / 2, 400 * GB / 8, 0, 0, 8)
CHIPS = (V5P, V6E, H200)


@dataclasses.dataclass(frozen=True)
class Piece:
    """What a mesh axis takes of one dimension of the torus: `extent` chips, `stride` apart."""

    extent: int
    stride: int
    ring: bool


def torus_pieces(chip: Chip, chips: int, sizes: dict[str, int]) -> dict[str, list[Piece]]:
    """Lays the mesh axes on the torus of one slice: whole dimensions where they fit, else parts of them.

    The largest axis chooses first. Where two share a dimension, the later one's chips lie further apart.
    """
    shape = chip.shape(chips)
    closed = [extent >= chip.ring and extent % chip.ring == 0 for extent in shape]
    left, stride = list(shape), [1] * len(shape)
    pieces: dict[str, list[Piece]] = {}
    for axis, size in sorted(sizes.items(), key=lambda item: -item[1]):
        pieces[axis] = []
        for i in _dimensions(left, size):
            take = math.gcd(size, left[i])
            if take == 1:
                continue
            pieces[axis].append(Piece(take, stride[i], closed[i] and take * stride[i] == shape[i]))
            size, left[i], stride[i] = size // take, left[i] // take, stride[i] * take
        assert size == 1, f"{axis} does not fit into the torus {shape}"
    return pieces


def _dimensions(left: list[int], size: int) -> list[int]:
    """The dimensions in the order in which an axis takes them: those that make up its size, then the largest."""
    whole = range(1, 2 ** len(left))
    sets = [[i for i in range(len(left)) if mask >> i & 1] for mask in whole]
    exact = [s for s in sets if math.prod(left[i] for i in s) == size and all(left[i] > 1 for i in s)]
    first = max(exact, key=len) if exact else []
    return first + [i for i in sorted(range(len(left)), key=lambda i: -left[i]) if i not in first]
