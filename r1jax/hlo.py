"""What a compiled program sends between devices and holds in memory, read from the text that XLA writes of it."""

from __future__ import annotations

import collections
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

# Bytes a device sends, of the bytes that the operation gives (or, of a reduce-scatter, takes), by group size g.
_SENT = {
    "all-gather": lambda g: (g - 1) / g,
    "all-reduce": lambda g: 2 * (g - 1) / g,
    "reduce-scatter": lambda g: (g - 1) / g,
    "all-to-all": lambda g: (g - 1) / g,
    "ragged-all-to-all": lambda g: (g - 1) / g,
    "collective-permute": lambda g: 1.0,
    "collective-broadcast": lambda g: 1.0,
}
_BITS = {"pred": 8, "token": 0, "opaque": 0, "c64": 64, "c128": 128}

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_OPERATION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][a-z0-9\-]*)\((.*)$")
_SHAPE = re.compile(r"\b([a-z]+\d*(?:e\d+m\d+\w*)?)\[([\d,<=]*)\]")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition|\w+_computations?)=(\{[^}]*\}|%?[\w.\-]+)")
_NAME = re.compile(r'op_name="([^"]*)"')


class Operation(NamedTuple):
    name: str
    shape: str  # of its result, as XLA writes it
    code: str  # "all-gather", "while", ...
    rest: str  # operands and attributes


class Collective(NamedTuple):
    """The collectives of one kind, shape and group size; what a device sends in all of them."""

    kind: str
    shape: str  # of the result, on one device
    group: int  # devices that take part
    times: int  # that a run of the program does it
    bytes: int  # that a device sends, over all of those
    crosses: bool  # from one slice to another
    open_ended: bool  # inside a loop whose length is known at run time only: `times` and `bytes` are of one pass
    source: str  # where in the model


class Buffer(NamedTuple):
    """One array in a device's memory."""

    bytes: int
    shape: str
    kind: str  # argument | temporary
    source: str  # where in the model


