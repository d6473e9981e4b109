"""The processes of a run: how they find each other, what they tell each other, and when they are to stop.

On a pod every host runs the same program. Arrays on devices span them all; what is done on the host (reading,
rendering, grading) is shared out, each process doing its `share`, and `gather` brings the parts to all, so that every
process knows a batch as a whole and puts its own devices' part of it in `place`. A group of samples is one prompt's,
and prompts are what is shared out: so a group never straddles two processes. With one process all this does nothing.

Files are written by the first process alone, but for checkpoints, of which each writes what its devices hold. The
workdir is therefore a folder that all of them see.
"""

from __future__ import annotations

import importlib.util
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding

from r1jax.types import Array, PyTree

HEARTBEAT_S = 30  # without a sign of life, after which a process counts as dead and the others stop
SIGNS_OF_LOSS = ("Connection reset", "Connection closed", "Connection refused", "heartbeat", "UNAVAILABLE")
SHUTDOWN_S = 30  # that a process which has ended waits for the others to end
CHIPS = ("/dev/accel0", "/dev/vfio/0")  # where a TPU VM has its first chip

T = TypeVar("T")
_notice = threading.Event()


class Position(NamedTuple):
    """Which process this is, of how many."""

    coordinator: str  # HOST:PORT of the first process; "" where JAX finds all three by itself
    processes: int
    process: int


BY_JAX = Position("", 0, 0)


class Preempted(Exception):
    """The run was told to stop, and what it has done is saved."""


def position(
    coordinator: str | None, processes: int | None, process: int | None, environment: Mapping[str, str]
) -> Position | None:
    """Where this process stands: as given, else as the environment says; None where it is alone.

    Of the environment it reads, in this order:
    - JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, for any launcher; where the last is missing,
      JOB_COMPLETION_INDEX, which Kubernetes gives the pods of a Job or a JobSet;
    - the variables of a Slurm step of several tasks;
    - on a TPU host those of GKE or, on a Cloud TPU VM, its metadata server.

    Raises:
      ValueError: only some of the three are given, or they do not fit each other.
    """
    given = {"coordinator": coordinator, "processes": processes, "process": process}
    if all(value is None for value in given.values()):
        if "JAX_COORDINATOR_ADDRESS" not in environment:
            return BY_JAX if _in_cluster(environment) else None
        coordinator = environment["JAX_COORDINATOR_ADDRESS"]
        processes = _number(environment, "JAX_NUM_PROCESSES")
        process = _number(environment, "JAX_PROCESS_ID", "JOB_COMPLETION_INDEX")
    elif lacking := [name for name, value in given.items() if value is None]:
        raise ValueError(f"--{lacking[0]} is not given; --coordinator, --processes and --process go together")
    assert coordinator is not None and processes is not None and process is not None, "each is given or read"
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(
            f"coordinator is {coordinator!r}; expected HOST:PORT of the first process, such as 10.0.0.2:8476"
        )
    if not 0 <= process < processes:
        raise ValueError(f"process is {process} of {processes} processes; expected 0..{processes - 1}")
    return Position(coordinator, processes, process)


def _number(environment: Mapping[str, str], *names: str) -> int:
    text = next((environment[name] for name in names if name in environment), None)
    if text is None or not text.isdecimal():
        raise ValueError(f"{names[0]} is {text!r} where JAX_COORDINATOR_ADDRESS is set; expected a number")
    return int(text)


def _in_cluster(environment: Mapping[str, str]) -> bool:
    """Whether JAX can find the others by itself: in a Slurm step of several tasks, or on a TPU host."""
    if "SLURM_STEP_NODELIST" in environment and int(environment.get("SLURM_NTASKS", "1")) > 1:
        return True
    if environment.get("JAX_PLATFORMS", "") == "cpu" or "TPU_SKIP_MDS_QUERY" in environment:
        return False
    return importlib.util.find_spec("libtpu") is not None and any(Path(chip).exists() for chip in CHIPS)


