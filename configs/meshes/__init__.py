"""Meshes for the machines that there are: devices along each axis, -1 for what is left.

Rows of a batch are split over data, fsdp and expert, a row's tokens over context, heads and feed-forwards over tensor.
Parameters are split over fsdp, expert and tensor, and whole along data and context. See docs/pods.md and docs/aot.md.
"""


def one_device() -> dict:
    return dict(data=1, fsdp=1, expert=1, tensor=1, context=1)


def tpu_slice(*, slices: int = 1) -> dict:
    """A dense policy on one slice of any size: everything is sharded over all chips. Several slices repeat it."""
    return dict(data=slices, fsdp=-1, expert=1, tensor=1, context=1)


def expert_slice(*, expert: int, slices: int = 1) -> dict:
    """A mixture of experts on one slice: each group of `expert` chips holds all experts."""
    return dict(data=slices, fsdp=-1, expert=expert, tensor=1, context=1)


def pod(*, expert: int, context: int, slices: int = 1) -> dict:
    """A mixture of experts on long sequences, where there are more chips than rows: `context` chips share a row."""
    return dict(data=slices, fsdp=-1, expert=expert, tensor=1, context=context)


def gpus(*, each: int = 8) -> dict:
    """Machines of `each` GPUs: heads and feed-forwards are split within one, where links are fast."""
    return dict(data=1, fsdp=-1, expert=1, tensor=each, context=1)


def decoding(*, tensor: int, slices: int = 1) -> dict:
    """To sample on: no parameter is gathered; experts stay where they are, all of them in each slice."""
    return dict(data=slices, fsdp=1, expert=-1, tensor=tensor, context=1)