def collectives(text: str, per_slice: int) -> list[Collective]:
    """What a program sends, loops counted as often as they run; the largest first.

    A collective that is split into start and done counts once. Sizes are of unpadded arrays.

    Args:
      per_slice: devices of a slice; they are numbered slice by slice.
    """
    found: collections.Counter = collections.Counter()
    sources: dict[tuple, str] = {}
    computations, entry = parse(text)
    for operation, times, open_ended in _walk(computations, entry):
        kind = operation.code.removesuffix("-start")
        if kind not in _SENT:
            continue
        groups = _groups(operation.rest)
        size = len(groups[0])
        crosses = any(len({device // per_slice for device in group}) > 1 for group in groups)
        sent = int(_SENT[kind](size) * _moved(kind, operation, size))
        key = (kind, _plain(operation), size, sent, crosses, open_ended)
        found[key] += times
        sources.setdefault(key, _source(operation.rest))
    every = [
        Collective(kind, shape, size, count, count * sent, crosses, open_ended, sources[key])
        for key, count in found.items()
        for kind, shape, size, sent, crosses, open_ended in [key]
    ]
    return sorted(every, key=lambda x: -x.bytes)


def buffers(assignment: str, text: str, least: int) -> list[Buffer]:
    """The arrays of at least `least` bytes that share a device's main memory, the largest first.

    Args:
      assignment: XLA's `buffer-assignment.txt`. What stands in one place one after another is all listed.
      text: the program, for where in the model an array comes from.
    """
    sources = {o.name: _source(o.rest) for body in parse(text)[0].values() for o in body}
    found: dict[tuple[str, int, str], Buffer] = {}
    kind = ""
    for line in assignment.splitlines():
        if line.startswith("allocation "):
            main = ", color" not in line or ", color 0" in line
            kind = ("argument" if "parameter" in line else "temporary") if main else ""
        value = re.match(r"\s*value: <\d+ ([\w.\-]+).*?> \(size=(\d+),offset=(\d+)\): (.*)$", line)
        if value and kind and int(value[2]) >= least and not value[4].startswith("("):
            name, size, shape = value[1], int(value[2]), _bare(value[4])
            found.setdefault((kind, size, shape), Buffer(size, shape, kind, sources.get(name, "") or name))
    return sorted(found.values(), key=lambda x: -x.bytes)


def parse(text: str) -> tuple[dict[str, list[Operation]], str]:
    """(operations of each computation, the entry's name)."""
    computations: dict[str, list[Operation]] = {}
    entry, body = "", []
    for line in text.splitlines():
        head = _COMPUTATION.match(line)
        if head:
            body = computations.setdefault(head[2], [])
            entry = head[2] if head[1] else entry
        elif operation := _OPERATION.match(line):
            body.append(Operation(*operation.groups()))
    return computations, entry


def _walk(
    computations: dict[str, list[Operation]], name: str, times: int = 1, open_ended: bool = False
) -> Iterator[tuple[Operation, int, bool]]:
    """Each operation that runs, how often, and whether in a loop of unknown length (which counts once).

    A collective that the compiler spreads over other work stands in several fusions; that which starts it counts.
    """
    for operation in computations.get(name, ()):
        yield operation, times, open_ended
        inner, unknown = times, open_ended
        if operation.code == "while":
            trips = _trips(computations, operation)
            inner, unknown = times * (trips or 1), open_ended or trips is None
        if operation.name.startswith("async-collective-done"):
            continue
        for called in _CALLED.findall(operation.rest):
            for one in called.strip("{}").split(", "):
                if one.startswith("%async_collective_fusion"):
                    continue
                yield from _walk(computations, one.removeprefix("%"), inner, unknown)


def _trips(computations: dict[str, list[Operation]], loop: Operation) -> int | None:
    """How often a loop runs, if it counts from 0 to a constant; None if that is known at run time only."""
    condition = computations[re.findall(r"condition=%?([\w.\-]+)", loop.rest)[0]]
    test = condition[-1]
    if test.code != "compare" or "direction=LT" not in test.rest:
        return None
    limit = re.findall(r"%?([\w.\-]+)", test.rest.split(")")[0])[-1]
    constants = {o.name: o.rest.split(")")[0] for o in condition if o.code == "constant"}
    return int(constants[limit]) if limit in constants else None


def bytes_of(shape: str) -> int:
    """Of an array, or of all arrays of a tuple, without padding."""
    total = 0
    for kind, dims in _SHAPE.findall(shape):
        count = math.prod(int(d.removeprefix("<=")) for d in dims.split(",") if d)
        total += count * _bits(kind) // 8
    return total


def _bits(kind: str) -> int:
    if kind in _BITS:
        return _BITS[kind]
    digits = re.match(r"[a-z]+(\d+)", kind)
    return int(digits[1]) if digits else 0


def _moved(kind: str, operation: Operation, group: int) -> int:
    """The bytes that `_SENT` speaks of."""
    shapes = _arrays(operation.shape)
    if operation.code.endswith("-start") and kind in ("all-gather", "collective-permute"):
        shapes = shapes[1:2] if not operation.shape.startswith("((") else shapes[len(shapes) // 2 :]
    size = sum(map(bytes_of, shapes))
    return size * group if kind == "reduce-scatter" else size


def _arrays(shape: str) -> list[str]:
    return [f"{kind}[{dims}]" for kind, dims in _SHAPE.findall(shape)]


def _plain(operation: Operation) -> str:
    """The result's shape without layout; of an operation that starts, that of what it will give."""
    arrays = _arrays(operation.shape)
    if operation.code in ("all-gather-start", "collective-permute-start"):
        arrays = arrays[1:2]
    return arrays[0] if len(arrays) == 1 else f"{len(arrays)} x {arrays[0]}"


def _bare(shape: str) -> str:
    return re.sub(r"\{[^}]*\}", "", shape)


def _groups(rest: str) -> list[list[int]]:
    """Devices that exchange among themselves: of a permute its pairs, else those of one group, as all are alike.

    Groups are written by a mesh's axes, as `[groups,size]<=[...]T(...)`, or one by one.
    """
    if pairs := re.search(r"source_target_pairs=\{(.*?)\}\}", rest):
        return [[int(a), int(b)] for a, b in re.findall(r"(\d+),(\d+)", pairs[1])]
    if by_axes := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", rest):
        return [_along(by_axes[1], by_axes[2])]
    if iota := re.search(r"replica_groups=\[\d+,(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", rest):
        dims = [int(n) for n in iota[2].split(",")]
        order = [int(n) for n in iota[3].split(",")] if iota[3] else range(len(dims))
        numbers = np.arange(math.prod(dims)).reshape(dims).transpose(order)
        return [numbers.reshape(-1)[: int(iota[1])].tolist()]
    listed = re.search(r"replica_groups=\{\{([\d,]*)\}", rest)
    return [[int(n) for n in listed[1].split(",")]] if listed else [[0, 1]]


def _along(mesh: str, axes: str) -> list[int]:
    """The devices of the first group of `mesh['a'=2,'b'=8] {'b'}`; `'b':(2)4` is a part of b, behind one of 2."""
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", mesh)}
    strides, stride = {}, 1
    for name in reversed(sizes):
        strides[name] = stride
        stride *= sizes[name]
    devices = np.zeros(1, int)
    for name, before, part in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", axes):
        size = int(part or sizes[name])
        step = strides[name] * (sizes[name] // (int(before or 1) * size))
        devices = (devices[:, None] + step * np.arange(size)).reshape(-1)
    return devices.tolist()


def _source(rest: str) -> str:
    """The last of the model's own names that an operation carries."""
    name = _NAME.search(rest)
    parts = [
        part for part in (name[1] if name else "").split("/") if not re.match(r"(jit|jvp|transpose|while|body)\b", part)
    ]
    return "/".join(parts[-4:])