def start(where: Position | None) -> None:
    """Joins the run's processes. Must come before anything that asks JAX for its devices.

    Raises:
      ValueError: this is a TPU host or a Slurm step, but where the others are cannot be found out.
    """
    if where is None:
        return
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM, which `heed_notices` heeds
    limits: dict[str, Any] = {"heartbeat_timeout_seconds": HEARTBEAT_S, "shutdown_timeout_seconds": SHUTDOWN_S}
    if where == BY_JAX:
        try:
            jax.distributed.initialize(**limits)
        except (ValueError, RuntimeError, OSError) as error:
            raise ValueError(
                f"the other processes of this TPU slice or Slurm step were not found ({error}); give --coordinator, "
                "--processes and --process, on a single host --coordinator=127.0.0.1:8476 --processes=1 --process=0"
            ) from error
    else:
        jax.distributed.initialize(*where, cluster_detection_method="deactivate", **limits)


def loss(error: Exception) -> str:
    """What an error that ended one of several processes means for the run."""
    here = f"process {jax.process_index()} of {count()}"
    if isinstance(error, jax.errors.JaxRuntimeError) and any(sign in str(error) for sign in SIGNS_OF_LOSS):
        return (
            f"{here} lost another process, which was killed or failed; the run stops. Start all of them again: "
            "the same command goes on from the last checkpoint"
        )
    return f"{here} failed; the others stop within {HEARTBEAT_S} seconds"


def count() -> int:
    """How many processes there are. Where there is one, JAX is not asked: verbs that compute nothing need not wait."""
    return jax.process_count() if jax.distributed.is_initialized() else 1


def is_first() -> bool:
    """Whether this process is the one that writes, and speaks to the user."""
    return count() == 1 or jax.process_index() == 0


def say(message: str) -> None:
    """A line for the user, on stderr, once and not from every process."""
    if is_first():
        print(message, file=sys.stderr, flush=True)


def share(size: int) -> slice:
    """This process's part of `size` items in order; the parts differ by one item at most, and may be empty."""
    all_ = count()
    here = jax.process_index() if all_ > 1 else 0
    return slice(size * here // all_, size * (here + 1) // all_)


def gather(part: T) -> list[T]:
    """What every process gives, in their order. All must call it, and with parts that pickle."""
    if count() == 1:
        return [part]
    data = np.frombuffer(pickle.dumps(part), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(data.size))
    rows = multihost_utils.process_allgather(_padded(data, int(sizes.max())))
    return [pickle.loads(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)]


def agreed(make: Callable[[], T]) -> T:
    """What `make()` gives on the first process, or the error that it raises there, on all of them."""
    if count() == 1:
        return make()
    data = np.frombuffer(pickle.dumps(_outcome(make) if is_first() else None), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(data.size)))
    sent = multihost_utils.broadcast_one_to_all(_padded(data[:size], size))
    value, failure = pickle.loads(sent[:size].tobytes())
    if failure is not None:
        raise failure
    return value


def _outcome(make: Callable[[], T]) -> tuple[T | None, Exception | None]:
    """(what `make()` gives, what it raises)."""
    try:
        return make(), None
    except Exception as error:
        return None, error


def _padded(data: np.ndarray, size: int) -> np.ndarray:
    """Zeros added up to a power of two of at least `size` bytes, so that few shapes are compiled."""
    return np.pad(data, (0, (1 << max(size - 1, 0).bit_length()) - data.size))


def place(sharding: NamedSharding, x: np.ndarray) -> Array:
    """`x`, which every process holds as a whole, on the devices of all of them."""
    if sharding.is_fully_addressable:
        return x
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])


def fetch(tree: PyTree) -> PyTree:
    """Arrays on the devices of all processes, as a whole on the host of each. All must call it."""

    def whole(x: Any) -> Any:
        spread = isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated)
        return multihost_utils.process_allgather(x, tiled=True) if spread else x

    return jax.device_get(jax.tree.map(whole, tree))


def heed_notices() -> None:
    """From now on SIGTERM, as machines send it that are about to be taken away, is a notice; a second one kills."""

    def note(number: int, _: Any) -> None:
        _notice.set()
        signal.signal(number, signal.SIG_DFL)

    signal.signal(signal.SIGTERM, note)


def leaving() -> bool:
    """Whether any process was told to stop. All must call it, and all get the same answer."""
    if count() == 1:
        return _notice.is_set()
    return bool(multihost_utils.process_allgather(np.bool_(_notice.is_set())).any())
