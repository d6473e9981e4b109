"""safetensors files: sharded checkpoints read by byte ranges, and written one tensor at a time.

The format is an 8-byte little-endian header length, a JSON header (name -> dtype, shape, byte range), and the tensors'
bytes. It is read here rather than by the `safetensors` package, whose NumPy side has no FP8 (0.8 raises) and whose
memory map stays resident until the file is closed: `pread` of just the rows asked for keeps the host's memory small.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
DTYPES = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
_LONGEST_HEADER = 100 << 20  # bytes; the format's own limit


class Stored(NamedTuple):
    """Where a tensor lies."""

    path: Path
    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int  # bytes from the file's start


class TensorFiles:
    """The tensors of a folder with `model.safetensors`, or shards and `model.safetensors.index.json`.

    A context manager; opening it reads headers alone, and checks that every tensor's bytes are there.

    Raises:
      ValueError: a file is missing, truncated, or no safetensors file; a tensor is twice there, or not where the index
        says. Names the file and the tensor.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)
        self.tensors: dict[str, Stored] = {}
        self._open: dict[Path, int] = {}
        self._closing = contextlib.ExitStack()
        index = self._index()
        for name in sorted(set(index.values())) or [SINGLE]:
            for tensor, stored in _header(self.folder / name).items():
                if tensor in self.tensors:
                    raise ValueError(f"tensor {tensor} stands in {self.tensors[tensor].path.name} and in {name}")
                self.tensors[tensor] = stored
        for tensor, name in index.items():
            if tensor not in self.tensors or self.tensors[tensor].path.name != name:
                raise ValueError(f"tensor {tensor} is not in {self.folder / name}, where {INDEX} places it")

    def __enter__(self) -> TensorFiles:
        return self

    def __exit__(self, *exc) -> None:
        self._closing.close()

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """A tensor as stored, or its rows `start:stop`. Raises ValueError where the file ends before them."""
        path, dtype, shape, offset = self.tensors[name]
        rows = slice(start, stop).indices(shape[0]) if shape else (0, 1, 1)
        row = math.prod(shape[1:]) * dtype.itemsize
        out = np.empty((rows[1] - rows[0], *shape[1:]) if shape else (), dtype)
        flat = out.reshape(-1).view(np.uint8).data
        done, at = 0, offset + rows[0] * row
        while done < len(flat):
            got = os.preadv(self._descriptor(path), [flat[done:]], at + done)
            if got <= 0:
                raise ValueError(f"tensor {name}: {path} ends before it; the file is truncated, copy it again")
            done += got
        return out

    def _index(self) -> dict[str, str]:
        path = self.folder / INDEX
        if not path.exists():
            return {}
        try:
            return dict(json.loads(path.read_text(encoding="utf-8"))["weight_map"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is not an index of shards ({error!r}); copy it again") from error

    def _descriptor(self, path: Path) -> int:
        if path not in self._open:
            self._open[path] = os.open(path, os.O_RDONLY)
            self._closing.callback(os.close, self._open[path])
        return self._open[path]


def _header(path: Path) -> dict[str, Stored]:
    """The tensors of one file."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(_LONGEST_HEADER, size - 8):
                raise ValueError(f"{path} is truncated or no safetensors file ({size} bytes); copy it again")
            header = json.loads(file.read(length))
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); copy the checkpoint again") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} has a damaged header ({error}); copy it again") from error
    header.pop("__metadata__", None)
    found = {}
    for name, entry in header.items():
        try:
            dtype, shape, (start, stop) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"tensor {name} of {path} has a damaged header ({error!r}); copy it again") from error
        if dtype not in DTYPES:
            raise ValueError(f"tensor {name} of {path} is {dtype}; expected one of {', '.join(DTYPES)}")
        stored = Stored(path, DTYPES[dtype], shape, 8 + length + start)
        if stop - start != math.prod(stored.shape) * stored.dtype.itemsize:
            raise ValueError(f"tensor {name} of {path} has {stop - start} bytes, which {stored.shape} does not fit")
        if 8 + length + stop > size:
            raise ValueError(
                f"tensor {name}: {path} has {size} bytes and should have {8 + length + stop}; the file is truncated, "
                "copy it again"
            )
        found[name] = stored
    return found


class ToWrite(NamedTuple):
    """A tensor to be written; `make` is called when its turn comes, so that one at a time is in memory."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    make: Callable[[], np.ndarray]

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def write_sharded(folder: Path, tensors: Iterable[ToWrite], shard_bytes: int) -> list[str]:
    """Writes tensors in order to shards of at most `shard_bytes` (one tensor may be larger) and their index.

    Returns:
      the shards' file names; a single one is `model.safetensors`, without index.
    """
    shards: list[list[ToWrite]] = [[]]
    for tensor in tensors:
        if shards[-1] and sum(t.bytes for t in shards[-1]) + tensor.bytes > shard_bytes:
            shards.append([])
        shards[-1].append(tensor)
    count = len(shards)
    names = [SINGLE] if count == 1 else [f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]
    for name, shard in zip(names, shards, strict=True):
        _write(folder / name, shard)
    if count > 1:
        index = {
            "metadata": {"total_size": sum(t.bytes for shard in shards for t in shard)},
            "weight_map": {t.name: name for name, shard in zip(names, shards, strict=True) for t in shard},
        }
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return names


def _write(path: Path, tensors: list[ToWrite]) -> None:
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}  # transformers refuses a file without it
    offset = 0
    for tensor in tensors:
        place = [offset, offset + tensor.bytes]
        header[tensor.name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": place}
        offset += tensor.bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors start at a multiple of 8
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            array = np.ascontiguousarray(tensor.make(), dtype=tensor.dtype)
            assert array.shape == tensor.shape, f"{tensor.name} is {array.shape}; its header says {tensor.shape}"
            file.write(array.reshape(-1).view(np.uint8).data)
        file.flush()
        os.fsync(file.fileno())
